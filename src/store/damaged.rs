//! Rows that cannot be read back: each is named and left out, so that it never keeps the others from being read.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};
use tokio::time::Instant;

use super::{CorruptRow, Store};
use crate::domain::UnixMs;

/// The damaged rows that the last reading of a whole table found, by table; those of instances are told by their reading
/// itself.
#[derive(Debug, Default)]
pub(super) struct Damaged(Mutex<BTreeMap<&'static str, Vec<CorruptRow>>>, Mutex<Met>);

/// Rows of histories, which are read in pages only: when each was met last.
type Met = BTreeMap<(&'static str, String), (CorruptRow, Instant)>;

/// A row of a history counts as damaged for so long after somebody met it.
const MET_FOR: Duration = Duration::from_secs(3_600);

/// So many rows of histories are remembered.
const MET_MAX: usize = 100;

impl Damaged {
    /// Remembers damaged rows that a page of a history met, and logs those that were not known before.
    pub(super) fn met(&self, rows: impl IntoIterator<Item = CorruptRow>) {
        let now = Instant::now();
        let mut met = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        met.retain(|_, (_, at)| now.duration_since(*at) < MET_FOR);
        for row in rows {
            let key = (row.table, row.id.clone());
            if let Some((_, at)) = met.get_mut(&key) {
                *at = now;
                continue;
            }
            tracing::error!(
                table = row.table,
                column = row.column,
                id = row.id,
                "passed over a damaged row"
            );
            if met.len() < MET_MAX {
                met.insert(key, (row, now));
            }
        }
    }

    fn named(&self) -> Vec<CorruptRow> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<_> = all.values().flatten().cloned().collect();
        let met = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let lately = met
            .values()
            .filter(|(_, at)| now.duration_since(*at) < MET_FOR);
        rows.extend(lately.map(|(row, _)| row.clone()));
        rows
    }

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
    /// Rows of other tables than that of instances that could not be read when their table was last read as a whole; of
    /// log lines, calls and events those that somebody met within the last hour, a hundred at most.
    #[must_use]
    pub fn damaged_rows(&self) -> Vec<CorruptRow> {
        self.damaged.named()
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

/// Whether a time is one that an answer can show: from 1970 to the year 9999.
pub(super) fn is_time(at: UnixMs) -> bool {
    (0..TIME_MAX).contains(&at)
}

/// The first moment of the year 10000.
const TIME_MAX: UnixMs = 253_402_300_800_000;

/// A page of a history as it was read.
pub(super) struct Read<T> {
    pub(super) good: Vec<T>,
    /// Rows of any kind.
    pub(super) all: usize,
    /// The id of the last of these.
    pub(super) last: Option<i64>,
    pub(super) corrupt: Vec<CorruptRow>,
}

/// Decodes the rows of a page of a history, each with an `id`.
pub(super) fn read_page<'r, R, T>(rows: &'r [R], table: &'static str) -> Read<T>
where
    R: Row,
    T: FromRow<'r, R>,
    &'static str: ColumnIndex<R>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    i32: Decode<'r, R::Database> + Type<R::Database>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
{
    let (good, corrupt) = each(rows, table, "id");
    Read {
        good,
        all: rows.len(),
        last: rows.last().and_then(|row| row.try_get("id").ok()),
        corrupt,
    }
}

/// Fills a page of a history over its damaged rows, which would otherwise end it early for whoever takes a short page for
/// the last: reads again from behind the last row of any kind, until there are as many good ones as were asked for.
pub(super) struct Filling<T> {
    wanted: usize,
    rows: Vec<T>,
    again: bool,
}

/// A page that lacks rows asks for no fewer than these, lest it goes over many damaged rows one by one.
const ASK_AGAIN: usize = 500;

impl<T> Filling<T> {
    /// A page of so many rows.
    pub(super) fn new(limit: u32) -> Self {
        Self {
            wanted: usize::try_from(limit).unwrap_or(usize::MAX),
            rows: Vec::new(),
            again: false,
        }
    }

    /// How many rows to ask for.
    pub(super) fn ask(&self) -> usize {
        let missing = self.wanted - self.rows.len();
        if self.again {
            missing.max(ASK_AGAIN)
        } else {
            missing
        }
    }

    /// Takes the good ones of `all` rows that were read when `asked` were asked for; whether to read on.
    pub(super) fn take(
        &mut self,
        asked: usize,
        all: usize,
        good: impl IntoIterator<Item = T>,
    ) -> bool {
        let missing = self.wanted - self.rows.len();
        self.rows.extend(good.into_iter().take(missing));
        self.again = true;
        self.rows.len() < self.wanted && all >= asked
    }

    /// The page.
    pub(super) fn done(self) -> Vec<T> {
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_filled_over_damaged_rows_and_no_further() {
        let mut page = Filling::new(3);
        assert_eq!(page.ask(), 3);
        assert!(page.take(3, 3, [1]), "two were damaged");
        assert_eq!(page.ask(), ASK_AGAIN);
        assert!(!page.take(ASK_AGAIN, 400, [2, 3, 4]), "it is full");
        assert_eq!(page.done(), [1, 2, 3]);
        let mut page = Filling::new(3);
        assert!(!page.take(3, 2, [1]), "there are no more");
        assert_eq!(page.done(), [1]);
        assert!(!Filling::<u8>::new(0).take(0, 0, []));
    }

    #[tokio::test(start_paused = true)]
    async fn a_row_that_was_met_is_named_for_an_hour() {
        let damaged = Damaged::default();
        let row = |id: usize| CorruptRow {
            table: "logs",
            column: "line",
            id: id.to_string(),
        };
        damaged.met((0..150).map(row));
        assert_eq!(damaged.named().len(), MET_MAX);
        tokio::time::advance(MET_FOR / 2).await;
        damaged.met([row(7)]);
        tokio::time::advance(MET_FOR / 2).await;
        assert_eq!(damaged.named(), [row(7)]);
    }
}
