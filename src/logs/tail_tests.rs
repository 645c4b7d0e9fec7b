//! Tests of the seam between history and live.

use std::{sync::Arc, time::Duration};

use super::{
    LogPipeline, LogStream, Logs, StoredLog, TailFilter, TailStart,
    fake_store::{FakeStore, config, source},
};
use crate::{logs::Tail, secrets::redaction::Redactions};

async fn start(store: &Arc<FakeStore>, dir: &tempfile::TempDir) -> LogPipeline {
    let store: Arc<dyn super::LogStore> = Arc::<FakeStore>::clone(store);
    LogPipeline::start(&config(dir.path()), store)
        .await
        .expect("the spool folder is usable")
}

fn note(logs: &Logs, line: &str) {
    logs.note(
        source(),
        LogStream::Stderr,
        line.as_bytes(),
        &Redactions::default(),
    );
}

async fn read(tail: &mut Tail, count: usize) -> Vec<StoredLog> {
    let mut rows = Vec::new();
    while rows.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(20), tail.next()).await;
        let next = next
            .expect("lines come in time")
            .expect("the store answers");
        rows.extend(next.expect("the pipeline is open"));
    }
    rows
}

fn texts(rows: &[StoredLog]) -> Vec<&str> {
    rows.iter().map(|row| row.record.line.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_gap_and_no_double_while_others_write() {
    const LINES: usize = 6_000;
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new();
    let pipeline = start(&store, &dir).await;
    let logs = pipeline.logs();
    let writing = tokio::spawn(async move {
        for line in 0..LINES {
            note(&logs, &line.to_string());
            if line % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let logs = pipeline.logs();
    let mut followers = Vec::new();
    for pause_ms in [0, 3, 40, 90] {
        let logs = logs.clone();
        followers.push(tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            let mut tail = logs.follow(source().key, TailStart::After(0), TailFilter::default());
            let mut rows = Vec::new();
            while rows.len() < LINES {
                rows.extend(read(&mut tail, 1).await);
                // The slow ones fall behind their buffer.
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            }
            rows
        }));
    }
    writing.await.expect("the writer ends");
    let expected: Vec<String> = (0..LINES).map(|line| line.to_string()).collect();
    for follower in followers {
        let rows = follower.await.expect("the follower ends");
        assert_eq!(texts(&rows), expected);
        assert!(rows.windows(2).all(|pair| pair[0].id < pair[1].id));
    }
    pipeline.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn begins_where_it_is_told_and_ends_with_the_pipeline() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new();
    let pipeline = start(&store, &dir).await;
    let logs = pipeline.logs();
    for line in 0..10 {
        note(&logs, &format!("old {line}"));
    }
    store.until(|rows| rows.len() == 10).await;
    let follow = |start| logs.follow(source().key, start, TailFilter::default());
    let mut last = follow(TailStart::Last(2));
    let mut after = follow(TailStart::After(9));
    let mut live = follow(TailStart::Last(0));
    let mut other = logs.follow(99, TailStart::Last(5), TailFilter::default());
    assert_eq!(texts(&read(&mut last, 2).await), ["old 8", "old 9"]);
    assert_eq!(texts(&read(&mut after, 1).await), ["old 9"]);
    // Its place must be found before the new line comes.
    assert!(
        tokio::time::timeout(Duration::from_millis(20), live.next())
            .await
            .is_err()
    );
    note(&logs, "new");
    for tail in [&mut last, &mut after, &mut live] {
        assert_eq!(texts(&read(tail, 1).await), ["new"]);
    }
    pipeline.close(Duration::from_secs(5)).await;
    assert_eq!(last.next().await, Ok(None));
    assert_eq!(other.next().await, Ok(None));
}

#[tokio::test]
async fn shows_only_what_the_filter_lets_through() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new();
    let pipeline = start(&store, &dir).await;
    let logs = pipeline.logs();
    let filter = TailFilter {
        stream: Some(LogStream::Stderr),
        text: Some("ERROR".to_owned()),
    };
    let write = || {
        note(&logs, "all is well");
        note(&logs, "Error: no");
        logs.note(
            source(),
            LogStream::System,
            b"an error of ours",
            &Redactions::default(),
        );
    };
    write();
    store.until(|rows| rows.len() == 3).await;
    let mut tail = logs.follow(source().key, TailStart::Last(100), filter);
    assert_eq!(texts(&read(&mut tail, 1).await), ["Error: no"]);
    write();
    assert_eq!(texts(&read(&mut tail, 1).await), ["Error: no"]);
    pipeline.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn keeps_its_place_while_the_store_is_away() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new();
    let pipeline = start(&store, &dir).await;
    note(&pipeline.logs(), "one");
    store.until(|rows| rows.len() == 1).await;
    let mut tail = pipeline
        .logs()
        .follow(source().key, TailStart::After(0), TailFilter::default());
    store.set_away(true);
    assert!(tail.next().await.is_err());
    store.set_away(false);
    assert_eq!(texts(&read(&mut tail, 1).await), ["one"]);
    pipeline.close(Duration::from_secs(5)).await;
}
