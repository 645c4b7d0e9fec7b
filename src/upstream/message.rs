//! The envelope of a JSON-RPC message, read without touching what it carries.
//!
//! A relay must not lose fields or digits, so a message is never rebuilt: the parts that routing needs are found,
//! and only those bytes are replaced ([`splice`]).

use std::{borrow::Cow, fmt, sync::OnceLock};

use memchr::memmem::Finder;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{keys::Keys, members::Parameters, one_pass};

/// A part of a message, as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw<'a>(&'a str);

impl<'a> Raw<'a> {
    /// Of a part that is JSON.
    pub(super) fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn get(self) -> &'a str {
        self.0
    }
}

impl<'a> From<&'a RawValue> for Raw<'a> {
    fn from(raw: &'a RawValue) -> Self {
        Self(raw.get())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(de).map(Self::from)
    }
}

/// The parts of one JSON-RPC 2.0 message that routing needs; everything borrows from the source.
#[derive(Debug, Deserialize)]
pub struct Envelope<'a> {
    #[serde(borrow, default)]
    jsonrpc: Option<Text<'a>>,
    /// The id, `null` included.
    #[serde(borrow, default, deserialize_with = "present")]
    pub id: Option<Raw<'a>>,
    #[serde(borrow, default)]
    method: Option<Text<'a>>,
    /// The parameters.
    #[serde(borrow, default, deserialize_with = "present")]
    pub params: Option<Raw<'a>>,
    /// The result of a response, `null` included.
    #[serde(borrow, default, deserialize_with = "present")]
    pub result: Option<Raw<'a>>,
    /// The error of a response.
    #[serde(borrow, default, deserialize_with = "present")]
    pub error: Option<Raw<'a>>,
    #[serde(skip)]
    parameters: Parameters<'a>,
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Wants an answer.
    Request,
    /// Wants none.
    Notification,
    /// Is an answer.
    Response,
}

/// Why bytes are not a JSON-RPC message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not JSON at all; JSON-RPC code -32700.
    #[error("the message is not valid JSON: {0}")]
    Syntax(String),
    /// JSON, but not JSON-RPC 2.0; JSON-RPC code -32600.
    #[error("the message is not JSON-RPC 2.0: {0}")]
    Shape(String),
}

fn present<'de, D: Deserializer<'de>>(de: D) -> Result<Option<Raw<'de>>, D::Error> {
    Raw::deserialize(de).map(Some)
}

impl<'a> Envelope<'a> {
    /// Reads one message.
    ///
    /// # Errors
    /// [`EnvelopeError::Syntax`] for anything but JSON, [`EnvelopeError::Shape`] for other JSON and for doubled keys.
    pub fn parse(source: &'a [u8]) -> Result<Self, EnvelopeError> {
        // Neither way looks into what it skips, and a server may end over a byte that it cannot decode.
        let source = std::str::from_utf8(source)
            .map_err(|error| EnvelopeError::Syntax(format!("it is not UTF-8: {error}")))?;
        match one_pass::read(source) {
            Some(parts) => Ok(Self {
                jsonrpc: Some(Text(Cow::Borrowed("2.0"))),
                id: parts.id,
                method: parts.method.map(|method| Text(Cow::Borrowed(method))),
                params: parts.params,
                result: parts.result,
                error: parts.error,
                parameters: parts.parameters,
            }),
            None => Self::parsed(source),
        }
    }

    /// As [`Envelope::parse`], by the parser alone.
    pub(super) fn parsed(source: &'a str) -> Result<Self, EnvelopeError> {
        let mut envelope: Self = serde_json::from_str(source).map_err(|error| {
            if error.is_data() {
                // The derive may stop at the first wrong field of a text that is not even JSON.
                match serde_json::from_str::<&RawValue>(source) {
                    Ok(_) => EnvelopeError::Shape(error.to_string()),
                    Err(error) => EnvelopeError::Syntax(error.to_string()),
                }
            } else {
                EnvelopeError::Syntax(error.to_string())
            }
        })?;
        if envelope
            .jsonrpc
            .as_ref()
            .is_none_or(|version| version.0 != "2.0")
        {
            return Err(EnvelopeError::Shape(
                "\"jsonrpc\" must be \"2.0\"".to_owned(),
            ));
        }
        if let Some(params) = envelope.params {
            envelope.parameters = Parameters::of(params);
        }
        Ok(envelope)
    }

    /// The members of the parameters; none when there are no parameters.
    ///
    /// # Errors
    /// When they are no object, or a key is there twice.
    pub fn parameters(&self) -> Result<&RawObject<'a>, &EnvelopeError> {
        self.parameters.members.as_ref()
    }

    /// The raw value of one parameter.
    #[must_use]
    pub fn parameter(&self, key: &str) -> Option<&str> {
        self.parameters().ok()?.get(key)
    }

    /// The members of `_meta` among the parameters, if it is there.
    ///
    /// # Errors
    /// When it is no object, or a key is there twice.
    pub fn meta(&self) -> Result<Option<&RawObject<'a>>, &EnvelopeError> {
        self.parameters.meta.as_ref().map(Option::as_ref)
    }

    /// Tells what the message is.
    ///
    /// # Errors
    /// [`EnvelopeError::Shape`] when it is neither request, notification nor response.
    pub fn kind(&self) -> Result<Kind, EnvelopeError> {
        let shape = |text: &str| Err(EnvelopeError::Shape(text.to_owned()));
        let answers = self.result.is_some() || self.error.is_some();
        match (&self.method, self.id, answers) {
            (Some(_), None, false) => Ok(Kind::Notification),
            (Some(_), Some(id), false) if is_id(id.get()) => Ok(Kind::Request),
            (Some(_), Some(_), false) => shape("\"id\" must be a string or a number"),
            (None, Some(_), true) if !(self.result.is_some() && self.error.is_some()) => {
                Ok(Kind::Response)
            }
            _ => shape("it must have either \"method\", or \"id\" with \"result\" or \"error\""),
        }
    }

    /// The method of a request or notification, or an empty text.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method.as_ref().map_or("", |method| &method.0)
    }
}

/// A text that is looked for in every message; the search is prepared once.
pub struct Word {
    text: &'static str,
    finder: OnceLock<Finder<'static>>,
}

impl Word {
    /// Looks for this text.
    #[must_use]
    pub const fn new(text: &'static str) -> Self {
        Self {
            text,
            finder: OnceLock::new(),
        }
    }

    /// Whether it stands somewhere in `text`.
    #[must_use]
    pub fn is_in(&self, text: impl AsRef<[u8]>) -> bool {
        let finder = self.finder.get_or_init(|| Finder::new(self.text));
        finder.find(text.as_ref()).is_some()
    }
}

/// Whether a character of raw JSON is written as its number: then a key may not look like itself.
#[must_use]
pub fn has_numbered_characters(raw: impl AsRef<[u8]>) -> bool {
    static NUMBERED: Word = Word::new("\\u");
    // Nearly always there is no escape at all.
    memchr::memchr(b'\\', raw.as_ref()).is_some() && NUMBERED.is_in(raw)
}

/// Whether raw JSON can be a request id: a string or a number.
#[must_use]
pub fn is_id(raw: &str) -> bool {
    matches!(raw.as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9'))
}

/// Copies `source` onto one line with `edits` made: each part must borrow from `source`, in order of position.
///
/// Line breaks become spaces: JSON allows them only between tokens, and stdio framing not at all.
///
/// # Panics
/// When a part does not borrow from `source`: a fault in this program.
#[must_use]
pub fn splice(source: &[u8], edits: &mut [(Raw<'_>, &str)]) -> Vec<u8> {
    splice_at(source, edits, 0, Raw::get)
}

/// As [`splice`], for parts as text.
///
/// # Panics
/// As [`splice`].
#[must_use]
pub fn splice_text(source: &[u8], edits: &mut [(&str, &str)]) -> Vec<u8> {
    splice_at(source, edits, 0, |part| part)
}

/// As [`splice_text`], with room for the end of a line.
///
/// # Panics
/// As [`splice`].
#[must_use]
pub fn splice_text_line(source: &[u8], edits: &mut [(&str, &str)]) -> Vec<u8> {
    splice_at(source, edits, 1, |part| part)
}

fn splice_at<'p, P: Copy>(
    source: &[u8],
    edits: &mut [(P, &str)],
    spare: usize,
    text_of: impl Fn(P) -> &'p str,
) -> Vec<u8> {
    if edits.len() > 1 {
        edits.sort_unstable_by_key(|(part, _)| text_of(*part).as_ptr().addr());
    }
    let grown: usize = edits.iter().map(|(_, text)| text.len()).sum();
    let gone: usize = edits.iter().map(|(part, _)| text_of(*part).len()).sum();
    // Exact: then it becomes `Bytes` as it is.
    let mut out = Vec::with_capacity(source.len() - gone + grown + spare);
    let mut from = 0;
    for (part, text) in edits {
        let part = text_of(*part);
        let start = part.as_ptr().addr() - source.as_ptr().addr();
        out.extend_from_slice(&source[from..start]);
        out.extend_from_slice(text.as_bytes());
        from = start + part.len();
    }
    out.extend_from_slice(&source[from..]);
    if memchr::memchr2(b'\n', b'\r', &out).is_some() {
        for byte in &mut out {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
    }
    out
}

/// A JSON object with its members in order and untouched.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RawObject<'a>(pub Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'de: 'a, 'a> Deserialize<'de> for RawObject<'a> {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = RawObject<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(Cow<'de, str>, Cow<'de, str>)> = Vec::new();
                let mut keys = Keys::default();
                while let Some((Text(key), value)) = map.next_entry::<Text<'de>, &RawValue>()? {
                    if !keys.is_new(&members, &key) {
                        return Err(serde::de::Error::custom(format_args!(
                            "{key:?} is there twice"
                        )));
                    }
                    members.push((key, Cow::Borrowed(value.get())));
                }
                Ok(RawObject(members))
            }
        }
        de.deserialize_map(Members)
    }
}

/// Borrows where `Option<Cow<str>>` would copy: serde borrows a `Cow` only as a field of its own.
#[derive(Debug, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> RawObject<'a> {
    /// Reads an object.
    ///
    /// # Errors
    /// When `raw` is another JSON value, or a key is there twice.
    pub fn parse(raw: &'a str) -> Result<Self, EnvelopeError> {
        serde_json::from_str(raw).map_err(|error| EnvelopeError::Shape(error.to_string()))
    }

    /// The raw value of a member.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == key)?;
        Some(value)
    }

    /// Sets a member to raw JSON: in place when it is there, else at the end.
    pub fn set(&mut self, key: &'a str, raw: impl Into<Cow<'a, str>>) {
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some((_, value)) => *value = raw.into(),
            None => self.0.push((Cow::Borrowed(key), raw.into())),
        }
    }

    /// Keeps the members whose key passes.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.0.retain(|(key, _)| keep(key));
    }

    /// The object as JSON text.
    #[must_use]
    pub fn to_json(&self) -> String {
        let length = |(key, value): &(Cow<'_, str>, Cow<'_, str>)| key.len() + value.len() + 4;
        let mut out = String::with_capacity(2 + self.0.iter().map(length).sum::<usize>());
        out.push('{');
        for (index, (key, value)) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            push_quoted(&mut out, key);
            out.push(':');
            out.push_str(value);
        }
        out.push('}');
        out
    }
}

/// `text` as a JSON string.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_quoted(&mut out, text);
    out
}

fn push_quoted(out: &mut String, text: &str) {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// Reads a raw JSON string.
#[must_use]
pub fn unquote(raw: &str) -> Option<String> {
    unquoted(raw).map(Cow::into_owned)
}

/// As [`unquote`]; a string without an escape is not copied.
#[must_use]
pub fn unquoted(raw: &str) -> Option<Cow<'_, str>> {
    let is_plain = |byte: &u8| *byte >= b' ' && *byte != b'"' && *byte != b'\\';
    match raw
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    {
        Some(text) if text.as_bytes().iter().all(is_plain) => Some(Cow::Borrowed(text)),
        _ => serde_json::from_str(raw).ok().map(|Text(text)| text),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_message_keeps_everything_but_its_id() {
        let source = br#"{"x-new":1e400, "jsonrpc":"2.0","id":"a\"b","method":"tools/call",
            "params":{"n":123456789012345678901234567890,"id":"inner"}}"#;
        let envelope = Envelope::parse(source).unwrap();
        assert_eq!(envelope.kind().unwrap(), Kind::Request);
        let out = splice(source, &mut [(envelope.id.unwrap(), "77")]);
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains('\n'));
        assert!(text.starts_with(r#"{"x-new":1e400, "jsonrpc":"2.0","id":77,"method""#));
        assert!(text.ends_with(r#"{"n":123456789012345678901234567890,"id":"inner"}}"#));
    }

    #[test]
    fn kinds_are_told_apart() {
        let kind = |text: &str| Envelope::parse(text.as_bytes()).and_then(|e| e.kind());
        let ok = [
            (r#"{"jsonrpc":"2.0","id":1,"method":"a"}"#, Kind::Request),
            (r#"{"jsonrpc":"2.0","method":"a"}"#, Kind::Notification),
            (r#"{"jsonrpc":"2.0","id":1,"result":null}"#, Kind::Response),
            (r#"{"jsonrpc":"2.0","id":null,"error":{}}"#, Kind::Response),
        ];
        for (text, expected) in ok {
            assert_eq!(kind(text).unwrap(), expected, "{text}");
        }
        for text in [
            r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":{},"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{}}"#,
            r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"a"}"#,
            r#"{"jsonrpc":"2.0","method":5}"#,
            "[]",
            "5",
        ] {
            assert!(
                matches!(kind(text), Err(EnvelopeError::Shape(_))),
                "{text}: {:?}",
                kind(text)
            );
        }
        for text in ["", "{", "{\"jsonrpc\":\"2.0\",\"method\":5,", "hello"] {
            assert!(
                matches!(kind(text), Err(EnvelopeError::Syntax(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn an_escaped_key_is_still_the_key() {
        let envelope =
            Envelope::parse(br#"{"jsonrpc":"2.0","\u0069d":4,"method":"tools\/call"}"#).unwrap();
        assert_eq!(envelope.id.unwrap().get(), "4");
        assert_eq!(envelope.method(), "tools/call");
    }

    #[test]
    fn an_object_keeps_order_and_digits() {
        let mut object = RawObject::parse(r#"{"b":1.000,"a":{"z":[1, 2]},"\u0063":"x"}"#).unwrap();
        assert_eq!(object.get("c"), Some("\"x\""));
        object.set("a", "true");
        object.set("d", "null");
        assert_eq!(object.to_json(), r#"{"b":1.000,"a":true,"c":"x","d":null}"#);
        assert!(RawObject::parse(r#"{"a":1,"\u0061":2}"#).is_err());
        assert!(RawObject::parse("[]").is_err());
    }
}
