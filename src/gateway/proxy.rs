//! HTTP children: requests go through, responses stream back unread.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header, request::Parts};
use tokio::time::timeout;

use crate::upstream::{HttpLink, UpstreamError};

use super::{
    Gateway, Place, Reply,
    body::{GatewayBody, Relayed},
    reply,
};

/// How long a broken connection to a child waits for the supervisor to tell why.
const CAUSE_WAIT: Duration = Duration::from_secs(2);

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
            let headers = relayed(&parts.headers);
            let sent = link.exchange(parts.method.clone(), headers, body.clone());
            // A response head may take as long as a call: a child that answers JSON sends nothing before.
            let limit = upstream.options().call_timeout;
            return match timeout(limit, sent).await {
                Ok(Ok(response)) => stream_back(link, response, answers),
                Ok(Err(error)) => {
                    let error = with_cause(link, error).await;
                    reply::json(
                        failure_status(&answers),
                        reply::upstream_message(id, &error),
                    )
                }
                Err(_) => {
                    let text = format!("it gave no answer for {} s", limit.as_secs());
                    reply::json(failure_status(&answers), reply::failure_message(id, &text))
                }
            };
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

async fn with_cause(link: &HttpLink, error: UpstreamError) -> UpstreamError {
    match error {
        UpstreamError::Http(_) => match timeout(CAUSE_WAIT, link.failed()).await {
            Ok(failure) => UpstreamError::Failed(failure),
            Err(_) => error,
        },
        other => other,
    }
}

fn stream_back(
    link: &HttpLink,
    response: http::Response<hyper::body::Incoming>,
    answers: Option<Box<str>>,
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
    );
    let mut reply = Reply::new(GatewayBody::Relayed(Box::new(body)));
    *reply.status_mut() = parts.status;
    *reply.headers_mut() = relayed(&parts.headers);
    if streams {
        let no = http::HeaderValue::from_static("no");
        reply.headers_mut().insert("x-accel-buffering", no);
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

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
