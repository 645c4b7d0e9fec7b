//! Instances that nobody uses fall asleep, and a request wakes them.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use minimcp::domain::{duration::HumanDuration, sleep::SleepPolicy};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    harness::{Database, Server, on_both_databases},
    mcp::Mcp,
    meetings::{Client, answer, everything, text},
    session_survival::end_with_keeper,
};

on_both_databases! {
    an_instance_that_nobody_uses_sleeps_until_a_request_wakes_it,
}

const SOON: Duration = Duration::from_secs(60);
const AFTER_MS: u64 = 1_500;

async fn sleepy(database: Database) -> Server {
    Server::start_with(database, |config| {
        config.sleep.after_default = Some(HumanDuration::from_ms(AFTER_MS));
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

/// How many events of this kind an instance has.
async fn events(server: &Server, instance: &Value, kind: &str) -> usize {
    let path = format!("/mcps/{}/events?limit=200", id_of(instance));
    let page = server.get(&path).await;
    let items = page["items"].as_array().expect("a list");
    items.iter().filter(|event| event["kind"] == kind).count()
}

/// Waits for an event of this kind: what happens is shown before it is written.
async fn until_told(server: &Server, instance: &Value, kind: &str) {
    let deadline = Instant::now() + SOON;
    while events(server, instance, kind).await == 0 {
        assert!(Instant::now() < deadline, "no {kind}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

fn is_there(pid: &Value) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

async fn an_instance_that_nobody_uses_sleeps_until_a_request_wakes_it(database: Database) {
    let mut server = sleepy(database).await;
    let instance = server.create(json!({"template": "legacy-echo"})).await;
    let mut client = Mcp::connect(&instance).await;
    // Who only listens keeps nothing awake, and hears on.
    let news = client.stream().await;
    let echo = client.tool("echo", json!({"text": "first"})).await;
    assert_eq!(echo, Ok("first".to_owned()));

    let there = asleep(&server, &instance).await;
    assert!(!is_there(&instance["pid"]), "{there:#}");
    assert_eq!(
        (&there["pid"], &there["desired"]),
        (&json!(null), &json!("running"))
    );
    assert_eq!(there["port"], instance["port"]);
    let reason = there["reason"].as_str().expect("it says why");
    assert!(reason.contains("the next request wakes it"), "{reason}");
    until_told(&server, &instance, "asleep").await;

    // What sleeps is left asleep by the next daemon, and its session goes on.
    let launches = there["generation"].as_u64().expect("a number");
    for end in [Server::kill, |server: &mut Server| {
        assert_eq!(server.stop(), Some(0), "{}", server.log());
    }] {
        end(&mut server);
        server.launch().await;
        let there = server.get(&format!("/mcps/{}", id_of(&instance))).await;
        assert_eq!(there["status"], "asleep", "{there:#}");
        assert_eq!(there["generation"], launches, "{there:#}");
    }
    drop(news);

    // Many at once: all are answered, and it is launched for the first of them.
    let calls = (100..120).map(|id| {
        let params = json!({"name": "echo", "arguments": {"text": id.to_string()}});
        let call = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
        let client = &client;
        async move { (id, client.send(&call).await.text().await.expect("a body")) }
    });
    for (id, body) in join_all(calls).await {
        assert!(
            body.contains(&format!("\"text\":\"{id}\""))
                || body.contains(&format!("\"text\": \"{id}\"")),
            "{body}"
        );
    }
    let there = server.get(&format!("/mcps/{}", id_of(&instance))).await;
    let launched = there["generation"].as_u64().expect("a number") - launches;
    assert!((1..20).contains(&launched), "{there:#}");
    until_told(&server, &instance, "woken").await;
    let value = async |name: &str| -> f64 {
        let metrics = server.send(Method::GET, "/metrics", None).await;
        let metrics = metrics.text().await.expect("a text");
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        let line = line.unwrap_or_else(|| panic!("no {name}"));
        line.trim().parse().expect("a number")
    };
    // The first answers go out before it is counted how long it took.
    let deadline = Instant::now() + SOON;
    for name in [
        "minimcp_wakes_total ",
        "minimcp_wake_duration_seconds_count ",
    ] {
        while value(name).await < 1.0 {
            assert!(Instant::now() < deadline, "{name} is 0");
            tokio::time::sleep(Duration::from_millis(20)).await; // poll
        }
    }

    // A stop that somebody asked for is no sleep.
    asleep(&server, &instance).await;
    server
        .post(&format!("/mcps/{}/stop", id_of(&instance)), json!({}))
        .await;
    let refused = client.tool("echo", json!({"text": "no"})).await;
    assert!(refused.is_err(), "{refused:?}");
    end_with_keeper(server);
}

#[tokio::test]
async fn calls_under_way_and_subscriptions_keep_an_instance_awake() {
    let server = sleepy(Database::Sqlite).await;
    let held = server.create(json!({"template": "wishes"})).await;
    let (caller, _) = Client::in_session(&held, everything()).await;
    let call = tokio::spawn(caller.tool(2, "hold", json!({})).send());
    let heard = server.create(json!({"template": "wishes"})).await;
    let (subscriber, _) = Client::in_session(&heard, everything()).await;
    let params = json!({"uri": "test://a"});
    answer(subscriber.request(2, "resources/subscribe", params)).await;
    // Both were left alone for longer than one that came after them and sleeps.
    let idle = server.create(json!({"template": "wishes"})).await;
    asleep(&server, &idle).await;
    for instance in [&held, &heard] {
        let there = server.get(&format!("/mcps/{}", id_of(instance))).await;
        assert_eq!(there["status"], "running", "{there:#}");
        assert_eq!(there["pid"], instance["pid"], "{there:#}");
    }
    assert_eq!(
        text(caller.tool(3, "release", json!({}))).await,
        "released 1"
    );
    let held_answer = call.await.expect("no panic").expect("an answer");
    let body = held_answer.text().await.expect("a body");
    assert!(body.contains("held"), "{body}");
    // Nothing keeps them any more.
    asleep(&server, &held).await;
    subscriber.end().await;
    asleep(&server, &heard).await;
    end_with_keeper(server);
}

#[tokio::test]
async fn an_instance_sleeps_when_it_says_itself_within_the_bound() {
    let server = Server::start_with(Database::Sqlite, |config| {
        config.sleep.after_max = Some(HumanDuration::from_secs(3_600));
        config.gateway.wake_budget = HumanDuration::from_secs(SOON.as_secs());
    })
    .await;
    let create = |after: Value| {
        let body = json!({"template": "legacy-echo", "sleep_after": after});
        server.call(Method::POST, "/mcps?wait=ready", Some(body))
    };
    for (after, code) in [
        (json!("2h"), "out-of-range"),
        (json!(0), "out-of-range"),
        (json!("soon"), "invalid-duration"),
    ] {
        let (status, problem) = create(after).await;
        assert_eq!(status, 422, "{problem}");
        let fault = &problem["violations"][0];
        assert_eq!(
            (&fault["pointer"], &fault["code"]),
            (&json!("/sleep_after"), &json!(code)),
            "{problem}"
        );
    }
    let (status, restless) = create(json!("30m")).await;
    assert_eq!(status, 201, "{restless}");
    assert_eq!(restless["sleep_after"], "30m");
    let (_, brief) = create(json!("1s")).await;
    let there = asleep(&server, &brief).await;
    assert_eq!(there["sleep_after"], "1s", "{there:#}");

    // Changed while it runs, and as a person does it.
    let path = format!("/mcps/{}", id_of(&restless));
    let patch = |body: Value| server.call(Method::PATCH, &path, Some(body));
    let (status, problem) = patch(json!({"sleep_after": "61m"})).await;
    assert_eq!(status, 422, "{problem}");
    let (status, now) = patch(json!({"sleep_after": null})).await;
    assert_eq!((status.as_u16(), &now["sleep_after"]), (200, &json!("1h")));
    assert_eq!(now["status"], "running", "{now:#}");
    let (_, now) = patch(json!({"labels": {"a": "b"}, "sleep_after": "1s"})).await;
    assert_eq!(
        (&now["sleep_after"], &now["labels"]["a"]),
        (&json!("1s"), &json!("b"))
    );
    asleep(&server, &restless).await;
}

#[tokio::test]
async fn the_least_used_sleep_first_when_something_waits_for_memory() {
    // As if it were always short: the least that there can be is enough.
    the_least_used_sleep_first(|policy| policy.memory_pressure = Some(0)).await;
}

async fn the_least_used_sleep_first(change: impl FnOnce(&mut SleepPolicy)) {
    let server = Server::start_with(Database::Sqlite, |config| {
        config.sleep.after_default = Some(HumanDuration::from_secs(3_600));
        change(&mut config.sleep);
        config.gateway.wake_budget = HumanDuration::from_secs(SOON.as_secs());
    })
    .await;
    let never = server
        .create(json!({"template": "legacy-echo", "sleep_after": "0s"}))
        .await;
    let held = server.create(json!({"template": "wishes"})).await;
    let (caller, _) = Client::in_session(&held, everything()).await;
    let call = tokio::spawn(caller.tool(2, "hold", json!({})).send());
    let idle = server.create(json!({"template": "legacy-echo"})).await;
    // The task runs by itself too.
    let run = server.post("/tasks/memory-pressure/run", json!({})).await;
    assert_eq!(run["name"], "memory-pressure", "{run}");
    asleep(&server, &idle).await;
    until_told(&server, &idle, "memory-pressure").await;
    for instance in [&never, &held] {
        let there = server.get(&format!("/mcps/{}", id_of(instance))).await;
        assert_eq!(there["status"], "running", "{there:#}");
        assert_eq!(there["pid"], instance["pid"], "{there:#}");
    }
    assert_eq!(
        text(caller.tool(3, "release", json!({}))).await,
        "released 1"
    );
    call.await.expect("no panic").expect("an answer");
}
