//! Server-sent events (HTML Living Standard, section 9.2) as a child's HTTP server sends them: bytes in, data out.

use std::time::Duration;

/// Longest wait that a server may ask for before the next connection.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Longest event id that is kept.
const ID_MAX_BYTES: usize = 1_024;

/// What one event held.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Its data, several lines joined by a space, which JSON takes where it takes a line break. Never empty.
    Data(&'a [u8]),
    /// It had this many bytes, which is over the limit; it was thrown away.
    TooLong(usize),
}

/// Takes a stream apart.
#[derive(Debug)]
pub struct Decoder {
    limit_bytes: usize,
    line: Vec<u8>,
    data: Vec<u8>,
    /// Bytes of the event so far, and of its present line, also when they are thrown away.
    event_bytes: usize,
    line_bytes: usize,
    after_cr: bool,
    id: Option<String>,
    last_id: Option<String>,
    retry: Option<Duration>,
}

impl Decoder {
    /// For events of up to `limit_bytes`.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            line: Vec::new(),
            data: Vec::new(),
            event_bytes: 0,
            line_bytes: 0,
            after_cr: false,
            id: None,
            last_id: None,
            retry: None,
        }
    }

    /// The id of the last event that was complete, for `Last-Event-ID`.
    #[must_use]
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// How long to wait before the next connection, when the server told.
    #[must_use]
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// The next connection begins: what was cut off is forgotten, ids are kept.
    pub fn restart(&mut self) {
        let kept = (self.last_id.take(), self.retry);
        *self = Self::new(self.limit_bytes);
        (self.last_id, self.retry) = kept;
    }

    /// Takes bytes in; `event` gets each complete event that has data.
    pub fn feed(&mut self, mut bytes: &[u8], mut event: impl FnMut(Event<'_>)) {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) else {
                self.keep(bytes);
                return;
            };
            self.keep(&bytes[..end]);
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_line(&mut event);
        }
    }

    fn keep(&mut self, part: &[u8]) {
        self.line_bytes += part.len();
        self.event_bytes += part.len();
        if self.is_too_long() {
            self.line = Vec::new();
            self.data = Vec::new();
        } else {
            self.line.extend_from_slice(part);
        }
    }

    fn is_too_long(&self) -> bool {
        self.event_bytes > self.limit_bytes
    }

    fn end_line(&mut self, event: &mut impl FnMut(Event<'_>)) {
        if std::mem::take(&mut self.line_bytes) > 0 {
            if !self.is_too_long() {
                let line = std::mem::take(&mut self.line);
                self.take_line(&line);
                self.line = line;
                self.line.clear();
            }
            return;
        }
        if let Some(id) = self.id.take() {
            self.last_id = Some(id);
        }
        if self.is_too_long() {
            event(Event::TooLong(self.event_bytes));
        } else if !self.data.is_empty() {
            event(Event::Data(&self.data));
        }
        self.event_bytes = 0;
        // One large event must not hold its memory for the life of the stream.
        self.data = Vec::new();
        self.line.shrink_to(4_096);
    }

    fn take_line(&mut self, line: &[u8]) {
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let text = || std::str::from_utf8(value).ok();
        match field {
            b"data" => {
                if !self.data.is_empty() {
                    self.data.push(b' ');
                }
                self.data.extend_from_slice(value);
            }
            b"id" if value.len() <= ID_MAX_BYTES => self.id = text().map(str::to_owned),
            b"retry" => {
                let told = text()
                    .and_then(|ms| ms.parse().ok())
                    .map(Duration::from_millis);
                self.retry = told.map(|told| told.min(RETRY_MAX)).or(self.retry);
            }
            // A comment keeps the connection alive; the name of an event tells nothing in MCP.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = ": hello\n\nid: 7\nretry: 1500\ndata:\n\nevent: message\ndata: {\"a\":1}\r\n\r\n\
                        data:one\rdata: two\r\rdata: 0123456789012345678901234567890123456789\n\n\
                        id: 8\ndata: x\n\nid: 9\ndata: cut off";

    fn decoded(cuts: &[usize]) -> (Vec<String>, Decoder) {
        let mut decoder = Decoder::new(40);
        let mut out = Vec::new();
        let mut start = 0;
        for cut in cuts.iter().copied().chain([TEXT.len()]) {
            let cut = cut.max(start);
            decoder.feed(&TEXT.as_bytes()[start..cut], |event| {
                out.push(match event {
                    Event::Data(data) => String::from_utf8_lossy(data).into_owned(),
                    Event::TooLong(bytes) => format!("{bytes} bytes"),
                });
            });
            start = cut;
        }
        (out, decoder)
    }

    #[test]
    fn data_ids_and_retries_are_read() {
        let (events, mut decoder) = decoded(&[]);
        assert_eq!(events, ["{\"a\":1}", "one two", "46 bytes", "x"]);
        assert_eq!(decoder.last_id(), Some("8"));
        assert_eq!(decoder.retry(), Some(Duration::from_millis(1_500)));
        decoder.restart();
        let mut after = Vec::new();
        decoder.feed(b"data: y\n\n", |event| after.push(format!("{event:?}")));
        assert_eq!(after, [format!("{:?}", Event::Data(b"y"))]);
        assert_eq!(decoder.last_id(), Some("8"));
    }

    #[test]
    fn an_endless_event_is_not_kept() {
        let mut decoder = Decoder::new(1_000);
        for _ in 0..100 {
            decoder.feed(&[b'x'; 100], |event| panic!("{event:?}"));
            assert!(decoder.line.capacity() <= 2_000);
        }
    }

    proptest! {
        #[test]
        fn chunk_borders_change_nothing(mut cuts in proptest::collection::vec(0..TEXT.len(), 0..12)) {
            cuts.sort_unstable();
            prop_assert_eq!(decoded(&cuts).0, decoded(&[]).0);
        }
    }
}
