//! Rows that cannot be read back: each is named and left out, so that it never keeps the others from being read.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};

use super::{CorruptRow, Store};

/// The damaged rows that the last reading of a whole table found, by table; those of instances are told by their reading
/// itself.
#[derive(Debug, Default)]
pub(super) struct Damaged(Mutex<BTreeMap<&'static str, Vec<CorruptRow>>>);

impl Damaged {
    /// Remembers what a reading of the whole `table` found, and logs what was not known before.
    pub(super) fn note(&self, table: &'static str, rows: Vec<CorruptRow>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(table).map(Vec::as_slice).unwrap_or_default();
        for row in rows.iter().filter(|row| !known.contains(row)) {
            tracing::error!(
                table,
                column = row.column,
                id = row.id,
                "passed over a damaged row"
            );
        }
        all.insert(table, rows);
    }
}

impl Store {
    /// Rows of other tables than that of instances that could not be read when their table was last read as a whole.
    #[must_use]
    pub fn damaged_rows(&self) -> Vec<CorruptRow> {
        let all = self.damaged.0.lock();
        let all = all.unwrap_or_else(PoisonError::into_inner);
        all.values().flatten().cloned().collect()
    }
}

/// Decodes rows one by one: a column of a wrong type, or a text that is none, damages its own row alone. `key` is the
/// column that names a row.
pub(super) fn each<'r, R, T>(
    rows: &'r [R],
    table: &'static str,
    key: &'static str,
) -> (Vec<T>, Vec<CorruptRow>)
where
    R: Row,
    T: FromRow<'r, R>,
    &'static str: ColumnIndex<R>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    i32: Decode<'r, R::Database> + Type<R::Database>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
{
    let mut read = Vec::with_capacity(rows.len());
    let mut corrupt = Vec::new();
    for row in rows {
        match T::from_row(row) {
            Ok(columns) => read.push(columns),
            Err(_) => {
                let number = || row.try_get::<i64, _>(key).map(|number| number.to_string());
                let small = || row.try_get::<i32, _>(key).map(|number| number.to_string());
                let id = row.try_get::<String, _>(key);
                let id = id.or_else(|_| number()).or_else(|_| small());
                corrupt.push(CorruptRow {
                    table,
                    column: "(type)",
                    id: id.unwrap_or_default(),
                });
            }
        }
    }
    (read, corrupt)
}
