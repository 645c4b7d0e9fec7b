//! One call, and its answer.

use bytes::Bytes;
use reqwest::{
    Method,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{Error, Secret, Trouble};

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
    /// Bytes of this media type; shared by the attempts.
    Bytes(HeaderValue, Bytes),
}

/// One call.
#[derive(Clone)]
pub struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) auth: Option<(HeaderName, &'static str, Secret)>,
    pub(crate) hidden: Vec<Secret>,
    pub(crate) accept: Option<HeaderValue>,
    pub(crate) if_none_match: Option<HeaderValue>,
    pub(crate) redirect_is_answer: bool,
    pub(crate) body: Body,
    /// Whether it may be sent twice, where the method does not say it.
    pub(crate) repeatable: Option<bool>,
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
            repeatable: None,
        }
    }

    /// A GET.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// Puts `prefix` before the path, such as `/v3`.
    #[must_use]
    pub fn below(mut self, prefix: &str) -> Self {
        self.path.insert_str(0, prefix);
        self
    }

    /// The path, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What tells a GET from every other one of the same client, to keep answers by; `None` for other calls.
    #[must_use]
    pub fn cache_key(&self) -> Option<String> {
        let plain = self.method == Method::GET && !self.redirect_is_answer;
        plain.then(|| format!("{} {:?} {:?}", self.path, self.query, self.accept))
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

    /// Sends `bytes` of the media type `content_type`, which must be fit for a header.
    #[must_use]
    pub fn bytes(mut self, content_type: HeaderValue, bytes: Vec<u8>) -> Self {
        self.body = Body::Bytes(content_type, bytes.into());
        self
    }

    /// Tells that this call has, sent twice, the effect of once, though its method does not say so: it is then sent
    /// again after a failure that may pass.
    #[must_use]
    pub fn repeatable(mut self) -> Self {
        self.repeatable = Some(true);
        self
    }

    /// Tells that this call must not be sent again by itself, though its method says it could: the second time it would
    /// be refused for what the first time did.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.repeatable = Some(false);
        self
    }

    /// RFC 9110 section 9.2.2: sent twice, it has the effect of once.
    pub(crate) fn is_idempotent(&self) -> bool {
        self.repeatable
            .unwrap_or_else(|| self.method.is_idempotent())
    }

    pub(crate) fn is_safe(&self) -> bool {
        self.method.is_safe()
    }

    pub(crate) fn secrets(&self) -> impl Iterator<Item = &Secret> {
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
    pub(crate) service: &'static str,
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
