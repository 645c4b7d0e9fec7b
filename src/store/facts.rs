//! What the database tells about itself.

use sqlx::query_as;

use super::{Store, StoreError, pool::Pool};

/// What the database is, and how large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFacts {
    /// The version of the server, or of the library.
    pub version: String,
    /// The last migration.
    pub schema: i64,
    /// Bytes on disk, all tables and indices together.
    pub bytes: i64,
    /// Rows of instances.
    pub instances: i64,
    /// Lines of the log.
    pub log_lines: i64,
    /// The bytes of their text.
    pub log_text_bytes: i64,
}

impl Store {
    /// Asks the database about itself; nothing is counted row by row but the instances.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn facts(&self) -> Result<StoreFacts, StoreError> {
        let (version, bytes): (String, i64) = match &self.pool {
            Pool::Sqlite { readers, .. } => in_time!(
                self,
                query_as(
                    "SELECT sqlite_version(), page_count * page_size FROM pragma_page_count(), pragma_page_size()"
                )
                .fetch_one(readers)
                .await?
            ),
            Pool::Postgres { pool, .. } => in_time!(
                self,
                query_as(
                    "SELECT current_setting('server_version'), pg_database_size(current_database())"
                )
                .fetch_one(pool)
                .await?
            ),
        };
        let (schema, instances): (i64, i64) = reading!(self, |db| {
            query_as(
                "SELECT (SELECT MAX(version) FROM _sqlx_migrations), (SELECT COUNT(*) FROM instances)",
            )
            .fetch_one(db)
            .await?
        });
        let usage = self.log_usage().await?;
        let sum = |of: fn(&super::LogUsage) -> u64| {
            let all = usage.iter().map(of).fold(0, u64::saturating_add);
            i64::try_from(all).unwrap_or(i64::MAX)
        };
        Ok(StoreFacts {
            version,
            schema,
            bytes,
            instances,
            log_lines: sum(|one| one.lines),
            log_text_bytes: sum(|one| one.text_bytes),
        })
    }
}
