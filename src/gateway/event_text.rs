//! Server-sent events as text (WHATWG HTML, section 9.2.6): found in a stream of bytes, and written anew with other data.

use bytes::{Bytes, BytesMut};

/// Finds whole events in pieces of a stream; an event ends with an empty line.
#[derive(Debug, Default)]
pub struct EventSplitter {
    buffer: BytesMut,
    /// So far no end was found.
    looked: usize,
}

impl EventSplitter {
    /// Takes a piece in and hands out every event that is whole now, with the empty line at its end.
    pub fn push(&mut self, piece: &[u8], mut each: impl FnMut(Bytes)) {
        self.buffer.extend_from_slice(piece);
        while let Some(end) = end_of_event(&self.buffer, self.looked) {
            self.looked = 0;
            each(self.buffer.split_to(end).freeze());
        }
        // An end is at most four bytes long and may be cut anywhere.
        self.looked = self.buffer.len().saturating_sub(3);
    }

    /// Bytes that wait for the end of their event.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.buffer.len()
    }
}

/// Where the event ends that stands at the beginning: after two line ends in a row.
fn end_of_event(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(found) = memchr::memchr2(b'\n', b'\r', &text[at..]) {
        let first = at + found;
        let after_first = after_line_end(text, first)?;
        match text.get(after_first) {
            Some(b'\n' | b'\r') => return after_line_end(text, after_first),
            Some(_) => at = after_first,
            None => return None,
        }
    }
    None
}

/// Behind the line end at `at`; `None` when the next byte must tell whether a carriage return stands alone.
fn after_line_end(text: &[u8], at: usize) -> Option<usize> {
    match (text.get(at), text.get(at + 1)) {
        (Some(b'\r'), Some(b'\n')) => Some(at + 2),
        (Some(b'\r'), None) => None,
        _ => Some(at + 1),
    }
}

fn lines(event: &[u8]) -> impl Iterator<Item = &[u8]> {
    event
        .split(|byte| matches!(byte, b'\n' | b'\r'))
        .filter(|line| !line.is_empty())
}

fn is_data(line: &[u8]) -> bool {
    line == b"data" || line.starts_with(b"data:")
}

/// The data of an event; `None` when it has none.
#[must_use]
pub fn data_of(event: &Bytes) -> Option<Bytes> {
    let mut found: Option<Bytes> = None;
    for line in lines(event).filter(|line| is_data(line)) {
        let value = line.strip_prefix(b"data:").unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        found = Some(match found {
            None => event.slice_ref(value),
            Some(before) => [&before[..], value].join(&b'\n').into(),
        });
    }
    found.filter(|data| !data.is_empty())
}

/// The event with other data, which must hold no line break.
#[must_use]
pub fn with_data(event: &[u8], data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(event.len() + data.len() + 8);
    for line in lines(event).filter(|line| !is_data(line)) {
        out.extend_from_slice(line);
        out.extend_from_slice(b"\n");
    }
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(stream: &str, size: usize) -> Vec<String> {
        let mut splitter = EventSplitter::default();
        let mut events = Vec::new();
        for piece in stream.as_bytes().chunks(size) {
            splitter.push(piece, |event| {
                events.push(String::from_utf8_lossy(&event).into_owned());
            });
        }
        assert_eq!(events.concat().len() + splitter.waiting(), stream.len());
        events
    }

    #[test]
    fn events_are_found_wherever_the_stream_is_cut() {
        let stream = "data: a\n\n: c\r\n\r\nid: 1\rdata: b\r\rdata: x\ndata: y\r\n\ndata: rest\n";
        let expected = [
            "data: a\n\n",
            ": c\r\n\r\n",
            "id: 1\rdata: b\r\r",
            "data: x\ndata: y\r\n\n",
        ];
        for size in 1..=stream.len() {
            assert_eq!(split(stream, size), expected, "{size}");
        }
    }

    #[test]
    fn data_is_read_and_replaced() {
        let event =
            Bytes::from_static(b"id: 7\r\ndata: {\"a\":\r\ndata:1}\r\nevent: message\r\n\r\n");
        assert_eq!(data_of(&event).as_deref(), Some(&b"{\"a\":\n1}"[..]));
        assert_eq!(
            with_data(&event, b"{}"),
            "id: 7\nevent: message\ndata: {}\n\n"
        );
        for none in [": c\n\n", "id: 1\nretry: 5\ndata: \n\n", "database: x\n\n"] {
            assert_eq!(
                data_of(&Bytes::copy_from_slice(none.as_bytes())),
                None,
                "{none}"
            );
        }
    }
}
