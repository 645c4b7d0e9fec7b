//! HTTP+SSE over a real socket, in front of a scripted child.

use std::time::Duration;

use reqwest::Response;
use serde_json::{Value, json};

use super::tests::{Bench, bench, call};

/// A stream, and what was read of it.
struct Old {
    stream: Response,
    seen: String,
    endpoint: String,
}

impl Old {
    async fn open(bench: &Bench) -> Self {
        let base = bench.url.replace("/mcp", "");
        let request = bench
            .client
            .get(format!("{base}/sse"))
            .bearer_auth("secret");
        let stream = request.send().await.expect("a stream");
        let mut old = Self {
            stream,
            seen: String::new(),
            endpoint: String::new(),
        };
        let path = old.data().await;
        old.endpoint = format!("{base}{path}");
        old
    }

    /// The data of the next event.
    async fn data(&mut self) -> String {
        loop {
            if let Some((event, rest)) = self.seen.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                let data = data.map(str::to_owned);
                self.seen = rest.to_owned();
                if let Some(data) = data {
                    return data;
                }
                continue;
            }
            let chunk = self.stream.chunk().await.expect("the stream goes on");
            let chunk = chunk.expect("the stream goes on");
            self.seen.push_str(&String::from_utf8_lossy(&chunk));
        }
    }

    async fn message(&mut self) -> Value {
        serde_json::from_str(&self.data().await).expect("JSON")
    }

    async fn send(&self, bench: &Bench, message: &Value) {
        let request = bench.client.post(&self.endpoint).bearer_auth("secret");
        let answer = request.json(message).send().await.expect("an answer");
        assert_eq!(answer.status(), 202, "{message}");
    }

    async fn greet(&mut self, bench: &Bench) {
        let params = json!({"protocolVersion": "2024-11-05", "capabilities": {"elicitation": {}}, "clientInfo": {}});
        self.send(bench, &call(1, "initialize", params)).await;
        let answer = self.message().await;
        assert_eq!(
            answer["result"]["protocolVersion"], "2024-11-05",
            "{answer}"
        );
    }
}

#[tokio::test]
async fn the_end_of_the_stream_cancels_its_calls_and_no_others() {
    let mut bench = bench().await;
    let (mut one, mut two) = (Old::open(&bench).await, Old::open(&bench).await);
    one.greet(&bench).await;
    two.greet(&bench).await;
    one.send(&bench, &call(7, "tools/call", json!({"name": "one"})))
        .await;
    let lost = bench.child.expect("tools/call").await;
    two.send(&bench, &call(7, "tools/call", json!({"name": "two"})))
        .await;
    let kept = bench.child.expect("tools/call").await;
    drop(one);
    let cancelled = bench.child.expect("notifications/cancelled").await;
    assert_eq!(cancelled["params"]["requestId"], lost["id"]);
    bench.child.answer(&kept, json!({"for": "two"})).await;
    let answer = two.message().await;
    assert_eq!(
        (&answer["id"], &answer["result"]["for"]),
        (&json!(7), &json!("two"))
    );
}

#[tokio::test]
async fn a_question_travels_on_the_stream_and_a_cancellation_finds_its_call() {
    let mut bench = bench().await;
    let mut old = Old::open(&bench).await;
    old.greet(&bench).await;
    old.send(&bench, &call(2, "tools/call", json!({"name": "asks"})))
        .await;
    let asked = bench.child.expect("tools/call").await;
    let question = json!({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {"message": "?"}});
    bench.child.say(question).await;
    let question = old.message().await;
    assert_eq!(question["method"], "elicitation/create");
    let id = &question["id"];
    old.send(
        &bench,
        &json!({"jsonrpc": "2.0", "id": id, "result": {"action": "decline"}}),
    )
    .await;
    let answer = bench.child.next().await.expect("the client's answer");
    assert_eq!(
        (&answer["id"], &answer["result"]["action"]),
        (&json!("q"), &json!("decline"))
    );
    let cancel =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}});
    old.send(&bench, &cancel).await;
    let cancelled = bench.child.expect("notifications/cancelled").await;
    assert_eq!(cancelled["params"]["requestId"], asked["id"]);
    // No answer comes to it; what everybody hears comes.
    bench
        .child
        .say(json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}))
        .await;
    assert_eq!(
        old.message().await["method"],
        "notifications/tools/list_changed"
    );
}

#[tokio::test]
async fn who_does_not_read_is_refused_at_last_and_holds_up_nobody() {
    let mut bench = bench().await;
    let mut idle = Old::open(&bench).await;
    idle.greet(&bench).await;
    let mut refused = false;
    // More than the sockets on the way can hold, with nobody who reads.
    for n in 0..4_000 {
        let message = call(n + 2, "tools/call", json!({"text": "x".repeat(4_000)}));
        let request = bench
            .client
            .post(&idle.endpoint)
            .bearer_auth("secret")
            .json(&message);
        match request.send().await.expect("an answer").status().as_u16() {
            202 => {}
            503 => {
                refused = true;
                break;
            }
            other => panic!("{other}"),
        }
        // Every call is answered at once, while the stream is still read by its connection.
        if let Ok(Some(asked)) =
            tokio::time::timeout(Duration::from_millis(50), bench.child.next()).await
        {
            bench
                .child
                .answer(&asked, json!({"text": "y".repeat(60_000)}))
                .await;
        }
    }
    assert!(refused, "nothing bounds what waits");
    let mut other = Old::open(&bench).await;
    other.greet(&bench).await;
    other.send(&bench, &call(2, "ping", json!({}))).await;
    assert_eq!(other.message().await["result"], json!({}));
}
