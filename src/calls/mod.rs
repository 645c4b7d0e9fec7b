//! Call records on their way to the store: a bounded queue that never blocks a request, and one task that writes batches.
//!
//! While the database is away the newest records wait in the queue; past its bound they are dropped and counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    config::CallsConfig,
    domain::call::CallRecord,
    store::{Store, StoreError},
};

/// Records of one transaction at most.
const BATCH_MAX: usize = 1_000;
/// Between two tries to write a batch: from, to.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// What happened to records since the daemon started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallCounters {
    /// Calls that were recorded.
    pub recorded: u64,
    /// Of those, written to the store.
    pub stored: u64,
    /// Of those, lost: the queue was full, or the database refused them.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Counts {
    recorded: AtomicU64,
    stored: AtomicU64,
    dropped: AtomicU64,
}

impl Counts {
    fn drop_some(&self, count: usize, why: &str) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        // Told when it begins and then now and then: one line for each lost record would be a flood of its own.
        let before = self.dropped.fetch_add(count, Ordering::Relaxed);
        if before.is_multiple_of(1_000) {
            tracing::warn!(count, why, "call records are lost");
        }
    }
}

/// Takes records in; cheap to clone, never waits.
#[derive(Debug, Clone)]
pub struct Calls {
    queue: mpsc::Sender<CallRecord>,
    counts: Arc<Counts>,
}

impl Calls {
    /// Queues a record, or drops and counts it.
    pub fn record(&self, record: CallRecord) {
        self.counts.recorded.fetch_add(1, Ordering::Relaxed);
        if self.queue.try_send(record).is_err() {
            self.counts.drop_some(1, "the queue is full");
        }
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> CallCounters {
        CallCounters {
            recorded: self.counts.recorded.load(Ordering::Relaxed),
            stored: self.counts.stored.load(Ordering::Relaxed),
            dropped: self.counts.dropped.load(Ordering::Relaxed),
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
    /// Starts the writer.
    #[must_use]
    pub fn start(config: &CallsConfig, store: Store) -> Self {
        let (queue, records) = mpsc::channel(config.queue_rows);
        let calls = Calls {
            queue,
            counts: Arc::default(),
        };
        let delay = config.batch_delay.std();
        let stop = CancellationToken::new();
        let counts = calls.counts.clone();
        let writer = tokio::spawn(write(records, store, delay, counts, stop.clone()));
        Self {
            calls,
            stop,
            writer,
        }
    }

    /// The way in.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.calls.clone()
    }

    /// Takes no more in and writes what waits, for as long as `patience`; answers how many records are lost.
    pub async fn close(self, patience: Duration) -> u64 {
        let Self {
            calls,
            stop,
            mut writer,
        } = self;
        let counts = calls.counts.clone();
        stop.cancel();
        if tokio::time::timeout(patience, &mut writer).await.is_err() {
            writer.abort();
        }
        let count = |one: &AtomicU64| one.load(Ordering::Relaxed);
        count(&counts.recorded).saturating_sub(count(&counts.stored))
    }
}

/// Ends when the queue is empty after `stop`.
async fn write(
    mut records: mpsc::Receiver<CallRecord>,
    store: Store,
    delay: Duration,
    counts: Arc<Counts>,
    stop: CancellationToken,
) {
    let mut batch = Vec::new();
    loop {
        let received = tokio::select! {
            biased;
            () = stop.cancelled(), if !records.is_closed() => {
                records.close();
                continue;
            }
            received = records.recv_many(&mut batch, BATCH_MAX) => received,
        };
        if received == 0 {
            return;
        }
        if batch.len() < BATCH_MAX && !records.is_closed() {
            // Others that come meanwhile go along.
            sleep(delay).await;
            while batch.len() < BATCH_MAX
                && let Ok(record) = records.try_recv()
            {
                batch.push(record);
            }
        }
        let mut pause = RETRY.0;
        loop {
            match store.insert_calls(&batch).await {
                Ok(()) => {
                    let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
                    counts.stored.fetch_add(count, Ordering::Relaxed);
                    break;
                }
                Err(StoreError::Unavailable(reason)) => {
                    tracing::debug!(reason, "call records wait for the database");
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
                Err(error) => {
                    counts.drop_some(batch.len(), &error.to_string());
                    break;
                }
            }
        }
        batch.clear();
    }
}
