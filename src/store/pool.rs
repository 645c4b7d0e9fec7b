//! The two databases behind one name: connections, pragmas, migrations, and the macros that run one sqlx body on either.

use std::{
    borrow::Cow,
    fs,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, PgPool, SqlSafeStr, SqliteConnection,
    SqlitePool,
    migrate::{Migration, MigrationType, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    StoreError,
    checkpoints::{Checkpoints, WRITER_PAGES},
    patience::{Patience, answers},
};
use crate::config::DatabaseConfig;

/// How long a statement on SQLite waits for a lock that another process holds.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server may take to say goodbye.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that rested no longer than this is taken as it is: it has answered when it came back.
const TRUSTED_REST: Duration = Duration::from_secs(1);

/// How long the end of all connections may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long migrations may take, and the wait for another daemon that is at them.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(600);

/// One of the two databases. SQLite has one writer, so that writes queue in order instead of failing as busy.
#[derive(Clone)]
pub(super) enum Pool {
    /// One file.
    Sqlite {
        /// A pool of one connection.
        writer: SqlitePool,
        /// Connections that cannot write.
        readers: SqlitePool,
        /// Beside the writer.
        checkpoints: Checkpoints,
    },
    /// A server.
    Postgres {
        /// What everything else uses.
        pool: PgPool,
        /// For batches of log lines: a pool of one connection, which knows tables and statements from the batch before.
        /// A pool lends its connections in turn, and each has to learn them.
        lines: PgPool,
    },
}

/// Runs one sqlx body that only reads.
macro_rules! reading {
    ($store:expr, |$db:ident| $body:expr) => {
        match &$store.pool {
            $crate::store::pool::Pool::Sqlite { readers: $db, .. } => in_time!($store, $body),
            $crate::store::pool::Pool::Postgres { pool: $db, .. } => in_time!($store, $body),
        }
    };
}

/// Runs one sqlx body of a single statement that writes.
macro_rules! writing {
    ($store:expr, |$db:ident| $body:expr) => {
        match &$store.pool {
            $crate::store::pool::Pool::Sqlite { writer: $db, .. } => in_time!($store, $body),
            $crate::store::pool::Pool::Postgres { pool: $db, .. } => in_time!($store, $body),
        }
    };
}

/// Runs one sqlx body inside a transaction; `?` inside it rolls back. On SQLite the write lock is taken at once:
/// a transaction that begins by reading could not take it later when another process wrote in between.
macro_rules! in_transaction {
    ($store:expr, |$tx:ident| $body:expr) => {
        match &$store.pool {
            $crate::store::pool::Pool::Sqlite { writer, .. } => in_time!($store, {
                let mut $tx = writer.begin_with("BEGIN IMMEDIATE").await?;
                let outcome = $body;
                $tx.commit().await?;
                outcome
            }),
            $crate::store::pool::Pool::Postgres { pool, .. } => in_time!($store, {
                let mut $tx = pool.begin().await?;
                let outcome = $body;
                $tx.commit().await?;
                outcome
            }),
        }
    };
}

/// Runs a body, a wait for a connection included, for as long as `database.statement_timeout` allows. A network that
/// swallows packets gives no error for a quarter of an hour; nobody waits that long.
macro_rules! in_time {
    ($store:expr, $body:expr) => {
        $crate::store::patience::in_time(&$store.patience, module_path!(), async {
            Ok::<_, $crate::store::StoreError>($body)
        })
        .await?
    };
}

/// One list for both dialects, so that their numbers cannot drift. Append only: a released file never changes.
macro_rules! migrations {
    ($dialect:literal) => {
        migrator(&[
            (
                1,
                "first tables",
                include_str!(concat!(
                    "../../migrations/",
                    $dialect,
                    "/0001_first_tables.sql"
                )),
            ),
            (
                2,
                "named access tokens",
                include_str!(concat!(
                    "../../migrations/",
                    $dialect,
                    "/0002_named_access_tokens.sql"
                )),
            ),
            (
                3,
                "call records",
                include_str!(concat!(
                    "../../migrations/",
                    $dialect,
                    "/0003_call_records.sql"
                )),
            ),
            (
                4,
                "log member",
                include_str!(concat!(
                    "../../migrations/",
                    $dialect,
                    "/0004_log_member.sql"
                )),
            ),
            (
                5,
                "call writers",
                include_str!(concat!(
                    "../../migrations/",
                    $dialect,
                    "/0005_call_writers.sql"
                )),
            ),
            (
                6,
                "log usage and minutes",
                include_str!(concat!(
                    "../../migrations/",
                    $dialect,
                    "/0006_log_usage_and_minutes.sql"
                )),
            ),
            (
                7,
                "log writers",
                include_str!(concat!(
                    "../../migrations/",
                    $dialect,
                    "/0007_log_writers.sql"
                )),
            ),
            (
                8,
                "capability cache",
                include_str!(concat!(
                    "../../migrations/",
                    $dialect,
                    "/0008_capability_cache.sql"
                )),
            ),
            (
                9,
                "template needs",
                include_str!(concat!(
                    "../../migrations/",
                    $dialect,
                    "/0009_template_needs.sql"
                )),
            ),
        ])
    };
}

pub(super) fn sqlite_migrations() -> Migrator {
    migrations!("sqlite")
}

pub(super) fn postgres_migrations() -> Migrator {
    migrations!("postgres")
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
    pub(super) async fn connect(
        config: &DatabaseConfig,
        patience: &Arc<Patience>,
    ) -> Result<Self, StoreError> {
        let url = config.url.as_str();
        if let Some(path) = sqlite_path(url) {
            Self::connect_sqlite(path, config).await
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            Self::connect_postgres(url, config, patience).await
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
        let (checkpoints, uses) = Checkpoints::begin(options.clone());
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .before_acquire(|connection, _| Box::pin(is_out_of_transactions(connection)))
            .after_release(move |_, _| {
                uses.add();
                Box::pin(std::future::ready(Ok(true)))
            })
            .acquire_timeout(config.acquire_timeout.std())
            .connect_with(
                options
                    .clone()
                    .journal_mode(SqliteJournalMode::Wal)
                    .pragma("wal_autocheckpoint", WRITER_PAGES),
            )
            .await
            .map_err(|error| named(&path.display().to_string(), error.into()))?;
        sqlite_migrations()
            .run(&writer)
            .await
            .map_err(migration_error)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(config.connections_max.max(1))
            .max_lifetime(None)
            .test_before_acquire(false)
            .acquire_timeout(config.acquire_timeout.std())
            .connect_lazy_with(options.pragma("query_only", "on"));
        Ok(Self::Sqlite {
            writer,
            readers,
            checkpoints,
        })
    }

    async fn connect_postgres(
        url: &str,
        config: &DatabaseConfig,
        patience: &Arc<Patience>,
    ) -> Result<Self, StoreError> {
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
                // A server that does not take the goodbye closes the connection by itself.
                drop(tokio::time::timeout(RELEASE_TIMEOUT, connection.close()).await);
            }
            Ok(Err(error)) => return Err(named(&place, error.into())),
            Err(_) => return Err(StoreError::Unavailable(format!("{place} does not answer"))),
        }
        // Migrations may take longer than any other statement: they have a pool of their own.
        let first = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(config.acquire_timeout.std())
            .connect_lazy_with(options.clone());
        let migrations = postgres_migrations();
        match tokio::time::timeout(MIGRATION_TIMEOUT, migrations.run(&first)).await {
            Ok(migrated) => migrated.map_err(migration_error)?,
            Err(_) => {
                return Err(StoreError::Unavailable(format!(
                    "{place} did not bring its tables up to date in time"
                )));
            }
        }
        drop(tokio::time::timeout(RELEASE_TIMEOUT, first.close()).await);
        let statement_timeout_ms = config.statement_timeout.ms();
        let given_up = Arc::clone(patience);
        let pools = PgPoolOptions::new()
            .acquire_timeout(config.acquire_timeout.std())
            .after_connect(move |connection, _| {
                // What we gave up must not go on over there, holding locks and connections.
                let sql = format!("SET statement_timeout = {statement_timeout_ms}");
                Box::pin(async move { connection.execute(AssertSqlSafe(sql)).await.map(drop) })
            })
            // Each of these costs a round trip while others wait for the connection: only where there is a doubt.
            .test_before_acquire(false)
            .before_acquire(|connection, rested| {
                let doubtful = rested.idle_for > TRUSTED_REST;
                Box::pin(async move { Ok(!doubtful || answers(connection).await) })
            })
            .after_release(move |connection, _| {
                // sqlx asks a returned connection for an answer without a limit: on a silent network each would
                // hold its place in the pool until the kernel gives it up.
                let doubtful = given_up.recently_given_up();
                Box::pin(async move { Ok(!doubtful || answers(connection).await) })
            });
        let connections_max = config.connections_max.max(2);
        let lending = |connections: u32| {
            let pool = pools.clone().max_connections(connections);
            pool.connect_lazy_with(options.clone())
        };
        Ok(if connections_max > 2 {
            Self::Postgres {
                pool: lending(connections_max - 1),
                lines: lending(1),
            }
        } else {
            let pool = lending(connections_max);
            Self::Postgres {
                lines: pool.clone(),
                pool,
            }
        })
    }

    /// Closes every connection after the statements under way; a server that says nothing is waited for only so long.
    pub(super) async fn close(&self) {
        let closing = async {
            match self {
                Self::Sqlite {
                    writer,
                    readers,
                    checkpoints,
                } => {
                    checkpoints.end().await;
                    readers.close().await;
                    writer.close().await;
                }
                Self::Postgres { pool, lines } => {
                    lines.close().await;
                    pool.close().await;
                }
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, closing).await.is_err() {
            tracing::warn!("the connections to the database did not close in time");
        }
    }
}

/// Whether a connection can begin a transaction. A full disk makes SQLite roll back by itself; the rollback that sqlx
/// then asks for fails, and sqlx believes for ever that the transaction goes on. Such a connection is replaced.
async fn is_out_of_transactions(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    if connection.is_in_transaction() {
        // A rollback that was begun is done once the connection answers.
        connection.ping().await?;
    }
    Ok(!connection.is_in_transaction())
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

/// The path in a URL of SQLite.
pub(super) fn sqlite_path(url: &str) -> Option<&str> {
    let path = url.strip_prefix("sqlite:")?;
    Some(path.strip_prefix("//").unwrap_or(path))
}

pub(super) fn named(place: &str, error: StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(why) => StoreError::Unavailable(format!("{place}: {why}")),
        StoreError::Refused(why) => StoreError::Refused(format!("{place}: {why}")),
        other => other,
    }
}

fn migration_error(error: sqlx::migrate::MigrateError) -> StoreError {
    use sqlx::migrate::MigrateError;
    match error {
        MigrateError::VersionMissing(number) => of_a_newer_one(number),
        MigrateError::VersionMismatch(number) => of_another_build(number),
        other => sqlx::Error::from(other).into(),
    }
}

pub(super) fn of_a_newer_one(migration: i64) -> StoreError {
    StoreError::Refused(format!(
        "the database was made by a newer minimcp (migration {migration} is unknown to this one)"
    ))
}

pub(super) fn of_another_build(migration: i64) -> StoreError {
    StoreError::Refused(format!(
        "the database was made by another build of minimcp (its migration {migration} differs)"
    ))
}
