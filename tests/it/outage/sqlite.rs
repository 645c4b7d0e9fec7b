//! An SQLite file that another process locks, or whose rows are damaged.

use std::time::{Duration, Instant};

use minimcp::domain::duration::HumanDuration;
use reqwest::{Method, StatusCode};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use super::{SOON, id_of, lines_with, readiness, refused, until_generation, write_lines};
use crate::{
    harness::{Database, Server},
    mcp::Mcp,
    processes,
};

pub async fn open(server: &Server) -> SqliteConnection {
    let url = &server.config().database.url;
    SqliteConnection::connect(url)
        .await
        .expect("the file is there")
}

pub async fn run(connection: &mut SqliteConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[tokio::test]
async fn a_locked_file_holds_up_nothing_but_what_must_be_written() {
    let mut server = Server::start_with(Database::Sqlite, |config| {
        config.database.acquire_timeout = HumanDuration::from_secs(1);
        config.database.statement_timeout = HumanDuration::from_secs(2);
    })
    .await;
    let instance = server.create(json!({"template": "demo"})).await;
    let id = id_of(&instance);
    let mut other = open(&server).await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    let begun = Instant::now();

    let mut client = Mcp::connect(&instance).await;
    write_lines(&mut client, "locked", 100).await;
    let pid = instance["pid"].as_u64().expect("it runs");
    processes::kill(u32::try_from(pid).expect("pids are small"));
    let again = until_generation(&server, &id, 2).await;
    let stop = format!("/mcps/{id}/stop");
    refused(&server, Method::POST, &stop, None, Duration::from_secs(6)).await;
    let create = Some(json!({"template": "demo"}));
    refused(
        &server,
        Method::POST,
        "/mcps",
        create,
        Duration::from_secs(6),
    )
    .await;
    server.get(&format!("/mcps/{id}/logs")).await;
    assert!(
        begun.elapsed() > Duration::from_secs(3),
        "it was locked for a while"
    );

    run(&mut other, "ROLLBACK").await;
    other.close().await.expect("closed");
    let lines = lines_with(&server, &id, "locked", 100).await;
    let wanted: Vec<_> = (1..=100)
        .map(|number| format!("locked ({number})"))
        .collect();
    assert_eq!(lines, wanted);
    let now = server.wait_status(&id, &["running"], SOON).await;
    assert_eq!(now["generation"], 2);
    // An extension is written with all that was not: after it the file knows the present child.
    let deadline = Instant::now() + SOON;
    let extend = format!("/mcps/{id}/extend");
    while !server
        .call(Method::POST, &extend, Some(json!({"ttl": "1h"})))
        .await
        .0
        .is_success()
    {
        assert!(Instant::now() < deadline, "{}", server.log());
    }
    server.kill();
    server.launch().await;
    let adopted = server.wait_status(&id, &["running"], SOON).await;
    assert_eq!(adopted["pid"], again["pid"], "{}", server.log());
    let list = server.get("/mcps").await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list:#}");
}

#[tokio::test]
async fn a_damaged_row_is_named_and_left_alone_until_it_is_repaired() {
    let mut server = Server::start(Database::Sqlite).await;
    let damaged = server
        .create(json!({"template": "demo", "name": "damaged"}))
        .await;
    let sound = server
        .create(json!({"template": "demo", "name": "sound"}))
        .await;
    let id = id_of(&damaged);
    server.stop();
    let mut file = open(&server).await;
    run(&mut file, "PRAGMA ignore_check_constraints = ON").await;
    let damage = format!("UPDATE instances SET desired = 'perhaps' WHERE id = '{id}'");
    run(&mut file, &damage).await;
    file.close().await.expect("closed");

    server.launch().await;
    server.wait_status(&id_of(&sound), &["running"], SOON).await;
    let (status, about) = readiness(&server, "records").await;
    assert_eq!(status, StatusCode::OK, "the rest is served");
    assert!(about.contains(&id) && about.contains("desired"), "{about}");
    assert!(server.log().contains(&about), "{}", server.log());
    let (status, _) = server.call(Method::GET, &format!("/mcps/{id}"), None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // Whatever puts differences right must not take the unreadable for the absent.
    let (status, round) = server
        .call(Method::POST, "/tasks/reconcile/run", None)
        .await;
    assert!(status.is_success(), "{round}");
    let deadline = Instant::now() + SOON;
    loop {
        let tasks = server.get("/tasks").await;
        let items = tasks["items"].as_array().expect("a list");
        let task = items.iter().find(|task| task["name"] == "reconcile");
        let task = task.expect("there is the task");
        if task["runs"].as_u64() > Some(0) && task["running"] == false {
            break;
        }
        assert!(Instant::now() < deadline, "{tasks:#}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }

    server.stop();
    let mut file = open(&server).await;
    let repair = format!("UPDATE instances SET desired = 'running' WHERE id = '{id}'");
    run(&mut file, &repair).await;
    file.close().await.expect("closed");
    server.launch().await;
    let back = server.wait_status(&id, &["running"], SOON).await;
    assert_eq!(back["access_url"], damaged["access_url"]);
    let mut client = Mcp::connect(&damaged).await;
    let answer = client.tool("echo", json!({"text": "back"})).await;
    assert_eq!(answer.as_deref(), Ok("back"));
    assert_eq!(readiness(&server, "records").await.1, "ok");
}

#[tokio::test]
async fn damaged_rows_of_other_tables_are_named_and_keep_nobody_from_anything() {
    let mut server = Server::start(Database::Sqlite).await;
    let instance = server
        .create(json!({"template": "demo", "name": "sound"}))
        .await;
    let id = id_of(&instance);
    let tokens = format!("/mcps/{id}/access-tokens");
    server.post(&tokens, json!({"name": "second"})).await;
    for name in ["kept", "spoilt"] {
        let credential = json!({"name": name, "value": "a-value-of-some-length"});
        server.post("/credentials", credential).await;
    }
    server.stop();
    let mut file = open(&server).await;
    for damage in [
        "PRAGMA foreign_keys = OFF",
        // Bytes that are no text.
        "UPDATE access_token_secrets SET name = CAST(x'ff' AS TEXT) WHERE name = 'second'",
        "UPDATE access_tokens SET name = CAST(x'ff' AS TEXT) WHERE name = 'second'",
        "UPDATE credentials SET name = CAST(x'ff' AS TEXT) WHERE name = 'spoilt'",
        "INSERT INTO port_leases (port, leased_at) VALUES (70000, 0)",
        "UPDATE events SET message = CAST(x'ff' AS TEXT) WHERE id = (SELECT MIN(id) FROM events)",
    ] {
        run(&mut file, damage).await;
    }
    file.close().await.expect("closed");

    server.launch().await;
    server.wait_status(&id, &["running"], SOON).await;
    let mut client = Mcp::connect(&instance).await;
    let answer = client.tool("echo", json!({"text": "on"})).await;
    assert_eq!(answer.as_deref(), Ok("on"));
    let page = server.get("/credentials").await;
    let names: Vec<&str> = page["items"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|item| item["name"].as_str())
        .collect();
    assert_eq!(names, ["kept"]);
    let page = server.get(&tokens).await;
    assert_eq!(page["items"].as_array().map(Vec::len), Some(1), "{page:#}");
    let events = server.get(&format!("/mcps/{id}/events")).await;
    assert!(!events["items"].as_array().expect("a list").is_empty());
    let deadline = Instant::now() + SOON;
    loop {
        let (status, about) = readiness(&server, "records").await;
        assert_eq!(status, StatusCode::OK, "all is served");
        let tables = ["access_tokens", "credentials", "port_leases"];
        if tables.iter().all(|table| about.contains(table)) {
            break;
        }
        assert!(Instant::now() < deadline, "{about}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }

    server.stop();
    let mut file = open(&server).await;
    for repair in [
        "DELETE FROM access_token_secrets WHERE name = CAST(x'ff' AS TEXT)",
        "DELETE FROM access_tokens WHERE name = CAST(x'ff' AS TEXT)",
        "DELETE FROM credentials WHERE name = CAST(x'ff' AS TEXT)",
        "DELETE FROM port_leases WHERE port = 70000",
    ] {
        run(&mut file, repair).await;
    }
    file.close().await.expect("closed");
    server.launch().await;
    server.wait_status(&id, &["running"], SOON).await;
    assert_eq!(readiness(&server, "records").await.1, "ok");
}
