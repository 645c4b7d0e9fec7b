//! The few timers of one instance, in one place, so that an actor sleeps on a single deadline.

use tokio::time::Instant;

use crate::domain::event::Deadline;

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// A deadline of the lifecycle.
    Life(Deadline),
    /// The lease's warning event.
    LeaseWarning,
    /// The lease's end.
    LeaseEnd,
    /// The end of the restore window.
    Purge,
    /// The next liveness probe.
    Probe,
    /// Ask the server what it offers.
    Learn,
    /// Look whether anybody uses it.
    Sleep,
    /// Try again to write what the store did not take.
    PersistAgain,
    /// A launch that takes long lets others pass.
    YieldLaunchTurn,
}

/// At most one timer of each kind.
#[derive(Debug, Clone, Default)]
pub(super) struct Timers(Vec<(Timer, Instant)>);

impl Timers {
    /// Sets a timer, in place of one of the same kind.
    pub(super) fn arm(&mut self, timer: Timer, at: Instant) {
        self.disarm(timer);
        self.0.push((timer, at));
    }

    /// Clears a timer.
    pub(super) fn disarm(&mut self, timer: Timer) {
        self.0.retain(|(kind, _)| *kind != timer);
    }

    /// Whether one of this kind is set.
    pub(super) fn is_armed(&self, timer: Timer) -> bool {
        self.0.iter().any(|(kind, _)| *kind == timer)
    }

    /// The next one, and when it is due.
    pub(super) fn next(&self) -> Option<(Timer, Instant)> {
        self.0.iter().copied().min_by_key(|(_, at)| *at)
    }

    /// Takes out the earliest timer that is due at `now`.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let (index, _) = self
            .0
            .iter()
            .enumerate()
            .filter(|(_, (_, at))| *at <= now)
            .min_by_key(|(_, (_, at))| *at)?;
        Some(self.0.swap_remove(index).0)
    }
}
