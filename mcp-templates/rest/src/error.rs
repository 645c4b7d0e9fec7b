//! What went wrong upstream, in words that tell a language model what to do next.

use std::{fmt, time::Duration};

/// The kind of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The server lacks a credential or a setting; the text says which.
    NotConfigured(String),
    /// The arguments cannot be sent as they are; the text says why.
    BadArgument(String),
    /// 401: the credential is not accepted.
    Unauthorized,
    /// 403 that is no rate limit.
    Forbidden,
    /// 404 or 410.
    NotFound,
    /// 409 or 412.
    Conflict,
    /// 400 or 422: upstream refuses the arguments.
    Refused,
    /// 429, or 403 by a rate limit; how long to wait, when upstream tells.
    RateLimited(Option<Duration>),
    /// Another status of 400 or more.
    Status,
    /// A redirect that is not followed, because it leads to another host or the call changes something.
    Redirected,
    /// No answer in time.
    Timeout,
    /// No connection, or it broke.
    Network,
    /// The answer is larger than this many bytes.
    TooLarge(usize),
    /// The answer is not what the API promises.
    Malformed,
}

/// What is known of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub trouble: Trouble,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// What upstream said, cut short, without control characters and secrets.
    pub said: Option<String>,
    /// Upstream's word for programs, such as `invalid_grant` or `insufficientPermissions`.
    pub reason: Option<String>,
    /// How long upstream asks to wait.
    pub retry_after: Option<Duration>,
    /// Whether the call may have taken effect nevertheless.
    pub maybe_done: bool,
    /// What the headers asked for by [`crate::ClientSpec::telling_headers`] say.
    pub headers: Vec<(&'static str, String)>,
}

impl Failure {
    /// What the header `name` says, lower case; of those in [`crate::ClientSpec::telling_headers`].
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| *known == name)?;
        Some(value)
    }
}

/// A failed call, fit to be shown: it holds no secret and no address but the host's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The service, such as `GitHub`.
    pub service: &'static str,
    /// What is known; boxed, for it is large and rare.
    pub failure: Box<Failure>,
    /// What to do next, where the service's own knowledge says more than the kind.
    pub advice: Option<String>,
}

impl Error {
    /// A failure without an answer from upstream.
    #[must_use]
    pub fn new(service: &'static str, trouble: Trouble) -> Self {
        Self {
            service,
            failure: Box::new(Failure {
                trouble,
                status: None,
                said: None,
                reason: None,
                retry_after: None,
                maybe_done: false,
                headers: Vec::new(),
            }),
            advice: None,
        }
    }

    /// An argument that cannot be sent; `message` says why and what is allowed.
    #[must_use]
    pub fn argument(service: &'static str, message: impl Into<String>) -> Self {
        Self::new(service, Trouble::BadArgument(message.into()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = self.service;
        let failure = &*self.failure;
        match &failure.trouble {
            Trouble::NotConfigured(message) | Trouble::BadArgument(message) => {
                f.write_str(message)?
            }
            Trouble::Unauthorized => write!(f, "{service} does not accept the credential")?,
            Trouble::Forbidden => write!(
                f,
                "{service} does not allow this with the credential in use"
            )?,
            Trouble::NotFound => write!(f, "{service} found no such thing")?,
            Trouble::Conflict => write!(f, "{service} reports a conflict with the present state")?,
            Trouble::Refused => write!(f, "{service} refuses these arguments")?,
            Trouble::RateLimited(_) => write!(f, "The rate limit of {service} is reached")?,
            Trouble::Status => write!(f, "{service} failed")?,
            Trouble::Redirected => {
                write!(f, "{service} answered with a redirect that is not followed")?
            }
            Trouble::Timeout => write!(f, "{service} did not answer in time")?,
            Trouble::Network => {
                write!(f, "{service} could not be reached, or the connection broke")?
            }
            Trouble::TooLarge(max) => {
                write!(f, "The answer of {service} is larger than {max} bytes")?
            }
            Trouble::Malformed => write!(
                f,
                "{service} answered something that is not what its API promises"
            )?,
        }
        if let Some(status) = failure.status {
            write!(f, " (HTTP {status})")?;
        }
        f.write_str(".")?;
        if let Some(said) = &failure.said {
            write!(f, " It said: {said}")?;
            if !said.ends_with(['.', '!', '?']) {
                f.write_str(".")?;
            }
        }
        if failure.maybe_done {
            f.write_str(" The change may have taken effect: look before you try again.")?;
        }
        if let Some(advice) = &self.advice {
            return write!(f, " {advice}");
        }
        match &failure.trouble {
            Trouble::NotConfigured(_) | Trouble::BadArgument(_) => Ok(()),
            Trouble::Unauthorized => f.write_str(
                " Do not try again: ask the user to store a valid credential and restart this server.",
            ),
            Trouble::Forbidden => f.write_str(
                " Do not try again: ask the user whether the credential has the permission this needs.",
            ),
            Trouble::NotFound => f.write_str(
                " Check the names and numbers; it may also be private and hidden from the credential in use.",
            ),
            Trouble::Conflict => f.write_str(" Read the present state, then decide anew."),
            Trouble::Refused => f.write_str(" Correct the arguments before you try again."),
            Trouble::RateLimited(Some(wait)) => write!(
                f,
                " Try again in {} seconds, not before.",
                wait.as_secs().max(1)
            ),
            Trouble::RateLimited(None) => f.write_str(" Wait a minute before you try again."),
            Trouble::Status if failure.status.is_some_and(|status| status >= 500) => {
                match failure.retry_after {
                    Some(wait) => write!(
                        f,
                        " The fault is on its side; try again in {} seconds.",
                        wait.as_secs().max(1)
                    ),
                    None => f.write_str(" The fault is on its side; try again in a minute."),
                }
            }
            Trouble::Timeout | Trouble::Network if !failure.maybe_done => {
                f.write_str(" Try again in a minute; if it goes on, tell the user that the network is at fault.")
            }
            Trouble::TooLarge(_) => f.write_str(" Ask for less: narrow the request or ask for pages."),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for String {
    /// The text of a tool result with `isError`.
    fn from(error: Error) -> Self {
        error.to_string()
    }
}
