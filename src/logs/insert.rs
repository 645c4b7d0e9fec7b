//! One batch on its way into the store.

use std::{ops::Range, sync::Arc};

use tokio_util::task::AbortOnDropHandle;

use super::record::{LogStore, LogStoreError, NumberedLog};
use crate::traces::{self, Parent, Span, SpanKind};

/// What became of a batch; rows are named by their places in it.
#[derive(Default)]
pub(super) struct Inserted {
    /// The rows that were written now, in order, and their ids.
    pub(super) written: Vec<(usize, i64)>,
    /// Rows that the store had already, of an earlier try.
    pub(super) known: Vec<usize>,
    /// Rows that the store will never take.
    pub(super) refused: Vec<usize>,
}

/// An insert in a task of its own: it goes on while the writer does other things, and is given up when this is dropped.
pub(super) struct Insert {
    rows: Arc<Vec<NumberedLog>>,
    task: AbortOnDropHandle<Result<Inserted, LogStoreError>>,
}

impl Insert {
    pub(super) fn new(store: Arc<dyn LogStore>, rows: Arc<Vec<NumberedLog>>) -> Self {
        Self {
            task: AbortOnDropHandle::new(tokio::spawn(insert(store, Arc::clone(&rows)))),
            rows,
        }
    }

    pub(super) fn rows(&self) -> &Arc<Vec<NumberedLog>> {
        &self.rows
    }

    /// Whether the answer is there.
    pub(super) fn is_done(&self) -> bool {
        self.task.is_finished()
    }

    /// Dropping this future does not stop the insert; it goes on with the next call. Not to be called again
    /// after an answer.
    pub(super) async fn answer(&mut self) -> Result<Inserted, LogStoreError> {
        let ended = (&mut self.task).await;
        ended.unwrap_or_else(|error| Err(LogStoreError::Unavailable(error.to_string())))
    }
}

/// Writes `rows`, those of each writer apart; where the store refuses them, finds the ones that it refuses by halving, so
/// that a poisonous row cannot hold up all others for ever.
async fn insert(
    store: Arc<dyn LogStore>,
    rows: Arc<Vec<NumberedLog>>,
) -> Result<Inserted, LogStoreError> {
    let mut done = Inserted::default();
    let mut parts = by_writer(&rows);
    parts.reverse();
    while let Some(part) = parts.pop() {
        let batch = if part.len() == rows.len() {
            Arc::clone(&rows)
        } else {
            Arc::new(rows[part.clone()].to_vec())
        };
        match traced(&*store, batch).await {
            Ok(ids) => {
                let first_new = part.end.saturating_sub(ids.len());
                done.known.extend(part.start..first_new);
                done.written.extend((first_new..part.end).zip(ids));
            }
            Err(LogStoreError::Refused(reason)) => {
                tracing::error!(rows = part.len(), reason, "the log store refused a batch");
                if part.len() <= 1 {
                    done.refused.extend(part);
                } else {
                    let middle = part.start + part.len() / 2;
                    parts.extend([middle..part.end, part.start..middle]);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// A batch is what causes the work of the database: a trace of its own.
async fn traced(
    store: &dyn LogStore,
    batch: Arc<Vec<NumberedLog>>,
) -> Result<Vec<i64>, LogStoreError> {
    let span = Span::begin(
        SpanKind::Internal,
        || "log batch".to_owned(),
        &Parent::default(),
    );
    let Some(mut span) = span else {
        return store.insert(batch).await;
    };
    span.put(
        "minimcp.rows",
        i64::try_from(batch.len()).unwrap_or(i64::MAX),
    );
    let inserted = traces::within(span.inside(), store.insert(batch)).await;
    if inserted.is_err() {
        span.fail("log-store");
    }
    inserted
}

/// The places of the rows of each writer, in order.
fn by_writer(rows: &[NumberedLog]) -> Vec<Range<usize>> {
    let mut from = 0;
    let chunks = rows.chunk_by(|a, b| a.writer == b.writer);
    let parts = chunks.map(|chunk| {
        let part = from..from + chunk.len();
        from = part.end;
        part
    });
    parts.collect()
}
