//! Tests of one instance that floods beside others that do not.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    LogPipeline, LogStream, Logs,
    fake_store::{FakeStore, config, record, source},
    queue::Queue,
    record::{LogRecord, LogSource},
};
use crate::{config::LogsConfig, domain::access::RateLimit, secrets::redaction::Redactions};

const FLOOD: i64 = 1;
const QUIET: i64 = 2;

fn of(key: i64, line: usize) -> LogRecord {
    LogRecord {
        instance_key: key,
        ..record(&format!("line {line}"))
    }
}

fn note(logs: &Logs, key: i64, lines: std::ops::Range<usize>) {
    let source = LogSource { key, ..source() };
    for line in lines {
        let line = format!("line {line}");
        let (stream, hidden) = (LogStream::Stderr, Redactions::default());
        logs.note(source, stream, line.as_bytes(), &hidden);
    }
}

fn rate(text: &str) -> Option<RateLimit> {
    Some(text.parse().expect("a rate"))
}

#[test]
fn a_quiet_lane_has_its_turn_while_another_is_long() {
    let queue = Queue::new(64 << 20, None, None);
    queue.push((0..50_000).map(|line| of(FLOOD, line)));
    queue.push((0..10).map(|line| of(QUIET, line)));
    let first = queue.take(5_000, 4 << 20);
    assert_eq!(first.len(), 5_000);
    let quiet: Vec<_> = first
        .iter()
        .filter(|row| row.instance_key == QUIET)
        .collect();
    assert_eq!(quiet.len(), 10, "all that was quiet is in the first batch");
    // What is taken of each is in order, nothing twice, nothing missing.
    let mut next: BTreeMap<i64, usize> = BTreeMap::new();
    let mut rest = first;
    loop {
        for row in &rest {
            let expected = next.entry(row.instance_key).or_default();
            assert_eq!(row.line, format!("line {expected}"));
            *expected += 1;
        }
        rest = queue.take(5_000, 4 << 20);
        if rest.is_empty() {
            break;
        }
    }
    assert_eq!(next, BTreeMap::from([(FLOOD, 50_000), (QUIET, 10)]));
    let fill = queue.fill();
    assert_eq!((fill.rows, fill.bytes), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_is_long_waits_and_one_that_is_empty_does_not() {
    let queue = Queue::new(100 << 10, None, None);
    let mut lines = 0;
    while tokio::time::timeout(Duration::from_secs(1), queue.room(FLOOD))
        .await
        .is_ok()
    {
        queue.push([of(FLOOD, lines)]);
        lines += 1;
    }
    assert!(queue.fill().bytes < 90 << 10, "{:?}", queue.fill());
    tokio::time::timeout(Duration::from_secs(1), queue.room(QUIET))
        .await
        .expect("there is room for who is quiet");
    queue.take(lines, usize::MAX);
    queue.room(FLOOD).await;
}

#[tokio::test]
async fn a_flood_that_fills_the_spool_leaves_room_for_others() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new();
    store.set_away(true);
    let config = LogsConfig {
        spool_bytes: 64 << 10,
        batch_rows: 100,
        ..config(dir.path())
    };
    let as_store: Arc<dyn super::LogStore> = Arc::<FakeStore>::clone(&store);
    let pipeline = LogPipeline::start(&config, as_store)
        .await
        .expect("a spool");
    let logs = pipeline.logs();
    let all_placed = |noted: u64| {
        let logs = logs.clone();
        async move {
            let placed = async {
                loop {
                    let counters = logs.counters();
                    if counters.spooled + counters.dropped == noted {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let waited = tokio::time::timeout(Duration::from_secs(60), placed).await;
            assert!(waited.is_ok(), "{:?}", logs.counters());
        }
    };
    note(&logs, FLOOD, 0..5_000);
    all_placed(5_000).await;
    let lost = logs.counters().dropped;
    assert!(lost > 0 && lost == logs.counters().dropped_over_share);
    note(&logs, QUIET, 0..100);
    all_placed(5_100).await;
    assert_eq!(logs.counters().dropped, lost, "no line of the quiet one");
    store.set_away(false);
    let told = |rows: &[super::StoredLog]| {
        let tells = |row: &super::StoredLog| row.record.stream == LogStream::System;
        let of_quiet = rows.iter().filter(|row| row.record.instance_key == QUIET);
        of_quiet.count() == 100 && rows.iter().any(tells)
    };
    tokio::time::timeout(Duration::from_secs(60), store.until(told))
        .await
        .expect("everything arrives");
    let rows = store.rows();
    let lines: u64 = rows
        .iter()
        .filter(|row| row.record.stream == LogStream::System)
        .map(|row| lost_lines(&row.record.line))
        .sum();
    assert_eq!(lines, lost, "every lost line is counted in the log");
    pipeline.close(Duration::from_secs(5)).await;
}

/// The count of a gap row.
fn lost_lines(text: &str) -> u64 {
    let (count, rest) = text.split_once(' ').expect("a count");
    assert!(rest.contains("lost: "), "{text}");
    count.parse().expect("a number")
}

#[tokio::test(start_paused = true)]
async fn what_is_over_the_rate_is_counted_in_a_row_of_its_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new();
    let config = LogsConfig {
        rate_limit_per_instance: rate("100/10s"),
        ..config(dir.path())
    };
    let as_store: Arc<dyn super::LogStore> = Arc::<FakeStore>::clone(&store);
    let pipeline = LogPipeline::start(&config, as_store)
        .await
        .expect("a spool");
    let logs = pipeline.logs();
    note(&logs, FLOOD, 0..1_000);
    note(&logs, QUIET, 0..50);
    // The words of the daemon are not held back.
    let source = LogSource {
        key: FLOOD,
        ..source()
    };
    logs.note(source, LogStream::System, b"a word", &Redactions::default());
    let gap = |rows: &[super::StoredLog]| rows.iter().any(|row| row.record.line.contains("lost"));
    store.until(gap).await;
    let texts = |key: i64| -> Vec<String> {
        let rows = store.rows().into_iter();
        let own = rows.filter(|row| row.record.instance_key == key);
        own.map(|row| row.record.line).collect()
    };
    let flood = texts(FLOOD);
    assert_eq!(flood.len(), 102, "{:?}", flood.last());
    assert_eq!(flood[99], "line 99");
    assert_eq!(flood[100], "a word");
    assert_eq!(
        flood[101],
        "900 lines lost: this instance wrote more than logs.rate_limit_per_instance lets through"
    );
    assert_eq!(texts(QUIET).len(), 50);
    let counters = logs.counters();
    assert_eq!((counters.dropped, counters.dropped_over_rate), (900, 900));
    // A tenth of the time later a tenth of it may be written again.
    tokio::time::sleep(Duration::from_secs(10)).await;
    note(&logs, FLOOD, 0..100);
    store
        .until(|rows| {
            rows.iter()
                .filter(|row| row.record.instance_key == FLOOD)
                .count()
                == 202
        })
        .await;
    assert_eq!(logs.counters().dropped, 900);
    // What is lost at the very end is told at the end.
    note(&logs, FLOOD, 0..7);
    pipeline.close(Duration::from_secs(5)).await;
    let last = texts(FLOOD).pop().expect("there are rows");
    assert!(last.starts_with("7 lines lost"), "{last}");
}
