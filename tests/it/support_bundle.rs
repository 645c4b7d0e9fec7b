//! `minimcp support-bundle`: everything that one needs is in it, and nothing that was planted as a secret.

use std::{
    collections::BTreeMap, fs, io::Read as _, os::unix::fs::PermissionsExt as _, path::Path,
    process::Stdio,
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    harness::{Database, Server, on_both_databases},
    mcp::Mcp,
};

on_both_databases! {
    a_bundle_holds_the_state_and_no_secret,
}

/// The files of a bundle.
fn opened(file: &Path) -> BTreeMap<String, String> {
    let file = fs::File::open(file).expect("the bundle is there");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut parts = BTreeMap::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("whole");
        let name = entry.path().expect("a path").display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("text");
        let name = name.strip_prefix("minimcp-support/").expect("one folder");
        parts.insert(name.to_owned(), text);
    }
    parts
}

async fn a_bundle_holds_the_state_and_no_secret(database: Database) {
    let server = Server::start(database).await;
    let planted = "planted-credential-4711";
    let credential = json!({"name": "planted", "value": planted});
    server.post("/credentials", credential).await;
    let instance = server
        .create(json!({"template": "demo", "name": "first"}))
        .await;
    let mut client = Mcp::connect(&instance).await;
    client
        .tool("echo", json!({"text": "x"}))
        .await
        .expect("it echoes");
    let fresh = json!({"name": "second"});
    let path = "/mcps/first/access-tokens";
    let (status, second) = server.call(Method::POST, path, Some(fresh)).await;
    assert!(status.is_success(), "{second}");

    let home = tempfile::tempdir().expect("a folder");
    let log = home.path().join("serve.log");
    let secrets = [
        planted.to_owned(),
        server.admin_token(),
        instance["access_token"]
            .as_str()
            .expect("shown once")
            .to_owned(),
        second["access_token"]
            .as_str()
            .expect("shown once")
            .to_owned(),
        "planted-bearer-1".to_owned(),
        "planted-password-2".to_owned(),
        "planted-environment-3".to_owned(),
        "planted-url-4".to_owned(),
        "planted-query-5".to_owned(),
    ];
    let words = format!(
        "INFO a line of the daemon\nsaw Authorization: Bearer planted-bearer-1\npassword=planted-password-2\n\
         GET http://u:planted-url-4@h/x?key=planted-query-5\nconnect_url http://127.0.0.1:3001/{}/mcp\n{}\n",
        secrets[2], secrets[1],
    );
    fs::write(&log, words).expect("the folder is ours");
    let config = home.path().join("config.toml");
    let text = "[database]\nurl = \"postgres://someone:planted-password-2@db.example.com/x\"\n";
    fs::write(&config, text).expect("the folder is ours");
    let file = home.path().join("bundle.tar.gz");
    let bundle = || {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_minimcp"));
        command
            .arg("support-bundle")
            .arg(&file)
            .arg("--log")
            .arg(&log)
            .arg("--config")
            .arg(&config)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home.path())
            .env("MINIMCP_API_URL", server.url())
            .env("MINIMCP_TOKEN_FILE", &server.config().api.admin_token_file)
            .env("SOME_SERVICE_PASSWORD", "planted-environment-3")
            .current_dir(home.path())
            .stdin(Stdio::null());
        command
    };
    let said = bundle().output().await.expect("it starts");
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    let mode = fs::metadata(&file).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let parts = opened(&file);
    for (name, text) in &parts {
        for secret in &secrets {
            assert!(
                !text.contains(secret.as_str()),
                "{secret} is in {name}:\n{text}"
            );
        }
        assert!(!text.contains("mmcp_"), "a token is in {name}:\n{text}");
    }
    let value = |name: &str| -> Value { serde_json::from_str(&parts[name]).expect("JSON") };
    assert_eq!(value("instances.json")["items"][0]["name"], "first");
    let events = value("events.json");
    let kinds = events["first"]
        .as_array()
        .expect("events")
        .iter()
        .map(|event| event["kind"].clone());
    assert!(kinds.clone().any(|kind| kind == "created"), "{events}");
    let facts = value("diagnostics.json");
    assert!(facts["database"]["schema"].as_i64() >= Some(6), "{facts}");
    assert!(facts["database"]["bytes"].as_i64() > Some(0), "{facts}");
    assert_eq!(facts["database"]["instances"], 1, "{facts}");
    assert_eq!(facts["logs"]["dropped"], 0, "{facts}");
    assert!(facts["database"]["log_bytes"].as_u64() <= facts["database"]["log_bytes_max"].as_u64());
    let spools: Vec<&str> = facts["spools"]
        .as_array()
        .expect("spools")
        .iter()
        .filter(|spool| spool["bytes_max"].as_u64() > spool["bytes"].as_u64())
        .filter_map(|spool| spool["name"].as_str())
        .collect();
    assert_eq!(spools, ["logs", "calls"], "{facts}");
    let doctor = value("doctor.json");
    let told = |part: &str| {
        doctor
            .as_array()
            .expect("checks")
            .iter()
            .any(|check| check["part"] == part)
    };
    assert!(
        ["kernel", "daemon", "sandbox", "database size", "spool"]
            .iter()
            .all(|part| told(part)),
        "{doctor}"
    );
    assert_eq!(value("readiness.json")["ready"], true);
    assert!(
        value("tasks.json")["items"]
            .as_array()
            .is_some_and(|tasks| tasks.len() > 5)
    );
    assert_eq!(value("versions.json")["minimcp"], env!("CARGO_PKG_VERSION"));
    assert!(
        value("config.json")["database"]["url"]
            .as_str()
            .is_some_and(|url| url.contains("db.example.com"))
    );
    assert!(parts["metrics.txt"].contains("minimcp_instances{status=\"running\"} 1"));
    assert!(parts["system.txt"].contains("Linux version"));
    assert!(parts["logs/0-serve.log"].starts_with("INFO a line of the daemon\n"));
    for name in ["units.txt", "journal.txt"] {
        assert!(
            !parts[name].is_empty(),
            "{name}: what it says, or why it says nothing"
        );
    }
    // A file that is there is not written over.
    let again = bundle().output().await.expect("it starts");
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists"));
}
