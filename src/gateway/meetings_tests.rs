//! Clients of the session era in front of a scripted stateless child.

use serde_json::{Value, json};

use super::{
    stateless_tests::{answered, event},
    tests::{Bench, bench, call, relaunch_stateless, stateless_bench, status_and_body},
};
use crate::upstream::MODERN;

/// Opens a session while the child plays its part in that; gives its id and the child's subscription.
async fn session(bench: &mut Bench) -> (String, Value) {
    let params = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {}});
    let hello = bench.post(None, &call(1, "initialize", params)).send();
    let (answer, listen) = tokio::join!(hello, bench.child.acknowledge());
    let answer = answer.expect("an answer");
    let session = answer.headers()["mcp-session-id"].to_str().expect("ASCII");
    (session.to_owned(), listen)
}

#[tokio::test]
async fn what_a_session_wished_is_told_to_the_next_stateless_child() {
    let mut bench = stateless_bench().await;
    let (session, listen) = session(&mut bench).await;
    let filter = |listen: &Value| listen["params"]["notifications"].clone();
    assert_eq!(filter(&listen), json!({"toolsListChanged": true}));
    let subscribe = call(2, "resources/subscribe", json!({"uri": "a:b"}));
    let sent = tokio::spawn(bench.post(Some(&session), &subscribe).send());
    let wider = bench.child.acknowledge().await;
    let both = json!({"toolsListChanged": true, "resourceSubscriptions": ["a:b"]});
    assert_eq!(filter(&wider), both);
    let old = bench.child.expect("notifications/cancelled").await;
    assert_eq!(old["params"]["requestId"], listen["id"]);
    assert_eq!(
        answered(sent).await,
        (200, json!({"jsonrpc": "2.0", "id": 2, "result": {}}))
    );
    let stream = bench.client.get(&bench.url).bearer_auth("secret");
    let stream = stream.header("mcp-session-id", &session);
    let stream = stream.header("accept", "text/event-stream").send().await;
    let mut stream = stream.expect("a stream");

    let mut child = relaunch_stateless(&bench, &["a", "b"]).await;
    let renewed = child.acknowledge().await;
    assert_eq!(filter(&renewed), both);
    let news = event(&mut stream).await;
    assert_eq!(news["method"], "notifications/tools/list_changed");
    // Without a client nothing is listened to.
    let ended = bench.client.delete(&bench.url).bearer_auth("secret");
    let ended = ended.header("mcp-session-id", &session).send().await;
    assert_eq!(ended.expect("an answer").status(), 204);
    let cancelled = child.expect("notifications/cancelled").await;
    assert_eq!(cancelled["params"]["requestId"], renewed["id"]);
}

#[tokio::test]
async fn a_session_hears_honestly_what_a_child_without_subscriptions_can_do() {
    let mut bench = stateless_bench().await;
    let params = json!({"protocolVersion": "2025-06-18", "capabilities": {}});
    let hello = tokio::spawn(bench.post(None, &call(1, "initialize", params)).send());
    let listen = bench.child.expect("subscriptions/listen").await;
    let error = json!({"code": -32_601, "message": "no such method"});
    bench
        .child
        .say(json!({"jsonrpc": "2.0", "id": listen["id"], "error": error}))
        .await;
    let hello = hello.await.expect("joined").expect("an answer");
    let session = hello.headers()["mcp-session-id"].clone();
    let (_, hello) = status_and_body(hello).await;
    assert_eq!(
        hello["result"]["capabilities"],
        json!({"tools": {}, "logging": {}, "resources": {}})
    );
    let subscribe = call(2, "resources/subscribe", json!({"uri": "a:b"}));
    let request = bench.post(session.to_str().ok(), &subscribe).send().await;
    let (_, refused) = status_and_body(request.expect("an answer")).await;
    let text = refused["error"]["message"].to_string();
    assert!(text.contains("no such method"), "{text}");
}

#[tokio::test]
async fn a_session_may_meet_a_child_of_the_other_era_after_a_restart() {
    let bench = bench().await;
    let session = bench.session().await;
    let mut child = relaunch_stateless(&bench, &["a"]).await;
    let list = call(2, "tools/list", json!({}));
    let sent = tokio::spawn(bench.post(Some(&session), &list).send());
    child.acknowledge().await;
    let asked = child.expect("tools/list").await;
    let meta = &asked["params"]["_meta"];
    assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], MODERN);
    let result = json!({"resultType": "complete", "tools": [], "ttlMs": 5});
    child.answer(&asked, result).await;
    let body = json!({"jsonrpc": "2.0", "id": 2, "result": {"tools": []}});
    assert_eq!(answered(sent).await, (200, body));
}
