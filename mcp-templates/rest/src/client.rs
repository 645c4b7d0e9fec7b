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
use tokio::time::Instant;

use crate::{
    Answer, BaseUrl, Body, Call, Error, Failure, Trouble,
    refusal::{reason, said, tells_rate_limit, wait_told},
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
    /// No attempt begins later than this after the first one: a client waits a minute for a tool, seldom longer.
    pub budget: Duration,
    /// The largest answer in bytes.
    pub body_bytes_max: usize,
    /// Headers of a refusal that [`ClientSpec::advise`] wants to see, lower case; they come in [`Failure::headers`].
    pub telling_headers: &'static [&'static str],
    /// What to advise on a failure, where the service's own rules say more than the kind.
    pub advise: fn(&Failure) -> Option<String>,
}

impl ClientSpec {
    /// The usual behaviour: 30 s, 3 attempts, 250 ms, 5 s, no attempt after 45 s, 8 MiB, no advice of its own.
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
            budget: Duration::from_secs(45),
            body_bytes_max: 8 << 20,
            telling_headers: &[],
            advise: |_| None,
        }
    }
}

/// The attempts of one call.
pub(crate) struct Attempts {
    started: Instant,
    number: u32,
}

impl Default for Attempts {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            number: 1,
        }
    }
}

impl Attempts {
    /// Waits until the next attempt after one that failed with `error`; gives the error back when there is to be none.
    pub(crate) async fn wait(
        &mut self,
        client: &Client,
        call: &Call,
        error: Error,
    ) -> Result<(), Error> {
        let spec = &client.spec;
        let wait = client
            .wait_before_next(&error, self.number)
            .filter(|wait| self.started.elapsed() + *wait <= spec.budget)
            .filter(|_| call.is_idempotent() && self.number < spec.attempts);
        let Some(wait) = wait else { return Err(error) };
        tokio::time::sleep(wait).await;
        self.number += 1;
        Ok(())
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
        let mut attempts = Attempts::default();
        loop {
            let outcome = match self.attempt(&call).await {
                Ok(response) => self.read(&call, response).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(answer) => return Ok(answer),
                Err(error) => attempts.wait(self, &call, error).await?,
            }
        }
    }

    /// How long to wait before the attempt after `attempt`; `None` when the failure will not pass by itself soon.
    fn wait_before_next(&self, error: &Error, attempt: u32) -> Option<Duration> {
        match (&error.failure.trouble, error.failure.status) {
            (Trouble::RateLimited(told), _) => told.filter(|wait| *wait <= self.spec.patience),
            (Trouble::Timeout | Trouble::Network, _) => Some(self.jittered_backoff(attempt)),
            (Trouble::Status, Some(500 | 502 | 503 | 504)) => match error.failure.retry_after {
                // The jitter comes on top: all who were told the same would come back together.
                Some(wait) if wait <= self.spec.patience => {
                    Some(wait + self.jittered_backoff(attempt))
                }
                Some(_) => None,
                None => Some(self.jittered_backoff(attempt)),
            },
            _ => None,
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

    /// Sends `call` once and follows where it may; the answer's head, whatever its status.
    pub(crate) async fn attempt(&self, call: &Call) -> Result<Response, Error> {
        let bad_path =
            || Error::argument(self.spec.service, "These arguments make no valid address");
        let mut url = self.spec.base.at(&call.path).ok_or_else(bad_path)?;
        for _ in 0..=REDIRECTS_MAX {
            let response = self.request(call, url.clone())?.send().await;
            let response = response.map_err(|error| self.broken(call, &error))?;
            match self.redirect_target(call, &url, &response)? {
                Some(target) => url = target,
                None => return Ok(response),
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
            Body::Bytes(content_type, bytes) => request
                .header(header::CONTENT_TYPE, content_type)
                .body(bytes.clone()),
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
        let too_large = || self.too_large(call, status, max);
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

    pub(crate) fn too_large(&self, call: &Call, status: StatusCode, max: usize) -> Error {
        let mut error = Error::new(self.spec.service, Trouble::TooLarge(max));
        error.failure.status = Some(status.as_u16());
        error.failure.maybe_done = status.is_success() && !call.is_safe();
        self.advised(error)
    }

    /// The error's own text is left out: it may hold an address with a credential.
    pub(crate) fn broken(&self, call: &Call, error: &reqwest::Error) -> Error {
        let trouble = if error.is_timeout() {
            Trouble::Timeout
        } else {
            Trouble::Network
        };
        let mut shown = Error::new(self.spec.service, trouble);
        shown.failure.maybe_done = !call.is_safe() && !error.is_connect();
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
        error.failure.reason = reason(body);
        error.failure.retry_after = wait;
        error.failure.maybe_done = status.is_server_error() && !call.is_safe();
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
