//! Log capture: pipe → framer → redaction → bounded queue → batch writer → store → followers, with a bounded
//! spool on disk for the time in which the store is away or slow.
//!
//! Promises: a child never waits for our database, only for as long as the spool takes a batch; lines of an instance
//! keep their order; a line is lost only when the spool is full too, or the instance has had its share of it or is over
//! its rate, newest first, and a gap row then tells how many and why. One that floods takes nothing from the others: in
//! the queue, in the spool and at the store they have their turns and shares. A line that
//! reached the store or the spool is stored once, whenever `serve` or the database dies: the writer numbers its lines, and
//! its number moves in the transaction of the batch. What is in the memory of a `serve` that is killed is lost, and counted
//! where the kill leaves it (`tally`), so that the next one tells it by a gap row.

mod capture;
mod framer;
mod gap;
mod insert;
mod progress;
mod queue;
mod rate;
mod record;
mod share;
mod spooled;
mod stored;
mod tail;
mod writer;

#[cfg(test)]
mod capture_tests;
#[cfg(test)]
mod fairness_tests;
#[cfg(test)]
pub(crate) mod fake_store;
#[cfg(test)]
mod framer_tests;
#[cfg(test)]
mod spool_tests;
#[cfg(test)]
mod tail_tests;
#[cfg(test)]
mod tally_tests;
#[cfg(test)]
mod writer_tests;

use std::{io, os::fd::OwnedFd, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use capture::{Capture, LAST_LINES_BYTES_MAX, LAST_LINES_MAX};
pub use framer::{Framed, Framer};
pub use record::{
    LogPageQuery, LogRecord, LogSource, LogStore, LogStoreError, LogStream, NumberedLog,
    StoreFuture, StoredLog, UnknownStream,
};
pub use tail::{Tail, TailFilter, TailStart};

use crate::{
    config::LogsConfig,
    secrets::redaction::Redactions,
    spool::{Spool, SpoolError},
    tally::{self, CountFiles},
};
use gap::Loss;
use progress::Shared;
use queue::Queue;
use tail::Followers;
use writer::{Identity, Writer};

/// The way into the log pipeline; a cheap clone for everyone who has lines.
#[derive(Clone)]
pub struct Logs {
    queue: Arc<Queue>,
    followers: Arc<Followers>,
    store: Arc<dyn LogStore>,
    shared: Arc<Shared>,
    captures: TaskTracker,
    stop: CancellationToken,
    line_limit_bytes: usize,
}

/// Counters since the start of the daemon, and sizes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogCounters {
    /// Lines captured.
    pub lines: u64,
    /// Bytes of these lines.
    pub bytes: u64,
    /// Lines written to the store.
    pub stored: u64,
    /// Lines that went through the spool.
    pub spooled: u64,
    /// Lines lost, whatever the cause.
    pub dropped: u64,
    /// Of these, lines of instances that had their share of the spool.
    pub dropped_over_share: u64,
    /// Of these, lines of instances that were over their rate.
    pub dropped_over_rate: u64,
    /// Of these, lines that were in the memory of the daemon before this one, which was killed.
    pub dropped_killed: u64,
    /// Bytes waiting in memory now.
    pub queue_bytes: usize,
    /// Bytes waiting on disk now.
    pub spool_bytes: u64,
    /// Whether the last attempt to write to the store succeeded (or none was made yet).
    pub store_available: bool,
}

impl LogCounters {
    fn count_dropped(&mut self, loss: Loss, lines: u64) {
        self.dropped += lines;
        match loss {
            Loss::NoPlace => {}
            Loss::OverShare => self.dropped_over_share += lines,
            Loss::OverRate => self.dropped_over_rate += lines,
            Loss::Killed => self.dropped_killed += lines,
        }
    }
}

/// What the closing of the pipeline left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogsClosed {
    /// Bytes left in the spool, for the next start.
    pub spool_bytes: u64,
    /// Lines lost since the start, those of the closing included.
    pub dropped: u64,
}

/// The pipeline itself: owned by the composition root, closed after the children and before the store.
pub struct LogPipeline {
    logs: Logs,
    writer: tokio::task::JoinHandle<()>,
}

/// A pipeline that writes nothing yet.
pub struct IdlePipeline {
    logs: Logs,
    writer: Writer,
}

impl IdlePipeline {
    /// Starts the writer.
    #[must_use]
    pub fn start(self) -> LogPipeline {
        LogPipeline {
            logs: self.logs,
            writer: tokio::spawn(self.writer.run()),
        }
    }
}

impl LogPipeline {
    /// Opens the spool (what an earlier daemon left in it is written first) and starts the writer.
    ///
    /// # Errors
    /// The spool folder cannot be made, read or written.
    pub async fn start(config: &LogsConfig, store: Arc<dyn LogStore>) -> Result<Self, SpoolError> {
        Ok(Self::open(config, store, None).await?.start())
    }

    /// The same without the start, with the lines that are in memory counted in a file that outlives this process. What
    /// the former count tells as lost stands in the new one from here on; somebody else has to hold that before the start,
    /// or a kill would leave the former, and what it tells would be told twice.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn open(
        config: &LogsConfig,
        store: Arc<dyn LogStore>,
        count: Option<CountFiles>,
    ) -> Result<IdlePipeline, SpoolError> {
        let spool = Spool::open(&config.spool_dir, config.spool_bytes).await?;
        let shared = Arc::new(Shared::default());
        let number = tally::new_writer();
        let close = |writer, to| store.close_writer(writer, to);
        let (lost, tally) = tally::begun(count, number, "log lines", &spool, close).await;
        let tally = tally.map(Arc::new);
        let lines = lost.values().map(|lost| lost.count).sum();
        shared.written().count_dropped(Loss::Killed, lines);
        let queue = Arc::new(Queue::new(
            config.queue_bytes,
            config.rate_limit_per_instance,
            tally.clone(),
        ));
        let followers = Arc::<Followers>::default();
        let identity = Identity {
            number,
            tally,
            lost: gap::killed(&lost),
        };
        let writer = Writer::new(
            config,
            Arc::clone(&store),
            Arc::clone(&queue),
            Arc::clone(&followers),
            Arc::clone(&shared),
            spool,
            identity,
        );
        let logs = Logs {
            queue,
            followers,
            store,
            shared,
            captures: TaskTracker::new(),
            stop: CancellationToken::new(),
            line_limit_bytes: config.line_limit_bytes,
        };
        Ok(IdlePipeline { logs, writer })
    }

    /// The way in.
    #[must_use]
    pub fn logs(&self) -> Logs {
        self.logs.clone()
    }

    /// Stops reading pipes (what is in them stays there), brings every queued line to the store or, when that
    /// does not succeed within `timeout`, to the spool, and ends the followers.
    pub async fn close(self, timeout: Duration) -> LogsClosed {
        let deadline = tokio::time::Instant::now() + timeout;
        self.logs.stop.cancel();
        self.logs.captures.close();
        if tokio::time::timeout_at(deadline, self.logs.captures.wait())
            .await
            .is_err()
        {
            tracing::warn!("some log pipes were still being read at the end");
        }
        self.logs.shared.set_deadline(deadline);
        self.logs.queue.close();
        if let Err(error) = self.writer.await {
            tracing::error!(%error, "the log writer ended badly");
        }
        self.logs.followers.close();
        let counters = self.logs.counters();
        LogsClosed {
            spool_bytes: counters.spool_bytes,
            dropped: counters.dropped,
        }
    }
}

impl Logs {
    /// Reads `pipe` (the read end of a pipe, made non-blocking here) until it ends, in a task of its own, and
    /// keeps every line of it, redacted.
    ///
    /// # Errors
    /// The descriptor is not the read end of a pipe, or cannot be registered.
    pub fn capture(
        &self,
        source: LogSource,
        stream: LogStream,
        pipe: OwnedFd,
        redactions: Arc<Redactions>,
    ) -> io::Result<Capture> {
        let (mut reading, capture) = capture::Reading::new(
            source,
            stream,
            pipe,
            redactions,
            Arc::clone(&self.queue),
            self.line_limit_bytes,
            self.stop.child_token(),
        )?;
        self.captures.spawn(async move { reading.run().await });
        Ok(capture)
    }

    /// Keeps a line that did not come from a captured pipe: stdout of a stdio server that is not JSON-RPC, or a
    /// word of the daemon's own. Never waits: when twice the queue's budget is used up, the line is lost and
    /// counted; who relays a child's bytes awaits [`Logs::room`] first.
    pub fn note(&self, source: LogSource, stream: LogStream, line: &[u8], redactions: &Redactions) {
        let at = capture::unix_ms_now();
        let mut rows = Vec::new();
        let mut framer = Framer::new(self.line_limit_bytes);
        let matcher = redactions.matcher();
        let mut collect = |framed| rows.push(capture::record(source, stream, at, framed));
        framer.feed(line, &matcher, &mut collect);
        framer.finish(&matcher, &mut collect);
        self.queue.push(rows);
    }

    /// Waits until the queue has room for the instance with this key.
    pub async fn room(&self, key: i64) {
        self.queue.room(key).await;
    }

    /// Follows the log of the instance with this key.
    #[must_use]
    pub fn follow(&self, key: i64, start: TailStart, filter: TailFilter) -> Tail {
        Tail::new(Arc::clone(&self.store), &self.followers, key, start, filter)
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> LogCounters {
        let through = self.queue.throughput();
        let written = *self.shared.written();
        LogCounters {
            lines: through.lines,
            bytes: through.line_bytes,
            queue_bytes: through.queued_bytes,
            ..written
        }
    }

    /// Lines captured from the instance with this key since the daemon started.
    #[must_use]
    pub fn lines_of(&self, key: i64) -> u64 {
        self.queue.lines_of(key)
    }

    /// Forgets the counter of an instance that is gone.
    pub fn forget(&self, key: i64) {
        self.queue.forget(key);
    }
}
