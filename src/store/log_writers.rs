//! Log lines with their numbers: the writer moves with every batch in its transaction ([`super::writers`]).

use super::{
    Store, StoreError, log_insert_postgres::insert_postgres, log_insert_sqlite::insert_sqlite,
    logs::LogRow, patience::in_time, pool::Pool,
};

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
            Pool::Postgres { lines, .. } => {
                in_time(
                    &self.patience,
                    module_path!(),
                    insert_postgres(lines, batch, rows),
                )
                .await
            }
        }
    }
}
