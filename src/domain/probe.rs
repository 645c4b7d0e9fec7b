//! Liveness: how answers to probes become a verdict.

use super::state::Health;

/// Counts failures in a row.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProbeTracker {
    failures_in_row: u32,
}

impl ProbeTracker {
    /// Takes in one probe's outcome; answers the verdict it leads to. One success heals.
    pub fn note(&mut self, answered: bool, failure_threshold: u32) -> Health {
        if answered {
            self.failures_in_row = 0;
            return Health::Healthy;
        }
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        if self.failures_in_row >= failure_threshold.max(1) {
            Health::Unhealthy
        } else {
            Health::Healthy
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_counts_failures_in_a_row() {
        let mut tracker = ProbeTracker::default();
        let verdicts =
            [false, false, true, false, false, false].map(|answered| tracker.note(answered, 3));
        let healthy = Health::Healthy;
        assert_eq!(
            verdicts,
            [
                healthy,
                healthy,
                healthy,
                healthy,
                healthy,
                Health::Unhealthy
            ]
        );
    }
}
