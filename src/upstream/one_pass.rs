//! A JSON-RPC message read in one pass: judged as JSON, and taken apart as far as routing needs.
//!
//! It reads less than the parser, and what it reads it reads in the same way. What is written in an unusual way (an escape
//! in a key that may be ours, a key that is there twice, parameters that are no object, much nesting) and all that is
//! wrong is left to the parser, which finds the words for it.

use std::borrow::Cow;

use super::{
    keys::Keys,
    members::Parameters,
    message::{Raw, RawObject},
};

/// Values within values, at most.
const DEPTH_MAX: usize = 64;

/// The parts of a message of JSON-RPC 2.0.
#[derive(Debug, Default)]
pub(super) struct Parts<'a> {
    pub(super) id: Option<Raw<'a>>,
    pub(super) method: Option<&'a str>,
    pub(super) params: Option<Raw<'a>>,
    pub(super) result: Option<Raw<'a>>,
    pub(super) error: Option<Raw<'a>>,
    pub(super) parameters: Parameters<'a>,
}

/// Reads a message; `None`: the parser must look.
pub(super) fn read(text: &str) -> Option<Parts<'_>> {
    let bytes = text.as_bytes();
    let mut parts = Parts::default();
    let mut has_version = false;
    let mut at = past_space(bytes, 0);
    if bytes.get(at)? != &b'{' {
        return None;
    }
    at = past_space(bytes, at + 1);
    loop {
        let (key, from) = key(text, at)?;
        let end = match key {
            "params" if bytes.get(from)? == &b'{' => {
                let (members, meta, end) = parameters(text, from)?;
                parts.parameters = Parameters {
                    members: Ok(members),
                    meta: Ok(meta),
                };
                end
            }
            // The parser says why.
            "params" => return None,
            "method" => {
                let (method, end) = plain_string(text, from)?;
                set(&mut parts.method, method)?;
                end
            }
            _ => past_value(bytes, from, DEPTH_MAX)?,
        };
        let value = text.get(from..end)?;
        match key {
            "jsonrpc" if value == "\"2.0\"" && !has_version => has_version = true,
            "jsonrpc" => return None,
            "id" => set(&mut parts.id, Raw::new(value))?,
            "params" => set(&mut parts.params, Raw::new(value))?,
            "result" => set(&mut parts.result, Raw::new(value))?,
            "error" => set(&mut parts.error, Raw::new(value))?,
            _ => {}
        }
        at = past_space(bytes, end);
        match bytes.get(at)? {
            b',' => at = past_space(bytes, at + 1),
            b'}' => break,
            _ => return None,
        }
    }
    (has_version && past_space(bytes, at + 1) == bytes.len()).then_some(parts)
}

/// Nothing is there twice.
fn set<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

/// The text of the string that begins at `at` and has no escape, and the place behind it.
fn plain_string(text: &str, at: usize) -> Option<(&str, usize)> {
    let bytes = text.as_bytes();
    if bytes.get(at)? != &b'"' {
        return None;
    }
    let end = special_from(bytes, at + 1)?;
    (bytes.get(end)? == &b'"').then_some((text.get(at + 1..end)?, end + 1))
}

/// The key that begins at `at`, which has no escape, and where its value begins.
fn key(text: &str, at: usize) -> Option<(&str, usize)> {
    let bytes = text.as_bytes();
    let (key, end) = plain_string(text, at)?;
    let colon = past_space(bytes, end);
    (bytes.get(colon)? == &b':').then(|| (key, past_space(bytes, colon + 1)))
}

type WithEnd<'a> = (RawObject<'a>, Option<RawObject<'a>>, usize);

/// The members of the parameters that begin at `at`, those of their `_meta`, and the place behind them.
fn parameters(text: &str, at: usize) -> Option<WithEnd<'_>> {
    let mut meta = None;
    let (members, end) = members(text, at, |key, from| {
        if key != "_meta" {
            return past_value(text.as_bytes(), from, DEPTH_MAX);
        }
        let value = |_: &str, from| past_value(text.as_bytes(), from, DEPTH_MAX);
        let (found, end) = self::members(text, from, value)?;
        meta = Some(found);
        Some(end)
    })?;
    Some((members, meta, end))
}

/// The members of the object that begins at `at`, and the place behind it; `past` knows where a value ends.
fn members<'a>(
    text: &'a str,
    at: usize,
    mut past: impl FnMut(&str, usize) -> Option<usize>,
) -> Option<(RawObject<'a>, usize)> {
    let bytes = text.as_bytes();
    if bytes.get(at)? != &b'{' {
        return None;
    }
    let mut at = past_space(bytes, at + 1);
    if bytes.get(at)? == &b'}' {
        return Some((RawObject::default(), at + 1));
    }
    let mut members: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::with_capacity(4);
    let mut keys = Keys::default();
    loop {
        let (key, from) = key(text, at)?;
        let end = past(key, from)?;
        let key = Cow::Borrowed(key);
        if !keys.is_new(&members, &key) {
            return None;
        }
        let value = text.get(from..end)?;
        members.push((key, Cow::Borrowed(value)));
        at = past_space(bytes, end);
        match bytes.get(at)? {
            b',' => at = past_space(bytes, at + 1),
            b'}' => return Some((RawObject(members), at + 1)),
            _ => return None,
        }
    }
}

#[inline]
fn past_space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(at) {
        at += 1;
    }
    at
}

/// The place behind the value that begins at `at`.
fn past_value(bytes: &[u8], at: usize, depth: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' => past_string(bytes, at),
        b'{' => past_object(bytes, at, depth.checked_sub(1)?),
        b'[' => past_array(bytes, at, depth.checked_sub(1)?),
        b'-' | b'0'..=b'9' => past_number(bytes, at),
        b't' => past_word(bytes, at, b"true"),
        b'f' => past_word(bytes, at, b"false"),
        b'n' => past_word(bytes, at, b"null"),
        _ => None,
    }
}

fn past_object(bytes: &[u8], at: usize, depth: usize) -> Option<usize> {
    let mut at = past_space(bytes, at + 1);
    if bytes.get(at)? == &b'}' {
        return Some(at + 1);
    }
    loop {
        if bytes.get(at)? != &b'"' {
            return None;
        }
        at = past_space(bytes, past_string(bytes, at)?);
        if bytes.get(at)? != &b':' {
            return None;
        }
        at = past_value(bytes, past_space(bytes, at + 1), depth)?;
        at = past_space(bytes, at);
        match bytes.get(at)? {
            b',' => at = past_space(bytes, at + 1),
            b'}' => return Some(at + 1),
            _ => return None,
        }
    }
}

fn past_array(bytes: &[u8], at: usize, depth: usize) -> Option<usize> {
    let mut at = past_space(bytes, at + 1);
    if bytes.get(at)? == &b']' {
        return Some(at + 1);
    }
    loop {
        at = past_space(bytes, past_value(bytes, at, depth)?);
        match bytes.get(at)? {
            b',' => at = past_space(bytes, at + 1),
            b']' => return Some(at + 1),
            _ => return None,
        }
    }
}

fn past_word(bytes: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    let end = at + word.len();
    (bytes.get(at..end)? == word).then_some(end)
}

/// RFC 8259, section 6.
fn past_number(bytes: &[u8], at: usize) -> Option<usize> {
    let past_digits = |mut at: usize| {
        let from = at;
        while let Some(b'0'..=b'9') = bytes.get(at) {
            at += 1;
        }
        (at > from).then_some(at)
    };
    let first = at + usize::from(bytes.get(at)? == &b'-');
    let mut at = match bytes.get(first)? {
        b'0' => first + 1,
        _ => past_digits(first)?,
    };
    if let Some(b'.') = bytes.get(at) {
        at = past_digits(at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let signed = matches!(bytes.get(at + 1), Some(b'+' | b'-'));
        at = past_digits(at + 1 + usize::from(signed))?;
    }
    Some(at)
}

/// The place behind the string that begins at `at`.
#[inline]
fn past_string(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at = special_from(bytes, at)?;
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at = past_escape(bytes, at)?,
            _ => return None,
        }
    }
}

/// Where the first quote, backslash or control character stands from `at` on.
#[inline]
fn special_from(bytes: &[u8], mut at: usize) -> Option<usize> {
    while let Some(eight) = bytes.get(at..at + 8) {
        let found = first_special(u64::from_le_bytes(eight.try_into().ok()?));
        at += found;
        if found < 8 {
            return Some(at);
        }
    }
    while !matches!(bytes.get(at)?, b'"' | b'\\' | 0..b' ') {
        at += 1;
    }
    Some(at)
}

/// Where the first quote, backslash or control character stands among eight bytes, the first one lowest; 8: nowhere.
#[inline]
fn first_special(eight: u64) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    // A byte is marked by its top bit. Above a marked byte others may be marked that are not special; below none is.
    let is_zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let control = eight.wrapping_sub(ONES * 0x20) & !eight;
    let quote = is_zero(eight ^ (ONES * 0x22));
    let backslash = is_zero(eight ^ (ONES * 0x5c));
    let marked = (control | quote | backslash) & TOPS;
    // 64 when nothing is marked.
    (marked.trailing_zeros() / 8) as usize
}

fn past_escape(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at + 1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 2),
        b'u' => {
            let digits = bytes.get(at + 2..at + 6)?;
            digits.iter().all(u8::is_ascii_hexdigit).then_some(at + 6)
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "one_pass_tests.rs"]
mod tests;
