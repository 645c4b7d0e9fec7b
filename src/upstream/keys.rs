//! Whether a key of an object is there twice.

use std::{borrow::Cow, collections::HashSet};

/// Looks at all keys while they are few, and keeps a set of them afterwards. Looking at all for each of a hundred thousand
/// would hold up a thread for minutes, and strangers write these messages.
#[derive(Default)]
pub(super) struct Keys<'a>(HashSet<Cow<'a, str>>);

impl<'a> Keys<'a> {
    /// So many are looked at faster than hashed.
    const FEW: usize = 32;

    /// Whether no member has the key yet. To be asked for each, in their order.
    #[expect(
        clippy::ptr_arg,
        reason = "its clone borrows from the message where it does"
    )]
    pub(super) fn is_new(
        &mut self,
        members: &[(Cow<'a, str>, Cow<'a, str>)],
        key: &Cow<'a, str>,
    ) -> bool {
        if members.len() < Self::FEW {
            return !members.iter().any(|(known, _)| known == key);
        }
        if self.0.is_empty() {
            self.0
                .extend(members.iter().map(|(known, _)| known.clone()));
        }
        self.0.insert(key.clone())
    }
}

#[cfg(test)]
mod tests {
    use crate::upstream::{Envelope, RawObject};

    /// An object with so many members, and one more.
    fn object(count: usize, last: &str) -> String {
        let members: String = (0..count)
            .map(|number| format!("\"a{number}\":0,"))
            .collect();
        format!("{{{members}\"{last}\":0}}")
    }

    #[test]
    fn a_key_that_is_there_twice_is_found_among_few_and_many() {
        for count in [1, 31, 32, 33, 1_000] {
            for twice in ["a0".to_owned(), format!("a{}", count - 1)] {
                assert!(RawObject::parse(&object(count, &twice)).is_err(), "{count}");
                let escaped = twice.replace('a', "\\u0061");
                assert!(
                    RawObject::parse(&object(count, &escaped)).is_err(),
                    "{count}"
                );
            }
            let fine = object(count, "b");
            assert_eq!(
                RawObject::parse(&fine).map(|object| object.0.len()),
                Ok(count + 1)
            );
        }
    }

    #[test]
    fn a_message_of_very_many_keys_is_read_all_the_same() {
        let count = 300_000;
        let params = object(count, "b");
        let text = format!("{{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"params\":{params}}}");
        let envelope = Envelope::parse(text.as_bytes()).expect("it is one");
        let members = envelope.parameters().expect("an object");
        assert_eq!(members.0.len(), count + 1);
    }
}
