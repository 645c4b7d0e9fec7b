//! What a client takes as an answer.

use http::{HeaderMap, header};

use crate::upstream::Word;

/// What the specification has clients send, word for word as the SDKs do: it needs no search.
const USUAL: &str = "application/json, text/event-stream";

/// What the client takes as an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepts {
    /// One JSON message.
    pub json: bool,
    /// A stream of events.
    pub events: bool,
}

impl Accepts {
    /// A client that says nothing, or `*/*`, is a simple one: it gets JSON.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Self {
        static JSON: [Word; 3] = [
            Word::new("application/json"),
            Word::new("*/*"),
            Word::new("application/*"),
        ];
        static EVENTS: [Word; 1] = [Word::new("text/event-stream")];
        let mut found = Self {
            json: false,
            events: false,
        };
        let mut any = false;
        for value in headers.get_all(header::ACCEPT) {
            any = true;
            if value == USUAL {
                (found.json, found.events) = (true, true);
                continue;
            }
            let is_in = |words: &[Word]| words.iter().any(|word| word.is_in(value.as_bytes()));
            found.json |= is_in(&JSON);
            found.events |= is_in(&EVENTS);
        }
        found.json |= !any;
        found
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_a_client_takes_is_found_however_it_is_written() {
        let read = |values: &[&'static str]| {
            let value = |text| (header::ACCEPT, HeaderValue::from_static(text));
            let found = Accepts::read(&values.iter().copied().map(value).collect());
            (found.json, found.events)
        };
        for (values, expected) in [
            (&[USUAL][..], (true, true)),
            (&["text/event-stream;q=0.5,application/json"], (true, true)),
            (&["application/json", "text/event-stream"], (true, true)),
            (&["text/event-stream"], (false, true)),
            (&["application/*"], (true, false)),
            (&["text/html"], (false, false)),
            (&[], (true, false)),
        ] {
            assert_eq!(read(values), expected, "{values:?}");
        }
    }
}
