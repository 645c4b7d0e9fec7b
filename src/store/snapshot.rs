//! A copy of a SQLite database while others use it.

use std::path::{Path, PathBuf};

use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{StoreError, pool};
use crate::{config::DatabaseConfig, domain::id::InstanceId};

/// The file of `database.url`, where it is SQLite.
#[must_use]
pub fn sqlite_file(config: &DatabaseConfig) -> Option<PathBuf> {
    pool::sqlite_path(&config.url).map(PathBuf::from)
}

/// Copies the database into a new file: one state of it, whole, as of one moment, while a daemon goes on writing
/// (`VACUUM INTO`, which reads within one transaction). Answers the instances that are in the copy.
///
/// # Errors
/// [`StoreError::Refused`] when there is no SQLite database, when `to` exists or cannot be written, or when the copy is
/// damaged; [`StoreError::Unavailable`] when the database is busy for too long.
pub async fn snapshot(from: &Path, to: &Path) -> Result<Vec<InstanceId>, StoreError> {
    let mut source = SqliteConnectOptions::new()
        .filename(from)
        .create_if_missing(false)
        .busy_timeout(pool::BUSY_TIMEOUT)
        .disable_statement_logging()
        .connect()
        .await
        .map_err(|error| pool::named(&from.display().to_string(), error.into()))?;
    let Some(target) = to.to_str() else {
        return Err(StoreError::Refused(format!(
            "the path {} is not UTF-8",
            to.display()
        )));
    };
    let copied = sqlx::query("VACUUM INTO ?")
        .bind(target)
        .execute(&mut source)
        .await;
    // Whether the goodbye is heard does not matter.
    let _ = source.close().await;
    copied.map_err(|error| pool::named(target, error.into()))?;
    instances_of(to).await
}

/// The instances in a copy, once it has been found whole.
async fn instances_of(copy: &Path) -> Result<Vec<InstanceId>, StoreError> {
    let place = copy.display().to_string();
    let mut database = SqliteConnectOptions::new()
        .filename(copy)
        .create_if_missing(false)
        .read_only(true)
        .disable_statement_logging()
        .connect()
        .await
        .map_err(|error| pool::named(&place, error.into()))?;
    let found = read(&mut database, &place).await;
    let _ = database.close().await;
    found
}

async fn read(database: &mut SqliteConnection, place: &str) -> Result<Vec<InstanceId>, StoreError> {
    let refused = |reason: String| StoreError::Refused(format!("{place} {reason}"));
    let check: String = sqlx::query_scalar("PRAGMA quick_check(1)")
        .fetch_one(&mut *database)
        .await
        .map_err(|error| refused(format!("is no database: {error}")))?;
    if check != "ok" {
        return Err(refused(format!("is damaged: {check}")));
    }
    let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM instances ORDER BY id")
        .fetch_all(database)
        .await
        .map_err(|error| refused(format!("is no database of minimcp: {error}")))?;
    // A damaged row keeps its place in the copy, and has no folder that could be found.
    Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
}
