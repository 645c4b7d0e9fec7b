//! Instances driven in random order for a while: at the end nothing is left and nothing has grown.

use std::{
    fs,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    harness::{Database, Server, on_both_databases, wait_until},
    mcp::Mcp,
    processes,
};

on_both_databases! {
    twenty_instances_in_random_order_leave_nothing_and_grow_nothing,
}

/// Instances at a time.
const SLOTS: u64 = 20;
/// How long one round drives them.
const ROUND: Duration = Duration::from_secs(6);
/// How long what was asked for may take to come true.
const SOON: Duration = Duration::from_secs(30);
/// Memory may settle by this much between two equal rounds, in KiB: allocators keep some.
const RSS_SLACK_KIB: u64 = 12 * 1_024;
/// Descriptors of connections that our own client keeps open.
const FD_SLACK: usize = 24;

/// xorshift64*: which order is taken matters little, that it can be taken again does.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

/// What a process holds.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// Resident memory, in KiB.
    pub rss_kib: u64,
    /// Open descriptors; 0 when we may not look.
    pub descriptors: usize,
}

/// What a process holds now.
pub fn held(pid: u32) -> Held {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss = rss.and_then(|text| text.split_whitespace().next()?.parse().ok());
    Held {
        rss_kib: rss.expect("every process has memory"),
        // Only root may look into a process that made itself undumpable.
        descriptors: fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count),
    }
}

async fn ask(server: &Server, method: Method, path: &str) -> (StatusCode, Value) {
    let (status, answer) = server.call(method.clone(), path, None).await;
    let expected = status.is_success()
        || [StatusCode::NOT_FOUND, StatusCode::CONFLICT].contains(&status)
        || status == StatusCode::SERVICE_UNAVAILABLE;
    assert!(expected, "{method} {path}: {status} {answer}");
    (status, answer)
}

/// One instance after the other, each through random verbs, until `until`.
async fn drive(server: &Server, slot: u64, mut dice: Dice, until: Instant) {
    let mut id: Option<String> = None;
    while Instant::now() < until {
        let Some(present) = id.clone() else {
            let template = ["demo", "demo", "ignores-term"][usize::try_from(slot % 3).unwrap_or(0)];
            let path = ["/mcps", "/mcps?wait=ready"][usize::from(dice.below(2) == 0)];
            let made = server.post(path, json!({"template": template})).await;
            id = made["id"].as_str().map(str::to_owned);
            continue;
        };
        let at = |verb: &str| format!("/mcps/{present}/{verb}");
        let gone = format!("/mcps/{present}");
        match dice.below(8) {
            0 => drop(ask(server, Method::POST, &at("stop")).await),
            1 => drop(ask(server, Method::POST, &at("start")).await),
            2 => drop(ask(server, Method::POST, &at("restart")).await),
            3 | 4 => {
                let instance = server.get(&gone).await;
                if let Some(pid) = instance["pid"].as_u64() {
                    processes::kill(u32::try_from(pid).expect("pids are small"));
                }
            }
            5 => {
                let (restart, stop) = (at("restart"), at("stop"));
                tokio::join!(
                    ask(server, Method::POST, &restart),
                    ask(server, Method::POST, &stop)
                );
            }
            6 => {
                let restart = at("restart");
                let (_, first, second) = tokio::join!(
                    ask(server, Method::POST, &restart),
                    ask(server, Method::DELETE, &gone),
                    ask(server, Method::DELETE, &gone)
                );
                assert!(
                    first.0.is_success() || second.0.is_success(),
                    "{first:?} {second:?}"
                );
                id = None;
            }
            _ => {
                server.delete(&present).await;
                id = None;
            }
        }
    }
}

/// Processes of instances: neither `serve`, nor the keeper, nor its forks.
fn children(server: &Server) -> Vec<processes::Process> {
    let mut all = server.processes();
    all.retain(|process| process.pid != server.pid() && !process.command.contains(" keeper"));
    all
}

/// Drives all slots, lets everything settle, deletes it; what the two processes hold then.
async fn round(server: &Server, seed: u64) -> [Held; 2] {
    let until = Instant::now() + ROUND;
    join_all((0..SLOTS).map(|slot| drive(server, slot, Dice(seed + slot), until))).await;

    let list = server.get("/mcps?limit=200").await;
    let instances = list["items"].as_array().expect("a list").clone();
    let ids: Vec<&str> = instances.iter().filter_map(|i| i["id"].as_str()).collect();
    join_all(ids.iter().map(|id| async move {
        let deadline = Instant::now() + SOON;
        loop {
            // One that was being stopped, or failed for being killed too often, is started again.
            server.post(&format!("/mcps/{id}/start"), Value::Null).await;
            let now = server
                .wait_status(id, &["running", "stopped", "failed"], SOON)
                .await;
            if now["status"] == "running" {
                return;
            }
            assert!(Instant::now() < deadline, "{now:#}");
        }
    }))
    .await;
    let one_each = wait_until(SOON, || (children(server).len() == ids.len()).then_some(()));
    let running = children(server);
    assert!(one_each.is_some(), "{} instances: {running:?}", ids.len());
    for instance in instances.iter().filter(|i| i["template"] == "demo") {
        let id = instance["id"].as_str().expect("it has an id");
        let url = server
            .post(&format!("/mcps/{id}/access-token"), json!({}))
            .await;
        let mut client = Mcp::connect(&url).await;
        let answer = client.tool("echo", json!({"text": "still here"})).await;
        assert_eq!(answer.as_deref(), Ok("still here"));
    }

    join_all(ids.iter().map(|id| server.delete(id))).await;
    let keeper = || {
        let keepers = server.processes().into_iter();
        let keepers = keepers.filter(|process| process.command.contains(" keeper"));
        keepers.collect::<Vec<_>>()
    };
    let clean = wait_until(SOON, || {
        let empty = children(server).is_empty() && server.access_ports().is_empty();
        (empty && keeper().len() == 1).then_some(())
    });
    assert!(
        clean.is_some(),
        "{:?} {:?}",
        server.processes(),
        server.access_ports()
    );
    let ports = server.get("/ports").await;
    assert_eq!(ports["leased"], json!([]), "{ports:#}");
    let left =
        fs::read_dir(&server.config().runtime.instance_dir).expect("it was made at the start");
    let left: Vec<_> = left
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| name != ".lock")
        .collect();
    assert!(left.is_empty(), "folders: {left:?}");
    [held(server.pid()), held(keeper()[0].pid)]
}

async fn twenty_instances_in_random_order_leave_nothing_and_grow_nothing(database: Database) {
    let server = Server::start(database).await;
    let seed = std::env::var("MINIMCP_SOAK_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| u64::from(std::process::id()) << 8 | 1);
    eprintln!("MINIMCP_SOAK_SEED={seed}");
    let before = round(&server, seed).await;
    let after = round(&server, seed + SLOTS).await;
    for (who, (before, after)) in ["serve", "keeper"].iter().zip(before.iter().zip(&after)) {
        eprintln!("{who}: {before:?} then {after:?}");
        assert!(
            after.rss_kib <= before.rss_kib + RSS_SLACK_KIB,
            "{who} grew: {before:?} then {after:?}"
        );
        assert!(
            after.descriptors <= before.descriptors + FD_SLACK,
            "{who} holds more: {before:?} then {after:?}"
        );
    }
}
