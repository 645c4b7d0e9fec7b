//! PostgreSQL behind a network that refuses, cuts and stalls.

use std::time::{Duration, Instant};

use minimcp::domain::duration::HumanDuration;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{
    SOON, events_of, id_of, lines_with,
    proxy::{Mode, Proxy},
    readiness, refused, until_generation, until_ready, write_lines,
};
use crate::{
    harness::{Database, Server, wait_until},
    mcp::Mcp,
    processes,
};

/// What a mutation may take until it is refused: the configured 2 s, and a busy machine.
const REFUSAL_LIMIT: Duration = Duration::from_secs(5);

/// The relay, and a daemon behind it that was started but not waited for. `None` where there is no PostgreSQL.
pub(super) async fn behind(mode: Mode) -> Option<(Proxy, Server)> {
    if !Database::available().contains(&Database::Postgres) {
        return None;
    }
    let url = std::env::var("MINIMCP_TEST_POSTGRES_URL").expect("it is available");
    let (_, place) = url.rsplit_once('@').expect("the URL has a user");
    let (target, _) = place.split_once('/').expect("the URL names a database");
    let proxy = Proxy::start(target.to_owned(), mode).await;
    let address = proxy.address().to_string();
    let server = Server::begin_with(Database::Postgres, |config| {
        config.database.url = config.database.url.replace(target, &address);
        config.database.acquire_timeout = HumanDuration::from_secs(1);
        config.database.statement_timeout = HumanDuration::from_secs(2);
    })
    .await;
    Some((proxy, server))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_waits_for_a_database_that_is_away_and_says_so() {
    let Some((proxy, mut server)) = behind(Mode::Refuse).await else {
        return;
    };
    let tries = || {
        let log = server.log();
        let told = log.lines().filter(|line| line.contains("trying again"));
        told.map(str::to_owned).collect::<Vec<_>>()
    };
    let told = wait_until(SOON, || Some(tries()).filter(|told| told.len() >= 3));
    let told = told.unwrap_or_else(|| panic!("it was not told\n{}", server.log()));
    for line in &told {
        assert!(line.contains(&proxy.address().to_string()), "where: {line}");
        assert!(line.contains("refused"), "why: {line}");
    }
    let url = server.config().database.url.clone();
    let (_, password) = url.split_once("minimcp:").expect("a user and a password");
    let (password, _) = password.split_once('@').expect("a host");
    assert!(
        !server.log().contains(password),
        "the password is in the log"
    );

    proxy.set(Mode::Open).await;
    server.until_ready().await;
    let instance = server.create(json!({"template": "demo"})).await;
    assert_eq!(instance["status"], "running", "{instance:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_go_on_without_the_database_and_nothing_is_lost() {
    let Some((proxy, mut server)) = behind(Mode::Open).await else {
        return;
    };
    server.until_ready().await;
    let instance = server
        .create(json!({"template": "demo", "name": "one"}))
        .await;
    let id = id_of(&instance);
    let mut client = Mcp::connect(&instance).await;
    write_lines(&mut client, "before", 20).await;

    proxy.set(Mode::Refuse).await;
    until_ready(&server, false).await;
    let (status, why) = readiness(&server, "database").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_ne!(why, "ok");
    assert_eq!(
        server.send(Method::GET, "/healthz", None).await.status(),
        StatusCode::OK
    );

    // The data plane, and a child that dies meanwhile.
    let answer = client.tool("echo", json!({"text": "still here"})).await;
    assert_eq!(answer.as_deref(), Ok("still here"));
    write_lines(&mut client, "during", 200).await;
    let pid = instance["pid"].as_u64().expect("it runs");
    processes::kill(u32::try_from(pid).expect("pids are small"));
    let again = until_generation(&server, &id, 2).await;
    let mut client = Mcp::connect(&instance).await;
    let answer = client.tool("echo", json!({"text": "back"})).await;
    assert_eq!(answer.as_deref(), Ok("back"));
    write_lines(&mut client, "later", 200).await;

    // The control plane: what is in memory is told, what must be written is refused and leaves nothing behind.
    let list = server.get("/mcps").await;
    assert_eq!(list["items"][0]["id"], instance["id"], "{list:#}");
    for (method, path, body) in [
        (
            Method::POST,
            "/mcps".to_owned(),
            Some(json!({"template": "demo"})),
        ),
        (Method::POST, format!("/mcps/{id}/stop"), None),
        (Method::POST, format!("/mcps/{id}/restart"), None),
        (
            Method::POST,
            format!("/mcps/{id}/extend"),
            Some(json!({"ttl": "1h"})),
        ),
        (
            Method::PATCH,
            format!("/mcps/{id}"),
            Some(json!({"name": "two"})),
        ),
        (
            Method::POST,
            "/credentials".to_owned(),
            Some(json!({"name": "a", "value": "b"})),
        ),
        (Method::GET, format!("/mcps/{id}/logs"), None),
    ] {
        refused(&server, method, &path, body, REFUSAL_LIMIT).await;
    }
    let unchanged = server.get(&format!("/mcps/{id}")).await;
    assert_eq!(unchanged["status"], "running", "{unchanged:#}");
    assert_eq!(unchanged["name"], "one");
    assert_eq!(unchanged["generation"], 2);
    assert_eq!(unchanged["expires_at"], instance["expires_at"]);
    assert_eq!(server.access_ports().len(), 1);

    proxy.set(Mode::Open).await;
    until_ready(&server, true).await;
    for (word, count) in [("before", 20), ("during", 200), ("later", 200)] {
        let lines = lines_with(&server, &id, word, count).await;
        let wanted: Vec<_> = (1..=count)
            .map(|number| format!("{word} ({number})"))
            .collect();
        assert_eq!(lines, wanted);
    }
    let expected = ["1 exited", "2 starting", "2 running"];
    let deadline = Instant::now() + SOON;
    loop {
        let events = events_of(&server, &id).await;
        if events.ends_with(&expected.map(str::to_owned)) {
            break;
        }
        assert!(Instant::now() < deadline, "{events:?}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await; // poll
    }

    // What the database holds is what is: a new daemon takes the very child over.
    server.kill();
    server.launch().await;
    let adopted = server.wait_status(&id, &["running"], SOON).await;
    assert_eq!(adopted["pid"], again["pid"], "{}", server.log());
    assert_eq!(adopted["generation"], 2);
    let list = server.get("/mcps").await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_says_nothing_holds_nothing_up() {
    let Some((proxy, mut server)) = behind(Mode::Open).await else {
        return;
    };
    server.until_ready().await;
    let instance = server
        .create(json!({"template": "demo", "name": "one"}))
        .await;
    let id = id_of(&instance);
    let mut client = Mcp::connect(&instance).await;
    for round in 0..2_u64 {
        proxy.set(Mode::Stall).await;
        let begun = Instant::now();
        let (status, why) = readiness(&server, "database").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_ne!(why, "ok");
        assert!(begun.elapsed() < REFUSAL_LIMIT);

        write_lines(&mut client, &format!("round{round}"), 100).await;
        let before = server.get(&format!("/mcps/{id}")).await;
        let pid = before["pid"].as_u64().expect("it runs");
        processes::kill(u32::try_from(pid).expect("pids are small"));
        until_generation(&server, &id, round + 2).await;
        client = Mcp::connect(&instance).await;
        let answer = client.tool("echo", json!({"text": "still here"})).await;
        assert_eq!(answer.as_deref(), Ok("still here"));
        // All at once, and more than there are connections: no one waits behind another.
        let stop = format!("/mcps/{id}/stop");
        let logs = format!("/mcps/{id}/logs");
        let stops = (0..2).map(|_| refused(&server, Method::POST, &stop, None, REFUSAL_LIMIT * 2));
        let reads = (0..12).map(|_| refused(&server, Method::GET, &logs, None, REFUSAL_LIMIT));
        let creations = (0..4).map(|_| {
            let body = json!({"template": "demo"});
            refused(&server, Method::POST, "/mcps", Some(body), REFUSAL_LIMIT)
        });
        futures_util::future::join(
            futures_util::future::join_all(stops),
            futures_util::future::join(
                futures_util::future::join_all(reads),
                futures_util::future::join_all(creations),
            ),
        )
        .await;
        let now = server.get(&format!("/mcps/{id}")).await;
        assert_eq!(now["status"], "running", "a refused stop stops nothing");

        // The first time it comes back, the second time the connections are gone as well.
        if round == 1 {
            proxy.set(Mode::Refuse).await;
        }
        proxy.set(Mode::Open).await;
        until_ready(&server, true).await;
        let word = format!("round{round}");
        let lines = lines_with(&server, &id, &word, 100).await;
        let wanted: Vec<_> = (1..=100)
            .map(|number| format!("{word} ({number})"))
            .collect();
        assert_eq!(lines, wanted);
    }
    server.post(&format!("/mcps/{id}/stop"), json!({})).await;
    server.wait_status(&id, &["stopped"], SOON).await;
    let list = server.get("/mcps").await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_ends_in_time_while_the_database_says_nothing() {
    let Some((proxy, mut server)) = behind(Mode::Open).await else {
        return;
    };
    server.until_ready().await;
    let instance = server.create(json!({"template": "demo"})).await;
    proxy.set(Mode::Stall).await;
    assert_eq!(server.stop(), Some(0), "{}", server.log());
    assert_eq!(server.processes(), [], "{}", server.log());
    proxy.set(Mode::Open).await;
    server.launch().await;
    let again = server
        .wait_status(&id_of(&instance), &["running"], SOON)
        .await;
    assert_eq!(again["access_url"], instance["access_url"]);
}
