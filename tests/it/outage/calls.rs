//! Call records in an outage, with a restart in the middle of it: each is there once, in order.

use std::time::{Duration, Instant};

use minimcp::domain::duration::HumanDuration;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection;

use super::{
    SOON, id_of,
    network::behind,
    proxy::Mode,
    sqlite::{open, run},
    until_ready,
};
use crate::{
    harness::{Database, Server},
    mcp::Mcp,
};

async fn create(server: &Server) -> Value {
    let credential = json!({"name": "example", "value": "s3cret-value-42"});
    server.post("/credentials", credential).await;
    let body = json!({"template": "legacy-echo", "credentials": {"EXAMPLE_KEY": "example"}});
    server.create(body).await
}

async fn call(client: &mut Mcp, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let text = number.to_string();
        let said = client.tool("echo", json!({"text": text})).await;
        assert!(said.is_ok(), "{said:?}");
    }
}

/// A counter of `/metrics`, over all its labels.
async fn metric(server: &Server, name: &str) -> u64 {
    let answer = server.send(Method::GET, "/metrics", None).await;
    let text = answer.text().await.expect("text");
    let name = format!("{name}_total");
    let samples = text.lines().filter_map(|line| {
        let (_, value) = line.strip_prefix(&name)?.rsplit_once(' ')?;
        // Counters are written as 60.0.
        value.split('.').next()?.parse().ok()
    });
    let samples: Vec<u64> = samples.collect();
    assert!(!samples.is_empty(), "no {name}: {text}");
    samples.iter().sum()
}

/// Waits until as many records went to the disk since the start of the daemon.
async fn until_spooled(server: &Server, count: u64) {
    let deadline = Instant::now() + SOON * 2;
    while metric(server, "minimcp_calls_spooled").await < count {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

/// Waits until as many records are in the database or on the disk, before the spool is read back.
async fn until_safe(server: &Server, count: u64) {
    let deadline = Instant::now() + SOON * 2;
    let safe = async || {
        metric(server, "minimcp_calls_stored").await + metric(server, "minimcp_calls_spooled").await
    };
    while safe().await < count {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

/// Waits until there are as many records; they are these calls, in order, and nothing else.
async fn are_recorded(server: &Server, id: &str, count: u64) {
    let deadline = Instant::now() + SOON * 2;
    loop {
        let page = server.get(&format!("/mcps/{id}/calls?limit=1000")).await;
        let items = page["items"].as_array().expect("a list");
        let known = items.len() as u64;
        if known < count {
            let log = server.log();
            assert!(Instant::now() < deadline, "{known} of {count}: {log}");
            tokio::time::sleep(Duration::from_millis(50)).await; // poll
            continue;
        }
        let texts = items.iter().rev().map(|item| {
            let arguments = item["arguments"].as_str().expect("they are kept");
            let arguments: Value = serde_json::from_str(arguments).expect("JSON");
            arguments["text"].as_str().expect("a text").to_owned()
        });
        let expected: Vec<_> = (0..count).map(|number| number.to_string()).collect();
        assert_eq!(texts.collect::<Vec<_>>(), expected);
        return;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_outlive_a_server_that_is_away_and_a_daemon_that_is_killed() {
    let Some((proxy, mut server)) = behind(Mode::Open).await else {
        return;
    };
    server.until_ready().await;
    let instance = create(&server).await;
    let id = id_of(&instance);
    let mut client = Mcp::connect(&instance).await;
    call(&mut client, 0..20).await;
    are_recorded(&server, &id, 20).await;
    // What is on its way when the network stalls may be committed or not.
    call(&mut client, 20..30).await;
    proxy.set(Mode::Stall).await;
    call(&mut client, 30..60).await;
    until_spooled(&server, 30).await;
    proxy.set(Mode::Refuse).await;
    call(&mut client, 60..100).await;
    // Those that the network stalled on are in the store or on the disk; either way all hundred are safe somewhere.
    until_safe(&server, 100).await;
    assert_eq!(metric(&server, "minimcp_calls_dropped").await, 0);
    server.kill();

    proxy.set(Mode::Open).await;
    server.launch().await;
    server.wait_status(&id, &["running"], SOON).await;
    let mut client = Mcp::connect(&instance).await;
    call(&mut client, 100..120).await;
    are_recorded(&server, &id, 120).await;
}

#[tokio::test]
async fn records_outlive_a_locked_file_and_a_daemon_that_is_stopped() {
    let mut server = Server::start_with(Database::Sqlite, |config| {
        config.database.acquire_timeout = HumanDuration::from_secs(1);
        config.database.statement_timeout = HumanDuration::from_secs(2);
    })
    .await;
    let instance = create(&server).await;
    let id = id_of(&instance);
    let mut client = Mcp::connect(&instance).await;
    call(&mut client, 0..20).await;
    are_recorded(&server, &id, 20).await;
    let mut other = open(&server).await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    call(&mut client, 20..60).await;
    until_spooled(&server, 40).await;
    call(&mut client, 60..70).await;
    server.stop();

    run(&mut other, "ROLLBACK").await;
    other.close().await.expect("closed");
    server.launch().await;
    until_ready(&server, true).await;
    server.wait_status(&id, &["running"], SOON).await;
    let mut client = Mcp::connect(&instance).await;
    call(&mut client, 70..80).await;
    are_recorded(&server, &id, 80).await;
}

/// How many calls of an instance have a record, and how many are told as lost.
async fn told(server: &Server, id: &str) -> (u64, u64) {
    let page = server.get(&format!("/mcps/{id}/calls?limit=1000")).await;
    let items = page["items"].as_array().expect("a list");
    let (lost, recorded): (Vec<_>, Vec<_>) =
        items.iter().partition(|item| item["outcome"] == "lost");
    let lost = lost
        .iter()
        .map(|item| item["code"].as_u64().expect("a count"));
    (recorded.len() as u64, lost.sum())
}

/// Waits until as many calls have a record or are told as lost; gives both.
async fn until_told(server: &Server, id: &str, calls: u64) -> (u64, u64) {
    let deadline = Instant::now() + SOON * 2;
    loop {
        let (recorded, lost) = told(server, id).await;
        if recorded + lost >= calls {
            return (recorded, lost);
        }
        let log = server.log();
        assert!(
            Instant::now() < deadline,
            "{recorded}, {lost} of {calls}: {log}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

crate::harness::on_both_databases! {
    records_in_the_memory_of_a_daemon_that_is_killed_are_counted_and_told_once,
}

async fn records_in_the_memory_of_a_daemon_that_is_killed_are_counted_and_told_once(
    database: Database,
) {
    let mut server = Server::start_with(database, |config| {
        // What comes stays in memory.
        config.calls.batch_delay = HumanDuration::from_secs(600);
    })
    .await;
    let instance = create(&server).await;
    let id = id_of(&instance);
    let mut client = Mcp::connect(&instance).await;
    call(&mut client, 0..20).await;
    assert_eq!(told(&server, &id).await, (0, 0));
    server.kill();
    server.launch().await;
    // Of the last call the answer may have been read before its record was made.
    let (recorded, lost) = until_told(&server, &id, 19).await;
    assert!(recorded == 0 && lost <= 20, "{recorded}, {lost}");
    assert_eq!(metric(&server, "minimcp_calls_dropped").await, lost);
    let page = server.get(&format!("/mcps/{id}/calls?outcome=lost")).await;
    assert_eq!(page["items"][0]["generation"], 1, "{page:#}");
    // Told once, however often it is killed before and after the telling.
    for _ in 0..3 {
        server.kill();
        server.begin();
    }
    server.until_ready().await;
    server.change(|config| config.calls.batch_delay = HumanDuration::from_ms(20));
    server.kill();
    server.launch().await;
    server.wait_status(&id, &["running"], SOON).await;
    call(&mut client, 20..30).await;
    assert_eq!(until_told(&server, &id, 10 + lost).await, (10, lost));
}

/// At any point between the memory, the database and the spool.
#[tokio::test]
async fn whenever_a_daemon_is_killed_each_record_is_there_or_counted() {
    const ROUNDS: u64 = 12;
    let mut server = Server::start_with(Database::Sqlite, |config| {
        config.calls.batch_delay = HumanDuration::from_ms(1);
    })
    .await;
    let instance = create(&server).await;
    let id = id_of(&instance);
    let mut calls = 0;
    for round in 0..ROUNDS {
        server.wait_status(&id, &["running"], SOON).await;
        let mut client = Mcp::connect(&instance).await;
        // The file is locked at the end of each second round.
        let (free, locked) = (30 + round, if round % 2 == 0 { 0 } else { 10 });
        call(&mut client, 0..free).await;
        let mut other = open(&server).await;
        if locked > 0 {
            run(&mut other, "BEGIN IMMEDIATE").await;
            call(&mut client, 0..locked).await;
        }
        calls += free + locked;
        server.kill();
        other.close().await.expect("it is ours");
        server.launch().await;
    }
    let (recorded, lost) = until_told(&server, &id, calls - ROUNDS).await;
    // Of the last call of each round the answer may have been read before its record was made.
    assert!(recorded + lost <= calls, "{recorded} + {lost} of {calls}");
    assert!(recorded > 0 && lost > 0, "{recorded}, {lost}");
}
