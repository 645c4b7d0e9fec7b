//! What `serve` can no longer do once it runs beside a keeper that it did not start.

use std::fs;

use serde_json::json;

use crate::{
    harness::{Database, Server},
    keeper::Keeper,
    mcp::Mcp,
};

#[tokio::test]
async fn a_serve_that_starts_no_keeper_gives_up_starting_programs() {
    let keeper = Keeper::start(&[]);
    let socket = keeper.folder().join("k.sock");
    let server = Server::start_with(Database::Sqlite, |config| {
        config.runtime.keeper_spawn = false;
        config.runtime.keeper_socket = socket;
    })
    .await;
    let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).expect("it lives");
    for thread in threads.flatten() {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(
                status.is_empty() || status.contains(line),
                "{line}: {status}"
            );
        }
    }
    // All that it is for goes on.
    let instance = server.create(json!({"template": "demo"})).await;
    assert_eq!(
        instance["status"],
        "running",
        "{instance:#}\n{}",
        server.log()
    );
    let mut client = Mcp::connect(&instance).await;
    assert!(!client.tools().await.is_empty());
    // The keeper goes on, so nothing may be left with it.
    let id = instance["id"].as_str().expect("an id");
    let (status, answer) = server
        .call(reqwest::Method::DELETE, &format!("/mcps/{id}"), None)
        .await;
    assert!(status.is_success(), "{answer}");
    let plain = Server::start(Database::Sqlite).await;
    let status = fs::read_to_string(format!("/proc/{}/status", plain.pid())).expect("it lives");
    assert!(
        status.contains("Seccomp:\t0"),
        "one that may have to start a keeper again can: {status}"
    );
}
