//! What the gateway needs to know of an instance to serve its access URL: published by the supervisor, read by the
//! gateway on every request without a lock that waits and without a database.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::future::BoxFuture;
use tokio::{net::TcpListener, sync::watch, time::timeout};

use super::{
    access::TokenSet,
    session_child::{LeftMembers, MemberDesk},
    uses::Uses,
};
use crate::{
    domain::{
        UnixMs,
        budget::Held,
        capability::ListKind,
        id::{Generation, InstanceId},
        slug::Slug,
        state::StatusWord,
    },
    traces::Asked,
    upstream::{Failure, Handshake, Upstream},
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

/// How long a request waits for what is kept of a server, before the server is awaited.
const RECALL_MAX: Duration = Duration::from_secs(2);

/// Asks the supervisor to launch an instance that sleeps, or to let one that is frozen go on. Called from a request: must not block.
pub type WakeHook = Arc<dyn Fn() + Send + Sync>;

/// Makes the arguments of a call fit for its record: without the instance's secrets. Called from a request: must not
/// block.
pub type ArgumentsHook = Box<dyn Fn(&str) -> String + Send + Sync>;

/// One instance as the gateway sees it.
pub struct Route {
    /// The instance.
    pub id: InstanceId,
    /// What it is called among the instances of all owners.
    pub slug: ArcSwap<Slug>,
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
    /// Requests that wait for it to be ready now; see [`Route::wait`].
    pub demand: Arc<AtomicU64>,
    /// Why its launch waits for room; `None`: it does not.
    pub held: Arc<watch::Sender<Option<Arc<Held>>>>,
    /// Who uses it now.
    pub uses: Arc<Uses>,
    /// Wakes it.
    pub wake: WakeHook,
    /// Who asked for its next launch, for the trace of that launch.
    pub asked: Asked,
    /// Where a new client session gets a child of its own; `None`: sessions share the main child.
    pub members: ArcSwapOption<MemberDesk>,
    /// Children of client sessions of a former daemon, until the gateway has taken its sessions back.
    pub left: LeftMembers,
    /// What is kept of what its server offers.
    pub recall: Recall,
}

/// What a server said before it went to sleep, or in its last life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recalled {
    /// Of itself.
    pub handshake: Handshake,
    /// The list that was asked for, as a raw result; `None`: it is not known.
    pub list: Option<String>,
    /// How long ago it said so, in milliseconds.
    pub age_ms: u64,
}

type RecallHook =
    Box<dyn Fn(Option<ListKind>) -> BoxFuture<'static, Option<Recalled>> + Send + Sync>;

/// Asks for what is kept of a server, which lies in the database.
#[derive(Default)]
pub struct Recall {
    /// Something may be kept.
    may: AtomicBool,
    ask: Option<RecallHook>,
}

impl Recall {
    pub(super) fn new(
        may: bool,
        ask: impl Fn(Option<ListKind>) -> BoxFuture<'static, Option<Recalled>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            may: AtomicBool::new(may),
            ask: Some(Box::new(ask)),
        }
    }

    /// Whether it is worth to ask.
    #[must_use]
    pub fn may(&self) -> bool {
        self.may.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, may: bool) {
        self.may.store(may, Ordering::Relaxed);
    }

    /// What is kept, if it still says what the server would say, as far as can be known; with this list, if one is
    /// asked for. `None` too when the database does not answer in time.
    pub async fn ask(&self, kind: Option<ListKind>) -> Option<Recalled> {
        let ask = self.ask.as_ref().filter(|_| self.may())?;
        timeout(RECALL_MAX, ask(kind)).await.ok()?
    }
}

/// A request that waits for an instance; dropping it ends the wait.
#[derive(Debug)]
pub struct Waits(Arc<AtomicU64>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Route {
    /// Somebody waits for it to be ready: its launch goes before those that nobody waits for.
    #[must_use]
    pub fn wait(&self) -> Waits {
        self.demand.fetch_add(1, Ordering::Relaxed);
        Waits(Arc::clone(&self.demand))
    }
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
    /// A child whose processes hold still until a request wakes it.
    Frozen {
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
            Self::Frozen { generation, .. } => write!(f, "Frozen({generation})"),
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
        /// The bound, listening socket, shared with who gives it to the next keeper: a second descriptor for each of
        /// thousands of instances would be half of all that a process may have.
        listener: Arc<TcpListener>,
    },
    /// Secrets of its access tokens are valid no more: what they opened ends.
    TokensChanged {
        /// The instance.
        id: InstanceId,
    },
    /// Its server offers something else than was answered for it before this launch.
    ListsChanged {
        /// The instance.
        id: InstanceId,
        /// The launch.
        generation: Generation,
        /// The notifications that tell of it.
        news: Vec<&'static str>,
    },
    /// Stop serving it and close the socket; open connections end after their answers under way.
    Close {
        /// The instance.
        id: InstanceId,
    },
}
