//! The broker: a server speaks plain HTTP with it on the loopback of its own network namespace, and the broker speaks
//! TLS with the service, with the key that the server does not hold.
//!
//! It speaks with one service, which must be among the allowed hosts. It follows no redirect, and neither a request
//! with another key nor the key in an answer passes.

use std::{convert::Infallible, error::Error, io, sync::Arc, time::Duration};

use http::{
    Method, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, UPGRADE},
};
use http_body_util::{BodyExt, Full};
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
    broker_headers::{Offer, head_len, inward, is_encoded, outward},
    ledger::Why,
};
use crate::{
    domain::broker::{Broker, BrokerKey},
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
    /// Or why there are none.
    offers: Result<Vec<Offer>, String>,
    redactions: Arc<Redactions>,
    /// Made for the first request.
    client: OnceCell<reqwest::Client>,
}

/// Why a request is not passed on.
struct Fault {
    status: StatusCode,
    /// Counted as a refusal.
    why: Option<Why>,
    detail: String,
}

fn fault(status: StatusCode, detail: impl Into<String>) -> Fault {
    Fault {
        status,
        why: None,
        detail: detail.into(),
    }
}

fn refused(why: Why) -> Fault {
    Fault {
        status: StatusCode::FORBIDDEN,
        why: Some(why),
        detail: why.words().to_owned(),
    }
}

impl Fault {
    fn response(&self) -> Response<Answered> {
        let problem = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": format!("MiniMCP's broker: {}", self.detail),
        });
        let body = Full::from(problem.to_string()).map_err(|never: Infallible| match never {});
        let mut response = Response::new(BodyExt::boxed_unsync(body));
        *response.status_mut() = self.status;
        let kind = http::HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
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
    pub(super) fn new(broker: Broker, keys: &Keys) -> Self {
        Self {
            offers: broker.keys.iter().map(|key| offer(key, keys)).collect(),
            broker,
            redactions: Arc::clone(&keys.redactions),
            client: OnceCell::new(),
        }
    }

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
                path.as_str()
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
        let unfit = |detail: String| fault(StatusCode::BAD_GATEWAY, detail);
        let offers = self
            .offers
            .as_ref()
            .map_err(|detail| unfit(detail.clone()))?;
        outward(&mut parts.headers, offers).map_err(|_| refused(Why::OtherKey))?;
        let may_send = {
            let inner = Arc::clone(inner);
            move |bytes| {
                let per_hour = inner.outside.sent_bytes_per_hour;
                inner
                    .ledger
                    .send(bytes, per_hour, inner.outside.clock.now())
            }
        };
        if !may_send(head_len(path, &parts.headers)) {
            return Err(refused(Why::Volume));
        }
        let address = format!("{}{path}", upstream.origin());
        let body = match body.is_end_stream() {
            true => reqwest::Body::default(),
            false => reqwest::Body::wrap(Metered { body, may_send }),
        };
        let mut outgoing = Request::new(body);
        *outgoing.uri_mut() = address
            .parse()
            .map_err(|_| fault(StatusCode::BAD_REQUEST, "the path is no path"))?;
        *outgoing.method_mut() = parts.method.clone();
        *outgoing.headers_mut() = parts.headers;
        let outgoing = reqwest::Request::try_from(outgoing)
            .map_err(|_| fault(StatusCode::BAD_REQUEST, "the path is no path"))?;
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
            let detail =
                "the service compressed its answer although it was asked not to".to_owned();
            return Err(unfit(detail));
        }
        inward(&mut head.headers, &self.broker, &self.redactions);
        // What is replaced changes the length.
        if parts.method != Method::HEAD && head.status != StatusCode::NOT_MODIFIED {
            head.headers.remove(CONTENT_LENGTH);
        }
        let body = redacted(
            body,
            Arc::clone(&self.redactions),
            Arc::clone(&inner.ledger),
        );
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        Ok(response)
    }
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
