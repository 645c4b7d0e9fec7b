//! A child that speaks Streamable HTTP on a private port.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde_json::Value;
use tokio::sync::watch;

use super::{Envelope, Failure, Kind, UpstreamError};

const SESSION_HEADER: &str = "mcp-session-id";
const VERSION_HEADER: &str = "mcp-protocol-version";

/// The HTTP side of a connection. Requests are streamed through by the gateway; only our own calls are read here.
pub struct HttpLink {
    client: Client<HttpConnector, Full<Bytes>>,
    addr: SocketAddr,
    path: String,
    answer_limit_bytes: usize,
    failure: watch::Sender<Option<Arc<Failure>>>,
}

impl HttpLink {
    /// Answers read by our own calls may have up to `answer_limit_bytes`.
    #[must_use]
    pub fn new(addr: SocketAddr, path: String, answer_limit_bytes: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(16)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .build(connector);
        Self {
            client,
            addr,
            path,
            answer_limit_bytes,
            failure: watch::Sender::new(None),
        }
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
        let uri = format!("http://{}{}", self.addr, self.path);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri
            .parse()
            .map_err(|_| UpstreamError::Http(format!("its path {:?} is not valid", self.path)))?;
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

    /// A request of our own; answers the raw response and the session that the child opened.
    ///
    /// # Errors
    /// The child is gone, answers with another status than 200, or with something that is not the response.
    pub async fn ask(
        &self,
        session: Option<&str>,
        version: Option<&str>,
        message: &Value,
    ) -> Result<(Bytes, Option<String>), UpstreamError> {
        let response = self.post(session, version, message).await?;
        let status = response.status();
        let opened = response
            .headers()
            .get(SESSION_HEADER)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let streams = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
        let mut body = response.into_body();
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| UpstreamError::Http(error.to_string()))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if read.len() + data.len() > self.answer_limit_bytes {
                return Err(UpstreamError::Protocol(format!(
                    "its answer is over the limit of {} bytes",
                    self.answer_limit_bytes
                )));
            }
            read.extend_from_slice(&data);
            if streams && let Some(answer) = answer_in(&read) {
                return Ok((answer, opened));
            }
        }
        if !streams && is_response(&read) {
            return Ok((read.into(), opened));
        }
        Err(UpstreamError::Protocol(if status == StatusCode::OK {
            "its HTTP answer is not a JSON-RPC response".to_owned()
        } else {
            format!("its HTTP server answered with status {status}")
        }))
    }

    /// A notification of our own.
    ///
    /// # Errors
    /// The child is gone, or refuses.
    pub async fn tell(
        &self,
        session: Option<&str>,
        version: &str,
        message: &Value,
    ) -> Result<(), UpstreamError> {
        let response = self.post(session, Some(version), message).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        Err(UpstreamError::Protocol(format!(
            "its HTTP server answered with status {status} to a notification"
        )))
    }

    async fn post(
        &self,
        session: Option<&str>,
        version: Option<&str>,
        message: &Value,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let mut headers = HeaderMap::new();
        let fixed = HeaderValue::from_static;
        headers.insert(header::CONTENT_TYPE, fixed("application/json"));
        let both = "application/json, text/event-stream";
        headers.insert(header::ACCEPT, fixed(both));
        let text = |value: &str| {
            HeaderValue::from_str(value)
                .map_err(|_| UpstreamError::Protocol("its session id is not valid".to_owned()))
        };
        if let Some(session) = session {
            headers.insert(SESSION_HEADER, text(session)?);
        }
        if let Some(version) = version {
            headers.insert(VERSION_HEADER, text(version)?);
            if let Some(method) = message["method"].as_str()
                && version == super::MODERN
            {
                headers.insert("mcp-method", text(method)?);
            }
        }
        self.exchange(Method::POST, headers, message.to_string().into())
            .await
    }
}

/// The deepest cause, which tells most.
fn describe(error: &dyn std::error::Error) -> String {
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

/// The response among the complete events of a stream read so far.
fn answer_in(stream: &[u8]) -> Option<Bytes> {
    let text = std::str::from_utf8(stream).ok()?.replace("\r\n", "\n");
    let complete = &text[..text.rfind("\n\n")? + 1];
    complete.split("\n\n").find_map(|event| {
        let data: Vec<&str> = event
            .lines()
            .filter_map(|line| line.strip_prefix("data:"))
            .map(|data| data.strip_prefix(' ').unwrap_or(data))
            .collect();
        let data = data.join("\n");
        is_response(data.as_bytes()).then(|| data.into())
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn the_response_is_found_among_events() {
        let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        let stream = format!(
            ": hello\r\n\r\nid: 1\ndata:\n\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"x\"}}\n\nevent: message\ndata: {answer}\n"
        );
        assert_eq!(answer_in(stream.as_bytes()), None);
        let stream = stream + "\n";
        assert_eq!(answer_in(stream.as_bytes()).unwrap(), answer);
    }
}
