//! Server-sent events (HTML Living Standard, section 9.2), as far as the API uses them.

use super::ClientError;

/// Longest event in bytes; a log line has at most 64 KiB before its JSON escapes.
const EVENT_LIMIT_BYTES: usize = 4 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerEvent {
    /// `id`, if it came with one.
    pub id: Option<String>,
    /// `event`; empty: `message`.
    pub event: String,
    /// `data`, several lines joined.
    pub data: String,
}

/// Bytes to events; pure.
#[derive(Debug, Default)]
struct Decoder {
    line: Vec<u8>,
    event: ServerEvent,
    data_seen: bool,
    after_cr: bool,
}

impl Decoder {
    /// Takes bytes in; complete events are appended to `out`. `false`: an event is longer than the limit.
    fn feed(&mut self, bytes: &[u8], out: &mut std::collections::VecDeque<ServerEvent>) -> bool {
        for &byte in bytes {
            let after_cr = std::mem::take(&mut self.after_cr);
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    if line.is_empty() {
                        let event = std::mem::take(&mut self.event);
                        if std::mem::take(&mut self.data_seen) {
                            out.push_back(event);
                        }
                    } else {
                        self.take_line(&String::from_utf8_lossy(&line));
                    }
                }
                _ => self.line.push(byte),
            }
            if self.line.len() + self.event.data.len() > EVENT_LIMIT_BYTES {
                return false;
            }
        }
        true
    }

    fn take_line(&mut self, line: &str) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.data_seen {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.data_seen = true;
            }
            "event" => value.clone_into(&mut self.event.event),
            "id" => self.event.id = Some(value.to_owned()),
            // A comment (an empty field name) keeps the connection alive; anything else is not for us.
            _ => {}
        }
    }
}

/// An open stream of events.
#[derive(Debug)]
pub struct EventStream {
    response: reqwest::Response,
    decoder: Decoder,
    ready: std::collections::VecDeque<ServerEvent>,
}

impl EventStream {
    pub(super) fn new(response: reqwest::Response) -> Self {
        Self {
            response,
            decoder: Decoder::default(),
            ready: std::collections::VecDeque::new(),
        }
    }

    /// The next event; `None`: the daemon ended the stream. Safe to cancel.
    ///
    /// # Errors
    /// [`ClientError::Broken`] when the connection broke, [`ClientError::Strange`] for an event without an end.
    pub async fn next(&mut self) -> Result<Option<ServerEvent>, ClientError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let chunk = self.response.chunk().await;
            let target = || self.response.url().origin().ascii_serialization();
            let Some(chunk) = chunk.map_err(|error| ClientError::lost(&target(), &error))? else {
                return Ok(None);
            };
            if !self.decoder.feed(&chunk, &mut self.ready) {
                return Err(ClientError::Strange {
                    reason: format!("an event of more than {EVENT_LIMIT_BYTES} bytes"),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = ": hello\n\nid: 7\nevent: log\ndata: {\"a\":1}\n\ndata:one\r\ndata: two\r\n\r\nevent: lost\n\n\
                        data\n\nid: 8\ndata: cut off";

    fn decoded(cuts: &[usize]) -> Vec<ServerEvent> {
        let mut decoder = Decoder::default();
        let mut out = std::collections::VecDeque::new();
        let mut start = 0;
        for cut in cuts.iter().copied().chain([TEXT.len()]) {
            let cut = cut.max(start);
            assert!(decoder.feed(&TEXT.as_bytes()[start..cut], &mut out));
            start = cut;
        }
        out.into()
    }

    #[test]
    fn reads_fields_comments_and_several_lines() {
        let event = |id: Option<&str>, event: &str, data: &str| ServerEvent {
            id: id.map(str::to_owned),
            event: event.to_owned(),
            data: data.to_owned(),
        };
        assert_eq!(
            decoded(&[]),
            [
                event(Some("7"), "log", "{\"a\":1}"),
                event(None, "", "one\ntwo"),
                event(None, "", ""),
            ]
        );
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut decoder = Decoder::default();
        let mut out = std::collections::VecDeque::new();
        assert!(!decoder.feed(&vec![b'x'; EVENT_LIMIT_BYTES + 1], &mut out));
    }

    proptest! {
        #[test]
        fn chunk_borders_change_nothing(mut cuts in proptest::collection::vec(0..TEXT.len(), 0..12)) {
            cuts.sort_unstable();
            prop_assert_eq!(decoded(&cuts), decoded(&[]));
        }
    }
}
