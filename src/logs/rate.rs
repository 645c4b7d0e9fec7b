//! The rate of each instance: what is past it is lost on purpose, and counted.

use std::collections::BTreeMap;

use super::{
    gap::{Gaps, Loss, count_lost, merge_gap},
    record::{LogRecord, LogStream},
};
use crate::domain::access::{RateLimit, TokenBucket};

/// A loss is told so long after its first line, with what was lost until then: a flood makes one row in that time.
const TELL_AFTER_NS: u64 = 1_000_000_000;

#[derive(Debug, Default)]
pub(super) struct Rates {
    /// Looked up for each line, among few: without a hash, which costs more.
    buckets: BTreeMap<i64, TokenBucket>,
    gaps: Gaps,
    /// When the loss of an instance is told, by the clock of [`Rates::lets_through`].
    due_ns: BTreeMap<(i64, Loss), u64>,
}

impl Rates {
    /// Whether a row is within the rate of its instance; if not, it is counted. `now_ns` never goes back.
    pub(super) fn lets_through(&mut self, rate: RateLimit, row: &LogRecord, now_ns: u64) -> bool {
        if row.stream == LogStream::System {
            return true;
        }
        let bucket = self.buckets.entry(row.instance_key).or_default();
        if bucket.take(rate, 1, now_ns).is_ok() {
            return true;
        }
        count_lost(&mut self.gaps, row, Loss::OverRate);
        let due_ns = now_ns.saturating_add(TELL_AFTER_NS);
        let of = (row.instance_key, Loss::OverRate);
        self.due_ns.entry(of).or_insert(due_ns);
        false
    }

    /// Moves the losses that are due, or `everything`, to `into`.
    pub(super) fn take_gaps(&mut self, now_ns: u64, everything: bool, into: &mut Gaps) {
        let due = |_: &(i64, Loss), due_ns: &mut u64| everything || *due_ns <= now_ns;
        for (of, _) in self.due_ns.extract_if(.., due) {
            if let Some(gap) = self.gaps.remove(&of) {
                merge_gap(into, of, gap);
            }
        }
    }

    /// When the next loss is due.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.due_ns.values().min().copied()
    }

    /// Forgets the bucket of an instance that was purged.
    pub(super) fn forget(&mut self, key: i64) {
        self.buckets.remove(&key);
    }
}
