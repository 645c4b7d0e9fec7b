//! Children of client sessions (`sessions = "per-session"`) outlive `serve` together with their sessions: the fixture keeps
//! its state in its process, so only the same process can go on.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    harness::{Database, Server, on_both_databases, wait_until},
    http_sse::Old,
    mcp::Mcp,
    meetings::{Client, Messages, text as tool_text},
    path_gateway::text,
    per_session::{SOON, add, assert_gone, events, id_of, is_alive, status, until_children},
    processes,
    session_survival::{end_with_keeper, until_held},
    survival::keeper_of,
    upgrade::upgrade,
};

on_both_databases! {
    sessions_go_on_with_their_processes_after_serve_was_killed,
    sessions_go_on_with_their_processes_after_an_orderly_restart,
    a_child_that_died_while_there_was_no_serve_ends_its_session_with_the_cause,
    what_no_session_claims_is_ended,
}

async fn running(server: &Server, instance: &Value) -> Value {
    server
        .wait_status(&id_of(instance), &["running"], SOON)
        .await
}

/// The daemon's own comparison finds nothing that would have to be put right.
async fn nothing_to_reconcile(server: &Server) {
    let runs = || async {
        let tasks = server.get("/tasks").await;
        let items = tasks["items"].as_array().expect("a list").clone();
        let task = items.iter().find(|task| task["name"] == "reconcile");
        task.expect("it is a task").clone()
    };
    let before = runs().await["runs"].as_u64();
    // One that is under way already is as good.
    let _ = server
        .call(Method::POST, "/tasks/reconcile/run", None)
        .await;
    let deadline = Instant::now() + SOON;
    loop {
        let now = runs().await;
        if now["running"] == false && now["runs"].as_u64() > before {
            assert_eq!(now["last_result"]["differences"], 0, "{now:#}");
            return;
        }
        assert!(Instant::now() < deadline, "{now:#}");
        tokio::time::sleep(Duration::from_millis(10)).await; // poll
    }
}

/// The text of the error with which a call is refused.
async fn refused(client: &mut Mcp) -> String {
    let error = add(client, 1).await.expect_err("its session is gone");
    assert_eq!(error["code"], -32_600, "{error}");
    error["message"].as_str().expect("a text").to_owned()
}

async fn sessions_go_on_with_their_processes_after_serve_was_killed(database: Database) {
    let mut server = Server::start(database).await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let (mut one, mut two) = (Mcp::connect(&instance).await, Mcp::connect(&instance).await);
    assert_eq!(add(&mut one, 5).await.as_deref(), Ok("5"));
    assert_eq!(add(&mut two, 1).await.as_deref(), Ok("1"));
    let children = until_children(&server, &instance, 2).await;
    let main = status(&server, &instance).await["pid"].clone();
    server.kill();
    server.launch().await;
    assert_eq!(running(&server, &instance).await["pid"], main, "adopted");
    let told = events(&server, &instance, "session-children-adopted").await;
    assert!(told[0]["message"].to_string().contains('2'), "{told:?}");
    assert_eq!(until_children(&server, &instance, 2).await, children);
    nothing_to_reconcile(&server).await;
    assert_eq!(add(&mut one, 2).await.as_deref(), Ok("7"));
    assert_eq!(add(&mut two, 2).await.as_deref(), Ok("3"));
    // Again, one that was used since and one that was not asked anything.
    for total in ["8", "9"] {
        server.kill();
        server.launch().await;
        running(&server, &instance).await;
        assert_eq!(add(&mut one, 1).await.as_deref(), Ok(total));
    }
    assert_eq!(add(&mut two, 2).await.as_deref(), Ok("5"));
    assert_eq!(until_children(&server, &instance, 2).await, children);

    // Those that were taken over count, and their numbers are not given again.
    let mut three = Mcp::connect(&instance).await;
    assert_eq!(add(&mut three, 4).await.as_deref(), Ok("4"));
    let now = status(&server, &instance).await;
    assert_eq!(now["session_children"][2]["number"], 3, "{now:#}");
    let mut four = Mcp::connect(&instance).await;
    assert_eq!(add(&mut four, 6).await.as_deref(), Ok("6"));
    assert_gone(&server, &children[..1]);
    refused(&mut one).await;
    // And they end with their sessions as any other.
    assert_eq!(two.end().await, StatusCode::NO_CONTENT);
    assert_gone(&server, &children[1..]);
    until_children(&server, &instance, 2).await;
    let id = id_of(&instance);
    server.kill();
    server.launch().await;
    let left = until_children(&server, &instance, 2).await;
    server.post(&format!("/mcps/{id}/stop"), json!({})).await;
    server.wait_status(&id, &["stopped"], SOON).await;
    for pid in left {
        assert!(!is_alive(&server, pid), "{:?}", server.processes());
    }
}

async fn sessions_go_on_with_their_processes_after_an_orderly_restart(database: Database) {
    let mut server = Server::start_with(database, |config| {
        config.runtime.leave_instances_running = true;
        config.runtime.keeper_linger = true;
    })
    .await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let mut client = Mcp::connect(&instance).await;
    assert_eq!(add(&mut client, 3).await.as_deref(), Ok("3"));
    let children = until_children(&server, &instance, 1).await;
    let keeper = keeper_of(&server).pid;
    for total in ["4", "5"] {
        assert_eq!(server.stop(), Some(0), "{}", server.log());
        assert!(is_alive(&server, children[0]), "{}", server.log());
        server.launch().await;
        running(&server, &instance).await;
        assert_eq!(keeper_of(&server).pid, keeper);
        assert_eq!(add(&mut client, 1).await.as_deref(), Ok(total));
        assert_eq!(until_children(&server, &instance, 1).await, children);
    }
    end_with_keeper(server);
}

async fn a_child_that_died_while_there_was_no_serve_ends_its_session_with_the_cause(
    database: Database,
) {
    let mut server = Server::start(database).await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let (mut one, mut two) = (Mcp::connect(&instance).await, Mcp::connect(&instance).await);
    assert_eq!(add(&mut one, 5).await.as_deref(), Ok("5"));
    assert_eq!(add(&mut two, 1).await.as_deref(), Ok("1"));
    let children = until_children(&server, &instance, 2).await;
    server.kill();
    processes::kill(children[0]);
    assert_gone(&server, &children[..1]);
    server.launch().await;
    let text = refused(&mut one).await;
    assert!(text.contains("SIGKILL"), "{text}");
    let told = events(&server, &instance, "session-child-exited").await;
    assert_eq!(told.len(), 1, "{told:?}");
    let message = told[0]["message"].to_string();
    assert!(
        message.contains("session child 1") && message.contains("SIGKILL"),
        "{told:?}"
    );
    assert_eq!(add(&mut two, 1).await.as_deref(), Ok("2"));
    assert_eq!(
        until_children(&server, &instance, 1).await,
        children[1..],
        "the other one goes on"
    );
    // The same for one that dies later.
    processes::kill(children[1]);
    until_children(&server, &instance, 0).await;
    let text = refused(&mut two).await;
    assert!(text.contains("SIGKILL"), "{text}");
}

async fn what_no_session_claims_is_ended(database: Database) {
    let mut server = Server::start(database).await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let mut deleted = Mcp::connect(&instance).await;
    let mut lives = Mcp::connect(&instance).await;
    assert_eq!(add(&mut lives, 5).await.as_deref(), Ok("5"));
    // A session of 2024 is its stream, which ends with the daemon that serves it.
    let base = text(&instance, "access_url").replace("/mcp", "");
    let token = text(&instance, "access_token");
    let mut old = Old::open(&base, "/sse", Some(token), "/messages?sessionId=").await;
    old.greet().await;
    let children = until_children(&server, &instance, 3).await;
    assert_eq!(deleted.end().await, StatusCode::NO_CONTENT);
    server.kill();
    server.launch().await;
    assert_gone(&server, &[children[0], children[2]]);
    assert_eq!(
        until_children(&server, &instance, 1).await,
        children[1..2],
        "{}",
        server.log()
    );
    let text = refused(&mut deleted).await;
    assert!(text.contains("does not exist"), "{text}");
    let told = events(&server, &instance, "session-child-exited").await;
    let of_stream = told.iter().filter(|event| {
        let message = event["message"].to_string();
        message.contains("session child 3") && message.contains("did not outlive")
    });
    assert_eq!(of_stream.count(), 1, "{told:?}");
    assert_eq!(add(&mut lives, 1).await.as_deref(), Ok("6"));
    nothing_to_reconcile(&server).await;
    let mut anew = Mcp::connect(&instance).await;
    assert_eq!(add(&mut anew, 1).await.as_deref(), Ok("1"));
    let now = status(&server, &instance).await;
    assert_eq!(now["session_children"][1]["number"], 4, "{now:#}");
}

/// How a `serve` gives way to the next.
#[derive(Debug, Clone, Copy)]
enum End {
    Killed,
    Restarted,
    Upgraded,
}

/// The stream of a session of 2024 is the session: it cannot outlive the connection, nor its child.
#[tokio::test]
async fn a_session_of_2024_ends_with_its_child_and_its_serve_and_the_client_is_told() {
    let mut server = Server::start_with(Database::Sqlite, |config| {
        config.runtime.leave_instances_running = true;
        config.runtime.keeper_linger = true;
    })
    .await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let base = text(&instance, "access_url").replace("/mcp", "");
    let token = text(&instance, "access_token");
    let mut lives = Mcp::connect(&instance).await;
    assert_eq!(add(&mut lives, 1).await.as_deref(), Ok("1"));
    let of_lives = until_children(&server, &instance, 1).await;
    for (end, total) in [
        (End::Killed, "2"),
        (End::Restarted, "3"),
        (End::Upgraded, "4"),
    ] {
        let mut old = Old::open(&base, "/sse", Some(token), "/messages?sessionId=").await;
        old.greet().await;
        let call = json!({"name": "add", "arguments": {"number": 7}});
        let sum = old.request(2, "tools/call", call.clone()).await;
        assert_eq!(sum["result"]["content"][0]["text"], "7", "{sum}");
        let children = until_children(&server, &instance, 2).await;
        match end {
            End::Killed => {
                server.kill();
                server.launch().await;
            }
            End::Restarted => {
                assert_eq!(server.stop(), Some(0), "{}", server.log());
                server.launch().await;
            }
            End::Upgraded => {
                let program = env!("CARGO_BIN_EXE_minimcp");
                let (code, out, err) = upgrade(&server, &["--binary", program]).await;
                assert_eq!(code, Some(0), "{out}{err}");
            }
        }
        running(&server, &instance).await;
        assert_eq!(old.event().await, None, "{end:?}: its stream has ended");
        assert_eq!(until_children(&server, &instance, 1).await, of_lives);
        assert_gone(&server, &children[1..]);
        let message = json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": call});
        let (status, body) = old.posted(&message).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{end:?}: {body}");
        assert!(body.contains("open a stream with GET /sse"), "{body}");
        // Another stream is another session, with another child.
        let mut anew = Old::open(&base, "/sse", Some(token), "/messages?sessionId=").await;
        anew.greet().await;
        let sum = anew
            .request(2, "tools/call", message["params"].clone())
            .await;
        assert_eq!(sum["result"]["content"][0]["text"], "7", "{end:?}: {sum}");
        drop(anew);
        assert_eq!(until_children(&server, &instance, 1).await, of_lives);
        assert_eq!(add(&mut lives, 1).await.as_deref(), Ok(total), "{end:?}");
        nothing_to_reconcile(&server).await;
    }
    end_with_keeper(server);
}

#[tokio::test]
async fn what_a_child_wrote_while_there_was_no_serve_is_in_the_log_once() {
    let mut server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let mut client = Mcp::connect(&instance).await;
    let answer = client.tool("watch", json!({})).await;
    assert_eq!(answer.as_deref(), Ok("watching"));
    let folder = server.config().runtime.instance_dir.join(id_of(&instance));
    server.kill();
    std::fs::write(folder.join("go"), "").expect("the folder is ours");
    let done = wait_until(SOON, || folder.join("done").exists().then_some(()));
    assert!(done.is_some(), "it writes");
    server.launch().await;
    let path = format!("/mcps/{}/logs?text=unattended&limit=1000", id_of(&instance));
    let deadline = Instant::now() + SOON;
    let rows = loop {
        let page = server.get(&path).await;
        let rows = page["items"].as_array().expect("a list").clone();
        if rows.len() >= 100 {
            break rows;
        }
        assert!(Instant::now() < deadline, "{} of 100", rows.len());
        tokio::time::sleep(Duration::from_millis(10)).await; // poll
    };
    let lines: Vec<_> = rows.iter().map(|row| row["line"].clone()).collect();
    let wanted: Vec<_> = (0..100)
        .map(|number| json!(format!("unattended {number}")))
        .collect();
    assert_eq!(lines, wanted);
    assert!(
        rows.iter().all(|row| row["session_child"] == 1),
        "{:#}",
        rows[0]
    );
    assert_eq!(add(&mut client, 2).await.as_deref(), Ok("2"));
}

#[tokio::test]
async fn a_session_that_rests_after_its_child_was_taken_over_ends_with_it() {
    let mut server = Server::start(Database::Sqlite).await;
    let instance = server
        .create(json!({"template": "keeps-state-briefly"}))
        .await;
    let mut client = Mcp::connect(&instance).await;
    // While somebody reads it, it does not rest.
    let stream = client.stream().await;
    let children = until_children(&server, &instance, 1).await;
    server.kill();
    drop(stream);
    assert!(is_alive(&server, children[0]));
    server.launch().await;
    events(&server, &instance, "session-children-adopted").await;
    assert_gone(&server, &children);
    until_children(&server, &instance, 0).await;
    refused(&mut client).await;
}

#[tokio::test]
async fn sessions_go_on_while_the_main_child_comes_back_under_a_new_serve() {
    let mut server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let mut client = Mcp::connect(&instance).await;
    assert_eq!(add(&mut client, 3).await.as_deref(), Ok("3"));
    let children = until_children(&server, &instance, 1).await;
    let answer = client.tool("break", json!({})).await;
    assert_eq!(answer.as_deref(), Ok("broken"));
    server.kill();
    let main = instance["pid"].as_u64().expect("it runs");
    let main = u32::try_from(main).expect("pids are small");
    processes::kill(main);
    assert_gone(&server, &[main]);
    server.launch().await;
    let id = id_of(&instance);
    server.wait_status(&id, &["backing-off"], SOON).await;
    // No request of theirs waits for it.
    assert_eq!(add(&mut client, 1).await.as_deref(), Ok("4"));
    let folder = server.config().runtime.instance_dir.join(&id);
    std::fs::remove_file(folder.join("broken")).expect("the folder is ours");
    server.wait_status(&id, &["running"], SOON).await;
    assert_eq!(add(&mut client, 1).await.as_deref(), Ok("5"));
    assert_eq!(until_children(&server, &instance, 1).await, children);
    let mut new = Mcp::connect(&instance).await;
    assert_eq!(add(&mut new, 1).await.as_deref(), Ok("1"));
}

#[tokio::test]
async fn a_call_under_way_at_a_kill_is_told_of_as_at_a_shared_child() {
    let mut server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "wishes-alone"})).await;
    let (client, _) = Client::in_session(&instance, json!({})).await;
    let params = json!({"name": "progress", "_meta": {"progressToken": "p"}});
    let mut streamed = Messages::of(client.request(7, "tools/call", params)).await;
    streamed.expect("notifications/progress").await;
    until_held(&server, &instance, 1).await;
    let lost = streamed.last_id.clone().expect("events have ids");
    server.kill();
    server.launch().await;
    running(&server, &instance).await;
    let mut resumed = client.resumed(&lost).await;
    let told = resumed.next().await.expect("an answer");
    let data = json!({"cause": "daemon-restarted", "retryable": true, "outcome": "unknown"});
    assert_eq!((&told["id"], &told["error"]["data"]), (&json!(7), &data));
    // The late answer, with an id that is used again, reaches nobody.
    let released = tool_text(client.tool(7, "release", json!({}))).await;
    assert_eq!(released, "released 1");
    assert_eq!(
        tool_text(client.tool(7, "echo", json!({"text": "on"}))).await,
        "on"
    );
}
