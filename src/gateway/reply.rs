//! Responses of the gateway's own: JSON-RPC bodies with the status and the headers that fit.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    domain::{UnixMs, budget::Held, state::StatusWord},
    supervisor::route::Route,
    upstream::{
        EnvelopeError, Failure, INTERNAL_ERROR, INVALID_REQUEST, PARSE_ERROR, UpstreamError,
        error_message,
    },
};

use super::{
    access::Denied,
    body::{EventStream, GatewayBody, NotRead},
    cause::Cause,
};

/// A response of the gateway.
pub type Reply = Response<GatewayBody>;

/// Room for the headers of most requests: the connection reads those of its next one into the map of an answer that it
/// wrote.
const HEADERS: usize = 12;

/// A JSON body.
#[must_use]
pub fn json(status: StatusCode, body: Bytes) -> Reply {
    let mut reply = Response::new(GatewayBody::Full(Some(body)));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.reserve(HEADERS);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    reply
}

/// No body.
#[must_use]
pub fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(GatewayBody::Full(None));
    *reply.status_mut() = status;
    reply
}

/// A stream of events, not buffered by proxies on the way.
#[must_use]
pub fn events(stream: EventStream) -> Reply {
    let mut reply = Response::new(GatewayBody::Events(Box::new(stream)));
    let headers = reply.headers_mut();
    let fixed = HeaderValue::from_static;
    headers.insert(header::CONTENT_TYPE, fixed("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, fixed("no-cache"));
    headers.insert("x-accel-buffering", fixed("no"));
    reply
}

/// A JSON-RPC error with this status; `id` is raw JSON.
#[must_use]
pub fn error(status: StatusCode, id: &str, code: i64, text: &str) -> Reply {
    json(status, error_message(id, code, text, None))
}

/// A request that is refused before its id is known.
#[must_use]
pub fn refused(status: StatusCode, text: &str) -> Reply {
    error(status, "null", INVALID_REQUEST, text)
}

/// Who may not enter.
#[must_use]
pub fn denied(denied: &Denied) -> Reply {
    let status = match denied {
        Denied::NoToken | Denied::WrongToken => StatusCode::UNAUTHORIZED,
        Denied::Host | Denied::Origin => StatusCode::FORBIDDEN,
    };
    let mut reply = refused(status, denied.sentence());
    let challenge = match denied {
        Denied::NoToken => Some("Bearer realm=\"minimcp\""),
        Denied::WrongToken => Some("Bearer realm=\"minimcp\", error=\"invalid_token\""),
        Denied::Host | Denied::Origin => None,
    };
    if let Some(challenge) = challenge {
        let challenge = HeaderValue::from_static(challenge);
        reply
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    Cause::from(denied).mark(reply)
}

/// A session that is not there, or not for this token. `id` is raw JSON.
#[must_use]
pub fn no_such_session(id: &str) -> Reply {
    no_session(id, "This session does not exist or has ended")
}

/// A session that ended with the child of its own; `cause`: how that ended.
#[must_use]
pub fn session_ended(id: &str, cause: &str) -> Reply {
    let what = format!("This session has ended, because its MCP server is gone ({cause})");
    no_session(id, &what)
}

fn no_session(id: &str, what: &str) -> Reply {
    let text =
        format!("{what}: send 'initialize' without the header Mcp-Session-Id to begin a new one.");
    let reply = error(StatusCode::NOT_FOUND, id, INVALID_REQUEST, &text);
    Cause::NoSession.mark(reply)
}

/// Another method than the path has.
#[must_use]
pub fn not_allowed(allowed: &'static str) -> Reply {
    let mut reply = refused(
        StatusCode::METHOD_NOT_ALLOWED,
        "This method is not possible here.",
    );
    let allowed = HeaderValue::from_static(allowed);
    reply.headers_mut().insert(header::ALLOW, allowed);
    reply
}

/// The answer to a browser that asks whether a page may.
#[must_use]
pub fn preflight() -> Reply {
    let mut reply = empty(StatusCode::NO_CONTENT);
    let headers = reply.headers_mut();
    let fixed = HeaderValue::from_static;
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        fixed("POST, GET, DELETE"),
    );
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        fixed(
            "Authorization, Content-Type, Accept, Mcp-Session-Id, MCP-Protocol-Version, Mcp-Method, Mcp-Name, Last-Event-ID",
        ),
    );
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, fixed("600"));
    reply
}

/// A body that is no JSON-RPC message.
#[must_use]
pub fn not_a_message(error: &EnvelopeError) -> Reply {
    let code = match error {
        EnvelopeError::Syntax(_) => PARSE_ERROR,
        EnvelopeError::Shape(_) => INVALID_REQUEST,
    };
    self::error(StatusCode::BAD_REQUEST, "null", code, &error.to_string())
}

/// A body that was not taken.
#[must_use]
pub fn not_read(why: &NotRead, limit_bytes: usize) -> Reply {
    match why {
        NotRead::TooLarge => refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            &format!("The request body is larger than the limit of {limit_bytes} bytes."),
        ),
        NotRead::TooSlow => refused(
            StatusCode::REQUEST_TIMEOUT,
            "The request body did not come in time.",
        ),
        NotRead::Broken => refused(
            StatusCode::BAD_REQUEST,
            "The request body broke off before its end.",
        ),
    }
}

/// A JSON-RPC error that tells why the server behind the URL did not do it.
#[must_use]
pub fn failure_message(id: &str, cause: &str) -> Bytes {
    let text = format!("The MCP server behind this URL failed: {cause}");
    error_message(id, INTERNAL_ERROR, &text, None)
}

/// What [`UpstreamError`] is to a client: the answer to its call.
#[must_use]
pub fn upstream_message(id: &str, error: &UpstreamError) -> Bytes {
    error.answer(id)
}

/// The answer at a path that leads nowhere.
#[must_use]
pub fn nothing_here() -> Reply {
    refused(
        StatusCode::NOT_FOUND,
        "There is nothing at this path: the MCP endpoint is /mcp, or /TOKEN/mcp.",
    )
}

/// When to ask again for what there was no room for, in seconds.
const NO_ROOM_RETRY_S: u32 = 5;

/// Why an instance cannot take a request now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unready {
    /// It is starting, and the wake budget is over.
    Starting {
        /// How long the request waited, in milliseconds.
        waited_ms: u64,
        /// The end of the launch before, if there was one.
        failure: Option<std::sync::Arc<Failure>>,
    },
    /// There is no room for it, and the wake budget is over.
    NoRoom(std::sync::Arc<Held>),
    /// It is down, as the supervisor told.
    Down {
        /// What it is.
        word: StatusWord,
        /// Since when.
        since: UnixMs,
        /// Why.
        failure: Option<std::sync::Arc<Failure>>,
        /// When to try again, in seconds.
        retry_after_s: Option<u32>,
    },
    /// It was deleted.
    Gone,
}

/// The answer to a request that found nothing to answer it.
#[must_use]
pub fn unready(route: &Route, id: &str, unready: &Unready) -> Reply {
    Cause::from(unready).mark(unready_unmarked(route, id, unready))
}

fn unready_unmarked(route: &Route, id: &str, unready: &Unready) -> Reply {
    let name = route.slug.load();
    let (text, retry_after_s, failure) = match unready {
        Unready::Gone => {
            return refused(
                StatusCode::NOT_FOUND,
                "The instance of this access URL was deleted.",
            );
        }
        Unready::Starting { waited_ms, failure } => (
            format!(
                "The instance {name} is still starting after {} s; try again.",
                waited_ms / 1_000
            ),
            Some(2),
            failure,
        ),
        Unready::NoRoom(held) => {
            // How much of it there is on this machine is not for everyone who has an access token.
            let why = match **held {
                Held::Awake { .. } => {
                    "its owner has as many instances awake as allowed, and all are in use"
                }
                Held::OwnerMemory { .. } => {
                    "the instances of its owner use as much memory as allowed"
                }
                Held::Memory { .. } => "this machine has no memory left for it",
            };
            let text = format!("The instance {name} cannot be woken now: {why}; try again.");
            (text, Some(NO_ROOM_RETRY_S), &None)
        }
        Unready::Down {
            word,
            since,
            failure,
            retry_after_s,
        } => {
            let since = jiff::Timestamp::from_millisecond(*since)
                .map(|at| format!(" since {at:.0}"))
                .unwrap_or_default();
            let advice = match word {
                StatusWord::Expired => {
                    "its lease ran out; restore it (minimcp restore, or POST /api/v1/mcps/{id}/restore), and this URL works again"
                }
                StatusWord::Failed => {
                    "it was given up after too many failures; correct the cause and start it (minimcp start, or POST /api/v1/mcps/{id}/start)"
                }
                StatusWord::Stopped => {
                    "start it (minimcp start, or POST /api/v1/mcps/{id}/start), and this URL works again"
                }
                StatusWord::BackingOff => "it ended by itself and will be started again soon",
                _ => "try again soon",
            };
            let advice = advice.replace("{id}", &route.id.to_string());
            (
                format!("The instance {name} is {word}{since}: {advice}."),
                *retry_after_s,
                failure,
            )
        }
    };
    let (text, data): (String, Value) = match failure {
        Some(failure) => (format!("{text} Cause: {}", failure.cause), failure.data()),
        None => (text, json!({ "cause": unready.word() })),
    };
    let body = error_message(id, INTERNAL_ERROR, &text, Some(&data));
    let mut reply = json(StatusCode::SERVICE_UNAVAILABLE, body);
    if let Some(seconds) = retry_after_s {
        reply
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    reply
}

impl Unready {
    fn word(&self) -> &'static str {
        match self {
            Self::Starting { .. } => "starting",
            Self::NoRoom(held) if held.owner().is_some() => "over-budget",
            Self::NoRoom(_) => "no-memory",
            Self::Down { word, .. } => word.as_str(),
            Self::Gone => "gone",
        }
    }
}
