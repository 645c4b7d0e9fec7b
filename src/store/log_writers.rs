//! How far each writer of log lines came: moved with every batch in its transaction, so that a batch of which nobody knows
//! whether it was committed may be written again.

use sqlx::{query, query_scalar};

use super::{
    Store, StoreError,
    log_insert_postgres::insert_postgres,
    logs::{LogRow, insert_sqlite},
    patience::in_time,
    pool::Pool,
};
use crate::domain::UnixMs;

/// Of whom the lines of a batch are, and up to which number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch<'a> {
    /// The writer; 0: nobody, and the lines are written in any case.
    pub(super) writer: i64,
    /// The number of each line, rising.
    pub(super) numbers: &'a [i64],
}

impl Batch<'_> {
    /// Lines without numbers.
    pub(super) const UNNUMBERED: Batch<'static> = Batch {
        writer: 0,
        numbers: &[],
    };

    /// How many of the lines lie behind a number.
    pub(super) fn behind(&self, last: i64) -> usize {
        self.numbers.partition_point(|number| *number <= last)
    }
}

pub(super) const LAST_NUMBER: &str = "SELECT last_number FROM log_writers WHERE writer = $1";
/// For SQLite, whose statements cost no round trip.
pub(super) const MOVE_WRITER_SQLITE: &str = "INSERT INTO log_writers (writer, last_number, written_at) VALUES (?, ?, ?) \
     ON CONFLICT (writer) DO UPDATE SET last_number = excluded.last_number, written_at = excluded.written_at";

impl Store {
    /// Inserts lines of one writer, whose `numbers` rise, in one transaction. A number that the writer wrote before, or
    /// one below, counts as written: those are the first of `rows`. Answers the ids of the others, rising.
    ///
    /// # Errors
    /// Those of the database; nothing is written then.
    pub async fn insert_numbered_logs(
        &self,
        writer: i64,
        numbers: &[i64],
        rows: &[LogRow<'_>],
    ) -> Result<Vec<i64>, StoreError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let batch = Batch { writer, numbers };
        match &self.pool {
            Pool::Sqlite { writer, .. } => {
                in_time(
                    &self.patience,
                    module_path!(),
                    insert_sqlite(writer, batch, rows),
                )
                .await
            }
            Pool::Postgres(pool) => {
                in_time(
                    &self.patience,
                    module_path!(),
                    insert_postgres(pool, batch, rows),
                )
                .await
            }
        }
    }

    /// How far a writer came whose process is gone. Waits for what the server is still about to write of it, and takes
    /// nothing of it any more up to the number `closed`, in case it has not begun with that.
    ///
    /// # Errors
    /// Those of the database; it does not answer while a transaction of that writer is open.
    pub async fn close_log_writer(
        &self,
        writer: i64,
        closed: Option<i64>,
        now: UnixMs,
    ) -> Result<i64, StoreError> {
        let came = in_transaction!(self, |tx| {
            // An update without a change, for its lock.
            let came: i64 = query_scalar(
                "INSERT INTO log_writers AS known (writer, last_number, written_at) \
                 VALUES ($1, 0, $2) ON CONFLICT (writer) \
                 DO UPDATE SET written_at = known.written_at RETURNING last_number",
            )
            .bind(writer)
            .bind(now)
            .fetch_one(&mut *tx)
            .await?;
            query("UPDATE log_writers SET last_number = $2 WHERE writer = $1 AND last_number < $2")
                .bind(writer)
                .bind(closed.unwrap_or(0))
                .execute(&mut *tx)
                .await?;
            came
        });
        Ok(came)
    }

    /// Forgets how far writers came that wrote nothing since `at`; answers how many.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_log_writers_before(&self, at: UnixMs) -> Result<u64, StoreError> {
        Ok(writing!(self, |db| {
            query("DELETE FROM log_writers WHERE written_at < $1")
                .bind(at)
                .execute(db)
                .await?
                .rows_affected()
        }))
    }
}
