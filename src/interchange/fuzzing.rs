//! What must hold for any file: run by `tests/fuzz`, and by a test here over its corpus. A property that does not hold
//! panics.

use super::{Release, Wanted, draft::Run, import};

/// A file is refused, or its servers are; of what is translated nothing written holds a secret, and it is TOML.
pub fn read(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok((_, found)) = import(text, None) else {
        return;
    };
    for server in found {
        let draft = match server.draft {
            Ok(draft) => draft,
            Err(why) => {
                assert!(!why.is_empty() && !why.contains('\n'), "{why:?}");
                continue;
            }
        };
        let release = match &draft.run {
            Run::Package {
                version: Wanted::Newest(_),
                ..
            } => Some(Release {
                version: "1.2.3".to_owned(),
                programs: Vec::new(),
            }),
            _ => None,
        };
        let Ok(manifest) = draft.manifest("x", release.as_ref(), "a file") else {
            continue;
        };
        let table: toml::Table = toml::from_str(&manifest).expect("what is written is TOML");
        assert_eq!(table["name"].as_str(), Some("x"));
        for credential in &draft.credentials {
            if let Some(value) = credential.value.as_deref().filter(|value| value.len() >= 8) {
                assert!(!manifest.contains(value.as_str()), "a secret is written");
                assert!(
                    draft
                        .notes
                        .iter()
                        .all(|note| !note.contains(value.as_str())),
                    "a secret is told"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::corpus;

    #[test]
    fn the_properties_hold_for_the_corpus_and_what_is_near_it() {
        corpus::near("import", super::read);
    }
}
