//! Redaction of bytes as they come in: nothing waits for what follows unless its end may be the beginning of a secret.

use std::sync::Arc;

use super::redaction::Redactions;

/// Longest that waits, in bytes: a value that repeats itself could go on without end.
const HELD_BYTES_MAX: usize = 64 * 1_024;

/// One stream of bytes.
pub struct RedactedStream {
    redactions: Arc<Redactions>,
    /// Came in and may be the beginning of a secret.
    held: Vec<u8>,
}

impl RedactedStream {
    /// A stream in which `redactions` are replaced.
    #[must_use]
    pub fn new(redactions: Arc<Redactions>) -> Self {
        Self {
            redactions,
            held: Vec::new(),
        }
    }

    /// Takes in what comes next; gives what can go out.
    #[must_use]
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut hay = std::mem::take(&mut self.held);
        hay.extend_from_slice(bytes);
        let matcher = self.redactions.matcher();
        let mut settled = matcher.settled(&hay);
        if hay.len() - settled > HELD_BYTES_MAX {
            settled = hay.len();
        }
        let mut out = Vec::with_capacity(settled);
        matcher.redact_part(&hay, 0..settled, &mut out);
        self.held = hay.split_off(settled);
        out
    }

    /// What is left at the end.
    #[must_use]
    pub fn finish(&mut self) -> Vec<u8> {
        let hay = std::mem::take(&mut self.held);
        let mut out = Vec::with_capacity(hay.len());
        let matcher = self.redactions.matcher();
        matcher.redact_part(&hay, 0..hay.len(), &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;

    fn through(secrets: &[&str], pieces: &[&str]) -> String {
        let values = secrets
            .iter()
            .map(|text| ("X", Zeroizing::new((*text).to_owned())));
        let mut stream = RedactedStream::new(Arc::new(Redactions::new(values)));
        let mut out = Vec::new();
        for piece in pieces {
            out.extend(stream.push(piece.as_bytes()));
        }
        out.extend(stream.finish());
        String::from_utf8(out).expect("texts in, texts out")
    }

    #[test]
    fn a_secret_in_pieces_is_replaced_and_the_rest_does_not_wait() {
        let shown = through(
            &["hunter2hunter"],
            &["you said hun", "ter2hu", "nter, did you"],
        );
        assert_eq!(shown, "you said [redacted:X], did you");
        let values = [("X", Zeroizing::new("hunter2hunter".to_owned()))];
        let mut stream = RedactedStream::new(Arc::new(Redactions::new(values)));
        assert_eq!(
            stream.push(b"data: one\n\n"),
            b"data: one\n\n",
            "an event goes out at once"
        );
        assert_eq!(stream.push(b"data: h"), b"data: ");
        assert_eq!(stream.push(b"ello\n\n"), b"hello\n\n");
    }

    proptest! {
        #[test]
        fn no_secret_survives_however_it_is_cut(
            secret in "[ab]{6,9}",
            other in "[abc]{6,9}",
            pieces in proptest::collection::vec("[abc]{0,9}", 0..12),
        ) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let shown = through(&[&secret, &other], &pieces);
            let plain = shown.replace("[redacted:X]", "|");
            prop_assert!(!plain.contains(&secret) && !plain.contains(&other), "{}", shown);
            let whole = pieces.concat();
            if !whole.contains(&secret) && !whole.contains(&other) {
                prop_assert_eq!(shown, whole);
            }
        }
    }
}
