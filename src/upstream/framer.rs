//! Lines out of a byte stream, across the borders of reads, never more than the limit in memory.

/// How much of the end of a line over the limit is kept, to find whose answer it was.
const TAIL_BYTES: usize = 256;

/// What the framer found.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A line without its end.
    Line(&'a [u8]),
    /// A line over the limit: its length, its beginning and its end.
    TooLong {
        /// Length in bytes.
        length: usize,
        /// The first bytes.
        head: &'a [u8],
        /// The last bytes.
        tail: &'a [u8],
    },
}

/// Cuts lines. Holds nothing while the stream stands between two lines.
pub struct LineFramer {
    carry: Vec<u8>,
    limit: usize,
    /// Length of a line over the limit so far; then `carry` holds its head and tail only.
    skipped: Option<usize>,
}

impl LineFramer {
    /// Lines up to `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            carry: Vec::new(),
            limit: limit.max(2 * TAIL_BYTES),
            skipped: None,
        }
    }

    /// Takes a chunk; calls `frame` for each line that ends in it.
    pub fn feed(&mut self, mut chunk: &[u8], mut frame: impl FnMut(Frame<'_>)) {
        while let Some(end) = memchr::memchr(b'\n', chunk) {
            let (line, rest) = chunk.split_at(end);
            if self.carry.is_empty() && self.skipped.is_none() && line.len() <= self.limit {
                frame(Frame::Line(line));
            } else {
                self.keep(line);
                match self.skipped.take() {
                    None => frame(Frame::Line(&self.carry)),
                    Some(length) => {
                        let (head, tail) = self.carry.split_at(TAIL_BYTES);
                        frame(Frame::TooLong { length, head, tail });
                    }
                }
                // A large line must not hold its memory until the next one.
                self.carry = Vec::new();
            }
            chunk = &rest[1..];
        }
        self.keep(chunk);
    }

    fn keep(&mut self, part: &[u8]) {
        match &mut self.skipped {
            None if self.carry.len() + part.len() <= self.limit => {
                self.carry.extend_from_slice(part);
            }
            None => {
                self.skipped = Some(self.carry.len() + part.len());
                let from_part = part.len().min(TAIL_BYTES);
                let from_carry = self.carry.len().min(TAIL_BYTES - from_part);
                let mut kept = Vec::with_capacity(3 * TAIL_BYTES);
                kept.extend(self.carry.iter().chain(part).take(TAIL_BYTES));
                kept.extend_from_slice(&self.carry[self.carry.len() - from_carry..]);
                kept.extend_from_slice(&part[part.len() - from_part..]);
                self.carry = kept;
            }
            Some(length) => {
                *length += part.len();
                self.carry
                    .extend_from_slice(&part[part.len().saturating_sub(TAIL_BYTES)..]);
                let surplus = self.carry.len().saturating_sub(2 * TAIL_BYTES);
                self.carry.drain(TAIL_BYTES..TAIL_BYTES + surplus);
            }
        }
    }
}

/// The id that a line over the limit most likely answers: `"id":NUMBER` at its very end, or right at its beginning.
#[must_use]
pub fn likely_id(head: &[u8], tail: &[u8]) -> Option<u64> {
    fn number_after_key(text: &[u8]) -> Option<(u64, &[u8])> {
        let text = text.strip_prefix(b"\"id\"")?.trim_ascii_start();
        let text = text.strip_prefix(b":")?.trim_ascii_start();
        let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
        let number = std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
        Some((number, text[digits..].trim_ascii()))
    }
    let last = memchr::memmem::rfind(tail, b"\"id\"");
    if let Some((id, b"}")) = last.and_then(|at| number_after_key(&tail[at..])) {
        return Some(id);
    }
    let first = memchr::memmem::find(&head[..head.len().min(64)], b"\"id\"")?;
    number_after_key(&head[first..]).map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A line, or the length and likely id of one over the limit.
    type Found = Result<Vec<u8>, (usize, Option<u64>)>;

    fn run(limit: usize, chunks: &[&[u8]]) -> Vec<Found> {
        let mut framer = LineFramer::new(limit);
        let mut out = Vec::new();
        for chunk in chunks {
            framer.feed(chunk, |frame| {
                out.push(match frame {
                    Frame::Line(line) => Ok(line.to_vec()),
                    Frame::TooLong { length, head, tail } => Err((length, likely_id(head, tail))),
                });
            });
            assert!(framer.carry.capacity() <= 2 * framer.limit + 4 * TAIL_BYTES);
        }
        out
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_chunks(
            lines in proptest::collection::vec(proptest::collection::vec(32u8..127, 0..2_000), 0..8),
            cuts in proptest::collection::vec(1usize..700, 1..40),
        ) {
            let stream: Vec<u8> = lines.iter().flat_map(|l| l.iter().copied().chain([b'\n'])).collect();
            let mut chunks = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts {
                let (chunk, tail) = rest.split_at(cut.min(rest.len()));
                chunks.push(chunk);
                rest = tail;
            }
            chunks.push(rest);
            let out = run(1_024, &chunks);
            prop_assert_eq!(out.len(), lines.len());
            for (line, got) in lines.iter().zip(out) {
                match got {
                    Ok(got) => prop_assert_eq!(&got, line),
                    Err((length, _)) => {
                        prop_assert!(line.len() > 1_024);
                        prop_assert_eq!(length, line.len());
                    }
                }
            }
        }
    }

    #[test]
    fn the_id_of_a_line_over_the_limit_is_found_at_either_end() {
        let big = "x".repeat(5_000);
        let node = format!("{{\"result\":\"{big}\",\"jsonrpc\":\"2.0\",\"id\":41}}\n");
        let python = format!("{{\"jsonrpc\":\"2.0\",\"id\": 42 ,\"result\":\"{big}\"}}\n");
        let neither = format!("{{\"jsonrpc\":\"2.0\",\"result\":\"{big}\"}}\nshort\n");
        for size in [7, 300, 100_000] {
            let stream = format!("{node}{python}{neither}");
            let chunks: Vec<&[u8]> = stream.as_bytes().chunks(size).collect();
            let out = run(1_000, &chunks);
            assert_eq!(out[0], Err((node.len() - 1, Some(41))));
            assert_eq!(out[1], Err((python.len() - 1, Some(42))));
            assert!(matches!(out[2], Err((_, None))));
            assert_eq!(out[3], Ok(b"short".to_vec()));
        }
    }
}
