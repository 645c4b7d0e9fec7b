//! Tests of the framer.

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::{Framed, Framer};
use crate::secrets::redaction::Redactions;

fn secrets(values: &[&str]) -> Redactions {
    Redactions::new(
        values
            .iter()
            .map(|value| ("S", Zeroizing::new((*value).to_owned()))),
    )
}

fn frame(limit: usize, chunks: &[&[u8]], secrets: &Redactions) -> Vec<(String, bool)> {
    let mut framer = Framer::new(limit);
    let matcher = secrets.matcher();
    let mut entries = Vec::new();
    let mut emit = |framed: Framed| entries.push((framed.line, framed.continued));
    for chunk in chunks {
        framer.feed(chunk, &matcher, &mut emit);
    }
    framer.finish(&matcher, &mut emit);
    entries
}

fn lines(input: &[u8]) -> Vec<String> {
    let entries = frame(1_000, &[input], &Redactions::default());
    entries.into_iter().map(|(line, _)| line).collect()
}

#[test]
fn line_ends() {
    assert_eq!(lines(b"a\nb\r\n\nlast"), ["a", "b", "", "last"]);
    assert_eq!(lines(b"a\n"), ["a"]);
    assert_eq!(lines(b""), Vec::<String>::new());
    assert_eq!(lines(b"10%\r20%\r\n"), ["10%\u{240d}20%"]);
    assert_eq!(lines(b"end\r"), ["end"]);
}

#[test]
fn what_could_harm_a_reader_is_made_visible_or_left_out() {
    assert_eq!(lines(b"\x1b[1;31mred\x1b[0m text\n"), ["red text"]);
    assert_eq!(
        lines(b"a\0b\x07c\x7f\td\n"),
        ["a\u{2400}b\u{2407}c\u{2421}\td"]
    );
    assert_eq!(lines(b"\x1b]0;title\x07\n"), ["\u{241b}]0;title\u{2407}"]);
    assert_eq!(lines(b"\x1b[\n\x1b"), ["", "\u{241b}"]);
    assert_eq!(
        lines(b"\xff\xfeok \xc3\xa9 \xc3\n"),
        ["\u{fffd}\u{fffd}ok é \u{fffd}"]
    );
    assert_eq!(lines("x\u{9b}31my\n".as_bytes()), ["x\u{fffd}31my"]);
}

#[test]
fn a_long_line_goes_on_in_marked_entries() {
    let none = Redactions::default();
    let text = "é".repeat(20);
    let entries = frame(17, &[format!("{text}\nnext\n").as_bytes()], &none);
    let expected = [
        ("é".repeat(8), true),
        ("é".repeat(8), true),
        ("é".repeat(4), false),
    ];
    assert_eq!(entries[..3], expected);
    assert_eq!(entries[3], ("next".to_owned(), false));
    // Exactly as long as the limit is not too long, also before CRLF.
    let exact = "x".repeat(16);
    let entries = frame(16, &[format!("{exact}\r\n{exact}").as_bytes()], &none);
    assert_eq!(entries, [(exact.clone(), false), (exact, false)]);
}

#[test]
fn a_secret_at_a_cut_is_not_shown() {
    let secret = "hunter2-hunter2-hunter2";
    let found = secrets(&[secret]);
    for before in 0..40 {
        let input = format!("{}{secret}{}\n", "-".repeat(before), "+".repeat(40));
        let entries = frame(32, &[input.as_bytes()], &found);
        let shown: String = entries.iter().map(|(line, _)| line.as_str()).collect();
        assert!(!shown.contains("hunter"), "{before}: {entries:?}");
        assert!(!shown.contains("ter2"), "{before}: {entries:?}");
        let plain = shown.replace("[redacted:S]", "");
        assert_eq!(plain, format!("{}{}", "-".repeat(before), "+".repeat(40)));
    }
}

#[test]
fn a_colour_inside_a_secret_does_not_hide_it() {
    let found = secrets(&["abcdefghij"]);
    let entries = frame(100, &[b"abcde\x1b[0mfghij\n"], &found);
    assert_eq!(entries, [("[redacted:S]".to_owned(), false)]);
}

#[test]
fn a_line_of_many_megabytes_is_never_held_whole() {
    let mut framer = Framer::new(1 << 10);
    let none = Redactions::default();
    let matcher = none.matcher();
    let (mut bytes, mut entries) = (0, 0);
    framer.feed(&vec![b'x'; 20 << 20], &matcher, &mut |framed| {
        bytes += framed.line.len();
        entries += 1;
        assert!(framed.continued);
    });
    assert!(bytes + (1 << 10) >= 20 << 20);
    assert!(entries >= 20_000);
}

proptest! {
    #[test]
    fn chunks_never_change_the_entries(
        input in proptest::collection::vec(
            prop_oneof![
                3 => proptest::sample::select(b"abAB\n".to_vec()),
                1 => proptest::sample::select(b"\r\n\x1b[0m;\0\t\xc3\xa9\xc2\x9b".to_vec()),
                1 => any::<u8>(),
            ],
            0..200,
        ),
        cuts in proptest::collection::vec(0usize..200, 0..12),
    ) {
        let found = secrets(&["aababb", "abABab"]);
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= input.len()).collect();
        cuts.extend([0, input.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &input[pair[0]..pair[1]]).collect();
        let whole = frame(16, &[&input], &found);
        prop_assert_eq!(frame(16, &chunks, &found), whole.clone());
        for (line, _) in whole {
            prop_assert!(!line.chars().any(|char| char.is_control() && char != '\t'));
        }
    }
}
