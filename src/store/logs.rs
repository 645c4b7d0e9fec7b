//! Log lines: bulk in, pages out.

use std::borrow::Cow;

use sqlx::query;

use super::{
    CorruptRow, Store, StoreError,
    damaged::{Filling, Read, is_time, read_page},
    log_insert_postgres::insert_postgres,
    log_insert_sqlite::insert_sqlite,
    log_writers::Batch,
    patience::in_time,
    pool::Pool,
    row::{to_column, without_nul},
};
use crate::domain::{UnixMs, id::Generation};

/// A line on its way into the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow<'a> {
    /// The instance's key ([`crate::domain::instance::InstanceRecord::key`]).
    pub instance_key: i64,
    /// Which launch wrote it.
    pub generation: Generation,
    /// Which child of the launch wrote it: 0 the main child, else the number of a member.
    pub member: u32,
    /// Which stream; the numbers belong to the writer of logs.
    pub stream: u8,
    /// When it was read.
    pub at: UnixMs,
    /// The text, redacted.
    pub line: Cow<'a, str>,
    /// The line goes on in the next row.
    pub continued: bool,
}

/// A line in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Rises in the order of insertion, over all instances.
    pub id: i64,
    /// Which launch wrote it.
    pub generation: Generation,
    /// Which child of the launch wrote it: 0 the main child, else the number of a member.
    pub member: u32,
    /// Which stream.
    pub stream: u8,
    /// When it was read.
    pub at: UnixMs,
    /// The text.
    pub line: String,
    /// The line goes on in the next row.
    pub continued: bool,
}

/// Which lines of an instance to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogQuery<'a> {
    /// Only ids greater than this.
    pub after: Option<i64>,
    /// Only ids less than this.
    pub before: Option<i64>,
    /// Only lines read at this time or later.
    pub since: Option<UnixMs>,
    /// Only lines read at this time or earlier.
    pub until: Option<UnixMs>,
    /// Only of this stream.
    pub stream: Option<u8>,
    /// Only lines that contain this text, upper and lower case alike (SQLite: of ASCII letters only).
    pub text: Option<&'a str>,
    /// Newest first instead of oldest first; decides which lines the limit cuts off.
    pub newest_first: bool,
    /// Most lines to read.
    pub limit: u32,
}

/// The lines of an instance `$1` between two ids `$2` and `$3`. The second wording is for PostgreSQL, which with the first
/// reads the lines of all instances between them by the primary key; a comparison of rows is for the index alone.
macro_rules! lines_between {
    ("LIKE") => {
        "instance_key = $1 AND id > $2 AND id < $3"
    };
    ("ILIKE") => {
        "instance_key = $1 AND (instance_key, id) > ($1, $2) AND (instance_key, id) < ($1, $3)"
    };
}
pub(super) use lines_between;

macro_rules! select_logs {
    ($like:tt, $order:literal) => {
        concat!(
            "SELECT id, generation, member, stream, at, \
             CASE WHEN octet_length(line) <= 16777216 THEN line END AS line, continued FROM logs WHERE ",
            lines_between!($like),
            " AND at >= $4 AND at <= $5 AND ($6 < 0 OR stream = $6) AND ($7 = '' OR line ",
            $like,
            " $7 ESCAPE '!') ORDER BY ",
            $order,
            " LIMIT $8"
        )
    };
}

row! {
    struct LineColumns {
        id: i64,
        generation: i64,
        member: i32,
        stream: i16,
        at: i64,
        line: Option<String>,
        continued: bool,
    }
}

impl Store {
    /// Inserts lines in one transaction; answers their ids, rising, in the order given.
    ///
    /// # Errors
    /// Those of the database; nothing is written then.
    pub async fn insert_logs(&self, rows: &[LogRow<'_>]) -> Result<Vec<i64>, StoreError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        match &self.pool {
            Pool::Sqlite { writer, .. } => {
                let insert = insert_sqlite(writer, Batch::UNNUMBERED, rows);
                in_time(&self.patience, module_path!(), insert).await
            }
            Pool::Postgres { lines, .. } => {
                let insert = insert_postgres(lines, Batch::UNNUMBERED, rows);
                in_time(&self.patience, module_path!(), insert).await
            }
        }
    }

    /// A page of an instance's lines.
    ///
    /// # Errors
    /// Those of the database; a damaged row is passed over and named ([`Store::damaged_rows`]). One whose text is longer
    /// than 16 MiB was not written here and counts as damaged.
    pub async fn logs_page(
        &self,
        instance_key: i64,
        page: LogQuery<'_>,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let pattern = page.text.map(contains_pattern).unwrap_or_default();
        let Some((mut after, mut before)) = self.ids_of_page(&page).await? else {
            return Ok(Vec::new());
        };
        let mut filling = Filling::new(page.limit);
        loop {
            let asked = filling.ask();
            macro_rules! fetch {
                ($db:expr, $sql:expr) => {
                    in_time!(self, {
                        let rows = query($sql)
                            .bind(instance_key)
                            .bind(after)
                            .bind(before)
                            .bind(page.since.unwrap_or(i64::MIN))
                            .bind(page.until.unwrap_or(i64::MAX))
                            .bind(page.stream.map_or(-1, i16::from))
                            .bind(pattern.as_str())
                            .bind(to_column(asked as u64))
                            .fetch_all($db)
                            .await?;
                        read_page(&rows, TABLE)
                    })
                };
            }
            // SQLite goes from row to row upwards without a search of its tree, and not downwards: with most lines passed
            // over, those of a stretch are read upwards in a fifth of the time, and the newest that fit kept.
            let is_search = page.text.is_some();
            let mut read: Read<LineColumns> = match (&self.pool, page.newest_first) {
                (Pool::Sqlite { readers, .. }, false) => {
                    fetch!(readers, select_logs!("LIKE", "id ASC"))
                }
                (Pool::Sqlite { readers, .. }, true) if is_search => {
                    fetch!(readers, select_logs!("LIKE", "+id DESC"))
                }
                (Pool::Sqlite { readers, .. }, true) => {
                    fetch!(readers, select_logs!("LIKE", "id DESC"))
                }
                (Pool::Postgres { pool, .. }, false) => {
                    fetch!(pool, select_logs!("ILIKE", "id ASC"))
                }
                (Pool::Postgres { pool, .. }, true) => {
                    fetch!(pool, select_logs!("ILIKE", "id DESC"))
                }
            };
            match (read.last, page.newest_first) {
                (Some(last), true) => before = last,
                (Some(last), false) => after = last,
                (None, _) => {}
            }
            let mut good = Vec::with_capacity(read.good.len());
            for row in read.good {
                match row.into_entry() {
                    Ok(entry) => good.push(entry),
                    Err(corrupt) => read.corrupt.push(corrupt),
                }
            }
            self.damaged.met(read.corrupt);
            if !filling.take(asked, read.all, good) {
                return Ok(filling.done());
            }
        }
    }
}

const TABLE: &str = "logs";

impl LineColumns {
    fn into_entry(self) -> Result<LogEntry, CorruptRow> {
        let damaged = |column| CorruptRow {
            table: TABLE,
            column,
            id: self.id.to_string(),
        };
        if !is_time(self.at) {
            return Err(damaged("at"));
        }
        let generation = u64::try_from(self.generation).map_err(|_| damaged("generation"))?;
        Ok(LogEntry {
            id: self.id,
            generation: Generation(generation),
            member: u32::try_from(self.member).map_err(|_| damaged("member"))?,
            stream: u8::try_from(self.stream).map_err(|_| damaged("stream"))?,
            at: self.at,
            line: self.line.ok_or_else(|| damaged("line"))?,
            continued: self.continued,
        })
    }
}

impl Store {
    /// Between which ids, both excluded, the lines of a page lie; absent: there can be none.
    pub(super) async fn ids_of_page(
        &self,
        page: &LogQuery<'_>,
    ) -> Result<Option<(i64, i64)>, StoreError> {
        let (mut after, mut before) = (
            page.after.unwrap_or(i64::MIN),
            page.before.unwrap_or(i64::MAX),
        );
        if page.since.is_some() || page.until.is_some() {
            let Some((first, last)) = self.ids_of_time(page.since, page.until).await? else {
                return Ok(None);
            };
            after = after.max(first.saturating_sub(1));
            before = before.min(last.saturating_add(1));
        }
        Ok(Some((after, before)))
    }
}

/// Numbers rise by one for each session, so the largest of the column is not reached.
pub(super) fn member_column(row: &LogRow<'_>) -> i32 {
    i32::try_from(row.member).unwrap_or(i32::MAX)
}

/// A LIKE pattern for "contains `text`", with `!` as the escape character; empty for an empty text.
fn contains_pattern(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('%');
    for character in without_nul(text).chars() {
        if matches!(character, '!' | '%' | '_') {
            pattern.push('!');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_the_text_and_nothing_else() {
        assert_eq!(contains_pattern("100% a_b!"), "%100!% a!_b!!%");
        assert_eq!(contains_pattern(""), "");
    }
}
