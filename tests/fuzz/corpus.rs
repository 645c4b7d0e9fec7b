//! The corpus of the fuzz targets, for the tests of the properties that are fuzzed.
/// Changed copies of each input that are tried.
const COPIES: usize = 200;

/// Calls `property` with every input of the corpus of a target, and with copies that are a little different; always
/// the same ones.
pub fn near(target: &str, property: impl Fn(&[u8])) {
    let folder = format!("{}/tests/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(&folder).expect("every target has a corpus");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{folder} is empty");
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut below = |bound: usize| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).expect("31 bits") % bound.max(1)
    };
    for file in files {
        let input = std::fs::read(file).expect("readable");
        property(&input);
        for _ in 0..COPIES {
            let mut copy = input.clone();
            for _ in 0..=below(4) {
                let at = below(copy.len() + 1);
                match below(3) {
                    0 => copy.insert(at, u8::try_from(below(256)).expect("below 256")),
                    1 if at < copy.len() => copy[at] ^= 1 << below(8),
                    _ => {
                        let end = copy.len().min(at + below(8));
                        copy.drain(at..end);
                    }
                }
            }
            property(&copy);
        }
    }
}
