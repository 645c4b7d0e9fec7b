//! Tests of the writer: a store that goes away, says nothing, refuses; a full spool; restarts.

use std::{fs::File, os::unix::fs::FileExt, path::Path, time::Duration};

use super::{
    CallCounters, CallPipeline, Calls,
    fake_store::{FakeStore, Mode},
};
use crate::{
    config::CallsConfig,
    domain::{
        call::{CallOutcome, CallRecord},
        id::{Generation, TokenName},
    },
    tally::{CountFiles, lost_now},
};

const PATIENCE: Duration = Duration::from_secs(5);

fn config(folder: &Path) -> CallsConfig {
    CallsConfig {
        spool_dir: folder.to_owned(),
        ..CallsConfig::default()
    }
}

async fn start(store: &FakeStore, config: &CallsConfig) -> CallPipeline {
    let idle = CallPipeline::open(config, store.clone(), None).await;
    idle.expect("the spool folder is usable").start()
}

fn call(tool: &str) -> CallRecord {
    CallRecord {
        instance_key: 7,
        generation: Generation(1),
        token: TokenName::first(),
        tool: tool.into(),
        stateless: false,
        started_at: 1,
        duration_us: 2,
        outcome: CallOutcome::RpcError(-32_602),
        request_bytes: 3,
        answer_bytes: 4,
        arguments: Some("{}".to_owned()),
    }
}

fn record(calls: &Calls, numbers: std::ops::Range<usize>) {
    for number in numbers {
        calls.record(call(&number.to_string()));
    }
}

fn numbered(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

/// Waits until the counters are so; a test that waits in vain is ended by this.
async fn until(calls: &Calls, enough: impl Fn(CallCounters) -> bool) {
    let waiting = async {
        while !enough(calls.counters()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(3_600), waiting).await;
    assert!(waited.is_ok(), "{:?}", calls.counters());
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_bridged_in_order_by_the_spool() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new(Mode::Open);
    let pipeline = start(&store, &config(folder.path())).await;
    let calls = pipeline.calls();
    record(&calls, 0..10);
    until(&calls, |counters| counters.stored == 10).await;
    store.set(Mode::Away);
    record(&calls, 10..3_000);
    until(&calls, |counters| counters.spooled == 2_990).await;
    assert!(calls.counters().spool_bytes > 0);
    store.set(Mode::Open);
    record(&calls, 3_000..3_010);
    until(&calls, |counters| counters.stored == 3_010).await;
    assert_eq!(store.tools(), numbered(0..3_010));
    let closed = pipeline.close(PATIENCE).await;
    assert_eq!((closed.spool_bytes, closed.dropped), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_restart_in_an_outage_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new(Mode::Away);
    let config = config(folder.path());
    for round in 0..3 {
        let pipeline = start(&store, &config).await;
        record(&pipeline.calls(), round * 100..(round + 1) * 100);
        let closed = pipeline.close(PATIENCE).await;
        assert!(closed.spool_bytes > 0, "{closed:?}");
        assert_eq!(closed.dropped, 0);
    }
    store.set(Mode::Open);
    let pipeline = start(&store, &config).await;
    record(&pipeline.calls(), 300..310);
    let closed = pipeline.close(PATIENCE).await;
    assert_eq!((closed.stored, closed.spool_bytes), (310, 0));
    assert_eq!(store.tools(), numbered(0..310));
}

#[tokio::test(start_paused = true)]
async fn what_was_committed_without_an_answer_is_stored_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new(Mode::Silent);
    let config = config(folder.path());
    let pipeline = start(&store, &config).await;
    let calls = pipeline.calls();
    record(&calls, 0..100);
    until(&calls, |counters| counters.spooled == 100).await;
    assert_eq!(store.tools(), numbered(0..100));
    // Also when another daemon finds it in the spool.
    let closed = pipeline.close(PATIENCE).await;
    assert!(closed.spool_bytes > 0);
    store.set(Mode::Open);
    let pipeline = start(&store, &config).await;
    record(&pipeline.calls(), 100..110);
    let closed = pipeline.close(PATIENCE).await;
    assert_eq!((closed.spool_bytes, closed.dropped), (0, 0));
    assert_eq!(store.tools(), numbered(0..110));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_says_nothing_holds_nothing_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new(Mode::Hanging);
    let config = CallsConfig {
        queue_rows: 50,
        ..config(folder.path())
    };
    let pipeline = start(&store, &config).await;
    let calls = pipeline.calls();
    for round in 0..10 {
        record(&calls, round * 40..(round + 1) * 40);
        // The first batch steps aside; all that come after it go behind it.
        let so_far = u64::try_from((round + 1) * 40).expect("few");
        until(&calls, |counters| counters.spooled == so_far).await;
    }
    store.set(Mode::Open);
    until(&calls, |counters| counters.stored == 400).await;
    assert_eq!(store.tools(), numbered(0..400));
    let closed = pipeline.close(PATIENCE).await;
    assert_eq!((closed.spool_bytes, closed.dropped), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn past_the_bounds_losses_are_counted_and_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FakeStore::new(Mode::Away);
    let config = CallsConfig {
        queue_rows: 30,
        spool_bytes: 2_000,
        ..config(folder.path())
    };
    let pipeline = start(&store, &config).await;
    let calls = pipeline.calls();
    // Past the queue, before the writer has a turn; then past the spool.
    record(&calls, 0..35);
    assert_eq!(calls.counters().dropped, 5);
    until(&calls, |counters| counters.dropped > 5).await;
    assert!(calls.counters().spool_bytes <= 2_000);
    store.set(Mode::Open);
    let told = |counters: CallCounters| {
        counters.spool_bytes == 0 && u64::try_from(store.lost()) == Ok(counters.dropped)
    };
    until(&calls, told).await;
    record(&calls, 35..40);
    let closed = pipeline.close(PATIENCE).await;
    let kept = store.tools();
    assert_eq!(store.lost(), 40 - i64::try_from(kept.len()).expect("few"));
    assert_eq!(i64::try_from(closed.dropped), Ok(store.lost()));
    assert!(kept.is_sorted_by_key(|tool| tool.parse::<u32>().expect("a number")));
    assert_eq!(kept[kept.len() - 5..], numbered(35..40));
}

#[tokio::test(start_paused = true)]
async fn a_refused_record_takes_no_other_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FakeStore::refusing("poison");
    let pipeline = start(&store, &config(folder.path())).await;
    let calls = pipeline.calls();
    record(&calls, 0..20);
    calls.record(call("poison"));
    record(&calls, 20..40);
    let closed = pipeline.close(PATIENCE).await;
    assert_eq!(store.tools(), numbered(0..40));
    assert_eq!((closed.dropped, store.lost()), (1, 1));
}

/// A pipeline that goes on in the count of the one before, as after a kill; its own count.
async fn next(
    store: &FakeStore,
    config: &CallsConfig,
    former: Option<File>,
) -> (CallPipeline, File) {
    let own = tempfile::tempfile().expect("a file");
    let file = own.try_clone().expect("a descriptor");
    let count = Some(CountFiles { former, own });
    let idle = CallPipeline::open(config, store.clone(), count).await;
    (idle.expect("the spool folder is usable").start(), file)
}

/// The file as the next daemon finds it if this one is killed now.
fn frozen(file: &File) -> File {
    let length = file.metadata().expect("metadata").len();
    let mut bytes = vec![0; usize::try_from(length).expect("small")];
    file.read_exact_at(&mut bytes, 0).expect("readable");
    let copy = tempfile::tempfile().expect("a file");
    copy.write_all_at(&bytes, 0).expect("writable");
    copy
}

#[tokio::test]
async fn records_in_the_memory_of_a_killed_pipeline_are_told_by_the_next_one_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path());
    let store = FakeStore::new(Mode::Open);
    let (killed, file) = next(&store, &config, None).await;
    record(&killed.calls(), 0..10);
    until(&killed.calls(), |counts| counts.stored == 10).await;
    assert_eq!(lost_now(&file), [], "they are safe");
    // A batch hangs at the store.
    store.set(Mode::Hanging);
    record(&killed.calls(), 10..17);
    let frozen = frozen(&file);
    assert_eq!(lost_now(&frozen), [(7, 7)]);
    let other = FakeStore::new(Mode::Open);
    let folder = tempfile::tempdir().expect("a folder");
    let config = self::config(folder.path());
    let (pipeline, file) = next(&other, &config, Some(frozen)).await;
    let counts = pipeline.calls().counters();
    assert_eq!((counts.dropped, counts.dropped_killed), (7, 7));
    pipeline.close(PATIENCE).await;
    assert_eq!(other.lost(), 7);
    assert_eq!(lost_now(&file), [], "it was told");
    let (pipeline, _) = next(&other, &config, Some(file)).await;
    assert_eq!(pipeline.close(PATIENCE).await.dropped, 0);
    assert_eq!(other.lost(), 7, "once");
    store.set(Mode::Open);
    killed.close(PATIENCE).await;
}

#[tokio::test]
async fn records_that_were_committed_or_lie_in_the_spool_at_a_kill_are_not_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path());
    let store = FakeStore::new(Mode::Silent);
    let (killed, file) = next(&store, &config, None).await;
    record(&killed.calls(), 0..5);
    // Committed, and put into the spool since nobody said so.
    until(&killed.calls(), |counts| counts.spooled == 5).await;
    assert_eq!(lost_now(&file), []);
    killed.close(PATIENCE).await;
    store.set(Mode::Open);
    let (pipeline, _) = next(&store, &config, Some(file)).await;
    let calls = pipeline.calls();
    until(&calls, |counts| counts.stored == 5).await;
    pipeline.close(PATIENCE).await;
    assert_eq!((store.tools(), store.lost()), (numbered(0..5), 0));
}
