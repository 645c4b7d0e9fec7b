//! One batch on its way into the store.

use std::sync::Arc;

use super::record::{LogRecord, LogStore, LogStoreError, StoreFuture};

/// What became of a batch.
pub(super) struct Inserted {
    /// The rows that the store has, in order.
    pub(super) rows: Arc<Vec<LogRecord>>,
    /// Their ids.
    pub(super) ids: Vec<i64>,
    /// Rows that the store will never take.
    pub(super) refused: Vec<LogRecord>,
}

/// An insert that goes on whenever its answer is awaited.
pub(super) struct Insert {
    rows: Arc<Vec<LogRecord>>,
    answer: StoreFuture<'static, Inserted>,
}

impl Insert {
    pub(super) fn new(store: Arc<dyn LogStore>, rows: Arc<Vec<LogRecord>>) -> Self {
        Self {
            answer: Box::pin(insert(store, Arc::clone(&rows))),
            rows,
        }
    }

    pub(super) fn rows(&self) -> &Arc<Vec<LogRecord>> {
        &self.rows
    }

    /// Dropping this future does not stop the insert; it goes on with the next call. Not to be called again
    /// after an answer.
    pub(super) async fn answer(&mut self) -> Result<Inserted, LogStoreError> {
        self.answer.as_mut().await
    }
}

/// Writes `rows`; where the store refuses them, finds the ones that it refuses by halving, so that a poisonous
/// row cannot hold up all others for ever.
async fn insert(
    store: Arc<dyn LogStore>,
    rows: Arc<Vec<LogRecord>>,
) -> Result<Inserted, LogStoreError> {
    match store.insert(Arc::clone(&rows)).await {
        Ok(ids) => {
            return Ok(Inserted {
                rows,
                ids,
                refused: Vec::new(),
            });
        }
        Err(LogStoreError::Refused(reason)) => {
            tracing::error!(rows = rows.len(), reason, "the log store refused a batch");
        }
        Err(error) => return Err(error),
    }
    let (mut taken, mut ids, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    let mut parts = vec![rows.as_slice()];
    if rows.len() > 1 {
        let (first, second) = rows.split_at(rows.len() / 2);
        parts = vec![second, first];
    }
    while let Some(part) = parts.pop() {
        if rows.len() == 1 {
            refused.extend_from_slice(part);
            continue;
        }
        match store.insert(Arc::new(part.to_vec())).await {
            Ok(part_ids) => {
                ids.extend(part_ids);
                taken.extend_from_slice(part);
            }
            Err(LogStoreError::Refused(_)) if part.len() == 1 => refused.extend_from_slice(part),
            Err(LogStoreError::Refused(_)) => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first]);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Inserted {
        rows: Arc::new(taken),
        ids,
        refused,
    })
}
