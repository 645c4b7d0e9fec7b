//! Calls under way at servers that speak HTTP themselves: counted while they last, and ended when nothing comes; whether
//! they are streamed through or translated.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use minimcp::domain::duration::HumanDuration;
use serde_json::{Value, json};

use crate::{
    harness::{Database, Server},
    mcp::Mcp,
    path_gateway::text,
    stateless_client::Stateless,
};

const SOON: Duration = Duration::from_secs(30);

/// Waits until a statistic of the instance is so.
/// Polls the statistics of an instance until one of them is `wanted`.
pub async fn until(server: &Server, instance: &Value, name: &str, wanted: u64) {
    let deadline = Instant::now() + SOON;
    let path = format!("/mcps/{}/stats", text(instance, "id"));
    loop {
        let stats = server.get(&path).await;
        if stats[name] == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{name} is not {wanted}: {stats}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

#[tokio::test]
async fn calls_under_way_are_counted_until_their_clients_leave() {
    let server = Server::start(Database::Sqlite).await;
    for template in ["http-session", "http-stateless"] {
        let instance = server.create(json!({"template": template})).await;
        until(&server, &instance, "calls_in_flight", 0).await;
        let (mut sessions, mut slow) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let session = Arc::new(Mcp::connect(&instance).await);
            sessions.push(Arc::clone(&session));
            slow.push(tokio::spawn(async move {
                let call = json!({"jsonrpc": "2.0", "id": 9, "method": "tools/call",
                    "params": {"name": "slow", "arguments": {}}});
                drop(session.send(&call).await.text().await);
            }));
            let stateless = Stateless::new(&instance);
            slow.push(tokio::spawn(async move {
                let params = json!({"name": "slow", "arguments": {}});
                drop(stateless.begin("tools/call", params).await.text().await);
            }));
        }
        until(&server, &instance, "calls_in_flight", 4).await;
        for call in slow {
            call.abort();
        }
        // A stateless client that leaves cancels; one with a session may come back for its answer, and ends the session.
        for session in sessions {
            session.end().await;
        }
        until(&server, &instance, "calls_in_flight", 0).await;
        until(&server, &instance, "calls_overdue", 0).await;
    }
}

#[tokio::test]
async fn a_call_without_a_sign_of_life_is_ended_with_an_error_and_counted() {
    let server = Server::start_with(Database::Sqlite, |config| {
        config.gateway.call_timeout = HumanDuration::from_secs(3);
    })
    .await;
    let instance = server.create(json!({"template": "http-session"})).await;
    let mut session = Mcp::connect(&instance).await;
    let stateless = Stateless::new(&instance);
    // Silent after the beginning of a stream, and silent altogether.
    for (number, tool) in (1..).zip(["slow", "mute"]) {
        let relayed = session.tool(tool, json!({})).await;
        let error = relayed.expect_err("it is silent");
        let told = error["message"].as_str().expect("a sentence");
        assert!(told.contains("for 3 s"), "{tool}: {error}");
        until(&server, &instance, "calls_overdue", number * 2 - 1).await;
        let translated = stateless.tool(tool, json!({})).await.response;
        assert!(translated["error"]["code"].is_i64(), "{tool}: {translated}");
        until(&server, &instance, "calls_overdue", number * 2).await;
        until(&server, &instance, "calls_in_flight", 0).await;
    }
    // The server goes on, in the same sessions.
    let echo = session.tool("echo", json!({"text": "on"})).await;
    assert_eq!(echo.as_deref(), Ok("on"));
    let echo = stateless.tool("echo", json!({"text": "on"})).await;
    assert_eq!(echo.text(), "on");
}
