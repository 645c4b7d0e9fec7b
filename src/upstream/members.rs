//! The members of a JSON object that a parser has passed already, found by its quotes and brackets alone.
//!
//! A message is parsed once, as a whole. What is looked up in its parts afterwards needs no second judgement, and every
//! call of a stateless client has several such parts.

use std::borrow::Cow;

use super::{
    keys::Keys,
    message::{EnvelopeError, Raw, RawObject},
};

impl<'a> RawObject<'a> {
    /// As [`RawObject::parse`], for a part of a message that was parsed.
    ///
    /// # Errors
    /// When `raw` is another JSON value, or a key is there twice.
    pub fn of(raw: impl Into<Raw<'a>>) -> Result<Self, EnvelopeError> {
        Self::of_checked(raw.into().get())
    }

    /// As [`RawObject::of`], for the raw text of a member of another object. Of text that is no JSON it may make
    /// anything, but no fault.
    ///
    /// # Errors
    /// As [`RawObject::of`].
    pub fn of_checked(raw: &'a str) -> Result<Self, EnvelopeError> {
        match members(raw) {
            Some(members) => Ok(Self(members)),
            None => Self::parse(raw),
        }
    }

    /// What must go from `raw`, of which this was read and not changed since, for this member to be gone: the member and
    /// one comma. `None`: it is not there, or a key beside it must be read to know where it stands.
    #[must_use]
    pub(super) fn span_of(&self, raw: &'a str, key: &str) -> Option<&'a str> {
        let place = self.0.iter().position(|(known, _)| known == key)?;
        let at = |part: &Cow<'a, str>| match part {
            Cow::Borrowed(text) => text.as_ptr().addr().checked_sub(raw.as_ptr().addr()),
            Cow::Owned(_) => None,
        };
        // A key that is borrowed stands behind its quote.
        let key_at = |place: usize| at(&self.0.get(place)?.0)?.checked_sub(1);
        let end_of = |place: usize| {
            let (_, value) = self.0.get(place)?;
            Some(at(value)? + value.len())
        };
        let (from, to) = match place.checked_sub(1) {
            Some(before) => (end_of(before)?, end_of(place)?),
            None if self.0.len() > 1 => (key_at(0)?, key_at(1)?),
            None => (key_at(0)?, end_of(0)?),
        };
        raw.get(from..to)
    }
}

/// The parameters of a message, taken apart once for all who look into them.
#[derive(Debug)]
pub(super) struct Parameters<'a> {
    pub(super) members: Result<RawObject<'a>, EnvelopeError>,
    /// Those of `_meta`, if it is there.
    pub(super) meta: Result<Option<RawObject<'a>>, EnvelopeError>,
}

impl Default for Parameters<'_> {
    fn default() -> Self {
        Self {
            members: Ok(RawObject::default()),
            meta: Ok(None),
        }
    }
}

impl<'a> Parameters<'a> {
    /// Takes raw parameters apart.
    pub(super) fn of(raw: Raw<'a>) -> Self {
        let members = RawObject::of(raw);
        let found = members.as_ref().ok().and_then(|members| {
            let (_, meta) = members.0.iter().find(|(key, _)| key == "_meta")?;
            match meta {
                Cow::Borrowed(meta) => Some(*meta),
                Cow::Owned(_) => None,
            }
        });
        Self {
            meta: found.map(RawObject::of_checked).transpose(),
            members,
        }
    }
}

type Member<'a> = (Cow<'a, str>, Cow<'a, str>);

/// Keys and raw values of an object; `None` for all that needs a closer look.
fn members(raw: &str) -> Option<Vec<Member<'_>>> {
    let bytes = raw.as_bytes();
    if bytes.first() != Some(&b'{') {
        return None;
    }
    let mut members: Vec<Member<'_>> = Vec::with_capacity(4);
    let mut keys = Keys::default();
    let mut at = past_space(bytes, 1);
    while bytes.get(at)? == &b'"' {
        let key_end = past_string(bytes, at)?;
        let key = raw.get(at + 1..key_end - 1)?;
        let key = if memchr::memchr(b'\\', key.as_bytes()).is_some() {
            Cow::Owned(serde_json::from_str(raw.get(at..key_end)?).ok()?)
        } else {
            Cow::Borrowed(key)
        };
        if !keys.is_new(&members, &key) {
            return None;
        }
        at = past_space(bytes, key_end);
        if bytes.get(at)? != &b':' {
            return None;
        }
        at = past_space(bytes, at + 1);
        let end = past_value(bytes, at)?;
        members.push((key, Cow::Borrowed(raw.get(at..end)?)));
        at = past_space(bytes, end);
        if bytes.get(at)? != &b',' {
            break;
        }
        at = past_space(bytes, at + 1);
    }
    (bytes.get(at)? == &b'}' && at + 1 == bytes.len()).then_some(members)
}

fn past_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The place behind the string that begins at `at`.
fn past_string(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// The place behind the value that begins at `at`.
fn past_value(bytes: &[u8], mut at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' => past_string(bytes, at),
        b'{' | b'[' => {
            let mut depth = 0_usize;
            loop {
                match bytes.get(at)? {
                    b'"' => {
                        at = past_string(bytes, at)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            return Some(at + 1);
                        }
                    }
                    _ => {}
                }
                at += 1;
            }
        }
        // A number, or a word.
        _ => {
            let is_over =
                |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
            let length = bytes[at..].iter().position(is_over)?;
            (length > 0).then_some(at + length)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn same(raw: &str) {
        let parsed = RawObject::parse(raw).map(|object| object.0);
        assert_eq!(
            RawObject::of_checked(raw).map(|object| object.0),
            parsed,
            "{raw}"
        );
    }

    #[test]
    fn what_it_finds_is_what_the_parser_finds() {
        for raw in [
            "{}",
            "{ }",
            r#"{"a":1}"#,
            "{ \"a\" : -1.50e+3 ,\r\n\t\"b\":\"}\\\",{\" , \"c\" : [ {\"}\":\"]\"} , [] ] }",
            r#"{"\u0061":"x","b\"c":{"d":{"e":[1,2,{"f":null}]}},"":true}"#,
            r#"{"é":"\\","ü\\":"\"","z":{}}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"\ud800":1}"#,
            "[]",
            "5",
            "\"{}\"",
            "null",
        ] {
            same(raw);
        }
    }

    #[test]
    fn a_member_goes_with_one_comma() {
        for (raw, left) in [
            (r#"{"m":1}"#, "{}"),
            (r#"{ "m" : {"x":","} }"#, "{  }"),
            (r#"{"m":1,"b":2}"#, r#"{"b":2}"#),
            (
                r#"{"a":1 , "m": [1,2] , "b" : 1.0e5}"#,
                r#"{"a":1 , "b" : 1.0e5}"#,
            ),
            (r#"{"a":1 , "m":"}" }"#, r#"{"a":1 }"#),
            (r#"{"\u0061":1,"m":1}"#, r#"{"\u0061":1}"#),
            (r#"{"a":1,"\u006d":1}"#, r#"{"a":1}"#),
        ] {
            let object = RawObject::of_checked(raw).expect("an object");
            let span = object.span_of(raw, "m").expect("it is there");
            let at = span.as_ptr().addr() - raw.as_ptr().addr();
            let found = format!("{}{}", &raw[..at], &raw[at + span.len()..]);
            assert_eq!(found, left);
        }
        for raw in [r#"{"a":1}"#, r#"{"\u006d":1}"#, r#"{"m":1,"\u0061":1}"#] {
            let object = RawObject::of_checked(raw).expect("an object");
            assert_eq!(object.span_of(raw, "m"), None, "{raw}");
        }
        let raw = r#"{"m":1}"#;
        let mut changed = RawObject::of_checked(raw).expect("an object");
        changed.set("m", "2".to_owned());
        assert_eq!(changed.span_of(raw, "m"), None);
    }

    #[test]
    fn what_is_no_json_is_no_fault() {
        for raw in [
            "",
            "{",
            "{\"",
            "{\"a",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":\"\\",
            "{\"a\":[",
            "{\"a\":]}",
            "{\"a\":,}",
            "{\"é\\",
            "{,}",
            "{\"a\":1,}",
            "{\"a\":1 2}",
            "{}x",
            "{\"a\":}]}",
            "\u{e9}",
        ] {
            let _ = RawObject::of_checked(raw);
        }
    }

    /// Any JSON, with keys that need escapes.
    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            "[\\PC\"\\\\{}\\[\\],:\n]{0,12}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                proptest::collection::btree_map("[a-c\"\\\\é}{\n]{0,3}", inner, 0..5)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_member_goes_and_the_others_stay(value in json(), which in any::<prop::sample::Index>()) {
            let raw = value.to_string();
            let Ok(object) = RawObject::of_checked(&raw) else { return Ok(()) };
            if object.0.is_empty() {
                return Ok(());
            }
            let key = object.0[which.index(object.0.len())].0.to_string();
            if let Some(span) = object.span_of(&raw, &key) {
                let at = span.as_ptr().addr() - raw.as_ptr().addr();
                let left = format!("{}{}", &raw[..at], &raw[at + span.len()..]);
                let mut expected = object.clone();
                expected.retain(|known| known != key);
                prop_assert_eq!(RawObject::parse(&left), Ok(expected));
            }
        }

        #[test]
        fn any_json_is_read_as_the_parser_reads_it(value in json(), pretty: bool) {
            let raw = if pretty { format!("{value:#}") } else { value.to_string() };
            same(&raw);
        }

        #[test]
        fn any_text_is_no_fault(raw in "[{}\\[\\]\",:\\\\a1 é]{0,40}") {
            let _ = RawObject::of_checked(&raw);
            let _ = RawObject::of_checked(&format!("{{{raw}}}"));
        }
    }
}
