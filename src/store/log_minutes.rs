//! Between which ids the lines of each minute lie, so that a search in a time reads a range of ids.
//!
//! Ids rise in the order of writing, which is nearly the order of time: only lines that waited in a spool come later. So a
//! minute has few lines of others between its first and its last.

use std::collections::BTreeMap;

use sqlx::{query, query_as};

use super::{Store, StoreError, logs::LogRow};
use crate::domain::UnixMs;

/// The minute of a time. Rounds towards zero, as both databases divide.
fn minute_of(at: UnixMs) -> i64 {
    at / 60_000
}

/// The first and the last id of each minute among rows that were just written, by rising minute.
pub(super) fn spans_of(rows: &[LogRow<'_>], ids: &[i64]) -> BTreeMap<i64, (i64, i64)> {
    let mut spans = BTreeMap::<i64, (i64, i64)>::new();
    for (row, id) in rows.iter().zip(ids) {
        let span = spans.entry(minute_of(row.at)).or_insert((*id, *id));
        *span = (span.0.min(*id), span.1.max(*id));
    }
    spans
}

/// Widens the span of a minute; for SQLite.
pub(super) const WIDEN_MINUTE_SQLITE: &str = "INSERT INTO log_minutes (minute, first_id, last_id) VALUES (?, ?, ?) \
     ON CONFLICT (minute) DO UPDATE SET first_id = min(first_id, excluded.first_id), \
     last_id = max(last_id, excluded.last_id)";

impl Store {
    /// The ids between which the lines of a time lie, both included; absent: there are none.
    pub(super) async fn ids_of_time(
        &self,
        since: Option<UnixMs>,
        until: Option<UnixMs>,
    ) -> Result<Option<(i64, i64)>, StoreError> {
        let (from, to) = (
            since.map_or(i64::MIN, minute_of),
            until.map_or(i64::MAX, minute_of),
        );
        let found: (Option<i64>, Option<i64>) = reading!(self, |db| {
            query_as(
                "SELECT MIN(first_id), MAX(last_id) FROM log_minutes WHERE minute >= $1 AND minute <= $2",
            )
            .bind(from)
            .bind(to)
            .fetch_one(db)
            .await?
        });
        Ok(found.0.zip(found.1))
    }

    /// Forgets minutes whose lines are all gone.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_log_minutes(&self) -> Result<u64, StoreError> {
        Ok(writing!(self, |db| {
            query("DELETE FROM log_minutes WHERE last_id < COALESCE((SELECT MIN(id) FROM logs), 0)")
                .execute(db)
                .await?
                .rows_affected()
        }))
    }
}
