//! What must outlive the daemon, in SQLite or PostgreSQL: one SQL body for both wherever the dialects agree.
//!
//! Every method takes the time as an argument; times are unix milliseconds. Writes that belong together are one
//! transaction. A NUL character in a text becomes U+FFFD, since PostgreSQL stores none.
//! Only sealed secrets and token hashes come in here: no type of this module can hold a plaintext one.

#[macro_use]
mod pool;
#[macro_use]
mod row;

mod calls;
mod capabilities;
mod checkpoints;
mod chunks;
mod credentials;
mod damaged;
mod error;
mod events;
mod facts;
pub mod floor;
mod idempotency;
mod instance_writes;
mod instances;
mod log_insert_postgres;
mod log_insert_sqlite;
mod log_minutes;
mod log_search;
mod log_usage;
mod log_writers;
mod logs;
mod patience;
mod ports;
mod records;
mod retention;
mod snapshot;
mod standing;
mod template_needs;
mod tokens;
mod writers;

pub use calls::{CallEntry, CallQuery, CallSample};
pub use capabilities::{CapabilityPart, CapabilityRow};
pub use credentials::{CredentialEntry, CredentialRow, KeyCheckRow};
pub use error::StoreError;
pub use events::{EventRow, NewEvent};
pub use facts::StoreFacts;
pub use idempotency::IdempotencyRow;
pub use instance_writes::{NewInstance, StateWrite};
pub use log_search::LogSearch;
pub use log_usage::{DeletedLines, LogUsage};
pub use logs::{LogEntry, LogQuery, LogRow};
pub use ports::PortLeaseRow;
pub use records::CorruptRow;
pub use retention::History;
pub use snapshot::{snapshot, sqlite_file};
pub use standing::pending_migrations;
pub use template_needs::TemplateNeed;
pub use tokens::{NewToken, SECRETS_MAX, SecretRow, TokenRow};

use crate::{config::DatabaseConfig, domain::latency::LatencySnapshot};

/// The handle; cheap to clone, all clones share the connections.
#[derive(Clone)]
pub struct Store {
    pool: pool::Pool,
    patience: std::sync::Arc<patience::Patience>,
    damaged: std::sync::Arc<damaged::Damaged>,
}

impl Store {
    /// Connects, makes the SQLite file (mode 0600, folder 0700) when there is none, and brings the tables up to date.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when a server does not answer or is starting: try again later.
    /// [`StoreError::Refused`] when the configuration is wrong: a bad URL, a wrong password, an unwritable file,
    /// a database of a newer minimcp.
    pub async fn connect(config: &DatabaseConfig) -> Result<Self, StoreError> {
        let system = match config.url.starts_with("sqlite:") {
            true => "sqlite",
            false => "postgresql",
        };
        let patience = patience::Patience::new(config.statement_timeout.std(), system);
        let patience = std::sync::Arc::new(patience);
        let pool = pool::Pool::connect(config, &patience).await?;
        Ok(Self {
            pool,
            patience,
            damaged: std::sync::Arc::default(),
        })
    }

    /// Asks the database for an answer.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] with the reason.
    pub async fn ping(&self) -> Result<(), StoreError> {
        reading!(self, |db| sqlx::query("SELECT 1")
            .execute(db)
            .await
            .map(drop))?;
        Ok(())
    }

    /// Which database this is: `sqlite` or `postgres`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.pool {
            pool::Pool::Sqlite { .. } => "sqlite",
            pool::Pool::Postgres { .. } => "postgres",
        }
    }

    /// How long statements and transactions took, waits for a connection included, and how many the database did not do
    /// because it was away or too busy.
    #[must_use]
    pub fn statement_times(&self) -> (LatencySnapshot, u64) {
        let failed = &self.patience.failed;
        let failed = failed.load(std::sync::atomic::Ordering::Relaxed);
        (self.patience.times.snapshot(), failed)
    }

    /// Closes every connection once the statements under way are done. Later calls are `Unavailable`.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
