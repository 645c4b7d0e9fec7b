//! Why a request through an access URL got an error: one of few words, in the metrics and in the log.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use uuid::Uuid;

use crate::domain::state::StatusWord;

use super::{Gateway, Place, Reply, access::Denied, reply::Unready};

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Why an answer has an HTTP status of 400 or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No access token was sent.
    NoToken,
    /// The one sent does not open this instance.
    WrongToken,
    /// The `Host` header names no host of ours.
    Host,
    /// The `Origin` header names a site that is not allowed.
    Origin,
    /// More requests than the access token may make.
    RateLimit,
    /// More calls at the same time than the access token may have.
    ConcurrencyLimit,
    /// The tool is outside of the access token's scope.
    Scope,
    /// The session is not there.
    NoSession,
    /// The instance is not up yet.
    Starting,
    /// Its owner's budget has no room for it.
    OverBudget,
    /// The machine's memory has no room for it.
    NoMemory,
    /// Somebody stopped it.
    Stopped,
    /// Its lease ran out.
    Expired,
    /// It was given up.
    GivenUp,
    /// It waits for its next launch, or is on its way up or down.
    BackingOff,
    /// It was deleted.
    Gone,
    /// The daemon ends, and the next one is to be asked.
    Ending,
    /// Something else about the request: any other status below 500.
    Request,
    /// Something else about the server: any other status from 500 on.
    Server,
}

impl Cause {
    /// The words, in the order of the causes.
    pub const WORDS: [&'static str; 19] = [
        "no-token",
        "wrong-token",
        "host",
        "origin",
        "rate-limit",
        "concurrency-limit",
        "scope",
        "no-session",
        "starting",
        "over-budget",
        "no-memory",
        "stopped",
        "expired",
        "given-up",
        "backing-off",
        "gone",
        "ending",
        "request",
        "server",
    ];

    /// Its place in [`Self::WORDS`].
    #[must_use]
    pub fn place(self) -> usize {
        self as usize
    }

    /// The word.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::WORDS[self.place()]
    }

    /// The cause that a reply was marked with, else what its status tells; `None`: it is no error.
    #[must_use]
    pub fn of(reply: &Reply) -> Option<Self> {
        let status = reply.status();
        if status < StatusCode::BAD_REQUEST {
            return None;
        }
        let marked = reply.extensions().get().copied();
        Some(marked.unwrap_or(match status.is_server_error() {
            true => Self::Server,
            false => Self::Request,
        }))
    }

    /// Marks a reply with the cause.
    #[must_use]
    pub fn mark(self, mut reply: Reply) -> Reply {
        reply.extensions_mut().insert(self);
        reply
    }
}

impl From<&Denied> for Cause {
    fn from(denied: &Denied) -> Self {
        match denied {
            Denied::NoToken => Self::NoToken,
            Denied::WrongToken => Self::WrongToken,
            Denied::Host => Self::Host,
            Denied::Origin => Self::Origin,
        }
    }
}

impl From<&Unready> for Cause {
    fn from(unready: &Unready) -> Self {
        match unready {
            Unready::Gone => Self::Gone,
            Unready::Starting { .. } => Self::Starting,
            Unready::NoRoom(held) => match held.owner() {
                Some(_) => Self::OverBudget,
                None => Self::NoMemory,
            },
            Unready::Down { word, .. } => match word {
                StatusWord::Stopped => Self::Stopped,
                StatusWord::Expired => Self::Expired,
                StatusWord::Failed => Self::GivenUp,
                _ => Self::BackingOff,
            },
        }
    }
}

impl Gateway {
    /// Counts an error and tells it with the id of its request, which the client gets, too; what is no error stays as it
    /// is, and costs a look at its status.
    pub(super) fn told(
        &self,
        place: Option<&Arc<Place>>,
        headers: &HeaderMap,
        mut reply: Reply,
    ) -> Reply {
        let Some(cause) = Cause::of(&reply) else {
            return reply;
        };
        self.measures.failed(cause);
        let request_id = request_id(headers);
        let instance = place.map(|place| place.route.id.to_string());
        let (cause, status) = (cause.word(), reply.status().as_u16());
        if status >= 500 {
            tracing::info!(%request_id, instance, cause, status, "a request through an access URL failed");
        } else {
            tracing::debug!(%request_id, instance, cause, status, "a request through an access URL was refused");
        }
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            reply.headers_mut().insert(&REQUEST_ID, value);
        }
        reply
    }
}

/// The client's own id if it is 1 to 64 of letters, digits, '.', '_' and '-', as with the API; else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let sent = headers
        .get(&REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    let is_ours = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    sent.filter(|text| (1..=64).contains(&text.len()) && text.bytes().all(is_ours))
        .map_or_else(|| Uuid::now_v7().simple().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::reply;

    #[test]
    fn every_error_has_one_of_the_words_and_nothing_else_has() {
        assert_eq!(Cause::of(&reply::empty(StatusCode::NO_CONTENT)), None);
        let plain = |status| Cause::of(&reply::empty(status)).map(Cause::word);
        assert_eq!(plain(StatusCode::NOT_FOUND), Some("request"));
        assert_eq!(plain(StatusCode::BAD_GATEWAY), Some("server"));
        assert_eq!(Cause::Server.place() + 1, Cause::WORDS.len());
        for (reply, word) in [
            (reply::denied(&Denied::NoToken), "no-token"),
            (reply::denied(&Denied::WrongToken), "wrong-token"),
            (reply::denied(&Denied::Host), "host"),
            (reply::denied(&Denied::Origin), "origin"),
            (reply::no_such_session("1"), "no-session"),
        ] {
            assert_eq!(Cause::of(&reply).map(Cause::word), Some(word));
        }
        let down = |word| Unready::Down {
            word,
            since: 0,
            failure: None,
            retry_after_s: None,
        };
        for (word, cause) in [
            (StatusWord::Stopped, "stopped"),
            (StatusWord::Expired, "expired"),
            (StatusWord::Failed, "given-up"),
            (StatusWord::Stopping, "backing-off"),
        ] {
            assert_eq!(Cause::from(&down(word)).word(), cause);
        }
    }

    #[test]
    fn a_request_id_of_the_client_is_kept_if_it_is_harmless() {
        let id = |sent: &str| {
            let value = HeaderValue::from_str(sent).expect("a value");
            request_id(&HeaderMap::from_iter([(REQUEST_ID.clone(), value)]))
        };
        assert_eq!(id("abc-1.2_3"), "abc-1.2_3");
        for bad in ["", "a b", "a\"b", &"x".repeat(65)] {
            assert_eq!(id(bad).len(), 32, "{bad}");
        }
    }
}
