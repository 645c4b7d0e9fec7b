//! A server elsewhere: what is sent to it, and what the heads of its answers mean before anybody reads them as MCP.
//!
//! Its credentials go to its own origin alone: a redirection is followed within it and nowhere else. What only concerns
//! the two of us (a refused credential, a page instead of MCP) becomes an error in words, so that no client takes it for
//! a word about its access URL.

use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
    uri::{Parts, PathAndQuery},
};
use http_body_util::Full;
use hyper::body::Incoming;
use rustls::ClientConfig;
use tokio::time::timeout;

use super::{
    HttpLink, UpstreamError,
    http::describe,
    http_headers::{SESSION, Standing},
    remote_connect::Dial,
};
use std::sync::Arc;

/// How many redirections are followed for one request.
const REDIRECTS_MAX: usize = 3;
/// How long the end of our session may take to be told.
const GOODBYE: Duration = Duration::from_secs(2);

/// A server elsewhere.
pub struct RemoteServer {
    /// `http` or `https`, with host and path. May hold a secret in its path or query.
    pub url: Uri,
    /// Sent with every request. Values that hold secrets are marked as sensitive.
    pub headers: HeaderMap,
    /// What it is asked with, in words, such as `the credential work (NOTION_TOKEN)`; empty: nothing.
    pub credentials: String,
    /// Makes connections to its host.
    pub dial: Dial,
    /// What TLS trusts.
    pub tls: Arc<ClientConfig>,
}

/// A server elsewhere, as its link knows it.
pub(super) struct Remote {
    /// As it was given, or where it sent us within its own origin.
    url: ArcSwap<Uri>,
    headers: HeaderMap,
    credentials: String,
}

/// What the head of an answer means.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// It is for whoever asked.
    Pass,
    /// It is elsewhere in the same origin.
    Follow(Uri),
    /// It is not: why, and what to do.
    Refuse(String),
}

impl Remote {
    pub(super) fn new(server: &RemoteServer) -> Self {
        let mut headers = server.headers.clone();
        headers
            .entry(header::USER_AGENT)
            .or_insert(HeaderValue::from_static(concat!(
                "minimcp/",
                env!("CARGO_PKG_VERSION")
            )));
        Self {
            url: ArcSwap::from_pointee(server.url.clone()),
            headers,
            credentials: server.credentials.clone(),
        }
    }

    /// The host and port, which hold no secret.
    fn host(&self) -> String {
        let url = self.url.load();
        url.authority().map(ToString::to_string).unwrap_or_default()
    }

    fn request(&self, method: &Method, headers: &HeaderMap, body: &Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = Uri::clone(&self.url.load());
        *request.headers_mut() = headers.clone();
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        request
    }

    fn judge(&self, method: &Method, has_session: bool, head: &Response<Incoming>) -> Verdict {
        let asked = Asked {
            method,
            has_session,
            url: &self.url.load(),
            credentials: &self.credentials,
        };
        asked.judge(head.status(), head.headers())
    }
}

impl HttpLink {
    /// As [`HttpLink::exchange`], with a server elsewhere.
    pub(super) async fn exchange_elsewhere(
        &self,
        remote: &Remote,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let has_session = headers.contains_key(SESSION);
        for _ in 0..=REDIRECTS_MAX {
            let sent = self
                .client
                .request(remote.request(&method, &headers, &body));
            let response = tokio::select! {
                biased;
                failure = self.failed() => return Err(UpstreamError::Failed(failure)),
                response = sent => response.map_err(|error| unreachable(&remote.host(), &error))?,
            };
            match remote.judge(&method, has_session, &response) {
                Verdict::Pass => return Ok(response),
                Verdict::Follow(url) => remote.url.store(Arc::new(url)),
                Verdict::Refuse(text) => return Err(UpstreamError::Elsewhere(text)),
            }
        }
        let text = format!(
            "the server at {} sends us from one address to the next without end; correct its URL",
            remote.host()
        );
        Err(UpstreamError::Elsewhere(text))
    }

    /// Ends our session with a server elsewhere, also when this connection has failed for everybody else.
    pub(super) async fn say_goodbye(&self, standing: &Standing) {
        if let (Some(remote), Ok(headers), true) = (
            self.remote(),
            standing.headers(),
            standing.session.is_some(),
        ) {
            let request = remote.request(&Method::DELETE, &headers, &Bytes::new());
            // Its outcome does not matter: a session that rests is forgotten.
            let _ = timeout(GOODBYE, self.client.request(request)).await;
        }
    }
}

/// A request that led to no answer.
fn unreachable(host: &str, error: &hyper_util::client::legacy::Error) -> UpstreamError {
    let cause = describe(error);
    let text = if has_bad_certificate(error) {
        format!(
            "the server at {host} is not trusted: {cause}; a certificate authority of your own belongs into remote.ca_file"
        )
    } else if error.is_connect() {
        format!("the server at {host} cannot be reached: {cause}")
    } else {
        format!("the server at {host} did not answer: {cause}")
    };
    UpstreamError::Elsewhere(text)
}

fn has_bad_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        // An io::Error is no source of itself but shows what is inside of what it wraps.
        let mut inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        while let Some(wrapped) = inner {
            if matches!(
                wrapped.downcast_ref(),
                Some(rustls::Error::InvalidCertificate(_))
            ) {
                return true;
            }
            inner = wrapped
                .downcast_ref::<std::io::Error>()
                .and_then(std::io::Error::get_ref);
        }
        next = error.source();
    }
    false
}

/// What an answer is the answer to.
struct Asked<'a> {
    method: &'a Method,
    has_session: bool,
    url: &'a Uri,
    credentials: &'a str,
}

impl Asked<'_> {
    fn judge(&self, status: StatusCode, headers: &HeaderMap) -> Verdict {
        if self.method == Method::DELETE {
            return Verdict::Pass;
        }
        let posts = self.method == Method::POST;
        let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let is = |name: &str| {
            kind.and_then(|kind| kind.get(..name.len()))
                .is_some_and(|kind| kind.eq_ignore_ascii_case(name.as_bytes()))
        };
        let is_json = is("application/json");
        let host = self.url.authority().map_or("", |host| host.as_str());
        let refuse = |text: String| Verdict::Refuse(format!("the server at {host} {text}"));
        let number = status.as_u16();
        match number {
            // Nothing has to come back for a notification, and nothing comes with 202 and 204.
            200 if posts && !is_json && !is("text/event-stream") && !is_empty(headers) => {
                let kind = kind.map_or_else(|| "something without a type".into(), |kind| {
                    String::from_utf8_lossy(&kind[..kind.len().min(80)]).into_owned()
                });
                refuse(format!(
                    "answers with {kind} where MCP has application/json or text/event-stream; is its URL that of its MCP endpoint?"
                ))
            }
            200..=299 => Verdict::Pass,
            300..=399 => match self.elsewhere(headers) {
                Some(url) if matches!(number, 307 | 308) => Verdict::Follow(url),
                Some(url) => refuse(format!(
                    "moved ({number}) within itself, to the path {}; set its URL to that",
                    url.path()
                )),
                None => refuse(format!(
                    "sends us to another host ({number}), which does not get its credentials; correct its URL if it moved"
                )),
            },
            401 if self.credentials.is_empty() => refuse(
                "wants a credential (401), and its template sends none: it needs a header with {credential.NAME}".into(),
            ),
            401 => refuse(format!(
                "refuses {} (401): store a value that is valid, and it is asked again",
                self.credentials
            )),
            403 if self.credentials.is_empty() => refuse("forbids us this (403)".into()),
            403 => refuse(format!(
                "forbids us this (403): {} may lack a right or a scope for it",
                self.credentials
            )),
            429 => refuse(match headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()) {
                Some(wait) if wait.bytes().all(|byte| byte.is_ascii_digit()) && wait.len() < 8 => {
                    format!("is asked too often (429); it wants {wait} s of rest")
                }
                _ => "is asked too often (429); wait a while".into(),
            }),
            _ if !posts => Verdict::Pass,
            // What MCP says itself, with its own message: an error, or the end of a session.
            404 if self.has_session => Verdict::Pass,
            _ if is_json => Verdict::Pass,
            404 | 405 | 410 => refuse(format!(
                "has no MCP endpoint at its URL ({number}); correct its URL"
            )),
            500..=599 => refuse(format!(
                "has a fault of its own ({number}); it is for those who run it to mend"
            )),
            _ => refuse(format!("answered with status {number}")),
        }
    }

    /// Where it sends us to, if that is in its own origin.
    fn elsewhere(&self, headers: &HeaderMap) -> Option<Uri> {
        let to = headers.get(header::LOCATION)?.to_str().ok()?;
        let own = self.url;
        if to.starts_with('/') && !to.starts_with("//") {
            let mut parts = Parts::default();
            parts.scheme = own.scheme().cloned();
            parts.authority = own.authority().cloned();
            parts.path_and_query = Some(to.parse::<PathAndQuery>().ok()?);
            return Uri::from_parts(parts).ok();
        }
        let to: Uri = to.parse().ok()?;
        let port = |uri: &Uri| uri.port_u16().or_else(|| usual_port(uri));
        let same = to.scheme() == own.scheme()
            && to.host()?.eq_ignore_ascii_case(own.host()?)
            && port(&to) == port(own);
        same.then_some(to)
    }
}

fn usual_port(uri: &Uri) -> Option<u16> {
    match uri.scheme_str()? {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    }
}

fn is_empty(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_LENGTH)
        .is_some_and(|length| length == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(method: Method, status: u16, pairs: &[(&'static str, &str)]) -> Verdict {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().expect("a value"));
        }
        let url = Uri::from_static("https://mcp.example.com/mcp?key=secret");
        let asked = Asked {
            method: &method,
            has_session: headers.contains_key(SESSION),
            url: &url,
            credentials: "the credential work (TOKEN)",
        };
        asked.judge(StatusCode::from_u16(status).expect("a status"), &headers)
    }

    fn refusal(method: Method, status: u16, pairs: &[(&'static str, &str)]) -> String {
        match judged(method, status, pairs) {
            Verdict::Refuse(text) => {
                assert!(!text.contains("secret"), "{text}");
                text
            }
            other => panic!("{status} {pairs:?}: {other:?}"),
        }
    }

    #[test]
    fn what_is_mcp_passes() {
        let (json, events) = ("application/json; charset=utf-8", "Text/Event-Stream");
        for (method, status, pairs) in [
            (Method::POST, 200, vec![("content-type", json)]),
            (Method::POST, 200, vec![("content-type", events)]),
            (Method::POST, 200, vec![("content-length", "0")]),
            (Method::POST, 202, vec![]),
            (Method::POST, 400, vec![("content-type", json)]),
            (Method::POST, 404, vec![("content-type", json)]),
            (Method::POST, 404, vec![(SESSION, "s")]),
            (Method::POST, 500, vec![("content-type", json)]),
            (Method::GET, 405, vec![]),
            (Method::GET, 200, vec![("content-type", events)]),
            (Method::DELETE, 401, vec![]),
        ] {
            let verdict = judged(method.clone(), status, &pairs);
            assert_eq!(verdict, Verdict::Pass, "{method} {status} {pairs:?}");
        }
    }

    #[test]
    fn what_concerns_the_two_of_us_is_told_with_what_to_do() {
        for (method, status, pairs, words) in [
            (
                Method::POST,
                200,
                vec![("content-type", "text/html")],
                "text/html",
            ),
            (Method::POST, 200, vec![], "without a type"),
            (Method::POST, 401, vec![], "the credential work (TOKEN)"),
            (Method::GET, 401, vec![], "the credential work (TOKEN)"),
            (
                Method::POST,
                403,
                vec![("content-type", "application/json")],
                "scope",
            ),
            (Method::POST, 404, vec![], "correct its URL"),
            (Method::POST, 405, vec![], "correct its URL"),
            (Method::POST, 418, vec![], "status 418"),
            (Method::POST, 429, vec![("retry-after", "30")], "30 s"),
            (
                Method::POST,
                429,
                vec![("retry-after", "x<script>")],
                "wait a while",
            ),
            (Method::POST, 503, vec![], "fault of its own"),
        ] {
            let text = refusal(method, status, &pairs);
            assert!(text.contains(words), "{status}: {text}");
            assert!(text.contains("mcp.example.com"), "{text}");
        }
    }

    #[test]
    fn a_redirection_is_followed_within_the_origin_alone() {
        let to = |status, location: &str| judged(Method::POST, status, &[("location", location)]);
        for location in ["/mcp/", "https://MCP.example.com:443/mcp/"] {
            let verdict = to(308, location);
            let Verdict::Follow(url) = &verdict else {
                panic!("{location}: {verdict:?}");
            };
            assert_eq!(url.path(), "/mcp/");
        }
        let text = refusal(Method::POST, 302, &[("location", "/mcp/?key=secret")]);
        assert!(text.contains("/mcp/"), "{text}");
        for location in [
            "//evil.example.com/mcp",
            "https://evil.example.com/mcp",
            "http://mcp.example.com/mcp",
            "https://mcp.example.com:8443/mcp",
            "https://mcp.example.com@evil.example.com/mcp",
            "nonsense",
        ] {
            let text = refusal(Method::POST, 307, &[("location", location)]);
            assert!(text.contains("another host"), "{location}: {text}");
        }
        let text = refusal(Method::POST, 307, &[]);
        assert!(text.contains("another host"), "{text}");
    }
}
