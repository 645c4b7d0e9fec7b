//! The shipped templates, for real: the official reference servers as they are installed, and our own servers for
//! GitHub, Figma and Gmail against a loopback upstream. No credential may be found where it does not belong.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command, time::Duration};

use axum::{
    Json, Router,
    routing::{get, post},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    fixtures,
    harness::{Database, Server, on_both_databases},
    leaks::assert_nowhere,
    mcp::Mcp,
    source,
};

#[path = "../../mcp-templates/rest/tests/support/fake.rs"]
pub mod fake;
use fake::Fake;

on_both_databases! {
    everything_and_time_answer,
    the_filesystem_server_keeps_to_its_folder,
    memory_survives_a_restart_and_belongs_to_one_instance,
    git_reads_the_repository_it_is_given,
    fetch_reads_a_page_and_keeps_away_from_this_machine,
    github_and_figma_use_their_credentials_and_show_them_nowhere,
    figma_writes_pictures_into_the_folder_of_its_instance,
    gmail_signs_in_with_a_stored_json_and_shows_it_nowhere,
    a_credential_that_is_not_there_is_pointed_at,
    an_absent_program_is_told_with_its_hint_until_it_is_installed,
}

/// How long an instance may take to be what a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server, or `None` where the reference servers are not installed.
async fn reference_server(database: Database) -> Option<Server> {
    fixtures::deps()?;
    Some(Server::start(database).await)
}

/// Creates an instance, asserts that it is ready and that its status shows the tools it serves.
async fn ready(server: &Server, body: Value) -> (Value, Mcp) {
    let instance = server.create(body).await;
    assert_eq!(
        instance["status"],
        "running",
        "{instance:#}\n{}",
        server.log()
    );
    let mut client = Mcp::connect(&instance).await;
    let tools = client.tools().await;
    assert!(!tools.is_empty(), "{instance:#}");
    assert_eq!(instance["server"]["tools"], json!(tools), "{instance:#}");
    (instance, client)
}

async fn text(client: &mut Mcp, tool: &str, arguments: Value) -> String {
    let answer = client.tool(tool, arguments).await;
    answer.unwrap_or_else(|error| panic!("{tool}: {error}"))
}

fn id(instance: &Value) -> &str {
    instance["id"].as_str().expect("it has an id")
}

/// The instance's own folder.
fn folder(server: &Server, instance: &Value) -> PathBuf {
    server.config().runtime.instance_dir.join(id(instance))
}

async fn everything_and_time_answer(database: Database) {
    let Some(server) = reference_server(database).await else {
        return;
    };
    let (_, mut client) = ready(&server, json!({"template": "everything"})).await;
    let answer = text(&mut client, "echo", json!({"message": "hello"})).await;
    assert_eq!(answer, "Echo: hello");

    let body = json!({"template": "time", "settings": {"local_timezone": "Europe/Berlin"}});
    let (_, mut client) = ready(&server, body).await;
    let arguments =
        json!({"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"});
    let answer = text(&mut client, "convert_time", arguments).await;
    assert!(answer.contains("T21:00:00+09:00"), "{answer}");
}

async fn the_filesystem_server_keeps_to_its_folder(database: Database) {
    let Some(server) = reference_server(database).await else {
        return;
    };
    let (instance, mut client) = ready(&server, json!({"template": "filesystem"})).await;
    let file = folder(&server, &instance).join("note.txt");
    let arguments = json!({"path": file, "content": "remember"});
    text(&mut client, "write_file", arguments).await;
    assert_eq!(fs::read_to_string(&file).ok().as_deref(), Some("remember"));
    let answer = text(&mut client, "read_text_file", json!({"path": file})).await;
    assert_eq!(answer, "remember");
    let outside = server.config().secrets.key_file.clone();
    let answer = text(&mut client, "read_text_file", json!({"path": outside})).await;
    assert!(answer.contains("Access denied"), "{answer}");

    let shared = tempfile::tempdir().expect("a temporary folder");
    fs::write(shared.path().join("plan.txt"), "shared plan").expect("the folder is ours");
    let body = json!({"template": "filesystem", "settings": {"folders": [shared.path()]}});
    let (_, mut client) = ready(&server, body).await;
    let arguments = json!({"path": shared.path().join("plan.txt")});
    let answer = text(&mut client, "read_text_file", arguments).await;
    assert_eq!(answer, "shared plan");
}

async fn memory_survives_a_restart_and_belongs_to_one_instance(database: Database) {
    let Some(server) = reference_server(database).await else {
        return;
    };
    let (instance, mut client) = ready(&server, json!({"template": "memory"})).await;
    let entity = json!({"name": "Ann", "entityType": "person", "observations": ["likes tea"]});
    text(
        &mut client,
        "create_entities",
        json!({"entities": [entity]}),
    )
    .await;
    relaunch(&server, &instance).await;
    let path = format!("/mcps/{}", id(&instance));
    assert_eq!(server.get(&path).await["generation"], 2);
    let mut client = Mcp::connect(&instance).await;
    let graph = text(&mut client, "read_graph", json!({})).await;
    assert!(graph.contains("likes tea"), "{graph}");

    let (_, mut other) = ready(&server, json!({"template": "memory"})).await;
    let graph = text(&mut other, "read_graph", json!({})).await;
    assert!(!graph.contains("likes tea"), "{graph}");
}

async fn git_reads_the_repository_it_is_given(database: Database) {
    let Some(server) = reference_server(database).await else {
        return;
    };
    let repository = tempfile::tempdir().expect("a temporary folder");
    let git = |arguments: &[&str]| {
        let done = Command::new("git")
            .args(["-c", "user.name=it", "-c", "user.email=it@example.com"])
            .args(arguments)
            .current_dir(repository.path())
            .output()
            .expect("git is installed");
        assert!(done.status.success(), "{arguments:?}: {done:?}");
    };
    git(&["init", "--quiet"]);
    fs::write(repository.path().join("a.txt"), "one\n").expect("the folder is ours");
    git(&["add", "a.txt"]);
    git(&["commit", "--quiet", "--message", "Begin at the beginning"]);
    let body = json!({"template": "git", "settings": {"repository": repository.path()}});
    let (_, mut client) = ready(&server, body).await;
    let arguments = json!({"repo_path": repository.path()});
    let answer = text(&mut client, "git_log", arguments).await;
    assert!(answer.contains("Begin at the beginning"), "{answer}");
    fs::write(repository.path().join("a.txt"), "two\n").expect("the folder is ours");
    let arguments = json!({"repo_path": repository.path()});
    let answer = text(&mut client, "git_diff_unstaged", arguments).await;
    assert!(answer.contains("+two"), "{answer}");

    let body = json!({"template": "git"});
    let (status, problem) = server.call(Method::POST, "/mcps", Some(body)).await;
    assert_eq!(
        (status, &problem["violations"][0]["pointer"]),
        (
            StatusCode::UNPROCESSABLE_ENTITY,
            &json!("/settings/repository")
        ),
        "{problem}"
    );
}

async fn fetch_reads_a_page_and_keeps_away_from_this_machine(database: Database) {
    if fixtures::deps().is_none() {
        return;
    }
    let page =
        "<html><body><article><h1>Title</h1><p>A page of the test.</p></article></body></html>";
    let html = move || async move { axum::response::Html(page) };
    let site = Fake::start(Router::new().route("/page", get(html)), None).await;
    let host = site.url.trim_start_matches("http://").to_owned();
    let arguments = json!({"url": format!("{}/page", site.url)});
    let body = json!({"template": "fetch", "settings": {"user_agent": "it/1", "hosts": [host]}});

    let closed = Server::start_with(database, |config| config.sandbox.allow_private.clear()).await;
    let (instance, mut client) = ready(&closed, body.clone()).await;
    let answer = text(&mut client, "fetch", arguments.clone()).await;
    assert!(!answer.contains("A page of the test."), "{answer}");
    assert!(site.take_seen().is_empty());
    let egress = closed.get(&format!("/mcps/{}", id(&instance))).await["egress"].clone();
    assert_eq!(egress["hosts"], json!([host]), "{egress}");
    assert_eq!(egress["refused_hosts"][0]["host"], json!(host), "{egress}");

    // What an operator opens who wants pages of the own network read.
    let server = Server::start_with(database, |config| {
        config.sandbox.allow_private = vec![host.parse().expect("an address and a port")];
    })
    .await;
    let (_, mut client) = ready(&server, body).await;
    let answer = text(&mut client, "fetch", arguments).await;
    assert!(answer.contains("A page of the test."), "{answer}");
    let seen = site.take_seen();
    let request = seen.iter().find(|seen| seen.path_and_query == "/page");
    let agent = request.map(|seen| seen.headers["user-agent"].to_str().ok());
    assert_eq!(agent, Some(Some("it/1")));
}

/// A value that cannot appear by chance.
fn secret(name: &str) -> String {
    format!("{name}-{}", uuid::Uuid::now_v7().simple())
}

async fn put_credential(server: &Server, name: &str, value: &str) {
    let body = json!({"name": name, "value": value});
    server.post("/credentials", body).await;
}

async fn github_and_figma_use_their_credentials_and_show_them_nowhere(database: Database) {
    let server = Server::start(database).await;
    let me =
        json!({"login": "me", "html_url": "https://github.com/me", "id": "7", "handle": "Ann"});
    for (template, variable, setting, header, prefix, path) in [
        (
            "github",
            "GITHUB_PERSONAL_ACCESS_TOKEN",
            "api_url",
            "authorization",
            "Bearer ",
            "/user",
        ),
        (
            "figma",
            "FIGMA_API_KEY",
            "api_base",
            "x-figma-token",
            "",
            "/v1/me",
        ),
    ] {
        let secrets = [secret("ghp_first"), secret("ghp_second")];
        let answer = me.clone();
        let routes = Router::new().route(path, get(async || Json(answer)));
        let upstream = Fake::start(routes, None).await;
        put_credential(&server, template, &secrets[0]).await;
        let body = json!({"template": template, "credentials": {variable: template},
            "settings": {setting: upstream.url}});
        let (instance, mut client) = ready(&server, body).await;
        text(&mut client, "get_me", json!({})).await;
        let seen = upstream.take_seen().remove(0);
        let given = seen.headers[header].to_str().expect("a text");
        assert_eq!(given, format!("{prefix}{}", secrets[0]));

        let echo = json!({"message": format!("bad token {}", secrets[0])}).to_string();
        upstream.fail(401, &[], &echo);
        let answer = text(&mut client, "get_me", json!({})).await;
        assert!(
            answer.contains("[redacted") && !answer.contains(&secrets[0]),
            "{answer}"
        );

        // A new value takes hold with the next launch.
        let path = format!("/credentials/{template}");
        let body = json!({"value": secrets[1]});
        let (status, answer) = server.call(Method::PUT, &path, Some(body)).await;
        assert!(status.is_success(), "{answer}");
        relaunch(&server, &instance).await;
        let mut client = Mcp::connect(&instance).await;
        text(&mut client, "get_me", json!({})).await;
        let seen = upstream.take_seen().pop().expect("it was asked");
        let given = seen.headers[header].to_str().expect("a text");
        assert_eq!(given, format!("{prefix}{}", secrets[1]));
        assert_nowhere(&server, &instance, &secrets).await;
    }
}

async fn figma_writes_pictures_into_the_folder_of_its_instance(database: Database) {
    let picture: &[u8] = b"\x89PNG\r\n\x1a\nfor the folder";
    // Pictures lie elsewhere, as those of Figma do.
    let pictures = Router::new().route("/pictures/a", get(async move || picture));
    let pictures = Fake::start(pictures, None).await;
    let address = format!("{}/pictures/a", pictures.url);
    let images = async move || Json(json!({"err": null, "images": {"1:2": address}}));
    let routes = Router::new().route("/v1/images/KeY1", get(images));
    let upstream = Fake::start(routes, None).await;
    let own = tempfile::tempdir().expect("a temporary folder");
    let host = pictures.url.trim_start_matches("http://");
    let manifest = fs::read_to_string(source::root().join("mcp-templates/figma/template.toml"));
    let manifest = manifest.expect("it is in the tree").replacen(
        "\"s3-alpha-sig.figma.com:443\",",
        &format!("{host:?},"),
        1,
    );
    assert!(manifest.contains(host));
    fs::create_dir(own.path().join("figma")).expect("ours");
    fs::write(own.path().join("figma/template.toml"), manifest).expect("ours");
    let icon = source::root().join("mcp-templates/figma/icon.svg");
    fs::copy(icon, own.path().join("figma/icon.svg")).expect("it is in the tree");
    let changed = own.path().to_owned();
    let server = Server::start_with(database, |config| {
        config.runtime.template_dirs.push(changed);
    })
    .await;
    let token = secret("figma");
    put_credential(&server, "pictures", &token).await;
    let body = json!({"template": "figma", "credentials": {"FIGMA_API_KEY": "pictures"},
        "settings": {"api_base": upstream.url}});
    let (instance, mut client) = ready(&server, body).await;
    let arguments = json!({"fileKey": "KeY1", "localPath": "images/icons",
        "nodes": [{"nodeId": "1:2", "fileName": "a.png"}]});
    let answer = text(&mut client, "download_figma_images", arguments).await;
    assert!(answer.contains("images/icons/a.png"), "{answer}");
    let written = fs::read(folder(&server, &instance).join("images/icons/a.png"));
    assert_eq!(written.ok().as_deref(), Some(picture));
    assert_eq!(upstream.take_seen()[0].headers["x-figma-token"], *token);
    let seen = pictures.take_seen();
    assert!(
        !seen[0].headers.contains_key("x-figma-token"),
        "the token stays with the API"
    );
    assert_nowhere(&server, &instance, &[token]).await;
}

/// Stops the instance and starts it again.
async fn relaunch(server: &Server, instance: &Value) {
    relaunch_until(server, instance, "running").await;
}

/// Stops the instance, starts it again and waits for a status; gives the instance.
async fn relaunch_until(server: &Server, instance: &Value, status: &str) -> Value {
    let path = format!("/mcps/{}", id(instance));
    server.post(&format!("{path}/stop"), json!({})).await;
    server
        .wait_status(id(instance), &["stopped"], PATIENCE)
        .await;
    server.post(&format!("{path}/start"), json!({})).await;
    server.wait_status(id(instance), &[status], PATIENCE).await
}

async fn gmail_signs_in_with_a_stored_json_and_shows_it_nowhere(database: Database) {
    let server = Server::start(database).await;
    let secrets = [secret("client"), secret("refresh"), secret("access")];
    let [client_secret, refresh_token, access_token] = secrets.clone();
    let stored =
        json!({"type": "authorized_user", "client_id": "client-1", "client_secret": client_secret,
        "refresh_token": refresh_token})
        .to_string();
    let token = move |form: String| {
        // The values hold nothing that a form would encode.
        let good = form.contains(&client_secret) && form.contains(&refresh_token);
        let token = good.then(|| access_token.clone());
        async move { Json(json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer"})) }
    };
    let labels = json!({"labels": [{"id": "INBOX", "name": "INBOX", "type": "system"}]});
    let routes = Router::new()
        .route("/token", post(token))
        .route("/gmail/v1/users/me/labels", get(async || Json(labels)));
    let upstream = Fake::start(routes, None).await;
    put_credential(&server, "mail", &stored).await;
    let body = json!({"template": "gmail", "credentials": {"GMAIL_CREDENTIALS": "mail"},
        "settings": {"api_base_url": upstream.url, "token_uri": format!("{}/token", upstream.url)}});
    let (instance, mut client) = ready(&server, body).await;
    let answer = text(&mut client, "list_email_labels", json!({})).await;
    assert!(answer.contains("INBOX"), "{answer}");
    let seen = upstream.take_seen();
    let [sign_in, call] = seen.as_slice() else {
        panic!("one sign-in and one call: {seen:?}");
    };
    assert_eq!(
        (sign_in.method.as_str(), call.method.as_str()),
        ("POST", "GET")
    );
    assert!(sign_in.body.contains(&secrets[1]), "{}", sign_in.body);
    assert_eq!(
        call.headers["authorization"].to_str().ok(),
        Some(format!("Bearer {}", secrets[2]).as_str())
    );
    assert_nowhere(&server, &instance, &secrets).await;
}

async fn a_credential_that_is_not_there_is_pointed_at(database: Database) {
    let server = Server::start(database).await;
    let value = secret("ghp_gone");
    put_credential(&server, "gone", &value).await;
    let body = json!({"template": "github", "name": "orphan",
        "credentials": {"GITHUB_PERSONAL_ACCESS_TOKEN": "gone"}});
    let (instance, _) = ready(&server, body).await;
    let (status, problem) = server.call(Method::DELETE, "/credentials/gone", None).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::CONFLICT, &json!("credential-in-use"))
    );
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("by the instance orphan,"), "{problem}");
    let forced = "/credentials/gone?force=true";
    let (status, _) = server.call(Method::DELETE, forced, None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    for name in ["gone", "never-stored"] {
        let body =
            json!({"template": "github", "credentials": {"GITHUB_PERSONAL_ACCESS_TOKEN": name}});
        let (status, problem) = server.call(Method::POST, "/mcps", Some(body)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        assert_eq!(
            problem["violations"][0]["pointer"], "/credentials/GITHUB_PERSONAL_ACCESS_TOKEN",
            "{problem}"
        );
        assert!(problem.to_string().contains(name), "{problem}");
    }
    // What was bound to it lives on, until it is launched again: then it says what is missing.
    let path = format!("/mcps/{}", id(&instance));
    assert_eq!(server.get(&path).await["status"], "running");
    let failed = relaunch_until(&server, &instance, "failed").await;
    let reason = failed["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("gone"), "{failed:#}");
    assert_eq!(
        server.get("/mcps").await["items"].as_array().map(Vec::len),
        Some(1)
    );
}

async fn an_absent_program_is_told_with_its_hint_until_it_is_installed(database: Database) {
    let programs = tempfile::tempdir().expect("a temporary folder");
    let folder = programs.path().to_owned();
    let server = Server::start_with(database, |config| {
        config.runtime.template_dirs.clear();
        config.runtime.search_path = vec![folder];
        // The script below runs it, which nobody can tell by looking at the script.
        config.sandbox.read = vec![env!("CARGO_BIN_EXE_minimcp").into()];
    })
    .await;
    let list = server.get("/templates").await;
    for template in list["items"].as_array().expect("a list") {
        let name = template["name"].as_str().expect("a name");
        let builtin = ["demo", "figma", "github", "gmail", "remote"].contains(&name);
        assert_eq!(template["available"], builtin, "{template}");
        let reason = template["unavailable_reason"].as_str().unwrap_or_default();
        assert_eq!(reason.contains("install it with: "), !builtin, "{template}");
    }
    let body = json!({"template": "time"});
    let (status, problem) = server.call(Method::POST, "/mcps", Some(body.clone())).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::CONFLICT, &json!("template-unavailable")),
        "{problem}"
    );
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("pip install mcp-server-time"), "{problem}");
    assert_eq!(server.get("/mcps").await["items"], json!([]));

    // Once it is installed nothing has to be restarted or reloaded.
    let program = programs.path().join("mcp-server-time");
    let script = format!(
        "#!/bin/sh\nexec {} mcp demo\n",
        env!("CARGO_BIN_EXE_minimcp")
    );
    fs::write(&program, script).expect("the folder is ours");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let (instance, _) = ready(&server, body).await;
    let shown = server.get("/templates/time").await;
    assert_eq!(shown["available"], true, "{shown}");

    // And when it is gone again, the instance says so instead of dying over and over.
    fs::remove_file(&program).expect("it is ours");
    let failed = relaunch_until(&server, &instance, "failed").await;
    let reason = failed["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("pip install mcp-server-time"), "{failed:#}");
}
