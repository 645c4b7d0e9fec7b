//! From a request to a WebSocket (RFC 6455): the handshake, whose page asks, and where its token is.
//!
//! A page cannot set headers for a WebSocket, so it sends its token as Kubernetes has it: as one of the subprotocols that
//! it offers, in base64url. In the URL it would end up in logs and histories.

use axum::{
    body::Body,
    extract::{FromRef, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use base64::Engine as _;
use http::{HeaderMap, HeaderValue, Request, header, request::Parts};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::server::create_response_with_body,
        protocol::{Role, WebSocketConfig},
    },
};
use tracing::Instrument;
use zeroize::Zeroizing;

use super::{
    AppState,
    error::{ApiError, Code},
    serve::Connection,
};

/// The subprotocol of the event stream; what the handshake selects if it is offered.
pub const EVENTS_PROTOCOL: &str = "events.v1.minimcp";
/// Before the administrator token in base64url without padding, as a further subprotocol; never selected.
pub const BEARER_PREFIX: &str = "base64url.bearer.authorization.minimcp.";

/// Longest message that a client may send, in bytes: it has nothing to say but pings.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// What is read and written at once, in bytes; each socket has these buffers.
const BUFFER_BYTES: usize = 4 << 10;
/// Most bytes that wait for a client that does not read: one event and answers to its pings.
const UNSENT_BYTES_MAX: usize = 1 << 20;

/// An open WebSocket.
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Whether a request wants to become a WebSocket.
#[must_use]
pub fn is_wanted(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE);
    upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The subprotocols that are offered.
fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

/// The token among the subprotocols; `None`: there is none, or more than one, or it is not base64url of a text.
#[must_use]
pub fn token(headers: &HeaderMap) -> Option<Zeroizing<String>> {
    let mut tokens = offered(headers).filter_map(|name| name.strip_prefix(BEARER_PREFIX));
    let (Some(encoded), None) = (tokens.next(), tokens.next()) else {
        return None;
    };
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded);
    let bytes = Zeroizing::new(bytes.ok()?);
    Some(Zeroizing::new(std::str::from_utf8(&bytes).ok()?.to_owned()))
}

/// What the handshake selects. `Ok(None)`: nothing is offered, as by programs that send their token as a header.
fn selected(headers: &HeaderMap) -> Result<Option<HeaderValue>, ApiError> {
    let mut names = offered(headers).peekable();
    if names.peek().is_none() {
        return Ok(None);
    }
    if names.any(|name| name == EVENTS_PROTOCOL) {
        return Ok(Some(HeaderValue::from_static(EVENTS_PROTOCOL)));
    }
    Err(ApiError::new(
        Code::InvalidHeader,
        format!(
            "Sec-WebSocket-Protocol must offer {EVENTS_PROTOCOL}; it may offer others beside it"
        ),
    ))
}

/// Browsers apply no CORS to WebSockets, so the same rule is applied here: a page of this address may ask, and those of
/// `allowed` (`api.cors_origins`). Programs send no `Origin`.
fn may_ask(headers: &HeaderMap, allowed: &[String]) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let origin = match (origins.next(), origins.next()) {
        (None, _) => return true,
        (Some(origin), None) => origin.to_str().ok(),
        (Some(_), Some(_)) => None,
    };
    if allowed.iter().any(|one| one == "*") {
        return true;
    }
    let Some(origin) = origin else {
        return false;
    };
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    // The scheme is not compared: behind a proxy with TLS ours is another one.
    let own = origin.split_once("://").map(|(_, authority)| authority);
    allowed.iter().any(|one| one == origin)
        || own.is_some_and(|own| host.is_some_and(|host| host.eq_ignore_ascii_case(own)))
}

/// A request that is fit to become a WebSocket.
pub struct Handshake {
    upgrade: OnUpgrade,
    connection: Connection,
    answer: Response,
}

impl Handshake {
    /// Answers with 101 and runs `work` on the socket, as a part of its connection.
    pub fn accept<F>(self, work: impl FnOnce(Socket) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send,
    {
        let upgrade = self.upgrade;
        let serving = async move {
            let upgraded = match upgrade.await {
                Ok(upgraded) => TokioIo::new(upgraded),
                Err(error) => {
                    return tracing::debug!("a connection ended before its upgrade: {error}");
                }
            };
            let config = WebSocketConfig::default()
                .read_buffer_size(BUFFER_BYTES)
                .write_buffer_size(BUFFER_BYTES)
                .max_write_buffer_size(UNSENT_BYTES_MAX)
                .max_message_size(Some(MESSAGE_BYTES_MAX))
                .max_frame_size(Some(MESSAGE_BYTES_MAX));
            work(Socket::from_raw_socket(upgraded, Role::Server, Some(config)).await).await;
        };
        self.connection.go_on(serving.in_current_span());
        self.answer
    }

    fn of(parts: &mut Parts, allowed: &[String]) -> Result<Self, ApiError> {
        if !may_ask(&parts.headers, allowed) {
            return Err(ApiError::new(
                Code::Forbidden,
                "pages of this origin may not open the stream; the operator lists those that may in api.cors_origins",
            ));
        }
        let mut asked = Request::new(());
        *asked.method_mut() = parts.method.clone();
        *asked.version_mut() = parts.version;
        asked.headers_mut().clone_from(&parts.headers);
        let mut answer = create_response_with_body(&asked, Body::empty).map_err(|error| {
            ApiError::new(Code::InvalidHeader, format!("no WebSocket: {error}"))
        })?;
        if let Some(protocol) = selected(&parts.headers)? {
            let headers = answer.headers_mut();
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        let connection = parts.extensions.get::<Connection>().cloned();
        let (Some(upgrade), Some(connection)) = (upgrade, connection) else {
            return Err(ApiError::new(
                Code::BadRequest,
                "this connection cannot become a WebSocket",
            ));
        };
        Ok(Self {
            upgrade,
            connection,
            answer,
        })
    }
}

impl<S> OptionalFromRequestParts<S> for Handshake
where
    S: Send + Sync,
    AppState: FromRef<S>,
{
    type Rejection = Response;

    /// `None`: a usual request.
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Response> {
        if !is_wanted(&parts.headers) {
            return Ok(None);
        }
        let state = AppState::from_ref(state);
        Self::of(parts, &state.config.cors_origins)
            .map(Some)
            // The version that there is, for who asked for another one (RFC 6455, section 4.4).
            .map_err(|error| ([(header::SEC_WEBSOCKET_VERSION, "13")], error).into_response())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(http::HeaderName, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name, value.parse().expect("a header value"));
        }
        map
    }

    #[test]
    fn a_page_may_ask_from_here_or_from_where_the_operator_says() {
        let listed = ["https://app.example.com".to_owned()];
        let ask = |origins: &[&str], allowed: &[String]| {
            let mut pairs = vec![(header::HOST, "mcp.example.com:7420")];
            pairs.extend(origins.iter().map(|origin| (header::ORIGIN, *origin)));
            may_ask(&headers(&pairs), allowed)
        };
        for (origins, right) in [
            (&[][..], true),
            (&["https://app.example.com"], true),
            (&["http://mcp.example.com:7420"], true),
            (&["https://MCP.example.com:7420"], true),
            (&["http://mcp.example.com"], false),
            (&["http://mcp.example.com:74200"], false),
            (&["http://app.example.com"], false),
            (&["https://app.example.com.evil.example"], false),
            (&["https://evil.example"], false),
            (&["null"], false),
            (&[""], false),
            (&["https://app.example.com", "https://evil.example"], false),
        ] {
            assert_eq!(ask(origins, &listed), right, "{origins:?}");
        }
        assert!(ask(&["https://evil.example"], &["*".to_owned()]));
        assert!(!ask(&["https://app.example.com"], &[]));
        // Nothing is its own origin where no host is named.
        let nameless = headers(&[(header::ORIGIN, "http://")]);
        assert!(!may_ask(&nameless, &listed));
    }

    #[test]
    fn the_token_is_one_of_the_offers_and_never_the_one_selected() {
        let of = |values: &[&str]| {
            let pairs: Vec<_> = values
                .iter()
                .map(|value| (header::SEC_WEBSOCKET_PROTOCOL, *value))
                .collect();
            headers(&pairs)
        };
        let bearer = format!("{BEARER_PREFIX}bW1jcF9hZG1pbl9h");
        let both = format!("{EVENTS_PROTOCOL},{bearer}");
        for right in [&[both.as_str()][..], &[EVENTS_PROTOCOL, &bearer]] {
            let right = of(right);
            assert_eq!(token(&right).expect("a token").as_str(), "mmcp_admin_a");
            let selected = selected(&right).expect("it is offered").expect("something");
            assert_eq!(selected, EVENTS_PROTOCOL);
        }
        assert!(selected(&of(&[&bearer])).is_err(), "a token alone");
        assert!(selected(&of(&["soap, wamp"])).is_err());
        assert_eq!(selected(&of(&[])).expect("nothing is offered"), None);
        assert_eq!(selected(&of(&[" , "])).expect("nothing is offered"), None);
        for bad in [
            "bW1jcF9hZG1pbl9h".to_owned(),
            format!("{BEARER_PREFIX}bW1jcF9hZG1pbl9h="),
            format!("{BEARER_PREFIX}_w"),
            format!("{bearer},{bearer}"),
        ] {
            assert!(token(&of(&[&bad])).is_none(), "{bad}");
        }
    }
}
