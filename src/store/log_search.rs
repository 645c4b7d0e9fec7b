//! Searches in an instance's lines, a bounded stretch of them at a time: a text that is nowhere would else be looked for in
//! a million lines by one query, which holds a connection for seconds and answers nothing meanwhile.

use sqlx::query_scalar;

use super::{LogEntry, LogQuery, Store, StoreError, logs::lines_between, pool::Pool};

/// What one stretch of a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogSearch {
    /// Lines that fit, as [`Store::logs_page`] orders them.
    pub entries: Vec<LogEntry>,
    /// The page is not full and more lines are left to look at: those beyond this id, in the direction of the query.
    /// Absent: the page is full, or all lines were looked at.
    pub unfinished_at: Option<i64>,
}

macro_rules! select_end {
    ($like:tt, $order:literal) => {
        concat!(
            "SELECT id FROM logs WHERE ",
            lines_between!($like),
            " ORDER BY id ",
            $order,
            " LIMIT 1 OFFSET $4"
        )
    };
}

impl Store {
    /// A page of an instance's lines, for which at most `stretch_lines` of its lines are looked at when the query has
    /// a text or a stream; without either every line fits, and the limit is the bound.
    ///
    /// # Errors
    /// Those of [`Self::logs_page`].
    pub async fn search_logs(
        &self,
        instance_key: i64,
        mut query: LogQuery<'_>,
        stretch_lines: u32,
    ) -> Result<LogSearch, StoreError> {
        let is_filtered = query.text.is_some() || query.stream.is_some();
        let end = match self.ids_of_page(&query).await? {
            Some(ids) if is_filtered => {
                let end = self.end_of_stretch(instance_key, ids, &query, stretch_lines);
                end.await?
            }
            _ => None,
        };
        match end {
            Some(id) if query.newest_first => query.after = Some(id.saturating_sub(1)),
            Some(id) => query.before = Some(id.saturating_add(1)),
            None => {}
        }
        let entries = self.logs_page(instance_key, query).await?;
        let is_full = entries.len() >= query.limit as usize;
        Ok(LogSearch {
            entries,
            unfinished_at: end.filter(|_| !is_full),
        })
    }

    /// The last of the next so many lines, if there are as many between these ids, both excluded. Read from the index
    /// alone.
    async fn end_of_stretch(
        &self,
        instance_key: i64,
        (after, before): (i64, i64),
        query: &LogQuery<'_>,
        stretch_lines: u32,
    ) -> Result<Option<i64>, StoreError> {
        macro_rules! fetch {
            ($db:expr, $sql:expr) => {
                in_time!(
                    self,
                    query_scalar($sql)
                        .bind(instance_key)
                        .bind(after)
                        .bind(before)
                        .bind(i64::from(stretch_lines.saturating_sub(1)))
                        .fetch_optional($db)
                        .await?
                )
            };
        }
        let id: Option<i64> = match (&self.pool, query.newest_first) {
            (Pool::Sqlite { readers, .. }, false) => fetch!(readers, select_end!("LIKE", "ASC")),
            (Pool::Sqlite { readers, .. }, true) => fetch!(readers, select_end!("LIKE", "DESC")),
            (Pool::Postgres { pool, .. }, false) => fetch!(pool, select_end!("ILIKE", "ASC")),
            (Pool::Postgres { pool, .. }, true) => fetch!(pool, select_end!("ILIKE", "DESC")),
        };
        Ok(id)
    }
}
