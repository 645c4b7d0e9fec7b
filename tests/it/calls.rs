//! Call records of a running daemon: every call of a tool leaves one, however it ends.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    harness::{self, Database, Server, on_both_databases},
    http_sse::Old,
    mcp::Mcp,
    path_gateway::text,
};

on_both_databases! {
    every_call_leaves_a_record,
}

/// The records of an instance, once there are so many.
async fn records(server: &Server, instance: &str, count: usize) -> Vec<Value> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let page = server.get(&format!("/mcps/{instance}/calls")).await;
        let items = page["items"].as_array().expect("a list").clone();
        if items.len() >= count {
            assert_eq!(items.len(), count, "{page:#}");
            return items;
        }
        assert!(tokio::time::Instant::now() < deadline, "{page:#}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

fn outcome_of<'a>(records: &'a [Value], tool: &str) -> &'a str {
    let found = records.iter().find(|record| record["tool"] == tool);
    let found = found.unwrap_or_else(|| panic!("no {tool}: {records:#?}"));
    found["outcome"].as_str().expect("a word")
}

async fn every_call_leaves_a_record(database: Database) {
    let server = Server::start(database).await;
    let secret = json!({"name": "example", "value": "s3cret-value-42"});
    server.post("/credentials", secret).await;
    let instance = server
        .create(json!({"template": "legacy-echo", "name": "one", "credentials": {"EXAMPLE_KEY": "example"}}))
        .await;
    let token = server
        .post(
            "/mcps/one/access-tokens",
            json!({"name": "ci", "scope": {"tools": ["echo", "nosuch", "exit"]}}),
        )
        .await;
    let mut owner = Mcp::connect(&instance).await;
    let mut client = Mcp::connect(&token).await;
    let arguments = json!({"text": "say s3cret-value-42 twice"});
    client.tool("echo", arguments).await.expect("it answers");
    client
        .tool("nosuch", json!({}))
        .await
        .expect_err("no such tool");
    client
        .tool("folder", json!({}))
        .await
        .expect_err("out of scope");
    client.tools().await;
    owner
        .tool("exit", json!({"code": 7}))
        .await
        .expect_err("it died of it");
    let found = records(&server, "one", 4).await;
    for (tool, outcome) in [
        ("echo", "ok"),
        ("nosuch", "rpc-error"),
        ("folder", "refused"),
        ("exit", "failed"),
    ] {
        assert_eq!(outcome_of(&found, tool), outcome, "{found:#?}");
    }
    let echo = found
        .iter()
        .find(|record| record["tool"] == "echo")
        .expect("it is there");
    assert_eq!(
        (&echo["token"], &echo["era"], &echo["generation"]),
        (&json!("ci"), &json!("session"), &json!(1))
    );
    let kept = echo["arguments"].as_str().expect("the template wants them");
    assert!(
        kept.contains("say [redacted:") && !kept.contains("s3cret"),
        "{kept}"
    );
    for number in ["duration_us", "request_bytes", "answer_bytes"] {
        assert!(echo[number].as_i64() > Some(0), "{echo:#}");
    }
    let nosuch = found
        .iter()
        .find(|record| record["tool"] == "nosuch")
        .expect("it is there");
    assert_eq!(nosuch["code"], -32_602);
    assert_eq!(
        found
            .iter()
            .filter(|record| record["token"] == "default")
            .count(),
        1
    );

    let page = server.get("/mcps/one/calls?limit=2").await;
    let cursor = page["next_cursor"].as_str().expect("there is more");
    let rest = server
        .get(&format!("/mcps/one/calls?limit=2&cursor={cursor}"))
        .await;
    assert_eq!(
        (rest["items"].as_array().map(Vec::len), &rest["next_cursor"]),
        (Some(2), &Value::Null)
    );
    let only = server
        .get("/mcps/one/calls?tool=echo&token=ci&outcome=ok&since=10m")
        .await;
    assert_eq!(only["items"].as_array().map(Vec::len), Some(1));
    let (status, problem) = server
        .call(Method::GET, "/mcps/one/calls?outcome=fine", None)
        .await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (400, &json!("invalid-query"))
    );
    let stats = server.get("/mcps/one/stats?window=10m").await;
    let calls = &stats["calls"];
    assert_eq!(
        (&calls["count"], &calls["errors"], &calls["complete"]),
        (&json!(4), &json!(3), &json!(true))
    );
    assert!(
        calls["p99_us"].as_i64() >= calls["p50_us"].as_i64(),
        "{calls:#}"
    );
    assert_eq!(calls["tools"].as_array().map(Vec::len), Some(4));
    let (status, _) = server
        .call(Method::GET, "/mcps/one/stats?window=0s", None)
        .await;
    assert_eq!(status.as_u16(), 400);

    // A deleted instance takes its records along.
    server.delete("one").await;
    server.post("/tasks/call-retention/run", json!({})).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let tasks = server.get("/tasks").await;
        let task = tasks["items"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|task| task["name"] == "call-retention");
        if task.is_some_and(|task| task.to_string().contains("\"orphaned_rows\":4")) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{tasks:#}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

/// In the other era, in streams, over HTTP, in batches, and without an end.
#[tokio::test]
async fn records_tell_how_a_call_went_wherever_it_went() {
    let server = Server::start(Database::Sqlite).await;
    let demo = server
        .create(json!({"template": "demo", "name": "demo"}))
        .await;
    let post = |instance: &Value, headers: Vec<(&'static str, String)>, body: Value| {
        let mut request = harness::http_client()
            .post(instance["access_url"].as_str().expect("a URL"))
            .bearer_auth(instance["access_token"].as_str().expect("a token"))
            .header("Accept", "application/json, text/event-stream")
            .json(&body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.send()
    };
    let stateless = |tool: &str, arguments: Value| {
        let body = json!({"jsonrpc": "2.0", "id": "x", "method": "tools/call", "params": {
            "name": tool, "arguments": arguments, "_meta": {
                "progressToken": 1,
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"}}}});
        let headers = vec![
            ("MCP-Protocol-Version", "2026-07-28".to_owned()),
            ("Mcp-Method", "tools/call".to_owned()),
            ("Mcp-Name", tool.to_owned()),
        ];
        post(&demo, headers, body)
    };
    // To its end in a stream, and given up in the middle of one.
    let answer = stateless("sleep", json!({"seconds": 0.1, "steps": 3}))
        .await
        .expect("an answer");
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    answer.text().await.expect("a stream that ends");
    let mut answer = stateless("sleep", json!({"seconds": 60, "steps": 600}))
        .await
        .expect("an answer");
    answer
        .chunk()
        .await
        .expect("a stream")
        .expect("its first event");
    drop(answer);
    let answer = stateless("sleep", json!({"seconds": -1, "steps": 1}))
        .await
        .expect("an answer");
    answer.text().await.expect("an answer");
    let found = records(&server, "demo", 3).await;
    let mut outcomes: Vec<_> = found
        .iter()
        .map(|record| record["outcome"].as_str().expect("a word"))
        .collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["disconnected", "ok", "tool-error"], "{found:#?}");
    assert!(
        found
            .iter()
            .all(|record| record["era"] == "stateless" && record["arguments"].is_null()),
        "{found:#?}"
    );

    let http = server
        .create(json!({"template": "http-echo", "name": "http"}))
        .await;
    let mut client = Mcp::connect(&http).await;
    client
        .tool("echo", json!({"text": "hi"}))
        .await
        .expect("it answers");
    client
        .tool("nosuch", json!({}))
        .await
        .expect_err("no such tool");
    let found = records(&server, "http", 2).await;
    assert_eq!(
        (outcome_of(&found, "echo"), outcome_of(&found, "nosuch")),
        ("ok", "rpc-error")
    );

    let old = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params":
        {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}}});
    let greeting = post(&demo, Vec::new(), old).await.expect("an answer");
    let session = greeting.headers()["mcp-session-id"]
        .to_str()
        .expect("ASCII")
        .to_owned();
    let call = |id: u32, tool: &str| {
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
        "params": {"name": tool, "arguments": {"text": "hi"}}})
    };
    let batch =
        json!([call(1, "echo"), call(2, "nosuch"), {"jsonrpc": "2.0", "id": 3, "method": "ping"}]);
    let headers = vec![("Mcp-Session-Id", session)];
    post(&demo, headers, batch)
        .await
        .expect("an answer")
        .text()
        .await
        .expect("answers");
    let found = records(&server, "demo", 5).await;
    assert_eq!(outcome_of(&found, "echo"), "ok");
    assert_ne!(outcome_of(&found, "nosuch"), "ok");
    assert_eq!(found[0]["era"], "session");
}

/// On a stream of 2024: with their answers, and when the stream goes before them.
#[tokio::test]
async fn calls_over_http_sse_leave_records_too() {
    let server = Server::start(Database::Sqlite).await;
    let instance = server
        .create(json!({"template": "demo", "name": "old"}))
        .await;
    let base = text(&instance, "access_url").replace("/mcp", "");
    let token = text(&instance, "access_token");
    let mut old = Old::open(&base, "/sse", Some(token), "/messages?sessionId=").await;
    old.greet().await;
    let echo = json!({"name": "echo", "arguments": {"text": "hi"}});
    old.request(2, "tools/call", echo).await;
    let nosuch = json!({"name": "nosuch", "arguments": {}});
    old.request(3, "tools/call", nosuch).await;
    let sleep = json!({"jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": {"name": "sleep",
        "arguments": {"seconds": 60, "steps": 600}, "_meta": {"progressToken": 7}}});
    old.send(&sleep).await;
    old.message(|message| message["method"] == "notifications/progress")
        .await;
    drop(old);
    let found = records(&server, "old", 3).await;
    assert_eq!(outcome_of(&found, "echo"), "ok");
    assert_eq!(outcome_of(&found, "nosuch"), "rpc-error");
    assert_eq!(outcome_of(&found, "sleep"), "disconnected");
    for record in &found {
        assert_eq!(record["era"], "session", "{record}");
        assert_eq!(record["token"], "default", "{record}");
        assert!(record["request_bytes"].as_u64() > Some(0), "{record}");
    }
}
