//! What the gateway needs to know of an instance to serve its access URL: published by the supervisor, read by the
//! gateway on every request without a lock that waits and without a database.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;

use super::access::TokenSet;
use crate::{
    domain::{
        UnixMs,
        id::{Generation, InstanceId, InstanceName},
        state::StatusWord,
    },
    upstream::{Failure, Upstream},
};

/// What an instance may tell of itself to anyone: never a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// What people call its template.
    pub title: String,
    /// What its server does.
    pub description: String,
    /// Where to read more.
    pub homepage: Option<String>,
    /// The version that its server told last; empty: none yet.
    pub version: String,
}

/// Asks the supervisor to launch an instance that sleeps. Called from a request: must not block.
pub type WakeHook = Arc<dyn Fn() + Send + Sync>;

/// Makes the arguments of a call fit for its record: without the instance's secrets. Called from a request: must not
/// block.
pub type ArgumentsHook = Box<dyn Fn(&str) -> String + Send + Sync>;

/// One instance as the gateway sees it.
pub struct Route {
    /// The instance.
    pub id: InstanceId,
    /// Its name, for messages to people.
    pub name: ArcSwap<InstanceName>,
    /// The key of its row.
    pub key: i64,
    /// Redacts the arguments of a call, for its record; `None` when the template wants none kept.
    pub arguments: ArcSwapOption<ArgumentsHook>,
    /// What its server card tells.
    pub about: ArcSwap<About>,
    /// The tokens that open it.
    pub tokens: ArcSwap<TokenSet>,
    /// What stands behind it now.
    pub state: watch::Receiver<RouteState>,
    /// When a client last used it, unix milliseconds; 0: never. Written by the gateway, stored by the supervisor.
    pub last_accessed_ms: AtomicI64,
    /// Requests with a good token since the daemon started.
    pub requests: AtomicU64,
    /// Client sessions now.
    pub sessions: AtomicU64,
    /// Wakes it.
    pub wake: WakeHook,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// What stands behind an access URL.
#[derive(Clone)]
pub enum RouteState {
    /// A child that answers.
    Ready {
        /// The connection to it.
        upstream: Arc<Upstream>,
        /// Its launch.
        generation: Generation,
    },
    /// A child is on its way up, or its next launch is due soon: requests wait for the wake budget.
    Starting,
    /// Nothing that will answer by itself soon.
    Down {
        /// What it is.
        word: StatusWord,
        /// Since when.
        since: UnixMs,
        /// Why, when a child's end is the reason.
        failure: Option<Arc<Failure>>,
        /// When to try again, in seconds, if that can help.
        retry_after_s: Option<u32>,
    },
    /// Deleted.
    Gone,
}

impl fmt::Debug for RouteState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { generation, .. } => write!(f, "Ready({generation})"),
            Self::Starting => f.write_str("Starting"),
            Self::Down { word, .. } => write!(f, "Down({word})"),
            Self::Gone => f.write_str("Gone"),
        }
    }
}

/// Opens and closes access ports at the gateway.
#[derive(Debug)]
pub enum AccessEvent {
    /// Serve this listener; it stays bound across restarts of the instance.
    Open {
        /// The instance behind it.
        route: Arc<Route>,
        /// The bound, listening socket; the gateway makes it non-blocking.
        listener: std::net::TcpListener,
    },
    /// Secrets of its access tokens are valid no more: what they opened ends.
    TokensChanged {
        /// The instance.
        id: InstanceId,
    },
    /// Stop serving it and close the socket; open connections end after their answers under way.
    Close {
        /// The instance.
        id: InstanceId,
    },
}
