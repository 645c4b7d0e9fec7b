//! The headers that a child's HTTP server demands with a message, by its era.

use std::collections::{HashMap, HashSet};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::{Value, value::RawValue};

use super::{
    UpstreamError,
    handshake::{Era, MODERN, TOOLS_MAX},
    message::{Envelope, RawObject, unquote},
};

/// The session of a message.
pub const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";
/// Begins the header of a tool's argument.
const PARAM_PREFIX: &str = "mcp-param-";
/// Marks a property of a tool's `inputSchema` whose value travels in a header too.
const ANNOTATION: &str = "x-mcp-header";
/// Most such properties of one tool.
const PARAMS_MAX: usize = 64;
/// How deep objects are looked into.
const DEPTH_MAX: usize = 16;

/// What we are to a child's HTTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The era of our messages.
    pub era: Era,
    /// The revision agreed; `None` before that.
    pub version: Option<String>,
    /// The session that it opened for us, if it has sessions.
    pub session: Option<String>,
    /// Counts our sessions, so that one that ended is opened anew only once.
    pub epoch: u64,
}

impl Standing {
    /// Before a handshake.
    #[must_use]
    pub fn stranger(era: Era) -> Self {
        Self {
            era,
            version: (era == Era::Modern).then(|| MODERN.to_owned()),
            session: None,
            epoch: 0,
        }
    }

    /// The headers of a GET, which belong to every other message too.
    ///
    /// # Errors
    /// When what the child told us cannot stand in a header.
    pub fn headers(&self) -> Result<HeaderMap, UpstreamError> {
        let mut headers = HeaderMap::new();
        let text = |value: &str| {
            HeaderValue::from_str(value).map_err(|_| {
                let text = "its session id or protocol version cannot stand in a header";
                UpstreamError::Protocol(text.to_owned())
            })
        };
        if let Some(session) = &self.session {
            headers.insert(SESSION, text(session)?);
        }
        if let Some(version) = &self.version {
            headers.insert(VERSION, text(version)?);
        }
        Ok(headers)
    }

    /// The headers of a POST of this message.
    ///
    /// # Errors
    /// As [`Standing::headers`].
    pub fn headers_of(
        &self,
        message: &Envelope<'_>,
        tools: &ToolHeaders,
    ) -> Result<HeaderMap, UpstreamError> {
        let mut headers = self.headers()?;
        let fixed = HeaderValue::from_static;
        headers.insert(header::CONTENT_TYPE, fixed("application/json"));
        let both = "application/json, text/event-stream";
        headers.insert(header::ACCEPT, fixed(both));
        let method = message.method();
        if self.era == Era::Legacy || method.is_empty() {
            return Ok(headers);
        }
        headers.insert("mcp-method", encoded(method));
        let key = match method {
            "tools/call" | "prompts/get" => "name",
            "resources/read" => "uri",
            _ => return Ok(headers),
        };
        let Some(params) = message
            .params
            .and_then(|raw| RawObject::parse(raw.get()).ok())
        else {
            return Ok(headers);
        };
        if let Some(name) = params.get(key).and_then(unquote) {
            headers.insert("mcp-name", encoded(&name));
            if method == "tools/call" {
                tools.add(&name, params.get("arguments").unwrap_or("{}"), &mut headers);
            }
        }
        Ok(headers)
    }
}

/// A header value: as it is when a header can carry it, else as `=?base64?…?=`.
fn encoded(text: &str) -> HeaderValue {
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && text.trim_ascii() == text
        && !(text.starts_with("=?base64?") && text.ends_with("?="));
    let value = if plain {
        HeaderValue::from_str(text)
    } else {
        HeaderValue::from_str(&format!("=?base64?{}?=", BASE64_STANDARD.encode(text)))
    };
    // Both forms are visible ASCII and spaces, which a header can always carry.
    value.unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Which arguments of which tools travel in headers too.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ToolHeaders(HashMap<String, Vec<(HeaderName, Vec<String>)>>);

impl ToolHeaders {
    /// Reads one tool of a list. A tool whose annotations are not valid gets no headers: the revision says that such
    /// a tool is not to be offered, and its server will tell.
    pub fn learn(&mut self, tool: &RawValue) {
        let tool = tool.get();
        // Most tools have none: nothing is parsed.
        if memchr::memmem::find(tool.as_bytes(), ANNOTATION.as_bytes()).is_none() {
            return;
        }
        let Ok(tool) = serde_json::from_str::<Value>(tool) else {
            return;
        };
        let (Some(name), schema) = (tool["name"].as_str(), &tool["inputSchema"]) else {
            return;
        };
        let mut found = Vec::new();
        let mut names = HashSet::new();
        collect(schema, &mut Vec::new(), &mut |header, path| {
            if found.len() < PARAMS_MAX && names.insert(header.clone()) {
                found.push((header, path.to_vec()));
            }
        });
        if !found.is_empty() && self.0.len() < TOOLS_MAX {
            self.0.insert(name.to_owned(), found);
        }
    }

    fn add(&self, tool: &str, arguments: &str, headers: &mut HeaderMap) {
        let Some(params) = self.0.get(tool) else {
            return;
        };
        for (header, path) in params {
            if let Some(value) = value_at(arguments, path) {
                headers.insert(header.clone(), encoded(&value));
            }
        }
    }
}

/// Only what is reached through `properties` alone counts.
fn collect(schema: &Value, path: &mut Vec<String>, found: &mut impl FnMut(HeaderName, &[String])) {
    let Some(properties) = schema["properties"].as_object() else {
        return;
    };
    if path.len() >= DEPTH_MAX {
        return;
    }
    for (key, property) in properties {
        path.push(key.clone());
        let simple = ["string", "integer", "boolean"].map(Value::from);
        if let Some(name) = property[ANNOTATION].as_str()
            && simple.contains(&property["type"])
            && let Ok(header) = format!("{PARAM_PREFIX}{}", name.to_ascii_lowercase()).parse()
        {
            found(header, path);
        }
        collect(property, path, found);
        path.pop();
    }
}

/// The text of a simple argument; `None` when it is absent or `null`.
fn value_at(arguments: &str, path: &[String]) -> Option<String> {
    let (last, objects) = path.split_last()?;
    let mut raw = arguments.to_owned();
    for key in objects {
        raw = RawObject::parse(&raw).ok()?.get(key)?.to_owned();
    }
    let object = RawObject::parse(&raw).ok()?;
    let value = object.get(last)?;
    match value.as_bytes().first()? {
        b'"' => unquote(value),
        b't' | b'f' | b'-' | b'0'..=b'9' => Some(value.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn texts(headers: &HeaderMap) -> Vec<(String, String)> {
        let mut out: Vec<(String, String)> = headers
            .iter()
            .filter(|(name, _)| name.as_str().starts_with("mcp-"))
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        out.sort();
        out
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = pairs
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
        owned.collect()
    }

    #[test]
    fn a_stateless_child_gets_method_name_and_arguments_in_headers() {
        let mut tools = ToolHeaders::default();
        let tool = r#"{"name":"ü","inputSchema":{"type":"object","properties":{
            "region":{"type":"string","x-mcp-header":"Region"},
            "deep":{"type":"object","properties":{"n":{"type":"integer","x-mcp-header":"Deep-N"}}},
            "yes":{"type":"boolean","x-mcp-header":"Yes"},
            "none":{"type":"string","x-mcp-header":"None"},
            "list":{"type":"array","items":{"properties":{"x":{"type":"string","x-mcp-header":"List"}}}},
            "number":{"type":"number","x-mcp-header":"Number"},
            "bad":{"type":"string","x-mcp-header":"not a token"}}}}"#;
        tools.learn(serde_json::from_str(tool).unwrap());
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ü","arguments":
            {"region":" a","deep":{"n":42},"yes":true,"none":null,"number":1.5,"bad":"x"}}}"#;
        let call = Envelope::parse(call.as_bytes()).unwrap();
        let standing = Standing::stranger(Era::Modern);
        let headers = standing.headers_of(&call, &tools).unwrap();
        let expected = pairs(&[
            ("mcp-method", "tools/call"),
            ("mcp-name", "=?base64?w7w=?="),
            ("mcp-param-deep-n", "42"),
            ("mcp-param-region", "=?base64?IGE=?="),
            ("mcp-param-yes", "true"),
            ("mcp-protocol-version", MODERN),
        ]);
        assert_eq!(texts(&headers), expected);
    }

    #[test]
    fn a_session_era_child_gets_its_session_and_version() {
        let call = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}"#;
        let call = Envelope::parse(call).unwrap();
        let mut standing = Standing::stranger(Era::Legacy);
        let none = ToolHeaders::default();
        assert_eq!(texts(&standing.headers_of(&call, &none).unwrap()), []);
        standing.session = Some("s".to_owned());
        standing.version = Some("2025-06-18".to_owned());
        let headers = standing.headers_of(&call, &none).unwrap();
        let expected = pairs(&[
            ("mcp-protocol-version", "2025-06-18"),
            ("mcp-session-id", "s"),
        ]);
        assert_eq!(texts(&headers), expected);
        standing.session = Some("a\nb".to_owned());
        assert!(standing.headers().is_err());
    }

    #[test]
    fn what_a_header_cannot_carry_is_encoded() {
        let text = |value: &str| encoded(value).to_str().unwrap().to_owned();
        assert_eq!(text("a b~"), "a b~");
        assert_eq!(text("a\tb"), "=?base64?YQli?=");
        assert_eq!(text("=?base64?YQ==?="), "=?base64?PT9iYXNlNjQ/WVE9PT89?=");
    }
}
