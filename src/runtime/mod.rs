//! Where children live: the seam between the supervisor and whatever forks, isolates and reaps.
//!
//! [`local::LocalRuntime`] speaks with the keeper process of this host; [`fake::FakeRuntime`] plays scripts
//! for tests. This is also the only room that calls the kernel directly, so the few such calls that other
//! rooms need are in [`host`].

use std::os::fd::{BorrowedFd, OwnedFd};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::domain::reconcile::ForeignProcess;

mod again;
mod alarm;
#[expect(
    unsafe_code,
    reason = "descriptors that arrive by SCM_RIGHTS are raw numbers"
)]
mod channel;
mod child_cgroups;
pub mod denials;
mod elsewhere;
pub mod fake;
mod folder_walk;
mod given_up;
#[expect(
    unsafe_code,
    reason = "mallopt, malloc_trim and madvise have no safe wrapper"
)]
mod heap;
pub mod host;
mod isolation;
#[expect(
    unsafe_code,
    reason = "clone3, wait4 and other calls that have no safe wrapper"
)]
pub mod keeper;
#[expect(
    unsafe_code,
    reason = "AsyncFd::register leaves the promise about the descriptor to us"
)]
mod keeper_client;
pub mod local;
mod own_files;
mod own_keeper;
mod pidfd;
mod plan;
#[expect(
    unsafe_code,
    reason = "a descriptor that a former program left open is a raw number"
)]
mod succession;
#[expect(
    unsafe_code,
    reason = "sched_getattr and sched_setattr have no safe wrapper"
)]
mod time_slice;
mod usage;
mod workload;

pub use again::ask_again;
pub use alarm::sleep_exactly_until;
pub use child_cgroups::child_cgroups;
pub use denials::{DenialSheet, Denials, DeniedCall};
pub use elsewhere::elsewhere;
pub use folder_walk::{EntryKind, FoundEntry, LeftOut, walk_folder};
pub use given_up::give_up_unneeded;
pub use heap::{give_back_memory, keep_to_few_heaps};
pub use host::{
    FileLock, LockError, bind_listener, descriptors_max, descriptors_run_out, end_process,
    harden_process, kill_process_if, lock_file, memory_file,
};
pub use isolation::Isolation;
pub use own_files::OwnFiles;
pub use pidfd::Pidfd;
pub use plan::{HostReport, LaunchPlan, PASSED_MAX, WorkloadId};
pub use succession::{become_program, inherited_pipe};
pub use time_slice::take_the_daemons as take_the_daemons_time_slice;
pub use usage::{TreeUsage, cpu_stalled_us, folders_in_command_lines, memory_stalled_us, usage};
pub use workload::{
    Caught, ExitReport, OwnNetwork, Pipes, Presence, Verb, Workload, WorkloadControl,
};

/// The version of Landlock that the kernel offers this process; 0: none.
#[must_use]
pub fn landlock_version() -> u32 {
    u32::try_from(keeper::second_wall::abi()).unwrap_or(0)
}

/// Why a launch gave no child.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The plan cannot be carried out: the program is missing, not executable, the folder cannot be made, a
    /// limit was refused. One readable sentence; trying again changes nothing by itself.
    #[error("{0}")]
    NotStarted(String),
    /// The keeper did not answer; whether a child was started will show in [`Runtime::adoptable`].
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Why the keeper could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// There is no connection to the keeper at the moment.
    #[error("the keeper is away")]
    Lost,
    /// The keeper refused, in its own words.
    #[error("the keeper refused: {0}")]
    Refused(String),
    /// The keeper could not be started or reached.
    #[error("cannot reach the keeper: {0}")]
    Unreachable(String),
}

/// A keeper that goes on as another program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeeperUpgraded {
    /// The version of the former program.
    pub from: String,
    /// That of the present one.
    pub to: String,
}

/// Whether there is a keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeeperState {
    /// It answers.
    Connected {
        /// Its process id.
        pid: u32,
        /// What it can enforce on this host.
        host: HostReport,
    },
    /// It does not; every child that it held counts as ended.
    Lost,
}

impl KeeperState {
    /// Whether it is a keeper from before there was a gate, which would not understand what goes through one.
    #[must_use]
    pub fn lacks_gates(&self) -> bool {
        matches!(self, Self::Connected { host, .. } if !host.gates)
    }

    /// Whether it is a keeper from before credentials could be files.
    #[must_use]
    pub fn lacks_credential_files(&self) -> bool {
        matches!(self, Self::Connected { host, .. } if !host.credential_files)
    }

    /// Whether it is a keeper from before the path of such a file could stand in an argument.
    #[must_use]
    pub fn lacks_file_arguments(&self) -> bool {
        matches!(self, Self::Connected { host, .. } if !host.file_arguments)
    }

    /// Whether the processes of a child can hold still.
    #[must_use]
    pub fn freezes(&self) -> bool {
        matches!(self, Self::Connected { host, .. } if host.freezes)
    }

    /// Whether the memory of those that hold still can be taken back.
    #[must_use]
    pub fn reclaims(&self) -> bool {
        matches!(self, Self::Connected { host, .. } if host.reclaims)
    }

    /// Whether children can hold still, in words, with the reason; `None`: it is away, or one from before there was this.
    #[must_use]
    pub fn freezer(&self) -> Option<String> {
        match self {
            Self::Connected { host, .. } => host.isolation.get("freezer").cloned(),
            Self::Lost => None,
        }
    }

    /// The same of taking their memory back.
    #[must_use]
    pub fn reclaim(&self) -> Option<String> {
        match self {
            Self::Connected { host, .. } => host.isolation.get("reclaim").cloned(),
            Self::Lost => None,
        }
    }

    /// Whether members may be launched: a keeper from before there were any would take one for the main child.
    #[must_use]
    pub fn holds_members(&self) -> bool {
        matches!(self, Self::Connected { host, .. } if host.members)
    }
}

/// What does not belong into the cgroups of children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupStray {
    /// A process in the cgroup of this name that the keeper did not start.
    Process(String, ForeignProcess),
    /// The cgroup of this name, whose child is gone.
    Cgroup(String),
}

/// Names of descriptors that the keeper holds for a restart of `serve` alone begin with this: it lets them go when none
/// was connected for a minute.
pub const HELD_FOR_A_RESTART: &str = "for-a-restart/";
/// What keeps a keeper alive that does not linger, held by itself from the stop of a daemon for another program until that
/// one serves: a program that dies at its start takes no instance along. Let go after ten minutes without a `serve`.
pub const HELD_LIFELINE: &str = "for-a-restart/lifeline";

/// Launches children, and holds descriptors for us over a restart of our own process.
pub trait Runtime: Send + Sync + 'static {
    /// Starts a child. Resolves when its program runs (execve succeeded) or could not be started. Dropping
    /// the future before that kills the child.
    fn launch(&self, plan: LaunchPlan) -> BoxFuture<'_, Result<Workload, LaunchError>>;

    /// All that the keeper holds, with fresh duplicates of the pipe ends. Those that ended but were not yet
    /// forgotten are included; their exit resolves at once.
    fn adoptable(&self) -> BoxFuture<'_, Result<Vec<Workload>, RuntimeError>>;

    /// Lets the keeper hold a duplicate of `fd` under `name` (1 to 200 bytes, such as `listener/<uuid>`);
    /// replaces what it held under that name.
    fn hold(&self, name: &str, fd: BorrowedFd<'_>) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Fresh duplicates of everything held, by name.
    fn held(&self) -> BoxFuture<'_, Result<Vec<(String, OwnedFd)>, RuntimeError>>;

    /// A fresh duplicate of what is held under `name`, if anything is.
    fn held_under(&self, name: &str) -> BoxFuture<'_, Result<Option<OwnedFd>, RuntimeError>>;

    /// Closes the keeper's duplicate; no error when there is none.
    fn drop_held(&self, name: &str) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// The names of everything held.
    fn held_names(&self) -> BoxFuture<'_, Result<Vec<String>, RuntimeError>>;

    /// Takes away what does not belong into the cgroups of children; the keeper refuses what does.
    fn tidy(&self, stray: CgroupStray) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// How many bytes of children that held still were taken back, as far as this process was told.
    fn reclaimed_bytes(&self) -> u64;

    /// Whether the keeper answers. After [`KeeperState::Lost`] the runtime reconnects by itself.
    fn state(&self) -> watch::Receiver<KeeperState>;
}
