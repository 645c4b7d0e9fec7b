//! How much of the log each instance has: kept with every write and every deletion, so that nobody has to count.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, query, query_as};

use super::{
    Store, StoreError,
    logs::LogRow,
    row::{to_column, without_nul},
};
use crate::config::LOG_ROW_BYTES;

/// What an instance has in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogUsage {
    /// The key of the instance, which may be gone.
    pub instance_key: i64,
    /// Its lines.
    pub lines: u64,
    /// The bytes of their text.
    pub text_bytes: u64,
}

impl LogUsage {
    /// What it counts for the bounds: its text, and [`LOG_ROW_BYTES`] for each line.
    #[must_use]
    pub fn cost_bytes(&self) -> u64 {
        let rows_bytes = self.lines.saturating_mul(LOG_ROW_BYTES);
        self.text_bytes.saturating_add(rows_bytes)
    }
}

/// What a step of a deletion did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeletedLines {
    /// Lines deleted.
    pub lines: u64,
    /// What they counted for the bounds, in bytes.
    pub cost_bytes: u64,
}

/// Lines and bytes of text of each instance among `rows`, by rising key: who locks rows does so in one order.
pub(super) fn sums_of(rows: &[LogRow<'_>]) -> BTreeMap<i64, (i64, i64)> {
    let text_bytes = |row: &LogRow<'_>| to_column(without_nul(&row.line).len() as u64);
    sum(rows.iter().map(|row| (row.instance_key, text_bytes(row))))
}

fn sum(lines: impl IntoIterator<Item = (i64, i64)>) -> BTreeMap<i64, (i64, i64)> {
    let mut sums = BTreeMap::<i64, (i64, i64)>::new();
    for (key, text_bytes) in lines {
        let of_key = sums.entry(key).or_default();
        of_key.0 += 1;
        of_key.1 += text_bytes;
    }
    sums
}

/// Adds a batch to what an instance has; for SQLite, whose statements cost no round trip. A damaged number beyond all sense
/// (2^62) is no reason to refuse the lines of the batch, and `recount_log_usage` puts it right.
pub(super) const ADD_USAGE: &str = "INSERT INTO log_usage (instance_key, lines, text_bytes) VALUES (?, ?, ?) \
     ON CONFLICT (instance_key) DO UPDATE SET lines = MIN(lines, 4611686018427387904) + excluded.lines, \
     text_bytes = MIN(text_bytes, 4611686018427387904) + excluded.text_bytes";

impl Store {
    /// What each instance has in the log, in no order.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn log_usage(&self) -> Result<Vec<LogUsage>, StoreError> {
        let rows: Vec<(i64, i64, i64)> = reading!(self, |db| {
            query_as("SELECT instance_key, lines, text_bytes FROM log_usage")
                .fetch_all(db)
                .await?
        });
        let usage = rows
            .into_iter()
            .map(|(instance_key, lines, text_bytes)| LogUsage {
                instance_key,
                lines: u64::try_from(lines).unwrap_or(0),
                text_bytes: u64::try_from(text_bytes).unwrap_or(0),
            });
        Ok(usage.collect())
    }

    /// Deletes the oldest lines of an instance beyond the newest `keep_rows`, at most `max_rows`.
    ///
    /// # Errors
    /// Those of the database.
    pub(super) async fn trim_log_lines(
        &self,
        instance_key: i64,
        keep_rows: u64,
        max_rows: u32,
    ) -> Result<DeletedLines, StoreError> {
        const CHOSEN: &str = "SELECT id FROM logs WHERE instance_key = $1 AND id <= \
             (SELECT id FROM logs WHERE instance_key = $1 ORDER BY id DESC LIMIT 1 OFFSET $2) \
             ORDER BY id LIMIT $3";
        let numbers = [instance_key, to_column(keep_rows), i64::from(max_rows)];
        self.delete_lines(CHOSEN, &numbers).await
    }

    /// Deletes the oldest lines of an instance until they made up `excess_bytes`, as the bounds count them, at most
    /// `max_rows`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn trim_log_bytes(
        &self,
        instance_key: i64,
        excess_bytes: u64,
        max_rows: u32,
    ) -> Result<DeletedLines, StoreError> {
        let chosen = format!(
            "SELECT id FROM (SELECT id, cost, SUM(cost) OVER (ORDER BY id) AS run FROM \
             (SELECT id, octet_length(line) + {LOG_ROW_BYTES} AS cost FROM logs WHERE instance_key = $1 \
             ORDER BY id LIMIT $3) AS oldest) AS sums WHERE run - cost < $2"
        );
        let numbers = [instance_key, to_column(excess_bytes), i64::from(max_rows)];
        self.delete_lines(&chosen, &numbers).await
    }

    /// Forgets what an instance without any line is said to have; whether there was such a row.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn drop_empty_log_usage(&self, instance_key: i64) -> Result<bool, StoreError> {
        Ok(writing!(self, |db| {
            query(
                "DELETE FROM log_usage WHERE instance_key = $1 \
                 AND NOT EXISTS (SELECT 1 FROM logs WHERE instance_key = $1)",
            )
            .bind(instance_key)
            .execute(db)
            .await?
            .rows_affected()
                > 0
        }))
    }

    /// Counts what an instance has from its lines, and puts its usage right where that tells something else; whether it did.
    /// What is written or deleted meanwhile counts too. Reads all lines of the instance.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn recount_log_usage(&self, instance_key: i64) -> Result<bool, StoreError> {
        // One statement, so that it sees the lines and what is told of them as they were at one moment.
        let counted: Option<(i64, i64, i64, i64)> = reading!(self, |db| {
            query_as(
                "SELECT told.lines, told.text_bytes, \
                 (SELECT COUNT(*) FROM logs WHERE instance_key = $1), \
                 (SELECT CAST(COALESCE(SUM(octet_length(line)), 0) AS BIGINT) FROM logs WHERE instance_key = $1) \
                 FROM log_usage AS told WHERE told.instance_key = $1",
            )
            .bind(instance_key)
            .fetch_optional(db)
            .await?
        });
        let Some((told_lines, told_bytes, lines, text_bytes)) = counted else {
            return Ok(false);
        };
        if (told_lines, told_bytes) == (lines, text_bytes) {
            return Ok(false);
        }
        tracing::error!(
            key = instance_key,
            told_lines,
            lines,
            told_bytes,
            text_bytes,
            "the usage of the log was wrong and is put right"
        );
        writing!(self, |db| {
            query(
                "UPDATE log_usage SET lines = lines - $2 + $3, text_bytes = text_bytes - $4 + $5 \
                 WHERE instance_key = $1",
            )
            .bind(instance_key)
            .bind(told_lines)
            .bind(lines)
            .bind(told_bytes)
            .bind(text_bytes)
            .execute(db)
            .await?
            .rows_affected()
        });
        Ok(true)
    }

    /// Deletes the lines whose ids `chosen` selects, and takes them off what their instances have.
    pub(super) async fn delete_lines(
        &self,
        chosen: &str,
        numbers: &[i64],
    ) -> Result<DeletedLines, StoreError> {
        let sql = format!(
            "DELETE FROM logs WHERE id IN ({chosen}) \
             RETURNING instance_key, CAST(octet_length(line) AS BIGINT)"
        );
        let sums = in_transaction!(self, |tx| {
            let mut delete = query_as(AssertSqlSafe(sql));
            for number in numbers {
                delete = delete.bind(*number);
            }
            let gone: Vec<(i64, i64)> = delete.fetch_all(&mut *tx).await?;
            let sums = sum(gone);
            for (key, (lines, text_bytes)) in &sums {
                query(
                    "UPDATE log_usage SET lines = lines - $2, text_bytes = text_bytes - $3 \
                     WHERE instance_key = $1",
                )
                .bind(*key)
                .bind(*lines)
                .bind(*text_bytes)
                .execute(&mut *tx)
                .await?;
            }
            if !sums.is_empty() {
                // One that tells of too few lines stays until it is counted anew.
                query(
                    "DELETE FROM log_usage WHERE lines <= 0 AND NOT EXISTS \
                     (SELECT 1 FROM logs WHERE logs.instance_key = log_usage.instance_key)",
                )
                .execute(&mut *tx)
                .await?;
            }
            sums
        });
        let mut deleted = DeletedLines::default();
        for (lines, text_bytes) in sums.into_values() {
            let of_key = LogUsage {
                instance_key: 0,
                lines: lines.unsigned_abs(),
                text_bytes: text_bytes.unsigned_abs(),
            };
            deleted.lines += of_key.lines;
            deleted.cost_bytes += of_key.cost_bytes();
        }
        Ok(deleted)
    }
}
