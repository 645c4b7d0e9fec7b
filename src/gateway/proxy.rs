//! HTTP children in front of clients of their own era: requests go through, responses stream back unread.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use tokio::time::timeout;

use crate::{
    domain::id::Generation,
    upstream::{Failure, HttpLink, RelayedCall, Upstream, UpstreamError},
};

use super::{
    Gateway, Place, Reply, SESSION_HEADER,
    body::{GatewayBody, Relayed},
    no_such_session, reply,
};

/// How long a broken connection to a child waits for the supervisor to tell why.
const CAUSE_WAIT: Duration = Duration::from_secs(2);
/// Most sessions of one HTTP child that are remembered.
const RELAYED_SESSIONS_MAX: usize = 4_096;

/// Headers that belong to one hop (RFC 9110 section 7.6.1), or to us: the access token must not reach the child, and
/// `Host` and `Origin` were checked here.
const NOT_RELAYED: [HeaderName; 17] = [
    header::AUTHORIZATION,
    // An answer may have to be read here; over loopback nothing is gained by packing it.
    header::ACCEPT_ENCODING,
    header::HOST,
    header::ORIGIN,
    header::COOKIE,
    header::SET_COOKIE,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::REFERER,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::FORWARDED,
    header::EXPECT,
];

fn relayed(headers: &HeaderMap) -> HeaderMap {
    let named_by_connection: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let mut out = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let text = name.as_str();
        let ours = NOT_RELAYED.contains(name)
            || text == "keep-alive"
            || text.starts_with("x-forwarded-")
            || text.starts_with("access-control-")
            || named_by_connection.iter().any(|named| named == text);
        if !ours {
            out.append(name.clone(), value.clone());
        }
    }
    out
}

/// What goes on to a server elsewhere, and comes back from it: the headers of MCP and no others. A stranger gets nothing
/// that a client says of itself, and says nothing to it about a host that is not its own.
fn relayed_elsewhere(headers: &HeaderMap) -> HeaderMap {
    const ALSO: [HeaderName; 4] = [
        header::ACCEPT,
        header::CONTENT_TYPE,
        header::CACHE_CONTROL,
        HeaderName::from_static("last-event-id"),
    ];
    let ours = |name: &HeaderName| ALSO.contains(name) || name.as_str().starts_with("mcp-");
    let kept = headers.iter().filter(|(name, _)| ours(name));
    kept.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn relayed_by(link: &HttpLink, headers: &HeaderMap) -> HeaderMap {
    if link.is_remote() {
        relayed_elsewhere(headers)
    } else {
        relayed(headers)
    }
}

/// The sessions that an HTTP child opened for clients, by the launch that knows them: they end with it, but not every
/// server says so in the way of the specification, which is what makes a client begin anew.
#[derive(Default)]
pub struct RelayedSessions {
    hasher: RandomState,
    known: Mutex<HashMap<u64, Generation>>,
}

impl RelayedSessions {
    fn known(&self) -> MutexGuard<'_, HashMap<u64, Generation>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, session: &HeaderValue, generation: Generation) {
        let mut known = self.known();
        if known.len() >= RELAYED_SESSIONS_MAX {
            known.retain(|_, of| *of == generation);
        }
        if known.len() >= RELAYED_SESSIONS_MAX {
            // What is forgotten is only answered by the child alone.
            known.clear();
        }
        known.insert(self.hasher.hash_one(session), generation);
    }

    /// Whether a session is known to be of another launch than this.
    fn is_of_another(&self, session: &HeaderValue, generation: Generation) -> bool {
        let known = self.known();
        known
            .get(&self.hasher.hash_one(session))
            .is_some_and(|of| *of != generation)
    }
}

impl Gateway {
    /// Relays one request. `answers`: the raw id of the JSON-RPC request inside, if it is one.
    pub(super) async fn relay(
        &self,
        place: &Arc<Place>,
        parts: &Parts,
        body: Bytes,
        answers: Option<Box<str>>,
    ) -> Reply {
        let id = answers.as_deref().unwrap_or("null");
        let mut failed = None;
        loop {
            let (upstream, generation) = match self.ready_after(place, failed.take()).await {
                Ok(ready) => ready,
                Err(unready) => return reply::unready(&place.route, id, &unready),
            };
            let Some(link) = upstream.http() else {
                return reply::refused(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "The server changed its transport; try again.",
                );
            };
            if let Some(failure) = link.failure() {
                // It was gone before this request: the next launch may take it.
                failed = Some((generation, failure));
                continue;
            }
            let counted = match answers.as_ref().map(|_| link.begin_relayed()).transpose() {
                Ok(counted) => counted,
                Err(full) => return reply::json(failure_status(&answers), full.answer(id)),
            };
            let headers = relayed_by(link, &parts.headers);
            let sent = link.exchange(parts.method.clone(), headers, body.clone());
            // A response head may take as long as a call: a child that answers JSON sends nothing before.
            let limit = upstream.options().call_timeout;
            let response = match timeout(limit, sent).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => match with_cause(link, error).await {
                    // Nobody listens any more: nothing of this request has happened.
                    (UpstreamError::NotListening(_), Some(failure)) => {
                        failed = Some((generation, failure));
                        continue;
                    }
                    (error, failure) => {
                        let error = failure.map_or(error, UpstreamError::Failed);
                        return reply::json(failure_status(&answers), error.answer(id));
                    }
                },
                Err(_) => {
                    if answers.is_some() {
                        upstream.count_overdue();
                    }
                    let text = format!("it gave no answer for {} s", limit.as_secs());
                    return reply::json(
                        failure_status(&answers),
                        reply::failure_message(id, &text),
                    );
                }
            };
            match (
                parts.headers.get(&SESSION_HEADER),
                response.headers().get(&SESSION_HEADER),
            ) {
                (None, Some(opened)) => place.relayed.opened(opened, generation),
                (Some(session), _)
                    if response.status() == StatusCode::BAD_REQUEST
                        && place.relayed.is_of_another(session, generation) =>
                {
                    return no_such_session(id);
                }
                _ => {}
            }
            return stream_back(&upstream, link, response, answers, counted);
        }
    }
}

/// A JSON-RPC error travels with 200, so that every client reads it; without a request to answer the status tells.
fn failure_status(answers: &Option<Box<str>>) -> StatusCode {
    if answers.is_some() {
        StatusCode::OK
    } else {
        StatusCode::BAD_GATEWAY
    }
}

/// Waits for the end of a child that cannot be reached.
async fn with_cause(
    link: &HttpLink,
    error: UpstreamError,
) -> (UpstreamError, Option<Arc<Failure>>) {
    let failure = match error {
        UpstreamError::Http(_) | UpstreamError::NotListening(_) => {
            timeout(CAUSE_WAIT, link.failed()).await.ok()
        }
        _ => None,
    };
    (error, failure)
}

fn stream_back(
    upstream: &Arc<Upstream>,
    link: &HttpLink,
    response: http::Response<hyper::body::Incoming>,
    answers: Option<Box<str>>,
    counted: Option<RelayedCall>,
) -> Reply {
    let (parts, incoming) = response.into_parts();
    let streams = parts
        .headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let body = Relayed::new(
        incoming,
        answers.filter(|_| streams),
        Box::pin(link.failed()),
        upstream.clone(),
        counted,
    );
    let mut reply = Reply::new(GatewayBody::Relayed(Box::new(body)));
    *reply.status_mut() = parts.status;
    *reply.headers_mut() = relayed_by(link, &parts.headers);
    if streams {
        let no = HeaderValue::from_static("no");
        reply.headers_mut().insert("x-accel-buffering", no);
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_of_an_earlier_launch_is_known_as_such() {
        let sessions = RelayedSessions::default();
        let session = HeaderValue::from_static("s");
        assert!(!sessions.is_of_another(&session, Generation(2)));
        sessions.opened(&session, Generation(1));
        assert!(!sessions.is_of_another(&session, Generation(1)));
        assert!(sessions.is_of_another(&session, Generation(2)));
        for number in 0..=RELAYED_SESSIONS_MAX {
            let other = HeaderValue::from(number);
            sessions.opened(&other, Generation(2));
        }
        assert!(sessions.known().len() <= RELAYED_SESSIONS_MAX);
        assert!(!sessions.is_of_another(&session, Generation(2)));
    }

    #[test]
    fn a_server_elsewhere_gets_the_headers_of_mcp_and_no_others() {
        let mut headers = HeaderMap::new();
        for name in [
            "accept",
            "authorization",
            "content-type",
            "cookie",
            "host",
            "last-event-id",
            "location",
            "mcp-param-region",
            "mcp-session-id",
            "set-cookie",
            "strict-transport-security",
            "user-agent",
            "www-authenticate",
            "x-api-key",
        ] {
            headers.insert(name, HeaderValue::from_static("v"));
        }
        let out = relayed_elsewhere(&headers);
        let mut names: Vec<&str> = out.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let expected = [
            "accept",
            "content-type",
            "last-event-id",
            "mcp-param-region",
            "mcp-session-id",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn what_belongs_to_one_hop_stays_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("host", "h"),
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
            ("x-forwarded-for", "1.2.3.4"),
            ("mcp-session-id", "s"),
            ("accept", "text/event-stream"),
            ("mcp-param-x", "y"),
        ] {
            headers.insert(
                HeaderName::from_static(name),
                value.parse().expect("a valid header"),
            );
        }
        let out = relayed(&headers);
        let mut names: Vec<&str> = out.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "mcp-param-x", "mcp-session-id"]);
    }
}
