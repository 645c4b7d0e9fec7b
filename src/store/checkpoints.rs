//! Takes the write-ahead log of SQLite over into the database while others go on writing.
//!
//! SQLite does it within a commit once the log has a thousand pages: whoever commits then waits for some thousand writes and
//! two flushes, and so does everybody behind it in the queue of the one writer. Here a connection of its own does the same
//! (`SQLITE_CHECKPOINT_PASSIVE`: it waits for nobody, and nobody for it), so that the writer seldom has to.
//! <https://www.sqlite.org/wal.html>, section 3 on what a checkpoint costs and whom.

use std::{sync::Arc, time::Duration};

use sqlx::{
    ConnectOptions as _, Connection as _, Row as _,
    sqlite::{SqliteConnectOptions, SqliteRow},
};
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Pages of the log at which the writer does it after all: when more is written than is taken over beside it.
pub(super) const WRITER_PAGES: &str = "4000";
/// So many uses of the writer: most write a few pages, a batch of log lines up to a thousand.
const USES: u64 = 50;
/// Between two looks at that while there are writes.
const PAUSE: Duration = Duration::from_secs(1);

/// Counts the uses of the writer. The task ends when the last of these is gone.
#[derive(Clone)]
pub(super) struct Uses(Arc<watch::Sender<u64>>);

impl Uses {
    /// One more.
    pub(super) fn add(&self) {
        self.0.send_modify(|uses| *uses += 1);
    }
}

/// The task.
#[derive(Clone)]
pub(super) struct Checkpoints {
    end: CancellationToken,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Checkpoints {
    /// Begins for the database that these options open.
    pub(super) fn begin(options: SqliteConnectOptions) -> (Self, Uses) {
        let (uses, seen) = watch::channel(0);
        let end = CancellationToken::new();
        let task = tokio::spawn(follow(options, seen, end.clone()));
        let checkpoints = Self {
            end,
            task: Arc::new(Mutex::new(Some(task))),
        };
        (checkpoints, Uses(Arc::new(uses)))
    }

    /// Ends it, once a checkpoint that was begun is done: whoever closes the database last takes over the rest of the log and
    /// removes it, which should be the writer.
    pub(super) async fn end(&self) {
        self.end.cancel();
        if let Some(task) = self.task.lock().await.take() {
            // A panic in there was told by its hook.
            let _ = task.await;
        }
    }
}

async fn follow(
    options: SqliteConnectOptions,
    mut uses: watch::Receiver<u64>,
    end: CancellationToken,
) {
    let (mut done, mut is_told) = (0, false);
    let mut more = async || {
        uses.changed().await.ok()?;
        tokio::time::sleep(PAUSE).await;
        Some(*uses.borrow_and_update())
    };
    while let Some(Some(now)) = end.run_until_cancelled(more()).await {
        if now.saturating_sub(done) < USES {
            continue;
        }
        match take_over(&options).await {
            Ok(()) => (done, is_told) = (now, false),
            // The writer does it later, and says what is wrong to who writes.
            Err(error) if !is_told => {
                is_told = true;
                tracing::warn!(%error, "the write-ahead log could not be taken over beside the writer");
            }
            Err(_) => {}
        }
    }
}

/// As much as can be without waiting for anybody.
async fn take_over(options: &SqliteConnectOptions) -> Result<(), sqlx::Error> {
    // Seldom enough that it need not stay open, with a thread and memory of its own.
    let mut connection = options.connect().await?;
    let outcome = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)")
        .fetch_one(&mut connection)
        .await;
    let outcome = outcome.map(|row: SqliteRow| {
        let [log_pages, taken_pages] = [1, 2].map(|column| row.get::<i64, _>(column));
        tracing::debug!(log_pages, taken_pages, "the write-ahead log was taken over");
    });
    // Whether the goodbye is heard does not matter.
    let _ = connection.close().await;
    outcome
}
