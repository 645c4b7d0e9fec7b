//! The only status table: every failure of the API becomes one [`Code`], and the code fixes status and title.
//!
//! What a caller may read (`detail`, `violations`) and what only the log may hold (`internal`) are kept apart.
//! Bodies are RFC 9457 problem details.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};

use crate::{
    domain::violation::Violation,
    logs::LogStoreError,
    secrets::SecretsError,
    store::StoreError,
    supervisor::SupervisorError,
    tasks::TaskError,
    wire::{Problem, ProblemViolation},
};

/// The media type of every error body (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $status:ident, $title:literal;)*) => {
        /// What went wrong, as a stable word; the table that fixes each word's HTTP status and title.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable word of `Problem.code`.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// Its HTTP status.
            #[must_use]
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// The same text for every problem of this code.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The body is not JSON.
    MalformedJson = "malformed-json", BAD_REQUEST, "The body is not JSON";
    /// Unknown, repeated or unreadable query parameters; all are listed.
    InvalidQuery = "invalid-query", BAD_REQUEST, "The query string is not valid";
    /// A header of ours is not valid.
    InvalidHeader = "invalid-header", BAD_REQUEST, "A header is not valid";
    /// The request could not be read.
    BadRequest = "bad-request", BAD_REQUEST, "The request could not be read";
    /// No administrator token, or a wrong one.
    Unauthenticated = "unauthenticated", UNAUTHORIZED, "A valid token is required";
    /// Authenticated, but not allowed.
    Forbidden = "forbidden", FORBIDDEN, "Not allowed";
    /// The thing named in the path does not exist.
    NotFound = "not-found", NOT_FOUND, "No such resource";
    /// The path itself does not exist.
    NoSuchRoute = "no-such-route", NOT_FOUND, "No such route";
    /// The path exists, not with this method.
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, "The method is not allowed here";
    /// The verb does not fit the state.
    WrongState = "wrong-state", CONFLICT, "Not possible in this state";
    /// The name belongs to another.
    NameTaken = "name-taken", CONFLICT, "The name is taken";
    /// The template's program is missing.
    TemplateUnavailable = "template-unavailable", CONFLICT, "The template is not available here";
    /// Instances are bound to the credential.
    CredentialInUse = "credential-in-use", CONFLICT, "The credential is in use";
    /// The owner has as much as its budget allows.
    OverBudget = "over-budget", CONFLICT, "Over the owner's budget";
    /// Someone else changed it at the same time.
    Conflict = "conflict", CONFLICT, "Changed by someone else at the same time";
    /// The program that was to take over would not serve, or this daemon cannot become another one.
    UpgradeRefused = "upgrade-refused", CONFLICT, "The daemon goes on as it is";
    /// The first request with this key has no answer yet.
    IdempotencyInProgress = "idempotency-in-progress", CONFLICT, "The same request is in progress";
    /// The kept answer cannot be opened any more.
    IdempotencyUnreadable = "idempotency-unreadable", CONFLICT, "The kept answer cannot be read any more";
    /// Larger than `api.body_limit_bytes`.
    BodyTooLarge = "body-too-large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// Not `application/json`.
    UnsupportedMediaType = "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, "The content type is not supported";
    /// The input has faults; all are listed.
    ValidationFailed = "validation-failed", UNPROCESSABLE_ENTITY, "The request is not valid";
    /// The same key with another body.
    IdempotencyKeyReused = "idempotency-key-reused", UNPROCESSABLE_ENTITY, "The Idempotency-Key belongs to another request";
    /// A failure of ours.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Internal error";
    /// Too many commands wait for this instance.
    Busy = "busy", SERVICE_UNAVAILABLE, "Busy";
    /// The instance's actor panicked before it answered.
    ActorFailed = "actor-failed", SERVICE_UNAVAILABLE, "The instance's manager failed";
    /// The daemon goes down.
    ShuttingDown = "shutting-down", SERVICE_UNAVAILABLE, "Shutting down";
    /// The database is away.
    DatabaseUnavailable = "database-unavailable", SERVICE_UNAVAILABLE, "The database is away";
    /// It took longer than `api.request_timeout`.
    Timeout = "timeout", SERVICE_UNAVAILABLE, "The request took too long";
    /// Too many event streams and log follows.
    TooManyStreams = "too-many-streams", SERVICE_UNAVAILABLE, "Too many open streams";
    /// No access port is free.
    PortsExhausted = "ports-exhausted", INSUFFICIENT_STORAGE, "No access port is free";
    /// The daemon has no file descriptor for another access port.
    DescriptorsExhausted = "descriptors-exhausted", INSUFFICIENT_STORAGE, "No file descriptor is free";
    /// The instance has as many access tokens as it may.
    TokensExhausted = "tokens-exhausted", INSUFFICIENT_STORAGE, "Too many access tokens";
    /// `runtime.instances_max` is reached.
    InstancesExhausted = "instances-exhausted", INSUFFICIENT_STORAGE, "Too many instances";
}

/// A failure on its way to the caller. The body is written by [`ApiError::render`] once the request id is known.
#[derive(Debug, Clone)]
pub struct ApiError {
    code: Code,
    detail: String,
    violations: Vec<Violation>,
    retry_after_s: Option<u32>,
    internal: Option<String>,
}

impl ApiError {
    /// A failure with a sentence for the caller.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let retry_after_s = (code.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(2);
        Self {
            code,
            detail: detail.into(),
            violations: Vec::new(),
            retry_after_s,
            internal: None,
        }
    }

    /// A failure of ours: `internal` goes to the log, never to the caller.
    pub fn internal(internal: impl Into<String>) -> Self {
        let mut error = Self::new(
            Code::Internal,
            "something failed inside; the daemon's log says more under this request id",
        );
        error.internal = Some(internal.into());
        error
    }

    /// Faults of the input, all of them: `invalid-query` when all of them are in the query string.
    #[must_use]
    pub fn invalid(violations: Vec<Violation>) -> Self {
        let detail = match violations.as_slice() {
            [one] => one.message.clone(),
            many => format!(
                "the request has {} faults, listed in violations",
                many.len()
            ),
        };
        let of_query = |violation: &Violation| violation.parameter.is_some();
        let code = if !violations.is_empty() && violations.iter().all(of_query) {
            Code::InvalidQuery
        } else {
            Code::ValidationFailed
        };
        let mut error = Self::new(code, detail);
        error.violations = violations;
        error
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// What only the log may hold.
    #[must_use]
    pub fn internal_text(&self) -> Option<&str> {
        self.internal.as_deref()
    }

    /// The wire form.
    #[must_use]
    pub fn problem(&self, request_id: &str) -> Problem {
        Problem {
            kind: "about:blank".to_owned(),
            status: self.code.status().as_u16(),
            title: self.code.title().to_owned(),
            detail: self.detail.clone(),
            code: self.code.word().to_owned(),
            request_id: request_id.to_owned(),
            violations: self.violations.iter().map(problem_violation).collect(),
        }
    }

    /// Writes the problem into `response`, which keeps its headers (`Allow` above all).
    #[must_use]
    pub fn render(&self, mut response: Response, request_id: &str) -> Response {
        let body = serde_json::to_vec(&self.problem(request_id))
            .expect("a problem is made of texts and numbers");
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == Code::Unauthenticated {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"minimcp\""),
            );
        }
        *response.body_mut() = Body::from(body);
        response
    }

    /// For a response that some layer below made without us (a rejection of axum's): its problem, by status.
    #[must_use]
    pub fn of_bare_status(status: StatusCode) -> Self {
        let code = match status {
            StatusCode::UNAUTHORIZED => Code::Unauthenticated,
            StatusCode::FORBIDDEN => Code::Forbidden,
            StatusCode::NOT_FOUND => Code::NoSuchRoute,
            StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
            StatusCode::PAYLOAD_TOO_LARGE => Code::BodyTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::UnsupportedMediaType,
            StatusCode::UNPROCESSABLE_ENTITY => Code::ValidationFailed,
            StatusCode::REQUEST_TIMEOUT | StatusCode::SERVICE_UNAVAILABLE => Code::Timeout,
            other if other.is_client_error() => Code::BadRequest,
            other => return Self::internal(format!("a bare answer with status {other}")),
        };
        Self::new(code, code.title())
    }
}

fn problem_violation(violation: &Violation) -> ProblemViolation {
    let of_body = violation.parameter.is_none();
    ProblemViolation {
        pointer: of_body.then(|| violation.pointer.clone()),
        parameter: violation.parameter.clone(),
        code: violation.code.clone(),
        message: violation.message.clone(),
    }
}

impl IntoResponse for ApiError {
    /// The status and the error itself as an extension; the outermost layer renders it with the request id.
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<SupervisorError> for ApiError {
    fn from(error: SupervisorError) -> Self {
        let text = error.to_string();
        match error {
            SupervisorError::Invalid(violations) => Self::invalid(violations),
            SupervisorError::NotFound(_)
            | SupervisorError::OfOthers(..)
            | SupervisorError::NoToken(_) => Self::new(Code::NotFound, text),
            SupervisorError::TokenExpired(_) => Self::new(Code::WrongState, text),
            SupervisorError::TokensExhausted(_) => Self::new(Code::TokensExhausted, text),
            SupervisorError::NameTaken(_) | SupervisorError::TokenNameTaken(_) => {
                Self::new(Code::NameTaken, text)
            }
            SupervisorError::TemplateUnavailable { .. } => {
                Self::new(Code::TemplateUnavailable, text)
            }
            SupervisorError::WrongState { .. } => Self::new(Code::WrongState, text),
            SupervisorError::PortsExhausted { .. } => Self::new(Code::PortsExhausted, text),
            SupervisorError::DescriptorsExhausted(_) => Self::new(Code::DescriptorsExhausted, text),
            SupervisorError::InstancesExhausted(_) => Self::new(Code::InstancesExhausted, text),
            SupervisorError::OverBudget(_) => Self::new(Code::OverBudget, text),
            SupervisorError::Busy => Self::new(Code::Busy, text),
            SupervisorError::ActorFailed => Self::new(Code::ActorFailed, text),
            SupervisorError::ShuttingDown => Self::new(Code::ShuttingDown, text),
            // The store's sentence names a host or a file at most, never a password, and only administrators ask.
            SupervisorError::Unavailable(reason) => Self::new(
                Code::DatabaseUnavailable,
                format!("the database is away: {reason}; instances go on, try again soon"),
            ),
            SupervisorError::Internal(internal) => Self::internal(internal),
        }
    }
}

impl From<LogStoreError> for ApiError {
    fn from(error: LogStoreError) -> Self {
        match error {
            LogStoreError::Unavailable(reason) => StoreError::Unavailable(reason).into(),
            refused @ LogStoreError::Refused(_) => Self::internal(refused.to_string()),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::NotFound => Self::new(Code::NotFound, "it is not there any more"),
            StoreError::Conflict("name") => Self::new(Code::NameTaken, "the name is taken"),
            StoreError::Conflict(_) => Self::new(
                Code::Conflict,
                "someone else changed it at the same time; look at it again",
            ),
            StoreError::Unavailable(internal) => SupervisorError::Unavailable(internal).into(),
            StoreError::Corrupt { .. } | StoreError::Refused(_) => Self::internal(text),
        }
    }
}

impl From<SecretsError> for ApiError {
    fn from(error: SecretsError) -> Self {
        match error {
            SecretsError::Store(error) => error.into(),
            SecretsError::ReadOnly(reason) => Self::new(Code::WrongState, reason),
            other => Self::internal(other.to_string()),
        }
    }
}

impl From<TaskError> for ApiError {
    fn from(error: TaskError) -> Self {
        let text = error.to_string();
        match error {
            TaskError::Unknown { .. } => Self::new(Code::NotFound, text),
            other => Self::internal(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::domain::state::StatusWord;

    #[test]
    fn words_are_unique_and_every_code_is_an_error() {
        let mut words: Vec<_> = Code::ALL.iter().map(|code| code.word()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.status().is_client_error() || code.status().is_server_error());
            assert!(
                code.word()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'-')
            );
        }
    }

    #[test]
    fn every_refusal_of_the_supervisor_has_its_status() {
        let unavailable = || SupervisorError::TemplateUnavailable {
            name: "git".into(),
            reason: "mcp-server-git is not installed: pip install mcp-server-git".into(),
        };
        let table = [
            (SupervisorError::Invalid(vec![]), 422, "validation-failed"),
            (SupervisorError::NotFound("x".into()), 404, "not-found"),
            (
                SupervisorError::OfOthers("x".into(), "a.x".into()),
                404,
                "not-found",
            ),
            (SupervisorError::NameTaken("x".into()), 409, "name-taken"),
            (unavailable(), 409, "template-unavailable"),
            (
                SupervisorError::WrongState {
                    verb: "restore",
                    status: StatusWord::Running,
                    allowed: "only an expired instance can be restored",
                },
                409,
                "wrong-state",
            ),
            (
                SupervisorError::PortsExhausted {
                    min: 3001,
                    max: 3999,
                    leased: 990,
                    quarantined: 9,
                    foreign: 0,
                },
                507,
                "ports-exhausted",
            ),
            (
                SupervisorError::DescriptorsExhausted(1_024),
                507,
                "descriptors-exhausted",
            ),
            (
                SupervisorError::InstancesExhausted(900),
                507,
                "instances-exhausted",
            ),
            (SupervisorError::Busy, 503, "busy"),
            (SupervisorError::ActorFailed, 503, "actor-failed"),
            (SupervisorError::ShuttingDown, 503, "shutting-down"),
            (
                SupervisorError::Unavailable("db:5432 refused".into()),
                503,
                "database-unavailable",
            ),
            (SupervisorError::Internal("oops".into()), 500, "internal"),
        ];
        for (error, status, word) in table {
            let error = ApiError::from(error);
            assert_eq!(error.code().status().as_u16(), status, "{word}");
            assert_eq!(error.code().word(), word);
        }
        let detail = ApiError::from(unavailable()).problem("r").detail;
        assert!(detail.contains("pip install"), "{detail}");
    }

    #[test]
    fn every_failure_of_the_store_has_its_status() {
        let corrupt = StoreError::Corrupt {
            table: "instances",
            column: "state",
            id: "secret-id".into(),
        };
        for (error, status, word) in [
            (StoreError::NotFound, 404, "not-found"),
            (StoreError::Conflict("name"), 409, "name-taken"),
            (StoreError::Conflict("generation"), 409, "conflict"),
            (
                StoreError::Unavailable("x".into()),
                503,
                "database-unavailable",
            ),
            (corrupt, 500, "internal"),
            (StoreError::Refused("syntax near x".into()), 500, "internal"),
        ] {
            let error = ApiError::from(error);
            let problem = error.problem("r");
            assert_eq!((problem.status, problem.code.as_str()), (status, word));
            assert!(!problem.detail.contains("secret-id"), "{}", problem.detail);
            assert!(!problem.detail.contains("syntax"), "{}", problem.detail);
        }
    }

    #[tokio::test]
    async fn internal_text_never_reaches_the_caller() {
        let error = ApiError::internal("password=hunter2");
        assert_eq!(error.internal_text(), Some("password=hunter2"));
        let response = error.render(Response::default(), "req-1");
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()["content-type"], PROBLEM_JSON);
        let body = response.into_body().collect().await.expect("body");
        let text = String::from_utf8(body.to_bytes().to_vec()).expect("text");
        assert!(
            !text.contains("hunter2") && text.contains("req-1"),
            "{text}"
        );
    }

    #[test]
    fn trouble_that_passes_says_when_to_try_again() {
        for code in Code::ALL {
            let response = ApiError::new(*code, "x").render(Response::default(), "r");
            assert_eq!(
                response.headers().contains_key("retry-after"),
                code.status() == 503,
                "{code:?}"
            );
        }
    }
}
