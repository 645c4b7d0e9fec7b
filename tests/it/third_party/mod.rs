//! The servers of other people that are shipped as templates: each is started for real in the strict sandbox, its tools
//! are those of the last time, and one call of it does what it does here. Where that needs an account, the call gets as
//! far as the gate: it asks for the host that its template allows, and for none besides.
//!
//! `./tests/run` installs all but the largest by one lock file for each language; `./tests/templates` has every one
//! installed by the daemon itself, from an empty store of packages, and runs the same test over them.

pub mod cases;

use std::{
    collections::BTreeSet,
    fs,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{Json, Router, routing::get};
use futures_util::{FutureExt, StreamExt, stream};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::cases::{BROWSER, CASES, Case, Proof};
use crate::{
    fixtures,
    harness::{Database, Server},
    mcp::Mcp,
    source,
    templates::fake::Fake,
};

/// An installation over a slow line, and a first start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// Servers that start at the same time.
const STARTS: usize = 2;

/// The store of packages to install into, where the servers are not to be found installed.
fn package_store() -> Option<PathBuf> {
    std::env::var_os("MINIMCP_TEST_PACKAGES").map(PathBuf::from)
}

/// What stands in for hosts and paths of this run in the settings and arguments of a case.
struct Surroundings {
    api: Fake,
    /// The database of `MINIMCP_TEST_POSTGRES_URL`, if any.
    database: Option<String>,
    repository: TempDir,
}

impl Surroundings {
    async fn new() -> Self {
        let page = "<html><body><article><h1>A title</h1><p>A page of the test.</p></article></body></html>";
        let routes = Router::new()
            .route("/page", get(async move || axum::response::Html(page)))
            .route(
                "/v1/users/me",
                get(async || Json(json!({"object": "user", "name": "The stand-in"}))),
            )
            .route(
                "/v1/organizations",
                get(async || Json(json!([{"id": "org-1", "name": "The stand-in"}]))),
            );
        let repository = tempfile::tempdir().expect("a temporary folder");
        let made = std::process::Command::new("git")
            .args(["init", "--quiet"])
            .current_dir(repository.path())
            .status();
        assert!(made.expect("git is installed").success());
        Self {
            api: Fake::start(routes, None).await,
            database: std::env::var("MINIMCP_TEST_POSTGRES_URL").ok(),
            repository,
        }
    }

    /// Host and port of the database.
    fn database_host(&self) -> &str {
        let address = self.database.as_deref().unwrap_or_default();
        let host = address.rsplit_once('@').map_or("", |(_, host)| host);
        host.split(['/', '?']).next().unwrap_or_default()
    }

    /// What this machine offers to the servers, as the operator opens it.
    fn opened(&self) -> Vec<String> {
        let api = self.api.url.trim_start_matches("http://").to_owned();
        let database = self
            .database
            .is_some()
            .then(|| self.database_host().to_owned());
        [api].into_iter().chain(database).collect()
    }

    fn fill(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => {
                let repository = self.repository.path().to_string_lossy();
                let database = self.database.as_deref().unwrap_or_default();
                let text = text
                    .replace("@API@", &self.api.url)
                    .replace("@DATABASE@", &format!("{database}?sslmode=disable"))
                    .replace("@DATABASE_HOST@", self.database_host())
                    .replace("@REPOSITORY@", &repository);
                Value::String(text)
            }
            Value::Array(all) => all.iter().map(|one| self.fill(one)).collect(),
            Value::Object(all) => {
                let filled = all.iter().map(|(key, one)| (key.clone(), self.fill(one)));
                Value::Object(filled.collect())
            }
            other => other.clone(),
        }
    }
}

#[tokio::test]
async fn every_server_starts_in_the_strict_sandbox_lists_its_tools_and_answers() {
    let store = package_store();
    if store.is_none() && fixtures::third_party().is_none() {
        return;
    }
    let surroundings = Surroundings::new().await;
    let server = Server::start_with(Database::Sqlite, |config| {
        let opened = surroundings.opened();
        let rule = |text: &String| text.parse().expect("an address and a port");
        config.sandbox.allow_private = opened.iter().map(rule).collect();
        // No call leaves this machine: each host that an account is needed for leads back to it, where the gate ends it.
        let names = CASES.iter().filter_map(|case| match case.proof {
            Proof::Asks(host) => host.rsplit_once(':'),
            _ => None,
        });
        config.sandbox.host_addresses = names
            .map(|(name, _)| format!("{name}=127.0.0.1").parse().expect("a name"))
            .collect();
        match &store {
            Some(store) => {
                config.packages.dir.clone_from(store);
                config.runtime.search_path = fixtures::bare_search_path();
            }
            None => config.runtime.search_path = fixtures::third_party_search_path(),
        }
    })
    .await;
    let cases = CASES.iter().filter(|case| {
        let installed = store.is_some() || !case.on_demand;
        installed && (!case.needs_database || surroundings.database.is_some())
    });
    // All are looked at, whatever the first one does.
    let checks = cases.map(|case| async {
        let checked = AssertUnwindSafe(check(&server, &surroundings, case)).catch_unwind();
        checked.await.map_err(|_| case.template)
    });
    let checked: Vec<Result<(), &str>> = stream::iter(checks)
        .buffer_unordered(STARTS)
        .collect()
        .await;
    let failed: Vec<&str> = checked.iter().filter_map(|one| one.err()).collect();
    assert!(
        failed.is_empty(),
        "see above: {failed:?} of {}",
        checked.len()
    );
}

/// One server, from its creation to its deletion.
async fn check(server: &Server, surroundings: &Surroundings, case: &Case) {
    let name = case.template;
    let mut credentials = serde_json::Map::new();
    for (variable, value) in case.credentials {
        let stored = format!("{name}-{}", variable.to_lowercase().replace('_', "-"));
        let value = surroundings.fill(&json!(value));
        server
            .post("/credentials", json!({"name": stored, "value": value}))
            .await;
        credentials.insert((*variable).to_owned(), json!(stored));
    }
    // The browser is not among what the usual run of all tests needs.
    let tries_browser = package_store().is_some() && Path::new(BROWSER).exists();
    let (settings, call, proof) = match case.with_browser {
        Some(with) if tries_browser => with,
        _ => (case.settings, case.call, case.proof),
    };
    let settings: Value = serde_json::from_str(settings).expect("a case has JSON settings");
    let body = json!({"template": name, "name": name, "credentials": credentials,
        "settings": surroundings.fill(&settings)});
    let created = server.create(body).await;
    let running = server
        .wait_status(name, &["running", "failed"], PATIENCE)
        .await;
    assert_eq!(
        running["status"],
        "running",
        "{name}: {running:#}\n{}",
        server.log()
    );
    let profile = running["isolation"]["profile"].as_str().unwrap_or("strict");
    assert!(profile.starts_with("strict"), "{name}: {running:#}");

    let mut client = Mcp::connect(&created).await;
    let tools: BTreeSet<String> = client.tools().await.into_iter().collect();
    let tools: Vec<String> = tools.into_iter().collect();
    insta::with_settings!({snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!(name, tools.join("\n"));
    });

    if ["context7", "firecrawl", "notion"].contains(&name) {
        let held = running["egress"]["held_keys"].as_array().map(Vec::len);
        assert_eq!(held, Some(1), "{name}: {running:#}");
    }
    // What a server does that means no harm is not told like an attack.
    let events = server.get(&format!("/mcps/{name}/events?limit=200")).await;
    let kinds = events["items"].as_array().expect("a list").iter();
    let denied: Vec<_> = kinds
        .filter(|event| event["kind"] == "call-denied")
        .collect();
    assert!(denied.is_empty(), "{name}: {denied:?}");

    let (tool, arguments) = call;
    let arguments: Value = serde_json::from_str(arguments).expect("a case has JSON arguments");
    let params = json!({"name": tool, "arguments": surroundings.fill(&arguments)});
    let answer = match client.request("tools/call", params).await {
        Ok(answer) | Err(answer) => answer.to_string(),
    };
    let refused = refused_hosts(server, name).await;
    match proof {
        Proof::Says(text) => assert!(answer.contains(text), "{name}: {answer}\n{refused:?}"),
        Proof::Asks(host) => {
            let found = refused.iter().find(|(asked, _)| asked == host);
            let private = found.is_some_and(|(_, why)| why.contains("private address"));
            assert!(
                private,
                "{name}: {host} was not asked for: {refused:?}\n{answer}"
            );
        }
    }
    let strange: Vec<_> = refused
        .iter()
        .filter(|(host, why)| {
            let told = case
                .asks_besides
                .iter()
                .any(|besides| host.contains(besides));
            why.contains("not among") && !told
        })
        .collect();
    assert!(strange.is_empty(), "{name} needs more hosts: {strange:?}");
    let now = server.get(&format!("/mcps/{name}")).await;
    let calls = now["denials"]["calls"].as_array().cloned();
    let strange: Vec<_> = calls
        .into_iter()
        .flatten()
        .filter(|call| call["call"] != "io_uring_setup")
        .collect();
    // A browser tries more: a sandbox of its own, for one.
    let with_browser = tries_browser && case.with_browser.is_some();
    assert!(
        with_browser || strange.is_empty(),
        "{name} makes calls that are refused: {strange:?}"
    );
    server.delete(name).await;
}

/// What an instance was refused, and why.
async fn refused_hosts(server: &Server, name: &str) -> Vec<(String, String)> {
    let egress = server.get(&format!("/mcps/{name}")).await["egress"].clone();
    let refused = egress["refused_hosts"].as_array().cloned();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pair = |one: Value| (text(&one["host"]), text(&one["reason"]));
    refused.unwrap_or_default().into_iter().map(pair).collect()
}

#[test]
fn what_the_tests_install_is_what_the_templates_name() {
    let read =
        |path: &str| fs::read_to_string(source::root().join(path)).expect("it is in the tree");
    let mut installed = BTreeSet::new();
    for folder in ["node", "third-party"] {
        let text = read(&format!("tests/clients/{folder}/package.json"));
        let package: Value = serde_json::from_str(&text).expect("JSON");
        let all = package["dependencies"]
            .as_object()
            .expect("a table")
            .clone();
        let exact = |(name, version): (String, Value)| {
            format!("npm:{name}@{}", version.as_str().unwrap_or_default())
        };
        installed.extend(all.into_iter().map(exact));
    }
    for name in ["sdk2", "third-1", "third-2"] {
        let text = read(&format!("tests/clients/python/requirements-{name}.txt"));
        installed.extend(text.lines().map(|line| format!("pypi:{line}")));
    }
    let templates = fs::read_dir(source::root().join("mcp-templates")).expect("it is in the tree");
    let mut named = BTreeSet::new();
    for folder in templates.flatten() {
        let Ok(text) = fs::read_to_string(folder.path().join("template.toml")) else {
            continue;
        };
        let manifest: toml::Table = text.parse().expect("TOML");
        let name = folder.file_name().to_string_lossy().into_owned();
        let Some(package) = manifest["server"].get("package") else {
            continue;
        };
        let case = CASES.iter().find(|case| case.template == name);
        let case = case.unwrap_or_else(|| panic!("{name} is not tested"));
        let package = package.as_str().expect("text");
        assert!(
            case.on_demand || installed.contains(package),
            "{name}: {package} is not installed by ./tests/run"
        );
        named.insert(name);
    }
    let tested: BTreeSet<String> = CASES.iter().map(|case| case.template.to_owned()).collect();
    assert_eq!(tested, named, "a case without its template");
}
