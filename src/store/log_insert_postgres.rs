//! Log lines into PostgreSQL: few in one statement, many by COPY, which takes them more than twice as fast.

use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres, pool::PoolConnection, query, query_scalar,
};

use super::{
    StoreError,
    log_minutes::spans_of,
    log_usage::sums_of,
    log_writers::{Batch, LAST_NUMBER},
    logs::{LogRow, member_column},
    row::{to_column, without_nul},
};

/// From so many lines on they go by COPY, whose round trips cost more than fewer lines gain.
const COPY_ROWS_MIN: usize = 512;
/// COPY gets the lines in parts of about this length, so that the server reads one while the next is made.
const PART_BYTES: usize = 64 << 10;

pub(super) async fn insert_postgres(
    pool: &PgPool,
    batch: Batch<'_>,
    rows: &[LogRow<'_>],
) -> Result<Vec<i64>, StoreError> {
    let (mut batch, mut rows) = (batch, rows);
    loop {
        let ids = if rows.len() < COPY_ROWS_MIN {
            insert_behind(pool, batch, rows).await?
        } else {
            copy_behind(pool, batch, rows).await?
        };
        if !ids.is_empty() || rows.is_empty() {
            return Ok(ids);
        }
        // Some of them were written before, of which the statement that found it saw the end.
        let last = query_scalar(LAST_NUMBER).bind(batch.writer);
        let last: i64 = last.fetch_optional(pool).await?.unwrap_or(0);
        let known = batch.behind(last);
        rows = rows.get(known..).unwrap_or_default();
        batch.numbers = batch.numbers.get(known..).unwrap_or_default();
        if rows.is_empty() {
            return Ok(Vec::new());
        }
    }
}

/// Writes all lines if all their numbers are new, or none: in one statement, so one round trip and one transaction.
async fn insert_behind(
    pool: &PgPool,
    batch: Batch<'_>,
    rows: &[LogRow<'_>],
) -> Result<Vec<i64>, StoreError> {
    let Ends {
        first,
        newest,
        newest_at,
    } = Ends::of(batch, rows);
    let keys: Vec<i64> = rows.iter().map(|row| row.instance_key).collect();
    let generations: Vec<i64> = rows.iter().map(|row| to_column(row.generation.0)).collect();
    let members: Vec<i32> = rows.iter().map(member_column).collect();
    let streams: Vec<i16> = rows.iter().map(|row| i16::from(row.stream)).collect();
    let times: Vec<i64> = rows.iter().map(|row| row.at).collect();
    let lines: Vec<_> = rows.iter().map(|row| without_nul(&row.line)).collect();
    let continued: Vec<bool> = rows.iter().map(|row| row.continued).collect();
    let sums = sums_of(rows);
    let summed_keys: Vec<i64> = sums.keys().copied().collect();
    let (summed_lines, summed_bytes): (Vec<i64>, Vec<i64>) = sums.into_values().unzip();
    // Who moves the writer locks it: an earlier try of these lines may still be about to commit. The ids are drawn after the
    // sort, hence in the order given.
    let ids = query_scalar(
        "WITH moved AS ( \
           INSERT INTO log_writers AS known (writer, last_number, written_at) VALUES ($11, $12, $13) \
           ON CONFLICT (writer) DO UPDATE \
           SET last_number = excluded.last_number, written_at = excluded.written_at \
           WHERE known.last_number < $14 RETURNING 1), \
         written AS ( \
           INSERT INTO logs (instance_key, generation, member, stream, at, line, continued) \
           SELECT instance_key, generation, member, stream, at, line, continued \
           FROM UNNEST($1, $2, $3, $4, $5, $6, $7) WITH ORDINALITY \
           AS u (instance_key, generation, member, stream, at, line, continued, position) \
           WHERE EXISTS (SELECT FROM moved) \
           ORDER BY position RETURNING id, at), \
         counted AS ( \
           INSERT INTO log_usage AS known (instance_key, lines, text_bytes) \
           SELECT * FROM UNNEST($8, $9, $10) WHERE EXISTS (SELECT FROM moved) \
           ON CONFLICT (instance_key) DO UPDATE SET \
           lines = LEAST(known.lines, 4611686018427387904) + excluded.lines, \
           text_bytes = LEAST(known.text_bytes, 4611686018427387904) + excluded.text_bytes), \
         placed AS ( \
           INSERT INTO log_minutes AS known (minute, first_id, last_id) \
           SELECT at / 60000, MIN(id), MAX(id) FROM written GROUP BY at / 60000 ORDER BY 1 \
           ON CONFLICT (minute) DO UPDATE SET first_id = LEAST(known.first_id, excluded.first_id), \
           last_id = GREATEST(known.last_id, excluded.last_id)) \
         SELECT id FROM written",
    )
    .bind(keys)
    .bind(generations)
    .bind(members)
    .bind(streams)
    .bind(times)
    .bind(lines)
    .bind(continued)
    .bind(summed_keys)
    .bind(summed_lines)
    .bind(summed_bytes)
    .bind(batch.writer)
    .bind(newest)
    .bind(newest_at)
    .bind(first)
    .fetch_all(pool)
    .await?;
    Ok(ids)
}

/// What moves the writer.
struct Ends {
    first: i64,
    newest: i64,
    newest_at: i64,
}

impl Ends {
    fn of(batch: Batch<'_>, rows: &[LogRow<'_>]) -> Self {
        let numbers = batch.numbers;
        Self {
            first: numbers.first().copied().unwrap_or(1),
            newest: numbers.last().copied().unwrap_or(0),
            newest_at: rows.last().map_or(0, |row| row.at),
        }
    }
}

/// Writes all lines if all their numbers are new, or none: by COPY, in a transaction. The lines draw their ids as they are
/// written, one each, between the one drawn before and the newest behind.
async fn copy_behind(
    pool: &PgPool,
    batch: Batch<'_>,
    rows: &[LogRow<'_>],
) -> Result<Vec<i64>, StoreError> {
    let mut lent = Lent(Some(pool.acquire().await?));
    let Some(connection) = &mut lent.0 else {
        return Ok(Vec::new());
    };
    let mut tx = connection.begin().await?;
    let Ends {
        first,
        newest,
        newest_at,
    } = Ends::of(batch, rows);
    // Who moves the writer locks it: an earlier try of these lines may still be about to commit.
    let before: Option<i64> = query_scalar(
        "WITH moved AS ( \
           INSERT INTO log_writers AS known (writer, last_number, written_at) VALUES ($1, $2, $3) \
           ON CONFLICT (writer) DO UPDATE \
           SET last_number = excluded.last_number, written_at = excluded.written_at \
           WHERE known.last_number < $4 RETURNING 1) \
         SELECT nextval(pg_get_serial_sequence('logs', 'id')) FROM moved",
    )
    .bind(batch.writer)
    .bind(newest)
    .bind(newest_at)
    .bind(first)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(before) = before else {
        tx.rollback().await?;
        lent.give_back();
        return Ok(Vec::new());
    };
    copy(&mut tx, rows).await?;
    let sums = sums_of(rows);
    let keys: Vec<i64> = sums.keys().copied().collect();
    let (lines, text_bytes): (Vec<i64>, Vec<i64>) = sums.into_values().unzip();
    let count = to_column(rows.len() as u64);
    let in_a_row: Vec<i64> = (before + 1..=before + count).collect();
    let (minutes, first_ids, last_ids) = minutes_of(rows, &in_a_row);
    // The minutes are widened at once where the ids are those expected, as they mostly are.
    let after: i64 = query_scalar(
        "WITH drawn AS (SELECT currval(pg_get_serial_sequence('logs', 'id')) AS newest), \
         counted AS ( \
           INSERT INTO log_usage AS known (instance_key, lines, text_bytes) \
           SELECT * FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[]) \
           ON CONFLICT (instance_key) DO UPDATE SET \
           lines = LEAST(known.lines, 4611686018427387904) + excluded.lines, \
           text_bytes = LEAST(known.text_bytes, 4611686018427387904) + excluded.text_bytes), \
         placed AS ( \
           INSERT INTO log_minutes AS known (minute, first_id, last_id) \
           SELECT minute, first_id, last_id \
           FROM UNNEST($4::bigint[], $5::bigint[], $6::bigint[]) AS u (minute, first_id, last_id), drawn \
           WHERE drawn.newest = $7 \
           ON CONFLICT (minute) DO UPDATE SET first_id = LEAST(known.first_id, excluded.first_id), \
           last_id = GREATEST(known.last_id, excluded.last_id)) \
         SELECT newest FROM drawn",
    )
    .bind(keys)
    .bind(lines)
    .bind(text_bytes)
    .bind(minutes)
    .bind(first_ids)
    .bind(last_ids)
    .bind(before + count)
    .fetch_one(&mut *tx)
    .await?;
    let ids = if after == before + count {
        // As many as the lines, so nobody else drew one between.
        in_a_row
    } else {
        let ids = ids_written(&mut tx, before, after).await?;
        if ids.len() != rows.len() {
            let (sent, there) = (rows.len(), ids.len());
            return Err(StoreError::Refused(format!(
                "of {sent} log lines that were copied the database has {there}"
            )));
        }
        widen_minutes(&mut tx, rows, &ids).await?;
        ids
    };
    tx.commit().await?;
    lent.give_back();
    Ok(ids)
}

/// The ids that the open transaction gave to lines, rising; between two of its sequence.
async fn ids_written(
    connection: &mut PgConnection,
    before: i64,
    after: i64,
) -> Result<Vec<i64>, StoreError> {
    let ids = query_scalar(
        "SELECT id FROM logs WHERE id > $1 AND id <= $2 AND xmin = pg_current_xact_id()::xid ORDER BY id",
    )
    .bind(before)
    .bind(after);
    Ok(ids.fetch_all(connection).await?)
}

async fn widen_minutes(
    connection: &mut PgConnection,
    rows: &[LogRow<'_>],
    ids: &[i64],
) -> Result<(), StoreError> {
    let (minutes, first_ids, last_ids) = minutes_of(rows, ids);
    query(
        "INSERT INTO log_minutes AS known (minute, first_id, last_id) \
         SELECT * FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[]) \
         ON CONFLICT (minute) DO UPDATE SET first_id = LEAST(known.first_id, excluded.first_id), \
         last_id = GREATEST(known.last_id, excluded.last_id)",
    )
    .bind(minutes)
    .bind(first_ids)
    .bind(last_ids)
    .execute(connection)
    .await?;
    Ok(())
}

/// Minutes, and the first and last id of each, as columns.
fn minutes_of(rows: &[LogRow<'_>], ids: &[i64]) -> (Vec<i64>, Vec<i64>, Vec<i64>) {
    let spans = spans_of(rows, ids);
    let minutes = spans.keys().copied().collect();
    let (first_ids, last_ids) = spans.into_values().unzip();
    (minutes, first_ids, last_ids)
}

/// A connection that goes back to the pool only by [`Lent::give_back`], else it is closed: after a COPY that was left in its
/// middle, the driver would take the server's words on it for the answer to the next statement.
struct Lent(Option<PoolConnection<Postgres>>);

impl Lent {
    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

async fn copy(connection: &mut PgConnection, rows: &[LogRow<'_>]) -> Result<(), StoreError> {
    let mut copy = connection
        .copy_in_raw(
            "COPY logs (instance_key, generation, member, stream, at, line, continued) \
             FROM STDIN (FORMAT binary)",
        )
        .await?;
    let mut part = Vec::with_capacity(PART_BYTES * 2);
    part.extend_from_slice(HEADER);
    for row in rows {
        encode(&mut part, row);
        if part.len() >= PART_BYTES {
            copy.send(part.as_slice()).await?;
            part.clear();
        }
    }
    part.extend_from_slice(TRAILER);
    copy.send(part).await?;
    copy.finish().await?;
    Ok(())
}

/// The file header of COPY's binary format: signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// Its end: a count of fields of -1.
const TRAILER: &[u8] = &(-1_i16).to_be_bytes();

/// Appends a row as COPY's binary format has it: the count of fields, and each with its length before it, in the order of the
/// columns of [`copy`].
fn encode(out: &mut Vec<u8>, row: &LogRow<'_>) {
    const FIELDS: i16 = 7;
    let line = without_nul(&row.line);
    out.extend_from_slice(&FIELDS.to_be_bytes());
    field(out, &row.instance_key.to_be_bytes());
    field(out, &to_column(row.generation.0).to_be_bytes());
    field(out, &member_column(row).to_be_bytes());
    field(out, &i16::from(row.stream).to_be_bytes());
    field(out, &row.at.to_be_bytes());
    field(out, line.as_bytes());
    field(out, &[u8::from(row.continued)]);
}

fn field(out: &mut Vec<u8>, value: &[u8]) {
    // Lines are bounded where they are made, far below 2 GiB.
    let length = i32::try_from(value.len()).unwrap_or(i32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
}
