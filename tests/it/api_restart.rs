//! Who connects to the API while no `serve` runs.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::StatusCode;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    task::JoinHandle,
    time::timeout,
};

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

/// The same over the unix socket: the first line of the answer.
pub async fn asked_by_path(socket: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    let request = b"GET /healthz HTTP/1.1\r\nhost: minimcp\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
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
        let data = config.api.admin_token_file.with_file_name("api.sock");
        config.api.unix_socket = Some(data);
    })
    .await;
    let socket = server.config().api.unix_socket.clone();
    let socket = socket.expect("as it was configured");
    let (port, keeper) = (port(&server), keeper_of(&server).pid);
    let is_over = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let pollers: Vec<_> = (0..4)
        .map(|number| {
            let (is_over, answered) = (is_over.clone(), answered.clone());
            let socket = socket.clone();
            tokio::spawn(async move {
                let mut failed = Vec::new();
                while !is_over.load(Ordering::Relaxed) && failed.is_empty() {
                    let answer = match number % 2 {
                        0 => format!("{:?}", asked(port).await),
                        _ => format!("{:?}", asked_by_path(&socket).await),
                    };
                    if answer == "Ok(200)" || answer == "Ok(\"HTTP/1.1 200 OK\")" {
                        answered.fetch_add(1, Ordering::Relaxed);
                    } else {
                        failed.push(answer);
                    }
                }
                failed
            })
        })
        .collect();
    for _ in 0..3 {
        let before = answered.load(Ordering::Relaxed);
        let more = || {
            let is_more = answered.load(Ordering::Relaxed) > before;
            (is_more || pollers.iter().any(JoinHandle::is_finished)).then_some(())
        };
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
