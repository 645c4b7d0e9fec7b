//! A histogram of durations: counted where something happens, read where metrics are told.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds of the buckets, in microseconds.
const BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
    5_000_000, 30_000_000,
];

/// Durations by size. Counting takes two atomic additions.
#[derive(Debug, Default)]
pub struct Latency {
    /// The last one counts what is above all bounds.
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// What was counted until now.
#[derive(Debug, Clone, PartialEq)]
pub struct LatencySnapshot {
    /// Upper bound in seconds, and how many lie in this bucket (not in those below); the last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// The sum of all, in seconds.
    pub sum_s: f64,
    /// How many there are.
    pub count: u64,
}

impl Latency {
    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// What was counted until now. While others count, the sum may tell of one more or less than the buckets.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "microseconds of a daemon's life stay below 2^52"
    )]
    pub fn snapshot(&self) -> LatencySnapshot {
        let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6);
        let counts = self
            .buckets
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.chain([f64::MAX]).zip(counts).collect();
        LatencySnapshot {
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
            sum_s: self.sum_us.load(Ordering::Relaxed) as f64 / 1e6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_lies_in_the_bucket_of_its_bound() {
        let latency = Latency::default();
        for us in [0, 100, 101, 1_000, 31_000_000] {
            latency.observe(Duration::from_micros(us));
        }
        let told = latency.snapshot();
        let filled: Vec<_> = told
            .buckets
            .iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(
            filled,
            [&(0.000_1, 2), &(0.000_25, 1), &(0.001, 1), &(f64::MAX, 1)]
        );
        assert_eq!(told.count, 5);
        assert!((told.sum_s - 31.001_201).abs() < 1e-9, "{}", told.sum_s);
    }
}
