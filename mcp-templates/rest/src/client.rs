//! The HTTP client: timeouts, size caps, redirects only within the origin, retries of idempotent calls only.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::OnceLock,
    time::Duration,
};

use reqwest::{
    Method, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    BaseUrl, Error, Failure, Secret, Trouble,
    refusal::{said, tells_rate_limit, wait_told},
};

/// How a [`Client`] behaves.
#[derive(Clone)]
pub struct ClientSpec {
    /// The service's name in messages.
    pub service: &'static str,
    /// Where its API lies.
    pub base: BaseUrl,
    /// Headers of every call; none of them secret.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long one attempt may take, the answer's body included.
    pub timeout: Duration,
    /// Attempts of an idempotent call, at least 1.
    pub attempts: u32,
    /// The wait before the second attempt, doubled for each one after; a random part of it is taken.
    pub backoff: Duration,
    /// The longest wait that `Retry-After` may ask for and still be waited for here.
    pub patience: Duration,
    /// The largest answer in bytes.
    pub body_bytes_max: usize,
    /// Headers of a refusal that [`ClientSpec::advise`] wants to see, lower case; they come in [`Failure::headers`].
    pub telling_headers: &'static [&'static str],
    /// What to advise on a failure, where the service's own rules say more than the kind.
    pub advise: fn(&Failure) -> Option<String>,
}

impl ClientSpec {
    /// The usual behaviour: 30 s, 3 attempts, 250 ms, 5 s, 8 MiB, no advice of its own.
    #[must_use]
    pub fn new(service: &'static str, base: BaseUrl) -> Self {
        Self {
            service,
            base,
            headers: Vec::new(),
            timeout: Duration::from_secs(30),
            attempts: 3,
            backoff: Duration::from_millis(250),
            patience: Duration::from_secs(5),
            body_bytes_max: 8 << 20,
            telling_headers: &[],
            advise: |_| None,
        }
    }
}

/// What a call sends.
#[derive(Clone, Default)]
pub enum Body {
    /// Nothing.
    #[default]
    None,
    /// JSON.
    Json(Value),
    /// `application/x-www-form-urlencoded`.
    Form(Vec<(&'static str, String)>),
}

/// One call.
#[derive(Clone)]
pub struct Call {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    auth: Option<(HeaderName, &'static str, Secret)>,
    hidden: Vec<Secret>,
    accept: Option<HeaderValue>,
    if_none_match: Option<HeaderValue>,
    redirect_is_answer: bool,
    body: Body,
}

impl Call {
    /// A call of `path`, which starts with a slash; see [`crate::path_segment`] for what comes from outside.
    #[must_use]
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            auth: None,
            hidden: Vec::new(),
            accept: None,
            if_none_match: None,
            redirect_is_answer: false,
            body: Body::None,
        }
    }

    /// A GET.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// Adds a query parameter.
    #[must_use]
    pub fn query(mut self, name: &'static str, value: impl ToString) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    /// Adds a query parameter if there is a value.
    #[must_use]
    pub fn query_opt(self, name: &'static str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// Sends `prefix` and the secret in the header `name`.
    #[must_use]
    pub fn auth(mut self, name: HeaderName, prefix: &'static str, secret: Secret) -> Self {
        self.auth = Some((name, prefix, secret));
        self
    }

    /// A secret in the body, kept out of messages.
    #[must_use]
    pub fn hide(mut self, secret: Secret) -> Self {
        self.hidden.push(secret);
        self
    }

    /// The media type asked for, instead of JSON.
    #[must_use]
    pub fn accept(mut self, media_type: &'static str) -> Self {
        self.accept = Some(HeaderValue::from_static(media_type));
        self
    }

    /// Asks for what has changed since the answer with this entity tag; where nothing has, the [`Answer`] has the status
    /// 304 and no body (RFC 9110 section 13.1.2). A tag that no header may hold is left out.
    #[must_use]
    pub fn if_none_match(mut self, entity_tag: &str) -> Self {
        self.if_none_match = HeaderValue::from_str(entity_tag).ok();
        self
    }

    /// Takes a redirect as the [`Answer`], its `location` among the headers, instead of following it.
    #[must_use]
    pub fn redirect_is_answer(mut self) -> Self {
        self.redirect_is_answer = true;
        self
    }

    /// Sends JSON.
    ///
    /// # Panics
    /// Never for types whose keys are texts.
    #[must_use]
    pub fn json(mut self, body: &impl Serialize) -> Self {
        self.body = Body::Json(serde_json::to_value(body).expect("keys are texts"));
        self
    }

    /// Sends a form.
    #[must_use]
    pub fn form(mut self, fields: Vec<(&'static str, String)>) -> Self {
        self.body = Body::Form(fields);
        self
    }

    /// RFC 9110 section 9.2.2: sent twice, it has the effect of once.
    fn is_idempotent(&self) -> bool {
        self.method.is_idempotent()
    }

    fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.auth
            .iter()
            .map(|(_, _, secret)| secret)
            .chain(&self.hidden)
    }
}

/// A good answer: a status of the 200s, or what the call took for good.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, within the cap.
    pub body: Vec<u8>,
    service: &'static str,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// [`Trouble::Malformed`] when it is not the JSON expected; the body is not repeated.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|_| {
            let mut error = Error::new(self.service, Trouble::Malformed);
            error.failure.status = Some(self.status);
            error
        })
    }

    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// An HTTP client for one service. The connection part, with its certificates, is made at the first call, so that an
/// idle server stays small.
pub struct Client {
    spec: ClientSpec,
    http: OnceLock<Option<reqwest::Client>>,
}

const REDIRECTS_MAX: usize = 3;

impl Client {
    /// A client that has not connected yet.
    #[must_use]
    pub fn new(spec: ClientSpec) -> Self {
        Self {
            spec,
            http: OnceLock::new(),
        }
    }

    /// The service's name in messages.
    #[must_use]
    pub fn service(&self) -> &'static str {
        self.spec.service
    }

    pub(crate) fn http(&self) -> Result<&reqwest::Client, Error> {
        let made = self.http.get_or_init(|| {
            // The second installation in a process fails and changes nothing.
            let _already = rustls::crypto::ring::default_provider().install_default();
            reqwest::Client::builder()
                .user_agent(concat!("minimcp/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(self.spec.timeout.min(Duration::from_secs(10)))
                .timeout(self.spec.timeout)
                .redirect(redirect::Policy::none())
                .pool_max_idle_per_host(2)
                .build()
                .ok()
        });
        made.as_ref().ok_or_else(|| {
            let message = "The HTTP client cannot start: check the proxy variables and the certificates of the machine";
            Error::new(self.spec.service, Trouble::NotConfigured(message.to_owned()))
        })
    }

    /// Sends `call`; an idempotent one again when the failure may pass.
    ///
    /// # Errors
    /// [`Error`], fit to be shown to a language model.
    pub async fn send(&self, call: Call) -> Result<Answer, Error> {
        let mut attempt = 1;
        loop {
            let error = match self.attempt(&call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let wait = match error.failure.trouble {
                Trouble::RateLimited(Some(wait)) => {
                    Some(wait).filter(|wait| *wait <= self.spec.patience)
                }
                Trouble::Timeout | Trouble::Network => Some(self.jittered_backoff(attempt)),
                Trouble::Status if matches!(error.failure.status, Some(500 | 502 | 503 | 504)) => {
                    Some(self.jittered_backoff(attempt))
                }
                _ => None,
            };
            match wait.filter(|_| call.is_idempotent() && attempt < self.spec.attempts) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(error),
            }
            attempt += 1;
        }
    }

    fn jittered_backoff(&self, attempt: u32) -> Duration {
        let whole = self
            .spec
            .backoff
            .saturating_mul(1 << attempt.saturating_sub(1).min(8));
        // The keys of a new RandomState are random, which is randomness enough for jitter.
        let random = RandomState::new().build_hasher().finish() >> 32;
        whole.mul_f64(0.5 + 0.5 * (random as f64 / f64::from(u32::MAX)))
    }

    async fn attempt(&self, call: &Call) -> Result<Answer, Error> {
        let bad_path =
            || Error::argument(self.spec.service, "These arguments make no valid address");
        let mut url = self.spec.base.at(&call.path).ok_or_else(bad_path)?;
        for _ in 0..=REDIRECTS_MAX {
            let response = self.request(call, url.clone())?.send().await;
            let response = response.map_err(|error| self.broken(call, &error))?;
            match self.redirect_target(call, &url, &response)? {
                Some(target) => url = target,
                None => return self.read(call, response).await,
            }
        }
        Err(Error::new(self.spec.service, Trouble::Redirected))
    }

    fn request(&self, call: &Call, url: Url) -> Result<reqwest::RequestBuilder, Error> {
        let mut request = self.http()?.request(call.method.clone(), url);
        for (name, value) in &self.spec.headers {
            // A second Accept would be added to the first, which upstream would then obey.
            if *name != header::ACCEPT || call.accept.is_none() {
                request = request.header(name, value);
            }
        }
        if let Some(accept) = &call.accept {
            request = request.header(header::ACCEPT, accept);
        } else if !self
            .spec
            .headers
            .iter()
            .any(|(name, _)| *name == header::ACCEPT)
        {
            request = request.header(header::ACCEPT, "application/json");
        }
        if let Some((name, prefix, secret)) = &call.auth {
            let value = secret.header(prefix).ok_or_else(|| {
                let message = "The stored credential holds characters that no header may; ask the user to store it again";
                Error::new(self.spec.service, Trouble::NotConfigured(message.to_owned()))
            })?;
            request = request.header(name, value);
        }
        if let Some(entity_tag) = &call.if_none_match {
            request = request.header(header::IF_NONE_MATCH, entity_tag);
        }
        if !call.query.is_empty() {
            request = request.query(&call.query);
        }
        Ok(match &call.body {
            Body::None => request,
            Body::Json(json) => request.json(json),
            Body::Form(fields) => request.form(fields),
        })
    }

    /// Where to go on, for a GET that is sent elsewhere within the same origin: a credential must not reach a
    /// stranger, and a change must not be sent to an address that nobody asked for.
    fn redirect_target(
        &self,
        call: &Call,
        from: &Url,
        response: &Response,
    ) -> Result<Option<Url>, Error> {
        let status = response.status();
        let to_follow = status.is_redirection() && !call.redirect_is_answer;
        if !to_follow || status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let target = response
            .headers()
            .get(header::LOCATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|location| from.join(location).ok())
            .filter(|target| call.method == Method::GET && target.origin() == from.origin());
        match target {
            Some(target) => Ok(Some(target)),
            None => {
                let mut error = Error::new(self.spec.service, Trouble::Redirected);
                error.failure.status = Some(response.status().as_u16());
                Err(self.advised(error))
            }
        }
    }

    pub(crate) async fn read(&self, call: &Call, mut response: Response) -> Result<Answer, Error> {
        let status = response.status();
        let max = self.spec.body_bytes_max;
        let too_large = || {
            let mut error = Error::new(self.spec.service, Trouble::TooLarge(max));
            error.failure.status = Some(status.as_u16());
            error.failure.maybe_done = status.is_success() && !call.method.is_safe();
            self.advised(error)
        };
        if response
            .content_length()
            .is_some_and(|length| length > max as u64)
        {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.broken(call, &error))?
        {
            if body.len() + chunk.len() > max {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        let headers = std::mem::take(response.headers_mut());
        let unchanged = status == StatusCode::NOT_MODIFIED && call.if_none_match.is_some();
        let taken = call.redirect_is_answer && status.is_redirection();
        if !(status.is_success() || unchanged || taken) {
            return Err(self.refused(call, status, &headers, &body));
        }
        Ok(Answer {
            status: status.as_u16(),
            headers,
            body,
            service: self.spec.service,
        })
    }

    /// The error's own text is left out: it may hold an address with a credential.
    pub(crate) fn broken(&self, call: &Call, error: &reqwest::Error) -> Error {
        let trouble = if error.is_timeout() {
            Trouble::Timeout
        } else {
            Trouble::Network
        };
        let mut shown = Error::new(self.spec.service, trouble);
        shown.failure.maybe_done = !call.method.is_safe() && !error.is_connect();
        self.advised(shown)
    }

    fn refused(&self, call: &Call, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
        let wait = wait_told(headers);
        let exhausted = headers
            .get("x-ratelimit-remaining")
            .is_some_and(|left| left == "0")
            || tells_rate_limit(body);
        let trouble = match status.as_u16() {
            429 => Trouble::RateLimited(wait),
            403 if exhausted || headers.contains_key(header::RETRY_AFTER) => {
                Trouble::RateLimited(wait)
            }
            401 => Trouble::Unauthorized,
            403 => Trouble::Forbidden,
            404 | 410 => Trouble::NotFound,
            409 | 412 => Trouble::Conflict,
            400 | 422 => Trouble::Refused,
            _ => Trouble::Status,
        };
        let mut error = Error::new(self.spec.service, trouble);
        error.failure.status = Some(status.as_u16());
        error.failure.said = said(body, call.secrets());
        error.failure.maybe_done = status.is_server_error() && !call.method.is_safe();
        for name in self.spec.telling_headers {
            if let Some(Ok(value)) = headers.get(*name).map(HeaderValue::to_str) {
                error.failure.headers.push((name, value.to_owned()));
            }
        }
        self.advised(error)
    }

    pub(crate) fn advised(&self, mut error: Error) -> Error {
        error.advice = (self.spec.advise)(&error.failure);
        error
    }
}
