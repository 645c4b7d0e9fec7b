//! Log lines into SQLite. Lines that differ in nothing but their text, as those of one read are, go as one value in SQLite's
//! binary form of JSON; others as seven values each, which takes longer.

use std::sync::LazyLock;

use sqlx::{Sqlite, SqlitePool, query, query::Query, query_scalar, sqlite::SqliteArguments};

use super::{
    StoreError,
    chunks::{chunk_inserts, cut},
    log_minutes::{WIDEN_MINUTE_SQLITE, spans_of},
    log_usage::{ADD_USAGE, sums_of},
    log_writers::{Batch, LAST_NUMBER, MOVE_WRITER_SQLITE},
    logs::{LogRow, member_column},
    row::{to_column, without_nul},
};

/// Columns of one inserted row.
const INSERT_COLUMNS: usize = 7;
static CHUNK_INSERTS: LazyLock<[String; 4]> = LazyLock::new(|| {
    chunk_inserts(
        "INSERT INTO logs (instance_key, generation, member, stream, at, line, continued) VALUES ",
        INSERT_COLUMNS,
    )
});

/// From so many lines on that are alike, a statement of their own costs less than it saves.
const ALIKE_MIN: usize = 16;
/// So many go in one statement at most, so that the next can be prepared while it runs.
const ALIKE_MAX: usize = 1_024;
/// The elements of an array come in their order.
const INSERT_ALIKE: &str = "INSERT INTO logs (instance_key, generation, member, stream, at, continued, line) \
     SELECT ?, ?, ?, ?, ?, ?, value FROM json_each(?)";

pub(super) async fn insert_sqlite(
    writer: &SqlitePool,
    batch: Batch<'_>,
    rows: &[LogRow<'_>],
) -> Result<Vec<i64>, StoreError> {
    let mut ids = Vec::with_capacity(rows.len());
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    let mut rows = rows;
    if let (Some(newest), Some(row)) = (batch.numbers.last(), rows.last()) {
        let last = query_scalar(LAST_NUMBER).bind(batch.writer);
        let last: i64 = last.fetch_optional(&mut *tx).await?.unwrap_or(0);
        let (at, known) = (row.at, batch.behind(last));
        rows = rows.get(known..).unwrap_or_default();
        let moved = query(MOVE_WRITER_SQLITE).bind(batch.writer);
        let moved = moved.bind((*newest).max(last)).bind(at);
        moved.execute(&mut *tx).await?;
    }
    let mut inserts = stretches(rows).into_iter().flat_map(Stretch::inserts);
    let mut next = inserts.next().map(Insert::query);
    while let Some((insert, count)) = next {
        // While the thread of the connection writes some, the next are prepared here.
        let (done, prepared) = tokio::join!(insert.execute(&mut *tx), async {
            inserts.next().map(Insert::query)
        });
        next = prepared;
        // One statement of the only writer, under AUTOINCREMENT: its ids follow each other without a gap.
        let last = done?.last_insert_rowid();
        let first = last + 1 - i64::try_from(count).unwrap_or(0);
        ids.extend(first..=last);
    }
    for (key, (lines, text_bytes)) in sums_of(rows) {
        let add = query(ADD_USAGE).bind(key).bind(lines).bind(text_bytes);
        add.execute(&mut *tx).await?;
    }
    for (minute, (first_id, last_id)) in spans_of(rows, &ids) {
        let widen = query(WIDEN_MINUTE_SQLITE).bind(minute);
        widen.bind(first_id).bind(last_id).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(ids)
}

/// Rows that follow each other.
#[derive(Debug, PartialEq, Eq)]
enum Stretch<'r, 'l> {
    /// They differ in nothing but their text.
    Alike(&'r [LogRow<'l>]),
    Mixed(&'r [LogRow<'l>]),
}

/// Rows in as few stretches as [`ALIKE_MIN`] allows, in order.
fn stretches<'r, 'l>(rows: &'r [LogRow<'l>]) -> Vec<Stretch<'r, 'l>> {
    let mut stretches = Vec::new();
    // From where on rows are in no stretch yet, and the end of those looked at.
    let (mut from, mut end) = (0, 0);
    for run in rows.chunk_by(are_alike) {
        let begin = end;
        end += run.len();
        if run.len() >= ALIKE_MIN {
            if from < begin {
                stretches.push(Stretch::Mixed(&rows[from..begin]));
            }
            stretches.push(Stretch::Alike(run));
            from = end;
        }
    }
    if from < end {
        stretches.push(Stretch::Mixed(&rows[from..end]));
    }
    stretches
}

fn are_alike(one: &LogRow<'_>, other: &LogRow<'_>) -> bool {
    let but_text = |row: &LogRow<'_>| {
        (
            (row.instance_key, row.generation, row.member),
            (row.stream, row.at, row.continued),
        )
    };
    but_text(one) == but_text(other)
}

/// One statement.
enum Insert<'r, 'l> {
    Alike(&'r [LogRow<'l>]),
    Mixed(&'static str, &'r [LogRow<'l>]),
}

impl<'r, 'l> Stretch<'r, 'l> {
    fn inserts(self) -> Box<dyn Iterator<Item = Insert<'r, 'l>> + Send + 'r> {
        match self {
            Self::Alike(rows) => Box::new(rows.chunks(ALIKE_MAX).map(Insert::Alike)),
            Self::Mixed(rows) => {
                let chunks = cut(rows, &CHUNK_INSERTS);
                Box::new(chunks.map(|(sql, rows)| Insert::Mixed(sql, rows)))
            }
        }
    }
}

impl Insert<'_, '_> {
    /// The statement with its rows, and how many they are.
    fn query(self) -> (Query<'static, Sqlite, SqliteArguments>, usize) {
        match self {
            Self::Alike(rows) => {
                let mut insert = query(INSERT_ALIKE);
                if let Some(row) = rows.first() {
                    insert = insert
                        .bind(row.instance_key)
                        .bind(to_column(row.generation.0))
                        .bind(member_column(row))
                        .bind(i16::from(row.stream))
                        .bind(row.at)
                        .bind(row.continued);
                }
                (insert.bind(array_of_lines(rows)), rows.len())
            }
            Self::Mixed(sql, rows) => {
                let mut insert = query(sql);
                for row in rows {
                    insert = insert
                        .bind(row.instance_key)
                        .bind(to_column(row.generation.0))
                        .bind(member_column(row))
                        .bind(i16::from(row.stream))
                        .bind(row.at)
                        .bind(without_nul(&row.line).into_owned())
                        .bind(row.continued);
                }
                (insert, rows.len())
            }
        }
    }
}

/// JSONB of a text that is taken as it is, and of an array.
/// Source: `https://sqlite.org/jsonb.html`, section 3.
const TEXT_RAW: u8 = 10;
const ARRAY: u8 = 11;

/// The lines as an array in SQLite's JSONB.
fn array_of_lines(rows: &[LogRow<'_>]) -> Vec<u8> {
    const LENGTH_BYTES: usize = size_of::<u32>();
    let text_bytes: usize = rows.iter().map(|row| row.line.len()).sum();
    let mut array = Vec::with_capacity(text_bytes + (rows.len() + 1) * (1 + LENGTH_BYTES));
    // The length of all is known at the end; four bytes of it are good for any length.
    array.push(ARRAY | 14 << 4);
    array.extend_from_slice(&[0; LENGTH_BYTES]);
    for row in rows {
        let line = without_nul(&row.line);
        element_head(&mut array, TEXT_RAW, line.len());
        array.extend_from_slice(line.as_bytes());
    }
    let length = bounded(array.len() - 1 - LENGTH_BYTES);
    array[1..=LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    array
}

/// The head of an element: its kind in the lower half of a byte, and its length in the upper half or in the bytes behind.
fn element_head(out: &mut Vec<u8>, kind: u8, length: usize) {
    let length = bounded(length);
    let [_, _, high, low] = length.to_be_bytes();
    match length {
        0..=11 => out.push(kind | low << 4),
        12..=0xff => out.extend_from_slice(&[kind | 12 << 4, low]),
        0x100..=0xffff => out.extend_from_slice(&[kind | 13 << 4, high, low]),
        _ => {
            out.push(kind | 14 << 4);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

/// Lines are bounded where they are made, and a batch where it is taken, far below 4 GiB.
fn bounded(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use sqlx::{Connection as _, SqliteConnection};

    use super::{super::chunks::CHUNKS, *};
    use crate::domain::id::Generation;

    fn row(at: i64, line: &str) -> LogRow<'_> {
        LogRow {
            instance_key: 1,
            generation: Generation(1),
            member: 0,
            stream: 2,
            at,
            line: Cow::Borrowed(line),
            continued: false,
        }
    }

    #[test]
    fn every_insert_stays_under_the_parameter_limit_of_sqlite() {
        assert!(CHUNKS[0] * INSERT_COLUMNS <= 32_766);
    }

    #[test]
    fn rows_that_are_alike_have_a_statement_of_their_own_if_they_are_many() {
        let run = |at, count| vec![row(at, "x"); count];
        let rows = [
            run(1, ALIKE_MIN - 1),
            run(2, 1),
            run(3, ALIKE_MIN),
            run(4, 2_000),
            run(5, 1),
        ]
        .concat();
        let (mixed, alike) = (ALIKE_MIN, 2 * ALIKE_MIN);
        let found = stretches(&rows);
        assert_eq!(
            found,
            [
                Stretch::Mixed(&rows[..mixed]),
                Stretch::Alike(&rows[mixed..alike]),
                Stretch::Alike(&rows[alike..alike + 2_000]),
                Stretch::Mixed(&rows[alike + 2_000..]),
            ]
        );
        let inserts = found.into_iter().flat_map(Stretch::inserts);
        let counts: Vec<usize> = inserts.map(|insert| insert.query().1).collect();
        assert_eq!(counts, [8, 8, ALIKE_MIN, ALIKE_MAX, 2_000 - ALIKE_MAX, 1]);
        assert!(stretches(&[]).is_empty());
    }

    #[test]
    fn every_column_but_the_text_parts_rows() {
        let one = row(1, "x");
        let mut others = vec![one.clone(); 6];
        others[0].instance_key = 2;
        others[1].generation = Generation(2);
        others[2].member = 1;
        others[3].stream = 1;
        others[4].at = 2;
        others[5].continued = true;
        for other in &others {
            assert!(!are_alike(&one, other), "{other:?}");
        }
        assert!(are_alike(&one, &row(1, "y")));
    }

    #[tokio::test]
    async fn sqlite_reads_every_text_out_of_an_array_as_it_went_in() {
        let mut texts: Vec<String> = [0, 1, 11, 12, 0xff, 0x100, 0xffff, 0x1_0000, 0x2_0001]
            .map(|length| "x".repeat(length))
            .into();
        texts.extend(
            [
                "a \"b\" \\n \\",
                "\u{1}\t\u{7f}\u{2028}",
                "ü€🦀",
                "null",
                "12",
                "[1]",
                "NUL \0.",
            ]
            .map(str::to_owned),
        );
        let rows: Vec<_> = texts.iter().map(|text| row(1, text)).collect();
        let mut connection = SqliteConnection::connect("sqlite::memory:")
            .await
            .expect("opened");
        let read: Vec<(String, String)> =
            sqlx::query_as("SELECT value, typeof(value) FROM json_each(?)")
                .bind(array_of_lines(&rows))
                .fetch_all(&mut connection)
                .await
                .expect("read");
        let wanted = texts
            .iter()
            .map(|text| (text.replace('\0', "\u{fffd}"), "text".to_owned()));
        assert_eq!(read, wanted.collect::<Vec<_>>());
        let valid: bool = sqlx::query_scalar("SELECT json_valid(?, 8)")
            .bind(array_of_lines(&rows))
            .fetch_one(&mut connection)
            .await
            .expect("checked");
        assert!(valid);
    }
}
