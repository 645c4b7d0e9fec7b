//! The headers that a child's HTTP server demands with a message, by its era.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::value::RawValue;

use super::{
    UpstreamError,
    handshake::{Era, Handshake, MODERN, TOOLS_MAX},
    message::{Envelope, RawObject, unquote},
    param_headers::{self, ParamHeader},
    tools::ListedTool,
};

/// The session of a message.
pub const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";

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
        let Some(params) = message.params.and_then(|raw| RawObject::of(raw).ok()) else {
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

/// Which arguments of which tools travel in headers too. A tool with a fault in this has none: clients are not to use
/// it, and its server will tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ToolHeaders(BTreeMap<String, Vec<ParamHeader>>);

impl ToolHeaders {
    /// As a handshake found them.
    #[must_use]
    pub fn known(handshake: &Handshake) -> Self {
        Self(handshake.param_headers.clone())
    }

    /// Reads one tool of a list.
    pub fn learn(&mut self, tool: &RawValue) {
        let params = param_headers::of_tool(tool.get());
        let name = ListedTool::read(tool.get()).and_then(|tool| tool.name());
        if let Some(name) = name.filter(|_| !params.is_empty() && self.0.len() < TOOLS_MAX) {
            self.0.insert(name, params);
        }
    }

    fn add(&self, tool: &str, arguments: &str, headers: &mut HeaderMap) {
        for param in self.0.get(tool).into_iter().flatten() {
            let Some(raw) = param.value(arguments) else {
                continue;
            };
            let text = match raw.as_bytes().first() {
                Some(b'"') => unquote(&raw),
                Some(b't' | b'f' | b'-' | b'0'..=b'9') => Some(raw.into_owned()),
                _ => None,
            };
            if let (Some(text), Ok(name)) = (text, param.header.parse::<HeaderName>()) {
                headers.insert(name, encoded(&text));
            }
        }
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
            "number":{"type":"number"}}}}"#;
        tools.learn(serde_json::from_str(tool).unwrap());
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ü","arguments":
            {"region":" a","deep":{"n":42},"yes":true,"none":null,"number":1.5}}}"#;
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
