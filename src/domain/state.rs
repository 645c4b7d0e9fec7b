//! The three axes of an instance's condition: what was asked, what is, how it is.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::UnixMs;

/// What was asked for; survives restarts of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DesiredState {
    /// It should run.
    Running,
    /// It should not run.
    Stopped,
}

impl DesiredState {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Running, Self::Stopped];

    /// The word as the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// Why an instance stops. Ordered: the strongest last; a stronger reason replaces a weaker one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// Nobody used it for a while; the next request wakes it.
    Idle,
    /// The daemon goes down and takes its instances along.
    Shutdown,
    /// Someone asked.
    Requested,
    /// Its lease ran out.
    Expired,
    /// Someone deleted it.
    Deleted,
}

/// What an instance is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum InstanceState {
    /// Recorded, nothing launched yet.
    Pending,
    /// Launched (or being launched); not yet answering.
    Starting,
    /// The MCP handshake is done.
    Running,
    /// Ended by itself; the next launch is due at `until`.
    BackingOff {
        /// When the next launch is due.
        until: UnixMs,
    },
    /// On its way down.
    Stopping {
        /// Why.
        reason: StopReason,
        /// Launch again once it is down.
        then_start: bool,
    },
    /// Down, on purpose.
    Stopped {
        /// Why.
        reason: StopReason,
    },
    /// Down, given up: the restart policy does not allow another launch.
    Failed {
        /// The cause, in one sentence, redacted.
        cause: String,
    },
}

impl InstanceState {
    /// Whether a child is up, or comes back without being asked for.
    #[must_use]
    pub fn comes_back(&self) -> bool {
        matches!(
            self,
            Self::Starting | Self::Running | Self::BackingOff { .. }
        )
    }
}

/// How a running instance does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Not yet probed in this generation.
    #[default]
    Unknown,
    /// The last probes were answered.
    Healthy,
    /// The failure threshold was reached.
    Unhealthy,
}

impl Health {
    /// Every verdict.
    pub const ALL: [Self; 3] = [Self::Unknown, Self::Healthy, Self::Unhealthy];

    /// The word as the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// The one word that the API shows, derived from the axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatusWord {
    /// Recorded, nothing launched yet.
    Pending,
    /// Launched, not yet answering.
    Starting,
    /// Answering.
    Running,
    /// Running, but its probes fail.
    Unhealthy,
    /// Its processes hold still for want of use, with all that they have in memory; goes on on request.
    Frozen,
    /// Waiting for its next launch.
    BackingOff,
    /// On its way down.
    Stopping,
    /// Down because someone asked, or because the daemon went down.
    Stopped,
    /// Down for want of use; wakes on request.
    Asleep,
    /// Down because its lease ran out; can be restored within the window.
    Expired,
    /// Given up.
    Failed,
}

impl StatusWord {
    /// Every word, in the order of a life.
    pub const ALL: [Self; 11] = [
        Self::Pending,
        Self::Starting,
        Self::Running,
        Self::Unhealthy,
        Self::Frozen,
        Self::BackingOff,
        Self::Stopping,
        Self::Stopped,
        Self::Asleep,
        Self::Expired,
        Self::Failed,
    ];

    /// The word as the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Unhealthy => "unhealthy",
            Self::Frozen => "frozen",
            Self::BackingOff => "backing-off",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Asleep => "asleep",
            Self::Expired => "expired",
            Self::Failed => "failed",
        }
    }

    /// Derives the word from state and health, of one that is not frozen.
    #[must_use]
    pub fn of(state: &InstanceState, health: Health) -> Self {
        match state {
            InstanceState::Pending => Self::Pending,
            InstanceState::Starting => Self::Starting,
            InstanceState::Running if health == Health::Unhealthy => Self::Unhealthy,
            InstanceState::Running => Self::Running,
            InstanceState::BackingOff { .. } => Self::BackingOff,
            InstanceState::Stopping { .. } => Self::Stopping,
            InstanceState::Stopped {
                reason: StopReason::Idle,
            } => Self::Asleep,
            InstanceState::Stopped {
                reason: StopReason::Expired,
            } => Self::Expired,
            InstanceState::Stopped { .. } => Self::Stopped,
            InstanceState::Failed { .. } => Self::Failed,
        }
    }
}

impl fmt::Display for StatusWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
