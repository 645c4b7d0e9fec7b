//! A child that speaks Streamable HTTP on a private port, or a server elsewhere that does.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use serde_json::Value;
use tokio::{sync::watch, time::timeout};

use super::{
    ChildConnector, Envelope, Failure, Kind, UpstreamError,
    http_headers::{self, Standing, ToolHeaders},
    in_flight::CALLS_MAX,
    remote::{Remote, RemoteServer},
    sse::{Decoder, Event},
};
use crate::runtime::Workload;

/// How long an idle connection is kept: less than the 5 s after which Node and uvicorn close theirs, because a
/// request that meets the close is lost.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// The HTTP side of a connection. Requests of clients that speak what the child speaks are streamed through by the
/// gateway; our own calls, and those of other clients, are read here.
pub struct HttpLink {
    pub(super) client: Client<ChildConnector, Full<Bytes>>,
    place: Place,
    answer_limit_bytes: usize,
    failure: watch::Sender<Option<Arc<Failure>>>,
    standing: ArcSwapOption<Standing>,
    tools: Mutex<ToolHeaders>,
    relayed: Arc<AtomicUsize>,
}

/// Where the server is.
enum Place {
    /// A child of ours.
    Child { addr: SocketAddr, path: String },
    /// Elsewhere.
    Remote(Box<Remote>),
}

/// One call that is relayed; it is under way until this is dropped.
#[derive(Debug)]
pub struct RelayedCall(Arc<AtomicUsize>);

impl Drop for RelayedCall {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl HttpLink {
    /// Answers read by our own calls may have up to `answer_limit_bytes`. `inside`: `addr` is one of the network
    /// namespace of this child.
    #[must_use]
    pub fn new(
        addr: SocketAddr,
        path: String,
        answer_limit_bytes: usize,
        inside: Option<Workload>,
    ) -> Self {
        let connector = ChildConnector::new(addr, inside);
        Self::over(connector, Place::Child { addr, path }, answer_limit_bytes)
    }

    /// The same, to a server elsewhere.
    #[must_use]
    pub fn elsewhere(server: RemoteServer, answer_limit_bytes: usize) -> Self {
        let remote = Box::new(Remote::new(&server));
        let connector = ChildConnector::elsewhere(server.dial, server.tls);
        Self::over(connector, Place::Remote(remote), answer_limit_bytes)
    }

    fn over(connector: ChildConnector, place: Place, answer_limit_bytes: usize) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(16)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .build(connector);
        Self {
            client,
            place,
            answer_limit_bytes,
            failure: watch::Sender::new(None),
            standing: ArcSwapOption::empty(),
            tools: Mutex::default(),
            relayed: Arc::default(),
        }
    }

    /// The server elsewhere, where it is none of our children.
    pub(super) fn remote(&self) -> Option<&Remote> {
        match &self.place {
            Place::Remote(remote) => Some(remote),
            Place::Child { .. } => None,
        }
    }

    /// Whether it leads to a server elsewhere.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.remote().is_some()
    }

    /// Ends this connection: requests under way and later ones get the failure.
    pub fn fail_all(&self, failure: Arc<Failure>) {
        self.failure.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(failure);
            first
        });
    }

    /// The failure that ended this connection.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<Failure>> {
        self.failure.borrow().clone()
    }

    /// Resolves when the connection has ended.
    pub fn failed(&self) -> impl Future<Output = Arc<Failure>> + Send + 'static {
        let mut watch = self.failure.subscribe();
        async move {
            if let Ok(failure) = watch.wait_for(Option::is_some).await
                && let Some(failure) = failure.as_ref()
            {
                return failure.clone();
            }
            std::future::pending().await
        }
    }

    /// Sends one request to the child's endpoint; resolves with the head of its response, the body still streaming.
    /// `headers` are sent as they are; `Host` is the child's own.
    ///
    /// # Errors
    /// The child is gone or not reachable.
    pub async fn exchange(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let (addr, path) = match &self.place {
            Place::Child { addr, path } => (addr, path),
            Place::Remote(remote) => {
                return self.exchange_elsewhere(remote, method, headers, body).await;
            }
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = format!("http://{addr}{path}")
            .parse()
            .map_err(|_| UpstreamError::Http(format!("its path {path:?} is not valid")))?;
        *request.headers_mut() = headers;
        tokio::select! {
            biased;
            failure = self.failed() => Err(UpstreamError::Failed(failure)),
            response = self.client.request(request) => {
                response.map_err(|error| match error.is_connect() {
                    true => UpstreamError::NotListening(describe(&error)),
                    false => UpstreamError::Http(describe(&error)),
                })
            }
        }
    }

    /// What we are to the child now: the last handshake with it, or `None` before the first.
    #[must_use]
    pub fn standing(&self) -> Option<Arc<Standing>> {
        self.standing.load_full()
    }

    /// Remembers what a handshake made of us.
    pub fn set_standing(&self, standing: Standing) {
        self.standing.store(Some(Arc::new(standing)));
    }

    /// Which arguments of tools travel in headers.
    pub fn tools(&self) -> MutexGuard<'_, ToolHeaders> {
        self.tools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call that the gateway relays.
    ///
    /// # Errors
    /// [`UpstreamError::Full`]: as many are under way as one child may have.
    pub fn begin_relayed(&self) -> Result<RelayedCall, UpstreamError> {
        let before = self.relayed.fetch_add(1, Ordering::Relaxed);
        let counted = RelayedCall(self.relayed.clone());
        if before >= CALLS_MAX {
            return Err(UpstreamError::Full(CALLS_MAX));
        }
        Ok(counted)
    }

    /// How many calls are relayed now.
    #[must_use]
    pub fn relayed(&self) -> usize {
        self.relayed.load(Ordering::Relaxed)
    }

    /// Sends one JSON-RPC message; resolves with the head of the response.
    ///
    /// # Errors
    /// The child is gone or not reachable, or the message is not one.
    pub async fn post(
        &self,
        standing: &Standing,
        message: Bytes,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let envelope = Envelope::parse(&message)
            .map_err(|error| UpstreamError::Protocol(error.to_string()))?;
        let headers = standing.headers_of(&envelope, &self.tools())?;
        self.exchange(Method::POST, headers, message).await
    }

    /// A request of our own; answers the raw response and the session that the child opened.
    ///
    /// # Errors
    /// The child is gone, answers with another status than 200, or with something that is not the response.
    pub async fn ask(
        &self,
        standing: &Standing,
        message: &Value,
    ) -> Result<(Bytes, Option<String>), UpstreamError> {
        let response = self.post(standing, message.to_string().into()).await?;
        let status = response.status();
        let opened = response
            .headers()
            .get(http_headers::SESSION)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        if is_events(&response) {
            let mut answer = None;
            let mut decoder = Decoder::new(self.answer_limit_bytes);
            let mut body = response.into_body();
            while answer.is_none() {
                let Some(data) = next_data(&mut body).await? else {
                    break;
                };
                decoder.feed(&data, |event| match event {
                    Event::Data(data) if is_response(data) && answer.is_none() => {
                        answer = Some(Ok(Bytes::copy_from_slice(data)));
                    }
                    Event::TooLong(_) => answer = Some(Err(self.too_long())),
                    Event::Data(_) => {}
                });
            }
            if let Some(answer) = answer {
                return Ok((answer?, opened));
            }
        } else {
            let answer = self.read_all(response.into_body()).await?;
            if is_response(&answer) {
                return Ok((answer, opened));
            }
        }
        Err(UpstreamError::Protocol(if status == StatusCode::OK {
            "its HTTP answer is not a JSON-RPC response".to_owned()
        } else {
            format!("its HTTP server answered with status {status}")
        }))
    }

    /// A notification of our own, or the answer to a request of the child.
    ///
    /// # Errors
    /// The child is gone, or refuses.
    pub async fn tell(&self, standing: &Standing, message: Bytes) -> Result<(), UpstreamError> {
        let response = self.post(standing, message).await?;
        let status = response.status();
        if status.is_success() {
            // Read to its end, so that the connection can be used again.
            return self.read_all(response.into_body()).await.map(|_| ());
        }
        Err(UpstreamError::Protocol(format!(
            "its HTTP server answered with status {status} to a message that wants no answer"
        )))
    }

    /// Ends a session that we opened. The outcome does not matter: it would rest and be forgotten.
    pub async fn end_session(&self, standing: &Standing) {
        if standing.session.is_some()
            && let Ok(headers) = standing.headers()
        {
            let ended = self.exchange(Method::DELETE, headers, Bytes::new());
            let _ = timeout(Duration::from_secs(2), ended).await;
        }
    }

    /// Reads a body up to the limit.
    ///
    /// # Errors
    /// It is longer, or broke off.
    pub async fn read_all(&self, mut body: Incoming) -> Result<Bytes, UpstreamError> {
        let mut read = Vec::new();
        while let Some(data) = next_data(&mut body).await? {
            if read.len() + data.len() > self.answer_limit_bytes {
                return Err(self.too_long());
            }
            read.extend_from_slice(&data);
        }
        Ok(read.into())
    }

    /// The limit of one answer or event, in bytes.
    #[must_use]
    pub fn answer_limit_bytes(&self) -> usize {
        self.answer_limit_bytes
    }

    fn too_long(&self) -> UpstreamError {
        let limit = self.answer_limit_bytes;
        UpstreamError::Protocol(format!("its answer is over the limit of {limit} bytes"))
    }
}

/// Whether a response is a stream of events.
#[must_use]
pub fn is_events(response: &Response<Incoming>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| {
        let kind = kind.as_bytes();
        let name = b"text/event-stream";
        kind.len() >= name.len() && kind[..name.len()].eq_ignore_ascii_case(name)
    })
}

/// The next bytes of a body; `None` at its end.
///
/// # Errors
/// It broke off.
pub async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>, UpstreamError> {
    match body.frame().await {
        None => Ok(None),
        Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
        Some(Err(error)) => Err(UpstreamError::Http(describe(&error))),
    }
}

/// The deepest cause, which tells most.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

fn is_response(message: &[u8]) -> bool {
    matches!(
        Envelope::parse(message).and_then(|envelope| envelope.kind()),
        Ok(Kind::Response)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn relayed_calls_are_counted_and_bounded() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let link = HttpLink::new(addr, "/mcp".to_owned(), 1, None);
        let mut calls: Vec<_> = (0..CALLS_MAX)
            .map(|_| link.begin_relayed().expect("there is room"))
            .collect();
        let full = link.begin_relayed();
        assert!(
            matches!(full, Err(UpstreamError::Full(CALLS_MAX))),
            "{full:?}"
        );
        assert_eq!(
            link.relayed(),
            CALLS_MAX,
            "a refused one counts for nothing"
        );
        calls.pop();
        assert_eq!(link.relayed(), CALLS_MAX - 1);
        calls.push(link.begin_relayed().expect("one went"));
        drop(calls);
        assert_eq!(link.relayed(), 0);
    }
}
