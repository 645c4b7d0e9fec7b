//! What must hold for any bytes that a child or a client sends: run by `tests/fuzz`, and by a test here over its
//! corpus. A property that does not hold panics.

use super::{
    framer::{Frame, LineFramer, likely_id},
    message::{Envelope, EnvelopeError, RawObject, quote, splice, unquote},
    sse::{Decoder, Event},
};

/// The shortest limit that a framer takes, in bytes.
const LIMIT_MIN: usize = 512;

/// Lines do not depend on where reads end; none is longer than the limit; of a longer one, length and both ends are
/// told. The first two bytes choose the limit and the size of a read.
pub fn lines(data: &[u8]) {
    let [limit, size, stream @ ..] = data else {
        return;
    };
    let limit = LIMIT_MIN + usize::from(*limit);
    let mut framer = LineFramer::new(limit);
    let mut expected = stream.split(|byte| *byte == b'\n');
    let mut found = 0;
    for chunk in stream.chunks(usize::from(*size) + 1) {
        framer.feed(chunk, |frame| {
            let line = expected
                .next()
                .expect("not more lines than the stream has ends");
            found += 1;
            match frame {
                Frame::Line(got) => {
                    assert!(got.len() <= limit, "a line over the limit");
                    assert_eq!(got, line);
                }
                Frame::TooLong { length, head, tail } => {
                    assert!(length > limit, "a short line was refused");
                    assert_eq!(length, line.len());
                    assert!(line.starts_with(head) && line.ends_with(tail));
                    let _ = likely_id(head, tail);
                }
            }
        });
    }
    let ends = stream.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(found, ends, "a line was lost");
}

/// A message that is read keeps every byte but those that are replaced, and its id can be given back.
pub fn envelope(data: &[u8]) {
    let envelope = match Envelope::parse(data) {
        Ok(envelope) => envelope,
        Err(error) => {
            let is_json = serde_json::from_slice::<&serde_json::value::RawValue>(data).is_ok();
            let syntax = matches!(error, EnvelopeError::Syntax(_));
            assert_ne!(is_json, syntax, "{error}");
            return;
        }
    };
    let kind = envelope.kind();
    let one_line = one_line(data);
    assert_eq!(splice(data, &mut []), one_line);
    let Some(id) = envelope.id else { return };
    let replaced = splice(data, &mut [(id, "18446744073709551615")]);
    assert!(!replaced.contains(&b'\n') && !replaced.contains(&b'\r'));
    let again = Envelope::parse(&replaced).expect("a message stays a message");
    let new_id = again.id.expect("it had an id");
    assert_eq!(new_id.get(), "18446744073709551615");
    if kind.is_ok() {
        assert_eq!(again.kind(), kind);
    }
    assert_eq!(again.method(), envelope.method());
    for (before, after) in [
        (envelope.params, again.params),
        (envelope.result, again.result),
        (envelope.error, again.error),
    ] {
        let before = before.map(|raw| self::one_line(raw.get().as_bytes()));
        assert_eq!(before.as_deref(), after.map(|raw| raw.get().as_bytes()));
    }
    let back = splice(&replaced, &mut [(new_id, id.get())]);
    assert_eq!(back, one_line, "a digit or a field was lost");
}

fn one_line(text: &[u8]) -> Vec<u8> {
    text.iter()
        .map(|byte| match byte {
            b'\n' | b'\r' => b' ',
            other => *other,
        })
        .collect()
}

/// An object that is read and written again is the same, member by member, digit by digit; reading and writing it
/// once more changes nothing.
pub fn object(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(plain) = unquote(text) {
        assert_eq!(unquote(&quote(&plain)).as_deref(), Some(plain.as_str()));
    }
    let Ok(object) = RawObject::parse(text) else {
        return;
    };
    let written = object.to_json();
    let again = RawObject::parse(&written).expect("an object stays an object");
    assert_eq!(again.0, object.0);
    assert_eq!(again.to_json(), written);
    for (key, value) in &object.0 {
        assert_eq!(object.get(key), Some(value.as_ref()));
    }
}

/// Events do not depend on where reads end; none is longer than the limit, and what is refused is. The first two bytes
/// choose the limit and the size of a read.
pub fn events(data: &[u8]) {
    let [limit, size, stream @ ..] = data else {
        return;
    };
    let limit = usize::from(*limit);
    let decoded = |size: usize| {
        let mut decoder = Decoder::new(limit);
        let mut found = Vec::new();
        for chunk in stream.chunks(size) {
            decoder.feed(chunk, |event| match event {
                Event::Data(data) => {
                    assert!(
                        !data.is_empty() && data.len() <= limit,
                        "an event over the limit"
                    );
                    assert!(!data.contains(&b'\n') && !data.contains(&b'\r'));
                    found.push(data.to_vec());
                }
                Event::TooLong(bytes) => assert!(bytes > limit, "a short event was refused"),
            });
        }
        (found, decoder.last_id().map(str::to_owned), decoder.retry())
    };
    assert_eq!(
        decoded(stream.len().max(1)),
        decoded(usize::from(*size) + 1)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus;

    #[test]
    fn the_properties_hold_for_the_corpus_and_what_is_near_it() {
        corpus::near("framer", lines);
        corpus::near("envelope", |data| {
            envelope(data);
            object(data);
        });
        corpus::near("events", events);
    }
}
