//! `serve` is killed in the middle of a bulk write of log lines: each line is there once, or a gap counts it.

use std::{collections::BTreeSet, time::Instant};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{
    SOON, id_of,
    network::behind,
    proxy::{Mode, Proxy},
    sqlite::{open, run},
};
use crate::{
    harness::{Database, Server},
    mcp::Mcp,
    processes,
};

/// Lines of one flood: several batches.
const FLOOD: u64 = 20_000;

/// What is known of a flood.
struct Told {
    /// The numbers of its lines.
    numbers: BTreeSet<u64>,
    /// What gaps count, of all floods.
    lost: u64,
}

/// Reads the whole log.
async fn read(server: &Server, id: &str, word: &str) -> Told {
    let (mut numbers, mut lost, mut cursor) = (BTreeSet::new(), 0, String::new());
    loop {
        let page = server
            .get(&format!("/mcps/{id}/logs?limit=1000{cursor}"))
            .await;
        for item in page["items"].as_array().expect("a list") {
            let line = item["line"].as_str().expect("a text");
            let numbered = line
                .strip_prefix(word)
                .and_then(|rest| rest.strip_prefix(" (")?.strip_suffix(')')?.parse().ok());
            if let Some(number) = numbered {
                assert!(numbers.insert(number), "twice: {line}");
            }
            if let Some((count, "lost: the daemon was killed before it could store them")) = line
                .split_once(" line ")
                .or_else(|| line.split_once(" lines "))
            {
                lost += count.parse::<u64>().expect("a count");
            }
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Told { numbers, lost },
        }
    }
}

/// Waits until every line of a flood is there or counted; gives how many gaps count now. `before`: what they counted before.
async fn until_told(server: &Server, id: &str, word: &str, before: u64) -> (Told, u64) {
    let deadline = Instant::now() + SOON * 2;
    loop {
        let told = read(server, id, word).await;
        let lost = told.lost - before;
        let known = told.numbers.len() as u64 + lost;
        if known == FLOOD {
            return (told, lost);
        }
        assert!(
            known < FLOOD,
            "{known} of {FLOOD}: {lost} are counted and there"
        );
        assert!(
            Instant::now() < deadline,
            "{} there, {lost} counted, of {FLOOD}\n{}",
            told.numbers.len(),
            server.log()
        );
        tokio::time::sleep(std::time::Duration::from_millis(200)).await; // poll
    }
}

async fn demo(server: &Server) -> (Value, String) {
    let instance = server.create(json!({"template": "demo"})).await;
    let id = id_of(&instance);
    (instance, id)
}

/// Has the server write a flood; the answer may be lost with the daemon.
fn flood(client: Mcp, word: String) -> tokio::task::JoinHandle<()> {
    let mut client = client;
    tokio::spawn(async move {
        let arguments = json!({"text": word, "lines": FLOOD});
        let _ = client.tool("log", arguments).await;
    })
}

/// A flood, the kill as soon as the proxy holds its write, and the next daemon.
async fn kill_held(proxy: &Proxy, server: &mut Server, instance: &Value, mode: Mode, round: u32) {
    let client = Mcp::connect(instance).await;
    proxy.set(mode).await;
    let writing = flood(client, format!("round{round}"));
    proxy.held(round).await;
    server.kill();
    writing.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_within_a_copy_loses_no_line_uncounted() {
    let Some((proxy, mut server)) = behind(Mode::Open).await else {
        return;
    };
    server.until_ready().await;
    let (instance, id) = demo(&server).await;
    let mut before = 0;
    for round in 1..=3 {
        kill_held(&proxy, &mut server, &instance, Mode::HoldCopy, round).await;
        proxy.set(Mode::Open).await;
        server.launch().await;
        server.wait_status(&id, &["running"], SOON).await;
        let word = format!("round{round}");
        let (told, lost) = until_told(&server, &id, &word, before).await;
        assert!(lost > 0, "the write that was held was rolled back");
        before = told.lost;
    }
}

/// The lines in the database, past the daemon.
async fn stored(database: &mut PgConnection, word: &str) -> u64 {
    let sql = format!("SELECT COUNT(*) FROM logs WHERE line LIKE '{word} (%'");
    let count: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(database)
        .await
        .expect("the database answers");
    u64::try_from(count).expect("a count")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_a_commit_and_its_answer_counts_nothing_as_lost_that_is_there() {
    let Some((proxy, mut server)) = behind(Mode::Open).await else {
        return;
    };
    server.until_ready().await;
    let (instance, id) = demo(&server).await;
    let own = std::env::var("MINIMCP_TEST_POSTGRES_URL").expect("it is available");
    let (_, target) = own.rsplit_once('@').expect("the URL has a user");
    let (target, _) = target.split_once('/').expect("it names a database");
    let url = &server.config().database.url;
    let url = url.replace(&proxy.address().to_string(), target);
    let mut database = PgConnection::connect(&url).await.expect("it is there");
    let mut before = 0;
    for round in 1..=3 {
        let word = format!("round{round}");
        kill_held(&proxy, &mut server, &instance, Mode::HoldCommit, round).await;
        let deadline = Instant::now() + SOON;
        while stored(&mut database, &word).await == 0 {
            assert!(Instant::now() < deadline, "it was not committed");
        }
        proxy.set(Mode::Open).await;
        server.launch().await;
        server.wait_status(&id, &["running"], SOON).await;
        before = until_told(&server, &id, &word, before).await.0.lost;
    }
    database.close().await.expect("closed");
}

#[tokio::test]
async fn a_kill_within_a_transaction_of_sqlite_loses_no_line_uncounted() {
    let mut server = Server::start(Database::Sqlite).await;
    let (instance, id) = demo(&server).await;
    let mut file = open(&server).await;
    run(&mut file, "PRAGMA busy_timeout = 0").await;
    let mut before = 0;
    for round in 1..=3 {
        let word = format!("round{round}");
        let writing = flood(Mcp::connect(&instance).await, word.clone());
        // Once some of it is there, who holds the lock while the daemon stands still is its writer.
        let deadline = Instant::now() + SOON;
        loop {
            assert!(Instant::now() < deadline, "it is never found writing");
            let sql = format!("SELECT COUNT(*) FROM logs WHERE line LIKE '{word} (%'");
            let there: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
                .fetch_one(&mut file)
                .await
                .expect("it is readable");
            processes::freeze(server.pid());
            let taken = sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut file).await;
            if taken.is_err() && there > 0 {
                break;
            }
            if taken.is_ok() {
                run(&mut file, "ROLLBACK").await;
            }
            processes::thaw(server.pid());
            tokio::time::sleep(std::time::Duration::from_millis(1)).await; // poll
        }
        server.kill();
        writing.abort();
        server.launch().await;
        server.wait_status(&id, &["running"], SOON).await;
        let (told, lost) = until_told(&server, &id, &word, before).await;
        assert!(lost > 0, "the open transaction is gone");
        before = told.lost;
    }
    file.close().await.expect("closed");
}

#[tokio::test]
async fn a_kill_while_another_process_locks_the_file_loses_no_line_uncounted() {
    let mut server = Server::start(Database::Sqlite).await;
    let (instance, id) = demo(&server).await;
    let mut file = open(&server).await;
    let client = Mcp::connect(&instance).await;
    run(&mut file, "BEGIN IMMEDIATE").await;
    let writing = flood(client, "locked".to_owned());
    // Lines go to the spool by now, behind a batch that waits for the lock.
    let deadline = Instant::now() + SOON;
    let spool = server.config().logs.spool_dir.clone();
    let segments = || {
        let entries = std::fs::read_dir(&spool).expect("the spool is there");
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter(|name| name.ends_with(".spool")).count()
    };
    while segments() == 0 {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(std::time::Duration::from_millis(1)).await; // poll
    }
    server.kill();
    writing.abort();
    run(&mut file, "ROLLBACK").await;
    file.close().await.expect("closed");
    server.launch().await;
    server.wait_status(&id, &["running"], SOON).await;
    until_told(&server, &id, "locked", 0).await;
}
