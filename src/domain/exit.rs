//! How a child ended, told so that a person understands it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{UnixMs, id::Generation};

/// How the main process of an instance ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ExitStatus {
    /// It called `exit` with this code (0 to 255).
    Exited {
        /// The exit code.
        code: i32,
    },
    /// A signal ended it.
    Signaled {
        /// The signal number of signal(7).
        signal: i32,
    },
    /// The kernel, or a limit of ours, ended it for want of memory.
    OutOfMemory,
    /// It could not be started at all: the program is missing, not executable, or set-up failed.
    NotStarted {
        /// What failed, in one sentence.
        reason: String,
    },
    /// The keeper died, and with it every child (see ARCHITECTURE.md, zero orphans).
    KeeperLost,
    /// It is no process of ours but a server elsewhere, with which we speak no more.
    Disconnected {
        /// Why, unless somebody asked for it.
        cause: Option<String>,
    },
}

impl ExitStatus {
    /// Whether a restart policy should count it as a success.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Exited { code: 0 })
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exited with code {code}"),
            Self::Signaled { signal } => {
                write!(f, "was ended by signal {signal} ({})", signal_name(*signal))
            }
            Self::OutOfMemory => f.write_str("was ended for want of memory"),
            Self::NotStarted { reason } => write!(f, "could not be started: {reason}"),
            Self::KeeperLost => f.write_str("was ended because the keeper died"),
            Self::Disconnected { cause: None } => f.write_str("was disconnected"),
            Self::Disconnected { cause: Some(cause) } => write!(f, "was disconnected: {cause}"),
        }
    }
}

/// The name of a signal as signal(7) gives it on x86-64 and arm64.
#[must_use]
pub fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => "unknown signal",
    }
}

/// What a child used, from wait4(2)'s rusage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResourceUsage {
    /// User CPU time in milliseconds.
    pub user_cpu_ms: u64,
    /// System CPU time in milliseconds.
    pub system_cpu_ms: u64,
    /// Largest resident set in KiB.
    pub max_rss_kib: u64,
}

/// The last end of an instance's child, kept for its status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Which launch ended.
    pub generation: Generation,
    /// How it ended.
    pub status: ExitStatus,
    /// When we learned of it.
    pub at: UnixMs,
    /// What it used.
    pub usage: ResourceUsage,
    /// The last lines of its stderr, oldest first, already redacted. At most 20 lines.
    pub last_stderr: Vec<String>,
}
