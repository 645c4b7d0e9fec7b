//! Tests of the writer: batches, a store that goes away, a full spool, restarts.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    LogPipeline, LogStream, Logs,
    fake_store::{FakeStore, config, source},
};
use crate::{
    config::LogsConfig,
    domain::duration::HumanDuration,
    secrets::redaction::Redactions,
    store::{LogQuery, Store},
};

async fn start(store: &Arc<FakeStore>, config: &LogsConfig) -> LogPipeline {
    let store: Arc<dyn super::LogStore> = Arc::<FakeStore>::clone(store);
    LogPipeline::start(config, store)
        .await
        .expect("the spool folder is usable")
}

fn note(logs: &Logs, lines: std::ops::Range<usize>) {
    for line in lines {
        let line = format!("line {line}");
        logs.note(
            source(),
            LogStream::Stderr,
            line.as_bytes(),
            &Redactions::default(),
        );
    }
}

fn numbered(lines: std::ops::Range<usize>) -> Vec<String> {
    lines.map(|line| format!("line {line}")).collect()
}

/// Waits until the counters are so; a test that waits in vain is ended by this.
async fn until(logs: &Logs, enough: impl Fn(super::LogCounters) -> bool) {
    let waiting = async {
        while !enough(logs.counters()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "{:?}", logs.counters());
}

#[tokio::test(start_paused = true)]
async fn a_batch_goes_when_it_is_full_or_when_its_time_has_come() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new();
    let config = LogsConfig {
        batch_rows: 10,
        batch_delay: HumanDuration::from_secs(3_600),
        ..config(dir.path())
    };
    let pipeline = start(&store, &config).await;
    let logs = pipeline.logs();
    let began = tokio::time::Instant::now();
    note(&logs, 0..5);
    tokio::time::sleep_until(began + Duration::from_secs(3_599)).await;
    assert_eq!(store.inserts(), 0, "a few wait for their time");
    tokio::time::sleep(Duration::from_secs(2)).await;
    until(&logs, |counters| counters.stored == 5).await;
    assert_eq!(store.inserts(), 1);
    let began = tokio::time::Instant::now();
    note(&logs, 5..30);
    until(&logs, |counters| counters.stored == 30).await;
    assert_eq!(
        store.inserts(),
        4,
        "one transaction for each full batch, and what waited for them goes behind"
    );
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!(store.lines(), numbered(0..30));
    assert_eq!(logs.lines_of(source().key), 30);
    pipeline.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_store_that_goes_away_and_comes_back_loses_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new();
    let pipeline = start(&store, &config(dir.path())).await;
    let logs = pipeline.logs();
    note(&logs, 0..100);
    until(&logs, |counters| counters.stored == 100).await;
    store.set_away(true);
    for part in 1..10 {
        note(&logs, part * 100..(part + 1) * 100);
        until(&logs, |counters| counters.spooled == part as u64 * 100).await;
    }
    assert!(!logs.counters().store_available);
    assert!(logs.counters().spool_bytes > 0);
    store.set_away(false);
    until(&logs, |counters| counters.stored == 1_000).await;
    note(&logs, 1_000..1_100);
    until(&logs, |counters| counters.stored == 1_100).await;
    assert_eq!(store.lines(), numbered(0..1_100));
    let counters = logs.counters();
    assert_eq!((counters.dropped, counters.spool_bytes), (0, 0));
    assert!(counters.store_available);
    pipeline.close(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn the_store_gets_its_next_batch_before_what_came_meanwhile_is_spooled() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::hanging();
    let config = LogsConfig {
        batch_rows: 10,
        ..config(dir.path())
    };
    let pipeline = start(&store, &config).await;
    let logs = pipeline.logs();
    note(&logs, 0..200);
    until(&logs, |counters| counters.spooled == 200).await;
    let (seen, watched) = (Arc::new(Mutex::new(Vec::new())), logs.clone());
    let by_watch = Arc::clone(&seen);
    store.watch_inserts(move || {
        let spooled = watched.counters().spooled;
        by_watch.lock().expect("nobody panicked").push(spooled);
    });
    note(&logs, 200..300);
    store.let_through(100);
    until(&logs, |counters| counters.stored == 300).await;
    assert_eq!(store.lines(), numbered(0..300));
    let first = seen.lock().expect("nobody panicked")[0];
    assert!(first < 300, "all of {first} was spooled first");
    pipeline.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn what_is_read_ahead_of_the_spool_is_stored_once_and_in_order() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::hanging();
    let config = LogsConfig {
        queue_bytes: 256 << 10,
        batch_rows: 500,
        ..config(dir.path())
    };
    let pipeline = start(&store, &config).await;
    let logs = pipeline.logs();
    for line in 0..20_000 {
        logs.room(source().key).await;
        note(&logs, line..line + 1);
    }
    until(&logs, |counters| counters.queue_bytes == 0).await;
    // The first arrives, of the second the answer is lost, and the store is away for those behind it.
    store.let_through(1);
    until(&logs, |counters| counters.stored > 0).await;
    store.set_forgetful(true);
    store.let_through(1);
    until(&logs, |counters| !counters.store_available).await;
    store.set_forgetful(false);
    store.set_away(true);
    store.let_through(1);
    until(&logs, |_| store.inserts() >= 4).await;
    store.set_away(false);
    store.let_through(10_000);
    until(&logs, |counters| counters.stored == 20_000).await;
    assert_eq!(store.lines(), numbered(0..20_000), "in order, each once");
    assert_eq!(logs.counters().spool_bytes, 0);
    pipeline.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_store_that_hangs_holds_up_nobody() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::hanging();
    let config = LogsConfig {
        queue_bytes: 8 << 10,
        batch_rows: 10,
        ..config(dir.path())
    };
    let pipeline = start(&store, &config).await;
    let logs = pipeline.logs();
    for line in 0..2_000 {
        let room = tokio::time::timeout(Duration::from_secs(20), logs.room(source().key)).await;
        room.expect("the spool makes room while the store hangs");
        note(&logs, line..line + 1);
    }
    until(&logs, |counters| counters.queue_bytes == 0).await;
    assert_eq!(store.inserts(), 1);
    assert_eq!(logs.counters().dropped, 0);
    store.let_through(10_000);
    until(&logs, |counters| counters.stored == 2_000).await;
    assert_eq!(store.lines(), numbered(0..2_000), "in order, each once");
    pipeline.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_full_spool_drops_the_newest_and_tells_how_many() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new();
    store.set_away(true);
    let config = LogsConfig {
        spool_bytes: 4_000,
        ..config(dir.path())
    };
    let pipeline = start(&store, &config).await;
    let logs = pipeline.logs();
    note(&logs, 0..500);
    until(&logs, |counters| counters.spooled + counters.dropped == 500).await;
    let kept = usize::try_from(logs.counters().spooled).expect("small");
    let lost = 500 - kept;
    assert!(kept > 50 && lost > 100, "{kept} kept");
    store.set_away(false);
    store.until(|rows| rows.len() > kept).await;
    note(&logs, 500..510);
    store.until(|rows| rows.len() == kept + 11).await;
    let mut expected = numbered(0..kept);
    expected.push(format!(
        "{lost} lines lost: neither the log store nor the spool could take them"
    ));
    expected.extend(numbered(500..510));
    assert_eq!(store.lines(), expected);
    assert_eq!(store.rows()[kept].record.stream, LogStream::System);
    assert_eq!(logs.counters().dropped, lost as u64);
    pipeline.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_new_daemon_writes_what_the_old_one_left() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new();
    store.set_away(true);
    let pipeline = start(&store, &config(dir.path())).await;
    note(&pipeline.logs(), 0..300);
    let closed = pipeline.close(Duration::from_secs(5)).await;
    assert!(closed.spool_bytes > 0);
    assert_eq!((closed.dropped, store.lines().len()), (0, 0));
    store.set_away(false);
    let pipeline = start(&store, &config(dir.path())).await;
    note(&pipeline.logs(), 300..310);
    store.until(|rows| rows.len() == 310).await;
    assert_eq!(store.lines(), numbered(0..310));
    let closed = pipeline.close(Duration::from_secs(5)).await;
    assert_eq!(closed.spool_bytes, 0);
}

/// Copies a spool as a `serve` leaves it that is killed.
fn copy_spool(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

#[tokio::test]
async fn lines_that_were_stored_and_are_still_in_the_spool_are_not_stored_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let database = crate::config::DatabaseConfig {
        url: format!("sqlite:{}", dir.path().join("test.db").display()),
        ..crate::config::DatabaseConfig::default()
    };
    let (spool, killed) = (dir.path().join("spool"), dir.path().join("killed"));
    let away = FakeStore::new();
    away.set_away(true);
    let pipeline = start(&away, &config(&spool)).await;
    note(&pipeline.logs(), 0..300);
    pipeline.close(Duration::from_secs(5)).await;
    copy_spool(&spool, &killed);

    let store = Store::connect(&database).await.expect("SQLite opens");
    let at = |folder: &std::path::Path| {
        let (config, store) = (config(folder), Arc::new(store.clone()));
        async move { LogPipeline::start(&config, store).await.expect("a spool") }
    };
    // Everything is committed; then the same spool again, whose place was not moved, and more behind.
    let pipeline = at(&spool).await;
    until(&pipeline.logs(), |counters| counters.stored == 300).await;
    pipeline.close(Duration::from_secs(20)).await;
    let pipeline = at(&killed).await;
    note(&pipeline.logs(), 300..310);
    until(&pipeline.logs(), |counters| counters.stored == 310).await;
    let closed = pipeline.close(Duration::from_secs(20)).await;
    assert_eq!((closed.spool_bytes, closed.dropped), (0, 0));
    let query = LogQuery {
        limit: 10_000,
        ..LogQuery::default()
    };
    let page = store.logs_page(source().key, query).await.expect("read");
    let lines: Vec<String> = page.into_iter().map(|entry| entry.line).collect();
    assert_eq!(lines, numbered(0..310));
    store.close().await;
}

#[tokio::test]
async fn a_batch_whose_answer_got_lost_is_stored_once_and_followed_without_a_gap() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new();
    let pipeline = start(&store, &config(dir.path())).await;
    let logs = pipeline.logs();
    let (start, filter) = (super::TailStart::After(0), super::TailFilter::default());
    let mut tail = logs.follow(source().key, start, filter);
    note(&logs, 0..10);
    let mut followed = Vec::new();
    while followed.len() < 10 {
        let rows = tail.next().await.expect("the store answers").expect("open");
        followed.extend(rows.into_iter().map(|row| row.record.line));
    }
    // From here on it follows live.
    store.set_forgetful(true);
    note(&logs, 10..110);
    until(&logs, |counters| counters.spooled == 100).await;
    assert_eq!(store.lines(), numbered(0..110), "they were written");
    store.set_forgetful(false);
    note(&logs, 110..120);
    while followed.len() < 120 {
        let rows = tail.next().await.expect("the store answers").expect("open");
        followed.extend(rows.into_iter().map(|row| row.record.line));
    }
    assert_eq!(followed, numbered(0..120));
    assert_eq!(store.lines(), numbered(0..120));
    assert_eq!(logs.counters().dropped, 0);
    pipeline.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn closing_writes_what_is_queued_and_gives_a_hanging_store_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let slow = LogsConfig {
        batch_delay: HumanDuration::from_secs(3_600),
        ..config(dir.path())
    };
    let store = FakeStore::new();
    let pipeline = start(&store, &slow).await;
    note(&pipeline.logs(), 0..100);
    pipeline.close(Duration::from_secs(20)).await;
    assert_eq!(store.lines(), numbered(0..100));

    let hanging = FakeStore::hanging();
    let pipeline = start(&hanging, &slow).await;
    note(&pipeline.logs(), 100..200);
    let began = std::time::Instant::now();
    let closed = pipeline.close(Duration::from_millis(600)).await;
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(closed.spool_bytes > 0 && closed.dropped == 0, "{closed:?}");
    let pipeline = start(&store, &slow).await;
    store.until(|rows| rows.len() == 200).await;
    assert_eq!(store.lines(), numbered(0..200));
    pipeline.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_row_that_the_store_refuses_holds_up_no_other() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::refusing("line 37");
    let pipeline = start(&store, &config(dir.path())).await;
    let logs = pipeline.logs();
    note(&logs, 0..100);
    until(&logs, |counters| counters.stored >= 99).await;
    store.until(|rows| rows.len() == 100).await;
    let mut expected = numbered(0..37);
    expected.extend(numbered(38..100));
    let lines = store.lines();
    assert_eq!(lines[..99], expected);
    assert!(lines[99].starts_with("1 line lost"), "{}", lines[99]);
    pipeline.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn lines_reach_a_real_database() {
    let dir = tempfile::tempdir().expect("a folder");
    let database = crate::config::DatabaseConfig {
        url: format!("sqlite:{}", dir.path().join("test.db").display()),
        ..crate::config::DatabaseConfig::default()
    };
    let store = Store::connect(&database).await.expect("SQLite opens");
    let spool = dir.path().join("spool");
    let pipeline = LogPipeline::start(&config(&spool), Arc::new(store.clone()))
        .await
        .expect("the spool folder is usable");
    let logs = pipeline.logs();
    let mut tail = logs.follow(
        source().key,
        super::TailStart::After(0),
        super::TailFilter::default(),
    );
    note(&logs, 0..3_000);
    let mut followed = Vec::new();
    while followed.len() < 3_000 {
        let rows = tail.next().await.expect("the store answers").expect("open");
        followed.extend(rows.into_iter().map(|row| row.record.line));
    }
    assert_eq!(followed, numbered(0..3_000));
    pipeline.close(Duration::from_secs(20)).await;
    let query = LogQuery {
        limit: 10_000,
        ..LogQuery::default()
    };
    let page = store
        .logs_page(source().key, query)
        .await
        .expect("SQLite answers");
    let lines: Vec<String> = page.into_iter().map(|entry| entry.line).collect();
    assert_eq!(lines, numbered(0..3_000));
    store.close().await;
}
