//! Wall time. Everything but the pure core may ask; durations come from tokio's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

    /// The tokio instant at which wall time will be `at`, if nobody sets it; at once when it has passed.
    #[must_use]
    pub fn instant(&self, at: UnixMs) -> tokio::time::Instant {
        const FARTHEST: Duration = Duration::from_secs(24 * 3_600);
        tokio::time::Instant::now() + self.ahead(at).min(FARTHEST)
    }

    /// When to look whether wall time is `at`, for those who then look again: no later than that, and soon enough that
    /// a clock that was set, or stood still while the host was suspended, is noticed.
    #[must_use]
    pub fn next_look(&self, at: UnixMs) -> tokio::time::Instant {
        const FARTHEST: Duration = Duration::from_secs(30);
        tokio::time::Instant::now() + self.ahead(at).min(FARTHEST)
    }

    fn ahead(&self, at: UnixMs) -> Duration {
        match self {
            // To the full millisecond it would be half of one late in the mean.
            Self::System => ahead_exactly(at),
            Self::Tokio { .. } => {
                Duration::from_millis(u64::try_from(at.saturating_sub(self.now())).unwrap_or(0))
            }
        }
    }
}

/// How far `at` lies ahead by the system's clock, to the nanosecond; zero when it has passed.
#[must_use]
pub fn ahead_exactly(at: UnixMs) -> Duration {
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(at).unwrap_or(0));
    at.duration_since(SystemTime::now()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_time_far_off_is_looked_at_again_and_a_near_one_met() {
        let clock = Clock::following_tokio(1_000);
        let now = tokio::time::Instant::now();
        assert_eq!(clock.next_look(1_000 + 5_000), now + Duration::from_secs(5));
        assert_eq!(clock.next_look(i64::MAX), now + Duration::from_secs(30));
        assert_eq!(clock.next_look(0), now);
        assert_eq!(clock.instant(1_000 + 60_000), now + Duration::from_secs(60));
    }
}
