//! What the pipeline tells of the lines that one before it lost when it was killed.

use std::{fs::File, sync::Arc, time::Duration};

use super::{
    LogPipeline, LogStore, LogStream,
    fake_store::{FakeStore, config, source},
};
use crate::{
    config::LogsConfig,
    domain::id::Generation,
    secrets::redaction::Redactions,
    tally::{CountFiles, Losses, Tally, lost_now},
};

const GENERATION: Generation = Generation(3);

/// A pipeline that goes on in the count of the one before, as after a kill.
async fn next(
    store: &Arc<FakeStore>,
    config: &LogsConfig,
    former: Option<File>,
) -> (LogPipeline, File) {
    let own = tempfile::tempfile().expect("a file");
    let file = own.try_clone().expect("a descriptor");
    let store: Arc<dyn LogStore> = Arc::<FakeStore>::clone(store);
    let count = CountFiles { former, own };
    let pipeline = LogPipeline::open(config, store, Some(count)).await;
    (pipeline.expect("the spool folder is usable").start(), file)
}

fn note(pipeline: &LogPipeline, lines: std::ops::Range<usize>) {
    for line in lines {
        let line = format!("line {line}");
        let redactions = Redactions::default();
        pipeline
            .logs()
            .note(source(), LogStream::Stderr, line.as_bytes(), &redactions);
    }
}

#[tokio::test]
async fn a_killed_pipeline_is_told_of_by_the_next_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = FakeStore::hanging();
    let config = LogsConfig {
        batch_rows: 10,
        ..config(dir.path())
    };
    let (killed, file) = next(&store, &config, None).await;
    note(&killed, 0..10);
    store.let_through(1);
    store.until(|rows| rows.len() == 10).await;
    // A batch hangs at the store, and nothing behind it makes it step aside.
    note(&killed, 10..20);
    while store.inserts() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await; // poll
    }
    // As the next daemon finds it.
    let frozen = copy_of(&file);
    store.let_through(1);
    let (pipeline, file) = next(&FakeStore::new(), &config, Some(frozen)).await;
    assert_eq!(pipeline.logs().counters().dropped_killed, 10);
    pipeline.close(Duration::from_secs(5)).await;
    assert_eq!(lost_now(&file), [], "it was told");
    killed.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn what_a_former_daemon_lost_is_in_the_next_count_before_it_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let killed = tempfile::tempfile().expect("a file");
    let former = killed.try_clone().expect("a descriptor");
    let tally = Tally::begin(killed, 99, &Losses::new()).expect("writable");
    tally.enter(7, GENERATION, 1_000, 4);
    let store = FakeStore::new();
    let own = tempfile::tempfile().expect("a file");
    let count = CountFiles {
        former: Some(former),
        own: own.try_clone().expect("a descriptor"),
    };
    let as_store: Arc<dyn LogStore> = Arc::<FakeStore>::clone(&store);
    let idle = LogPipeline::open(&config(dir.path()), as_store, Some(count)).await;
    let idle = idle.expect("the spool folder is usable");
    assert_eq!(lost_now(&own), [(7, 4)], "a kill tells it again");
    assert_eq!(store.inserts(), 0, "nothing is told before its start");
    idle.start().close(Duration::from_secs(5)).await;
    assert_eq!(lost_now(&own), [], "told");
    assert_eq!(store.inserts(), 1);
}

/// The file as it is now.
fn copy_of(file: &File) -> File {
    use std::{io, os::unix::fs::FileExt};
    let length = file.metadata().expect("metadata").len();
    let mut bytes = vec![0; usize::try_from(length).expect("small")];
    file.read_exact_at(&mut bytes, 0).expect("readable");
    let mut copy = tempfile::tempfile().expect("a file");
    io::copy(&mut bytes.as_slice(), &mut copy).expect("writable");
    copy
}
