//! What the database says, what the keeper holds and what the daemon does, made to differ behind its back, and healed.
//! And the whole machine begun again.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

use crate::{
    harness::{Database, Server, on_both_databases, wait_until},
    mcp::Mcp,
    processes,
    survival::keeper_of,
};

on_both_databases! {
    a_row_that_is_taken_away_ends_its_instance_and_one_that_comes_back_starts_it,
    a_port_that_is_leased_to_nobody_any_more_is_leased_again,
    leases_of_nobody_are_released_and_a_half_made_row_gets_what_it_lacks,
    a_wish_that_was_written_into_the_record_is_followed,
    a_child_whose_record_says_stopped_ends_at_the_start,
    after_a_reboot_what_should_run_runs_and_what_ran_out_is_expired,
}

pub const SOON: Duration = Duration::from_secs(60);

fn id_of(instance: &Value) -> &str {
    instance["id"].as_str().expect("it has an id")
}

/// A daemon that compares when it is told to.
pub async fn start(database: Database) -> Server {
    let off = |config: &mut minimcp::config::Config| {
        config
            .tasks
            .insert("reconcile".to_owned(), "off".to_owned());
    };
    let server = Server::start_with(database, off).await;
    // The one of its start is over before anything is made to differ.
    reconcile(&server).await;
    server
}

/// Changes the database as only a stranger would.
pub async fn meddle(server: &Server, sql: &str) {
    let url = &server.config().database.url;
    let statements = AssertSqlSafe(sql.to_owned());
    let done = if url.starts_with("sqlite:") {
        let mut connection = SqliteConnection::connect(url)
            .await
            .expect("its file is ours");
        let patience = sqlx::raw_sql("PRAGMA busy_timeout = 20000; PRAGMA foreign_keys = OFF");
        patience
            .execute(&mut connection)
            .await
            .expect("SQLite takes it");
        sqlx::raw_sql(statements)
            .execute(&mut connection)
            .await
            .map(drop)
    } else {
        let mut connection = PgConnection::connect(url).await.expect("it answers");
        sqlx::raw_sql(statements)
            .execute(&mut connection)
            .await
            .map(drop)
    };
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn task(server: &Server) -> Value {
    let tasks = server.get("/tasks").await;
    let items = tasks["items"].as_array().expect("a list").clone();
    let found = items.into_iter().find(|task| task["name"] == "reconcile");
    found.expect("there is such a task")
}

/// Lets the task run once; what it reports.
pub async fn reconcile(server: &Server) -> Value {
    let before = task(server).await["last_started_at"].clone();
    server.post("/tasks/reconcile/run", json!({})).await;
    let deadline = Instant::now() + SOON;
    loop {
        let now = task(server).await;
        if now["last_started_at"] != before && now["running"] == false {
            return now;
        }
        assert!(Instant::now() < deadline, "{now:#}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

/// What the last comparison did, by kind.
pub fn kinds<'a>(report: &'a Value, outcome: &str) -> Vec<&'a str> {
    let list = report["last_result"][outcome].as_array();
    let list = list.unwrap_or_else(|| panic!("{report:#}")).iter();
    list.filter_map(|one| one["kind"].as_str()).collect()
}

/// What `/metrics` counts of a kind.
pub async fn counted(server: &Server, kind: &str, outcome: &str) -> Option<u64> {
    let text = server.send(Method::GET, "/metrics", None).await;
    let text = text.text().await.expect("text");
    let series =
        format!("minimcp_reconcile_differences_total{{kind=\"{kind}\",outcome=\"{outcome}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&series));
    line.and_then(|count| count.trim_end_matches(".0").parse().ok())
}

async fn event(server: &Server, instance: &Value, kind: &str) -> Value {
    let path = format!("/mcps/{}/events?limit=1000", id_of(instance));
    let deadline = Instant::now() + SOON;
    loop {
        let page = server.get(&path).await;
        let mut events = page["items"].as_array().expect("a list").iter();
        if let Some(event) = events.find(|event| event["kind"] == kind) {
            return event.clone();
        }
        assert!(Instant::now() < deadline, "{page:#}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

/// The first event of an instance that need not be there, from the stream of all.
pub async fn event_of_all(server: &Server, instance: &str, kind: &str) -> Value {
    let mut stream = server
        .send(Method::GET, "/api/v1/events?cursor=0", None)
        .await;
    let mut text = String::new();
    let mut seen = 0;
    let find = async {
        while let Some(bytes) = stream.chunk().await.expect("a stream") {
            text.push_str(&String::from_utf8_lossy(&bytes));
            while let Some(end) = text[seen..].find('\n') {
                let line = &text[seen..seen + end];
                seen += end + 1;
                let Some(data) = line.strip_prefix("data: ") else {
                    continue;
                };
                let event: Value = serde_json::from_str(data).expect("JSON");
                if event["instance"] == *instance && event["kind"] == *kind {
                    return event;
                }
            }
        }
        Value::Null
    };
    let found = tokio::time::timeout(SOON, find).await;
    found.unwrap_or_else(|_| panic!("{instance} {kind}: {}", server.log()))
}

fn lives(server: &Server, instance: &Value) -> bool {
    let pid = instance["pid"].as_u64().expect("it ran");
    let mut processes = server.processes().into_iter();
    processes.any(|process| u64::from(process.pid) == pid)
}

/// An instance whose record is written: it shows what happened before it writes it, and what it writes then would undo
/// what a stranger wrote meanwhile.
async fn create(server: &Server) -> Value {
    let instance = server.create(json!({"template": "demo"})).await;
    event(server, &instance, "running").await;
    instance
}

async fn a_row_that_is_taken_away_ends_its_instance_and_one_that_comes_back_starts_it(
    database: Database,
) {
    let server = start(database).await;
    let instance = create(&server).await;
    let id = id_of(&instance);
    let identity = match server.config().database.url.starts_with("sqlite:") {
        true => "",
        false => "OVERRIDING SYSTEM VALUE",
    };
    meddle(
        &server,
        &format!(
            "CREATE TABLE aside AS SELECT * FROM instances WHERE id = '{id}';
             CREATE TABLE leased AS SELECT * FROM port_leases;
             DELETE FROM port_leases;
             DELETE FROM instances WHERE id = '{id}';"
        ),
    )
    .await;
    let report = reconcile(&server).await;
    assert_eq!(
        kinds(&report, "healed"),
        ["actor-without-row"],
        "{report:#}"
    );
    let (status, _) = server.call(Method::GET, &format!("/mcps/{id}"), None).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{}", server.log());
    assert!(!lives(&server, &instance), "{:?}", server.processes());
    let closed = wait_until(SOON, || server.access_ports().is_empty().then_some(()));
    assert!(closed.is_some(), "{:?}", server.access_ports());
    // It is found once, not in every round.
    let again = reconcile(&server).await;
    assert_eq!(again["last_result"]["differences"], 0, "{again:#}");
    let told = event_of_all(&server, id, "reconciled").await;
    assert!(told["message"].to_string().contains("actor-without-row"));

    meddle(
        &server,
        &format!(
            "INSERT INTO instances {identity} SELECT * FROM aside; DROP TABLE aside;
             DELETE FROM port_leases; INSERT INTO port_leases SELECT * FROM leased; DROP TABLE leased;"
        ),
    )
    .await;
    let report = reconcile(&server).await;
    assert_eq!(
        kinds(&report, "healed"),
        ["row-without-actor"],
        "{report:#}"
    );
    let back = server.wait_status(id, &["running"], SOON).await;
    assert_eq!(back["generation"], 2, "{back:#}");
    event(&server, &instance, "reconciled").await;
    server.delete(id).await;
}

async fn a_port_that_is_leased_to_nobody_any_more_is_leased_again(database: Database) {
    let server = start(database).await;
    let instance = create(&server).await;
    meddle(
        &server,
        "UPDATE port_leases SET instance_key = NULL, quarantine_until = 0",
    )
    .await;
    let report = reconcile(&server).await;
    assert_eq!(kinds(&report, "healed"), ["lease-missing"], "{report:#}");
    let told = event(&server, &instance, "reconciled").await;
    assert!(told["message"].to_string().contains("port"), "{told:#}");
    let again = reconcile(&server).await;
    assert_eq!(again["last_result"]["differences"], 0, "{again:#}");
    let mut client = Mcp::connect(&instance).await;
    assert_eq!(
        client.tool("echo", json!({"text": "on"})).await.as_deref(),
        Ok("on")
    );
}

async fn leases_of_nobody_are_released_and_a_half_made_row_gets_what_it_lacks(database: Database) {
    let server = start(database).await;
    let whole = create(&server).await;
    let half = uuid::Uuid::now_v7().to_string();
    let port = server.config().runtime.port_max;
    meddle(
        &server,
        &format!(
            "INSERT INTO port_leases (port, leased_at) VALUES ({port}, 0);
             INSERT INTO instances (id, owner, name, template, spec, desired, state, generation, warned, restart_row,
                                    restarts, created_at, updated_at)
             SELECT '{half}', owner, 'half-made', template, spec, desired, state, 0, warned, restart_row, 0, created_at,
                    updated_at FROM instances WHERE id = '{}';",
            id_of(&whole)
        ),
    )
    .await;
    let report = reconcile(&server).await;
    let expected = ["half-made-row", "lease-without-owner"];
    assert_eq!(kinds(&report, "healed"), expected, "{report:#}");
    for kind in expected {
        assert_eq!(counted(&server, kind, "healed").await, Some(1), "{kind}");
    }
    let made = server.wait_status(&half, &["running"], SOON).await;
    assert_ne!(made["port"], whole["port"]);
    assert!(server.access_ports().len() == 2, "{made:#}");
    // Nobody was ever given a token of it.
    let tokens = format!("/mcps/{half}/access-tokens");
    server.post(&tokens, json!({"name": "mine"})).await;
    let told = event(&server, &made, "reconciled").await;
    assert!(
        told["message"].to_string().contains("broke off"),
        "{told:#}"
    );
    let told = event_of_all(&server, &uuid::Uuid::nil().to_string(), "reconciled").await;
    let named = told["message"].to_string().contains(&port.to_string());
    assert!(named, "{told:#}");
    let again = reconcile(&server).await;
    assert_eq!(again["last_result"]["differences"], 0, "{again:#}");
    server.delete(&half).await;
}

async fn a_wish_that_was_written_into_the_record_is_followed(database: Database) {
    let server = start(database).await;
    let instance = create(&server).await;
    let id = id_of(&instance);
    meddle(&server, "UPDATE instances SET desired = 'stopped'").await;
    let report = reconcile(&server).await;
    assert_eq!(kinds(&report, "healed"), ["wish-not-obeyed"], "{report:#}");
    server.wait_status(id, &["stopped"], SOON).await;
    event(&server, &instance, "stopped").await;
    assert!(!lives(&server, &instance), "{:?}", server.processes());
    let told = event(&server, &instance, "reconciled").await;
    assert!(told["message"].to_string().contains("stopped"), "{told:#}");
    let again = reconcile(&server).await;
    assert_eq!(again["last_result"]["differences"], 0, "{again:#}");
    meddle(&server, "UPDATE instances SET desired = 'running'").await;
    reconcile(&server).await;
    let back = server.wait_status(id, &["running"], SOON).await;
    assert_eq!(back["generation"], 2, "{back:#}");
}

async fn a_child_whose_record_says_stopped_ends_at_the_start(database: Database) {
    let mut server = start(database).await;
    let instance = create(&server).await;
    server.kill();
    assert!(lives(&server, &instance), "{:?}", server.processes());
    meddle(&server, "UPDATE instances SET desired = 'stopped'").await;
    server.launch().await;
    let stopped = server
        .wait_status(id_of(&instance), &["stopped"], SOON)
        .await;
    assert_eq!(stopped["generation"], 1, "{stopped:#}");
    let gone = wait_until(SOON, || (!lives(&server, &instance)).then_some(()));
    assert!(gone.is_some(), "{:?}", server.processes());
}

#[tokio::test]
async fn a_child_and_a_listener_whose_row_went_while_no_daemon_ran_end_at_the_start() {
    let mut server = Server::start(Database::Sqlite).await;
    let instance = create(&server).await;
    let other = create(&server).await;
    server.kill();
    let id = id_of(&instance);
    meddle(
        &server,
        &format!(
            "DELETE FROM port_leases WHERE instance_key = (SELECT instance_key FROM instances WHERE id = '{id}');
             DELETE FROM instances WHERE id = '{id}';"
        ),
    )
    .await;
    server.launch().await;
    let kept = server.wait_status(id_of(&other), &["running"], SOON).await;
    assert_eq!(kept["pid"], other["pid"], "{}", server.log());
    let gone = wait_until(SOON, || {
        (!lives(&server, &instance) && server.access_ports().len() == 1).then_some(())
    });
    assert!(gone.is_some(), "{:?}", server.processes());
}

async fn after_a_reboot_what_should_run_runs_and_what_ran_out_is_expired(database: Database) {
    let mut server = Server::start(database).await;
    let runs = create(&server).await;
    let stopped = create(&server).await;
    let brief = create(&server).await;
    let path = format!("/mcps/{}", id_of(&stopped));
    server.post(&format!("{path}/stop"), json!({})).await;
    server
        .wait_status(id_of(&stopped), &["stopped"], SOON)
        .await;
    let extend = format!("/mcps/{}/extend", id_of(&brief));
    let leased = server.post(&extend, json!({"ttl": "2s"})).await;
    let end = leased["expires_at"].as_str().expect("it has an end");
    let end: jiff::Timestamp = end.parse().expect("RFC 3339");
    // All processes at once, as when the machine loses its power.
    let keeper = keeper_of(&server).pid;
    server.kill();
    processes::kill(keeper);
    let dark = wait_until(SOON, || {
        let over = jiff::Timestamp::now() > end;
        (over && server.processes().is_empty()).then_some(())
    });
    assert!(dark.is_some(), "{:?}", server.processes());
    server.launch().await;
    let again = server.wait_status(id_of(&runs), &["running"], SOON).await;
    assert_eq!(again["access_url"], runs["access_url"]);
    assert_eq!(again["generation"], 2, "{again:#}");
    let mut client = Mcp::connect(&runs).await;
    assert_eq!(
        client.tool("echo", json!({"text": "on"})).await.as_deref(),
        Ok("on")
    );
    let expired = server.wait_status(id_of(&brief), &["expired"], SOON).await;
    assert_eq!(expired["generation"], 1, "it was not started: {expired:#}");
    let rests = server.get(&path).await;
    assert_eq!(rests["status"], "stopped", "{rests:#}");
    assert_eq!(rests["generation"], 1, "{rests:#}");
}
