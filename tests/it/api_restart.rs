//! Who connects to the API while no `serve` runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::StatusCode;
use serde_json::json;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    harness::{self, Database, Server},
    session_survival::end_with_keeper,
    survival::keeper_of,
};

const SOON: Duration = Duration::from_secs(60);

fn port(server: &Server) -> u16 {
    server.config().api.port
}

/// The status of one request on a connection of its own.
async fn asked(port: u16) -> Result<StatusCode, reqwest::Error> {
    let client = harness::http_client();
    let answer = client.get(format!("http://127.0.0.1:{port}/healthz"));
    Ok(answer.send().await?.status())
}

async fn is_refused(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).await.is_err()
}

#[tokio::test]
async fn after_a_kill_who_connects_waits_for_the_next_daemon() {
    let mut server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "demo"})).await;
    let port = port(&server);
    for _ in 0..2 {
        server.kill();
        assert!(!is_refused(port).await, "the keeper holds the listener");
        let waits = tokio::spawn(asked(port));
        server.launch().await;
        let answer = timeout(SOON, waits).await.expect("in time");
        let status = answer.expect("joined").expect("an answer");
        assert_eq!(status, StatusCode::OK);
        let id = instance["id"].as_str().expect("an id");
        let now = server.wait_status(id, &["running"], SOON).await;
        assert_eq!(now["pid"], instance["pid"]);
    }
    assert_eq!(server.stop(), Some(0), "{}", server.log());
    assert!(is_refused(port).await, "it was stopped for good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_a_daemon_that_leaves_its_instances_restarts() {
    let mut server = Server::start_with(Database::Sqlite, |config| {
        config.runtime.leave_instances_running = true;
        config.runtime.keeper_linger = true;
    })
    .await;
    let (port, keeper) = (port(&server), keeper_of(&server).pid);
    let is_over = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let pollers: Vec<_> = (0..4)
        .map(|_| {
            let (is_over, answered) = (is_over.clone(), answered.clone());
            tokio::spawn(async move {
                let mut failed = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    match asked(port).await {
                        Ok(StatusCode::OK) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        other => failed.push(format!("{other:?}")),
                    }
                }
                failed
            })
        })
        .collect();
    for _ in 0..3 {
        let before = answered.load(Ordering::Relaxed);
        let more = || (answered.load(Ordering::Relaxed) > before).then_some(());
        assert!(harness::wait_until(SOON, more).is_some(), "they poll");
        assert_eq!(server.stop(), Some(0), "{}", server.log());
        server.launch().await;
    }
    is_over.store(true, Ordering::Relaxed);
    for poller in pollers {
        let failed = timeout(SOON, poller).await.expect("in time");
        assert_eq!(failed.expect("joined"), Vec::<String>::new());
    }
    assert_eq!(keeper_of(&server).pid, keeper);
    end_with_keeper(server);
    assert!(is_refused(port).await, "the keeper is gone");
}

#[tokio::test]
async fn a_daemon_that_is_configured_for_another_port_closes_the_old_one() {
    let mut server = Server::start(Database::Sqlite).await;
    let old = port(&server);
    server.kill();
    server.change(|config| config.api.port = harness::free_port());
    server.launch().await;
    assert!(is_refused(old).await, "nobody serves it");
    let status = asked(port(&server)).await.expect("an answer");
    assert_eq!(status, StatusCode::OK);
}
