//! The two databases behind one name: connections, pragmas, migrations, and the macros that run one sqlx body on either.

use std::{
    borrow::Cow,
    fs,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, PgPool, SqlSafeStr, SqlitePool,
    migrate::{Migration, MigrationType, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::StoreError;
use crate::config::DatabaseConfig;

/// How long a statement on SQLite waits for a lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// One of the two databases. SQLite has one writer, so that writes queue in order instead of failing as busy.
#[derive(Clone)]
pub(super) enum Pool {
    /// One file.
    Sqlite {
        /// A pool of one connection.
        writer: SqlitePool,
        /// Connections that cannot write.
        readers: SqlitePool,
    },
    /// A server.
    Postgres(PgPool),
}

/// Runs one sqlx body that only reads.
macro_rules! reading {
    ($store:expr, |$db:ident| $body:expr) => {
        match &$store.pool {
            $crate::store::pool::Pool::Sqlite { readers: $db, .. } => $body,
            $crate::store::pool::Pool::Postgres($db) => $body,
        }
    };
}

/// Runs one sqlx body of a single statement that writes.
macro_rules! writing {
    ($store:expr, |$db:ident| $body:expr) => {
        match &$store.pool {
            $crate::store::pool::Pool::Sqlite { writer: $db, .. } => $body,
            $crate::store::pool::Pool::Postgres($db) => $body,
        }
    };
}

/// Runs one sqlx body inside a transaction; `?` inside it rolls back. On SQLite the write lock is taken at once:
/// a transaction that begins by reading could not take it later when another process wrote in between.
macro_rules! in_transaction {
    ($store:expr, |$tx:ident| $body:expr) => {
        match &$store.pool {
            $crate::store::pool::Pool::Sqlite { writer, .. } => {
                let mut $tx = writer.begin_with("BEGIN IMMEDIATE").await?;
                let outcome = $body;
                $tx.commit().await?;
                outcome
            }
            $crate::store::pool::Pool::Postgres(pool) => {
                let mut $tx = pool.begin().await?;
                let outcome = $body;
                $tx.commit().await?;
                outcome
            }
        }
    };
}

/// One list for both dialects, so that their numbers cannot drift. Append only: a released file never changes.
macro_rules! migrations {
    ($dialect:literal) => {
        migrator(&[(
            1,
            "first tables",
            include_str!(concat!(
                "../../migrations/",
                $dialect,
                "/0001_first_tables.sql"
            )),
        )])
    };
}

fn migrator(files: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migration = |&(number, title, sql): &(i64, &'static str, &'static str)| {
        Migration::new(
            number,
            Cow::Borrowed(title),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    };
    Migrator::with_migrations(files.iter().map(migration).collect())
}

impl Pool {
    /// Connects and brings the tables up to date.
    pub(super) async fn connect(config: &DatabaseConfig) -> Result<Self, StoreError> {
        let url = config.url.as_str();
        if let Some(path) = url.strip_prefix("sqlite:") {
            Self::connect_sqlite(path.strip_prefix("//").unwrap_or(path), config).await
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            Self::connect_postgres(url, config).await
        } else {
            Err(StoreError::Refused(
                "database.url must be sqlite:PATH or postgres://USER@HOST/DATABASE".to_owned(),
            ))
        }
    }

    async fn connect_sqlite(path: &str, config: &DatabaseConfig) -> Result<Self, StoreError> {
        if path.is_empty() || path.contains(":memory:") || path.contains('?') {
            return Err(StoreError::Refused(
                "database.url must name a file after sqlite:, without parameters".to_owned(),
            ));
        }
        let path = PathBuf::from(path);
        prepare_file(&path)?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .synchronous(SqliteSynchronous::Normal)
            .disable_statement_logging();
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .acquire_timeout(config.acquire_timeout.std())
            .connect_with(options.clone().journal_mode(SqliteJournalMode::Wal))
            .await
            .map_err(|error| named(&path.display().to_string(), error.into()))?;
        migrations!("sqlite")
            .run(&writer)
            .await
            .map_err(migration_error)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(config.connections_max.max(1))
            .max_lifetime(None)
            .test_before_acquire(false)
            .acquire_timeout(config.acquire_timeout.std())
            .connect_lazy_with(options.pragma("query_only", "on"));
        Ok(Self::Sqlite { writer, readers })
    }

    async fn connect_postgres(url: &str, config: &DatabaseConfig) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| {
                StoreError::Refused(
                    "database.url is not a valid address: postgres://USER:PASSWORD@HOST:PORT/DATABASE is expected".to_owned(),
                )
            })?
            .application_name("minimcp")
            .disable_statement_logging();
        let place = match options.get_socket() {
            Some(socket) => format!("PostgreSQL at {}", socket.display()),
            None => format!(
                "PostgreSQL at {}:{}",
                options.get_host(),
                options.get_port()
            ),
        };
        // A connection of our own first: the pool would only say that it timed out, not why.
        let attempt = tokio::time::timeout(config.acquire_timeout.std(), options.connect());
        match attempt.await {
            Ok(Ok(connection)) => {
                // The answer to a goodbye has no bearing on what follows.
                drop(connection.close().await);
            }
            Ok(Err(error)) => return Err(named(&place, error.into())),
            Err(_) => return Err(StoreError::Unavailable(format!("{place} does not answer"))),
        }
        let pool = PgPoolOptions::new()
            .max_connections(config.connections_max.max(2))
            .acquire_timeout(config.acquire_timeout.std())
            .connect_lazy_with(options);
        migrations!("postgres")
            .run(&pool)
            .await
            .map_err(migration_error)?;
        Ok(Self::Postgres(pool))
    }

    /// Closes every connection after the statements under way.
    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

/// Makes folder and file readable by us alone; SQLite gives its WAL files the mode of the main one.
fn prepare_file(path: &Path) -> Result<(), StoreError> {
    let refused = |what: &Path, error: std::io::Error| {
        StoreError::Refused(format!(
            "cannot write the database at {}: {error}",
            what.display()
        ))
    };
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| refused(folder, error))?;
    }
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|error| refused(path, error))
}

fn named(place: &str, error: StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(why) => StoreError::Unavailable(format!("{place}: {why}")),
        StoreError::Refused(why) => StoreError::Refused(format!("{place}: {why}")),
        other => other,
    }
}

fn migration_error(error: sqlx::migrate::MigrateError) -> StoreError {
    use sqlx::migrate::MigrateError;
    match error {
        MigrateError::VersionMissing(number) => StoreError::Refused(format!(
            "the database was made by a newer minimcp (migration {number} is unknown to this one)"
        )),
        MigrateError::VersionMismatch(number) => StoreError::Refused(format!(
            "the database was made by another build of minimcp (its migration {number} differs)"
        )),
        other => sqlx::Error::from(other).into(),
    }
}
