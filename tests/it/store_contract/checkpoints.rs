//! What SQLite has in its write-ahead log goes into the database without the writer.

use std::{path::Path, process::Command, time::Duration};

use minimcp::{config::DatabaseConfig, store::Store};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

/// So many that it is done, and so few that SQLite would not do it by itself.
const WRITES: i64 = 300;

/// How many of them are in the file of the database alone; `None` while it is written.
async fn taken_over(database: &Path, copy: &Path) -> Option<i64> {
    // By another process: to close the file in this one would give up the locks that SQLite has on it (fcntl(2)).
    let copied = Command::new("cp").arg(database).arg(copy).status();
    assert!(copied.is_ok_and(|status| status.success()), "cp copies");
    let options = SqliteConnectOptions::new().filename(copy).immutable(true);
    let mut connection = options.connect().await.ok()?;
    let count = sqlx::query_scalar("SELECT count(*) FROM log_writers");
    let count = count.fetch_one(&mut connection).await.ok();
    connection.close().await.expect("it closes");
    count
}

#[tokio::test]
async fn the_write_ahead_log_is_taken_over_beside_the_writer() {
    let folder = tempfile::tempdir().expect("a folder");
    let (database, copy) = (folder.path().join("a.db"), folder.path().join("copy.db"));
    let config = DatabaseConfig {
        url: format!("sqlite:{}", database.display()),
        ..DatabaseConfig::default()
    };
    let store = Store::connect(&config).await.expect("a database");
    for writer in 0..WRITES {
        let written = store.close_log_writer(writer, Some(1), 5).await;
        written.expect("it is written");
    }
    let mut last = None;
    let enough = tokio::time::timeout(Duration::from_secs(60), async {
        while last.is_none_or(|count| count < WRITES / 2) {
            tokio::time::sleep(Duration::from_millis(50)).await; // poll
            last = taken_over(&database, &copy).await;
        }
    });
    assert!(
        enough.await.is_ok(),
        "{last:?} of {WRITES} are in the database itself"
    );
    store.close().await;
}
