//! What a server offers is answered for it while it sleeps, after every end of the daemon too; a difference is told.

use std::time::{Duration, Instant};

use minimcp::domain::duration::HumanDuration;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    harness::{Database, Server, on_both_databases},
    mcp::Mcp,
    meetings::{Client, Messages, text},
    outage::sqlite,
    session_survival::end_with_keeper,
};

on_both_databases! {
    a_sleeping_server_is_answered_for,
    what_a_woken_server_offers_anew_is_told,
}

const SOON: Duration = Duration::from_secs(60);
const CHANGED: &str = "notifications/tools/list_changed";
/// Lists that the fixture gives in one page.
const LISTS: [&str; 2] = ["tools/list", "resources/list"];

async fn sleepy(database: Database) -> Server {
    Server::start_with(database, |config| {
        config.sleep.after_default = Some(HumanDuration::from_ms(1_500));
        config.runtime.leave_instances_running = true;
        config.runtime.keeper_linger = true;
        config.gateway.wake_budget = HumanDuration::from_secs(SOON.as_secs());
    })
    .await
}

fn id_of(instance: &Value) -> &str {
    instance["id"].as_str().expect("it has an id")
}

async fn asleep(server: &Server, instance: &Value) -> Value {
    server.wait_status(id_of(instance), &["asleep"], SOON).await
}

/// It sleeps, and nobody woke it since this launch.
async fn sleeps_on(server: &Server, instance: &Value, launch: &Value) {
    let there = server.get(&format!("/mcps/{}", id_of(instance))).await;
    assert_eq!(there["status"], "asleep", "{there:#}\n{}", server.log());
    assert_eq!(there["pid"], json!(null), "{there:#}");
    assert_eq!(there["generation"], *launch, "{there:#}");
}

async fn events(server: &Server, instance: &Value, kind: &str) -> Vec<String> {
    let path = format!("/mcps/{}/events?limit=200", id_of(instance));
    let page = server.get(&path).await;
    let items = page["items"].as_array().expect("a list");
    let of_kind = items.iter().filter(|event| event["kind"] == kind);
    of_kind
        .map(|event| event["message"].as_str().expect("a text").to_owned())
        .collect()
}

/// Clients hear of a change before it is written down.
async fn until_told(server: &Server, instance: &Value) -> Vec<String> {
    let deadline = Instant::now() + SOON;
    loop {
        let told = events(server, instance, "capabilities-changed").await;
        if !told.is_empty() {
            return told;
        }
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

async fn token(server: &Server, instance: &Value, body: Value) -> Value {
    let path = format!("/mcps/{}/access-tokens", id_of(instance));
    let (status, made) = server.call(Method::POST, &path, Some(body)).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    made
}

/// The body of an answer, byte for byte.
async fn raw(client: &Client, id: u32, method: &str) -> String {
    let sent = client.request(id, method, json!({})).send().await;
    let sent = sent.expect("an answer");
    assert_eq!(sent.status(), StatusCode::OK);
    sent.text().await.expect("a body")
}

/// What clients of both eras, and one that may only read, are told.
struct Told {
    session: Client,
    stateless: Client,
    reader: Client,
}

impl Told {
    async fn of(instance: &Value, reader: &Value) -> Self {
        Self {
            session: Client::in_session(instance, json!({})).await.0,
            stateless: Client::stateless(instance, json!({})),
            reader: Client::stateless(reader, json!({})),
        }
    }

    /// After the end of a daemon.
    fn reconnect(&mut self) {
        for client in [&mut self.session, &mut self.stateless, &mut self.reader] {
            client.reconnect();
        }
    }

    async fn all(&self) -> Vec<String> {
        let mut told = vec![
            raw(&self.stateless, 7, "server/discover").await,
            raw(&self.reader, 8, "tools/list").await,
        ];
        for method in LISTS {
            told.push(raw(&self.session, 9, method).await);
            told.push(raw(&self.stateless, 10, method).await);
        }
        told
    }
}

/// What is learnt and a stop both want the store's only writer, while another process locks the file: neither may hold
/// up the other beyond that.
#[tokio::test]
async fn a_stop_while_what_was_learnt_is_being_kept_is_done() {
    let server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "offers"})).await;
    let mut other = sqlite::open(&server).await;
    sqlite::run(&mut other, "BEGIN IMMEDIATE").await;
    let folder = server.config().runtime.instance_dir.join(id_of(&instance));
    let deadline = Instant::now() + SOON;
    while !folder.join("listed").exists() {
        assert!(Instant::now() < deadline, "nobody asked what it offers");
        tokio::time::sleep(Duration::from_millis(10)).await; // poll
    }
    let path = format!("/mcps/{}/stop", id_of(&instance));
    let mut stop = std::pin::pin!(server.call(Method::POST, &path, None));
    // Time for the stop to come to where it waits for the store; less would make this test blind, not wrong.
    for _ in 0..5 {
        assert!(futures_util::poll!(stop.as_mut()).is_pending());
        server.get("/mcps").await;
    }
    sqlite::run(&mut other, "ROLLBACK").await;
    let (status, stopped) = stop.await;
    assert_eq!(status, StatusCode::OK, "{stopped}\n{}", server.log());
    server
        .wait_status(id_of(&instance), &["stopped"], SOON)
        .await;
}

async fn a_sleeping_server_is_answered_for(database: Database) {
    let mut server = sleepy(database).await;
    let instance = server.create(json!({"template": "offers"})).await;
    let reader = token(
        &server,
        &instance,
        json!({"name": "reader", "scope": "read-only"}),
    )
    .await;
    let mut clients = Told::of(&instance, &reader).await;
    let live = clients.all().await;
    assert!(
        live[1].contains("look") && !live[1].contains("later"),
        "{}",
        live[1]
    );
    assert!(
        live[2].contains("1.000,1e400,123456789012345678901234567890"),
        "{}",
        live[2]
    );
    let (_, hello) = Client::in_session(&instance, json!({})).await;

    let launch = asleep(&server, &instance).await["generation"].clone();
    let ends: [Option<fn(&mut Server)>; 3] = [
        None,
        Some(Server::kill),
        Some(|server| assert_eq!(server.stop(), Some(0), "{}", server.log())),
    ];
    for end in ends {
        if let Some(end) = end {
            end(&mut server);
            server.launch().await;
            clients.reconnect();
        }
        assert_eq!(clients.all().await, live);
        // All pages are one.
        let prompts = raw(&clients.session, 11, "prompts/list").await;
        assert_eq!(
            prompts,
            r#"{"jsonrpc":"2.0","id":11,"result":{"prompts":[{"name":"one","x-digits":[1.000,1e400,123456789012345678901234567890]},{"name":"two"}]}}"#
        );
        // As clients of the session era begin: initialize, initialized, a list; and a sign of life.
        let (fresh, fresh_hello) = Client::in_session(&instance, json!({})).await;
        assert_eq!(fresh_hello, hello);
        let mut known = Mcp::connect(&instance).await;
        assert_eq!(known.request("ping", json!({})).await, Ok(json!({})));
        assert_eq!(known.end().await, StatusCode::NO_CONTENT);
        assert_eq!(fresh.end().await, StatusCode::NO_CONTENT);
        // What is not as it must be is told by us, and wakes nobody either.
        let no_headers = clients.stateless.post(&json!({"jsonrpc": "2.0", "id": 1,
            "method": "server/discover"}));
        let refused = no_headers.send().await.expect("an answer");
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
        sleeps_on(&server, &instance, &launch).await;
    }
    assert!(events(&server, &instance, "woken").await.is_empty());
    let metrics = server.send(Method::GET, "/metrics", None).await;
    let metrics = metrics.text().await.expect("a text");
    for method in [
        "initialize",
        "server/discover",
        "tools/list",
        "prompts/list",
    ] {
        let name = format!("minimcp_capability_cache_answers_total{{method=\"{method}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        let count: f64 = line
            .expect("it is counted")
            .trim()
            .parse()
            .expect("a number");
        assert!(count >= 1.0, "{method}: {count}");
    }

    // A call is for the server itself, and a list is from then on.
    assert_eq!(
        text(clients.session.tool(12, "look", json!({}))).await,
        "seen"
    );
    let there = server.get(&format!("/mcps/{}", id_of(&instance))).await;
    assert_eq!(there["status"], "running", "{there:#}");
    assert_eq!(clients.all().await, live);
    // It offers what it offered: there is nothing to tell.
    asleep(&server, &instance).await;
    assert!(
        events(&server, &instance, "capabilities-changed")
            .await
            .is_empty()
    );
    end_with_keeper(server);
}

async fn what_a_woken_server_offers_anew_is_told(database: Database) {
    let mut server = sleepy(database).await;
    let instance = server.create(json!({"template": "offers"})).await;
    let (mut one, _) = Client::in_session(&instance, json!({})).await;
    assert_eq!(
        text(one.tool(2, "later", json!({}))).await,
        "in the next life"
    );
    let launch = asleep(&server, &instance).await["generation"].clone();
    // Nobody of this daemon has spoken with the server.
    server.kill();
    server.launch().await;
    one.reconnect();
    let mut news = one.standing().await;
    let (other, _) = Client::in_session(&instance, json!({})).await;
    let mut other_news = other.standing().await;
    let listener = Client::stateless(&instance, json!({}));
    let wish = json!({"notifications": {"toolsListChanged": true}});
    let mut heard = Messages::of(listener.request(6, "subscriptions/listen", wish)).await;
    heard
        .expect("notifications/subscriptions/acknowledged")
        .await;
    let before = raw(&other, 3, "tools/list").await;
    assert!(!before.contains("extra"), "{before}");
    sleeps_on(&server, &instance, &launch).await;

    assert_eq!(text(one.tool(4, "look", json!({}))).await, "seen");
    news.expect(CHANGED).await;
    other_news.expect(CHANGED).await;
    heard.expect(CHANGED).await;
    let told = until_told(&server, &instance).await;
    assert_eq!(told, ["tools: added extra; changed later"]);
    let metrics = server.send(Method::GET, "/metrics", None).await;
    let metrics = metrics.text().await.expect("a text");
    assert!(
        metrics.contains("\nminimcp_capability_changes_total 1.0\n"),
        "{metrics}"
    );
    let now = raw(&other, 5, "tools/list").await;
    assert!(now.contains("extra"), "{now}");

    // From now on that is what is answered.
    asleep(&server, &instance).await;
    assert_eq!(raw(&other, 5, "tools/list").await, now);
    assert_eq!(
        events(&server, &instance, "capabilities-changed")
            .await
            .len(),
        1
    );
    end_with_keeper(server);
}

#[tokio::test]
async fn what_is_no_more_sure_is_asked_of_the_server() {
    let server = sleepy(Database::Sqlite).await;
    let put = |value: &'static str| {
        let body = json!({"value": value});
        server.call(Method::PUT, "/credentials/example", Some(body))
    };
    let (status, _) = put("one").await;
    assert!(status.is_success(), "{status}");
    let live = server.create(json!({"template": "offers-live"})).await;
    let keyed = json!({"template": "offers", "credentials": {"EXAMPLE_KEY": "example"}});
    let keyed = server.create(keyed).await;
    for instance in [&live, &keyed] {
        let client = Client::stateless(instance, json!({}));
        let first = raw(&client, 1, "tools/list").await;
        let launch = asleep(&server, instance).await["generation"].clone();
        if instance == &keyed {
            assert_eq!(raw(&client, 1, "tools/list").await, first);
            sleeps_on(&server, instance, &launch).await;
            let (status, _) = put("two").await;
            assert!(status.is_success(), "{status}");
        }
        assert_eq!(raw(&client, 1, "tools/list").await, first);
        let there = server.get(&format!("/mcps/{}", id_of(instance))).await;
        assert!(there["generation"].as_u64() > launch.as_u64(), "{there:#}");
    }
    end_with_keeper(server);
}

#[tokio::test]
async fn a_stateless_server_is_answered_for_to_both_eras() {
    let server = sleepy(Database::Sqlite).await;
    let instance = server.create(json!({"template": "stateless"})).await;
    let stateless = Client::stateless(&instance, json!({}));
    let (session, _) = Client::in_session(&instance, json!({})).await;
    let ask = async || {
        [
            raw(&stateless, 1, "server/discover").await,
            raw(&stateless, 2, "tools/list").await,
            raw(&session, 3, "tools/list").await,
        ]
    };
    let live = ask().await;
    let launch = asleep(&server, &instance).await["generation"].clone();
    let kept = ask().await;
    sleeps_on(&server, &instance, &launch).await;
    // To a session it says the same; how long a list may be kept gets shorter.
    let list = |text: &str| {
        text[text.find("{\"tools\"").expect("a list")..]
            .trim_end()
            .to_owned()
    };
    assert_eq!(list(&kept[2]), list(&live[2]));
    for (kept, live) in kept.iter().zip(&live).take(2) {
        let read = |text: &str| -> (Value, u64) {
            let mut answer: Value = serde_json::from_str(text).expect("JSON");
            let ttl = answer["result"]["ttlMs"].take();
            (answer, ttl.as_u64().expect("it says how long"))
        };
        let (kept, kept_ms) = read(kept);
        let (live, live_ms) = read(live);
        assert_eq!(kept, live);
        assert!(kept_ms <= live_ms, "{kept_ms} of {live_ms}");
    }
    end_with_keeper(server);
}
