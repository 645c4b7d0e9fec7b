//! The two vocabularies of the lifecycle: what happened, and what to do about it.

use super::{
    UnixMs,
    exit::ExitStatus,
    id::Generation,
    state::{Health, StopReason},
};

/// Something that happened to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It should run (a person, a restore, a wake, or the boot reconcile).
    Start,
    /// It should run again from the beginning.
    Restart,
    /// Its lease was renewed: the only event that launches an expired instance.
    Restore,
    /// It should not run.
    Stop(StopReason),
    /// The child of this generation exists.
    Launched(Generation),
    /// There will be no child of this generation.
    LaunchFailed(Generation, ExitStatus),
    /// A child of this generation was found alive by a new daemon.
    Adopted(Generation),
    /// Handshake done, tools listed.
    Ready(Generation),
    /// A probe's verdict.
    Health(Generation, Health),
    /// Its processes hold still: nobody uses it.
    Frozen(Generation),
    /// They go on.
    Thawed(Generation),
    /// It lives but can never answer again (it closed stdout, or speaks no MCP): the cause.
    Broken(Generation, String),
    /// Its connection is closed for good (it closed stdout): the cause. A child that ends does so a moment before its
    /// exit report comes, which tells more.
    Silent(Generation, String),
    /// It went past a limit that only its end can hold: the cause. It is not launched again until somebody asks for it.
    Breach(Generation, String),
    /// The main process ended and its tree is gone.
    Exited(Generation, ExitStatus),
    /// An armed timer fired.
    Deadline(Deadline),
}

/// The timers of the lifecycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Deadline {
    /// It must be ready by now.
    Start,
    /// The next launch is due.
    Backoff,
    /// It closed its connection and lives on.
    Silent,
    /// It did not leave after its stdin was closed.
    Term,
    /// It did not leave after SIGTERM.
    Kill,
}

/// Something to do, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Launch a child of this generation.
    Launch(Generation),
    /// Close the child's stdin.
    CloseStdin(Generation),
    /// Send SIGTERM.
    Terminate(Generation),
    /// Kill the whole tree.
    KillTree(Generation),
    /// Set a timer; replaces one of the same kind.
    Arm(Deadline, UnixMs),
    /// Clear a timer.
    Disarm(Deadline),
    /// Write state, desired state and generation to the store.
    Persist,
    /// Tell the world (status watch, event stream).
    Publish,
}
