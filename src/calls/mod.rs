//! Call records on their way to the store: a bounded queue that never blocks a request, one task that writes batches,
//! and a bounded spool on disk for the time in which the store is away or slow.
//!
//! Promises: records keep their order; a record is stored once, whatever was not known of an earlier try; it is lost
//! only when the queue or the spool is full, or the store refuses it, and then a record `lost` of its instance tells
//! how many. What waits in the spool survives a restart. What is in the memory of a `serve` that is killed is lost, and counted
//! where the kill leaves it (`tally`), so that the next one tells it by such a record.

mod gap;
mod spooled;
mod writer;

#[cfg(test)]
mod fake_store;
#[cfg(test)]
mod writer_tests;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    config::CallsConfig,
    domain::call::{CallRecord, NumberedCall},
    spool::{Spool, SpoolError},
    store::{Store, StoreError},
    tally::{self, CountFiles, Tally},
};
use gap::Gaps;
use writer::Writer;

/// What this room needs of a store.
pub trait CallStore: Clone + Send + Sync + 'static {
    /// Writes calls; see [`Store::insert_calls`].
    fn insert_calls(
        &self,
        calls: &[NumberedCall],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// How far a writer came that is gone; see [`Store::close_call_writer`].
    fn close_writer(
        &self,
        writer: i64,
        closed: Option<i64>,
    ) -> impl Future<Output = Result<i64, StoreError>> + Send;
}

impl CallStore for Store {
    async fn insert_calls(&self, calls: &[NumberedCall]) -> Result<(), StoreError> {
        Self::insert_calls(self, calls).await
    }

    async fn close_writer(&self, writer: i64, closed: Option<i64>) -> Result<i64, StoreError> {
        self.close_call_writer(writer, closed, Clock::System.now())
            .await
    }
}

/// What happened to records since the daemon started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallCounters {
    /// Calls that were to be recorded.
    pub recorded: u64,
    /// Records written to the store, those of an earlier daemon that lay in the spool included.
    pub stored: u64,
    /// Records that went through the spool.
    pub spooled: u64,
    /// Calls whose record is lost, whatever the cause.
    pub dropped: u64,
    /// Of these, records that were in the memory of the daemon before this one, which was killed; of the others, the queue
    /// or the spool was full, or the database refused them.
    pub dropped_killed: u64,
    /// Bytes waiting on disk now.
    pub spool_bytes: u64,
}

#[derive(Debug, Default)]
struct Counts {
    recorded: AtomicU64,
    stored: AtomicU64,
    spooled: AtomicU64,
    dropped: AtomicU64,
    dropped_killed: AtomicU64,
    spool_bytes: AtomicU64,
}

/// What the way in shares with the writer.
#[derive(Debug, Default)]
struct Shared {
    counts: Counts,
    /// Losses that no record tells of yet, by instance.
    gaps: Mutex<Gaps>,
    /// Until when the closing may take.
    deadline: Mutex<Option<Instant>>,
    /// Where records in memory are counted.
    tally: Option<Tally>,
}

impl Shared {
    /// Counts records that found no place.
    fn lose<'r>(&self, records: impl Iterator<Item = &'r CallRecord>, why: &str) {
        let mut gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        let lost: u64 = records
            .map(|record| gap::count_lost(&mut gaps, record))
            .sum();
        drop(gaps);
        if lost == 0 {
            return;
        }
        // Told when it begins and then now and then: one line for each lost record would be a flood of its own.
        let before = self.counts.dropped.fetch_add(lost, Ordering::Relaxed);
        if before / 1_000 != (before + lost) / 1_000 || before == 0 {
            tracing::warn!(lost, why, "call records are lost");
        }
    }
}

/// Takes records in; cheap to clone, never waits.
#[derive(Debug, Clone)]
pub struct Calls {
    queue: mpsc::Sender<CallRecord>,
    shared: Arc<Shared>,
}

impl Calls {
    /// Queues a record, or drops and counts it.
    pub fn record(&self, record: CallRecord) {
        self.shared.counts.recorded.fetch_add(1, Ordering::Relaxed);
        if let Some(tally) = &self.shared.tally {
            let (key, at) = (record.instance_key, record.started_at);
            tally.enter(key, record.generation, at, 1);
        }
        if let Err(refused) = self.queue.try_send(record) {
            let record = refused.into_inner();
            self.shared
                .lose(std::iter::once(&record), "the queue is full");
        }
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> CallCounters {
        let counts = &self.shared.counts;
        let read = |one: &AtomicU64| one.load(Ordering::Relaxed);
        CallCounters {
            recorded: read(&counts.recorded),
            stored: read(&counts.stored),
            spooled: read(&counts.spooled),
            dropped: read(&counts.dropped),
            dropped_killed: read(&counts.dropped_killed),
            spool_bytes: read(&counts.spool_bytes),
        }
    }
}

/// The writing side.
pub struct CallPipeline {
    calls: Calls,
    stop: CancellationToken,
    writer: JoinHandle<()>,
}

/// A pipeline that writes nothing yet.
pub struct IdlePipeline<S> {
    calls: Calls,
    stop: CancellationToken,
    writer: Writer<S>,
}

impl<S: CallStore> IdlePipeline<S> {
    /// Starts the writer.
    #[must_use]
    pub fn start(self) -> CallPipeline {
        CallPipeline {
            calls: self.calls,
            stop: self.stop,
            writer: tokio::spawn(self.writer.run()),
        }
    }
}

impl CallPipeline {
    /// Opens the spool (what an earlier daemon left in it is written first). `count`: where records in memory are counted,
    /// in a file that outlives this process. What the former count tells as lost stands in the new one from here on;
    /// somebody else has to hold that before the start, or a kill would leave the former, and what it tells would be told
    /// twice.
    ///
    /// # Errors
    /// The spool folder cannot be made, read or written.
    pub async fn open<S: CallStore>(
        config: &CallsConfig,
        store: S,
        count: Option<CountFiles>,
    ) -> Result<IdlePipeline<S>, SpoolError> {
        let spool = Spool::open(&config.spool_dir, config.spool_bytes).await?;
        let (queue, records) = mpsc::channel(config.queue_rows);
        let number = tally::new_writer();
        let close = |writer, to| store.close_writer(writer, to);
        let (lost, tally) = tally::begun(count, number, "call records", &spool, close).await;
        let killed = lost.values().map(|lost| lost.count).sum();
        let shared = Arc::new(Shared {
            counts: Counts {
                dropped: AtomicU64::new(killed),
                dropped_killed: AtomicU64::new(killed),
                ..Counts::default()
            },
            gaps: Mutex::new(gap::killed(&lost)),
            tally,
            ..Shared::default()
        });
        let stop = CancellationToken::new();
        let writer = Writer::new(
            records,
            store,
            spool,
            config.batch_delay.std(),
            Arc::clone(&shared),
            stop.clone(),
            number,
        );
        Ok(IdlePipeline {
            calls: Calls { queue, shared },
            stop,
            writer,
        })
    }

    /// The way in.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.calls.clone()
    }

    /// Takes no more in, and brings what waits to the store or, when that does not succeed within `patience`, to the
    /// spool.
    pub async fn close(self, patience: Duration) -> CallCounters {
        let deadline = Instant::now() + patience;
        let shared = &self.calls.shared;
        *shared
            .deadline
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(deadline);
        self.stop.cancel();
        if let Err(error) = self.writer.await {
            tracing::error!(%error, "the writer of call records ended badly");
        }
        self.calls.counters()
    }
}
