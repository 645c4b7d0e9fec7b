//! The ids of events in the streams of session-era clients.
//!
//! An id is `STREAM-NUMBER`, unique in its session; stream 0 is the standing one, every other one belongs to a call. A
//! session that outlived its daemon counts from 1 again, and its ids say in which life: `STREAM-NUMBER-EPOCH`.
//!
//! In the stream of a call an id also holds the id of the request, until the answer has come: `STREAM-NUMBER~REQUEST`. So
//! whoever comes back after its call was lost, with the daemon or because its stream is no longer kept, can be told that
//! it was, as the answer to that very request, and nothing had to be written down for it. What a client makes up there it
//! gets back itself, and nobody else does.

use std::fmt;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::de::IgnoredAny;

/// Longest raw id of a request in bytes that an event's id holds. A call with a longer one cannot be answered after a loss.
const REQUEST_MAX: usize = 256;

/// Where an event stands: the stream, and its number there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventId {
    /// The life of the session.
    pub epoch: u32,
    /// The stream.
    pub stream: u64,
    /// Its number in the stream.
    pub number: u64,
    /// The id of the request whose answer had not come yet, raw JSON.
    pub request: Option<Box<str>>,
}

impl EventId {
    /// Reads an id that we gave; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (place, request) = match text.split_once('~') {
            Some((place, request)) => (place, Some(read_request(request)?)),
            None => (text, None),
        };
        let (stream, rest) = place.split_once('-')?;
        let (number, epoch) = match rest.split_once('-') {
            Some((number, epoch)) => (number, epoch.parse().ok().filter(|epoch| *epoch > 0)?),
            None => (rest, 0),
        };
        Some(Self {
            epoch,
            stream: stream.parse().ok()?,
            number: number.parse().ok()?,
            request,
        })
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.stream, self.number)?;
        if self.epoch > 0 {
            write!(f, "-{}", self.epoch)?;
        }
        match &self.request {
            Some(raw) if raw.len() <= REQUEST_MAX => {
                write!(f, "~{}", BASE64_URL_SAFE_NO_PAD.encode(raw.as_bytes()))
            }
            _ => Ok(()),
        }
    }
}

/// The raw id of a request: one JSON number or text, and nothing else.
fn read_request(text: &str) -> Option<Box<str>> {
    let raw = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    let raw = String::from_utf8(raw).ok()?;
    let is_one = raw.len() <= REQUEST_MAX
        && raw.starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit())
        && serde_json::from_str::<IgnoredAny>(&raw).is_ok();
    is_one.then(|| raw.trim_end().into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(epoch: u32, request: Option<&str>) -> EventId {
        EventId {
            epoch,
            stream: 3,
            number: 14,
            request: request.map(Into::into),
        }
    }

    #[test]
    fn an_event_id_is_read_back() {
        for (epoch, request, text) in [
            (0, None, "3-14"),
            (2, None, "3-14-2"),
            (0, Some("7"), "3-14~Nw"),
            (2, Some("-7.5e1"), "3-14-2~LTcuNWUx"),
            (2, Some("\"a\""), "3-14-2~ImEi"),
        ] {
            assert_eq!(EventId::parse(text), Some(id(epoch, request)), "{text}");
            assert_eq!(id(epoch, request).to_string(), text);
        }
        for other in [
            "",
            "3",
            "3-",
            "-1",
            "a-1",
            "3-1-",
            "3-1-0",
            "3-1-4-1",
            "~Nw",
            "3-1~",
            "3-1~Nw=",
            "3-1~Nw~Nw",
        ] {
            assert_eq!(EventId::parse(other), None, "{other}");
        }
    }

    #[test]
    fn only_a_number_or_a_text_is_the_id_of_a_request() {
        for raw in [
            "null",
            "{}",
            "[7]",
            "7,8",
            "7}",
            "\"a",
            "true",
            " 7",
            "\"a\"\"b\"",
            "",
        ] {
            let text = format!("3-14~{}", BASE64_URL_SAFE_NO_PAD.encode(raw));
            assert_eq!(EventId::parse(&text), None, "{raw}");
        }
        let long = format!("\"{}\"", "x".repeat(REQUEST_MAX));
        assert_eq!(
            id(0, Some(&long)).to_string(),
            "3-14",
            "too long to be held"
        );
        let text = format!("3-14~{}", BASE64_URL_SAFE_NO_PAD.encode(&long));
        assert_eq!(EventId::parse(&text), None);
    }

    proptest! {
        #[test]
        fn any_id_of_a_request_comes_back_in_a_header(request: String) {
            let raw = serde_json::to_string(&request).expect("a text");
            prop_assume!(raw.len() <= REQUEST_MAX);
            let id = id(1, Some(&raw));
            let text = id.to_string();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{}", text);
            prop_assert_eq!(EventId::parse(&text), Some(id));
        }
    }
}
