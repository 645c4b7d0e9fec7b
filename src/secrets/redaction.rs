//! Exact-value redaction: the secrets of an instance never reach a log, an error or a status.
//!
//! What is looked for is the value itself and the forms in which programs commonly print it: base64 (both
//! alphabets, padded or not, at any alignment inside a longer text), percent-encoded, JSON-escaped, each line of a
//! value of several lines, and of a JSON document the members whose names tell of a secret. A program that transforms
//! a secret in some other way is not caught.

use std::{borrow::Cow, ops::Range};

use memchr::memmem::Finder;
use zeroize::Zeroizing;

use super::encodings::forms_of;

/// Values, lines of values and encoded forms shorter than this many bytes are not redacted: they would hit
/// ordinary words.
pub const REDACTED_BYTES_MIN: usize = 6;

/// The secret values of one instance, ready to be searched for. Kept in memory that is zeroized on drop.
///
/// Costs about twenty times the length of the values in memory. The default value redacts nothing.
#[derive(Default)]
pub struct Redactions {
    patterns: Vec<Pattern>,
    markers: Vec<Box<str>>,
    longest: usize,
}

struct Pattern {
    bytes: Zeroizing<Vec<u8>>,
    /// Index into `markers`.
    marker: usize,
    /// The smallest distance at which the pattern can overlap a copy of itself.
    period: usize,
}

impl std::fmt::Debug for Redactions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactions")
            .field("markers", &self.markers)
            .finish_non_exhaustive()
    }
}

impl Redactions {
    /// Prepares the search for `values`, pairs of a name (shown as `[redacted:NAME]`) and a secret value.
    ///
    /// Values shorter than [`REDACTED_BYTES_MIN`] are ignored.
    #[must_use]
    pub fn new<N: AsRef<str>>(values: impl IntoIterator<Item = (N, Zeroizing<String>)>) -> Self {
        let mut patterns: Vec<Pattern> = Vec::new();
        let mut markers: Vec<Box<str>> = Vec::new();
        for (name, value) in values {
            let marker = markers.len();
            markers.push(format!("[redacted:{}]", name.as_ref()).into());
            for bytes in forms_of(&value, REDACTED_BYTES_MIN) {
                let period = smallest_period(&bytes);
                patterns.push(Pattern {
                    bytes,
                    marker,
                    period,
                });
            }
        }
        patterns.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.marker.cmp(&b.marker)));
        patterns.dedup_by(|a, b| a.bytes == b.bytes);
        let longest = patterns.iter().map(|p| p.bytes.len()).max().unwrap_or(0);
        Self {
            patterns,
            markers,
            longest,
        }
    }

    /// These, and more.
    #[must_use]
    pub fn with<N: AsRef<str>>(
        &self,
        values: impl IntoIterator<Item = (N, Zeroizing<String>)>,
    ) -> Self {
        let mut all = Self::new(values);
        let first = all.markers.len();
        all.markers.extend(self.markers.iter().cloned());
        all.patterns.extend(self.patterns.iter().map(|own| Pattern {
            bytes: own.bytes.clone(),
            marker: first + own.marker,
            period: own.period,
        }));
        all.patterns
            .sort_by(|a, b| a.bytes.cmp(&b.bytes).then(b.marker.cmp(&a.marker)));
        all.patterns.dedup_by(|a, b| a.bytes == b.bytes);
        all.longest = all.longest.max(self.longest);
        all
    }

    /// Whether there is nothing to redact.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// How many bytes around a cut must be seen to recognise every secret that touches it.
    #[must_use]
    pub fn overlap(&self) -> usize {
        self.longest.saturating_sub(1)
    }

    /// Replaces every secret in `text`. A text without secrets is given back as it is.
    #[must_use]
    pub fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let matcher = self.matcher();
        let spans = matcher.spans(text.as_bytes());
        if spans.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut out = Vec::with_capacity(text.len());
        self.write_redacted(text.as_bytes(), 0..text.len(), &spans, &mut out);
        // Spans begin and end at character borders, as patterns are texts themselves.
        Cow::Owned(String::from_utf8_lossy(&out).into_owned())
    }

    /// The prepared search; worth making once for a chunk of many lines.
    #[must_use]
    pub fn matcher(&self) -> Matcher<'_> {
        let finders = self.patterns.iter().map(|p| Finder::new(&*p.bytes));
        Matcher {
            redactions: self,
            finders: finders.collect(),
        }
    }

    fn write_redacted(&self, hay: &[u8], part: Range<usize>, spans: &[Span], out: &mut Vec<u8>) {
        let mut at = part.start;
        for span in spans {
            if span.end <= at || span.start >= part.end {
                continue;
            }
            if span.start > at {
                out.extend_from_slice(&hay[at..span.start]);
            }
            out.extend_from_slice(self.markers[span.marker].as_bytes());
            at = span.end.min(part.end);
        }
        out.extend_from_slice(&hay[at..part.end]);
    }
}

/// The prepared search of a [`Redactions`].
pub struct Matcher<'r> {
    redactions: &'r Redactions,
    finders: Vec<Finder<'r>>,
}

/// A stretch of text that is secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: usize,
    end: usize,
    marker: usize,
}

impl Matcher<'_> {
    /// See [`Redactions::overlap`].
    #[must_use]
    pub fn overlap(&self) -> usize {
        self.redactions.overlap()
    }

    /// Appends `hay[part]` to `out`, every secret replaced. Secrets that only reach into `part` are recognised
    /// by what `hay` holds around it, and what lies inside `part` of them is replaced.
    pub fn redact_part(&self, hay: &[u8], part: Range<usize>, out: &mut Vec<u8>) {
        let spans = self.spans(hay);
        self.redactions.write_redacted(hay, part, &spans, out);
    }

    /// How much of `hay` can be passed on before what follows it is known: its end may be the beginning of a secret.
    #[must_use]
    pub fn settled(&self, hay: &[u8]) -> usize {
        let begun = |pattern: &Pattern| {
            let longest = pattern.bytes.len().saturating_sub(1).min(hay.len());
            (1..=longest)
                .rev()
                .find(|len| hay.ends_with(&pattern.bytes[..*len]))
        };
        let begun = self.redactions.patterns.iter().filter_map(begun).max();
        let cut = hay.len() - begun.unwrap_or(0);
        // Never within a secret that is whole: the rest of it would not be recognised.
        let spans = self.spans(hay);
        let split = spans.iter().find(|span| span.start < cut && cut < span.end);
        split.map_or(cut, |span| span.start)
    }

    /// All secret stretches, merged where they overlap or touch, in order.
    fn spans(&self, hay: &[u8]) -> Vec<Span> {
        let mut found: Vec<Span> = Vec::new();
        for (pattern, finder) in self.redactions.patterns.iter().zip(&self.finders) {
            let mut from = 0;
            while let Some(offset) = finder.find(&hay[from..]) {
                let start = from + offset;
                found.push(Span {
                    start,
                    end: start + pattern.bytes.len(),
                    marker: pattern.marker,
                });
                from = start + pattern.period;
            }
        }
        found.sort_by(|a, b| a.start.cmp(&b.start).then(b.end.cmp(&a.end)));
        found.dedup_by(|next, kept| {
            let joins = next.start <= kept.end;
            if joins {
                kept.end = kept.end.max(next.end);
            }
            joins
        });
        found
    }
}

/// The smallest `p > 0` such that the pattern shifted by `p` agrees with itself (Knuth-Morris-Pratt).
fn smallest_period(pattern: &[u8]) -> usize {
    let mut border = vec![0usize; pattern.len()];
    let mut matched = 0;
    for at in 1..pattern.len() {
        while matched > 0 && pattern[at] != pattern[matched] {
            matched = border[matched - 1];
        }
        if pattern[at] == pattern[matched] {
            matched += 1;
        }
        border[at] = matched;
    }
    pattern.len() - border.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use base64::prelude::*;
    use proptest::prelude::*;

    use super::*;

    fn redactions(values: &[(&str, &str)]) -> Redactions {
        Redactions::new(
            values
                .iter()
                .map(|(name, value)| (*name, Zeroizing::new((*value).to_owned()))),
        )
    }

    #[test]
    fn the_secrets_in_a_json_document_are_found_by_themselves() {
        let pem = "-----BEGIN-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END-----\n";
        let key = serde_json::json!({"type": "service_account", "project_id": "my-project",
            "token_uri": "https://oauth2.example/token", "private_key": pem,
            "more": [{"refresh_token": "1//0abcdefgh"}]});
        let found = redactions(&[("KEY", &key.to_string())]);
        for text in [
            "1//0abcdefgh",
            "kqhkiG9w0BAQEF",
            "MIIEvQIBADANBg\\nkqhkiG9w0BAQEF",
        ] {
            assert!(!found.redact(text).contains("BAQEF"), "{text}");
            assert!(found.redact(text).contains("[redacted:KEY]"), "{text}");
        }
        let plain = "service_account my-project https://oauth2.example/token";
        assert_eq!(found.redact(plain), plain);
    }

    #[test]
    fn every_common_form_is_replaced() {
        let secret = "p@ss\"wörd/+=&x\\y";
        let found = redactions(&[("TOKEN", secret)]);
        let forms = [
            secret.to_owned(),
            BASE64_STANDARD.encode(secret),
            BASE64_STANDARD_NO_PAD.encode(secret),
            BASE64_URL_SAFE.encode(secret),
            BASE64_URL_SAFE_NO_PAD.encode(secret),
            "p%40ss%22w%C3%B6rd%2F%2B%3D%26x%5Cy".to_owned(),
            "p%40ss%22w%c3%b6rd%2f%2b%3d%26x%5cy".to_owned(),
            r#"p@ss\"wörd/+=&x\\y"#.to_owned(),
            r#"p@ss\"w\u00f6rd/+=&x\\y"#.to_owned(),
        ];
        for form in forms {
            assert_eq!(
                found.redact(&format!("<{form}>")),
                "<[redacted:TOKEN]>",
                "{form}"
            );
        }
        assert!(matches!(found.redact("nothing here"), Cow::Borrowed(_)));
    }

    #[test]
    fn basic_authentication_is_replaced_at_every_alignment() {
        let secret = "ghp_0123456789abcdefABCDEF";
        let found = redactions(&[("TOKEN", secret)]);
        for user in ["", "u", "us", "use", "user"] {
            let header = BASE64_STANDARD.encode(format!("{user}:{secret}:tail"));
            let shown = found.redact(&header).into_owned();
            let whole = BASE64_STANDARD.encode(secret);
            assert!(shown.contains("[redacted:TOKEN]"), "{user}: {shown}");
            assert!(!shown.contains(&whole[4..20]), "{user}: {shown}");
        }
    }

    #[test]
    fn lines_of_a_value_and_overlaps() {
        let found = redactions(&[
            ("KEY", "-----BEGIN\r\nMIIEvQIBADANBg\nab\nkqhkiG9w0B\n"),
            ("A", "abcdefgh"),
            ("B", "efghijkl"),
            ("SHORT", "12345"),
        ]);
        assert_eq!(found.redact("x MIIEvQIBADANBg y"), "x [redacted:KEY] y");
        assert_eq!(found.redact("kqhkiG9w0B"), "[redacted:KEY]");
        assert_eq!(found.redact("ab 12345"), "ab 12345");
        assert_eq!(found.redact("-abcdefghijkl-"), "-[redacted:A]-");
    }

    #[test]
    fn more_values_join_those_that_were_known() {
        let known = redactions(&[("A", "first-value"), ("B", "second-value")]);
        let more = [("C", "third-value"), ("A", "first-value")];
        let all = known.with(more.map(|(name, value)| (name, Zeroizing::new(value.to_owned()))));
        assert_eq!(
            all.redact("first-value second-value third-value"),
            "[redacted:A] [redacted:B] [redacted:C]"
        );
        assert_eq!(known.redact("third-value"), "third-value");
        assert!(all.overlap() >= known.overlap());
    }

    #[test]
    fn a_value_that_overlaps_itself_leaves_nothing() {
        let found = redactions(&[("T", "abaabaaba")]);
        assert_eq!(smallest_period(b"abaabaaba"), 3);
        assert_eq!(found.redact("abaabaabaaba!"), "[redacted:T]!");
    }

    #[test]
    fn debug_shows_no_value() {
        let found = redactions(&[("TOKEN", "hunter2hunter2")]);
        assert!(!format!("{found:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn no_value_survives(
            secret in "[ab]{6,9}",
            other in "[abc]{6,9}",
            text in "[abc]{0,60}",
        ) {
            let found = redactions(&[("X", &secret), ("Y", &other)]);
            let shown = found.redact(&text).into_owned();
            let plain = shown.replace("[redacted:X]", "|").replace("[redacted:Y]", "|");
            prop_assert!(!plain.contains(&secret) && !plain.contains(&other), "{}", shown);
        }
    }
}
