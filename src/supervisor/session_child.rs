//! Children that serve one client session each, as the gateway sees them: where a new session gets one, and those that a
//! former daemon left.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{duration::HumanDuration, id::Generation},
    upstream::{Failure, Upstream},
};

/// Where client sessions of a per-session instance get their members.
#[derive(Debug)]
pub struct MemberDesk {
    /// Most members at the same time.
    pub members_max: usize,
    wishes: mpsc::Sender<oneshot::Sender<Result<SessionChild, MemberRefused>>>,
}

impl MemberDesk {
    /// A desk whose wishes go there.
    #[must_use]
    pub fn new(
        members_max: usize,
        wishes: mpsc::Sender<oneshot::Sender<Result<SessionChild, MemberRefused>>>,
    ) -> Self {
        Self {
            members_max,
            wishes,
        }
    }

    /// Has a member launched and waits for its handshake. Dropping the future calls the launch off.
    ///
    /// # Errors
    /// [`MemberRefused`]; nothing is left then.
    pub async fn open(&self, patience: Duration) -> Result<SessionChild, MemberRefused> {
        let (reply, answer) = oneshot::channel();
        self.wishes.try_send(reply).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => MemberRefused::Full(self.members_max),
            mpsc::error::TrySendError::Closed(_) => MemberRefused::Down,
        })?;
        match timeout(patience, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(MemberRefused::Down),
            Err(_) => Err(MemberRefused::Late(patience)),
        }
    }
}

/// Why a session got no member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberRefused {
    /// It could not be started, or ended before its handshake was done.
    Failed(Arc<Failure>),
    /// So many are in use, the most that there may be.
    Full(usize),
    /// The instance does not run.
    Down,
    /// It was not ready after so long.
    Late(Duration),
}

/// What a session and the owner of its child tell each other.
#[derive(Debug, Clone, Default)]
pub struct Bond {
    /// The session ended.
    pub unwanted: CancellationToken,
    /// The session that a former daemon gave the child to goes on.
    pub claimed: CancellationToken,
    /// The child is gone, and its calls are answered.
    pub over: CancellationToken,
}

/// A child that serves one client session. Dropping it ends the child.
pub struct SessionChild {
    /// Its number within the instance, as logs and events name it.
    pub number: u32,
    /// The launch of the main child whose recipe it has.
    pub generation: Generation,
    /// How long its session is kept unused; `None`: as `gateway.session_idle` says.
    pub session_idle: Option<HumanDuration>,
    /// The connection to it.
    pub upstream: Arc<Upstream>,
    bond: Bond,
    stays: AtomicBool,
}

impl fmt::Debug for SessionChild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionChild({})", self.number)
    }
}

impl SessionChild {
    /// A child that ends when it is unwanted; its owner says when it is over.
    #[must_use]
    pub fn new(
        number: u32,
        generation: Generation,
        session_idle: Option<HumanDuration>,
        upstream: Arc<Upstream>,
        bond: Bond,
    ) -> Self {
        Self {
            number,
            generation,
            session_idle,
            upstream,
            bond,
            stays: AtomicBool::new(false),
        }
    }

    /// Its session goes on, after the daemon that began it.
    pub fn claim(&self) {
        self.bond.claimed.cancel();
    }

    /// Its session is over: the child ends in the order of MCP's stdio shutdown, unless it was let go.
    pub fn end(&self) {
        if !self.stays.load(Ordering::Acquire) {
            self.bond.unwanted.cancel();
        }
    }

    /// Its session goes on under the next daemon: what ends here ends no child.
    pub fn let_go(&self) {
        self.stays.store(true, Ordering::Release);
    }

    /// Cancelled once the child is gone and its calls are answered.
    #[must_use]
    pub fn over(&self) -> &CancellationToken {
        &self.bond.over
    }
}

impl Drop for SessionChild {
    fn drop(&mut self) {
        self.end();
    }
}

/// A member of a former daemon.
#[derive(Debug)]
pub struct LeftMember {
    /// Its number.
    pub number: u32,
    /// The launch of the main child whose recipe it has.
    pub generation: Generation,
    /// The child, which ends when this is dropped; or how it ended while no daemon looked, in one sentence.
    pub child: Result<SessionChild, String>,
}

/// The members that a former daemon left of one instance.
#[derive(Debug, Default)]
pub struct LeftMembers(Mutex<Left>);

#[derive(Debug)]
enum Left {
    /// They are being taken over.
    Awaited,
    Known(Vec<LeftMember>),
}

impl Default for Left {
    fn default() -> Self {
        Self::Known(Vec::new())
    }
}

impl LeftMembers {
    /// Those of an instance whose children are just being taken over.
    pub(super) fn awaited() -> Self {
        Self(Mutex::new(Left::Awaited))
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn settle(&self, members: Vec<LeftMember>) {
        *self.left() = Left::Known(members);
    }

    /// Whether it is known which there are. Until then no session may be taken back.
    #[must_use]
    pub fn are_known(&self) -> bool {
        matches!(*self.left(), Left::Known(_))
    }

    /// Hands them over, once.
    #[must_use]
    pub fn take(&self) -> Vec<LeftMember> {
        match &mut *self.left() {
            Left::Awaited => Vec::new(),
            Left::Known(members) => std::mem::take(members),
        }
    }
}
