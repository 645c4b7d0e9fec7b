//! How far each writer of log lines and of call records came: moved with every batch in its transaction, so that a batch of
//! which nobody knows whether it was committed may be written again.

use sqlx::{query, query_scalar};

use super::{Store, StoreError};
use crate::domain::UnixMs;

/// The statements on one table of writers.
struct Writers {
    /// An update without a change, for its lock.
    lock: &'static str,
    raise: &'static str,
    forget: &'static str,
}

macro_rules! writers {
    ($table:literal) => {
        Writers {
            lock: concat!(
                "INSERT INTO ",
                $table,
                " AS known (writer, last_number, written_at) VALUES ($1, 0, $2) \
                 ON CONFLICT (writer) DO UPDATE SET written_at = known.written_at RETURNING last_number"
            ),
            raise: concat!(
                "UPDATE ",
                $table,
                " SET last_number = $2 WHERE writer = $1 AND last_number < $2"
            ),
            forget: concat!("DELETE FROM ", $table, " WHERE written_at < $1"),
        }
    };
}

const OF_LOGS: Writers = writers!("log_writers");
const OF_CALLS: Writers = writers!("call_writers");

impl Store {
    /// How far a writer of log lines came whose process is gone. Waits for what the server is still about to write of it,
    /// and takes nothing of it any more up to the number `closed`, in case it has not begun with that.
    ///
    /// # Errors
    /// Those of the database; it does not answer while a transaction of that writer is open.
    pub async fn close_log_writer(
        &self,
        writer: i64,
        closed: Option<i64>,
        now: UnixMs,
    ) -> Result<i64, StoreError> {
        self.close_writer_of(&OF_LOGS, writer, closed, now).await
    }

    /// The same for a writer of call records.
    ///
    /// # Errors
    /// As [`Store::close_log_writer`].
    pub async fn close_call_writer(
        &self,
        writer: i64,
        closed: Option<i64>,
        now: UnixMs,
    ) -> Result<i64, StoreError> {
        self.close_writer_of(&OF_CALLS, writer, closed, now).await
    }

    async fn close_writer_of(
        &self,
        of: &Writers,
        writer: i64,
        closed: Option<i64>,
        now: UnixMs,
    ) -> Result<i64, StoreError> {
        let came = in_transaction!(self, |tx| {
            let lock = query_scalar(of.lock).bind(writer).bind(now);
            let came: i64 = lock.fetch_one(&mut *tx).await?;
            let raise = query(of.raise).bind(writer).bind(closed.unwrap_or(0));
            raise.execute(&mut *tx).await?;
            came
        });
        Ok(came)
    }

    /// Forgets how far writers of log lines came that wrote nothing since `at`; answers how many.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_log_writers_before(&self, at: UnixMs) -> Result<u64, StoreError> {
        self.forget_writers_of(&OF_LOGS, at).await
    }

    /// The same for writers of call records.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_call_writers_before(&self, at: UnixMs) -> Result<u64, StoreError> {
        self.forget_writers_of(&OF_CALLS, at).await
    }

    async fn forget_writers_of(&self, of: &Writers, at: UnixMs) -> Result<u64, StoreError> {
        Ok(writing!(self, |db| {
            let forget = query(of.forget).bind(at);
            forget.execute(db).await?.rows_affected()
        }))
    }
}
