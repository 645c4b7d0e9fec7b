//! What the writer tells those who have a handle of the pipeline, and until when it must be done.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::LogCounters;

/// What the writer shares with the handles.
pub(super) struct Shared {
    written: Mutex<LogCounters>,
    deadline: Mutex<Option<Instant>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            written: Mutex::new(LogCounters {
                store_available: true,
                ..LogCounters::default()
            }),
            deadline: Mutex::new(None),
        }
    }
}

impl Shared {
    pub(super) fn written(&self) -> MutexGuard<'_, LogCounters> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until when the closing may take.
    pub(super) fn set_deadline(&self, deadline: Instant) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = Some(deadline);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
