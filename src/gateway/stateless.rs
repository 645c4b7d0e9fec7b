//! Clients of the stateless revision (2026-07-28) in front of a child of the session era: what their requests must
//! carry, and what their answers need in addition.

use std::{borrow::Cow, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use serde_json::{Value, json};

use crate::upstream::{
    Completion, Envelope, Handshake, INVALID_PARAMS, METHOD_NOT_FOUND, MODERN, RawObject, Word,
    error_message, splice_text, unquote, unquoted,
};

use super::{Place, VERSION_HEADER, session::ClientTraits};

const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

static METHOD_HEADER: HeaderName = HeaderName::from_static("mcp-method");
static NAME_HEADER: HeaderName = HeaderName::from_static("mcp-name");

/// MCP: a header is missing, or differs from the body.
const HEADER_MISMATCH: i64 = -32_020;
/// MCP: the protocol version is not supported.
const UNSUPPORTED_VERSION: i64 = -32_022;

/// Whether a message without a session speaks the stateless revision, or a later one.
#[must_use]
pub fn is_stateless(headers: &HeaderMap, body: &[u8], envelope: &Envelope<'_>) -> bool {
    static VERSION_IN_META: Word = Word::new(META_VERSION);
    let version = headers.get(&VERSION_HEADER);
    version.is_some_and(|version| version.as_bytes() >= MODERN.as_bytes())
        || envelope.method() == "server/discover"
        || VERSION_IN_META.is_in(body)
}

/// A refusal: status, JSON-RPC code, sentence and data.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    status: StatusCode,
    code: i64,
    text: String,
    data: Option<Value>,
}

impl Refusal {
    /// The headers say something else than the body, in this sentence.
    #[must_use]
    pub fn mismatch(text: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, HEADER_MISMATCH, text)
    }

    fn new(status: StatusCode, code: i64, text: impl Into<String>) -> Self {
        Self {
            status,
            code,
            text: text.into(),
            data: None,
        }
    }

    /// As a response to the request with this raw id.
    #[must_use]
    pub fn reply(&self, id: &str) -> super::reply::Reply {
        let body = error_message(id, self.code, &self.text, self.data.as_ref());
        super::reply::json(self.status, body)
    }
}

/// What a request of the stateless revision tells of its client.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The least severe log message that it wants.
    pub log_level: Option<String>,
    /// What it can be asked.
    pub traits: ClientTraits,
}

/// Checks what every request of the stateless revision must carry.
///
/// # Errors
/// [`Refusal`], with the status and code that the revision gives.
pub fn check(headers: &HeaderMap, envelope: &Envelope<'_>) -> Result<Told, Refusal> {
    let mismatch = Refusal::mismatch;
    let invalid = |text: String| Refusal::new(StatusCode::BAD_REQUEST, INVALID_PARAMS, text);
    let header = |key: &HeaderName, name: &'static str| {
        let value = headers
            .get(key)
            .ok_or_else(|| mismatch(format!("the header {name} is missing")))?;
        let text = value
            .to_str()
            .map_err(|_| mismatch(format!("the header {name} is not ASCII")))?;
        decoded(text).ok_or_else(|| mismatch(format!("the header {name} is not valid base64")))
    };
    let params = envelope
        .parameters()
        .map_err(|error| invalid(error.to_string()))?;
    let meta = envelope
        .meta()
        .map_err(|error| invalid(error.to_string()))?;
    let meta = |key| meta.and_then(|meta| meta.get(key));

    let version = header(&VERSION_HEADER, "MCP-Protocol-Version")?;
    let told = meta(META_VERSION)
        .and_then(unquoted)
        .ok_or_else(|| invalid(format!("params._meta has no \"{META_VERSION}\"")))?;
    if version != told {
        return Err(mismatch(format!(
            "the header MCP-Protocol-Version is {version:?}, params._meta says {told:?}"
        )));
    }
    if told != MODERN {
        return Err(Refusal {
            data: Some(json!({"supported": [MODERN], "requested": told})),
            ..Refusal::new(
                StatusCode::BAD_REQUEST,
                UNSUPPORTED_VERSION,
                format!("protocol version {told:?} is not supported without a session"),
            )
        });
    }
    let method = header(&METHOD_HEADER, "Mcp-Method")?;
    if method != envelope.method() {
        return Err(mismatch(format!(
            "the header Mcp-Method is {method:?}, the body says {:?}",
            envelope.method()
        )));
    }
    let named_by = match envelope.method() {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" => Some("uri"),
        _ => None,
    };
    if let Some(key) = named_by {
        let name = params
            .get(key)
            .and_then(unquoted)
            .ok_or_else(|| invalid(format!("params has no text \"{key}\"")))?;
        if header(&NAME_HEADER, "Mcp-Name")? != name {
            return Err(mismatch(format!(
                "the header Mcp-Name differs from params.{key}"
            )));
        }
    }
    let capabilities = meta(META_CAPABILITIES);
    if envelope.id.is_some() && capabilities.is_none() {
        return Err(invalid(format!(
            "params._meta has no \"{META_CAPABILITIES}\""
        )));
    }
    let is_gone = matches!(
        envelope.method(),
        "initialize"
            | "ping"
            | "logging/setLevel"
            | "resources/subscribe"
            | "resources/unsubscribe"
    );
    if is_gone {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            METHOD_NOT_FOUND,
            format!("{} does not exist in revision {MODERN}", envelope.method()),
        ));
    }
    Ok(Told {
        log_level: meta(META_LOG_LEVEL).and_then(unquote),
        traits: ClientTraits::declared(capabilities.unwrap_or("{}")),
    })
}

/// Header values that are not plain ASCII come as `=?base64?…?=`.
#[must_use]
pub fn decoded(text: &str) -> Option<Cow<'_, str>> {
    let Some(inner) = text
        .strip_prefix("=?base64?")
        .and_then(|rest| rest.strip_suffix("?="))
    else {
        return Some(Cow::Borrowed(text));
    };
    String::from_utf8(BASE64_STANDARD.decode(inner).ok()?)
        .ok()
        .map(Cow::Owned)
}

/// What an answer of a session-era child needs in addition for a stateless client.
pub struct Finish {
    completion: Completion,
    /// Who learns from it, when it is a list of tools.
    learns: Option<Arc<Place>>,
    status: StatusCode,
}

impl Finish {
    /// For the answer to this method.
    #[must_use]
    pub(super) fn new(handshake: Arc<Handshake>, method: &str, place: &Arc<Place>) -> Self {
        Self {
            completion: Completion::new(handshake, method),
            learns: (method == "tools/list").then(|| place.clone()),
            status: StatusCode::OK,
        }
    }

    /// For an answer that came completed: only what is learnt from it is left.
    pub(super) fn learn(&self, answer: &[u8]) {
        if let Some(place) = &self.learns {
            place.param_headers.learn(answer);
        }
    }

    /// The HTTP status for the last answer applied, when it comes alone.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The answer as the client must get it; `id` is the raw id of a later try, when the answer may still have that
    /// of an earlier one. An answer that cannot be read stays as it is.
    #[must_use]
    pub fn apply(&mut self, answer: Bytes, id: Option<&str>) -> Bytes {
        self.learn(&answer);
        // It was parsed when it came from the server.
        let members = str::from_utf8(&answer).map(RawObject::of_checked);
        let Ok(Ok(members)) = members else {
            return answer;
        };
        // Of the text of the answer, so that its place in it is known.
        let member = |key: &str| match members.0.iter().find(|(known, _)| known == key) {
            Some((_, Cow::Borrowed(raw))) => Some(*raw),
            _ => None,
        };
        let mut edits: Vec<(&str, Cow<'_, str>)> = Vec::with_capacity(2);
        if let (Some(told), Some(id)) = (member("id"), id)
            && told != id
        {
            edits.push((told, id.into()));
        }
        if let Some(result) = member("result") {
            if let Ok(finished) = self.completion.complete(result) {
                edits.push((result, finished.into()));
            }
        } else if let Some(raw) = member("error")
            && let Ok(mut error) = RawObject::of_checked(raw)
        {
            match error.get("code") {
                Some("-32601") => self.status = StatusCode::NOT_FOUND,
                Some("-32021") => self.status = StatusCode::BAD_REQUEST,
                Some("-32002") => {
                    // "Resource not found" has no code of its own any more.
                    error.set("code", INVALID_PARAMS.to_string());
                    edits.push((raw, error.to_json().into()));
                }
                _ => {}
            }
        }
        if edits.is_empty() {
            return answer;
        }
        let mut edits: Vec<(&str, &str)> =
            edits.iter().map(|(part, text)| (*part, &**text)).collect();
        splice_text(&answer, &mut edits).into()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::upstream::Era;

    fn checked(headers: &[(&'static str, &str)], body: &Value) -> Result<Told, (u16, i64)> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let text = body.to_string();
        check(&map, &Envelope::parse(text.as_bytes()).unwrap())
            .map_err(|refusal| (refusal.status.as_u16(), refusal.code))
    }

    fn body(method: &str, version: &str) -> Value {
        json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": "é", "_meta": {
            META_VERSION: version, META_CAPABILITIES: {"sampling": {}}, META_LOG_LEVEL: "info"
        }}})
    }

    #[test]
    fn a_good_request_passes_and_tells_its_log_level() {
        let headers = [
            ("mcp-protocol-version", MODERN),
            ("mcp-method", "tools/call"),
            ("mcp-name", "=?base64?w6k=?="),
        ];
        let passed = checked(&headers, &body("tools/call", MODERN));
        let told = Told {
            log_level: Some("info".to_owned()),
            traits: ClientTraits {
                sampling: true,
                ..ClientTraits::default()
            },
        };
        assert_eq!(passed, Ok(told));
        assert_eq!(
            checked(&headers[..2], &body("tools/call", MODERN)),
            Err((400, HEADER_MISMATCH))
        );
        assert_eq!(
            checked(&headers[..1], &body("tools/call", MODERN)),
            Err((400, HEADER_MISMATCH))
        );
        assert_eq!(
            checked(&headers, &body("tools/list", MODERN)),
            Err((400, HEADER_MISMATCH))
        );
        assert_eq!(
            checked(&headers, &body("tools/call", "2099-01-01")),
            Err((400, HEADER_MISMATCH))
        );
    }

    #[test]
    fn other_faults_have_their_own_codes() {
        let headers = |version: &'static str, method: &'static str| {
            [("mcp-protocol-version", version), ("mcp-method", method)]
        };
        assert_eq!(
            checked(
                &headers("2099-01-01", "tools/list"),
                &body("tools/list", "2099-01-01")
            ),
            Err((400, UNSUPPORTED_VERSION))
        );
        assert_eq!(
            checked(&headers(MODERN, "ping"), &body("ping", MODERN)),
            Err((404, METHOD_NOT_FOUND))
        );
        let bare = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
        assert_eq!(
            checked(&headers(MODERN, "tools/list"), &bare),
            Err((400, INVALID_PARAMS))
        );
    }

    #[test]
    fn answers_are_completed() {
        let raw = r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"n","version":"1"}}"#;
        let handshake = Arc::new(Handshake::read(Era::Legacy, raw).unwrap());
        let finish = || Finish {
            completion: Completion::new(handshake.clone(), "tools/list"),
            learns: None,
            status: StatusCode::OK,
        };
        let listed = r#"{"jsonrpc":"2.0","id":"a","result":{"tools":[]}}"#;
        let answer = finish().apply(listed.into(), None);
        assert_eq!(
            answer,
            r#"{"jsonrpc":"2.0","id":"a","result":{"tools":[],"resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"n","version":"1"}}}}"#
        );
        let error = |code: i64| error_message("1", code, "m", None);
        for (code, status) in [(-32_601, 404), (-32_021, 400), (-1, 200)] {
            let mut finish = finish();
            assert_eq!(finish.apply(error(code), Some("1")), error(code));
            assert_eq!(finish.status().as_u16(), status);
        }
        assert_eq!(finish().apply(error(-32_002), None), error(-32_602));
        let later = finish().apply(error(-1), Some("\"b\""));
        assert_eq!(later, error_message("\"b\"", -1, "m", None));
    }
}
