//! Instances come and go, thousands of them: what the daemon holds, in memory and on disk, stays the same.
//!
//! `MINIMCP_CHURN_CYCLES` is the number of creates and deletes (`tests/chaos --churn 100000`). After each round the
//! daemon's clock is set so far forward that retention has everything of it to remove.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

use crate::{
    chaos::breaker::keepers,
    ground::clock,
    harness::{Database, Server, on_both_databases},
    mcp::Mcp,
    soak::held,
};

on_both_databases! {
    churn_grows_nothing,
}

/// Cycles in the normal suite.
const CYCLES: u64 = 60;
/// The cycles are done in so many rounds; the first one is to get warm.
const ROUNDS: u64 = 5;
/// Instances at a time.
const WORKERS: u64 = 6;
/// Longer than anything is kept.
const KEPT_S: i64 = 400 * 24 * 3_600;
/// Memory may settle by this much, in KiB: allocators keep some.
const RSS_SLACK_KIB: u64 = 16 * 1_024;
/// Descriptors of connections that our own client keeps open.
const FD_SLACK: usize = 24;
/// What has not come true after so long never will.
const SOON: Duration = Duration::from_secs(60);

/// What there is after a round.
#[derive(Debug)]
struct Sample {
    serve_rss_kib: u64,
    serve_descriptors: usize,
    keeper_rss_kib: u64,
    keeper_descriptors: usize,
    /// Rows of all tables that instances leave rows in.
    rows: i64,
    /// Of the database.
    bytes: i64,
}

async fn cycle(server: &Server, number: u64) {
    let instance = server.create(json!({"template": "demo"})).await;
    assert_eq!(instance["status"], "running", "{instance:#}");
    if number.is_multiple_of(8) {
        let mut client = Mcp::connect(&instance).await;
        let wrote = client
            .tool("log", json!({"text": "churn", "lines": 20}))
            .await;
        assert!(wrote.is_ok(), "{wrote:?}");
    }
    server
        .delete(instance["id"].as_str().expect("it has an id"))
        .await;
}

async fn round(server: &Server, cycles: u64) {
    let next = AtomicU64::new(0);
    let next = &next;
    join_all((0..WORKERS).map(|_| async move {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= cycles {
                return;
            }
            cycle(server, number).await;
        }
    }))
    .await;
}

/// Runs the tasks that remove what is not kept, each to its end.
async fn retain(server: &Server) {
    for name in [
        "history-retention",
        "log-retention",
        "call-retention",
        "port-quarantine-sweep",
    ] {
        let task = || async {
            let tasks = server.get("/tasks").await;
            let mut items = tasks["items"].as_array().expect("a list").iter();
            items
                .find(|task| task["name"] == name)
                .expect("there is the task")
                .clone()
        };
        let before = task().await["runs"].as_u64();
        let (status, answer) = server
            .call(Method::POST, &format!("/tasks/{name}/run"), None)
            .await;
        assert!(status.is_success(), "{answer}");
        let deadline = Instant::now() + SOON;
        loop {
            let now = task().await;
            if now["runs"].as_u64() > before && now["running"] == false {
                assert_eq!(now["last_error"], Value::Null, "{now:#}");
                break;
            }
            assert!(Instant::now() < deadline, "{now:#}");
            tokio::time::sleep(Duration::from_millis(20)).await; // poll
        }
    }
}

async fn numbers(server: &Server, sqlite: &str, postgres: &str) -> i64 {
    let url = &server.config().database.url;
    if url.starts_with("sqlite:") {
        let mut file = SqliteConnection::connect(url).await.expect("a file");
        let number = sqlx::query_scalar(AssertSqlSafe(sqlite.to_owned())).fetch_one(&mut file);
        return number.await.expect("a number");
    }
    let mut connection = PgConnection::connect(url).await.expect("it answers");
    let number = sqlx::query_scalar(AssertSqlSafe(postgres.to_owned()));
    number.fetch_one(&mut connection).await.expect("a number")
}

async fn sample(server: &Server) -> Sample {
    let tables = [
        "instances",
        "port_leases",
        "access_tokens",
        "events",
        "logs",
        "calls",
    ];
    let counts = tables.map(|table| format!("(SELECT COUNT(*) FROM {table})"));
    let rows = format!("SELECT {}", counts.join(" + "));
    let used = "SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size)";
    let all = server.processes();
    let keeper = held(keepers(&all).first().expect("there is a keeper").pid);
    let serve = held(server.pid());
    Sample {
        serve_rss_kib: serve.rss_kib,
        serve_descriptors: serve.descriptors,
        keeper_rss_kib: keeper.rss_kib,
        keeper_descriptors: keeper.descriptors,
        rows: numbers(server, &rows, &rows).await,
        bytes: numbers(server, used, "SELECT pg_database_size(current_database())").await,
    }
}

async fn churn_grows_nothing(database: Database) {
    let cycles = std::env::var("MINIMCP_CHURN_CYCLES").ok();
    let cycles = cycles.map_or(CYCLES, |text| text.parse().expect("a number"));
    let (server, clock_file) = clock::with_a_clock_of_its_own(database).await;
    let begun = Instant::now();
    let mut samples: Vec<Sample> = Vec::new();
    for number in 1..=ROUNDS {
        round(&server, cycles / ROUNDS).await;
        clock::set(&clock_file, KEPT_S * i64::try_from(number).expect("small"));
        retain(&server).await;
        let sample = sample(&server).await;
        let seconds = begun.elapsed().as_secs();
        eprintln!(
            "{} cycles, {seconds} s: {sample:?}",
            cycles / ROUNDS * number
        );
        samples.push(sample);
    }
    let (first, last) = (&samples[0], &samples[samples.len() - 1]);
    let flat = last.serve_rss_kib <= first.serve_rss_kib + RSS_SLACK_KIB
        && last.keeper_rss_kib <= first.keeper_rss_kib + RSS_SLACK_KIB
        && last.serve_descriptors <= first.serve_descriptors + FD_SLACK
        && last.keeper_descriptors <= first.keeper_descriptors + FD_SLACK
        && last.rows <= first.rows + 200
        && last.bytes <= first.bytes + first.bytes / 2 + (2 << 20);
    assert!(flat, "it grew: {samples:#?}");
    let ports = server.get("/ports").await;
    assert_eq!(ports["leased"], json!([]), "{ports:#}");
}
