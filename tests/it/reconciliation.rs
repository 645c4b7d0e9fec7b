//! What the database says, what the keeper holds and what the daemon does, made to differ behind its back, and healed.
//! And the whole machine begun again.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::{
    harness::{Database, Server, on_both_databases, wait_until},
    mcp::Mcp,
    processes,
    survival::keeper_of,
};

on_both_databases! {
    after_a_reboot_what_should_run_runs_and_what_ran_out_is_expired,
}

const SOON: Duration = Duration::from_secs(60);

fn id_of(instance: &Value) -> &str {
    instance["id"].as_str().expect("it has an id")
}

/// Changes the database as only a stranger would.
async fn meddle(server: &Server, sql: &str) {
    let mut connection = SqliteConnection::connect(&server.config().database.url)
        .await
        .expect("its file is ours");
    for statement in ["PRAGMA busy_timeout = 20000", sql] {
        let done = sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
            .execute(&mut connection)
            .await;
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

async fn task(server: &Server) -> Value {
    let tasks = server.get("/tasks").await;
    let items = tasks["items"].as_array().expect("a list").clone();
    let found = items.into_iter().find(|task| task["name"] == "reconcile");
    found.expect("there is such a task")
}

/// Lets the task run once; what it reports.
async fn reconcile(server: &Server) -> Value {
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

fn lives(server: &Server, instance: &Value) -> bool {
    let pid = instance["pid"].as_u64().expect("it ran");
    let mut processes = server.processes().into_iter();
    processes.any(|process| u64::from(process.pid) == pid)
}

#[tokio::test]
async fn a_row_that_is_taken_away_ends_its_instance_and_one_that_comes_back_starts_it() {
    let server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "demo"})).await;
    let id = id_of(&instance);
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
    reconcile(&server).await;
    let (status, _) = server.call(Method::GET, &format!("/mcps/{id}"), None).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{}", server.log());
    assert!(!lives(&server, &instance), "{:?}", server.processes());
    let closed = wait_until(SOON, || server.access_ports().is_empty().then_some(()));
    assert!(closed.is_some(), "{:?}", server.access_ports());
    // It is found once, not in every round.
    let again = reconcile(&server).await;
    assert!(again.to_string().contains("\"differences\":0"), "{again:#}");

    meddle(
        &server,
        "INSERT INTO instances SELECT * FROM aside; DROP TABLE aside;
         INSERT OR REPLACE INTO port_leases SELECT * FROM leased; DROP TABLE leased;",
    )
    .await;
    reconcile(&server).await;
    let back = server.wait_status(id, &["running"], SOON).await;
    assert_eq!(back["generation"], 2, "{back:#}");
    event(&server, &instance, "reconciled").await;
    server.delete(id).await;
}

#[tokio::test]
async fn a_port_that_is_leased_to_nobody_any_more_is_leased_again() {
    let server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "demo"})).await;
    meddle(
        &server,
        "UPDATE port_leases SET instance_key = NULL, quarantine_until = 0",
    )
    .await;
    let report = reconcile(&server).await;
    assert!(report.to_string().contains("LeasePort"), "{report:#}");
    let told = event(&server, &instance, "reconciled").await;
    assert!(told["message"].to_string().contains("port"), "{told:#}");
    let again = reconcile(&server).await;
    assert!(again.to_string().contains("\"differences\":0"), "{again:#}");
    let mut client = Mcp::connect(&instance).await;
    assert_eq!(
        client.tool("echo", json!({"text": "on"})).await.as_deref(),
        Ok("on")
    );
}

#[tokio::test]
async fn a_child_and_a_listener_whose_row_went_while_no_daemon_ran_end_at_the_start() {
    let mut server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "demo"})).await;
    let other = server.create(json!({"template": "demo"})).await;
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
    let runs = server.create(json!({"template": "demo"})).await;
    let stopped = server.create(json!({"template": "demo"})).await;
    let brief = server.create(json!({"template": "demo"})).await;
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
