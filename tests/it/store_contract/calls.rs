//! Call records.

use minimcp::{
    domain::{
        call::{CallOutcome, CallRecord},
        id::TokenName,
    },
    store::CallQuery,
};

use super::{contract, generation, new_instance};

fn call(instance_key: i64, tool: &str, started_at: i64, outcome: CallOutcome) -> CallRecord {
    CallRecord {
        instance_key,
        generation: generation(3),
        token: TokenName::first(),
        tool: tool.to_owned(),
        stateless: started_at % 2 == 0,
        started_at,
        duration_us: started_at * 10,
        outcome,
        request_bytes: 11,
        answer_bytes: 22,
        arguments: (tool == "b").then(|| "{\"a\":\"ü\0\"}".to_owned()),
    }
}

contract! {
    async fn calls_are_read_back_filtered_and_paged(db: &Database) {
        let all = [
            call(1, "a", 10, CallOutcome::Ok),
            call(2, "a", 11, CallOutcome::Ok),
            call(1, "b", 12, CallOutcome::RpcError(-32_602)),
            call(1, "a", 13, CallOutcome::Disconnected),
        ];
        db.store.insert_calls(&all).await.expect("written");
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
        db.store.insert_calls(&rows).await.expect("written");
        assert_eq!(db.store.delete_calls_before(3, 2).await, Ok(2));
        assert_eq!(db.store.delete_calls_before(3, 2).await, Ok(1));
        assert_eq!(db.store.call_keys().await, Ok(vec![(own, true), (gone, false)]));
        assert_eq!(db.store.trim_calls(own, 1, 2).await, Ok(2));
        assert_eq!(db.store.trim_calls(own, 1, 9).await, Ok(1));
        assert_eq!(db.store.trim_calls(own, 1, 9).await, Ok(0));
        assert_eq!(db.store.trim_calls(gone, 0, 9).await, Ok(3));
        assert_eq!(db.store.call_keys().await, Ok(vec![(own, true)]));
    }
}
