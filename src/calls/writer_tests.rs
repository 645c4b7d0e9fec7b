//! Tests of the writer: a store that goes away, says nothing, refuses; a full spool; restarts.

use std::{path::Path, time::Duration};

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
};

const PATIENCE: Duration = Duration::from_secs(5);

fn config(folder: &Path) -> CallsConfig {
    CallsConfig {
        spool_dir: folder.to_owned(),
        ..CallsConfig::default()
    }
}

async fn start(store: &FakeStore, config: &CallsConfig) -> CallPipeline {
    CallPipeline::start(config, store.clone())
        .await
        .expect("the spool folder is usable")
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
