//! Deletes rows that nobody keeps: too old, too many, or of an instance that is gone.

use std::time::Duration;

use serde_json::json;

use super::{BackgroundTask, TaskRun, log_retention::LogBytes};
use crate::{
    clock::Clock,
    store::{History, Store, StoreError},
};

/// Rows deleted in one transaction, so that a writer never waits long.
pub(super) const STEP_ROWS: u32 = 5_000;

/// A row from so far ahead of the clock has a wrong time: a day.
const AHEAD_MS: i64 = 24 * 3_600_000;

/// How long and how many rows of a history are kept.
pub struct Retention {
    /// The name of the task.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub description: &'static str,
    /// Which rows.
    pub history: History,
    /// Where they are.
    pub store: Store,
    /// What time it is.
    pub clock: Clock,
    /// Older rows are deleted.
    pub keep: Duration,
    /// Most rows of one instance.
    pub rows_per_instance: u64,
    /// Most bytes; of log lines only.
    pub bytes: Option<LogBytes>,
}

impl Retention {
    async fn delete(&self) -> Result<serde_json::Value, StoreError> {
        let keep_ms = i64::try_from(self.keep.as_millis()).unwrap_or(i64::MAX);
        let now = self.clock.now();
        let before = now.saturating_sub(keep_ms);
        let ahead = now.saturating_add(AHEAD_MS);
        let mut expired = 0;
        loop {
            let step = self
                .store
                .delete_before(self.history, before, ahead, STEP_ROWS);
            let count = step.await?;
            expired += count;
            // One young row among the oldest must not make the step the last.
            if count == 0 {
                break;
            }
        }
        let (mut orphaned, mut trimmed) = (0, 0);
        for (key, there) in self.store.history_keys(self.history).await? {
            let (keep_rows, gone) = match there {
                true => (self.rows_per_instance, &mut trimmed),
                false => (0, &mut orphaned),
            };
            loop {
                let step = self.store.trim(self.history, key, keep_rows, STEP_ROWS);
                let count = step.await?;
                *gone += count;
                if count < u64::from(STEP_ROWS) {
                    break;
                }
            }
        }
        if let Some(bytes) = &self.bytes {
            // By chance: of a turn that follows from the time, a schedule could leave some out.
            let turn = now.unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
            trimmed += bytes.hold(&self.store, turn).await?;
        }
        if self.history == History::Logs {
            self.store.delete_log_minutes().await?;
            self.store.delete_log_writers_before(before).await?;
        }
        if self.history == History::Calls {
            self.store.delete_call_writers_before(before).await?;
        }
        Ok(json!({ "expired_rows": expired, "orphaned_rows": orphaned, "trimmed_rows": trimmed }))
    }
}

impl BackgroundTask for Retention {
    fn name(&self) -> &str {
        self.name
    }

    fn description(&self) -> &str {
        self.description
    }

    fn run(&self) -> TaskRun<'_> {
        Box::pin(async { self.delete().await.map_err(|error| error.to_string()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::DatabaseConfig,
        domain::id::Generation,
        store::{LogQuery, LogRow},
    };

    #[tokio::test]
    async fn deletes_the_old_and_the_orphaned_in_steps() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = DatabaseConfig {
            url: format!("sqlite:{}", folder.path().join("test.db").display()),
            ..DatabaseConfig::default()
        };
        let store = Store::connect(&database).await.expect("SQLite opens");
        let clock = Clock::System;
        let row = |at| LogRow {
            instance_key: 99,
            generation: Generation(1),
            member: 0,
            stream: 1,
            at,
            line: "of nobody".into(),
            continued: false,
        };
        let mut rows = vec![row(10); 12_000];
        rows.extend(vec![row(clock.now()); 6_000]);
        store.insert_logs(&rows).await.expect("written");
        let task = Retention {
            name: "log-retention",
            description: "",
            history: History::Logs,
            store: store.clone(),
            clock,
            keep: Duration::from_secs(3_600),
            rows_per_instance: 3,
            bytes: None,
        };
        let report = task.run().await.expect("SQLite deletes");
        let expected = json!({ "expired_rows": 12_000, "orphaned_rows": 6_000, "trimmed_rows": 0 });
        assert_eq!(report, expected);
        let page = LogQuery {
            limit: 1,
            ..LogQuery::default()
        };
        assert_eq!(store.logs_page(99, page).await, Ok(Vec::new()));
        let again = task.run().await.expect("deleting again is harmless");
        assert_eq!(again["expired_rows"], 0);
        store.close().await;
    }
}
