//! The typed client of the HTTP API, over TCP or the unix socket; the CLI and the tests use it.

pub mod call_records;
mod calls;
mod diagnostics;
mod error;
mod imports;
mod knock;
mod sse;
mod tokens;
mod upgrade;

use std::{marker::PhantomData, path::Path, time::Duration};

use http::{Method, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

pub use calls::{ListQuery, LogQuery};
pub use error::ClientError;
pub use knock::Knocker;
pub use sse::{EventStream, ServerEvent};

/// Longest answer that is read, in bytes; a page of 1,000 log lines of 64 KiB would be larger than any sane answer.
const ANSWER_LIMIT_BYTES: usize = 64 << 20;

/// How long a connection may take; the daemon is mostly on the same host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the API may take for one answer, unless a call says otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(75);

/// Speaks with one daemon as one caller. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Without a slash at the end.
    base: String,
    /// For messages: the URL, or the socket's path.
    target: String,
    token: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// An answer as the API wrote it, and its meaning.
#[derive(Debug, Clone)]
pub struct Reply<T> {
    json: String,
    meaning: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Reply<T> {
    fn new(json: String) -> Self {
        Self {
            json,
            meaning: PhantomData,
        }
    }

    /// The API's own JSON, byte for byte.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Reads the answer.
    ///
    /// # Errors
    /// [`ClientError::Strange`] when it is not of the expected shape.
    pub fn read(&self) -> Result<T, ClientError> {
        serde_json::from_str(&self.json).map_err(|error| ClientError::Strange {
            reason: format!("an answer of an unexpected shape ({error})"),
        })
    }
}

/// One request, before it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Zeroizing<Vec<u8>>>,
    timeout: Duration,
}

impl Call {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            body: None,
            timeout: CALL_TIMEOUT,
        }
    }

    pub(crate) fn query(mut self, name: &'static str, value: Option<String>) -> Self {
        self.query.extend(value.map(|value| (name, value)));
        self
    }

    pub(crate) fn body(mut self, body: &impl Serialize) -> Result<Self, ClientError> {
        let bytes = serde_json::to_vec(body).map_err(|error| ClientError::Strange {
            reason: format!("a request that cannot be written ({error})"),
        })?;
        self.body = Some(Zeroizing::new(bytes));
        Ok(self)
    }

    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl Client {
    /// A daemon at `url`, such as `http://127.0.0.1:7420`.
    ///
    /// # Errors
    /// [`ClientError::Address`] when `url` is not an http or https URL.
    pub fn tcp(url: &str, token: Option<Zeroizing<String>>) -> Result<Self, ClientError> {
        let url = url.trim_end_matches('/');
        let address = |reason: String| ClientError::Address {
            url: url.to_owned(),
            reason,
        };
        let parsed = reqwest::Url::parse(url).map_err(|error| address(error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
            return Err(address("it must begin with http:// or https://".to_owned()));
        }
        let builder = builder(parsed.scheme() == "https");
        Ok(Self {
            http: builder
                .build()
                .map_err(|error| address(error.to_string()))?,
            base: url.to_owned(),
            target: url.to_owned(),
            token,
        })
    }

    /// A daemon behind a unix socket.
    ///
    /// # Errors
    /// [`ClientError::Address`] when the HTTP client cannot be made.
    pub fn unix(socket: &Path, token: Option<Zeroizing<String>>) -> Result<Self, ClientError> {
        let target = format!("unix:{}", socket.display());
        let http = builder(false)
            .unix_socket(socket)
            .build()
            .map_err(|error| ClientError::Address {
                url: target.clone(),
                reason: error.to_string(),
            })?;
        Ok(Self {
            http,
            base: "http://localhost".to_owned(),
            target,
            token,
        })
    }

    /// Where the daemon is, for messages.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    fn request(&self, call: Call, accept: &'static str) -> reqwest::RequestBuilder {
        let url = format!("{}{}", self.base, call.path);
        let mut request = self
            .http
            .request(call.method, url)
            .header(header::ACCEPT, accept);
        if !call.query.is_empty() {
            request = request.query(&call.query);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.as_str());
        }
        if let Some(body) = call.body {
            request = request
                .header(header::CONTENT_TYPE, "application/json")
                .body(body.to_vec());
        }
        request
    }

    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        call: Call,
    ) -> Result<Reply<T>, ClientError> {
        let timeout = call.timeout;
        let response = self
            .request(call, "application/json")
            .timeout(timeout)
            .send()
            .await
            .map_err(|error| self.lost(&error))?;
        let status = response.status();
        let body = self.body_of(response).await?;
        if status.is_success() {
            Ok(Reply::new(body))
        } else {
            Err(ClientError::of_answer(status, &body))
        }
    }

    /// As [`Self::send`], for answers with a body that also come with a status that says no (`/readyz`).
    pub(crate) async fn send_either<T: DeserializeOwned>(
        &self,
        call: Call,
        also: StatusCode,
    ) -> Result<Reply<T>, ClientError> {
        let response = self
            .request(call, "application/json")
            .timeout(CONNECT_TIMEOUT)
            .send()
            .await
            .map_err(|error| self.lost(&error))?;
        let status = response.status();
        let body = self.body_of(response).await?;
        let reply = Reply::new(body);
        if status.is_success() || (status == also && reply.read().is_ok()) {
            Ok(reply)
        } else {
            Err(ClientError::of_answer(status, reply.json()))
        }
    }

    pub(crate) async fn stream(
        &self,
        call: Call,
        last_event_id: Option<i64>,
    ) -> Result<EventStream, ClientError> {
        let mut request = self.request(call, "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("Last-Event-ID", id.to_string());
        }
        let response = request.send().await.map_err(|error| self.lost(&error))?;
        let status = response.status();
        if status.is_success() {
            Ok(EventStream::new(response))
        } else {
            let body = self.body_of(response).await?;
            Err(ClientError::of_answer(status, &body))
        }
    }

    async fn body_of(&self, mut response: reqwest::Response) -> Result<String, ClientError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.lost(&error))? {
            if body.len() + chunk.len() > ANSWER_LIMIT_BYTES {
                return Err(ClientError::Strange {
                    reason: format!("an answer of more than {ANSWER_LIMIT_BYTES} bytes"),
                });
            }
            body.extend_from_slice(&chunk);
        }
        String::from_utf8(body).map_err(|_| ClientError::Strange {
            reason: "an answer that is not UTF-8".to_owned(),
        })
    }

    fn lost(&self, error: &reqwest::Error) -> ClientError {
        ClientError::lost(&self.target, error)
    }
}

fn builder(tls: bool) -> reqwest::ClientBuilder {
    // A second call finds the provider installed, which is what we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("minimcp/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true);
    if tls {
        builder
    } else {
        // Without TLS there is no need for the host's certificates, and a bare host has none; and a proxy of the
        // environment must not see the token of a daemon on the loopback.
        builder.tls_certs_only([]).no_proxy()
    }
}
