//! The MCP connection to one life of one child.
//!
//! The supervisor makes one per launch, does the handshake and the probes through it, and tells it when the child
//! died. The gateway relays the calls of many client sessions through it: ids and progress tokens are rewritten
//! both ways, everything else stays as it is, byte for byte.

mod aside;
mod call;
mod completion;
mod dispatch;
mod failure;
mod framer;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(test)]
mod gathered_tests;
mod handshake;
mod http;
mod http_connect;
mod http_handshake;
mod http_headers;
mod http_streams;
mod http_wire;
mod id_hash;
mod in_flight;
#[cfg(test)]
mod in_flight_tests;
mod keys;
mod lifeline;
mod mailbox;
mod members;
mod message;
mod news;
mod offer;
mod one_pass;
mod param_headers;
mod remote;
mod remote_connect;
mod rounds;
#[cfg(test)]
mod rounds_tests;
#[cfg(test)]
pub(crate) mod scripted;
mod sse;
mod stdio;
#[cfg(test)]
mod tests;
mod tools;
mod translate;
#[cfg(test)]
mod translate_tests;
mod wire;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::net::unix::pipe;

use crate::{
    clock::Clock,
    domain::template::{EraPolicy, UnclaimedRequests},
};

use crate::runtime::Workload;

pub use aside::Aside;
pub use call::{Call, First};
pub use completion::Completion;
pub use failure::{
    Failure, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, MISSING_CAPABILITY,
    PARSE_ERROR, error_message, result_message,
};
pub use handshake::{Era, Handshake, LEGACY_LATEST, LEGACY_VERSIONS, MODERN, negotiate};
pub use http::{HttpLink, RelayedCall};
pub use http_connect::ChildConnector;
pub use in_flight::{Caller, LOG_LEVELS, SessionKey, wants_level};
pub use mailbox::{Item, Mailbox};
pub use message::{
    Envelope, EnvelopeError, Kind, Raw, RawObject, Word, has_numbered_characters, is_id, quote,
    splice, splice_text, unquote, unquoted,
};
pub use news::{Interest, NEWS_KINDS};
pub use offer::{LIST_BYTES_MAX, Offer, list_entries};
pub use param_headers::{ParamHeader, of_tool as param_headers_of};
pub use remote::RemoteServer;
pub use remote_connect::{Dial, trusted};
pub use tools::ListedTool;
pub use translate::Declared;
pub use wire::NotSent;

use dispatch::Stream;
use http_headers::{Standing, ToolHeaders};
use http_wire::Posts;
use in_flight::{Refused, Table};
use stdio::Pipe;
use wire::{Output, Wire};

/// Gets each line of a stdio child's stdout that is not JSON-RPC, without its end; called from the reader task, so
/// it must not block.
pub type NoiseSink = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// Limits of a connection.
#[derive(Debug, Clone)]
pub struct UpstreamOptions {
    /// Longest line from a stdio child, and longest answer read from an HTTP child by our own calls, in bytes.
    pub line_limit_bytes: usize,
    /// How long a call may go without any sign of life.
    pub call_timeout: Duration,
    /// How long each step of the handshake may take.
    pub handshake_timeout: Duration,
    /// Which era of MCP is spoken.
    pub era: EraPolicy,
    /// What happens to requests of the child that could belong to several clients.
    pub unclaimed_requests: UnclaimedRequests,
    /// Whether its list of tools is kept in its own words until [`Upstream::offer`] takes it.
    pub keeps_lists: bool,
}

impl Default for UpstreamOptions {
    fn default() -> Self {
        Self {
            line_limit_bytes: 16 << 20,
            call_timeout: Duration::from_secs(300),
            handshake_timeout: Duration::from_secs(60),
            era: EraPolicy::default(),
            unclaimed_requests: UnclaimedRequests::default(),
            keeps_lists: false,
        }
    }
}

/// Why a server did not do what we asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// The child is gone.
    #[error("{}", .0.cause)]
    Failed(Arc<Failure>),
    /// It did not answer in time.
    #[error("it did not answer {method} within {waited_ms} ms")]
    Timeout {
        /// What was asked.
        method: String,
        /// How long we waited, in milliseconds.
        waited_ms: u64,
    },
    /// It answered with an error.
    #[error("it answered {method} with an error: {message} ({code})")]
    Rpc {
        /// What was asked.
        method: String,
        /// The JSON-RPC code.
        code: i64,
        /// The message, cut at 500 characters.
        message: String,
    },
    /// What it sent is not MCP.
    #[error("{0}")]
    Protocol(String),
    /// The message did not go out.
    #[error(transparent)]
    NotSent(#[from] NotSent),
    /// Too many calls are under way.
    #[error("{0} calls are under way at this server, the most that it may have")]
    Full(usize),
    /// Nobody listens at the port of the child's HTTP server, or not yet.
    #[error("its HTTP server cannot be reached: {0}")]
    NotListening(String),
    /// A server elsewhere cannot be reached, or does not serve us: why, and what to do.
    #[error("{0}")]
    Elsewhere(String),
    /// The HTTP server of the child broke off.
    #[error("its HTTP server did not answer: {0}")]
    Http(String),
}

impl From<Refused> for UpstreamError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Failed(failure) => Self::Failed(failure),
            Refused::Full => Self::Full(in_flight::CALLS_MAX),
        }
    }
}

/// Gets what a child tells all its clients; implemented by the gateway. Called from the reader task: must not block.
pub trait Downstream: Send + Sync {
    /// A notification that belongs to no call. `message` is the whole line.
    fn notification(&self, method: &str, params: Option<Raw<'_>>, message: Bytes);

    /// The child's HTTP server forgot our session and opened a new one: what the clients wished must be told again.
    fn renewed(&self) {}
}

enum Link {
    Stdio(Arc<Pipe>),
    Http(Arc<HttpLink>),
}

/// The connection. Dropping the last handle ends its reader task and closes our pipe ends.
pub struct Upstream {
    link: Link,
    wire: Arc<Wire>,
    options: UpstreamOptions,
    handshake: ArcSwapOption<Handshake>,
    downstream: Arc<OnceLock<Weak<dyn Downstream>>>,
    listing: tools::Listing,
}

impl Upstream {
    /// Speaks with a stdio child over our ends of its pipes, which become non-blocking. Spawns the reader task, so it
    /// must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When a descriptor is not the right end of a pipe, or cannot be registered.
    pub fn over_stdio(
        stdin: OwnedFd,
        stdout: OwnedFd,
        options: UpstreamOptions,
        noise: NoiseSink,
    ) -> io::Result<Arc<Self>> {
        let pipe = Arc::new(Pipe::new(stdin)?);
        let wire = Arc::new(Wire::new(
            Output::Pipe(pipe.clone()),
            Table::new(first_id(), options.unclaimed_requests),
            options.call_timeout,
        ));
        let stdout = pipe::Receiver::from_owned_fd(stdout)?;
        let downstream: Arc<OnceLock<Weak<dyn Downstream>>> = Arc::default();
        let (limit, heard) = (options.line_limit_bytes, downstream.clone());
        let (reader, stdin) = (wire.clone(), pipe.clone());
        tokio::spawn(async move {
            let hub = reader.clone();
            stdio::read_lines(reader, stdin, stdout, limit, |frame| {
                dispatch::frame(&hub, Stream::Shared, &frame, limit, &noise, || {
                    heard.get().and_then(Weak::upgrade)
                });
            })
            .await;
        });
        Ok(Arc::new(Self {
            link: Link::Stdio(pipe),
            wire,
            options,
            handshake: ArcSwapOption::empty(),
            downstream,
            listing: tools::Listing::default(),
        }))
    }

    /// Speaks with an HTTP child at `http://addr` + `path`; `inside`: in the network namespace of this child. Spawns
    /// tasks when it is used, so it must be used inside a tokio runtime.
    #[must_use]
    pub fn over_http(
        addr: SocketAddr,
        path: String,
        inside: Option<Workload>,
        options: UpstreamOptions,
        noise: NoiseSink,
    ) -> Arc<Self> {
        let link = HttpLink::new(addr, path, options.line_limit_bytes, inside);
        Self::over_link(link, options, noise)
    }

    /// Speaks with a server elsewhere. Spawns tasks when it is used, so it must be used inside a tokio runtime.
    #[must_use]
    pub fn over_remote(
        server: RemoteServer,
        options: UpstreamOptions,
        noise: NoiseSink,
    ) -> Arc<Self> {
        let link = HttpLink::elsewhere(server, options.line_limit_bytes);
        Self::over_link(link, options, noise)
    }

    fn over_link(link: HttpLink, options: UpstreamOptions, noise: NoiseSink) -> Arc<Self> {
        let link = Arc::new(link);
        let downstream: Arc<OnceLock<Weak<dyn Downstream>>> = Arc::default();
        let wire = Arc::new_cyclic(|wire| {
            let posts = Posts::new(
                link.clone(),
                wire.clone(),
                noise,
                downstream.clone(),
                options.handshake_timeout,
            );
            let table = Table::new(first_id(), options.unclaimed_requests);
            Wire::new(Output::Http(posts), table, options.call_timeout)
        });
        Arc::new(Self {
            link: Link::Http(link),
            wire,
            options,
            handshake: ArcSwapOption::empty(),
            downstream,
            listing: tools::Listing::default(),
        })
    }

    /// The HTTP side, for a child that has one.
    #[must_use]
    pub fn http(&self) -> Option<&HttpLink> {
        match &self.link {
            Link::Http(link) => Some(link),
            Link::Stdio(_) => None,
        }
    }

    /// Who gets the notifications that belong to no call. The first one stays.
    pub fn attach(&self, downstream: Weak<dyn Downstream>) {
        let _ = self.downstream.set(downstream);
    }

    /// Whether the child's HTTP server speaks with clients of this era itself, so that their requests can be relayed
    /// as they are. Always `false` over pipes.
    #[must_use]
    pub fn speaks(&self, era: Era) -> bool {
        self.http().is_some()
            && self
                .handshake
                .load()
                .as_ref()
                .is_none_or(|handshake| handshake.era == era || handshake.both_eras)
    }

    /// Somebody wants to hear what a session-era child says outside of all calls. Over pipes it is always heard.
    pub fn hear_standing(&self) {
        self.wire.hear_standing();
    }

    /// Takes over a child that was already initialized, instead of a handshake.
    pub fn adopt(&self, handshake: Handshake) {
        if let Link::Http(link) = &self.link {
            *link.tools() = ToolHeaders::known(&handshake);
            if link.standing().is_none() {
                link.set_standing(Standing {
                    era: handshake.era,
                    version: Some(handshake.protocol_version.clone()),
                    session: handshake.http_session.clone(),
                    epoch: 0,
                });
            }
        }
        self.handshake.store(Some(Arc::new(handshake)));
    }

    /// What the child told of itself; `None` before the handshake.
    #[must_use]
    pub fn handshake_snapshot(&self) -> Option<Arc<Handshake>> {
        self.handshake.load_full()
    }

    /// The limits in force.
    #[must_use]
    pub fn options(&self) -> &UpstreamOptions {
        &self.options
    }

    /// Calls that ended without an answer in time, since this connection began.
    #[must_use]
    pub fn overdue(&self) -> u64 {
        self.wire.overdue()
    }

    /// Counts a relayed call that ended without an answer in time.
    pub fn count_overdue(&self) {
        self.wire.count_overdue();
    }

    /// Calls under way; those that are relayed to an HTTP child too.
    #[must_use]
    pub fn calls(&self) -> usize {
        let relayed = self.http().map_or(0, HttpLink::relayed);
        self.wire.table().calls() + relayed
    }

    /// Calls of clients under way, those that are relayed to an HTTP child too, but none of the daemon's own.
    #[must_use]
    pub fn client_calls(&self) -> usize {
        let relayed = self.http().map_or(0, HttpLink::relayed);
        self.wire.table().client_calls() + relayed
    }

    /// When a call of a client that is not relayed ended last; `None`: none did yet.
    #[must_use]
    pub fn last_call_ended(&self) -> Option<tokio::time::Instant> {
        self.wire.table().last_ended()
    }

    /// Resolves with the cause when the child can never answer again although it may live: stdout closed, a pipe
    /// failed. Never resolves for an HTTP child.
    pub fn broken(&self) -> impl Future<Output = String> + Send + 'static {
        let watch = match &self.link {
            Link::Stdio(_) => Some(self.wire.watch_broken()),
            Link::Http(_) => None,
        };
        async move {
            if let Some(mut watch) = watch
                && let Ok(cause) = watch.wait_for(Option::is_some).await
                && let Some(cause) = cause.as_ref()
            {
                return cause.clone();
            }
            std::future::pending().await
        }
    }

    /// The child died or is being stopped: every call under way is answered at once with this failure, and every
    /// later one too.
    pub fn fail_all(&self, failure: Failure) {
        let failure = Arc::new(failure);
        self.wire.table().fail_all(failure.clone());
        if let Link::Http(link) = &self.link {
            link.fail_all(failure);
            self.wire.shut();
        }
    }

    /// The failure that ended this connection, if one did.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<Failure>> {
        self.wire.table().failure()
    }

    /// Closes our end of the child's stdin: the first step of a polite stop. Nothing for an HTTP child; a server
    /// elsewhere is told that our session is over.
    pub fn close_stdin(&self) {
        match &self.link {
            Link::Stdio(pipe) => pipe.close_stdin(),
            Link::Http(link) => {
                if let Some(standing) = link.standing().filter(|_| link.is_remote()) {
                    let link = link.clone();
                    tokio::spawn(async move { link.say_goodbye(&standing).await });
                }
            }
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // A child that lives on under the next daemon must not tell news to this one for ever.
        self.hear(None);
        self.wire.shut();
    }
}

/// Wall time in microseconds: a later daemon starts above every id that an earlier one used, unless that one made more
/// than a million calls a second to one child or the clock was set back; and 53 bits hold it, so that JavaScript children keep every digit.
fn first_id() -> u64 {
    u64::try_from(Clock::System.now()).unwrap_or(0) * 1_000
}
