//! One child, as the async side sees it.

use std::{
    fmt,
    future::Future,
    net::{TcpListener, UdpSocket},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::{DenialSheet, Denials, Isolation, Pidfd, RuntimeError, WorkloadId, usage};
use crate::domain::exit::{ExitStatus, ResourceUsage};

/// Our ends of a child's pipes; non-blocking, close-on-exec.
#[derive(Debug)]
pub struct Pipes {
    /// Write end of its stdin.
    pub stdin: OwnedFd,
    /// Read end of its stdout.
    pub stdout: OwnedFd,
    /// Read end of its stderr.
    pub stderr: OwnedFd,
}

/// Sockets in a child's network namespace on which its connections end; non-blocking, close-on-exec.
#[derive(Debug)]
pub struct Caught {
    /// Where it asks for names.
    pub dns: UdpSocket,
    /// One for each port that is caught, on every address.
    pub listeners: Vec<TcpListener>,
}

/// A network namespace of a child's own.
#[derive(Debug, Default)]
pub struct OwnNetwork {
    /// Where its connections end, if they are caught.
    pub caught: Option<Caught>,
}

/// How a child ended and what it used.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ExitReport {
    /// How the main process ended.
    pub status: ExitStatus,
    /// What it and those of its children that it waited for used.
    pub usage: ResourceUsage,
}

impl ExitReport {
    /// The report of every child whose keeper is gone.
    #[must_use]
    pub fn keeper_lost() -> Self {
        Self {
            status: ExitStatus::KeeperLost,
            usage: ResourceUsage::default(),
        }
    }
}

/// What can be asked of a running child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Close the keeper's duplicate of the write end of stdin.
    CloseStdin,
    /// SIGTERM to the server's process group.
    Terminate,
    /// SIGKILL to everything that the server started.
    KillTree,
    /// Let all its processes hold still; done once they do, refused where they cannot be.
    Freeze,
    /// Let them go on; done too when they did not hold still.
    Thaw,
    /// Take pages back from its processes, which hold still, until they are to go on; begun when it is its turn. Refused where
    /// that cannot be done.
    Reclaim,
    /// Drop the record and the descriptors; a child that still lives is dropped when it ends.
    Forget,
}

/// Carries verbs to whatever really holds the child.
pub trait WorkloadControl: Send + Sync + 'static {
    /// Performs `verb` on `id`. Asking it of a child that already ended is no error.
    fn perform(&self, id: WorkloadId, verb: Verb) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Makes `count` unconnected TCP sockets, non-blocking, in the network namespace of `id`.
    fn sockets_inside(
        &self,
        id: WorkloadId,
        count: u8,
    ) -> BoxFuture<'_, Result<Vec<OwnedFd>, RuntimeError>>;
}

/// What the pidfd of a child and /proc tell of it together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It runs, and its pid is that of a process in the tree that the pidfd stands for.
    Here,
    /// Its tree is gone; its exit report is there or on its way.
    Ended,
    /// The pid is that of a process outside of this tree.
    Stranger,
    /// It cannot be told: there is no pidfd, or /proc does not show the processes of others.
    Unknown,
}

struct Inner {
    id: WorkloadId,
    pid: u32,
    pidfd: Option<Arc<Pidfd>>,
    isolation: Isolation,
    found_frozen: OnceLock<()>,
    pipes: Mutex<Option<Pipes>>,
    network: Mutex<Option<OwnNetwork>>,
    denials: OnceLock<DenialSheet>,
    exit: watch::Receiver<Option<ExitReport>>,
    control: Arc<dyn WorkloadControl>,
}

/// One launched child; cheap to clone. Dropping every clone does not end the child.
#[derive(Clone)]
pub struct Workload {
    inner: Arc<Inner>,
}

impl fmt::Debug for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workload")
            .field("id", &self.inner.id)
            .field("pid", &self.inner.pid)
            .field("exit", &*self.inner.exit.borrow())
            .finish_non_exhaustive()
    }
}

impl Workload {
    /// Made by a [`super::Runtime`] only. `exit` becomes `Some` once; a dropped sender means the keeper is lost.
    #[must_use]
    pub fn new(
        id: WorkloadId,
        pid: u32,
        pidfd: Option<Arc<Pidfd>>,
        isolation: Isolation,
        pipes: Option<Pipes>,
        exit: watch::Receiver<Option<ExitReport>>,
        control: Arc<dyn WorkloadControl>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                id,
                pid,
                pidfd,
                isolation,
                found_frozen: OnceLock::new(),
                pipes: Mutex::new(pipes),
                network: Mutex::new(None),
                denials: OnceLock::new(),
                exit,
                control,
            }),
        }
    }

    /// In a network namespace of its own, or in the host's.
    #[must_use]
    pub fn within(self, network: Option<OwnNetwork>) -> Self {
        *self.lock_network() = network;
        self
    }

    /// With its refused system calls counted there, or not.
    #[must_use]
    pub fn counted(self, denials: Option<DenialSheet>) -> Self {
        if let Some(sheet) = denials {
            // Set once, when it is made.
            let _ = self.inner.denials.set(sheet);
        }
        self
    }

    /// One whose processes hold still since a former daemon, or not.
    #[must_use]
    pub fn frozen(self, frozen: bool) -> Self {
        if frozen {
            // Set once, when it is made.
            let _ = self.inner.found_frozen.set(());
        }
        self
    }

    /// Whether its processes held still when it was taken over.
    #[must_use]
    pub fn was_frozen(&self) -> bool {
        self.inner.found_frozen.get().is_some()
    }

    /// The system calls that it was refused so far; `None`: they are not counted.
    #[must_use]
    pub fn denials(&self) -> Option<Denials> {
        self.inner.denials.get().map(DenialSheet::read)
    }

    /// How many kinds of system calls it was refused so far.
    #[must_use]
    pub fn denial_kinds(&self) -> usize {
        self.inner.denials.get().map_or(0, DenialSheet::kinds)
    }

    /// Instance and generation.
    #[must_use]
    pub fn id(&self) -> WorkloadId {
        self.inner.id
    }

    /// The host's pid of the server process; only to be shown and measured, never to be signalled.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.pid
    }

    /// Holds the pidfd against /proc. Blocks for a few reads of /proc.
    #[must_use]
    pub fn presence(&self) -> Presence {
        if self.inner.exit.borrow().is_some() {
            return Presence::Ended;
        }
        let Some(pidfd) = &self.inner.pidfd else {
            return Presence::Unknown;
        };
        let found = match pidfd
            .pid()
            .map(|init| usage::is_below(self.inner.pid, init))
        {
            Some(Ok(true)) => Presence::Here,
            Some(Ok(false)) => Presence::Stranger,
            // The server may have ended before its init.
            Some(Err(_)) | None => Presence::Unknown,
        };
        // Asked last: while the init has not ended, its pid means no other process.
        if pidfd.has_ended() {
            return Presence::Ended;
        }
        found
    }

    /// Our ends of the pipes, the first time it is asked. `None` too for a child that ended and whose
    /// descriptors the keeper no longer holds.
    #[must_use]
    pub fn take_pipes(&self) -> Option<Pipes> {
        self.lock_pipes().take()
    }

    /// The sockets on which its connections are caught, the first time it is asked; `None` where none are.
    #[must_use]
    pub fn take_caught(&self) -> Option<Caught> {
        self.lock_network().as_mut()?.caught.take()
    }

    /// Whether it has a network namespace of its own, so that its loopback is not the host's.
    #[must_use]
    pub fn has_own_network(&self) -> bool {
        self.lock_network().is_some()
    }

    /// Unconnected TCP sockets in its network namespace, non-blocking: what they connect to is inside.
    ///
    /// # Errors
    /// [`RuntimeError`] when the keeper is away, or the child has no such namespace.
    pub async fn sockets_inside(&self, count: u8) -> Result<Vec<OwnedFd>, RuntimeError> {
        self.inner
            .control
            .sockets_inside(self.inner.id, count)
            .await
    }

    /// Layer of isolation to what really holds for this child.
    #[must_use]
    pub fn isolation(&self) -> &Isolation {
        &self.inner.isolation
    }

    /// Resolves when the main process has ended and its whole tree is gone; at once if that was so before.
    /// May be asked again and again, and dropped at any time.
    pub fn exited(&self) -> impl Future<Output = ExitReport> + Send + use<> {
        let mut exit = self.inner.exit.clone();
        async move {
            match exit.wait_for(Option::is_some).await {
                Ok(report) => report.clone().unwrap_or_else(ExitReport::keeper_lost),
                Err(_) => ExitReport::keeper_lost(),
            }
        }
    }

    /// Closes the keeper's duplicate of stdin. The server sees the end of its input once whoever took the
    /// pipes has dropped theirs as well; an end that nobody took is closed here.
    ///
    /// # Errors
    /// [`RuntimeError`] when the keeper is away.
    pub async fn close_stdin(&self) -> Result<(), RuntimeError> {
        {
            let mut pipes = self.lock_pipes();
            if let Some(Pipes {
                stdin,
                stdout,
                stderr,
            }) = pipes.take()
            {
                // A pipe with no reader takes the place of stdin, so that the other two can still be taken.
                drop(stdin);
                *pipes = super::host::closed_pipe_end().ok().map(|stdin| Pipes {
                    stdin,
                    stdout,
                    stderr,
                });
            }
        }
        self.perform(Verb::CloseStdin).await
    }

    /// Sends SIGTERM to the server's process group.
    ///
    /// # Errors
    /// [`RuntimeError`] when the keeper is away.
    pub async fn terminate(&self) -> Result<(), RuntimeError> {
        self.perform(Verb::Terminate).await
    }

    /// Sends SIGKILL to everything that the server started. [`Self::exited`] tells when all of it is gone.
    ///
    /// # Errors
    /// [`RuntimeError`] when the keeper is away.
    pub async fn kill_tree(&self) -> Result<(), RuntimeError> {
        self.perform(Verb::KillTree).await
    }

    /// Lets all its processes hold still, with what they have in memory, until [`Self::thaw`] or its end.
    ///
    /// # Errors
    /// [`RuntimeError`] when the keeper is away, cannot do that, or they did not come to hold still soon; then they go on.
    pub async fn freeze(&self) -> Result<(), RuntimeError> {
        self.perform(Verb::Freeze).await
    }

    /// Lets them go on; no error when they do already.
    ///
    /// # Errors
    /// [`RuntimeError`] when the keeper is away, or cannot do that.
    pub async fn thaw(&self) -> Result<(), RuntimeError> {
        self.perform(Verb::Thaw).await
    }

    /// Has the memory of one that is frozen taken back, as far as the kernel can: to be asked only where
    /// [`super::KeeperState::reclaims`]. Resolves before it has begun; a thaw ends it.
    ///
    /// # Errors
    /// [`RuntimeError`] when the keeper is away, or cannot do that.
    pub async fn reclaim(&self) -> Result<(), RuntimeError> {
        self.perform(Verb::Reclaim).await
    }

    /// Lets the keeper drop its record and descriptors.
    ///
    /// # Errors
    /// [`RuntimeError`] when the keeper is away.
    pub async fn forget(&self) -> Result<(), RuntimeError> {
        self.perform(Verb::Forget).await
    }

    async fn perform(&self, verb: Verb) -> Result<(), RuntimeError> {
        self.inner.control.perform(self.inner.id, verb).await
    }

    fn lock_network(&self) -> std::sync::MutexGuard<'_, Option<OwnNetwork>> {
        self.inner
            .network
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_pipes(&self) -> std::sync::MutexGuard<'_, Option<Pipes>> {
        self.inner
            .pipes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
