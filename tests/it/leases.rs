//! Leases: each ends after its deadline and never before, once, and announced. How late is told by the bench.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    harness::{Database, Server, on_both_databases, wait_until},
    mcp::Mcp,
};

on_both_databases! {
    ten_leases_end_after_their_deadlines_once_and_announced,
    an_expired_instance_is_restored_with_the_same_url_and_token,
    what_nobody_restores_is_purged,
}

const SOON: Duration = Duration::from_secs(60);

fn id_of(instance: &Value) -> &str {
    instance["id"].as_str().expect("it has an id")
}

/// A time of the API in milliseconds.
fn at(value: &Value) -> i64 {
    let text = value
        .as_str()
        .unwrap_or_else(|| panic!("not a time: {value}"));
    let time: jiff::Timestamp = text.parse().expect("RFC 3339");
    time.as_millisecond()
}

/// The events of an instance once there is one of this kind: a status is shown before it is written.
async fn events_with(server: &Server, id: &str, kind: &str) -> Value {
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let page = server.get(&format!("/mcps/{id}/events?limit=1000")).await;
        let mut events = page["items"].as_array().expect("a list").iter();
        if events.any(|event| event["kind"] == kind) {
            return page;
        }
        assert!(std::time::Instant::now() < deadline, "{page:#}");
        tokio::time::sleep(Duration::from_millis(10)).await; // poll
    }
}

async fn ten_leases_end_after_their_deadlines_once_and_announced(database: Database) {
    let server = Server::start(database).await;
    let demo = json!({"template": "demo"});
    let ten = join_all((0..10).map(|_| server.create(demo.clone()))).await;
    // Only now: whatever a busy machine does, each one runs when its time begins.
    let short = json!({"ttl": "2s"});
    let leased = join_all(ten.iter().map(|instance| {
        assert_eq!(instance["status"], "running", "{instance:#}");
        let path = format!("/mcps/{}/extend", id_of(instance));
        let (server, short) = (&server, short.clone());
        async move { server.post(&path, short).await }
    }))
    .await;
    for instance in &leased {
        let id = id_of(instance);
        let deadline = at(&instance["expires_at"]);
        let expired = server.wait_status(id, &["expired"], SOON).await;
        assert!(at(&expired["since"]) >= deadline, "too early: {expired:#}");
        assert_eq!(expired["pid"], Value::Null, "{expired:#}");

        let page = events_with(&server, id, "expired").await;
        let events = page["items"].as_array().expect("a list");
        let only = |kind: &str| {
            let found: Vec<_> = events.iter().filter(|e| e["kind"] == kind).collect();
            assert_eq!(found.len(), 1, "{kind}: {page:#}");
            at(&found[0]["at"])
        };
        assert!(only("lease-warning") < deadline, "{page:#}");
        assert!(only("exited") >= deadline, "{page:#}");
        assert!(only("expired") >= deadline, "{page:#}");
    }
    let gone = wait_until(SOON, || {
        let alive = server.processes();
        let any = alive
            .iter()
            .any(|process| process.command.contains("mcp demo"));
        (!any).then_some(())
    });
    assert!(gone.is_some(), "{:?}", server.processes());
}

async fn an_expired_instance_is_restored_with_the_same_url_and_token(database: Database) {
    let server = Server::start(database).await;
    let instance = server
        .create(json!({"template": "demo", "ttl": "2s"}))
        .await;
    let id = id_of(&instance);
    server.wait_status(id, &["expired"], SOON).await;

    let path = format!("/mcps/{id}/restore");
    server.post(&path, json!({"ttl": "1h"})).await;
    let restored = server.wait_status(id, &["running"], SOON).await;
    assert_eq!(restored["access_url"], instance["access_url"]);
    let mut client = Mcp::connect(&instance).await;
    let answer = client.tool("echo", json!({"text": "back"})).await;
    assert_eq!(answer.as_deref(), Ok("back"));
}

async fn what_nobody_restores_is_purged(database: Database) {
    let server = Server::start(database).await;
    let instance = server
        .create(json!({"template": "short-lived", "ttl": "1s"}))
        .await;
    let id = id_of(&instance);
    let folder = server.config().runtime.instance_dir.join(id);
    assert!(folder.is_dir(), "{instance:#}");
    let path = format!("/mcps/{id}");
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let (status, answer) = server.call(reqwest::Method::GET, &path, None).await;
        if status == reqwest::StatusCode::NOT_FOUND {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{answer:#}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
    let ports = server.get("/ports").await;
    assert_eq!(ports["leased"], json!([]), "{ports:#}");
    // It is gone to everyone a moment before its folder is.
    let removed = wait_until(SOON, || (!folder.exists()).then_some(()));
    assert!(removed.is_some(), "its folder is still there");
}
