//! Descriptors run out: strangers hold connections open, or there are more children than room for their pipes.

use std::net::TcpStream;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{credentials, store_credential, until};
use crate::{
    harness::{Database, Server},
    mcp::Mcp,
};

/// So many may `serve` have, and far more connections are opened.
const DESCRIPTORS: usize = 192;

async fn serve_with(descriptors: usize) -> Server {
    let line = format!("ulimit -n {descriptors}");
    let mut server = Server::begin_under(Database::Sqlite, |_| super::after(&line)).await;
    server.until_ready().await;
    server
}

/// Connections to a port that say nothing. The kernel queues them, whatever the daemon does.
fn strangers(port: u16, count: usize) -> Vec<TcpStream> {
    (0..count)
        .map(|_| TcpStream::connect(("127.0.0.1", port)).expect("the kernel queues it"))
        .collect()
}

fn port_of(instance: &Value) -> u16 {
    let url = instance["access_url"].as_str().expect("it has one");
    let url = reqwest::Url::parse(url).expect("a URL");
    url.port().expect("a port of its own")
}

fn assert_untouched(server: &Server, before: &Value, now: &Value) {
    for what in ["pid", "restarts", "last_exit"] {
        assert_eq!(now[what], before[what], "{now:#}\n{}", server.log());
    }
    let log = server.log();
    for never in ["panicked", "the connection to the keeper is lost"] {
        assert!(!log.contains(never), "{never}\n{log}");
    }
}

#[tokio::test]
async fn strangers_with_more_connections_than_descriptors_stop_nobody() {
    let server = serve_with(DESCRIPTORS).await;
    let first = server.create(json!({"template": "demo"})).await;
    let path = format!("/mcps/{}", first["id"].as_str().expect("it has an id"));
    let mut client = Mcp::connect(&first).await;

    let at_api = strangers(server.config().api.port, 2 * DESCRIPTORS);
    let at_access = strangers(port_of(&first), 2 * DESCRIPTORS);
    // Those who are there go on, and those who come have their turn: for calls, for the API, for new instances.
    let answer = client.tool("echo", json!({"text": "still here"})).await;
    assert_eq!(answer.as_deref(), Ok("still here"));
    let mut late = Mcp::connect(&first).await;
    let answer = late.tool("echo", json!({"text": "late"})).await;
    assert_eq!(answer.as_deref(), Ok("late"));
    assert_eq!(store_credential(&server, "meanwhile").await, Ok(()));
    let second = server.create(json!({"template": "demo"})).await;
    assert_eq!(second["status"], "running", "{second:#}");
    assert_untouched(&server, &first, &server.get(&path).await);

    drop((at_api, at_access));
    assert_eq!(store_credential(&server, "after").await, Ok(()));
    assert_eq!(credentials(&server).await, ["after", "meanwhile"]);
    assert_untouched(&server, &first, &server.get(&path).await);
}

#[tokio::test]
async fn what_has_no_descriptors_is_not_started_and_all_others_run_on() {
    let server = serve_with(DESCRIPTORS).await;
    let mut running = Vec::new();
    let refused = loop {
        let body = Some(json!({"template": "demo"}));
        let (status, made) = server.call(Method::POST, "/mcps?wait=ready", body).await;
        assert!(running.len() < DESCRIPTORS, "it never ends");
        if status == StatusCode::CREATED && made["status"] == "running" {
            running.push(made);
            continue;
        }
        break made;
    };
    assert!(running.len() > 4, "{refused:#}");
    let reason = refused["reason"].as_str().expect("a reason");
    assert!(reason.contains("no free descriptor"), "{refused:#}");
    let at_api = strangers(server.config().api.port, DESCRIPTORS / 2);

    // The keeper has answers with descriptors for which there is no room: those are told, and no end of the keeper.
    server.post("/tasks/reconcile/run", Value::Null).await;
    let mut client = Mcp::connect(&running[0]).await;
    let answer = client.tool("echo", json!({"text": "still here"})).await;
    assert_eq!(answer.as_deref(), Ok("still here"));
    for before in &running {
        let path = format!("/mcps/{}", before["id"].as_str().expect("it has an id"));
        assert_untouched(&server, before, &server.get(&path).await);
    }

    drop(at_api);
    for over in running.drain(..2) {
        let path = format!("/mcps/{}", over["id"].as_str().expect("it has an id"));
        // The strangers' descriptors are not free at once, and the database wants some for a connection.
        until(&server, "its database has room again", || async {
            let (status, said) = server.call(Method::DELETE, &path, None).await;
            assert!(
                status.is_success() || said["code"] == "database-unavailable",
                "{status} {said}"
            );
            status.is_success()
        })
        .await;
    }
    let id = refused["id"].as_str().expect("it has an id");
    server.post(&format!("/mcps/{id}/start"), Value::Null).await;
    until(&server, "it has room now", || async {
        server.get(&format!("/mcps/{id}")).await["status"] == "running"
    })
    .await;
}
