//! Call records: written in batches, each once; read in pages.

use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

use sqlx::{PgPool, SqlitePool, query, query_scalar};

use super::{
    CorruptRow, Store, StoreError,
    chunks::{CHUNKS, chunk_inserts, chunk_inserts_of, cut},
    damaged::{Filling, Read, is_time, read_page},
    pool::Pool,
    row::{to_column, without_nul},
};
use crate::domain::{
    UnixMs,
    call::{CallOutcome, NumberedCall},
    id::Generation,
};

/// A stored call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallEntry {
    /// Rises with every stored call.
    pub id: i64,
    /// The launch that it went to; 0: none was up.
    pub generation: Generation,
    /// Which access token let it in.
    pub token: String,
    /// The tool.
    pub tool: String,
    /// Whether the client is a stateless one.
    pub stateless: bool,
    /// When it came in.
    pub started_at: UnixMs,
    /// How long until its end, in microseconds.
    pub duration_us: i64,
    /// How it ended, as the word of a `CallOutcome`.
    pub outcome: String,
    /// The JSON-RPC code of an error; of lost records, their number.
    pub code: Option<i64>,
    /// Size of its message.
    pub request_bytes: i64,
    /// Size of its answer.
    pub answer_bytes: i64,
    /// Its arguments, when they were kept.
    pub arguments: Option<String>,
}

/// Which calls to read, newest first; what is `None` does not filter.
#[derive(Debug, Clone, Copy, Default)]
pub struct CallQuery<'a> {
    /// Only calls before this id.
    pub before: Option<i64>,
    /// Only calls that came in at this time or later.
    pub since: Option<UnixMs>,
    /// Only calls that came in at this time or earlier.
    pub until: Option<UnixMs>,
    /// Only of this tool.
    pub tool: Option<&'a str>,
    /// Only of this access token.
    pub token: Option<&'a str>,
    /// Only with this outcome.
    pub outcome: Option<&'a str>,
    /// Most calls to read.
    pub limit: u32,
}

/// What statistics are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallSample {
    /// The tool.
    pub tool: String,
    /// How it ended.
    pub outcome: String,
    /// How long it took, in microseconds.
    pub duration_us: i64,
}

const TABLE: &str = "calls";

/// Texts too long to be ours are not fetched: a tool without a text is damaged.
const SELECT_CALLS: &str = "SELECT id, generation, token, \
     CASE WHEN octet_length(tool) + octet_length(COALESCE(arguments, '')) <= 16777216 THEN tool END AS tool, \
     stateless, started_at, duration_us, outcome, code, request_bytes, answer_bytes, \
     CASE WHEN octet_length(arguments) <= 16777216 THEN arguments END AS arguments FROM calls \
     WHERE instance_key = $1 AND id < $2 AND started_at >= $3 AND started_at <= $4 \
     AND ($5 = '' OR tool = $5) AND ($6 = '' OR token = $6) AND ($7 = '' OR outcome = $7) \
     ORDER BY id DESC LIMIT $8";

macro_rules! insert_calls {
    ($values:literal) => {
        concat!(
            "INSERT INTO calls (instance_key, generation, token, tool, stateless, started_at, duration_us, outcome, \
             code, request_bytes, answer_bytes, arguments) ",
            $values
        )
    };
}

/// Columns of one inserted row.
const INSERT_COLUMNS: usize = 12;
static CHUNK_INSERTS: LazyLock<[String; 4]> =
    LazyLock::new(|| chunk_inserts(insert_calls!("VALUES "), INSERT_COLUMNS));
/// For rows that are all of good calls, as most are: of three columns nothing is left to say.
static GOOD_INSERTS: LazyLock<[String; 4]> = LazyLock::new(|| {
    let row = format!(
        "?, ?, ?, ?, ?, ?, ?, '{}', NULL, ?, ?, NULL",
        CallOutcome::Ok.word()
    );
    chunk_inserts_of(insert_calls!("VALUES "), &row)
});

row! {
    struct CallColumns {
        id: i64,
        generation: i64,
        token: String,
        tool: Option<String>,
        stateless: bool,
        started_at: i64,
        duration_us: i64,
        outcome: String,
        code: Option<i64>,
        request_bytes: i64,
        answer_bytes: i64,
        arguments: Option<String>,
    }
}

impl CallColumns {
    fn into_entry(self) -> Result<CallEntry, CorruptRow> {
        let damaged = |column| CorruptRow {
            table: TABLE,
            column,
            id: self.id.to_string(),
        };
        let counted = [
            ("duration_us", self.duration_us),
            ("request_bytes", self.request_bytes),
            ("answer_bytes", self.answer_bytes),
        ];
        if let Some((column, _)) = counted.iter().find(|(_, count)| *count < 0) {
            return Err(damaged(column));
        }
        if !is_time(self.started_at) {
            return Err(damaged("started_at"));
        }
        let generation = u64::try_from(self.generation).map_err(|_| damaged("generation"))?;
        Ok(CallEntry {
            id: self.id,
            generation: Generation(generation),
            token: self.token,
            tool: self.tool.ok_or_else(|| damaged("tool"))?,
            stateless: self.stateless,
            started_at: self.started_at,
            duration_us: self.duration_us,
            outcome: self.outcome,
            code: self.code,
            request_bytes: self.request_bytes,
            answer_bytes: self.answer_bytes,
            arguments: self.arguments,
        })
    }
}

row! {
    struct SampleColumns {
        id: i64,
        tool: Option<String>,
        outcome: String,
        duration_us: i64,
    }
}

impl Store {
    /// Writes calls, those of one writer in one transaction; a number of a writer that it wrote before, or one below,
    /// counts as written. So a batch of which the fate is not known may be written again.
    ///
    /// # Errors
    /// Those of the database; of the last writer among the calls nothing is written then.
    pub async fn insert_calls(&self, calls: &[NumberedCall]) -> Result<(), StoreError> {
        for calls in calls.chunk_by(|a, b| a.writer == b.writer) {
            match &self.pool {
                Pool::Sqlite { writer, .. } => {
                    in_time!(self, insert_sqlite(writer, calls).await?);
                }
                Pool::Postgres { pool, .. } => {
                    in_time!(self, insert_postgres(pool, calls).await?);
                }
            }
        }
        Ok(())
    }

    /// A page of an instance's calls, newest first.
    ///
    /// # Errors
    /// Those of the database; a damaged row is passed over and named ([`Store::damaged_rows`]). One whose texts are longer
    /// than 16 MiB was not written here and counts as damaged.
    pub async fn calls_page(
        &self,
        instance_key: i64,
        page: CallQuery<'_>,
    ) -> Result<Vec<CallEntry>, StoreError> {
        let mut filling = Filling::new(page.limit);
        let mut before = page.before.unwrap_or(i64::MAX);
        loop {
            let asked = filling.ask();
            let mut read: Read<CallColumns> = reading!(self, |db| {
                let rows = query(SELECT_CALLS)
                    .bind(instance_key)
                    .bind(before)
                    .bind(page.since.unwrap_or(i64::MIN))
                    .bind(page.until.unwrap_or(i64::MAX))
                    .bind(page.tool.unwrap_or(""))
                    .bind(page.token.unwrap_or(""))
                    .bind(page.outcome.unwrap_or(""))
                    .bind(to_column(asked as u64))
                    .fetch_all(db)
                    .await?;
                read_page(&rows, TABLE)
            });
            before = read.last.unwrap_or(before);
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

    /// The newest calls of an instance since a time, at most `limit`; damaged ones are passed over and named.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn call_samples(
        &self,
        instance_key: i64,
        since: UnixMs,
        limit: u32,
    ) -> Result<Vec<CallSample>, StoreError> {
        let read: Read<SampleColumns> = reading!(self, |db| {
            let rows = query(
                "SELECT id, CASE WHEN octet_length(tool) <= 16777216 THEN tool END AS tool, outcome, duration_us \
                 FROM (SELECT id, tool, outcome, duration_us, started_at FROM calls WHERE instance_key = $1 \
                  ORDER BY id DESC LIMIT $3) AS newest WHERE started_at >= $2",
            )
            .bind(instance_key)
            .bind(since)
            .bind(i64::from(limit))
            .fetch_all(db)
            .await?;
            read_page(&rows, TABLE)
        });
        let mut corrupt = read.corrupt;
        let mut samples = Vec::with_capacity(read.good.len());
        for row in read.good {
            match row.tool {
                Some(tool) if row.duration_us >= 0 => samples.push(CallSample {
                    tool,
                    outcome: row.outcome,
                    duration_us: row.duration_us,
                }),
                tool => corrupt.push(CorruptRow {
                    table: TABLE,
                    column: if tool.is_none() {
                        "tool"
                    } else {
                        "duration_us"
                    },
                    id: row.id.to_string(),
                }),
            }
        }
        self.damaged.met(corrupt);
        Ok(samples)
    }
}

const BEGIN_WRITER: &str = "INSERT INTO call_writers (writer, last_number, written_at) VALUES ($1, 0, $2) ON CONFLICT (writer) DO NOTHING";
const MOVE_WRITER: &str =
    "UPDATE call_writers SET last_number = $2, written_at = $3 WHERE writer = $1";

/// The calls behind a number.
fn behind(calls: &[NumberedCall], last: i64) -> &[NumberedCall] {
    &calls[calls.partition_point(|call| call.number <= last)..]
}

/// Whether [`GOOD_INSERTS`] say all of a call.
fn is_good(NumberedCall { record, .. }: &NumberedCall) -> bool {
    record.outcome == CallOutcome::Ok && record.arguments.is_none()
}

/// The statement for a chunk of good calls alone.
fn good_insert(chunk: &[NumberedCall]) -> Option<&'static str> {
    if !chunk.iter().all(is_good) {
        return None;
    }
    let at = CHUNKS.iter().position(|rows| *rows == chunk.len())?;
    Some(&GOOD_INSERTS[at])
}

/// A column in which a row mostly has the text of the row before: that is not copied again.
#[derive(Default)]
struct Repeated(Option<Arc<str>>);

impl Repeated {
    fn shared(&mut self, text: &str) -> Arc<str> {
        match &self.0 {
            Some(known) if **known == *text => known.clone(),
            _ => self.0.insert(text.into()).clone(),
        }
    }
}

fn shared_without_nul(text: &Arc<str>) -> Arc<str> {
    match without_nul(text) {
        Cow::Borrowed(_) => text.clone(),
        Cow::Owned(text) => text.into(),
    }
}

async fn insert_sqlite(pool: &SqlitePool, calls: &[NumberedCall]) -> Result<(), StoreError> {
    let (Some(first), Some(newest)) = (calls.first(), calls.last()) else {
        return Ok(());
    };
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    query(BEGIN_WRITER)
        .bind(first.writer)
        .bind(newest.record.started_at)
        .execute(&mut *tx)
        .await?;
    let last = query_scalar("SELECT last_number FROM call_writers WHERE writer = $1")
        .bind(first.writer)
        .fetch_one(&mut *tx)
        .await?;
    let mut outcome = Repeated::default();
    for (sql, chunk) in cut(behind(calls, last), &CHUNK_INSERTS) {
        let good = good_insert(chunk);
        let all_good = good.is_some();
        let mut insert = query(good.unwrap_or(sql));
        for NumberedCall { record, .. } in chunk {
            insert = insert
                .bind(record.instance_key)
                .bind(to_column(record.generation.0))
                .bind(record.token.shared())
                .bind(shared_without_nul(&record.tool))
                .bind(record.stateless)
                .bind(record.started_at)
                .bind(record.duration_us);
            if !all_good {
                insert = insert
                    .bind(outcome.shared(record.outcome.word()))
                    .bind(record.outcome.code());
            }
            insert = insert.bind(record.request_bytes).bind(record.answer_bytes);
            if !all_good {
                let arguments = record.arguments.as_deref();
                insert = insert.bind(arguments.map(|text| without_nul(text).into_owned()));
            }
        }
        insert.execute(&mut *tx).await?;
    }
    query(MOVE_WRITER)
        .bind(first.writer)
        .bind(newest.number.max(last))
        .bind(newest.record.started_at)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(())
}

async fn insert_postgres(pool: &PgPool, calls: &[NumberedCall]) -> Result<(), StoreError> {
    let (Some(first), Some(newest)) = (calls.first(), calls.last()) else {
        return Ok(());
    };
    let mut tx = pool.begin().await?;
    query(BEGIN_WRITER)
        .bind(first.writer)
        .bind(newest.record.started_at)
        .execute(&mut *tx)
        .await?;
    // Locked: an earlier try of these calls may still be about to commit.
    let last = query_scalar("SELECT last_number FROM call_writers WHERE writer = $1 FOR UPDATE")
        .bind(first.writer)
        .fetch_one(&mut *tx)
        .await?;
    let calls = behind(calls, last);
    macro_rules! column {
        ($record:ident => $value:expr) => {
            calls
                .iter()
                .map(
                    |NumberedCall {
                         record: $record, ..
                     }| $value,
                )
                .collect::<Vec<_>>()
        };
    }
    query(insert_calls!(
        "SELECT * FROM UNNEST($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
    ))
    .bind(column!(record => record.instance_key))
    .bind(column!(record => to_column(record.generation.0)))
    .bind(column!(record => record.token.as_str()))
    .bind(column!(record => without_nul(&record.tool).into_owned()))
    .bind(column!(record => record.stateless))
    .bind(column!(record => record.started_at))
    .bind(column!(record => record.duration_us))
    .bind(column!(record => record.outcome.word()))
    .bind(column!(record => record.outcome.code()))
    .bind(column!(record => record.request_bytes))
    .bind(column!(record => record.answer_bytes))
    .bind(column!(record => record.arguments.as_deref().map(|text| without_nul(text).into_owned())))
    .execute(&mut *tx)
    .await?;
    query(MOVE_WRITER)
        .bind(first.writer)
        .bind(newest.number.max(last))
        .bind(newest.record.started_at)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{call::CallRecord, id::TokenName};

    #[test]
    fn every_insert_stays_under_the_parameter_limit_of_sqlite() {
        assert!(CHUNKS[0] * INSERT_COLUMNS <= 32_766);
    }

    #[test]
    fn only_calls_that_are_all_good_are_written_without_their_outcomes() {
        let call = |outcome, arguments: Option<&str>| NumberedCall {
            writer: 1,
            number: 1,
            record: CallRecord {
                instance_key: 1,
                generation: Generation(1),
                token: TokenName::first(),
                tool: "t".into(),
                stateless: false,
                started_at: 1,
                duration_us: 1,
                outcome,
                request_bytes: 1,
                answer_bytes: 1,
                arguments: arguments.map(str::to_owned),
            },
        };
        let good = || call(CallOutcome::Ok, None);
        let mut chunk = vec![good(); 8];
        let sql = good_insert(&chunk).expect("all are good");
        // Nine of each are asked for: all but the outcome, its code and the arguments.
        assert_eq!(sql.matches('?').count(), 8 * (INSERT_COLUMNS - 3));
        assert_eq!(sql.matches("'ok', NULL, ?, ?, NULL").count(), 8);
        for other in [
            call(CallOutcome::ToolError, None),
            call(CallOutcome::RpcError(1), None),
            call(CallOutcome::Ok, Some("{}")),
        ] {
            chunk[7] = other;
            assert_eq!(good_insert(&chunk), None);
        }
    }
}
