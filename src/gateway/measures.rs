//! Counts of the gateway, over all instances: cheap enough for every request.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use http::StatusCode;

use super::{
    cause::Cause,
    in_place::{METHODS, METHODS_COUNT},
};
use crate::domain::latency::{Latency, LatencySnapshot};

/// HTTP knows no more status codes.
const STATUS_CODES: usize = 1_000;

/// What the gateway answered, and how fast.
#[derive(Debug)]
pub struct Measures {
    times: Latency,
    by_status: Box<[AtomicU64]>,
    by_cause: [AtomicU64; Cause::WORDS.len()],
    recalled: [AtomicU64; METHODS_COUNT],
}

impl Default for Measures {
    fn default() -> Self {
        Self {
            times: Latency::default(),
            by_status: (0..STATUS_CODES).map(|_| AtomicU64::new(0)).collect(),
            by_cause: Default::default(),
            recalled: Default::default(),
        }
    }
}

impl Measures {
    /// Counts an answer whose head took so long.
    pub(super) fn answered(&self, status: StatusCode, took: Duration) {
        self.times.observe(took);
        if let Some(count) = self.by_status.get(usize::from(status.as_u16())) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts an error.
    pub(super) fn failed(&self, cause: Cause) {
        if let Some(count) = self.by_cause.get(cause.place()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts an answer in place of a server, by the place of its method.
    pub(super) fn recalled(&self, method: usize) {
        if let Some(count) = self.recalled.get(method) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Answers in place of servers that slept or started, by method, all of them.
    pub fn in_place(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self
            .recalled
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        METHODS.into_iter().zip(counts)
    }

    /// Times to the head of the answer.
    #[must_use]
    pub fn times(&self) -> LatencySnapshot {
        self.times.snapshot()
    }

    /// Errors by the word of their cause, all words.
    pub fn by_cause(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self
            .by_cause
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        Cause::WORDS.into_iter().zip(counts)
    }

    /// Answers by status code, those that there were.
    #[must_use]
    pub fn by_status(&self) -> Vec<(usize, u64)> {
        let counts = self
            .by_status
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        counts.enumerate().filter(|(_, count)| *count > 0).collect()
    }
}
