//! Tests of captured pipes.

use std::{io::Write, os::fd::OwnedFd, sync::Arc, time::Duration};

use zeroize::Zeroizing;

use super::{
    Capture, LAST_LINES_BYTES_MAX, LAST_LINES_MAX, LogPipeline, LogStream,
    fake_store::{FakeStore, config, source},
};
use crate::{config::LogsConfig, secrets::redaction::Redactions};

async fn start(store: &Arc<FakeStore>, config: &LogsConfig) -> LogPipeline {
    let store: Arc<dyn super::LogStore> = Arc::<FakeStore>::clone(store);
    LogPipeline::start(config, store)
        .await
        .expect("the spool folder is usable")
}

fn capture(pipeline: &LogPipeline, secret: &str) -> (std::io::PipeWriter, Capture) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let redactions = Redactions::new([("TOKEN", Zeroizing::new(secret.to_owned()))]);
    let pipe = OwnedFd::from(reader);
    let capture = pipeline
        .logs()
        .capture(source(), LogStream::Stderr, pipe, Arc::new(redactions))
        .expect("a pipe can be captured");
    (writer, capture)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_kept_whole_and_in_order() {
    const LINES: usize = 200_000;
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new();
    let config = LogsConfig {
        queue_bytes: 1 << 20,
        ..config(dir.path())
    };
    let pipeline = start(&store, &config).await;
    let (mut writer, capture) = capture(&pipeline, "");
    let child = std::thread::spawn(move || {
        let mut buffer = Vec::new();
        for line in 0..LINES {
            writeln!(buffer, "line {line} of a flood").expect("memory");
            if buffer.len() > 5_000 {
                writer.write_all(&buffer).expect("the pipe is read");
                buffer.clear();
            }
        }
        writer.write_all(&buffer).expect("the pipe is read");
    });
    assert!(capture.drained(Duration::from_secs(60)).await);
    child.join().expect("the child ends");
    pipeline.close(Duration::from_secs(60)).await;
    let mut lines = store.lines();
    if lines.len() < LINES {
        // What the closing left in the spool comes with the next start.
        let pipeline = start(&store, &config).await;
        store.until(|rows| rows.len() >= LINES).await;
        pipeline.close(Duration::from_secs(60)).await;
        lines = store.lines();
    }
    assert_eq!(lines.len(), LINES);
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("line {number} of a flood"));
    }
}

#[tokio::test]
async fn a_secret_is_nowhere_however_it_arrives() {
    let secret = "s3cr3t-value-0123456789";
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new();
    store.set_away(true);
    let config = LogsConfig {
        line_limit_bytes: 64,
        ..config(dir.path())
    };
    let pipeline = start(&store, &config).await;
    let (mut writer, capture) = capture(&pipeline, secret);
    let text = format!(
        "{secret}\n{}{secret}{}\nlast {secret}",
        "x".repeat(50),
        "y".repeat(50)
    );
    for part in text.as_bytes().chunks(5) {
        writer.write_all(part).expect("the pipe is read");
        tokio::task::yield_now().await;
    }
    drop(writer);
    assert!(capture.drained(Duration::from_secs(20)).await);
    let last = capture.last_lines().join("\n");
    pipeline.close(Duration::from_secs(5)).await;
    let mut shown = last;
    for entry in std::fs::read_dir(dir.path()).expect("a folder") {
        let bytes = std::fs::read(entry.expect("an entry").path()).expect("readable");
        shown.push_str(&String::from_utf8_lossy(&bytes));
    }
    assert!(shown.contains("last [redacted:TOKEN]"), "{shown}");
    for piece in ["s3cr3t", "value-0", "3456789"] {
        assert!(!shown.contains(piece), "{shown}");
    }
}

#[tokio::test]
async fn the_last_lines_are_few_and_short() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new();
    let pipeline = start(&store, &config(dir.path())).await;
    let (mut writer, capture) = capture(&pipeline, "");
    for line in 0..100 {
        writeln!(writer, "{line}").expect("the pipe is read");
    }
    writer
        .write_all("é".repeat(10_000).as_bytes())
        .expect("the pipe is read");
    drop(writer);
    assert!(capture.drained(Duration::from_secs(20)).await);
    let lines = capture.last_lines();
    assert_eq!(lines.len(), LAST_LINES_MAX);
    assert_eq!(lines[0], "81");
    assert!(lines.iter().map(String::len).sum::<usize>() <= LAST_LINES_BYTES_MAX);
    pipeline.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn closing_leaves_unread_bytes_to_the_next_daemon() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new();
    let pipeline = start(&store, &config(dir.path())).await;
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let kept = reader.try_clone().expect("a duplicate");
    let none = Arc::new(Redactions::default());
    let captured = pipeline
        .logs()
        .capture(source(), LogStream::Stdout, reader.into(), none);
    let captured = captured.expect("a pipe can be captured");
    writer.write_all(b"first\n").expect("the pipe is read");
    store.until(|rows| rows.len() == 1).await;
    pipeline.close(Duration::from_secs(5)).await;
    assert!(captured.drained(Duration::from_secs(1)).await);
    writer.write_all(b"second\n").expect("the pipe is open");
    drop(writer);
    let pipeline = start(&store, &config(dir.path())).await;
    let none = Arc::new(Redactions::default());
    let captured = pipeline
        .logs()
        .capture(source(), LogStream::Stdout, kept.into(), none);
    let captured = captured.expect("a pipe can be captured");
    assert!(captured.drained(Duration::from_secs(20)).await);
    assert!(
        captured.last_lines().is_empty(),
        "only stderr is remembered"
    );
    pipeline.close(Duration::from_secs(5)).await;
    assert_eq!(store.lines(), ["first", "second"]);
}
