//! The official conformance suite's frozen sets at the access URLs of servers: one that speaks only the session era,
//! and one of both, spoken with in either; over stdio, and over HTTP.
//!
//! What a set finds is exactly what `conformance/FIXTURE.REVISION.txt` says. The suite speaks HTTP, so it cannot reach
//! a stdio server without a gateway; the same server behind an official SDK's Streamable HTTP transport stands for
//! that: what passes there passes here. What does not pass anywhere is of scenarios that the sets run and do not
//! score: the tasks extension, which the fixtures do not offer.

mod suite;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::{
    fixtures,
    harness::{Database, Server},
    mcp::Mcp,
    source,
};
use suite::{Direct, Findings, Suite};

/// How long a client program may take on a busy machine.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// A fixture server, as a template, and as a program that serves HTTP.
struct Fixture {
    template: &'static str,
    /// Which of the installed Python environments, and the program; `None` when it cannot be reached directly in
    /// the era of the set.
    direct: Option<(&'static str, &'static str)>,
}

const SESSION_ERA: Fixture = Fixture {
    template: "conformance",
    direct: Some(("python-sdk1", "conformance_http.py")),
};
const DUAL_ERA: Fixture = Fixture {
    template: "conformance-dual",
    direct: Some(("python-sdk2", "conformance_sdk2.py")),
};

/// The server of both eras, spoken with in the stateless one.
const STATELESS: Fixture = Fixture {
    template: "conformance-stateless",
    ..DUAL_ERA
};

/// The same programs as servers that speak HTTP themselves.
const SESSION_ERA_HTTP: Fixture = Fixture {
    template: "conformance-http",
    ..SESSION_ERA
};
const DUAL_ERA_HTTP: Fixture = Fixture {
    template: "conformance-http-dual",
    ..DUAL_ERA
};

#[tokio::test]
async fn the_session_era_set_in_front_of_a_session_era_http_server() {
    loses_nothing(&SESSION_ERA_HTTP, "2025-11-25", Database::Sqlite).await;
}

#[tokio::test]
async fn the_stateless_set_in_front_of_a_session_era_http_server() {
    let fixture = Fixture {
        direct: None,
        ..SESSION_ERA_HTTP
    };
    loses_nothing(&fixture, "2026-07-28", Database::Sqlite).await;
}

#[tokio::test]
async fn the_session_era_set_in_front_of_a_dual_era_http_server() {
    loses_nothing(&DUAL_ERA_HTTP, "2025-11-25", Database::Sqlite).await;
}

#[tokio::test]
async fn the_stateless_set_in_front_of_a_dual_era_http_server() {
    loses_nothing(&DUAL_ERA_HTTP, "2026-07-28", Database::Sqlite).await;
}

#[tokio::test]
async fn the_session_era_set_in_front_of_a_stateless_server() {
    loses_nothing(&STATELESS, "2025-11-25", Database::Sqlite).await;
}

#[tokio::test]
async fn the_stateless_set_in_front_of_a_stateless_server() {
    loses_nothing(&STATELESS, "2026-07-28", Database::Sqlite).await;
}

#[tokio::test]
async fn the_session_era_set_in_front_of_a_session_era_server() {
    loses_nothing(&SESSION_ERA, "2025-11-25", Database::Sqlite).await;
}

#[tokio::test]
async fn the_stateless_set_in_front_of_a_session_era_server() {
    // Without a gateway this server has nothing to say to a stateless client.
    let fixture = Fixture {
        direct: None,
        ..SESSION_ERA
    };
    loses_nothing(&fixture, "2026-07-28", Database::Sqlite).await;
}

#[tokio::test]
async fn the_session_era_set_in_front_of_a_dual_era_server() {
    loses_nothing(&DUAL_ERA, "2025-11-25", Database::Sqlite).await;
}

#[tokio::test]
async fn the_stateless_set_in_front_of_a_dual_era_server_on_postgres() {
    if Database::available().contains(&Database::Postgres) {
        loses_nothing(&DUAL_ERA, "2026-07-28", Database::Postgres).await;
    }
}

/// Every scored scenario passes; what is found is what is expected; and no check fails that passes without us.
async fn loses_nothing(fixture: &Fixture, revision: &str, database: Database) {
    let Some(suite) = Suite::installed() else {
        return;
    };
    let direct = match fixture.direct {
        Some((python, program)) => Some(without_a_gateway(&suite, python, program, revision).await),
        None => None,
    };
    let server = Server::start_with(database, |config| {
        // Only the newer SDK is on the search path.
        config.sandbox.read = fixtures::deps()
            .into_iter()
            .map(|deps| deps.join("python-sdk1"))
            .collect();
    })
    .await;
    let url = endpoint(&server, fixture).await;
    let found = suite.run(&url, revision).await;

    let scored = suite.scored(revision);
    let lost: Vec<_> = found
        .not_passed()
        .filter(|(scenario, line)| scored.contains(*scenario) && line.contains(": failure "))
        .collect();
    assert!(lost.is_empty(), "scored, and not passed: {lost:#?}");
    if let Some(direct) = &direct {
        assert!(direct.counts().0 > 50, "{}", direct.to_text());
        let lost = found.not_passed();
        let lost = lost.filter(|(_, line)| !direct.lines.contains(*line));
        for (scenario, line) in lost {
            // Scenarios leave calls waiting for input. A child behind a gateway has them all, and cannot ask two
            // questions at a time by one name; a new child can ask the first.
            let url = endpoint(&server, fixture).await;
            let alone = suite.run_scenario(&url, revision, scenario).await;
            let others: Vec<_> = alone.not_passed().collect();
            assert!(
                others.is_empty() && alone.counts().0 > 0,
                "passes without a gateway only: {line}: {}",
                alone.output
            );
        }
    }
    let name = format!("tests/it/conformance/{}.{revision}.txt", fixture.template);
    is_expected(&source::root().join(name), &found, direct.as_deref());
}

/// What the suite finds at a program that it reaches directly: one run for all tests that compare with it.
async fn without_a_gateway(
    suite: &Suite,
    python: &'static str,
    program: &'static str,
    revision: &str,
) -> Arc<Findings> {
    type Runs = BTreeMap<(&'static str, String), Arc<OnceCell<Arc<Findings>>>>;
    static RUNS: Mutex<Runs> = Mutex::new(BTreeMap::new());
    let run = {
        let mut runs = RUNS.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(runs.entry((program, revision.to_owned())).or_default())
    };
    let found = run.get_or_init(|| async {
        let direct = Direct::start(python, program).await;
        Arc::new(suite.run(&direct.url, revision).await)
    });
    Arc::clone(found.await)
}

/// The URL of a new instance that answers: without a server behind it, the suite still counts dozens of checks as
/// passed. The suite sends no token: it stands in the URL.
async fn endpoint(server: &Server, fixture: &Fixture) -> String {
    let instance = server.create(json!({"template": fixture.template})).await;
    let tools = Mcp::connect(&instance).await.tools().await;
    assert!(
        tools.iter().any(|tool| tool == "test_simple_text"),
        "{tools:?}"
    );
    let url = instance["connect_url"].as_str();
    url.expect("an instance just made has it").to_owned()
}

/// Compares with the expectation in the tree; with MINIMCP_BLESS set, writes it.
fn is_expected(file: &Path, found: &Findings, direct: Option<&Findings>) {
    let mut text = found.to_text();
    if let Some(direct) = direct {
        text += &format!("without a gateway: {}\n", direct.total());
    }
    if std::env::var_os("MINIMCP_BLESS").is_some() {
        fs::write(file, &text).expect("the tree is ours");
    }
    let expected = fs::read_to_string(file).expect("the expectation is in the tree");
    let new: Vec<&str> = text
        .lines()
        .filter(|line| !expected.lines().any(|known| known == *line))
        .collect();
    let missing: Vec<&str> = expected
        .lines()
        .filter(|line| !text.lines().any(|known| known == *line))
        .collect();
    assert!(
        new.is_empty() && missing.is_empty(),
        "{}\nnot found although expected: {missing:#?}\nfound although not expected: {new:#?}\n{}",
        file.display(),
        found.output
    );
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
    let done = tokio::time::timeout(CLIENT_TIMEOUT, command.output())
        .await
        .expect("the client ends in time")
        .expect("the client starts");
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{errors}");
    let texts: Value = serde_json::from_slice(&done.stdout).expect("a list of texts");
    assert_eq!(texts, json!(["Hello, Ada!", "both rounds done"]));
}
