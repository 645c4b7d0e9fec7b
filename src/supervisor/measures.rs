//! Times and uses for metrics.

use std::sync::atomic::Ordering;

use super::Supervisor;
use crate::{
    domain::{latency::LatencySnapshot, slug::Slug},
    runtime::{self, TreeUsage},
};

impl Supervisor {
    /// How long the keeper took to start processes.
    #[must_use]
    pub fn spawn_times(&self) -> LatencySnapshot {
        self.context().spawn_times.snapshot()
    }

    /// How long it took from the turn to launch until the server had shaken hands.
    #[must_use]
    pub fn ready_times(&self) -> LatencySnapshot {
        self.context().launch_turns.ready_times.snapshot()
    }

    /// How many sleeping instances requests woke since the daemon started, and how long it took from a request until the
    /// server had shaken hands.
    #[must_use]
    pub fn wakes(&self) -> (u64, LatencySnapshot) {
        let context = self.context();
        let wakes = context.wakes.load(Ordering::Relaxed);
        (wakes, context.wake_times.snapshot())
    }

    /// How long it took from the request that thaws an instance until its processes went on.
    #[must_use]
    pub fn thaw_times(&self) -> LatencySnapshot {
        self.context().thaw_times.snapshot()
    }

    /// How many bytes of frozen instances were taken back, since the daemon started.
    #[must_use]
    pub fn reclaimed_bytes(&self) -> u64 {
        self.context().runtime.reclaimed_bytes()
    }

    /// How many instances slept early because memory was short, since the daemon started.
    #[must_use]
    pub fn pressed_to_sleep(&self) -> u64 {
        self.context().pressed.load(Ordering::Relaxed)
    }

    /// How many instances slept early because another of their owner's was wanted, since the daemon started.
    #[must_use]
    pub fn gave_way(&self) -> u64 {
        self.context().gave_way.load(Ordering::Relaxed)
    }

    /// How many servers offered something else after a launch than was kept, and so was answered, since the daemon
    /// started.
    #[must_use]
    pub fn capability_changes(&self) -> u64 {
        self.context().capability_changes.load(Ordering::Relaxed)
    }

    /// What the main child of each instance, with all below it, uses now, and how often the restart policy launched the
    /// instance. Reads /proc some times for each, so it blocks for a moment; instances without a child use nothing.
    #[must_use]
    pub fn usage_by_instance(&self) -> Vec<(Slug, TreeUsage, u64)> {
        let handles = self.context().registry.after(None);
        let read = handles.into_iter().map(|(_, handle)| {
            let (pid, slug, restarts) = {
                let status = handle.status.borrow();
                let record = &status.record;
                (status.pid, record.slug(), record.restarts)
            };
            // A child that ended a moment ago uses nothing.
            let usage = pid.and_then(|pid| runtime::usage(pid).ok());
            (slug, usage.unwrap_or_default(), restarts)
        });
        read.collect()
    }
}
