//! A server written in Go in the strict sandbox: its scheduler, its threads and its poller ask for nothing that is refused.

use std::{fs, path::Path, process::Command};

use serde_json::json;

use crate::{
    harness::{Database, Server},
    mcp::Mcp,
    source,
};

const MANIFEST: &str = r#"
schema = 1
name = "go-server"
title = "Go"
description = "A test fixture: see its program."

[server]
transport = "stdio"
command = ["@PROGRAM@"]
"#;

/// Builds the fixture, from an empty cache, so that nothing of this machine's user is touched.
fn build(program: &Path, cache: &Path) {
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(program)
        .arg(".")
        .current_dir(source::root().join("tests/fixtures/servers/go_server"))
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-trimpath -buildvcs=false")
        .env("GOCACHE", cache)
        .env("GOPATH", cache)
        .env("GOPROXY", "off")
        .output()
        .expect("Go is not installed: run ./tests/run, or install golang-go");
    let told = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{told}");
}

#[tokio::test]
async fn a_go_server_works_in_the_strict_sandbox_and_is_refused_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (program, cache) = (folder.path().join("go-server"), folder.path().join("cache"));
    fs::create_dir(&cache).expect("the folder is ours");
    build(&program, &cache);
    fs::remove_dir_all(&cache).expect("it is ours");
    let template = folder.path().join("templates/go-server");
    fs::create_dir_all(&template).expect("the folder is ours");
    let manifest = MANIFEST.replace("@PROGRAM@", program.to_str().expect("a plain path"));
    fs::write(template.join("template.toml"), manifest).expect("the folder is ours");
    // An instance's own user passes through.
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), all).expect("the folder is ours");

    let server = Server::start_with(Database::Sqlite, |config| {
        config
            .runtime
            .template_dirs
            .push(folder.path().join("templates"));
    })
    .await;
    let instance = server.create(json!({"template": "go-server"})).await;
    assert_eq!(instance["status"], "running", "{instance:#}");
    let mut client = Mcp::connect(&instance).await;
    assert_eq!(client.tools().await, ["work"]);
    let told = client.tool("work", json!({"text": "hello"})).await;
    assert_eq!(told.as_deref(), Ok("threads=8 files=8 heard=hello"));

    let path = format!("/mcps/{}", instance["id"].as_str().expect("it has an id"));
    let now = server.get(&path).await;
    let profile = now["isolation"]["profile"].as_str();
    assert_eq!(profile, Some("strict"), "{now:#}");
    assert_eq!(now["denials"]["total"], 0, "{now:#}");
    server.delete(instance["id"].as_str().expect("an id")).await;
}
