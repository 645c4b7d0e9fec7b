//! Servers elsewhere (transport `remote`): real ones, over HTTP and HTTPS, behind the same URLs, tokens and records as
//! children of ours.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use minimcp::config::Config;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    fixtures,
    harness::{Database, Server, free_port, on_both_databases, wait_until},
    mcp::{Mcp, SDKS, sdk},
    source,
    stateless_client::Stateless,
};

on_both_databases! {
    a_server_elsewhere_is_served_as_any_other,
    it_is_spoken_with_on_by_the_next_daemon,
}

const SOON: Duration = Duration::from_secs(60);
pub const SECRET: &str = "s3cret-of-the-remote";

/// A server that is none of the daemon's.
pub struct Elsewhere {
    folder: TempDir,
    /// Where it listens.
    pub port: u16,
    process: Child,
}

impl Elsewhere {
    /// One of the session era, or stateless; `certificate`: with its key in one file.
    pub fn start(era: &str, certificate: Option<&Path>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let mut command = Command::new("python3");
        command
            .arg(source::root().join("tests/fixtures/servers/remote.py"))
            .env("PORT", port.to_string())
            .env("ERA", era)
            .env("TOKEN", SECRET)
            .env("FAULT", folder.path().join("fault"))
            .env("REQUESTS", folder.path().join("requests"))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        if let Some(certificate) = certificate {
            command.env("CERTIFICATE", certificate);
        }
        Self::run(command, folder, port)
    }

    fn run(mut command: Command, folder: TempDir, port: u16) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = command.spawn().expect("python3 is there");
        let it = Self {
            folder,
            port,
            process,
        };
        let listens = || std::net::TcpStream::connect(("127.0.0.1", port)).ok();
        assert!(wait_until(SOON, listens).is_some(), "it does not listen");
        it
    }

    fn set_fault(&self, fault: &str) {
        fs::write(self.folder.path().join("fault"), fault).expect("the folder is ours");
    }

    /// What it was asked so far.
    pub fn requests(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("requests")).unwrap_or_default();
        let lines = text.lines();
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// A template for it, in the folder of this server's templates.
    pub fn write_template(&self, config: &Config, url: &str, more: &str) {
        let text = format!(
            r#"
schema = 1
name = "elsewhere"
title = "Elsewhere"
description = "A server elsewhere."

[server]
transport = "remote"
url = "{url}"

[server.headers]
Authorization = "Bearer {{credential.ELSEWHERE_TOKEN}}"
X-Team = "{{setting.team}}"

[[credential]]
name = "ELSEWHERE_TOKEN"
title = "Its token"

[[setting]]
name = "team"
title = "Team"
type = "string"

{more}
"#
        );
        let folder = config.runtime.template_dirs[0].join("elsewhere");
        fs::create_dir_all(&folder).expect("the folder is ours");
        fs::write(folder.join("template.toml"), text).expect("the folder is ours");
    }

    /// A daemon with a template for it.
    async fn server(&self, database: Database, more: &str) -> Server {
        let url = format!("http://127.0.0.1:{}/mcp", self.port);
        let server = Server::start_with(database, |config| {
            self.write_template(config, &url, more);
        });
        let server = server.await;
        store(&server, SECRET).await;
        server
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub async fn store(server: &Server, value: &str) {
    let credential = json!({"name": "work", "value": value});
    let (status, answer) = server
        .call(Method::PUT, "/credentials/work", Some(credential))
        .await;
    assert!(status.is_success(), "{answer}");
}

pub fn wish() -> Value {
    json!({"template": "elsewhere", "credentials": {"ELSEWHERE_TOKEN": "work"},
        "settings": {"team": "blue"}})
}

fn id_of(instance: &Value) -> &str {
    instance["id"].as_str().expect("it has an id")
}

pub async fn running(server: &Server) -> Value {
    let instance = server.create(wish()).await;
    assert_eq!(
        instance["status"],
        "running",
        "{instance:#}\n{}",
        server.log()
    );
    instance
}

/// The lines of its log, once one of them holds `words`.
async fn log_with(server: &Server, id: &str, words: &str) -> String {
    let deadline = Instant::now() + SOON;
    loop {
        let log = server.get(&format!("/mcps/{id}/logs?limit=200")).await;
        if log.to_string().contains(words) {
            return log.to_string();
        }
        assert!(Instant::now() < deadline, "no {words:?} in {log:#}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

async fn a_server_elsewhere_is_served_as_any_other(database: Database) {
    let elsewhere = Elsewhere::start("session", None);
    let server = elsewhere.server(database, "").await;
    let instance = running(&server).await;
    let id = id_of(&instance);
    let url = format!("http://127.0.0.1:{}/mcp", elsewhere.port);
    assert_eq!(instance["remote"], url);
    for (key, nothing) in [
        ("pid", Value::Null),
        ("isolation", json!({})),
        ("limits", json!({})),
    ] {
        assert_eq!(instance[key], nothing, "{key}");
    }
    assert_eq!(instance["server"]["tools"][0], "echo", "{instance:#}");
    let host = format!("127.0.0.1:{}", elsewhere.port);
    let shown = server.get(&format!("/mcps/{id}")).await;
    assert_eq!(shown["egress"]["hosts"], json!([host]));
    assert_eq!(shown["egress"]["reached_hosts"][0]["host"], host);
    let processes = server.processes();
    let named = |name: &str| {
        processes
            .iter()
            .any(|process| process.command.contains(name))
    };
    assert!(!named(" init") && !named("remote.py"), "{processes:?}");

    // A client of its own era is relayed; one of the other is translated.
    let mut client = Mcp::connect(&instance).await;
    let said = client.tool("echo", json!({"text": "é"})).await;
    assert_eq!(said.as_deref(), Ok("é"));
    assert_eq!(client.end().await, StatusCode::OK);
    let other = Stateless::new(&instance);
    assert_eq!(other.tool("echo", json!({"text": "ü"})).await.text(), "ü");
    let calls = wait_for_calls(&server, id, 2).await;
    assert!(
        calls.iter().all(|call| call["outcome"] == "ok"),
        "{calls:?}"
    );

    let requests = elsewhere.requests();
    assert!(requests.len() > 5, "{requests:?}");
    for request in &requests {
        assert_eq!(request["unknown"], json!([]), "{request}");
        assert_eq!(request["team"], "blue", "{request}");
        let agent = request["agent"].as_str().expect("it has one");
        assert!(agent.starts_with("minimcp/"), "{request}");
    }
    let log = log_with(&server, id, "connected: ").await;
    assert!(log.contains(&format!("connecting to {url}")), "{log}");
    assert!(!log.contains(SECRET), "{log}");

    // A stop is told to the server; a start begins anew behind the same URL.
    server.post(&format!("/mcps/{id}/stop"), json!({})).await;
    server.wait_status(id, &["stopped"], SOON).await;
    let ended = wait_until(SOON, || {
        let requests = elsewhere.requests();
        let deleted = |request: &&Value| request["method"] == "DELETE";
        (requests.iter().filter(deleted).count() >= 2).then_some(())
    });
    assert!(ended.is_some(), "{:?}", elsewhere.requests());
    server.post(&format!("/mcps/{id}/start"), json!({})).await;
    let again = server.wait_status(id, &["running"], SOON).await;
    assert_eq!(again["generation"], 2);
    assert_eq!(again["last_exit"]["cause"], "was disconnected");
    let mut client = Mcp::connect(&instance).await;
    let said = client.tool("echo", json!({"text": "again"})).await;
    assert_eq!(said.as_deref(), Ok("again"));
    server.delete(id).await;
    assert!(!server.log().contains(SECRET));
}

async fn wait_for_calls(server: &Server, id: &str, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + SOON;
    loop {
        let calls = server.get(&format!("/mcps/{id}/calls")).await;
        let items = calls["items"].as_array().expect("a list").clone();
        if items.len() >= count {
            return items;
        }
        assert!(Instant::now() < deadline, "{calls:#}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

async fn it_is_spoken_with_on_by_the_next_daemon(database: Database) {
    let elsewhere = Elsewhere::start("session", None);
    let mut server = elsewhere.server(database, "").await;
    let instance = running(&server).await;
    let other = Stateless::new(&instance);
    assert_eq!(other.tool("sessions", json!({})).await.text(), "1");
    server.kill();
    server.launch().await;
    let now = server
        .wait_status(id_of(&instance), &["running"], SOON)
        .await;
    assert_eq!(now["generation"], 1, "{now:#}");
    assert_eq!(now["server"], instance["server"]);
    let sessions = other.tool("sessions", json!({})).await;
    assert_eq!(sessions.text(), "1", "the session of the former daemon");
    // A session that it forgot is opened anew.
    assert_eq!(other.tool("forget", json!({})).await.text(), "forgotten");
    assert_eq!(other.tool("sessions", json!({})).await.text(), "2");
}

#[tokio::test]
async fn its_faults_are_told_to_clients_with_what_to_do() {
    let elsewhere = Elsewhere::start("session", None);
    let server = elsewhere.server(Database::Sqlite, "").await;
    let instance = running(&server).await;
    let mut client = Mcp::connect(&instance).await;
    let other = Stateless::new(&instance);
    for (fault, words) in [
        ("401", "refuses the credential work (ELSEWHERE_TOKEN) (401)"),
        ("403", "forbids us this (403)"),
        ("429", "asked too often (429)"),
        ("503", "fault of its own (503)"),
        ("404", "503 or 404"),
        ("page", "answers with text/html"),
        ("cut", "did not answer"),
        ("302 /moved", "set its URL to that"),
        ("307 http://127.0.0.1:1/mcp", "sends us to another host"),
    ] {
        elsewhere.set_fault(fault);
        let relayed = client.tool("echo", json!({"text": "x"})).await;
        let translated = other.tool("echo", json!({"text": "x"})).await.response;
        if fault == "404" {
            // To a client with a session this is the end of it; without one the URL is wrong.
            let relayed = relayed.expect_err("it has a fault");
            assert_eq!(relayed["status"], 404, "{relayed}");
            continue;
        }
        for error in [
            relayed.expect_err("it has a fault"),
            translated["error"].clone(),
        ] {
            let text = error["message"]
                .as_str()
                .unwrap_or_else(|| panic!("{error}"));
            assert!(text.contains(words), "{fault}: {text}");
            assert!(!error.to_string().contains(SECRET), "{error}");
        }
    }
    // Within its own origin it may move.
    elsewhere.set_fault("308 /moved");
    for _ in 0..2 {
        let said = client.tool("echo", json!({"text": "moved"})).await;
        assert_eq!(said.as_deref(), Ok("moved"));
    }
    let moved = |request: &&Value| request["path"] == "/moved";
    assert!(elsewhere.requests().iter().filter(moved).count() >= 2);
}

#[tokio::test]
async fn its_faults_are_its_state_until_they_are_over() {
    let elsewhere = Elsewhere::start("session", None);
    let probes = "[health]\ninterval = \"100ms\"\ntimeout = \"1s\"\nfailure_threshold = 2\nstart_timeout = \"3s\"\n\
                  [restart]\nbackoff_initial = \"100ms\"\nbackoff_max = \"200ms\"";
    let server = elsewhere.server(Database::Sqlite, probes).await;
    let instance = running(&server).await;
    let id = id_of(&instance);
    for (fault, words) in [
        ("401", "(401)"),
        ("503", "(503)"),
        ("page", "text/html"),
        ("slow", "did not answer"),
    ] {
        elsewhere.set_fault(fault);
        let down = server.wait_status(id, &["backing-off"], SOON).await;
        let reason = down["reason"].as_str().expect("it says why");
        assert!(reason.contains(words), "{fault}: {reason}");
        assert!(!down.to_string().contains(SECRET), "{down}");
        elsewhere.set_fault("");
        server.wait_status(id, &["running"], SOON).await;
    }
    let log = log_with(&server, id, "a probe failed").await;
    assert!(log.contains("was disconnected: "), "{log}");
    // A credential that is replaced is what the next try uses.
    store(&server, "another").await;
    elsewhere.set_fault("401");
    server.wait_status(id, &["backing-off"], SOON).await;
    elsewhere.set_fault("");
    server.wait_status(id, &["backing-off"], SOON).await;
    store(&server, SECRET).await;
    server.wait_status(id, &["running"], SOON).await;
    // It is gone altogether, and a caller is not left to wait.
    drop(elsewhere);
    let down = server.wait_status(id, &["backing-off"], SOON).await;
    let reason = down["reason"].as_str().expect("it says why");
    assert!(reason.contains("cannot be reached"), "{reason}");
    server.post(&format!("/mcps/{id}/stop"), json!({})).await;
    server.wait_status(id, &["stopped"], SOON).await;
}

#[tokio::test]
async fn a_caller_is_told_at_once_what_is_wrong() {
    let elsewhere = Elsewhere::start("session", None);
    let slow = "[restart]\nbackoff_initial = \"20s\"\nbackoff_max = \"60s\"";
    let server = elsewhere.server(Database::Sqlite, slow).await;
    elsewhere.set_fault("401");
    let instance = server.create(wish()).await;
    assert_eq!(instance["status"], "backing-off", "{instance:#}");
    let answer = Stateless::new(&instance)
        .tool("echo", json!({"text": "x"}))
        .await;
    let text = answer.response["error"]["message"]
        .as_str()
        .expect("an error");
    assert!(
        text.contains("the credential work (ELSEWHERE_TOKEN)"),
        "{text}"
    );
}

#[tokio::test]
async fn a_stateless_server_elsewhere_is_used_by_clients_of_both_eras() {
    let elsewhere = Elsewhere::start("stateless", None);
    let server = elsewhere.server(Database::Sqlite, "").await;
    let instance = running(&server).await;
    let said = Stateless::new(&instance)
        .tool("echo", json!({"text": "é"}))
        .await;
    assert_eq!(said.text(), "é");
    let mut client = Mcp::connect(&instance).await;
    let arguments = json!({"region": "Zürich ", "deep": {"n": 5}});
    let placed = client.tool("in-region", arguments).await;
    assert!(placed.is_ok(), "{placed:?}");
    for request in elsewhere.requests() {
        assert_eq!(request["unknown"], json!([]), "{request}");
    }
}

#[tokio::test]
async fn every_sdk_uses_an_sdk_server_elsewhere() {
    let Some(deps) = fixtures::deps() else { return };
    for major in ["1", "2"] {
        let port = free_port();
        let mut command = Command::new(deps.join(format!("python-sdk{major}/bin/python")));
        command
            .arg(source::root().join("tests/fixtures/servers/http_sdk.py"))
            .env("PORT", port.to_string())
            .env("SDK_MAJOR", major)
            .stderr(Stdio::null());
        let folder = tempfile::tempdir().expect("a folder");
        let elsewhere = Elsewhere::run(command, folder, port);
        let server = elsewhere.server(Database::Sqlite, "").await;
        let instance = running(&server).await;
        for name in SDKS {
            let report = sdk(name, &instance, "echo", &json!({"text": "hi"})).await;
            let report = report.expect("the SDKs are there");
            assert!(report.to_string().contains("hi"), "{name}: {report}");
        }
    }
}

#[tokio::test]
async fn what_leads_inside_or_is_denied_is_not_reached() {
    let elsewhere = Elsewhere::start("session", None);
    let url = format!("http://127.0.0.1:{}/mcp", elsewhere.port);
    let server = Server::start_with(Database::Sqlite, |config| {
        elsewhere.write_template(config, &url, "");
        config.sandbox.allow_private.clear();
    });
    let server = server.await;
    store(&server, SECRET).await;
    let instance = server.create(wish()).await;
    let reason = instance["reason"].as_str().expect("it says why");
    assert!(reason.contains("sandbox.allow_private"), "{reason}");
    assert_eq!(elsewhere.requests(), Vec::<Value>::new());
    drop(server);

    let server = Server::start_with(Database::Sqlite, |config| {
        elsewhere.write_template(config, &url, "");
        config.sandbox.deny_hosts = vec!["127.0.0.1".parse().expect("an address")];
    });
    let server = server.await;
    store(&server, SECRET).await;
    let (status, problem) = server.call(Method::POST, "/mcps", Some(wish())).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem:#}");
    assert!(
        problem.to_string().contains("sandbox.deny_hosts"),
        "{problem:#}"
    );
}
