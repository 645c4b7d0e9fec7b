//! The gate where servers keep the host's root: names and hosts by the same rules, under the profile relaxed.

use std::fs;

use serde_json::{Value, json};

use crate::{
    egress::{NAME, Site},
    harness::{Database, Server},
    mcp::Mcp,
    source,
};

#[tokio::test]
async fn names_are_resolved_by_the_gate_under_the_profile_relaxed_too() {
    let site = Site::answering(|_| {
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello".to_owned()
    });
    let port = site.port;
    let fixtures = source::root().join("tests/fixtures");
    let manifest = fs::read_to_string(fixtures.join("templates/reaches/template.toml"));
    let servers = fixtures.join("servers");
    let manifest = manifest
        .expect("it is in the tree")
        .replace("@SERVERS@", servers.to_str().expect("a plain path"))
        .replacen("name = \"reaches\"", "name = \"reaches-relaxed\"", 1);
    let own = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(own.path().join("reaches-relaxed")).expect("ours");
    let file = own.path().join("reaches-relaxed/template.toml");
    fs::write(file, manifest + "\n[sandbox]\nprofile = \"relaxed\"\n").expect("ours");
    let folder = own.path().to_owned();
    let server = Server::start_with(Database::Sqlite, |config| {
        config.runtime.template_dirs.push(folder);
        config.sandbox.weakest_profile = minimcp::domain::sandbox::Profile::Relaxed;
        config.sandbox.allow_private = vec![format!("127.0.0.1:{port}").parse().expect("one")];
        config.sandbox.host_addresses = vec![format!("{NAME}=127.0.0.1").parse().expect("a name")];
    })
    .await;
    let body = json!({"template": "reaches-relaxed",
        "settings": {"ca_file": site.certificate(), "hosts": [format!("{NAME}:{port}")]}});
    let instance = server.create(body).await;
    assert_eq!(
        instance["status"],
        "running",
        "{instance:#}\n{}",
        server.log()
    );
    assert_eq!(instance["isolation"]["profile"], "relaxed");
    let mut client = Mcp::connect(&instance).await;
    let mut ask = async |tool: &str, arguments: Value| {
        let answer = client.tool(tool, arguments).await;
        answer.unwrap_or_else(|error| format!("no answer: {error}"))
    };
    let url = json!({"url": format!("https://{NAME}:{port}/")});
    assert_eq!(ask("fetch", url.clone()).await, "hello");
    assert_eq!(ask("fetch_by_node", url).await, "hello");
    let addresses = ask("resolve", json!({"name": NAME})).await;
    assert!(addresses.contains("198.1"), "{addresses}");
    for (host, port, stopped) in [
        ("evil.example", 443, "gai -2"),
        ("127.0.0.1", port, "ECONNRESET"),
        ("1.1.1.1", 443, "ENETUNREACH"),
    ] {
        let answer = ask("connect", json!({"name": host, "port": port})).await;
        assert_eq!(answer, format!("stopped: {stopped}"), "{host}");
    }
}
