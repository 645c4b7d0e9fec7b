//! The bounded queue between the readers of pipes and the writer.
//!
//! Bounded by bytes, all instances together. A reader asks for room before it reads, so what cannot be queued
//! stays in the kernel's pipe for the moment that the writer needs to move rows to the store or the spool.
//!
//! Each instance has a lane of its own. The writer takes from the lanes in turn, and a lane has room only while it is
//! small beside what is left of the queue ([`has_room`]): who floods waits, and others pass by.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Notify, time::Instant};

use super::{
    gap::{Gaps, Loss, count_lost},
    rate::Rates,
    record::{LogRecord, LogSource},
    share::has_room,
};
use crate::{
    domain::{UnixMs, access::RateLimit, id::Generation},
    tally::Tally,
};

/// So many bytes of one lane go before the next lane has its turn.
const TURN_BYTES: usize = 64 << 10;

#[derive(Default)]
struct Lane {
    rows: VecDeque<LogRecord>,
    bytes: usize,
}

#[derive(Default)]
struct Content {
    /// Lanes that hold rows.
    lanes: HashMap<i64, Lane>,
    /// Their keys, in the order of their turns.
    turns: VecDeque<i64>,
    rows: usize,
    bytes: usize,
    gaps: Gaps,
    rates: Rates,
    lines: u64,
    line_bytes: u64,
    lines_by_key: HashMap<i64, u64>,
    closed: bool,
}

impl Content {
    fn enqueue(&mut self, lane: &mut Lane, row: LogRecord, cost: usize) {
        if lane.rows.is_empty() {
            self.turns.push_back(row.instance_key);
        }
        lane.bytes += cost;
        self.bytes += cost;
        self.rows += 1;
        lane.rows.push_back(row);
    }
}

pub(super) struct Queue {
    content: Mutex<Content>,
    budget_bytes: usize,
    rate: Option<RateLimit>,
    began: Instant,
    room: Notify,
    filled: Notify,
    tally: Option<Arc<Tally>>,
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
    /// `rate`: what one instance may write; past it its lines are lost and counted. `tally`: where lines are counted that
    /// come in.
    pub(super) fn new(
        budget_bytes: usize,
        rate: Option<RateLimit>,
        tally: Option<Arc<Tally>>,
    ) -> Self {
        Self {
            content: Mutex::default(),
            budget_bytes: budget_bytes.max(1),
            rate,
            began: Instant::now(),
            room: Notify::new(),
            filled: Notify::new(),
            tally,
        }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        // Counters and rows stay sensible whatever a panicking holder left undone.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn budget_bytes(&self) -> usize {
        self.budget_bytes
    }

    /// Waits until the queue has room for the instance with this key, or is closed.
    pub(super) async fn room(&self, key: i64) {
        loop {
            let notified = self.room.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            {
                let content = self.content();
                let own_bytes = content.lanes.get(&key).map_or(0, |lane| lane.bytes);
                if content.closed
                    || has_room(
                        own_bytes as u64,
                        content.bytes as u64,
                        self.budget_bytes as u64,
                    )
                {
                    return;
                }
            }
            notified.await;
        }
    }

    /// Takes rows over. Those past twice the budget are lost and counted: only someone who does not wait for
    /// room gets there. So are those of an instance that is over its rate; the daemon's own words are not counted in it.
    pub(super) fn push(&self, rows: impl IntoIterator<Item = LogRecord>) {
        self.push_counted(rows, None);
    }

    /// The same for lines of a pipe, of which so many were counted already by [`Queue::read`].
    pub(super) fn push_read(
        &self,
        rows: Vec<LogRecord>,
        source: LogSource,
        at: UnixMs,
        counted: i64,
    ) {
        self.push_counted(rows, Some((source, at, counted)));
    }

    /// So many ends of lines were read from a pipe at a time, which become lines soon; less than 0: fewer.
    pub(super) fn read(&self, source: LogSource, at: UnixMs, lines: i64) {
        if let Some(tally) = &self.tally {
            tally.enter(source.key, source.generation, at, lines);
        }
    }

    fn push_counted(
        &self,
        rows: impl IntoIterator<Item = LogRecord>,
        mut counted: Option<(LogSource, UnixMs, i64)>,
    ) {
        let now_ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut content = self.content();
        let mut rows = rows.into_iter().peekable();
        // Rows that follow each other are mostly of one instance: its lane is looked up once for all of them.
        while let Some(key) = rows.peek().map(|row| row.instance_key) {
            let mut lane = content.lanes.remove(&key).unwrap_or_default();
            let mut lines = 0_u64;
            let mut last = (Generation(0), 0);
            while let Some(row) = rows.next_if(|row| row.instance_key == key) {
                let cost = row.cost_bytes();
                lines += 1;
                last = (row.generation, row.at);
                content.line_bytes += row.line.len() as u64;
                if content.closed || content.bytes + cost > self.budget_bytes.saturating_mul(2) {
                    count_lost(&mut content.gaps, &row, Loss::NoPlace);
                } else if self
                    .rate
                    .is_none_or(|rate| content.rates.lets_through(rate, &row, now_ns))
                {
                    content.enqueue(&mut lane, row, cost);
                }
            }
            if !lane.rows.is_empty() {
                content.lanes.insert(key, lane);
            }
            if let Some(tally) = &self.tally {
                // Before the lock is gone: nothing is settled before it is counted.
                let counted = counted.take().map_or(0, |(.., lines)| lines);
                tally.enter(
                    key,
                    last.0,
                    last.1,
                    i64::try_from(lines).unwrap_or(i64::MAX) - counted,
                );
            }
            content.lines += lines;
            *content.lines_by_key.entry(key).or_default() += lines;
        }
        if let (Some(tally), Some((source, at, lines @ 1..))) = (&self.tally, counted) {
            // Bytes without a line of their own.
            tally.enter(source.key, source.generation, at, -lines);
        }
        drop(content);
        self.filled.notify_one();
    }

    /// Takes out the oldest rows of each lane, lanes in turn: at most `rows_max`, about `bytes_max`, at least one if there
    /// is one.
    pub(super) fn take(&self, rows_max: usize, bytes_max: usize) -> Vec<LogRecord> {
        let mut content = self.content();
        let mut taken = Vec::with_capacity(content.rows.min(rows_max));
        let mut bytes = 0;
        while taken.len() < rows_max && (bytes < bytes_max || taken.is_empty()) {
            let Some(key) = content.turns.pop_front() else {
                break;
            };
            let Some(lane) = content.lanes.get_mut(&key) else {
                continue;
            };
            let mut turn_bytes = 0;
            while turn_bytes < TURN_BYTES
                && taken.len() < rows_max
                && (bytes + turn_bytes < bytes_max || taken.is_empty())
                && let Some(row) = lane.rows.pop_front()
            {
                turn_bytes += row.cost_bytes();
                taken.push(row);
            }
            lane.bytes -= turn_bytes;
            bytes += turn_bytes;
            if lane.rows.is_empty() {
                content.lanes.remove(&key);
            } else {
                content.turns.push_back(key);
            }
        }
        content.rows -= taken.len();
        content.bytes -= bytes;
        let has_room = content.bytes < self.budget_bytes;
        drop(content);
        if has_room {
            self.room.notify_waiters();
        }
        taken
    }

    /// Takes out what was lost on the way in, as far as it is time to tell it.
    pub(super) fn take_gaps(&self) -> Gaps {
        let now_ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut content = self.content();
        let everything = content.closed;
        let mut gaps = std::mem::take(&mut content.gaps);
        content.rates.take_gaps(now_ns, everything, &mut gaps);
        gaps
    }

    /// When the next loss by a rate is to be told.
    pub(super) fn gaps_due(&self) -> Option<Instant> {
        let due_ns = self.content().rates.due_ns()?;
        Some(self.began + std::time::Duration::from_nanos(due_ns))
    }

    pub(super) fn fill(&self) -> Fill {
        let content = self.content();
        Fill {
            rows: content.rows,
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
        let mut content = self.content();
        content.lines_by_key.remove(&key);
        content.rates.forget(key);
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
