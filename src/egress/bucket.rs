//! So many of something in a second.

use std::time::Duration;

use tokio::time::Instant;

/// So many in a second, and as many at once after a rest.
pub(super) struct Bucket {
    per_second: u32,
    /// When it will be full again.
    full_at: Option<Instant>,
}

impl Bucket {
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            per_second,
            full_at: None,
        }
    }

    /// Takes one; `Some`: there is none, and so long until there is.
    pub(super) fn take(&mut self, now: Instant) -> Option<Duration> {
        let one = Duration::from_secs(1) / self.per_second;
        let full_at = self.full_at.filter(|at| *at > now).unwrap_or(now);
        let ahead = full_at + one - now;
        match ahead.checked_sub(Duration::from_secs(1)) {
            Some(wait) if !wait.is_zero() => Some(wait),
            _ => {
                self.full_at = Some(full_at + one);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_spread_over_time() {
        let mut bucket = Bucket::new(10);
        let now = Instant::now();
        let at_once = (0..100).filter(|_| bucket.take(now).is_none()).count();
        assert_eq!(at_once, 10);
        let wait = bucket.take(now).expect("none is left");
        assert!(bucket.take(now + wait).is_none());
        assert!(bucket.take(now + wait).is_some());
        let later = now + Duration::from_secs(60);
        assert_eq!(
            (0..100).filter(|_| bucket.take(later).is_none()).count(),
            10
        );
    }
}
