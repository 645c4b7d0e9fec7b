//! Servers that misbehave: each ends in the right state with the cause told, within bounded time, leaving nothing
//! (the harness fails a test that leaves a process, port or socket).

use std::time::Duration;

use serde_json::json;

use crate::{
    harness::{Database, Server, on_both_databases, wait_until},
    mcp::Mcp,
};

on_both_databases! {
    one_that_exits_at_once_fails_with_its_code_and_last_words,
    garbage_on_stdout_is_logged_and_the_server_works,
    one_that_never_answers_is_given_up_after_its_start_timeout,
    one_that_ignores_every_signal_is_killed_after_its_graces,
    grandchildren_die_with_their_server,
    a_flood_on_stderr_is_kept_whole_or_counted,
    a_call_is_answered_with_the_cause_when_stdout_closes,
    a_call_is_answered_with_the_exit_code_when_the_server_dies,
    a_large_answer_comes_whole,
}

const SOON: Duration = Duration::from_secs(20);

async fn one_that_exits_at_once_fails_with_its_code_and_last_words(database: Database) {
    let server = Server::start(database).await;
    let instance = server.create(json!({"template": "exits-at-once"})).await;
    let id = instance["id"].as_str().expect("it has an id");
    let instance = server.wait_status(id, &["failed"], SOON).await;
    let reason = instance["reason"].as_str().unwrap_or_default();
    assert!(reason.contains('7'), "{instance:#}");
    // The status has the last words at once; the log has them with its next batch.
    let last_words = &instance["last_exit"]["last_stderr"];
    let needed = "EXAMPLE_KEY is not set";
    assert!(last_words.to_string().contains(needed), "{instance:#}");
    assert!(wait_until_async(&server, id, needed).await);
}

async fn garbage_on_stdout_is_logged_and_the_server_works(database: Database) {
    let server = Server::start(database).await;
    let instance = server.create(json!({"template": "prints-garbage"})).await;
    assert_eq!(instance["status"], "running", "{instance:#}");
    let mut client = Mcp::connect(&instance).await;
    let answer = client.tool("echo", json!({"text": "hello"})).await;
    assert_eq!(answer.as_deref(), Ok("hello"));
    let id = instance["id"].as_str().expect("it has an id");
    let found = wait_until_async(&server, id, "Welcome to the example server!").await;
    assert!(found, "garbage must become log lines");
}

async fn one_that_never_answers_is_given_up_after_its_start_timeout(database: Database) {
    let server = Server::start(database).await;
    let instance = server.create(json!({"template": "never-answers"})).await;
    let id = instance["id"].as_str().expect("it has an id");
    let instance = server.wait_status(id, &["failed"], SOON).await;
    assert!(instance["reason"].is_string(), "{instance:#}");
}

async fn one_that_ignores_every_signal_is_killed_after_its_graces(database: Database) {
    let server = Server::start(database).await;
    let instance = server.create(json!({"template": "ignores-term"})).await;
    let id = instance["id"].as_str().expect("it has an id");
    server.post(&format!("/mcps/{id}/stop"), json!({})).await;
    let instance = server.wait_status(id, &["stopped"], SOON).await;
    assert_eq!(instance["pid"], json!(null), "{instance:#}");
    no_process(&server, "ignores_term.py");
}

async fn grandchildren_die_with_their_server(database: Database) {
    for template in ["double-forks", "holds-pipes"] {
        let server = Server::start(database).await;
        let instance = server.create(json!({"template": template})).await;
        assert_eq!(instance["status"], "running", "{instance:#}");
        let program = format!("{}.py", template.replace('-', "_"));
        let family = || {
            let processes = server.processes().into_iter();
            processes
                .filter(|process| process.command.contains(&program))
                .count()
        };
        assert!(family() >= 2, "{:?}", server.processes());
        let id = instance["id"].as_str().expect("it has an id");
        server.delete(id).await;
        no_process(&server, &program);
    }
}

async fn a_flood_on_stderr_is_kept_whole_or_counted(database: Database) {
    let server = Server::start(database).await;
    let body = json!({"template": "floods-stderr", "settings": {"lines": 20_000}});
    let instance = server.create(body).await;
    assert_eq!(instance["status"], "running", "{instance:#}");
    let id = instance["id"].as_str().expect("it has an id");
    assert!(wait_until_async(&server, id, "flood line 19999").await);
}

async fn a_call_is_answered_with_the_cause_when_stdout_closes(database: Database) {
    let server = Server::start(database).await;
    let instance = server.create(json!({"template": "closes-stdout"})).await;
    let mut client = Mcp::connect(&instance).await;
    let answer = client.tool("echo", json!({"text": "hello"})).await;
    let error = answer.expect_err("the server cannot answer any more");
    assert!(error["message"].is_string(), "{error}");
}

async fn a_call_is_answered_with_the_exit_code_when_the_server_dies(database: Database) {
    let server = Server::start(database).await;
    let instance = server.create(json!({"template": "legacy-echo"})).await;
    let mut client = Mcp::connect(&instance).await;
    let answer = client.tool("exit", json!({"code": 13})).await;
    let error = answer.expect_err("the server is dead");
    assert!(error["message"].to_string().contains("13"), "{error}");

    let id = instance["id"].as_str().expect("it has an id");
    let again = server.wait_status(id, &["running"], SOON).await;
    assert_eq!(again["generation"], 2, "{again:#}");
    assert_eq!(again["access_url"], instance["access_url"]);
    let mut client = Mcp::connect(&instance).await;
    let answer = client.tool("echo", json!({"text": "back"})).await;
    assert_eq!(answer.as_deref(), Ok("back"));
}

async fn a_large_answer_comes_whole(database: Database) {
    let server = Server::start(database).await;
    let instance = server.create(json!({"template": "legacy-echo"})).await;
    let mut client = Mcp::connect(&instance).await;
    let bytes = 5_000_000;
    let answer = client.tool("big", json!({"bytes": bytes})).await;
    assert_eq!(answer.map(|text| text.len()), Ok(bytes));
}

fn no_process(server: &Server, program: &str) {
    let gone = wait_until(Duration::from_secs(5), || {
        let found = server.processes();
        let any = found
            .iter()
            .any(|process| process.command.contains(program));
        (!any).then_some(())
    });
    assert!(gone.is_some(), "{:?}", server.processes());
}

/// Whether a log line of the instance comes to hold this text.
async fn wait_until_async(server: &Server, id: &str, text: &str) -> bool {
    let deadline = std::time::Instant::now() + SOON;
    let path = format!("/mcps/{id}/logs");
    while std::time::Instant::now() < deadline {
        let page = server
            .call(reqwest::Method::GET, &search(&path, text), None)
            .await
            .1;
        if page["items"]
            .as_array()
            .is_some_and(|items| !items.is_empty())
        {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await; // poll
    }
    false
}

/// The search of the log API, with the text encoded.
fn search(path: &str, text: &str) -> String {
    let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("{path}?text={encoded}")
}
