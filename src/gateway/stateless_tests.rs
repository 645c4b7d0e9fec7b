//! Stateless clients in front of a scripted session-era child: questions of the child, streams of news, restarts.

use std::time::Duration;

use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

use super::tests::{Bench, bench, call, relaunch, status_and_body};
use crate::upstream::MODERN;

/// A request of a stateless client that can be asked for samples and by elicitation.
fn ask(bench: &Bench, id: u32, method: &str, mut params: Value) -> RequestBuilder {
    params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}, "sampling": {}}});
    let request = bench
        .post(None, &call(id, method, params.clone()))
        .header("mcp-protocol-version", MODERN)
        .header("mcp-method", method);
    match params["name"].as_str() {
        Some(name) => request.header("mcp-name", name),
        None => request,
    }
}

pub async fn answered(
    sent: tokio::task::JoinHandle<Result<Response, reqwest::Error>>,
) -> (u16, Value) {
    status_and_body(sent.await.expect("joined").expect("an answer")).await
}

fn question(id: &str, method: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": {"n": 1}})
}

/// Lets a call ask two questions; gives the child's request and the input-required result.
async fn asked_back(bench: &mut Bench) -> (Value, Value) {
    let sent = tokio::spawn(ask(bench, 1, "tools/call", json!({"name": "t"})).send());
    let asked = bench.child.expect("tools/call").await;
    bench.child.say(question("who", "elicitation/create")).await;
    bench
        .child
        .say(question("what", "sampling/createMessage"))
        .await;
    let (status, body) = answered(sent).await;
    assert_eq!((status, &body["id"]), (200, &json!(1)), "{body}");
    let result = body["result"].clone();
    assert_eq!(result["resultType"], "input_required", "{result}");
    (asked, result)
}

#[tokio::test]
async fn questions_of_the_child_become_input_required_and_the_answers_reach_it() {
    let mut bench = bench().await;
    let (asked, result) = asked_back(&mut bench).await;
    assert_eq!(
        result["inputRequests"],
        json!({"who": {"method": "elicitation/create", "params": {"n": 1}},
            "what": {"method": "sampling/createMessage", "params": {"n": 1}}})
    );
    // One of two: the other is asked again, under a new state.
    let retry = |id, responses: Value, state: &Value| json!([id, {"name": "t", "inputResponses": responses, "requestState": state}]);
    let send = |bench: &Bench, retry: Value| {
        let id = u32::try_from(retry[0].as_u64().expect("an id")).expect("small");
        tokio::spawn(ask(bench, id, "tools/call", retry[1].clone()).send())
    };
    let first = retry(
        2,
        json!({"who": {"action": "accept"}}),
        &result["requestState"],
    );
    let (_, body) = answered(send(&bench, first)).await;
    let again = &body["result"];
    assert_eq!(
        again["inputRequests"].as_object().expect("an object").len(),
        1
    );
    assert_ne!(again["requestState"], result["requestState"]);
    let told = bench.child.next().await.expect("an answer");
    assert_eq!(
        told,
        json!({"jsonrpc": "2.0", "id": "who", "result": {"action": "accept"}})
    );
    // The old state is used up; a changed one and one for another request are refused.
    for (name, state) in [
        ("t", result["requestState"].clone()),
        ("t", json!(format!("{}x", again["requestState"]))),
        ("u", again["requestState"].clone()),
    ] {
        let params = json!({"name": name, "requestState": state});
        let refused = ask(&bench, 3, "tools/call", params).send().await;
        let (status, body) = status_and_body(refused.expect("an answer")).await;
        assert_eq!((status, &body["error"]["code"]), (400, &json!(-32_602)));
    }
    let last = retry(
        4,
        json!({"what": {"role": "assistant"}}),
        &again["requestState"],
    );
    let sent = send(&bench, last);
    let told = bench.child.next().await.expect("an answer");
    assert_eq!(told["id"], "what");
    bench.child.answer(&asked, json!({"content": []})).await;
    let (_, body) = answered(sent).await;
    assert_eq!(body["id"], 4, "the id of the last try: {body}");
    assert_eq!(body["result"]["resultType"], "complete");
}

#[tokio::test]
async fn a_waiting_call_does_not_stop_the_questions_of_another() {
    let mut bench = bench().await;
    let (_, first) = asked_back(&mut bench).await;
    let (_, second) = asked_back(&mut bench).await;
    assert_ne!(first["requestState"], second["requestState"]);
}

#[tokio::test]
async fn answers_that_come_before_the_question_are_used() {
    let mut bench = bench().await;
    let params = json!({"name": "t", "inputResponses": {"who": {"action": "decline"}}});
    let sent = tokio::spawn(ask(&bench, 1, "tools/call", params).send());
    let asked = bench.child.expect("tools/call").await;
    assert_eq!(asked["params"], json!({"name": "t"}));
    bench.child.say(question("who", "elicitation/create")).await;
    let told = bench.child.next().await.expect("an answer");
    assert_eq!(told["result"], json!({"action": "decline"}));
    bench.child.answer(&asked, json!({"content": []})).await;
    assert_eq!(answered(sent).await.1["result"]["resultType"], "complete");
}

#[tokio::test]
async fn a_failure_for_want_of_a_capability_names_it() {
    let mut bench = bench().await;
    let sent = tokio::spawn(ask(&bench, 1, "tools/call", json!({"name": "t"})).send());
    let asked = bench.child.expect("tools/call").await;
    bench.child.say(question("q", "roots/list")).await;
    let refused = bench.child.next().await.expect("an answer");
    assert_eq!(refused["error"]["code"], -32_601, "{refused}");
    bench
        .child
        .answer(&asked, json!({"isError": true, "content": []}))
        .await;
    let (status, body) = answered(sent).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!(-32_021)));
    assert_eq!(
        body["error"]["data"],
        json!({"requiredCapabilities": {"roots": {}}})
    );
}

#[tokio::test]
async fn closing_the_stream_cancels_the_call() {
    let mut bench = bench().await;
    let sent = tokio::spawn(ask(&bench, 1, "tools/call", json!({"name": "t"})).send());
    let asked = bench.child.expect("tools/call").await;
    sent.abort();
    let cancelled = bench.child.expect("notifications/cancelled").await;
    assert_eq!(cancelled["params"]["requestId"], asked["id"]);
}

pub async fn event(stream: &mut Response) -> Value {
    let chunk = tokio::time::timeout(Duration::from_secs(10), stream.chunk()).await;
    let chunk = chunk.expect("in time").expect("open").expect("an event");
    let text = String::from_utf8(chunk.to_vec()).expect("UTF-8");
    let data = text.lines().find_map(|line| line.strip_prefix("data: "));
    serde_json::from_str(data.expect("data")).expect("JSON")
}

#[tokio::test]
async fn a_new_child_hears_the_wishes_and_the_clients_hear_what_is_new() {
    let mut bench = bench().await;
    let session = bench.session().await;
    let set = call(2, "logging/setLevel", json!({"level": "error"}));
    let sent = tokio::spawn(bench.post(Some(&session), &set).send());
    let asked = bench.child.expect("logging/setLevel").await;
    bench.child.answer(&asked, json!({})).await;
    assert_eq!(answered(sent).await.0, 200);
    let wish = json!({"notifications": {"toolsListChanged": true, "promptsListChanged": true}});
    let listen = ask(&bench, 7, "subscriptions/listen", wish).send().await;
    let mut stream = listen.expect("a stream");
    let first = event(&mut stream).await;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    // The scripted child promises news of its tools, not of prompts.
    assert_eq!(
        first["params"]["notifications"],
        json!({"toolsListChanged": true})
    );

    let mut child = relaunch(&bench, &["a", "c"]).await;
    let asked = child.expect("logging/setLevel").await;
    assert_eq!(asked["params"]["level"], "error");
    let news = event(&mut stream).await;
    assert_eq!(news["method"], "notifications/tools/list_changed");
    let meta = &news["params"]["_meta"];
    assert_eq!(meta["io.modelcontextprotocol/subscriptionId"], 7);
}
