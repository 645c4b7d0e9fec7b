//! A store in memory for the tests of this room: it can be away, hang, refuse a line, and counts its transactions.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::Semaphore;
use uuid::Uuid;

use super::record::{
    LogPageQuery, LogRecord, LogSource, LogStore, LogStoreError, LogStream, NumberedLog,
    StoreFuture, StoredLog,
};
use crate::{
    config::LogsConfig,
    domain::{
        duration::HumanDuration,
        id::{Generation, InstanceId},
    },
};

pub(crate) struct FakeStore {
    rows: Mutex<Vec<StoredLog>>,
    /// How far each writer came.
    writers: Mutex<BTreeMap<i64, i64>>,
    away: AtomicBool,
    /// Inserts are done, and said to have failed.
    forgetful: AtomicBool,
    /// An insert takes one permit; without permits it hangs.
    gate: Option<Semaphore>,
    inserts: AtomicUsize,
    /// Called as an insert begins.
    watch: OnceLock<Box<dyn Fn() + Send + Sync>>,
    refused_line: Option<&'static str>,
}

impl FakeStore {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::bare())
    }

    fn bare() -> Self {
        Self {
            rows: Mutex::default(),
            writers: Mutex::default(),
            away: AtomicBool::new(false),
            forgetful: AtomicBool::new(false),
            gate: None,
            inserts: AtomicUsize::new(0),
            watch: OnceLock::new(),
            refused_line: None,
        }
    }

    /// Inserts wait for permits of [`FakeStore::let_through`].
    pub(crate) fn hanging() -> Arc<Self> {
        Arc::new(Self {
            gate: Some(Semaphore::new(0)),
            ..Self::bare()
        })
    }

    pub(crate) fn refusing(line: &'static str) -> Arc<Self> {
        Arc::new(Self {
            refused_line: Some(line),
            ..Self::bare()
        })
    }

    pub(crate) fn let_through(&self, inserts: usize) {
        if let Some(gate) = &self.gate {
            gate.add_permits(inserts);
        }
    }

    /// Calls `watch` as each insert begins. Only the first one of a store counts.
    pub(crate) fn watch_inserts(&self, watch: impl Fn() + Send + Sync + 'static) {
        self.watch.get_or_init(|| Box::new(watch));
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// The answers to inserts get lost on their way.
    pub(crate) fn set_forgetful(&self, forgetful: bool) {
        self.forgetful.store(forgetful, Ordering::SeqCst);
    }

    /// Attempts to insert, failed ones included.
    pub(crate) fn inserts(&self) -> usize {
        self.inserts.load(Ordering::SeqCst)
    }

    fn stored(&self) -> MutexGuard<'_, Vec<StoredLog>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let stored = self.stored();
        stored.iter().map(|row| row.record.line.clone()).collect()
    }

    pub(crate) fn rows(&self) -> Vec<StoredLog> {
        self.stored().clone()
    }

    /// Waits until `enough` holds of the stored rows; a test that waits in vain is ended by its timeout.
    pub(crate) async fn until(&self, enough: impl Fn(&[StoredLog]) -> bool) {
        while !enough(&self.stored()) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

fn away() -> LogStoreError {
    LogStoreError::Unavailable("away for a test".to_owned())
}

impl LogStore for FakeStore {
    fn insert(&self, rows: Arc<Vec<NumberedLog>>) -> StoreFuture<'_, Vec<i64>> {
        Box::pin(async move {
            self.inserts.fetch_add(1, Ordering::SeqCst);
            if let Some(watch) = self.watch.get() {
                watch();
            }
            if let Some(gate) = &self.gate {
                gate.acquire().await.map_err(|_| away())?.forget();
            }
            if self.away.load(Ordering::SeqCst) {
                return Err(away());
            }
            let refused = |row: &LogRecord| Some(row.line.as_str()) == self.refused_line;
            if rows.iter().any(|row| refused(&row.record)) {
                return Err(LogStoreError::Refused("refused for a test".to_owned()));
            }
            let mut stored = self.stored();
            let mut ids = Vec::new();
            let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
            for row in rows.iter() {
                let last = writers.entry(row.writer).or_default();
                if row.writer != 0 && row.number <= *last {
                    continue;
                }
                *last = row.number;
                let id = stored.last().map_or(1, |last| last.id + 1);
                ids.push(id);
                stored.push(StoredLog {
                    id,
                    record: row.record.clone(),
                });
            }
            if self.forgetful.load(Ordering::SeqCst) {
                return Err(away());
            }
            Ok(ids)
        })
    }

    fn close_writer(&self, writer: i64, closed: Option<i64>) -> StoreFuture<'_, i64> {
        Box::pin(async move {
            if self.away.load(Ordering::SeqCst) {
                return Err(away());
            }
            let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
            let last = writers.entry(writer).or_default();
            let came = *last;
            *last = closed.map_or(came, |closed| closed.max(came));
            Ok(came)
        })
    }

    fn page(&self, instance_key: i64, query: LogPageQuery) -> StoreFuture<'_, Vec<StoredLog>> {
        Box::pin(async move {
            if self.away.load(Ordering::SeqCst) {
                return Err(away());
            }
            let stored = self.stored();
            let wanted = |row: &&StoredLog| {
                row.record.instance_key == instance_key
                    && query.after.is_none_or(|after| row.id > after)
                    && query.before.is_none_or(|before| row.id < before)
                    && query
                        .stream
                        .is_none_or(|stream| row.record.stream == stream)
            };
            let limit = query.limit as usize;
            Ok(if query.newest_first {
                stored
                    .iter()
                    .rev()
                    .filter(wanted)
                    .take(limit)
                    .cloned()
                    .collect()
            } else {
                stored.iter().filter(wanted).take(limit).cloned().collect()
            })
        })
    }
}

/// The instance of the tests; its key is 7.
pub(crate) fn source() -> LogSource {
    LogSource {
        instance: InstanceId(Uuid::from_u128(7)),
        key: 7,
        generation: Generation(3),
        member: 0,
    }
}

pub(crate) fn record(line: &str) -> LogRecord {
    LogRecord {
        instance_key: source().key,
        generation: source().generation,
        member: 0,
        stream: LogStream::Stderr,
        at: 1_000,
        line: line.to_owned(),
        continued: false,
    }
}

pub(crate) fn config(spool_dir: &std::path::Path) -> LogsConfig {
    LogsConfig {
        spool_dir: spool_dir.to_owned(),
        batch_delay: HumanDuration::from_ms(20),
        rate_limit_per_instance: None,
        ..LogsConfig::default()
    }
}
