//! What must hold for any manifest: run by `tests/fuzz`, and by a test here over its corpus. A property that does not
//! hold panics.

use std::path::Path;

use super::manifest;

/// A manifest is either good or has faults that can be shown; reading it again finds the same.
pub fn read(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let file = Path::new("x/template.toml");
    let first = manifest::read(text, "x", file);
    match &first {
        Ok(template) => assert_eq!(template.name.to_string(), "x"),
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a reason");
            for fault in faults {
                assert!(!fault.key.is_empty() && !fault.message.is_empty());
            }
        }
    }
    assert_eq!(
        first.map_err(|faults| faults.len()),
        manifest::read(text, "x", file).map_err(|faults| faults.len())
    );
}

#[cfg(test)]
mod tests {
    use crate::corpus;

    #[test]
    fn the_properties_hold_for_the_corpus_and_what_is_near_it() {
        corpus::near("manifest", super::read);
    }
}
