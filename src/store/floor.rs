//! What a database takes of log lines by itself: the table of the log with its index, and nothing else. The ingest of a
//! daemon is measured against it (`minimcp bench`).

use std::{
    path::Path,
    str::FromStr as _,
    time::{Duration, Instant},
};

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection,
    SqliteConnection,
    postgres::PgConnectOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::StoreError;

/// Rows of one statement on SQLite.
const ROWS: usize = 500;

/// How long a new SQLite file takes for `batch`, so many times in a transaction each, by prepared statements of 500
/// rows. Ends early when `goes_on` says no.
///
/// # Errors
/// When the file cannot be made or written.
pub async fn sqlite_takes(
    file: &Path,
    batch: &[String],
    times: usize,
    goes_on: &(dyn Fn() -> bool + Sync),
) -> Result<Duration, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    for sql in [
        "CREATE TABLE logs (id INTEGER PRIMARY KEY AUTOINCREMENT, instance_key INTEGER NOT NULL, generation INTEGER NOT NULL, stream INTEGER NOT NULL, at INTEGER NOT NULL, line TEXT NOT NULL, continued INTEGER NOT NULL, member INTEGER NOT NULL DEFAULT 0) STRICT",
        "CREATE INDEX logs_instance_key ON logs (instance_key, id)",
    ] {
        connection.execute(sql).await?;
    }
    let insert = |rows: usize| {
        let values = vec!["(?, ?, ?, ?, ?, ?, ?)"; rows].join(", ");
        format!(
            "INSERT INTO logs (instance_key, generation, member, stream, at, line, continued) VALUES {values}"
        )
    };
    let began = Instant::now();
    for _ in 0..times {
        if !goes_on() {
            break;
        }
        let mut transaction = connection.begin().await?;
        for chunk in batch.chunks(ROWS) {
            let mut insert = sqlx::query(AssertSqlSafe(insert(chunk.len())));
            for line in chunk {
                insert = insert
                    .bind(1_i64)
                    .bind(1_i64)
                    .bind(0_i32)
                    .bind(2_i16)
                    .bind(0_i64);
                insert = insert.bind(line.as_str()).bind(false);
            }
            insert.execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
    }
    let took = began.elapsed();
    connection.close().await?;
    Ok(took)
}

/// A database of PostgreSQL that was made for a measurement and is dropped after it.
pub struct OwnDatabase {
    server: PgConnectOptions,
    name: String,
    url: String,
}

impl OwnDatabase {
    /// Makes one called `name`, which only has letters, digits and underscores, on the server of `url`.
    ///
    /// # Errors
    /// When `url` is no address of PostgreSQL, the server does not answer, or its user may not make databases.
    pub async fn create(url: &str, name: &str) -> Result<Self, StoreError> {
        let wrong = || {
            StoreError::Refused(
                "this is not a valid address: postgres://USER:PASSWORD@HOST:PORT/DATABASE is expected"
                    .to_owned(),
            )
        };
        let server = PgConnectOptions::from_str(url).map_err(|_| wrong())?;
        let server = server
            .application_name("minimcp-bench")
            .disable_statement_logging();
        let own = Self {
            url: with_database(url, name).ok_or_else(wrong)?,
            name: name.to_owned(),
            server,
        };
        own.on_server(format!("CREATE DATABASE {name}")).await?;
        Ok(own)
    }

    /// Its address, with the password of the one that it was made with.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How long it takes for `batch`, so many times in a transaction each, by COPY. Ends early when `goes_on` says no.
    /// Lines hold no tab and no backslash.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn takes(
        &self,
        batch: &[String],
        times: usize,
        goes_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Duration, StoreError> {
        const COPY: &str =
            "COPY logs (instance_key, generation, member, stream, at, line, continued) FROM STDIN";
        let mut connection =
            PgConnection::connect_with(&self.server.clone().database(&self.name)).await?;
        sqlx::raw_sql(
            "CREATE TABLE logs (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, instance_key BIGINT NOT NULL, \
             generation BIGINT NOT NULL, stream SMALLINT NOT NULL, at BIGINT NOT NULL, line TEXT NOT NULL, \
             continued BOOLEAN NOT NULL, member INTEGER NOT NULL DEFAULT 0); \
             CREATE INDEX logs_instance_key ON logs (instance_key, id)",
        )
        .execute(&mut connection)
        .await?;
        let row = |line: &String| format!("1\t1\t0\t2\t0\t{line}\tf\n");
        let rows: String = batch.iter().map(row).collect();
        let began = Instant::now();
        for _ in 0..times {
            if !goes_on() {
                break;
            }
            let mut copy = connection.copy_in_raw(COPY).await?;
            copy.send(rows.as_bytes()).await?;
            copy.finish().await?;
        }
        let took = began.elapsed();
        connection.close().await?;
        Ok(took)
    }

    /// Drops it, whoever is still connected.
    ///
    /// # Errors
    /// When the server does not do it.
    pub async fn drop(self) -> Result<(), StoreError> {
        self.on_server(format!("DROP DATABASE {} WITH (FORCE)", self.name))
            .await
    }

    async fn on_server(&self, sql: String) -> Result<(), StoreError> {
        let mut connection = PgConnection::connect_with(&self.server).await?;
        connection.execute(AssertSqlSafe(sql)).await?;
        connection.close().await?;
        Ok(())
    }
}

/// The address of another database of the same server.
fn with_database(url: &str, name: &str) -> Option<String> {
    let (address, options) = match url.split_once('?') {
        Some((address, options)) => (address, format!("?{options}")),
        None => (url, String::new()),
    };
    let (scheme, rest) = address.split_once("://")?;
    let host = rest.split_once('/').map_or(rest, |(host, _)| host);
    Some(format!("{scheme}://{host}/{name}{options}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_database_of_an_address_changes() {
        for (url, other) in [
            ("postgres://u:p@h:5432/a", "postgres://u:p@h:5432/b"),
            ("postgres://u@h", "postgres://u@h/b"),
            (
                "postgres://u@h/a?sslrootcert=/x/y",
                "postgres://u@h/b?sslrootcert=/x/y",
            ),
        ] {
            assert_eq!(with_database(url, "b").as_deref(), Some(other));
        }
        assert_eq!(with_database("rubbish", "b"), None);
    }

    #[tokio::test]
    async fn sqlite_takes_every_line_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("alone.db");
        // More than one statement, and the last one shorter.
        let batch: Vec<String> = (0..ROWS + 7)
            .map(|number| format!("line {number}"))
            .collect();
        sqlite_takes(&file, &batch, 3, &|| true)
            .await
            .expect("written");
        let options = SqliteConnectOptions::new().filename(&file);
        let mut connection = SqliteConnection::connect_with(&options)
            .await
            .expect("opened");
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM logs")
            .fetch_one(&mut connection)
            .await
            .expect("counted");
        assert_eq!(usize::try_from(count), Ok(3 * (ROWS + 7)));
        let other = folder.path().join("ended.db");
        sqlite_takes(&other, &batch, 3, &|| false)
            .await
            .expect("nothing to do");
    }
}
