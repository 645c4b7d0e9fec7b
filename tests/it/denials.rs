//! What is told of system calls that a hostile server was refused.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use crate::harness::Server;

const PATIENCE: Duration = Duration::from_secs(30);

/// Each call that the filter stopped is counted by its name, in the metrics too, and some are told as events.
pub async fn assert_told(server: &Server, attacker: &Value, outcomes: &BTreeMap<String, String>) {
    let path = format!("/mcps/{}", attacker["id"].as_str().expect("an id"));
    let denials = server.get(&path).await["denials"].clone();
    let counts = |name: &str| {
        let mut calls = denials["calls"].as_array().expect("a list").iter();
        calls.any(|call| call["call"] == name && call["count"].as_u64() > Some(0))
    };
    for (attack, name) in by_filter(outcomes) {
        assert!(counts(&name), "{attack}: {denials:#}");
    }
    assert!(
        denials["last_at"].is_string() && denials["total"].as_u64() > Some(40),
        "{denials:#}"
    );
    let answer = server.send(reqwest::Method::GET, "/metrics", None).await;
    let metrics = answer.text().await.expect("a text");
    let total = metrics
        .lines()
        .find_map(|line| line.strip_prefix("minimcp_denied_system_calls "));
    assert!(
        total.is_some_and(|total| total != "0" && total != "0.0"),
        "{metrics}"
    );
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let events = server.get(&format!("{path}/events?limit=200")).await;
        if events.to_string().contains("denied: the system call ") {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{events:#}");
        tokio::time::sleep(Duration::from_millis(50)).await; // poll
    }
}

/// Attacks that the filter of system calls stops, and the names of the calls: not those that a capability would need
/// (mknod) or that fail otherwise.
fn by_filter(outcomes: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, String)> {
    outcomes.iter().filter_map(|(attack, outcome)| {
        let name = match attack.strip_prefix("call-") {
            Some("mknod") => None,
            Some(call) => Some(call.replace('-', "_")),
            None if attack.starts_with("socket-") => Some("socket".to_owned()),
            None => None,
        };
        let stopped = outcome == "EPERM";
        Some((attack.as_str(), name.filter(|_| stopped)?))
    })
}
