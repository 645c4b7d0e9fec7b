//! Client sessions outlive `serve`, however it ends.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    fixtures,
    harness::{Database, Server, on_both_databases, wait_until},
    mcp,
    meetings::{Client, Messages, answer, everything, text},
    processes,
    survival::keeper_of,
};

on_both_databases! {
    a_session_goes_on_after_serve_was_killed,
    a_session_goes_on_after_an_orderly_restart,
}

const SOON: Duration = Duration::from_secs(30);
const NEWS: &str = "notifications/resources/updated";

fn id_of(instance: &Value) -> &str {
    instance["id"].as_str().expect("it has an id")
}

/// Wishes of a client, each granted.
async fn wish(client: &Client, id: u32, method: &str, params: Value) {
    let granted = answer(client.request(id, method, params)).await;
    assert_eq!(granted["result"], json!({}), "{granted}");
}

async fn sessions(server: &Server, instance: &Value) -> Value {
    let path = format!("/mcps/{}/stats", id_of(instance));
    server.get(&path).await["sessions"].clone()
}

/// Waits until the child says that it keeps so many calls waiting.
pub async fn until_held(server: &Server, instance: &Value, count: usize) {
    let path = format!("/mcps/{}/logs?text=held&limit=100", id_of(instance));
    let deadline = Instant::now() + SOON;
    while server.get(&path).await["items"].as_array().map(Vec::len) != Some(count) {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(10)).await; // poll
    }
}

fn pid(instance: &Value) -> u64 {
    instance["pid"].as_u64().expect("it runs")
}

async fn running(server: &Server, instance: &Value) -> Value {
    server
        .wait_status(id_of(instance), &["running"], SOON)
        .await
}

/// Subscribed, with a log level, and with a stream on which one resource was told; the id of that event.
async fn settled(instance: &Value) -> (Client, String) {
    let (client, _) = Client::in_session(instance, everything()).await;
    wish(
        &client,
        2,
        "resources/subscribe",
        json!({"uri": "test://a"}),
    )
    .await;
    wish(
        &client,
        3,
        "resources/subscribe",
        json!({"uri": "test://b"}),
    )
    .await;
    wish(
        &client,
        4,
        "resources/unsubscribe",
        json!({"uri": "test://b"}),
    )
    .await;
    wish(&client, 5, "logging/setLevel", json!({"level": "error"})).await;
    let mut news = client.standing().await;
    text(client.tool(6, "touch", json!({"uri": "test://a"}))).await;
    news.expect(NEWS).await;
    let last = news.last_id.clone().expect("events have ids");
    (client, last)
}

/// All that a session is, after the daemon was another one.
async fn goes_on(server: &Server, instance: &Value, client: &Client, last: &str) {
    assert_eq!(
        text(client.tool(20, "echo", json!({"text": "on"}))).await,
        "on"
    );
    let heard = text(client.tool(21, "heard", json!({}))).await;
    assert_eq!(heard, "error ['test://a']");
    // What came before a stream is open waits for it; the ids of the former daemon are no obstacle.
    text(client.tool(22, "touch", json!({"uri": "test://a"}))).await;
    let mut news = client.resumed(last).await;
    assert_eq!(news.expect(NEWS).await["params"]["uri"], "test://a");
    let first = news.last_id.clone().expect("events have ids");
    assert_ne!(first, last, "the lives of a session have ids of their own");
    text(client.tool(23, "touch", json!({"uri": "test://a"}))).await;
    news.expect(NEWS).await;
    drop(news);
    let mut news = client.resumed(&first).await;
    news.expect(NEWS).await;
    text(client.tool(24, "touch", json!({"uri": "test://b"}))).await;
    text(client.tool(25, "touch", json!({"uri": "test://a"}))).await;
    assert_eq!(news.expect(NEWS).await["params"]["uri"], "test://a");
    assert_eq!(sessions(server, instance).await, 1);
    assert_eq!(client.end().await, StatusCode::NO_CONTENT);
    let gone = client.tool(26, "echo", json!({"text": "on"})).send().await;
    assert_eq!(gone.expect("an answer").status(), StatusCode::NOT_FOUND);
    assert_eq!(sessions(server, instance).await, 0);
}

/// Sessions that share a child, and sessions with a child each.
const BOTH: [&str; 2] = ["wishes", "wishes-alone"];

async fn a_session_goes_on_after_serve_was_killed(database: Database) {
    for template in BOTH {
        goes_on_after_kills(database, template).await;
    }
}

async fn goes_on_after_kills(database: Database, template: &str) {
    let mut server = Server::start(database).await;
    let instance = server.create(json!({"template": template})).await;
    let (client, last) = settled(&instance).await;
    let (ended, _) = Client::in_session(&instance, json!({})).await;
    assert_eq!(ended.end().await, StatusCode::NO_CONTENT);
    server.kill();
    server.launch().await;
    assert_eq!(pid(&running(&server, &instance).await), pid(&instance));
    let gone = ended.tool(2, "echo", json!({"text": "on"})).send().await;
    assert_eq!(gone.expect("an answer").status(), StatusCode::NOT_FOUND);
    // A second one, before anything was asked of the first.
    server.kill();
    server.launch().await;
    running(&server, &instance).await;
    goes_on(&server, &instance, &client, &last).await;
    server.kill();
    server.launch().await;
    running(&server, &instance).await;
    assert_eq!(sessions(&server, &instance).await, 0);
}

async fn a_session_goes_on_after_an_orderly_restart(database: Database) {
    for template in BOTH {
        goes_on_after_a_restart(database, template).await;
    }
}

async fn goes_on_after_a_restart(database: Database, template: &str) {
    let mut server = Server::start_with(database, |config| {
        config.runtime.leave_instances_running = true;
        config.runtime.keeper_linger = true;
    })
    .await;
    let instance = server.create(json!({"template": template})).await;
    let (client, last) = settled(&instance).await;
    assert_eq!(server.stop(), Some(0), "{}", server.log());
    server.launch().await;
    assert_eq!(pid(&running(&server, &instance).await), pid(&instance));
    goes_on(&server, &instance, &client, &last).await;
    end_with_keeper(server);
}

/// Ends a daemon that leaves its instances running, and then its keeper, which ends them.
pub fn end_with_keeper(mut server: Server) {
    let keeper = keeper_of(&server).pid;
    assert_eq!(server.stop(), Some(0), "{}", server.log());
    processes::terminate(keeper);
    let gone = wait_until(SOON, || server.processes().is_empty().then_some(()));
    assert!(gone.is_some(), "{:?}", server.processes());
}

#[tokio::test]
async fn a_child_that_came_up_meanwhile_hears_what_sessions_wish() {
    let mut server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "wishes"})).await;
    let (client, last) = settled(&instance).await;
    server.kill();
    processes::kill(u32::try_from(pid(&instance)).expect("pids are small"));
    server.launch().await;
    assert_ne!(pid(&running(&server, &instance).await), pid(&instance));
    goes_on(&server, &instance, &client, &last).await;
}

#[tokio::test]
async fn a_session_at_a_stateless_server_goes_on() {
    let mut server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "stateless"})).await;
    let (client, _) = Client::in_session(&instance, everything()).await;
    wish(
        &client,
        2,
        "resources/subscribe",
        json!({"uri": "test://one"}),
    )
    .await;
    wish(&client, 3, "logging/setLevel", json!({"level": "error"})).await;
    server.kill();
    server.launch().await;
    running(&server, &instance).await;
    assert_eq!(text(client.tool(4, "log", json!({}))).await, "error");
    // The stream of news of the former daemon is still open at the server, which cannot know that it is gone.
    let deadline = Instant::now() + SOON;
    loop {
        let listens = text(client.tool(9, "listens", json!({}))).await;
        if listens.matches("test://one").count() >= 2 {
            break;
        }
        assert!(Instant::now() < deadline, "{listens}");
    }
    let mut news = client.standing().await;
    text(client.tool(5, "touch", json!({"uri": "test://one"}))).await;
    assert_eq!(news.expect(NEWS).await["params"]["uri"], "test://one");
}

#[tokio::test]
async fn an_answer_to_a_call_of_the_former_daemon_reaches_nobody() {
    let mut server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "wishes"})).await;
    let (client, _) = Client::in_session(&instance, everything()).await;
    let (other, _) = Client::in_session(&instance, everything()).await;
    let held = tokio::spawn(client.tool(7, "hold", json!({})).send());
    let params = json!({"name": "progress", "_meta": {"progressToken": "p"}});
    let mut streamed = Messages::of(other.request(7, "tools/call", params)).await;
    streamed.expect("notifications/progress").await;
    until_held(&server, &instance, 2).await;
    let lost = streamed.last_id.clone().expect("events have ids");
    server.kill();
    server.launch().await;
    running(&server, &instance).await;
    let cut = held.await.expect("joined");
    assert!(cut.is_err(), "its connection was cut: {cut:?}");
    // The answer of a call that was under way is lost with the daemon that served it, which is said as the answer to it.
    for _ in 0..2 {
        let mut resumed = other.resumed(&lost).await;
        let told = resumed.next().await.expect("an answer");
        assert_eq!(
            (&told["id"], &told["error"]["code"]),
            (&json!(7), &json!(-32603))
        );
        let data = json!({"cause": "daemon-restarted", "retryable": true, "outcome": "unknown"});
        assert_eq!(told["error"]["data"], data, "{told}");
        assert_eq!(resumed.next().await, None, "that was the answer");
        let answered = resumed.last_id.clone().expect("events have ids");
        let over = other.get_after(&answered).send().await.expect("an answer");
        assert_eq!(over.status(), StatusCode::BAD_REQUEST);
    }
    // The same ids again, while the answers to the old ones come.
    let mut news = client.standing().await;
    let released = text(other.tool(7, "release", json!({}))).await;
    assert_eq!(released, "released 2");
    wish(
        &client,
        7,
        "resources/subscribe",
        json!({"uri": "test://a"}),
    )
    .await;
    text(client.tool(8, "touch", json!({"uri": "test://a"}))).await;
    // Nothing came before this.
    news.expect(NEWS).await;
}

#[tokio::test]
async fn a_session_whose_token_was_revoked_does_not_come_back() {
    let mut server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "wishes"})).await;
    let path = format!("/mcps/{}/access-tokens", id_of(&instance));
    let guest = server.post(&path, json!({"name": "guest"})).await;
    let (client, _) = Client::in_session(&guest, json!({})).await;
    let (own, _) = Client::in_session(&instance, json!({})).await;
    let (status, _) = server
        .call(Method::DELETE, &format!("{path}/guest"), None)
        .await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    // One of the same name is another one.
    let again = server.post(&path, json!({"name": "guest"})).await;
    server.kill();
    server.launch().await;
    running(&server, &instance).await;
    let refused = client.with_token_of(&again).tool(2, "echo", json!({}));
    let refused = refused.send().await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::NOT_FOUND);
    assert_eq!(text(own.tool(2, "echo", json!({"text": "on"}))).await, "on");
}

/// The official SDK comes back for its call by itself, and tells its user instead of waiting for its time limit.
#[tokio::test]
async fn a_real_client_is_told_that_its_call_was_lost_with_the_daemon() {
    if fixtures::deps().is_none() {
        return;
    }
    let mut server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "wishes"})).await;
    let called = instance.clone();
    let call =
        tokio::spawn(
            async move { mcp::try_sdk("python-1", &called, "progress", &json!({})).await },
        );
    until_held(&server, &instance, 1).await;
    server.kill();
    server.launch().await;
    running(&server, &instance).await;
    let outcome = call.await.expect("joined").expect("SDKs are installed");
    let told = outcome.expect_err("its call was lost");
    assert!(
        told.contains("The daemon ended while this call was under way"),
        "{told}"
    );
}
