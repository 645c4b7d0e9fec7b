//! What is held for a restart of `serve` alone: should none come back, it is let go.

use std::time::{Duration, Instant};

use nix::sys::epoll::EpollTimeout;

use super::reactor::Reactor;
use crate::runtime::{HELD_FOR_A_RESTART, HELD_LIFELINE};

/// Longest time without a `serve`, after which nobody's connections wait for the next one any more.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// The same for instances: time for somebody to start the former program by hand.
const AWAY_MAX_OF_LIFELINE: Duration = Duration::from_secs(600);

/// Whether it is held for a restart alone, and then for how long without a `serve`.
fn limit(name: &str) -> Option<Duration> {
    match name {
        HELD_LIFELINE => Some(AWAY_MAX_OF_LIFELINE),
        _ if name.starts_with(HELD_FOR_A_RESTART) => Some(AWAY_MAX),
        _ => None,
    }
}

/// How long it is still held; `None`: no longer.
fn patience(limit: Duration, away: Duration) -> Option<Duration> {
    limit.checked_sub(away).filter(|left| !left.is_zero())
}

impl Reactor {
    /// Lets go what nobody came back for, and says how long the loop may sleep.
    pub(super) fn look_after_the_held(&mut self, now: Instant) -> EpollTimeout {
        if self.peer.is_some() {
            self.away_since = None;
            return EpollTimeout::NONE;
        }
        let since = *self.away_since.get_or_insert(now);
        let away = now.saturating_duration_since(since);
        let mut next = None::<Duration>;
        self.table.descriptors.retain(|name, _| {
            let Some(limit) = limit(name) else {
                return true;
            };
            let left = patience(limit, away);
            next = next.into_iter().chain(left).min();
            left.is_some()
        });
        next.map_or(EpollTimeout::NONE, |left| {
            // A millisecond more, so that it is over when the loop wakes.
            let left_ms = u32::try_from(left.as_millis() + 1).unwrap_or(u32::MAX);
            EpollTimeout::try_from(left_ms).unwrap_or(EpollTimeout::MAX)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serve_is_waited_for_and_not_for_ever() {
        assert_eq!(patience(AWAY_MAX, Duration::ZERO), Some(AWAY_MAX));
        let nearly = AWAY_MAX.checked_sub(Duration::from_millis(1));
        let nearly = nearly.expect("it is longer");
        assert_eq!(patience(AWAY_MAX, nearly), Some(Duration::from_millis(1)));
        assert_eq!(patience(AWAY_MAX, AWAY_MAX), None);
        assert_eq!(patience(AWAY_MAX, AWAY_MAX * 2), None);
        assert_eq!(limit("for-a-restart/api"), Some(AWAY_MAX));
        assert_eq!(limit(HELD_LIFELINE), Some(AWAY_MAX_OF_LIFELINE));
        assert_eq!(
            limit("access/1"),
            None,
            "those are held for as long as it takes"
        );
    }
}
