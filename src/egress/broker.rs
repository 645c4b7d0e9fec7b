//! The broker: a server speaks plain HTTP with it on the loopback of its own network namespace, and the broker speaks
//! TLS with the service, with the key that the server does not hold.
//!
//! It speaks with one service, which must be among the allowed hosts. It follows no redirect, and neither a request
//! with another key nor the key in an answer passes. Of an OAuth sign-in one broker asks for access tokens and another
//! one uses them; the server has placeholders for both.

use std::{convert::Infallible, error::Error, io, sync::Arc, time::Duration};

use http::{
    Method, Request, Response, StatusCode,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, UPGRADE, WWW_AUTHENTICATE},
    request::Parts,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{net::TcpStream, sync::OnceCell};
use zeroize::Zeroizing;

use super::{
    Inner,
    broker_body::{Answered, Metered, redacted},
    broker_client::{client, is_reachable},
    broker_headers::{Offer, head_len, inward, is_encoded, outward, remove_own},
    ledger::Why,
    oauth::{NoToken, TOKEN_BODY_BYTES_MAX, Tokens, Unfit},
};
use crate::{
    domain::{
        broker::{Broker, BrokerKey, BrokerWork},
        oauth::AccessTokenForm,
    },
    secrets::Redactions,
};

/// How long a server may take to say the head of a request, and to begin the next one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest head of a request in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1_024;

/// The keys that brokers add.
#[derive(Default)]
pub struct Keys {
    /// By the variable of their credential.
    pub values: Vec<(String, Zeroizing<String>)>,
    /// All that no answer may hold.
    pub redactions: Arc<Redactions>,
}

/// One broker of one child.
pub(super) struct Desk {
    broker: Broker,
    work: Work,
    /// Made for the first request.
    client: OnceCell<reqwest::Client>,
}

/// What it puts into requests.
enum Work {
    /// Or why there are none; and what no answer may hold.
    Keys(Result<Vec<Offer>, String>, Arc<Redactions>),
    Refresh(Arc<Tokens>, AccessTokenForm),
    AccessTokens(Arc<Tokens>, AccessTokenForm),
}

/// The brokers of one child. Those of a sign-in share its tokens.
pub(super) fn desks(brokers: &[Broker], keys: &Keys) -> Vec<Arc<Desk>> {
    let works = || brokers.iter().map(|broker| &broker.work);
    let grant = works().find_map(|work| match work {
        BrokerWork::Refresh(grant) => Some(Arc::new(Tokens::new(grant, keys))),
        _ => None,
    });
    let form = works().find_map(|work| match work {
        BrokerWork::AccessTokens(form) => Some(form.clone()),
        _ => None,
    });
    let sign_in = grant.zip(form);
    let desk = |broker: &Broker| {
        let work = match (&broker.work, &sign_in) {
            (BrokerWork::Keys(own), _) => Work::Keys(
                own.iter().map(|key| offer(key, keys)).collect(),
                Arc::clone(&keys.redactions),
            ),
            (BrokerWork::Refresh(_), Some((tokens, form))) => {
                Work::Refresh(Arc::clone(tokens), form.clone())
            }
            (BrokerWork::AccessTokens(_), Some((tokens, form))) => {
                Work::AccessTokens(Arc::clone(tokens), form.clone())
            }
            // One without the other: the child was launched by another template.
            (_, None) => return None,
        };
        Some(Arc::new(Desk {
            broker: broker.clone(),
            work,
            client: OnceCell::new(),
        }))
    };
    brokers.iter().filter_map(desk).collect()
}

/// Why a request is not passed on.
struct Fault {
    status: StatusCode,
    /// Counted as a refusal.
    why: Option<Why>,
    /// As clients of OAuth know it (RFC 6749 section 5.2, RFC 6750 section 3.1).
    oauth: Option<&'static str>,
    detail: String,
}

fn fault(status: StatusCode, detail: impl Into<String>) -> Fault {
    Fault {
        status,
        why: None,
        oauth: None,
        detail: detail.into(),
    }
}

fn oauth_fault(status: StatusCode, error: &'static str, detail: &str) -> Fault {
    Fault {
        oauth: Some(error),
        ..fault(status, detail)
    }
}

fn refused(why: Why) -> Fault {
    Fault {
        status: StatusCode::FORBIDDEN,
        why: Some(why),
        oauth: None,
        detail: why.words().to_owned(),
    }
}

impl Fault {
    fn response(&self) -> Response<Answered> {
        let detail = format!("MiniMCP's broker: {}", self.detail);
        let mut problem = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": detail,
        });
        if let Some(error) = self.oauth {
            problem["error"] = json!(error);
            problem["error_description"] = json!(detail);
        }
        let body = Full::from(problem.to_string()).map_err(|never: Infallible| match never {});
        let mut response = Response::new(BodyExt::boxed_unsync(body));
        *response.status_mut() = self.status;
        let kind = match self.oauth {
            // Some of those clients know no other type.
            Some(_) => "application/json",
            None => "application/problem+json",
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = http::HeaderValue::from_static("Bearer error=\"invalid_token\"");
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Serves one connection of a child to its end.
pub(super) async fn serve(inner: Arc<Inner>, desk: Arc<Desk>, stream: TcpStream) {
    let Ok(_turn) = Arc::clone(&inner.connections).try_acquire_owned() else {
        let _ = stream.set_zero_linger();
        return inner.refuse(&desk.broker.upstream.authority(), Why::Connections);
    };
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let (inner, desk) = (Arc::clone(&inner), Arc::clone(&desk));
        async move { Ok::<_, Infallible>(desk.answer(&inner, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(cause) = served {
        tracing::debug!(%cause, "a connection with a broker ended");
    }
}

impl Desk {
    /// Where it is, on the loopback of the child.
    pub(super) fn port(&self) -> u16 {
        self.broker.port
    }

    async fn answer(&self, inner: &Arc<Inner>, request: Request<Incoming>) -> Response<Answered> {
        let answered = self.pass_on(inner, request).await;
        answered.unwrap_or_else(|fault| {
            if let Some(why) = fault.why {
                inner.refuse(&self.broker.upstream.authority(), why);
            }
            fault.response()
        })
    }

    async fn pass_on(
        &self,
        inner: &Arc<Inner>,
        request: Request<Incoming>,
    ) -> Result<Response<Answered>, Fault> {
        let upstream = &self.broker.upstream;
        let (mut parts, body) = request.into_parts();
        let path = match parts.uri.path_and_query() {
            Some(path) if parts.uri.scheme().is_none() && path.as_str().starts_with('/') => {
                path.clone()
            }
            _ => return Err(fault(StatusCode::BAD_REQUEST, "the request names no path")),
        };
        if parts.method == Method::CONNECT || parts.headers.contains_key(UPGRADE) {
            let detail = "it speaks HTTP alone: neither CONNECT nor Upgrade";
            return Err(fault(StatusCode::NOT_IMPLEMENTED, detail));
        }
        let allowed = inner.egress.brokers_to(upstream);
        allowed.map_err(|refusal| refused(refusal.into()))?;
        if !is_reachable(upstream, &inner.outside) {
            return Err(refused(Why::Private));
        }
        match &self.work {
            Work::Keys(offers, redactions) => {
                let offers = offers.as_ref().map_err(|detail| unfit(detail.clone()))?;
                outward(&mut parts.headers, offers).map_err(|_| refused(Why::OtherKey))?;
                let body = self.metered(inner, body);
                let (head, body) = self.send(inner, parts, path.as_str(), body).await?;
                Ok(self.streamed(inner, head, body, redactions))
            }
            Work::AccessTokens(tokens, form) => {
                let offer = tokens.offer(&parts.headers, path.query(), form);
                let offer = offer.map_err(|why| match why {
                    NoToken::OtherKey => refused(Why::OtherKey),
                    NoToken::Unknown => oauth_fault(
                        StatusCode::UNAUTHORIZED,
                        "invalid_token",
                        "the access token is not known: ask for another one",
                    ),
                })?;
                let put = outward(&mut parts.headers, &[offer]);
                put.map_err(|_| refused(Why::OtherKey))?;
                let body = self.metered(inner, body);
                let (head, body) = self.send(inner, parts, path.as_str(), body).await?;
                Ok(self.streamed(inner, head, body, &tokens.redactions()))
            }
            Work::Refresh(tokens, form) => self.refresh(inner, parts, body, tokens, form).await,
        }
    }

    /// Asks for an access token and keeps it.
    async fn refresh(
        &self,
        inner: &Arc<Inner>,
        mut parts: Parts,
        body: Incoming,
        tokens: &Tokens,
        form: &AccessTokenForm,
    ) -> Result<Response<Answered>, Fault> {
        let invalid = |detail| oauth_fault(StatusCode::BAD_REQUEST, "invalid_request", detail);
        let own = Some(self.broker.upstream.path.as_str()).filter(|path| !path.is_empty());
        let path = parts
            .uri
            .path_and_query()
            .map(http::uri::PathAndQuery::as_str);
        if parts.method != Method::POST || path != Some(own.unwrap_or("/")) {
            return Err(invalid(
                "it takes POST requests to the token endpoint alone",
            ));
        }
        let body = Limited::new(body, TOKEN_BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|_| invalid("the form is too long, or broke off"))?;
        let signed = tokens.outward(&mut parts.headers, &body.to_bytes());
        let signed = signed.map_err(|why| match why {
            Unfit::OtherKey => refused(Why::OtherKey),
            Unfit::Request(error, detail) => oauth_fault(StatusCode::BAD_REQUEST, error, detail),
        })?;
        remove_own(&mut parts.headers);
        parts.headers.remove(CONTENT_LENGTH);
        // GitHub's answers with a form otherwise.
        let json = http::HeaderValue::from_static("application/json");
        parts.headers.insert(ACCEPT, json.clone());
        if !self.may_send(inner)(signed.len() as u64) {
            return Err(refused(Why::Volume));
        }
        let own = own.unwrap_or("/");
        let (mut head, body) = self.send(inner, parts, own, signed.into()).await?;
        let body = Limited::new(body, TOKEN_BODY_BYTES_MAX).collect().await;
        let body =
            body.map_err(|_| unfit("the token endpoint's answer is too long, or broke off"))?;
        let body = Zeroizing::new(Vec::from(body.to_bytes()));
        inner.ledger.receive(body.len() as u64);
        let told = tokens.inward(&body, form);
        let told = told.ok_or_else(|| {
            let status = head.status.as_u16();
            unfit(format!(
                "the token endpoint answered {status} with something that is no JSON"
            ))
        })?;
        inward(&mut head.headers, &self.broker, &tokens.redactions());
        head.headers.remove(CONTENT_LENGTH);
        head.headers.insert(CONTENT_TYPE, json);
        let body = Full::from(told).map_err(|never: Infallible| match never {});
        Ok(Response::from_parts(head, BodyExt::boxed_unsync(body)))
    }

    /// Whether so many more bytes may be sent.
    fn may_send(&self, inner: &Arc<Inner>) -> impl Fn(u64) -> bool + Unpin + Send + use<> {
        let inner = Arc::clone(inner);
        move |bytes| {
            let per_hour = inner.outside.sent_bytes_per_hour;
            let now = inner.outside.clock.now();
            inner.ledger.send(bytes, per_hour, now)
        }
    }

    /// The body of a request, whose bytes are counted.
    fn metered(&self, inner: &Arc<Inner>, body: Incoming) -> reqwest::Body {
        let may_send = self.may_send(inner);
        match body.is_end_stream() {
            true => reqwest::Body::default(),
            false => reqwest::Body::wrap(Metered { body, may_send }),
        }
    }

    /// Sends a request to the service; gives its answer.
    async fn send(
        &self,
        inner: &Arc<Inner>,
        parts: Parts,
        path: &str,
        body: reqwest::Body,
    ) -> Result<(http::response::Parts, reqwest::Body), Fault> {
        let upstream = &self.broker.upstream;
        if !self.may_send(inner)(head_len(path, &parts.headers)) {
            return Err(refused(Why::Volume));
        }
        let no_path = |_| fault(StatusCode::BAD_REQUEST, "the path is no path");
        let is_head = parts.method == Method::HEAD;
        let mut outgoing = Request::new(body);
        let address = format!("{}{path}", upstream.origin());
        *outgoing.uri_mut() = address
            .parse()
            .map_err(|_| fault(StatusCode::BAD_REQUEST, "the path is no path"))?;
        *outgoing.method_mut() = parts.method;
        *outgoing.headers_mut() = parts.headers;
        let outgoing = reqwest::Request::try_from(outgoing).map_err(no_path)?;
        let client = self.client.get_or_try_init(|| {
            client(
                upstream,
                Arc::clone(&inner.outside),
                Arc::clone(&inner.ledger),
            )
        });
        let client = client.await.map_err(unfit)?;
        let answer = client
            .execute(outgoing)
            .await
            .map_err(|cause| failed(&cause))?;
        let now = inner.outside.clock.now();
        inner.ledger.reach(&upstream.authority(), now);
        let (mut head, body) = Response::<reqwest::Body>::from(answer).into_parts();
        if is_encoded(&head.headers) {
            let detail = "the service compressed its answer although it was asked not to";
            return Err(unfit(detail));
        }
        // What is replaced changes the length.
        if !is_head && head.status != StatusCode::NOT_MODIFIED {
            head.headers.remove(CONTENT_LENGTH);
        }
        Ok((head, body))
    }

    /// An answer without keys, as it comes in.
    fn streamed(
        &self,
        inner: &Inner,
        mut head: http::response::Parts,
        body: reqwest::Body,
        redactions: &Arc<Redactions>,
    ) -> Response<Answered> {
        inward(&mut head.headers, &self.broker, redactions);
        let body = redacted(body, Arc::clone(redactions), Arc::clone(&inner.ledger));
        Response::from_parts(head, body)
    }
}

fn unfit(detail: impl Into<String>) -> Fault {
    fault(StatusCode::BAD_GATEWAY, detail)
}

fn offer(key: &BrokerKey, keys: &Keys) -> Result<Offer, String> {
    let variable = &key.variable;
    let mut values = keys.values.iter();
    let value = values.find(|(name, _)| name == variable.as_str());
    let (_, value) = value.ok_or_else(|| format!("the key of {variable} cannot be opened"))?;
    let placeholder = key.value(&key.placeholder);
    let value = Zeroizing::new(key.value(value.trim()));
    Offer::new(&key.header, &placeholder, &value)
        .ok_or_else(|| format!("the credential for {variable} holds characters that no header may"))
}

/// What the server is told of a service that gave no answer. The address is left out: it may hold secrets of its own.
fn failed(cause: &reqwest::Error) -> Fault {
    let mut next: Option<&(dyn Error + 'static)> = Some(cause);
    let mut innermost = String::new();
    while let Some(cause) = next {
        match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
            // Counted where it was found out.
            Some(io::ErrorKind::PermissionDenied) => {
                return fault(StatusCode::FORBIDDEN, Why::Private.words());
            }
            Some(io::ErrorKind::QuotaExceeded) => return refused(Why::Volume),
            _ => {}
        }
        innermost = cause.to_string();
        next = cause.source();
    }
    let status = match cause.is_timeout() {
        true => StatusCode::GATEWAY_TIMEOUT,
        false => StatusCode::BAD_GATEWAY,
    };
    fault(status, format!("the service gave no answer: {innermost}"))
}
