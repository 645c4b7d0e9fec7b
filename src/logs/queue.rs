//! The bounded queue between the readers of pipes and the writer.
//!
//! Bounded by bytes, all instances together. A reader asks for room before it reads, so what cannot be queued
//! stays in the kernel's pipe for the moment that the writer needs to move rows to the store or the spool.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{
    gap::{Gaps, count_lost},
    record::LogRecord,
};

#[derive(Default)]
struct Content {
    rows: VecDeque<LogRecord>,
    bytes: usize,
    gaps: Gaps,
    lines: u64,
    line_bytes: u64,
    lines_by_key: BTreeMap<i64, u64>,
    closed: bool,
}

pub(super) struct Queue {
    content: Mutex<Content>,
    budget_bytes: usize,
    room: Notify,
    filled: Notify,
}

/// How full the queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fill {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    pub(super) closed: bool,
}

/// What went through the queue since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Throughput {
    pub(super) lines: u64,
    pub(super) line_bytes: u64,
    pub(super) queued_bytes: usize,
}

impl Queue {
    pub(super) fn new(budget_bytes: usize) -> Self {
        Self {
            content: Mutex::default(),
            budget_bytes: budget_bytes.max(1),
            room: Notify::new(),
            filled: Notify::new(),
        }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        // Counters and rows stay sensible whatever a panicking holder left undone.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn budget_bytes(&self) -> usize {
        self.budget_bytes
    }

    /// Waits until the queue is below its budget, or closed.
    pub(super) async fn room(&self) {
        loop {
            let notified = self.room.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            {
                let content = self.content();
                if content.closed || content.bytes < self.budget_bytes {
                    return;
                }
            }
            notified.await;
        }
    }

    /// Takes rows over. Those past twice the budget are lost and counted: only someone who does not wait for
    /// room gets there.
    pub(super) fn push(&self, rows: impl IntoIterator<Item = LogRecord>) {
        let mut content = self.content();
        for row in rows {
            let cost = row.cost_bytes();
            content.lines += 1;
            content.line_bytes += row.line.len() as u64;
            *content.lines_by_key.entry(row.instance_key).or_default() += 1;
            if content.closed || content.bytes + cost > self.budget_bytes.saturating_mul(2) {
                count_lost(&mut content.gaps, &row);
            } else {
                content.bytes += cost;
                content.rows.push_back(row);
            }
        }
        drop(content);
        self.filled.notify_one();
    }

    /// Takes out the oldest rows: at most `rows_max`, about `bytes_max`, at least one if there is one.
    pub(super) fn take(&self, rows_max: usize, bytes_max: usize) -> Vec<LogRecord> {
        let mut content = self.content();
        let mut taken = Vec::with_capacity(content.rows.len().min(rows_max));
        let mut bytes = 0;
        while taken.len() < rows_max && (bytes < bytes_max || taken.is_empty()) {
            let Some(row) = content.rows.pop_front() else {
                break;
            };
            bytes += row.cost_bytes();
            taken.push(row);
        }
        content.bytes -= bytes;
        if content.rows.is_empty() {
            content.rows = VecDeque::new();
        }
        let has_room = content.bytes < self.budget_bytes;
        drop(content);
        if has_room {
            self.room.notify_waiters();
        }
        taken
    }

    /// Takes out what was lost on the way in.
    pub(super) fn take_gaps(&self) -> Gaps {
        std::mem::take(&mut self.content().gaps)
    }

    pub(super) fn fill(&self) -> Fill {
        let content = self.content();
        Fill {
            rows: content.rows.len(),
            bytes: content.bytes,
            closed: content.closed,
        }
    }

    pub(super) fn throughput(&self) -> Throughput {
        let content = self.content();
        Throughput {
            lines: content.lines,
            line_bytes: content.line_bytes,
            queued_bytes: content.bytes,
        }
    }

    pub(super) fn lines_of(&self, key: i64) -> u64 {
        self.content().lines_by_key.get(&key).copied().unwrap_or(0)
    }

    pub(super) fn forget(&self, key: i64) {
        self.content().lines_by_key.remove(&key);
    }

    /// A permit is stored when nobody waits, so no push is missed.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Lets nothing more in; what is in can still be taken.
    pub(super) fn close(&self) {
        self.content().closed = true;
        self.room.notify_waiters();
        self.filled.notify_one();
    }
}
