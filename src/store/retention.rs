//! Rows that pile up and go again in bounded steps: written once for every table of the kind. What
//! is kept of log lines is counted as well: `log_usage` deletes those.

use sqlx::{AssertSqlSafe, query, query_as};

use super::{Store, StoreError, row::to_column};
use crate::domain::UnixMs;

/// A table of rows with a rising `id` and a time, most of them of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// Log lines.
    Logs,
    /// Records of calls.
    Calls,
    /// Events of instances.
    Events,
}

impl History {
    fn table(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Calls => "calls",
            Self::Events => "events",
        }
    }

    fn time(self) -> &'static str {
        match self {
            Self::Calls => "started_at",
            Self::Logs | Self::Events => "at",
        }
    }
}

impl Store {
    /// Deletes rows from before `at`, looking at no more than the `max_rows` oldest by id; answers how many went. Call
    /// again while it deletes any. Rows that came late out of a spool go when the oldest reach them. Rows from after
    /// `ahead`, which a clock that was wrong or a stranger wrote, stand in nobody's way, and go with the first that was
    /// written after them: up to `max_rows` more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_before(
        &self,
        history: History,
        at: UnixMs,
        ahead: UnixMs,
        max_rows: u32,
    ) -> Result<u64, StoreError> {
        let table = history.table();
        let chosen = chosen_before(table, history.time());
        if history == History::Logs {
            let numbers = [at, i64::from(max_rows), ahead];
            return Ok(self.delete_lines(&chosen, &numbers).await?.lines);
        }
        let sql = format!("DELETE FROM {table} WHERE id IN ({chosen})");
        Ok(writing!(self, |db| {
            query(AssertSqlSafe(sql))
                .bind(at)
                .bind(i64::from(max_rows))
                .bind(ahead)
                .execute(db)
                .await?
                .rows_affected()
        }))
    }

    /// Deletes the oldest rows of an instance beyond the newest `keep_rows`, at most `max_rows`; answers how many.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn trim(
        &self,
        history: History,
        instance_key: i64,
        keep_rows: u64,
        max_rows: u32,
    ) -> Result<u64, StoreError> {
        if history == History::Logs {
            let deleted = self
                .trim_log_lines(instance_key, keep_rows, max_rows)
                .await?;
            return Ok(deleted.lines);
        }
        let table = history.table();
        let sql = format!(
            "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE instance_key = $1 AND id <= \
             (SELECT id FROM {table} WHERE instance_key = $1 ORDER BY id DESC LIMIT 1 OFFSET $2) \
             ORDER BY id LIMIT $3)"
        );
        Ok(writing!(self, |db| {
            query(AssertSqlSafe(sql))
                .bind(instance_key)
                .bind(to_column(keep_rows))
                .bind(i64::from(max_rows))
                .execute(db)
                .await?
                .rows_affected()
        }))
    }

    /// The keys of instances that have rows, and whether the instance is still there. Walks from key to key along the
    /// index, not over the rows.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn history_keys(&self, history: History) -> Result<Vec<(i64, bool)>, StoreError> {
        let table = history.table();
        let sql = format!(
            "WITH RECURSIVE found (k) AS ( \
               SELECT MIN(instance_key) FROM {table} \
               UNION ALL \
               SELECT (SELECT MIN(h.instance_key) FROM {table} h WHERE h.instance_key > found.k) \
               FROM found WHERE found.k IS NOT NULL) \
             SELECT k, EXISTS (SELECT 1 FROM instances i WHERE i.instance_key = found.k) \
             FROM found WHERE k IS NOT NULL ORDER BY k"
        );
        Ok(reading!(self, |db| {
            query_as(AssertSqlSafe(sql)).fetch_all(db).await?
        }))
    }
}

/// The ids of rows from before $1 among the $2 oldest, and of rows from after $3 that were written before one of these.
fn chosen_before(table: &str, time: &str) -> String {
    let old = format!(
        "SELECT id FROM (SELECT id, {time} FROM {table} WHERE {time} <= $3 ORDER BY id LIMIT $2) AS oldest \
         WHERE {time} < $1"
    );
    format!(
        "{old} UNION ALL SELECT id FROM (SELECT id FROM {table} WHERE {time} > $3 \
         AND id < (SELECT MAX(id) FROM ({old}) AS old) ORDER BY id LIMIT $2) AS ahead"
    )
}
