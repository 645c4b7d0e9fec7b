//! How a daemon goes that leaves its instances running: calls under way come to their answers, whoever connects
//! meanwhile waits for the next daemon.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::RequestBuilder;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use crate::{
    harness::{Database, Server, wait_until},
    meetings::{Client, everything, text, until},
    path_gateway, processes,
    session_survival::end_with_keeper,
    survival::keeper_of,
};

async fn server(drain_timeout_ms: u64) -> Server {
    Server::start_with(Database::Sqlite, |config| {
        config.runtime.leave_instances_running = true;
        config.runtime.keeper_linger = true;
        config.gateway.drain_timeout =
            minimcp::domain::duration::HumanDuration::from_ms(drain_timeout_ms);
    })
    .await
}

#[tokio::test]
async fn calls_under_way_end_in_the_old_daemon_and_new_ones_wait_for_the_next() {
    let mut server = server(60_000).await;
    let instance = server.create(json!({"template": "stateless"})).await;
    let (mut client, _) = Client::in_session(&instance, everything()).await;
    let by_path = Client::at_path(&instance);
    let params = |name: &str| json!({"name": "sleep", "arguments": {"ms": 2_000, "name": name}});
    let called = tokio::spawn(client.request(2, "tools/call", params("a")).send());
    until(&client, "sleeping", r#"["a"]"#).await;
    let called_by_path = tokio::spawn(by_path.request(3, "tools/call", params("b")).send());
    until(&client, "sleeping", r#"["a", "b"]"#).await;
    processes::terminate(server.pid());
    assert_eq!(server.wait_end(), Some(0), "{}", server.log());
    for called in [called, called_by_path] {
        let answer = called.await.expect("joined").expect("an answer");
        let answer = answer.text().await.expect("a body");
        assert!(answer.contains("slept"), "{answer}\n{}", server.log());
    }
    // Nobody serves now, and still somebody listens.
    let url = path_gateway::text(&instance, "access_url");
    let port = url
        .split(':')
        .nth(2)
        .and_then(|rest| rest.split('/').next());
    let port = port.expect("a port").parse::<u16>().expect("a number");
    TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("the keeper holds the listener");
    client.reconnect();
    let waits = tokio::spawn(client.tool(4, "echo", json!({"text": "patient"})).send());
    server.launch().await;
    let answer = waits.await.expect("joined").expect("an answer");
    let answer = answer.text().await.expect("a body");
    assert!(answer.contains("patient"), "{answer}");
    end_with_keeper(server);
}

#[tokio::test]
async fn a_restart_after_the_program_was_replaced_upgrades_the_keeper_too_and_touches_no_instance()
{
    let mut server = server(60_000).await;
    server.replace_program();
    // The first keeper, of the file as it is now.
    let keeper = keeper_of(&server).pid;
    assert_eq!(server.stop(), Some(0), "{}", server.log());
    processes::terminate(keeper);
    server.launch().await;
    let mut instances = Vec::new();
    for template in ["wishes", "stateless", "http-echo", "legacy-echo"] {
        instances.push(server.create(json!({"template": template})).await);
    }
    let (mut client, _) = Client::in_session(&instances[0], everything()).await;
    let keeper = keeper_of(&server).pid;
    let program = || std::fs::read_link(format!("/proc/{keeper}/exe")).expect("it lives");
    for _ in 0..2 {
        server.replace_program();
        assert!(program().display().to_string().ends_with("(deleted)"));
        assert_eq!(server.stop(), Some(0), "{}", server.log());
        // Its old connection ended with the old daemon.
        client.reconnect();
        let waits = tokio::spawn(client.tool(4, "echo", json!({"text": "patient"})).send());
        server.launch().await;
        assert_eq!(keeper_of(&server).pid, keeper);
        assert!(!program().display().to_string().ends_with("(deleted)"));
        let answer = waits.await.expect("joined").expect("an answer");
        let answer = answer.text().await.expect("a body");
        assert!(answer.contains("patient"), "{answer}");
        for instance in &instances {
            let id = instance["id"].as_str().expect("an id");
            let now = server
                .wait_status(id, &["running"], Duration::from_secs(30))
                .await;
            assert_eq!(now["pid"], instance["pid"], "{}", server.log());
            assert_eq!(now["generation"], instance["generation"]);
        }
    }
    let again = server.create(json!({"template": "demo"})).await;
    assert_eq!(again["status"], "running", "the keeper launches: {again:#}");
    end_with_keeper(server);
}

#[tokio::test]
async fn a_call_that_does_not_end_holds_the_daemon_up_for_the_drain_timeout_and_no_longer() {
    let mut server = server(300).await;
    let instance = server.create(json!({"template": "stateless"})).await;
    let (mut client, _) = Client::in_session(&instance, everything()).await;
    let params = json!({"name": "sleep", "arguments": {"ms": 600_000, "name": "a"}});
    let called = tokio::spawn(client.request(2, "tools/call", params).send());
    until(&client, "sleeping", r#"["a"]"#).await;
    assert_eq!(server.stop(), Some(0), "{}", server.log());
    assert!(server.log().contains("drain_timeout"), "{}", server.log());
    let ended = tokio::time::timeout(Duration::from_secs(30), called).await;
    drop(ended.expect("it does not hang"));
    server.launch().await;
    client.reconnect();
    assert_eq!(
        text(client.tool(3, "echo", json!({"text": "on"}))).await,
        "on"
    );
    end_with_keeper(server);
}

/// A request on a connection that is open already.
async fn asked(mut stream: TcpStream, request: RequestBuilder) -> Result<String, String> {
    let request = request.build().expect("it is valid");
    let (url, body) = (
        request.url(),
        request.body().and_then(|body| body.as_bytes()),
    );
    let body = body.unwrap_or_default();
    let host = url.authority();
    let mut text = format!("POST {} HTTP/1.1\r\nhost: {host}\r\n", url.path());
    for (name, value) in request.headers() {
        let value = value.to_str().expect("ASCII");
        writeln!(text, "{name}: {value}\r").expect("text takes all");
    }
    let length = body.len();
    write!(
        text,
        "connection: close\r\ncontent-length: {length}\r\n\r\n"
    )
    .expect("as above");
    let mut bytes = text.into_bytes();
    bytes.extend(body);
    let mut answer = String::new();
    let exchange = async {
        stream.write_all(&bytes).await?;
        stream.read_to_string(&mut answer).await
    };
    match exchange.await {
        Ok(_) if answer.starts_with("HTTP/1.1 200") => Ok(answer),
        other => Err(format!("{other:?} {answer}")),
    }
}

/// Calls on connections of their own that are open for a while before anything is asked on them, so that there are such
/// at every moment of the stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_on_a_fresh_connection_fails_while_the_daemon_restarts() {
    let mut server = server(60_000).await;
    let instance = server.create(json!({"template": "stateless"})).await;
    let (session, _) = Client::in_session(&instance, everything()).await;
    let clients = [
        session,
        Client::stateless(&instance, json!({})),
        Client::at_path(&instance),
    ];
    let is_over = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let callers = clients.map(|client| {
        let (is_over, answered) = (is_over.clone(), answered.clone());
        tokio::spawn(async move {
            let mut failed = Vec::new();
            while !is_over.load(Ordering::Relaxed) && failed.is_empty() {
                let call = || client.tool(2, "echo", json!({"text": "fresh"}));
                let request = call().build().expect("it is valid");
                let address = request.url().authority().to_owned();
                let streams = (0..4).map(|_| TcpStream::connect(&address));
                let streams = futures_util::future::join_all(streams).await;
                for stream in streams {
                    match asked(stream.expect("somebody listens"), call()).await {
                        Ok(answer) if answer.contains("fresh") => {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        other => failed.push(format!("{other:?}")),
                    }
                }
            }
            failed
        })
    });
    for _ in 0..4 {
        let before = answered.load(Ordering::Relaxed);
        let more = || {
            let is_enough = answered.load(Ordering::Relaxed) > before + 20;
            (is_enough || callers.iter().any(JoinHandle::is_finished)).then_some(())
        };
        let calls = wait_until(Duration::from_secs(60), more);
        assert!(calls.is_some(), "they call\n{}", server.log());
        assert_eq!(server.stop(), Some(0), "{}", server.log());
        server.launch().await;
    }
    is_over.store(true, Ordering::Relaxed);
    for caller in callers {
        let failed = tokio::time::timeout(Duration::from_secs(60), caller).await;
        let failed = failed.expect("in time").expect("joined");
        assert_eq!(failed, Vec::<String>::new(), "{}", server.log());
    }
    end_with_keeper(server);
}
