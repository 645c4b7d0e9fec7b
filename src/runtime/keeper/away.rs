//! What is held for a restart of `serve` alone: should none come back, it is let go.

use std::time::{Duration, Instant};

use nix::sys::epoll::EpollTimeout;

use super::reactor::Reactor;
use crate::runtime::HELD_FOR_A_RESTART;

/// Longest time without a `serve`, after which the next one is not waited for.
const AWAY_MAX: Duration = Duration::from_secs(60);

/// How long is still waited for a `serve`; `None`: no longer.
fn patience(away: Duration) -> Option<Duration> {
    AWAY_MAX.checked_sub(away).filter(|left| !left.is_zero())
}

impl Reactor {
    /// Lets go what nobody came back for, and says how long the loop may sleep.
    pub(super) fn look_after_the_held(&mut self, now: Instant) -> EpollTimeout {
        if self.peer.is_some() {
            self.away_since = None;
            return EpollTimeout::NONE;
        }
        let since = *self.away_since.get_or_insert(now);
        let is_lent = |name: &String| name.starts_with(HELD_FOR_A_RESTART);
        if !self.table.descriptors.keys().any(is_lent) {
            return EpollTimeout::NONE;
        }
        match patience(now.saturating_duration_since(since)) {
            // A millisecond more, so that it is over when the loop wakes.
            Some(left) => {
                let left_ms = u32::try_from(left.as_millis() + 1).unwrap_or(u32::MAX);
                EpollTimeout::try_from(left_ms).unwrap_or(EpollTimeout::MAX)
            }
            None => {
                self.table.descriptors.retain(|name, _| !is_lent(name));
                EpollTimeout::NONE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serve_is_waited_for_and_not_for_ever() {
        assert_eq!(patience(Duration::ZERO), Some(AWAY_MAX));
        let nearly = AWAY_MAX.checked_sub(Duration::from_millis(1));
        let nearly = nearly.expect("it is longer");
        assert_eq!(patience(nearly), Some(Duration::from_millis(1)));
        assert_eq!(patience(AWAY_MAX), None);
        assert_eq!(patience(AWAY_MAX * 2), None);
    }
}
