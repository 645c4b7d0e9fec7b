//! Wall time. Everything but the pure core may ask; durations come from tokio's clock.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::domain::UnixMs;

/// Where wall time comes from.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// The system's clock.
    System,
    /// A fixed start plus tokio's time, which tests can pause.
    Tokio {
        /// Wall time at `begun`.
        origin: UnixMs,
        /// The instant that `origin` belongs to.
        begun: tokio::time::Instant,
    },
}

impl Clock {
    /// A clock that begins at `origin` now and follows tokio's time.
    #[must_use]
    pub fn following_tokio(origin: UnixMs) -> Self {
        Self::Tokio {
            origin,
            begun: tokio::time::Instant::now(),
        }
    }

    /// Wall time now.
    #[must_use]
    pub fn now(&self) -> UnixMs {
        match self {
            Self::System => {
                let since = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            }
            Self::Tokio { origin, begun } => origin
                .saturating_add(i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX)),
        }
    }

    /// The tokio instant at which wall time will be `at`; at once when it has passed.
    #[must_use]
    pub fn instant(&self, at: UnixMs) -> tokio::time::Instant {
        // Timers far off are looked at again in between: the wall clock may be set meanwhile.
        const FARTHEST_MS: u64 = 24 * 3_600_000;
        let ahead = u64::try_from(at.saturating_sub(self.now()))
            .unwrap_or(0)
            .min(FARTHEST_MS);
        tokio::time::Instant::now() + std::time::Duration::from_millis(ahead)
    }
}
