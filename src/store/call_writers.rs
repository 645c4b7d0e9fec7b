//! How far each writer of call records came: moved with every batch in its transaction, as [`super::log_writers`] is.

use sqlx::{query, query_scalar};

use super::{Store, StoreError};
use crate::domain::UnixMs;

impl Store {
    /// How far a writer came whose process is gone. Waits for what the server is still about to write of it, and takes
    /// nothing of it any more up to the number `closed`, in case it has not begun with that.
    ///
    /// # Errors
    /// Those of the database; it does not answer while a transaction of that writer is open.
    pub async fn close_call_writer(
        &self,
        writer: i64,
        closed: Option<i64>,
        now: UnixMs,
    ) -> Result<i64, StoreError> {
        let came = in_transaction!(self, |tx| {
            // An update without a change, for its lock.
            let came: i64 = query_scalar(
                "INSERT INTO call_writers AS known (writer, last_number, written_at) \
                 VALUES ($1, 0, $2) ON CONFLICT (writer) \
                 DO UPDATE SET written_at = known.written_at RETURNING last_number",
            )
            .bind(writer)
            .bind(now)
            .fetch_one(&mut *tx)
            .await?;
            query(
                "UPDATE call_writers SET last_number = $2 WHERE writer = $1 AND last_number < $2",
            )
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
    pub async fn delete_call_writers_before(&self, at: UnixMs) -> Result<u64, StoreError> {
        Ok(writing!(self, |db| {
            query("DELETE FROM call_writers WHERE written_at < $1")
                .bind(at)
                .execute(db)
                .await?
                .rows_affected()
        }))
    }
}
