//! What one sees of an instance: what its actor published, and what changes without the actor.

use std::{
    ops::Deref,
    sync::{Arc, OnceLock, atomic::Ordering},
};

use super::{DenialReport, InstanceStatus, members::listed, registry::ActorHandle};
use crate::{
    domain::{UnixMs, state::StatusWord},
    egress::EgressReport,
};

/// A status that was published, or told to who asked for it; it never changes.
#[derive(Debug)]
pub(super) struct Published {
    status: InstanceStatus,
    outline: OnceLock<Box<[u8]>>,
}

impl From<InstanceStatus> for Published {
    fn from(status: InstanceStatus) -> Self {
        Self {
            status,
            outline: OnceLock::new(),
        }
    }
}

impl Deref for Published {
    type Target = InstanceStatus;

    fn deref(&self) -> &InstanceStatus {
        &self.status
    }
}

/// What a list tells of an instance in short. What was published is shared with whoever else looks, not copied.
#[derive(Debug, Clone)]
pub struct Glance {
    status: Arc<Published>,
    /// When a client last used it.
    pub last_accessed_at: Option<UnixMs>,
    /// What its launch waits for, when that is more than its turn.
    held: Option<String>,
}

impl Glance {
    /// With this published status.
    pub(super) fn with(status: Arc<Published>, handle: &ActorHandle) -> Self {
        let used = handle.route.last_accessed_ms.load(Ordering::Relaxed);
        let held = (status.word == StatusWord::Starting).then(|| handle.route.held.borrow());
        let held =
            held.and_then(|held| held.as_ref().map(|why| format!("it waits for room: {why}")));
        Self {
            last_accessed_at: (used > 0)
                .then_some(used)
                .or(status.record.last_accessed_at),
            held,
            status,
        }
    }

    /// What `make` writes of the status: made once, and kept for as long as this is the published one.
    pub fn outline(&self, make: impl FnOnce(&InstanceStatus) -> Vec<u8>) -> &[u8] {
        let outline = &self.status.outline;
        outline.get_or_init(|| make(&self.status).into())
    }

    /// The same, if it was made before.
    #[must_use]
    pub fn known_outline(&self) -> Option<&[u8]> {
        self.status.outline.get().map(AsRef::as_ref)
    }

    /// Why it is as it is, when there is something to say; redacted.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.held.as_deref().or(self.status.reason.as_deref())
    }
}

impl Deref for Glance {
    type Target = InstanceStatus;

    fn deref(&self) -> &InstanceStatus {
        &self.status
    }
}

/// All that is known of an instance at one moment.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What a list tells in short.
    pub glance: Glance,
    /// Members: number and, once it was launched, host pid.
    pub members: Vec<(u32, Option<u32>)>,
    /// What it may reach, reached and was refused; `None` where nothing goes through the gate.
    pub egress: Option<EgressReport>,
    /// The system calls that it was refused; `None` where they are not counted.
    pub denials: Option<DenialReport>,
}

impl Seen {
    /// With the status as last published.
    pub(super) fn now(handle: &ActorHandle) -> Self {
        let status = Arc::clone(&handle.status.borrow());
        Self::with(status, handle)
    }

    /// With a status that the actor just told.
    pub(super) fn with(status: Arc<Published>, handle: &ActorHandle) -> Self {
        Self {
            glance: Glance::with(status, handle),
            members: listed(&handle.census.borrow()),
            egress: handle.egress.report(),
            denials: handle.denials.report(),
        }
    }
}

impl Deref for Seen {
    type Target = Glance;

    fn deref(&self) -> &Glance {
        &self.glance
    }
}

#[cfg(test)]
impl From<InstanceStatus> for Seen {
    /// With nothing but what the actor published.
    fn from(status: InstanceStatus) -> Self {
        Self {
            members: Vec::new(),
            egress: None,
            denials: None,
            glance: Glance {
                last_accessed_at: status.record.last_accessed_at,
                held: None,
                status: Arc::new(status.into()),
            },
        }
    }
}
