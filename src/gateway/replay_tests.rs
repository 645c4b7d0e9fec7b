//! Session-era clients that lose their connection and come back.

use std::time::Duration;

use reqwest::Response;
use serde_json::{Value, json};

use super::tests::{Bench, bench, call, status_and_body};

/// The next event: its id and its data, as text.
async fn event(stream: &mut Response) -> (String, String) {
    let chunk = tokio::time::timeout(Duration::from_secs(10), stream.chunk()).await;
    let chunk = chunk.expect("in time").expect("open").expect("an event");
    let text = String::from_utf8(chunk.to_vec()).expect("UTF-8");
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name:?} in {text:?}"))
            .to_owned()
    };
    (field("id: "), field("data: "))
}

async fn resume(bench: &Bench, session: &str, last: &str) -> Response {
    let stream = bench.client.get(&bench.url).bearer_auth("secret");
    let stream = stream
        .header("mcp-session-id", session)
        .header("accept", "text/event-stream")
        .header("last-event-id", last);
    stream.send().await.expect("an answer")
}

/// Begins a call whose progress made a stream of it; gives the child's request and the open stream after the priming
/// event and the progress.
async fn streaming(bench: &mut Bench, session: &str) -> (Value, Response, String) {
    let params = json!({"name": "slow", "_meta": {"progressToken": "p"}});
    let message = call(1, "tools/call", params);
    let sent = tokio::spawn(bench.post(Some(session), &message).send());
    let asked = bench.child.expect("tools/call").await;
    progress(bench, &asked, 1).await;
    let mut stream = sent.await.expect("joined").expect("a stream");
    let (_, primed) = event(&mut stream).await;
    assert_eq!(primed, "", "the first event has an id and no data");
    let (id, data) = event(&mut stream).await;
    assert!(data.contains("\"progress\":1"), "{data}");
    (asked, stream, id)
}

async fn progress(bench: &mut Bench, asked: &Value, progress: u32) {
    let token = &asked["params"]["_meta"]["progressToken"];
    let params = json!({"progressToken": token, "progress": progress});
    let message = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params});
    bench.child.say(message).await;
}

#[tokio::test]
async fn a_call_goes_on_without_its_client_and_its_answer_can_be_fetched() {
    let mut bench = bench().await;
    let session = bench.session_of("2025-11-25").await;
    let (asked, stream, last) = streaming(&mut bench, &session).await;
    drop(stream);
    progress(&mut bench, &asked, 2).await;
    bench.child.answer(&asked, json!({"done": true})).await;
    // Twice: what was sent once can be asked for again, should that be lost too.
    for _ in 0..2 {
        let mut stream = resume(&bench, &session, &last).await;
        assert_eq!(event(&mut stream).await.1, "");
        let (_, data) = event(&mut stream).await;
        assert!(data.contains("\"progress\":2"), "{data}");
        let (_, data) = event(&mut stream).await;
        let answer: Value = serde_json::from_str(&data).expect("JSON");
        let expected = json!({"jsonrpc": "2.0", "id": 1, "result": {"done": true}});
        assert_eq!(answer, expected);
        assert_eq!(stream.chunk().await.expect("an end"), None);
    }
}

#[tokio::test]
async fn a_stream_is_resumed_only_in_its_session() {
    let mut bench = bench().await;
    let session = bench.session_of("2025-11-25").await;
    let other = bench.session_of("2025-11-25").await;
    let (_, _stream, last) = streaming(&mut bench, &session).await;
    for (session, last) in [(&other, &*last), (&session, "99-1"), (&session, "x")] {
        let refused = resume(&bench, session, last).await;
        assert_eq!(status_and_body(refused).await.0, 400, "{last}");
    }
}

#[tokio::test]
async fn news_that_were_missed_come_again() {
    let mut bench = bench().await;
    let session = bench.session_of("2025-11-25").await;
    let mut stream = resume(&bench, &session, "0-0").await;
    event(&mut stream).await;
    for kind in ["tools", "prompts"] {
        let method = format!("notifications/{kind}/list_changed");
        bench
            .child
            .say(json!({"jsonrpc": "2.0", "method": method}))
            .await;
    }
    let (first, data) = event(&mut stream).await;
    assert!(data.contains("tools"), "{data}");
    let mut stream = resume(&bench, &session, &first).await;
    assert_eq!(event(&mut stream).await.1, "");
    assert!(event(&mut stream).await.1.contains("prompts"));
}

#[tokio::test]
async fn who_comes_back_for_a_stream_that_is_kept_no_longer_is_told_that_its_call_is_lost() {
    let mut bench = bench().await;
    let session = bench.session_of("2025-11-25").await;
    let (_, stream, last) = streaming(&mut bench, &session).await;
    drop(stream);
    // As many others as are kept.
    let mut others = Vec::new();
    for _ in 0..4 {
        others.push(streaming(&mut bench, &session).await);
    }
    let mut stream = resume(&bench, &session, &last).await;
    assert_eq!(event(&mut stream).await.1, "");
    let (id, data) = event(&mut stream).await;
    let answer: Value = serde_json::from_str(&data).expect("JSON");
    assert_eq!(
        (&answer["id"], &answer["error"]["code"]),
        (&json!(1), &json!(-32603))
    );
    let data = json!({"cause": "stream-dropped", "retryable": true, "outcome": "unknown"});
    assert_eq!(answer["error"]["data"], data, "{answer}");
    assert_eq!(stream.chunk().await.expect("an end"), None);
    // It was answered by that.
    let refused = resume(&bench, &session, &id).await;
    assert_eq!(status_and_body(refused).await.0, 400, "{id}");
    // The others are untouched.
    let (asked, _, last) = others.pop().expect("one");
    bench.child.answer(&asked, json!({"done": true})).await;
    let mut stream = resume(&bench, &session, &last).await;
    event(&mut stream).await;
    assert!(event(&mut stream).await.1.contains("done"));
}
