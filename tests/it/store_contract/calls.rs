//! Call records.

use minimcp::{
    domain::{
        call::{CallOutcome, CallRecord, NumberedCall},
        id::TokenName,
    },
    store::{CallQuery, History},
};

use super::{contract, generation, new_instance};

fn call(instance_key: i64, tool: &str, started_at: i64, outcome: CallOutcome) -> CallRecord {
    CallRecord {
        instance_key,
        generation: generation(3),
        token: TokenName::first(),
        tool: tool.into(),
        stateless: started_at % 2 == 0,
        started_at,
        duration_us: started_at * 10,
        outcome,
        request_bytes: 11,
        answer_bytes: 22,
        arguments: (tool == "b").then(|| "{\"a\":\"ü\0\"}".to_owned()),
    }
}

/// As a writer gives them: numbered from `first`.
fn numbered(writer: i64, first: i64, records: &[CallRecord]) -> Vec<NumberedCall> {
    let numbers = first..;
    let numbered = records
        .iter()
        .zip(numbers)
        .map(|(record, number)| NumberedCall {
            writer,
            number,
            record: record.clone(),
        });
    numbered.collect()
}

contract! {
    async fn a_number_of_a_writer_is_taken_once(db: &Database) {
        let all: Vec<_> = (0..6).map(|at| call(1, "a", at, CallOutcome::Ok)).collect();
        let read = async || -> Vec<i64> {
            let page = db.store.calls_page(1, CallQuery { limit: 100, ..CallQuery::default() }).await.expect("read");
            page.iter().rev().map(|call| call.started_at).collect()
        };
        db.store.insert_calls(&numbered(7, 1, &all[..3])).await.expect("written");
        // Once more, with more behind; then all of it, beside what another writer numbered alike.
        db.store.insert_calls(&numbered(7, 1, &all[..4])).await.expect("written");
        let mut mixed = numbered(7, 1, &all[..5]);
        mixed.extend(numbered(8, 1, &all[5..]));
        db.store.insert_calls(&mixed).await.expect("written");
        assert_eq!(read().await, [0, 1, 2, 3, 4, 5]);
        // Two tries of the same calls at the same time.
        let again: Vec<_> = (6..500).map(|at| call(1, "a", at, CallOutcome::Lost(2))).collect();
        let again = numbered(9, 1, &again);
        let (one, two) = tokio::join!(db.store.insert_calls(&again), db.store.insert_calls(&again));
        assert_eq!((one, two), (Ok(()), Ok(())));
        let page = db.store.calls_page(1, CallQuery { limit: 1_000, ..CallQuery::default() }).await.expect("read");
        assert_eq!(page.len(), 500);
        assert_eq!((page[0].outcome.as_str(), page[0].code), ("lost", Some(2)));
        assert_eq!(db.store.delete_call_writers_before(6).await, Ok(2));
    }

    async fn calls_are_read_back_filtered_and_paged(db: &Database) {
        let all = [
            call(1, "a", 10, CallOutcome::Ok),
            call(2, "a", 11, CallOutcome::Ok),
            call(1, "b", 12, CallOutcome::RpcError(-32_602)),
            call(1, "a", 13, CallOutcome::Disconnected),
        ];
        db.store.insert_calls(&numbered(7, 1, &all)).await.expect("written");
        db.store.insert_calls(&[]).await.expect("nothing to do");
        let read = async |query: CallQuery<'_>| -> Vec<i64> {
            let page = db.store.calls_page(1, query).await.expect("read");
            page.iter().map(|call| call.started_at).collect()
        };
        let ten = CallQuery { limit: 10, ..CallQuery::default() };
        assert_eq!(read(ten).await, [13, 12, 10]);
        assert_eq!(read(CallQuery { tool: Some("a"), ..ten }).await, [13, 10]);
        assert_eq!(read(CallQuery { outcome: Some("rpc-error"), ..ten }).await, [12]);
        assert_eq!(read(CallQuery { token: Some("nosuch"), ..ten }).await, [0_i64; 0]);
        assert_eq!(read(CallQuery { since: Some(12), until: Some(12), ..ten }).await, [12]);
        let page = db.store.calls_page(1, CallQuery { limit: 2, ..ten }).await.expect("read");
        assert_eq!(read(CallQuery { before: Some(page[1].id), ..ten }).await, [10]);
        let b = &page[1];
        assert_eq!((b.tool.as_str(), b.code, b.stateless, b.generation), ("b", Some(-32_602), true, generation(3)));
        assert_eq!((b.duration_us, b.request_bytes, b.answer_bytes), (120, 11, 22));
        assert_eq!(b.arguments.as_deref(), Some("{\"a\":\"ü\u{fffd}\"}"));
        let samples = db.store.call_samples(1, 12, 10).await.expect("read");
        assert_eq!(samples.len(), 2);
        assert_eq!(db.store.call_samples(1, 0, 1).await.expect("read").len(), 1);
    }

    async fn calls_go_in_bounded_steps(db: &Database) {
        let record = db.store.create_instance(new_instance("ada", "first", 3001)).await.expect("created");
        let (own, gone) = (record.key, record.key + 50);
        let rows: Vec<_> = (0..10).map(|at| call(if at < 7 { own } else { gone }, "a", at, CallOutcome::Ok)).collect();
        db.store.insert_calls(&numbered(7, 1, &rows)).await.expect("written");
        assert_eq!(db.store.delete_before(History::Calls, 3, i64::MAX, 2).await, Ok(2));
        assert_eq!(db.store.delete_before(History::Calls, 3, i64::MAX, 2).await, Ok(1));
        assert_eq!(db.store.history_keys(History::Calls).await, Ok(vec![(own, true), (gone, false)]));
        assert_eq!(db.store.trim(History::Calls, own, 1, 2).await, Ok(2));
        assert_eq!(db.store.trim(History::Calls, own, 1, 9).await, Ok(1));
        assert_eq!(db.store.trim(History::Calls, own, 1, 9).await, Ok(0));
        assert_eq!(db.store.trim(History::Calls, gone, 0, 9).await, Ok(3));
        assert_eq!(db.store.history_keys(History::Calls).await, Ok(vec![(own, true)]));
    }
}
