//! What owners may have, and what the machine's memory has room for.

use std::time::{Duration, Instant};

use minimcp::domain::{budget::Budget, duration::HumanDuration, id::OwnerId};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    harness::{Database, Server, on_both_databases},
    meetings::{Client, everything, text},
    session_survival::end_with_keeper,
};

on_both_databases! {
    budgets_are_read_anew_and_what_a_template_needs_outlives_the_daemon,
}

const SOON: Duration = Duration::from_secs(60);
/// More than what was used a moment ago is left alone for.
const WAKE_BUDGET_S: u64 = 8;

fn id_of(instance: &Value) -> &str {
    instance["id"].as_str().expect("it has an id")
}

async fn status(server: &Server, instance: &Value) -> Value {
    server.get(&format!("/mcps/{}", id_of(instance))).await
}

async fn until(server: &Server, instance: &Value, word: &str) -> Value {
    server.wait_status(id_of(instance), &[word], SOON).await
}

/// Waits for an event of this kind: what happens is shown before it is written.
async fn until_told(server: &Server, instance: &Value, kind: &str) {
    let path = format!("/mcps/{}/events?limit=200", id_of(instance));
    let deadline = Instant::now() + SOON;
    loop {
        let page = server.get(&path).await;
        let items = page["items"].as_array().expect("a list");
        if items.iter().any(|event| event["kind"] == kind) {
            return;
        }
        assert!(Instant::now() < deadline, "no {kind}\n{page:#}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

/// A call that there was no room for: 503 with when to come back, and why, without a number of the host's.
async fn no_room(answer: Response, cause: &str, words: &str) {
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["retry-after"], "5");
    let body: Value = answer.json().await.expect("JSON-RPC");
    assert_eq!(body["error"]["data"]["cause"], cause, "{body:#}");
    let said = body["error"]["message"].as_str().expect("a sentence");
    assert!(said.contains(words) && !said.contains("MiB"), "{said}");
}

/// Waits until an instance waits for memory.
async fn until_it_waits(server: &Server, instance: &Value) {
    let deadline = Instant::now() + SOON;
    loop {
        let now = status(server, instance).await;
        let reason = now["reason"].as_str().unwrap_or_default();
        if reason.contains("sleep.memory_floor_bytes") {
            assert_eq!(now["status"], "starting", "{now:#}");
            return;
        }
        assert!(Instant::now() < deadline, "{now:#}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

/// Calls until there is room, for as long as others take to give way.
async fn until_answered(client: &Client, mut id: u32) {
    let deadline = Instant::now() + SOON;
    loop {
        let answer = echo(client, id).send().await.expect("an answer");
        if answer.status() == StatusCode::OK {
            return;
        }
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(Instant::now() < deadline, "there is no room");
        id += 1;
    }
}

fn echo(client: &Client, id: u32) -> reqwest::RequestBuilder {
    client.tool(id, "echo", json!({"text": "here"}))
}

#[tokio::test]
async fn an_owner_over_its_budget_makes_room_for_itself_and_takes_from_nobody() {
    let server = Server::start_with(Database::Sqlite, |config| {
        config.sleep.after_default = Some(HumanDuration::from_secs(3_600));
        config.gateway.wake_budget = HumanDuration::from_secs(WAKE_BUDGET_S);
        config.budgets.awake_max = Some(1);
        let eve = Budget {
            instances_max: Some(1),
            awake_max: Some(9),
            ..Budget::default()
        };
        let owner = OwnerId::new("eve").expect("an owner");
        config.budgets.owner.insert(owner, eve);
    })
    .await;
    let of = |owner: &str, template: &str| json!({"template": template, "owner": owner});
    let bob = server.create(of("bob", "legacy-echo")).await;
    let one = server.create(of("ada", "legacy-echo")).await;
    let (caller, _) = Client::in_session(&one, everything()).await;
    assert_eq!(text(echo(&caller, 2)).await, "here");

    // Her first gives way to her second once it rested a while, and bob's does not.
    let two = server.create(of("ada", "wishes")).await;
    assert_eq!(two["status"], "running", "{two:#}");
    assert_eq!(status(&server, &one).await["status"], "asleep");
    until_told(&server, &one, "owner-budget").await;
    assert_eq!(status(&server, &bob).await["pid"], bob["pid"]);

    // While the second is in use nothing can give way: the first cannot be woken, and goes on sleeping.
    let (busy, _) = Client::in_session(&two, everything()).await;
    let call = tokio::spawn(busy.tool(2, "hold", json!({})).send());
    while server.get(&format!("/mcps/{}/stats", id_of(&two))).await["calls_in_flight"] != 1 {
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
    let answer = echo(&caller, 3).send().await.expect("an answer");
    no_room(answer, "over-budget", "as many instances awake as allowed").await;
    until(&server, &one, "asleep").await;
    until_told(&server, &one, "no-room").await;
    let three = of("ada", "legacy-echo");
    for (path, body) in [
        ("/mcps".to_owned(), three),
        (format!("/mcps/{}/start", id_of(&one)), json!({})),
    ] {
        let (code, problem) = server.call(Method::POST, &path, Some(body)).await;
        assert_eq!(
            (code.as_u16(), &problem["code"]),
            (409, &json!("over-budget"))
        );
        let detail = problem["detail"].as_str().expect("a sentence");
        assert!(
            detail.contains("ada has 1 of 1 instances awake"),
            "{detail}"
        );
    }
    let owners = server.get("/owners").await;
    let told = |at: usize| {
        let one = &owners["items"][at];
        [
            &one["owner"],
            &one["instances"],
            &one["awake"],
            &one["budget"]["awake_max"],
        ]
    };
    assert_eq!(
        told(0),
        [&json!("ada"), &json!(2), &json!(1), &json!(1)],
        "{owners:#}"
    );
    assert_eq!(
        told(2),
        [&json!("eve"), &json!(0), &json!(0), &json!(9)],
        "{owners:#}"
    );
    let metrics = server.send(Method::GET, "/metrics", None).await;
    let metrics = metrics.text().await.expect("text");
    for line in [
        "minimcp_owner_awake_instances{owner=\"ada\"} 1",
        "minimcp_owner_budget_sleeps_total 1",
        "minimcp_gateway_errors_total{cause=\"over-budget\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }

    // It is free again, and the next request finds room.
    assert_eq!(text(busy.tool(3, "release", json!({}))).await, "released 1");
    call.await.expect("no panic").expect("an answer");
    until_answered(&caller, 4).await;
    until(&server, &two, "asleep").await;

    server.create(of("eve", "legacy-echo")).await;
    let (code, problem) = server
        .call(Method::POST, "/mcps", Some(of("eve", "legacy-echo")))
        .await;
    assert_eq!(
        (code.as_u16(), &problem["code"]),
        (409, &json!("over-budget"))
    );
    let detail = problem["detail"].as_str().expect("a sentence");
    assert!(detail.contains("eve has 1 of 1 instances"), "{detail}");
}

#[tokio::test]
async fn nothing_is_launched_below_the_floor_of_memory() {
    let mut server = Server::start_with(Database::Sqlite, |config| {
        config.sleep.after_default = Some(HumanDuration::from_secs(3_600));
        config.gateway.wake_budget = HumanDuration::from_secs(2);
        config.runtime.leave_instances_running = true;
        config.runtime.keeper_linger = true;
    })
    .await;
    let idle = server.create(json!({"template": "legacy-echo"})).await;
    let (caller, _) = Client::in_session(&idle, everything()).await;
    let never = json!({"template": "legacy-echo", "sleep_after": "0s"});
    let never = server.create(never).await;

    // No machine has so much: what runs goes on, who may sleep sleeps, and nothing comes up any more.
    assert_eq!(server.stop(), Some(0), "{}", server.log());
    server.change(|config| config.sleep.memory_floor_bytes = Some(1 << 62));
    server.launch().await;
    until(&server, &idle, "asleep").await;
    until_told(&server, &idle, "memory-pressure").await;
    let answer = echo(&caller, 2).send().await.expect("an answer");
    no_room(answer, "no-memory", "no memory left").await;
    until(&server, &idle, "asleep").await;
    let body = json!({"template": "legacy-echo", "owner": "ada"});
    let (code, new) = server.call(Method::POST, "/mcps", Some(body)).await;
    assert_eq!(code, StatusCode::CREATED, "{new:#}");
    until_it_waits(&server, &new).await;
    assert_eq!(status(&server, &never).await["pid"], never["pid"]);

    // It waits after a restart too, and comes up once there is room.
    assert_eq!(server.stop(), Some(0), "{}", server.log());
    server.launch().await;
    until_it_waits(&server, &new).await;
    assert_eq!(server.stop(), Some(0), "{}", server.log());
    server.change(|config| config.sleep.memory_floor_bytes = Some(1));
    server.launch().await;
    until(&server, &new, "running").await;
    until_answered(&caller, 3).await;
    let run = server.post("/tasks/memory-pressure/run", json!({})).await;
    assert_eq!(run["name"], "memory-pressure", "{run}");
    let deadline = Instant::now() + SOON;
    loop {
        let owners = server.get("/owners").await;
        if owners["items"][1]["memory_bytes"].as_u64() > Some(0) {
            assert_eq!(owners["items"][1]["owner"], "admin", "{owners:#}");
            break;
        }
        assert!(Instant::now() < deadline, "{owners:#}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
    end_with_keeper(server);
}

/// Waits until `GET /owners` tells this of the first owner.
async fn until_owner(server: &Server, told: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + SOON;
    loop {
        let owners = server.get("/owners").await;
        if told(&owners["items"][0]) {
            return owners["items"][0].clone();
        }
        assert!(Instant::now() < deadline, "{owners:#}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

async fn budgets_are_read_anew_and_what_a_template_needs_outlives_the_daemon(database: Database) {
    let mut server = Server::start_with(database, |config| {
        config.sleep.after_default = Some(HumanDuration::from_secs(3_600));
    })
    .await;
    let of_ada = json!({"template": "legacy-echo", "owner": "ada"});
    let one = server.create(of_ada.clone()).await;
    let owner = until_owner(&server, |_| true).await;
    assert_eq!(owner["budget"]["memory_bytes_max"], Value::Null);

    // One that is wrong changes nothing, and is told with every fault.
    server.change(|config| config.budgets.awake_max = Some(0));
    server.reload();
    let refused = crate::harness::wait_until(SOON, || {
        server
            .log()
            .contains("the budgets stay as they were")
            .then_some(())
    });
    assert!(refused.is_some(), "{}", server.log());
    assert!(
        server.log().contains("budgets.awake_max"),
        "{}",
        server.log()
    );

    // What runs goes on past the new budget, which is held against the next.
    server.change(|config| {
        config.budgets.awake_max = None;
        config.budgets.memory_bytes_max = Some(1 << 20);
        config.gateway.wake_budget = HumanDuration::from_secs(2);
    });
    server.reload();
    let owner = until_owner(&server, |one| {
        one["budget"]["memory_bytes_max"] == 1 << 20 && one["memory_bytes"].as_u64() > Some(1 << 20)
    })
    .await;
    assert_eq!(owner["awake"], 1, "{owner:#}");
    assert_eq!(status(&server, &one).await["pid"], one["pid"]);
    assert!(
        server.log().contains("wait for a restart"),
        "{}",
        server.log()
    );
    let of_bob = json!({"template": "legacy-echo", "owner": "bob"});
    let (code, problem) = server
        .call(Method::POST, "/mcps", Some(of_bob.clone()))
        .await;
    assert_eq!(code.as_u16(), 409, "its like was measured: {problem:#}");
    let said = problem["detail"].as_str().expect("a sentence").to_owned();
    assert!(said.contains("memory_bytes_max"), "{said}");

    // The next daemon knows it too, without any that runs and without any that ended.
    let run = server.post("/tasks/memory-pressure/run", json!({})).await;
    assert_eq!(run["name"], "memory-pressure", "{run}");
    server.delete(id_of(&one)).await;
    assert_eq!(server.stop(), Some(0), "{}", server.log());
    server.launch().await;
    let (code, problem) = server
        .call(Method::POST, "/mcps", Some(of_bob.clone()))
        .await;
    assert_eq!(code.as_u16(), 409, "{problem:#}");

    // And without a bound there is room again.
    server.change(|config| config.budgets.memory_bytes_max = None);
    server.reload();
    until_owner(&server, |one| one.is_null()).await;
    let deadline = Instant::now() + SOON;
    while server
        .call(Method::POST, "/mcps", Some(of_bob.clone()))
        .await
        .0
        != StatusCode::CREATED
    {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}
