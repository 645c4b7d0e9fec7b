//! Deletes log rows that nobody keeps: too old, too many, or of an instance that is gone.

use std::sync::Arc;

use serde_json::json;

use super::{BackgroundTask, TaskRun};
use crate::{
    config::LogsConfig,
    domain::UnixMs,
    logs::{LogStore, LogStoreError},
};

/// Rows deleted in one transaction, so that the writer never waits long.
const STEP_ROWS: u32 = 5_000;

/// The task `log-retention`.
pub struct LogRetention {
    store: Arc<dyn LogStore>,
    retention_ms: i64,
    rows_per_instance: u64,
    now: fn() -> UnixMs,
}

impl LogRetention {
    /// Retention as the configuration says.
    #[must_use]
    pub fn new(store: Arc<dyn LogStore>, config: &LogsConfig) -> Self {
        Self {
            store,
            retention_ms: i64::try_from(config.retention.ms()).unwrap_or(i64::MAX),
            rows_per_instance: config.retention_rows_per_instance,
            now: || jiff::Timestamp::now().as_millisecond(),
        }
    }

    async fn delete(&self) -> Result<serde_json::Value, LogStoreError> {
        let before = (self.now)().saturating_sub(self.retention_ms);
        let mut expired = 0;
        loop {
            let count = self.store.delete_before(before, STEP_ROWS).await?;
            expired += count;
            if count < u64::from(STEP_ROWS) {
                break;
            }
        }
        let mut orphaned = 0;
        for key in self.store.orphan_keys().await? {
            loop {
                let count = self.store.delete_of(key, STEP_ROWS).await?;
                orphaned += count;
                if count < u64::from(STEP_ROWS) {
                    break;
                }
            }
        }
        let mut trimmed = 0;
        for key in self.store.keys().await? {
            loop {
                let step = self.store.trim(key, self.rows_per_instance, STEP_ROWS);
                let count = step.await?;
                trimmed += count;
                if count < u64::from(STEP_ROWS) {
                    break;
                }
            }
        }
        Ok(json!({ "expired_rows": expired, "orphaned_rows": orphaned, "trimmed_rows": trimmed }))
    }
}

impl BackgroundTask for LogRetention {
    fn name(&self) -> &str {
        "log-retention"
    }

    fn description(&self) -> &str {
        "Deletes log lines that are too old, too many for one instance, or of an instance that is gone"
    }

    fn run(&self) -> TaskRun<'_> {
        Box::pin(async { self.delete().await.map_err(|error| error.to_string()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::duration::HumanDuration,
        logs::{
            LogRecord,
            fake_store::{FakeStore, record, source},
        },
    };

    #[tokio::test]
    async fn deletes_the_old_the_orphaned_and_the_many_in_steps() {
        let store = FakeStore::new();
        let row = |key, at, line: &str| LogRecord {
            instance_key: key,
            at,
            ..record(line)
        };
        let mut rows: Vec<LogRecord> = (0..12_000).map(|_| row(source().key, 10, "old")).collect();
        rows.extend((0..6_000).map(|_| row(99, 2_000, "of nobody")));
        rows.extend((0..7_000).map(|_| row(source().key, 2_000, "many")));
        rows.extend((0..3).map(|number| row(source().key, 2_000, &format!("kept {number}"))));
        store
            .insert(Arc::new(rows))
            .await
            .expect("the fake takes all");
        let config = LogsConfig {
            retention: HumanDuration::from_secs(1),
            retention_rows_per_instance: 3,
            ..LogsConfig::default()
        };
        let task = LogRetention {
            now: || 2_500,
            ..LogRetention::new(Arc::<FakeStore>::clone(&store), &config)
        };
        let report = task.run().await.expect("the fake deletes");
        let expected =
            json!({ "expired_rows": 12_000, "orphaned_rows": 6_000, "trimmed_rows": 7_000 });
        assert_eq!(report, expected);
        assert_eq!(store.lines(), ["kept 0", "kept 1", "kept 2"]);
        let again = task.run().await.expect("deleting again is harmless");
        assert_eq!(again["expired_rows"], 0);
    }
}
