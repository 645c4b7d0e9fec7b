//! 32 clients of both eras on one shared child, that is killed again and again: no message reaches the wrong client,
//! no call is stuck, nothing grows.
//!
//! `MINIMCP_SOAK_SECONDS` makes it longer, `MINIMCP_SOAK_SEED` takes the same way again.

mod peer;

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    harness::{Database, Server},
    mcp::Mcp,
    processes,
    soak::{Dice, held},
};
use peer::{Ask, Outcome, Peer, Reading};

/// Clients at a time, half of each era.
const CLIENTS: u64 = 32;
/// Both rounds together, unless MINIMCP_SOAK_SECONDS says more.
const SECONDS: u64 = 16;
/// The child is killed this often.
const KILL_EVERY: Duration = Duration::from_millis(1_700);
/// Memory may settle by this much between two equal rounds, in KiB: allocators keep some.
const RSS_SLACK_KIB: u64 = 12 * 1_024;
/// Descriptors of connections that our own clients keep open.
const FD_SLACK: usize = 2 * CLIENTS as usize;

/// How long what was left under way may take to end.
const SOON: Duration = Duration::from_secs(30);

/// How often which thing happened.
#[derive(Debug, Default)]
struct Tally(Mutex<BTreeMap<&'static str, u64>>);

impl Tally {
    fn count(&self, what: &'static str) {
        let mut counts = self.0.lock().expect("nobody panics with it");
        *counts.entry(what).or_default() += 1;
    }

    fn of(&self, what: &str) -> u64 {
        let counts = self.0.lock().expect("nobody panics with it");
        counts.get(what).copied().unwrap_or_default()
    }
}

/// One client: random calls until `until`.
async fn drive(instance: &Value, client: u64, mut dice: Dice, until: Instant, tally: &Tally) {
    let mut peer = Peer::new(instance, client % 2 == 1);
    let mut listening = None;
    let mut connected = false;
    let mut calls = 0u64;
    while Instant::now() < until {
        if !connected {
            connected = peer.connect().await;
            if !connected {
                tokio::time::sleep(Duration::from_millis(20)).await; // poll
            }
            continue;
        }
        let mut ask = |steps: u64, bytes: u64| {
            calls += 1;
            Ask {
                nonce: format!("client {client} call {calls} "),
                steps: dice.below(steps + 1),
                step_ms: 1 + dice.below(5),
                bytes: usize::try_from(dice.below(bytes + 1)).expect("small"),
            }
        };
        let (plain, long, large) = (ask(1, 100), ask(30, 10), ask(20, 200_000));
        let outcome = match dice.below(10) {
            0..=3 => {
                let outcome = peer.call(&plain, Reading::Eager).await.0;
                assert_ne!(outcome, Outcome::NoAnswer, "{plain:?}");
                outcome
            }
            4 | 5 => {
                let [kept, cancelled] = peer.call_and_cancel(&plain, &long).await;
                assert_ne!(kept, Outcome::NoAnswer, "{plain:?}");
                if cancelled == Outcome::NoAnswer {
                    tally.count("cancelled");
                }
                kept
            }
            6 | 7 => {
                tally.count("read slowly");
                let outcome = peer.call(&large, Reading::Slow).await.0;
                assert_ne!(outcome, Outcome::NoAnswer, "{large:?}");
                outcome
            }
            8 => {
                tally.count("left");
                let (outcome, event) = peer.call(&long, Reading::Leaves).await;
                match event {
                    Some(event) if outcome == Outcome::NoAnswer && !peer.stateless => {
                        let resumed = peer.resume(&long, &event).await;
                        if resumed == Outcome::Answered {
                            tally.count("resumed");
                        }
                        // A stream may be forgotten; a session may be gone.
                        match resumed {
                            Outcome::Refused(_) => Outcome::Answered,
                            resumed => resumed,
                        }
                    }
                    _ => outcome,
                }
            }
            _ => {
                if dice.below(2) == 0 {
                    listening = peer.listen().await;
                } else {
                    listening = None;
                    peer.close().await;
                    connected = false;
                }
                continue;
            }
        };
        match outcome {
            Outcome::Answered => tally.count("answered"),
            Outcome::Failed => tally.count("failed with the child"),
            Outcome::NoAnswer => {}
            Outcome::Refused(_) => {
                tally.count("refused");
                connected = peer.stateless;
                listening = None;
            }
        }
    }
    drop(listening);
    peer.close().await;
}

/// Kills the child every now and then, until `until`.
async fn kill(server: &Server, instance: &Value, until: Instant, tally: &Tally) {
    let path = format!("/mcps/{}", instance["id"].as_str().expect("it has an id"));
    let mut next = tokio::time::interval(KILL_EVERY);
    next.tick().await;
    while Instant::now() + KILL_EVERY < until {
        next.tick().await;
        let now = server.get(&path).await;
        if let Some(pid) = now["pid"].as_u64() {
            processes::kill(u32::try_from(pid).expect("pids are small"));
            tally.count("killed");
        }
    }
}

async fn round(server: &Server, instance: &Value, seed: u64, length: Duration, tally: &Tally) {
    let until = Instant::now() + length;
    let clients = join_all(
        (0..CLIENTS).map(|client| drive(instance, client, Dice(seed + client), until, tally)),
    );
    tokio::join!(clients, kill(server, instance, until, tally));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_clients_of_both_eras_get_their_own_answers_only() {
    let number = |name: &str| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    let seed =
        number("MINIMCP_SOAK_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 8 | 1);
    let length = Duration::from_secs(number("MINIMCP_SOAK_SECONDS").unwrap_or(SECONDS)) / 2;
    eprintln!("MINIMCP_SOAK_SEED={seed}");
    let server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "nonces"})).await;
    let tally = Tally::default();
    round(&server, &instance, seed, length, &tally).await;
    let before = held(server.pid());
    round(&server, &instance, seed + CLIENTS, length, &tally).await;
    let after = held(server.pid());
    eprintln!("{tally:?}\nserve: {before:?} then {after:?}");
    for what in [
        "answered",
        "cancelled",
        "failed with the child",
        "killed",
        "left",
        "read slowly",
        "resumed",
    ] {
        assert!(tally.of(what) > 0, "never {what}: {tally:?}");
    }
    assert!(
        after.rss_kib <= before.rss_kib + RSS_SLACK_KIB,
        "serve grew: {before:?} then {after:?}"
    );
    assert!(
        after.descriptors <= before.descriptors + FD_SLACK,
        "serve holds more: {before:?} then {after:?}"
    );
    // It still serves, and the child has nothing left to do for clients that went away.
    let id = instance["id"].as_str().expect("it has an id");
    server.wait_status(id, &["running"], SOON).await;
    let mut client = Mcp::connect(&instance).await;
    let deadline = Instant::now() + SOON;
    loop {
        let running = client.tool("running", json!({})).await;
        let running = running.expect("it answers");
        if running == "0" {
            break;
        }
        assert!(Instant::now() < deadline, "{running} calls are stuck");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}
