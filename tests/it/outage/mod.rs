//! A database that goes away, comes back, says nothing, is locked or damaged: instances go on, callers are told,
//! nothing is lost.

mod calls;
mod killed;
mod network;
pub mod proxy;
pub mod sqlite;

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::Server;

/// Within so long everything must have settled.
const SOON: Duration = Duration::from_secs(20);

fn id_of(instance: &Value) -> String {
    instance["id"].as_str().expect("it has an id").to_owned()
}

/// A mutation that the database's absence must stop: 503, the code, a time to try again, and all of it in time.
async fn refused(
    server: &Server,
    method: Method,
    path: &str,
    body: Option<Value>,
    limit: Duration,
) {
    let begun = Instant::now();
    let answer = server
        .send(method.clone(), &format!("/api/v1{path}"), body)
        .await;
    let took = begun.elapsed();
    let status = answer.status();
    let retry_after = answer.headers().get("retry-after").cloned();
    let text = answer.text().await.expect("the body comes");
    let problem: Value = serde_json::from_str(&text).expect("a problem is JSON");
    assert_eq!(
        status,
        StatusCode::SERVICE_UNAVAILABLE,
        "{method} {path}: {problem}"
    );
    assert_eq!(problem["code"], "database-unavailable", "{method} {path}");
    let seconds = retry_after.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    assert!(seconds.is_some_and(|seconds| seconds > 0), "{seconds:?}");
    assert!(took < limit, "{method} {path} took {took:?}");
    assert!(!text.contains("postgres://"), "{text}");
}

/// What `/readyz` says: its status and the sentence about one part.
async fn readiness(server: &Server, part: &str) -> (StatusCode, String) {
    let answer = server.send(Method::GET, "/readyz", None).await;
    let status = answer.status();
    let body: Value = answer.json().await.expect("readiness is JSON");
    (
        status,
        body["checks"][part].as_str().unwrap_or_default().to_owned(),
    )
}

/// Waits for readiness to be what it should.
async fn until_ready(server: &Server, ready: bool) {
    let deadline = Instant::now() + SOON;
    while readiness(server, "database").await.0.is_success() != ready {
        assert!(
            Instant::now() < deadline,
            "ready is not {ready}\n{}",
            server.log()
        );
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

/// Waits until an instance runs in this generation or a later one.
async fn until_generation(server: &Server, id: &str, generation: u64) -> Value {
    let deadline = Instant::now() + SOON;
    loop {
        let now = server.wait_status(id, &["running"], SOON).await;
        if now["generation"].as_u64() >= Some(generation) {
            return now;
        }
        assert!(Instant::now() < deadline, "{now:#}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

/// Waits until as many lines with `word` in them are stored; gives their texts in the order of the log.
pub async fn lines_with(server: &Server, id: &str, word: &str, count: usize) -> Vec<String> {
    let deadline = Instant::now() + SOON;
    loop {
        let page = server
            .get(&format!("/mcps/{id}/logs?q={word}&limit=1000"))
            .await;
        let items = page["items"].as_array().expect("a list").clone();
        if items.len() >= count {
            let line = |item: &Value| item["line"].as_str().expect("a text").to_owned();
            return items.iter().map(line).collect();
        }
        assert!(
            Instant::now() < deadline,
            "{} of {count} lines\n{}",
            items.len(),
            server.log()
        );
        tokio::time::sleep(Duration::from_millis(50)).await; // poll
    }
}

/// The kinds of an instance's stored events, oldest first, as soon as `wanted` is among them behind `after`.
async fn events_of(server: &Server, id: &str) -> Vec<String> {
    let page = server.get(&format!("/mcps/{id}/events?limit=200")).await;
    let items = page["items"].as_array().expect("a list");
    let mut events: Vec<_> = items
        .iter()
        .map(|event| {
            let key = event["id"].as_i64().expect("events are numbered");
            let kind = event["type"].as_str().or(event["kind"].as_str());
            (
                key,
                format!("{} {}", event["generation"], kind.expect("a kind")),
            )
        })
        .collect();
    events.sort();
    events.into_iter().map(|(_, event)| event).collect()
}

/// Writes numbered lines through the demo server's own tool.
pub async fn write_lines(client: &mut crate::mcp::Mcp, word: &str, count: usize) {
    let arguments = json!({"text": word, "lines": count});
    let answer = client.tool("log", arguments).await;
    assert!(answer.is_ok(), "{answer:?}");
}
