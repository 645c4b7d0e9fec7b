//! `sessions = "per-session"`: every client session has a child of its own, and neither outlives the other. How both
//! outlive `serve` is in `members_survive`.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    fixtures,
    harness::{Database, Server, http_client, on_both_databases, wait_until},
    http_calls::until,
    mcp::{self, Mcp},
    processes, source,
};

on_both_databases! {
    sessions_have_children_and_states_of_their_own,
    a_killed_child_ends_its_session_and_is_told,
    a_stop_a_restart_and_a_deletion_leave_no_child_of_a_session,
}

pub const SOON: Duration = Duration::from_secs(60);

pub fn id_of(instance: &Value) -> String {
    instance["id"].as_str().expect("it has an id").to_owned()
}

pub async fn status(server: &Server, instance: &Value) -> Value {
    server.get(&format!("/mcps/{}", id_of(instance))).await
}

/// Pids of the children of sessions, by their numbers.
fn pids(status: &Value) -> Vec<u32> {
    let children = status["session_children"].as_array().expect("a list");
    let pids = children.iter().filter_map(|child| child["pid"].as_u64());
    pids.map(|pid| u32::try_from(pid).expect("pids are small"))
        .collect()
}

/// Polls until the API shows so many children of sessions; gives their pids.
pub async fn until_children(server: &Server, instance: &Value, wanted: usize) -> Vec<u32> {
    let deadline = Instant::now() + SOON;
    loop {
        let status = status(server, instance).await;
        let found = pids(&status);
        if found.len() == wanted
            && status["session_children"].as_array().map(Vec::len) == Some(wanted)
        {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "not {wanted} children: {status:#}\n{}",
            server.log()
        );
        tokio::time::sleep(Duration::from_millis(10)).await; // poll
    }
}

pub fn is_alive(server: &Server, pid: u32) -> bool {
    let all = server.processes();
    all.iter().any(|process| process.pid == pid)
}

pub fn assert_gone(server: &Server, pids: &[u32]) {
    let gone = wait_until(SOON, || {
        (!pids.iter().any(|pid| is_alive(server, *pid))).then_some(())
    });
    assert!(gone.is_some(), "{pids:?}: {:?}", server.processes());
}

pub async fn add(client: &mut Mcp, number: u32) -> Result<String, Value> {
    client.tool("add", json!({"number": number})).await
}

/// Events of a kind, once there is one.
pub async fn events(server: &Server, instance: &Value, kind: &str) -> Vec<Value> {
    let deadline = Instant::now() + SOON;
    let path = format!("/mcps/{}/events?limit=200", id_of(instance));
    loop {
        let page = server.get(&path).await;
        let items = page["items"].as_array().expect("a list").clone();
        let found: Vec<Value> = items
            .into_iter()
            .filter(|event| event["kind"] == kind)
            .collect();
        if !found.is_empty() {
            return found;
        }
        assert!(Instant::now() < deadline, "no event {kind}: {page:#}");
        tokio::time::sleep(Duration::from_millis(10)).await; // poll
    }
}

/// `initialize` as it is answered: the status and the body.
async fn initialize(instance: &Value) -> (StatusCode, Value) {
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": {"name": "it", "version": "1"}});
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
    let answer = http_client()
        .post(instance["access_url"].as_str().expect("a URL"))
        .bearer_auth(instance["access_token"].as_str().expect("a token"))
        .header("Accept", "application/json, text/event-stream")
        .json(&message)
        .send()
        .await
        .expect("the access URL answers");
    let status = answer.status();
    (status, answer.json().await.expect("JSON"))
}

async fn sessions_have_children_and_states_of_their_own(database: Database) {
    let server = Server::start(database).await;
    let body = json!({"template": "keeps-state", "ttl": "1h"});
    let instance = server.create(body).await;
    assert_eq!(pids(&instance), [0_u32; 0]);
    let (mut one, mut two) = (Mcp::connect(&instance).await, Mcp::connect(&instance).await);
    assert_eq!(add(&mut one, 5).await.as_deref(), Ok("5"));
    assert_eq!(add(&mut two, 1).await.as_deref(), Ok("1"));
    assert_eq!(add(&mut one, 2).await.as_deref(), Ok("7"));
    // One folder for all.
    let (here, there) = (
        one.tool("folder", json!({})).await,
        two.tool("folder", json!({})).await,
    );
    assert_eq!(here, there);

    let both = until_children(&server, &instance, 2).await;
    let main = status(&server, &instance).await["pid"].clone();
    let main = u32::try_from(main.as_u64().expect("it runs")).expect("pids are small");
    assert!(
        both[0] != both[1] && !both.contains(&main),
        "{both:?} {main}"
    );
    for pid in both.iter().chain([&main]) {
        assert!(is_alive(&server, *pid), "{pid}: {:?}", server.processes());
    }
    let path = format!("/mcps/{}/stats", id_of(&instance));
    let stats = server.get(&path).await;
    assert_eq!(stats["session_children"], 2, "{stats}");
    assert!(stats["processes"].as_u64() >= Some(3), "{stats}");
    let metrics = server.send(Method::GET, "/metrics", None).await;
    let metrics = metrics.text().await.expect("text");
    assert!(
        metrics.contains("\nminimcp_session_children 2"),
        "{metrics}"
    );

    assert_eq!(one.end().await, StatusCode::NO_CONTENT);
    assert_eq!(until_children(&server, &instance, 1).await, [both[1]]);
    assert_gone(&server, &both[..1]);
    let answer = add(&mut one, 1).await.expect_err("its session ended");
    assert_eq!(answer["code"], -32_600, "{answer}");
    assert_eq!(add(&mut two, 1).await.as_deref(), Ok("2"));
}

#[tokio::test]
async fn calls_under_way_at_the_child_of_a_session_are_counted() {
    let server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let session = Mcp::connect(&instance).await;
    until(&server, &instance, "calls_in_flight", 0).await;
    let call = json!({"jsonrpc": "2.0", "id": 9, "method": "tools/call",
        "params": {"name": "wait", "arguments": {}}});
    let waiting = tokio::spawn(async move { drop(session.send(&call).await.text().await) });
    until(&server, &instance, "calls_in_flight", 1).await;
    waiting.abort();
}

async fn a_killed_child_ends_its_session_and_is_told(database: Database) {
    let server = Server::start(database).await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let mut other = Mcp::connect(&instance).await;
    assert_eq!(add(&mut other, 1).await.as_deref(), Ok("1"));
    let mut client = Mcp::connect(&instance).await;
    let pid = until_children(&server, &instance, 2).await[1];
    let waiting = tokio::spawn(async move {
        let answer = client.tool("wait", json!({})).await;
        (client, answer)
    });
    // The call is at the child once the child says so.
    let path = format!("/mcps/{}/logs?text=waiting", id_of(&instance));
    let deadline = Instant::now() + SOON;
    while server.get(&path).await["items"] == json!([]) {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(10)).await; // poll
    }
    processes::kill(pid);
    let (mut client, answer) = waiting.await.expect("joined");
    let lines = server.get(&path).await;
    assert_eq!(lines["items"][0]["session_child"], 2, "{lines}");
    let error = answer.expect_err("its server is dead");
    assert_eq!(error["data"]["signal"], 9, "{error}");
    assert_eq!(error["data"]["last_stderr"], json!(["waiting for ever"]));
    assert_eq!(until_children(&server, &instance, 1).await.len(), 1);
    let error = add(&mut client, 1).await.expect_err("its session ended");
    assert_eq!(error["code"], -32_600, "{error}");

    let told = events(&server, &instance, "session-child-exited").await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0]["message"].to_string().contains("SIGKILL"),
        "{told:?}"
    );
    let now = status(&server, &instance).await;
    assert_eq!(
        (&now["status"], &now["generation"]),
        (&json!("running"), &json!(1))
    );
    assert_eq!(add(&mut other, 1).await.as_deref(), Ok("2"));
    let mut anew = Mcp::connect(&instance).await;
    assert_eq!(add(&mut anew, 4).await.as_deref(), Ok("4"));
}

async fn a_stop_a_restart_and_a_deletion_leave_no_child_of_a_session(database: Database) {
    let server = Server::start(database).await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let id = id_of(&instance);
    for verb in ["restart", "stop"] {
        let mut client = Mcp::connect(&instance).await;
        assert_eq!(add(&mut client, 1).await.as_deref(), Ok("1"));
        let children = until_children(&server, &instance, 1).await;
        server.post(&format!("/mcps/{id}/{verb}"), json!({})).await;
        let reached = if verb == "stop" { "stopped" } else { "running" };
        let deadline = Instant::now() + SOON;
        loop {
            let now = server.wait_status(&id, &[reached], SOON).await;
            if verb == "stop" || now["generation"].as_u64() >= Some(2) {
                assert_eq!(now["session_children"], json!([]), "{verb}");
                break;
            }
            assert!(Instant::now() < deadline, "{now:#}");
            tokio::time::sleep(Duration::from_millis(10)).await; // poll
        }
        // The status came after the end of all.
        for pid in children {
            assert!(!is_alive(&server, pid), "{verb}: {:?}", server.processes());
        }
    }
    server.post(&format!("/mcps/{id}/start"), json!({})).await;
    server.wait_status(&id, &["running"], SOON).await;
    let clients = [Mcp::connect(&instance).await, Mcp::connect(&instance).await];
    let children = until_children(&server, &instance, clients.len()).await;
    server.delete(&id).await;
    for pid in children {
        assert!(!is_alive(&server, pid), "{:?}", server.processes());
    }
}

#[tokio::test]
async fn at_the_limit_the_session_that_rested_longest_gives_way_and_none_that_is_read() {
    let server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let mut clients = Vec::new();
    for number in 1..=3 {
        let mut client = Mcp::connect(&instance).await;
        assert_eq!(add(&mut client, number).await, Ok(number.to_string()));
        clients.push(client);
    }
    let children = until_children(&server, &instance, 3).await;
    // The first rested longest.
    let mut fourth = Mcp::connect(&instance).await;
    assert_eq!(add(&mut fourth, 40).await.as_deref(), Ok("40"));
    assert_gone(&server, &children[..1]);
    let error = add(&mut clients[0], 1).await.expect_err("it gave way");
    assert_eq!(error["code"], -32_600, "{error}");
    let now = until_children(&server, &instance, 3).await;
    assert_eq!(now[..2], children[1..]);

    let mut streams = Vec::new();
    for client in clients[1..].iter().chain([&fourth]) {
        streams.push(client.stream().await);
    }
    let (code, body) = initialize(&instance).await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    let text = body["error"]["message"].to_string();
    assert!(text.contains("All 3 children"), "{text}");
    assert!(text.contains("session_children_max"), "{text}");
    assert_eq!(until_children(&server, &instance, 3).await, now);
    drop(streams);
    for (client, number) in clients[1..].iter_mut().zip([2, 3]) {
        assert_eq!(add(client, 0).await, Ok(number.to_string()));
    }
}

#[tokio::test]
async fn a_session_that_rests_ends_with_its_child() {
    let server = Server::start(Database::Sqlite).await;
    let instance = server
        .create(json!({"template": "keeps-state-briefly"}))
        .await;
    let mut client = Mcp::connect(&instance).await;
    assert_eq!(add(&mut client, 1).await.as_deref(), Ok("1"));
    until_children(&server, &instance, 0).await;
    let error = add(&mut client, 1)
        .await
        .expect_err("it rested for too long");
    assert_eq!(error["code"], -32_600, "{error}");
    let path = format!("/mcps/{}/stats", id_of(&instance));
    assert_eq!(server.get(&path).await["sessions"], 0);
}

#[tokio::test]
async fn a_child_that_cannot_be_started_answers_initialize_with_the_cause() {
    let server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let mut client = Mcp::connect(&instance).await;
    let answer = client.tool("break", json!({})).await;
    assert_eq!(answer.as_deref(), Ok("broken"));
    let (code, body) = initialize(&instance).await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    let data = &body["error"]["data"];
    assert_eq!(data["exit_code"], 7, "{body}");
    assert_eq!(data["last_stderr"], json!(["the folder is broken"]));
    // The process of the one that failed is gone a little after its answer.
    until_children(&server, &instance, 1).await;
    let path = format!("/mcps/{}/stats", id_of(&instance));
    assert_eq!(server.get(&path).await["sessions"], 1);
    let told = events(&server, &instance, "session-child-exited").await;
    assert_eq!(told.len(), 1, "nothing is tried again: {told:?}");
}

#[tokio::test]
async fn sessions_live_on_while_the_main_child_comes_back() {
    let server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let mut client = Mcp::connect(&instance).await;
    assert_eq!(add(&mut client, 3).await.as_deref(), Ok("3"));
    let children = until_children(&server, &instance, 1).await;
    // The main child dies and cannot come back until the folder is whole again.
    let answer = client.tool("break", json!({})).await;
    assert_eq!(answer.as_deref(), Ok("broken"));
    let main = instance["pid"].as_u64().expect("it runs");
    processes::kill(u32::try_from(main).expect("pids are small"));
    let id = id_of(&instance);
    server.wait_status(&id, &["backing-off"], SOON).await;
    // No request of theirs waits for it.
    assert_eq!(add(&mut client, 1).await.as_deref(), Ok("4"));
    let folder = server.config().runtime.instance_dir.join(&id);
    std::fs::remove_file(folder.join("broken")).expect("the folder is ours");
    let again = server.wait_status(&id, &["running"], SOON).await;
    assert!(again["generation"].as_u64() >= Some(3), "{again:#}");
    assert_eq!(add(&mut client, 1).await.as_deref(), Ok("5"));
    assert_eq!(until_children(&server, &instance, 1).await, children);
    let mut new = Mcp::connect(&instance).await;
    assert_eq!(add(&mut new, 1).await.as_deref(), Ok("1"));
}

#[tokio::test]
async fn nothing_of_a_session_outlives_the_keeper_or_the_daemon() {
    let mut server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let mut client = Mcp::connect(&instance).await;
    assert_eq!(add(&mut client, 3).await.as_deref(), Ok("3"));
    let children = until_children(&server, &instance, 1).await;
    let keepers = server.processes();
    let keeper = keepers
        .iter()
        .filter(|process| process.command.contains(" keeper"))
        .find(|process| {
            !keepers
                .iter()
                .any(|other| other.pid == process.parent && other.command.contains(" keeper"))
        })
        .expect("a keeper");
    processes::kill(keeper.pid);
    assert_gone(&server, &children);
    let deadline = Instant::now() + SOON;
    while server
        .wait_status(&id_of(&instance), &["running"], SOON)
        .await["generation"]
        .as_u64()
        < Some(2)
    {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(10)).await; // poll
    }
    let error = add(&mut client, 1).await.expect_err("its session is gone");
    assert_eq!(error["code"], -32_600, "{error}");
    let _new = Mcp::connect(&instance).await;
    until_children(&server, &instance, 1).await;
    assert_eq!(server.stop(), Some(0), "{}", server.log());
    assert_eq!(server.processes(), [], "{}", server.log());
}

#[tokio::test]
async fn a_daemon_from_before_there_were_members_finds_none_at_the_keeper() {
    let mut server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let mut client = Mcp::connect(&instance).await;
    let children = until_children(&server, &instance, 1).await;
    let main = instance["pid"].as_u64().expect("it runs");
    server.kill();
    let script = source::root().join("tests/fixtures/old_serve.py");
    let listed = tokio::process::Command::new("python3")
        .arg(script)
        .arg(&server.config().runtime.keeper_socket)
        .output()
        .await
        .expect("python3 is there");
    let text = String::from_utf8_lossy(&listed.stdout);
    assert_eq!(text.trim(), format!("[{main}]"), "{listed:?}");
    assert_gone(&server, &children);
    server.launch().await;
    let error = add(&mut client, 1).await.expect_err("its child is gone");
    assert_eq!(error["code"], -32_600, "{error}");
}

#[tokio::test]
async fn real_clients_get_a_child_each_and_a_stateless_one_the_main_child() {
    if fixtures::deps().is_none() {
        return;
    }
    let server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let number = json!({"number": 1});
    for name in [
        "typescript-1",
        "typescript-2 legacy",
        "python-1",
        "python-2 legacy",
    ] {
        let report = mcp::sdk(name, &instance, "add", &number).await;
        let report = report.expect("the SDKs are there").to_string();
        assert!(report.contains("\"1\""), "{name}: {report}");
    }
    let before = until_total(&server, &instance).await;
    // Calls without a session count on in the one child that serves them all.
    for total in ["1", "2"] {
        let report = mcp::sdk("python-2 auto", &instance, "add", &number).await;
        let report = report.expect("the SDKs are there").to_string();
        assert!(report.contains(&format!("\"{total}\"")), "{report}");
    }
    let after = until_total(&server, &instance).await;
    assert_eq!(before, after);
}

async fn until_total(server: &Server, instance: &Value) -> Value {
    status(server, instance).await["session_children"].clone()
}
