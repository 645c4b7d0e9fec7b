//! What a count of lines says when its daemon is killed at any point between pipe, store and spool.

use std::{fs::File, sync::Arc, time::Duration};

use super::{
    LineCount, LogPipeline, LogStore, LogStream,
    fake_store::{FakeStore, config, source},
    former::Former,
    gap::{Gap, Gaps, Loss},
    tally::{Tally, Way},
};
use crate::{config::LogsConfig, domain::id::Generation, secrets::redaction::Redactions};

const GENERATION: Generation = Generation(3);

fn tally() -> (Tally, File) {
    let file = tempfile::tempfile().expect("a file");
    let copy = file.try_clone().expect("a descriptor");
    (
        Tally::begin(file, 99, &Gaps::new()).expect("it is writable"),
        copy,
    )
}

fn former(file: &File) -> Former {
    let former = Former::read(file).expect("it is readable");
    former.expect("somebody began it")
}

/// What is lost of each instance.
fn lost(file: &File, stored: i64, spooled: i64) -> Vec<(i64, u64)> {
    let lost = former(file).lost(stored, spooled);
    lost.into_iter()
        .map(|((key, _), gap)| (key, gap.lines))
        .collect()
}

/// Lines of instances, in order.
fn lines(of: &[(i64, usize)]) -> Vec<(i64, u64)> {
    let each = of.iter().map(|(key, lines)| vec![(*key, 1); *lines]);
    each.flatten().collect()
}

#[test]
fn what_entered_and_did_not_arrive_is_lost() {
    let (tally, file) = tally();
    assert_eq!(lost(&file, 0, 0), []);
    tally.enter(7, GENERATION, 1_000, 10);
    tally.enter(8, GENERATION, 2_000, 5);
    assert_eq!(lost(&file, 0, 0), [(7, 10), (8, 5)]);
    tally.settle(Way::Store, lines(&[(7, 4)]).into_iter());
    tally.settle(Way::Spool, lines(&[(7, 3), (8, 5)]).into_iter());
    assert_eq!(lost(&file, 0, 0), [(7, 3)]);
    let gap = former(&file).lost(0, 0)[&(7, Loss::Killed)];
    assert_eq!((gap.generation, gap.since), (GENERATION, 1_000));
    tally.enter(7, GENERATION, 3_000, -3);
    assert_eq!(lost(&file, 0, 0), []);
    tally.enter(9, GENERATION, 3_000, 1);
    tally.forget(8);
    tally.forget(9);
    tally.enter(10, GENERATION, 3_000, 2);
    assert_eq!(lost(&file, 0, 0), [(10, 2)]);
}

#[test]
fn what_was_on_its_way_counts_as_far_as_it_arrived() {
    let (tally, file) = tally();
    tally.enter(7, GENERATION, 1_000, 10);
    tally.enter(8, GENERATION, 1_000, 10);
    tally.settle(Way::Store, lines(&[(7, 2)]).into_iter());
    // Rows 51 to 59; the first tells of four lost lines.
    let gap = [(8, 4)].into_iter();
    let rows = lines(&[(7, 3), (8, 3), (7, 2)]);
    tally.sets_out(Way::Store, 51, gap.chain(rows.iter().copied()));
    assert_eq!(former(&file).last_sent(), Some(59));
    assert_eq!(
        lost(&file, 0, 0),
        [(7, 8), (8, 10)],
        "nothing was committed"
    );
    assert_eq!(lost(&file, 50, 0), [(7, 8), (8, 10)]);
    assert_eq!(lost(&file, 51, 0), [(7, 8), (8, 6)]);
    assert_eq!(lost(&file, 55, 0), [(7, 5), (8, 5)]);
    assert_eq!(lost(&file, 59, 0), [(7, 3), (8, 3)], "all of it was");
    // Killed between the count and the word that nothing is on its way: counted once.
    let arrived = [(8, 4)].into_iter().chain(rows);
    tally.settle(Way::Store, arrived);
    assert_eq!(lost(&file, 59, 0), [(7, 3), (8, 3)]);
    tally.arrived(Way::Store);
    assert_eq!(former(&file).last_sent(), None);
    assert_eq!(lost(&file, 0, 0), [(7, 3), (8, 3)]);
}

#[test]
fn what_steps_aside_into_the_spool_counts_there_and_once() {
    let (tally, file) = tally();
    tally.enter(7, GENERATION, 1_000, 10);
    let rows = lines(&[(7, 10)]);
    tally.sets_out(Way::Store, 1, rows.iter().copied());
    tally.sets_out(Way::Spool, 1, rows.iter().copied());
    assert_eq!(lost(&file, 0, 4), [(7, 6)], "killed within the fifth row");
    assert_eq!(lost(&file, 10, 4), [], "and the store had all of them");
    // The spool took six; the rest is on its way still.
    tally.sets_out(Way::Store, 7, rows[6..].iter().copied());
    assert_eq!(lost(&file, 0, 6), [(7, 4)]);
    assert_eq!(lost(&file, 10, 6), []);
    tally.settle(Way::Spool, rows[..6].iter().copied());
    assert_eq!(lost(&file, 10, 6), []);
    tally.arrived(Way::Spool);
    assert_eq!(lost(&file, 0, 0), [(7, 4)]);
    assert_eq!(lost(&file, 10, 0), []);
}

#[test]
fn a_file_that_nobody_began_and_a_torn_way_say_nothing() {
    use std::os::unix::fs::FileExt;
    let empty = tempfile::tempfile().expect("a file");
    assert_eq!(Former::read(&empty).expect("readable"), None);
    let (tally, file) = tally();
    tally.enter(7, GENERATION, 1_000, 3);
    tally.sets_out(Way::Store, 1, lines(&[(7, 3)]).into_iter());
    let place = Way::Store.at() + 60;
    file.write_all_at(&[0xff], place).expect("writable");
    assert_eq!(former(&file).last_sent(), None);
    assert_eq!(lost(&file, 3, 0), [(7, 3)]);
}

#[test]
fn what_is_lost_already_begins_the_next_count() {
    let gap = Gap {
        generation: GENERATION,
        since: 1_000,
        lines: 12,
    };
    let file = tempfile::tempfile().expect("a file");
    let copy = file.try_clone().expect("a descriptor");
    let told = Gaps::from([((7, Loss::Killed), gap)]);
    Tally::begin(file, 100, &told).expect("writable");
    assert_eq!(former(&copy).lost(0, 0), told);
}

/// A pipeline that goes on in the count of the one before, as after a kill.
async fn next(
    store: &Arc<FakeStore>,
    config: &LogsConfig,
    former: Option<File>,
) -> (LogPipeline, File) {
    let own = tempfile::tempfile().expect("a file");
    let file = own.try_clone().expect("a descriptor");
    let store: Arc<dyn LogStore> = Arc::<FakeStore>::clone(store);
    let count = LineCount { former, own };
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
    assert_eq!(former(&file).lost(0, 0), Gaps::new(), "it was told");
    killed.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn what_a_former_daemon_lost_is_in_the_next_count_before_it_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let lost = tempfile::tempfile().expect("a file");
    let former = lost.try_clone().expect("a descriptor");
    let tally = Tally::begin(lost, 99, &Gaps::new()).expect("writable");
    tally.enter(7, GENERATION, 1_000, 4);
    let store = FakeStore::new();
    let own = tempfile::tempfile().expect("a file");
    let count = LineCount {
        former: Some(former),
        own: own.try_clone().expect("a descriptor"),
    };
    let as_store: Arc<dyn LogStore> = Arc::<FakeStore>::clone(&store);
    let idle = LogPipeline::open(&config(dir.path()), as_store, Some(count)).await;
    let idle = idle.expect("the spool folder is usable");
    assert_eq!(self::lost(&own, 0, 0), [(7, 4)], "a kill tells it again");
    assert_eq!(store.inserts(), 0, "nothing is told before its start");
    idle.start().close(Duration::from_secs(5)).await;
    assert_eq!(self::lost(&own, 0, 0), [], "told");
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
