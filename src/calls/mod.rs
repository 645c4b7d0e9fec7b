//! Call records on their way to the store: a bounded queue that never blocks a request, one task that writes batches,
//! and a bounded spool on disk for the time in which the store is away or slow.
//!
//! Promises: records keep their order; a record is stored once, whatever was not known of an earlier try; it is lost
//! only when the queue or the spool is full, or the store refuses it, and then a record `lost` of its instance tells
//! how many. What waits in the spool survives a restart. A crash of the daemon takes what came in since the last batch.

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
    config::CallsConfig,
    domain::call::{CallRecord, NumberedCall},
    spool::{Spool, SpoolError},
    store::{Store, StoreError},
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
}

impl CallStore for Store {
    async fn insert_calls(&self, calls: &[NumberedCall]) -> Result<(), StoreError> {
        Self::insert_calls(self, calls).await
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
    /// Calls whose record is lost: the queue or the spool was full, or the database refused it.
    pub dropped: u64,
    /// Bytes waiting on disk now.
    pub spool_bytes: u64,
}

#[derive(Debug, Default)]
struct Counts {
    recorded: AtomicU64,
    stored: AtomicU64,
    spooled: AtomicU64,
    dropped: AtomicU64,
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

impl CallPipeline {
    /// Opens the spool (what an earlier daemon left in it is written first) and starts the writer.
    ///
    /// # Errors
    /// The spool folder cannot be made, read or written.
    pub async fn start(config: &CallsConfig, store: impl CallStore) -> Result<Self, SpoolError> {
        let spool = Spool::open(&config.spool_dir, config.spool_bytes).await?;
        let (queue, records) = mpsc::channel(config.queue_rows);
        let shared = Arc::<Shared>::default();
        let stop = CancellationToken::new();
        let writer = Writer::new(
            records,
            store,
            spool,
            config.batch_delay.std(),
            Arc::clone(&shared),
            stop.clone(),
        );
        Ok(Self {
            calls: Calls { queue, shared },
            stop,
            writer: tokio::spawn(writer.run()),
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
