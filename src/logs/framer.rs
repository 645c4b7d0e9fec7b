//! Bytes of a pipe into lines of a log. Pure.
//!
//! A line is text: invalid UTF-8 becomes U+FFFD, colour and cursor sequences (`ESC [ … letter`) are left out, other
//! control characters but the tab become their visible pictures (U+2400 and up). A line over the limit is cut,
//! at a character border, into entries of which all but the last are marked `continued`. Secrets are replaced
//! before a line is cut, and recognised across the cut.

use crate::secrets::redaction::Matcher;

/// A parameterised escape sequence longer than this is no longer swallowed.
const SEQUENCE_BYTES_MAX: u8 = 32;

const PART_BYTES: usize = 16 << 10;

/// One entry made of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framed {
    /// The text, redacted, without its line end. At most the limit long before redaction.
    pub line: String,
    /// The line goes on in the next entry.
    pub continued: bool,
}

/// Cuts the bytes of one pipe into lines. Holds no memory between lines.
#[derive(Debug)]
pub struct Framer {
    limit_bytes: usize,
    /// `context` bytes that are already given out, then the line as far as it is known.
    pending: Vec<u8>,
    context: usize,
    state: State,
    /// Something of the line was seen, perhaps only a sequence that left no text.
    line_open: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    /// After a carriage return, which only counts when no newline follows.
    Return,
    /// After ESC.
    Escape,
    /// Inside `ESC [`, so many bytes swallowed.
    Sequence(u8),
}

impl Framer {
    /// A framer whose entries are at most `limit_bytes` long before redaction (at least 16).
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes: limit_bytes.max(16),
            pending: Vec::new(),
            context: 0,
            state: State::Text,
            line_open: false,
        }
    }

    /// Takes in `chunk` and gives every entry that is complete to `emit`. How the bytes are cut into chunks
    /// never changes the entries, as long as `secrets` stays the same.
    pub fn feed(&mut self, chunk: &[u8], secrets: &Matcher<'_>, emit: &mut impl FnMut(Framed)) {
        // In parts, so that a very long line is cut as it comes and never held whole.
        for part in chunk.chunks(PART_BYTES) {
            self.feed_part(part, secrets, emit);
        }
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
    }

    fn feed_part(&mut self, part: &[u8], secrets: &Matcher<'_>, emit: &mut impl FnMut(Framed)) {
        let mut rest = part;
        while let Some(&byte) = rest.first() {
            self.line_open |= byte != b'\n';
            match self.state {
                State::Text => {
                    let run = text_run(rest);
                    self.pending.extend_from_slice(&rest[..run]);
                    let Some(&control) = rest.get(run) else { break };
                    rest = &rest[run + 1..];
                    match control {
                        b'\n' => self.end_line(secrets, emit),
                        b'\r' => self.state = State::Return,
                        0x1b => self.state = State::Escape,
                        _ => self.push_picture(control),
                    }
                }
                State::Return => {
                    if byte != b'\n' {
                        self.push_picture(b'\r');
                    }
                    self.state = State::Text;
                }
                State::Escape => {
                    if byte == b'[' {
                        self.state = State::Sequence(0);
                        rest = &rest[1..];
                    } else {
                        self.push_picture(0x1b);
                        self.state = State::Text;
                    }
                }
                State::Sequence(swallowed) => match byte {
                    0x20..=0x3f if swallowed < SEQUENCE_BYTES_MAX => {
                        self.state = State::Sequence(swallowed + 1);
                        rest = &rest[1..];
                    }
                    0x40..=0x7e => {
                        self.state = State::Text;
                        rest = &rest[1..];
                    }
                    _ => self.state = State::Text,
                },
            }
        }
        let known = self.limit_bytes + secrets.overlap();
        while self.pending.len() - self.context > known {
            self.emit_cut(secrets, emit);
        }
    }

    /// The pipe has ended: gives out the last line, if it had no newline.
    pub fn finish(&mut self, secrets: &Matcher<'_>, emit: &mut impl FnMut(Framed)) {
        if self.state == State::Escape {
            self.push_picture(0x1b);
        }
        self.state = State::Text;
        if self.line_open {
            self.end_line(secrets, emit);
        }
        self.pending = Vec::new();
    }

    fn push_picture(&mut self, control: u8) {
        let picture = match control {
            0x7f => '\u{2421}',
            _ => char::from_u32(0x2400 + u32::from(control)).unwrap_or('\u{fffd}'),
        };
        let mut utf8 = [0; 4];
        self.pending
            .extend_from_slice(picture.encode_utf8(&mut utf8).as_bytes());
    }

    fn end_line(&mut self, secrets: &Matcher<'_>, emit: &mut impl FnMut(Framed)) {
        while self.pending.len() - self.context > self.limit_bytes {
            self.emit_cut(secrets, emit);
        }
        let mut out = Vec::with_capacity(self.pending.len() - self.context);
        secrets.redact_part(&self.pending, self.context..self.pending.len(), &mut out);
        emit(Framed {
            line: into_text(out),
            continued: false,
        });
        self.pending.clear();
        self.context = 0;
        self.line_open = false;
    }

    /// Gives out the first entry of a line that is longer than the limit.
    fn emit_cut(&mut self, secrets: &Matcher<'_>, emit: &mut impl FnMut(Framed)) {
        let overlap = secrets.overlap();
        let cut = char_border(&self.pending, self.context + self.limit_bytes);
        let seen = self.pending.len().min(cut + overlap);
        let mut out = Vec::with_capacity(self.limit_bytes);
        secrets.redact_part(&self.pending[..seen], self.context..cut, &mut out);
        emit(Framed {
            line: into_text(out),
            continued: true,
        });
        let context = overlap.min(cut);
        self.pending.drain(..cut - context);
        self.context = context;
    }
}

/// How many bytes there are before the first control character.
fn text_run(bytes: &[u8]) -> usize {
    // Without a branch for each byte, the compiler looks at a whole block at once.
    let free = |block: &&[u8]| {
        !block
            .iter()
            .fold(false, |any, byte| any | is_control(*byte))
    };
    let blocks = bytes.chunks_exact(32).take_while(free).count() * 32;
    let rest = &bytes[blocks..];
    let end = rest.iter().position(|byte| is_control(*byte));
    blocks + end.unwrap_or(rest.len())
}

fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

/// The last position at or before `at` that does not split a UTF-8 character.
fn char_border(bytes: &[u8], at: usize) -> usize {
    (0..4)
        .map(|back| at - back)
        .find(|position| bytes[*position] & 0xc0 != 0x80)
        .unwrap_or(at)
}

fn into_text(bytes: Vec<u8>) -> String {
    let text = String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    // The C1 controls (U+0080 to U+009F) steer some terminals like ESC sequences do.
    if memchr::memchr(0xc2, text.as_bytes()).is_some() && text.contains(is_c1) {
        return text.replace(is_c1, "\u{fffd}");
    }
    text
}

fn is_c1(char: char) -> bool {
    ('\u{80}'..='\u{9f}').contains(&char)
}
