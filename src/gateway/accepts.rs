//! What a client takes as an answer.

use http::{HeaderMap, header};

use crate::upstream::Word;

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
            let is_in = |words: &[Word]| words.iter().any(|word| word.is_in(value.as_bytes()));
            found.json |= is_in(&JSON);
            found.events |= is_in(&EVENTS);
        }
        found.json |= !any;
        found
    }
}
