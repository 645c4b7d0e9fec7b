//! No process and no thread can be made any more.

use std::{fs, path::PathBuf};

use serde_json::json;

use super::{credentials, is_root, store_credential, until};
use crate::{
    harness::{Database, Server, on_both_databases},
    mcp::Mcp,
};

on_both_databases! {
    a_daemon_that_cannot_fork_goes_on_and_launches_later,
}

/// A cgroup that counts processes and threads; it goes with this value.
struct Counted(PathBuf);

impl Counted {
    /// `None`, and it says so, where none can be made.
    fn new() -> Option<Self> {
        let name = format!("minimcp-it-{}", uuid::Uuid::now_v7().simple());
        let controllers = fs::read_to_string("/proc/self/mountinfo").expect("Linux");
        let mount = controllers.lines().find_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            let is_pids = kind.starts_with("cgroup ") && kind.contains(",pids");
            is_pids.then(|| PathBuf::from(place.split(' ').nth(4).unwrap_or_default()))
        });
        let made = mount
            .map(|mount| mount.join(name))
            .filter(|at| fs::create_dir(at).is_ok());
        if made.is_none() {
            eprintln!("SKIPPED: no cgroup with the controller `pids` can be made here");
        }
        made.map(Self)
    }

    fn count(&self) -> u64 {
        let text = fs::read_to_string(self.0.join("pids.current")).expect("it is ours");
        text.trim().parse().expect("a number")
    }

    fn limit(&self, most: &str) {
        fs::write(self.0.join("pids.max"), most).expect("it is ours");
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Threads of a process.
fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

async fn a_daemon_that_cannot_fork_goes_on_and_launches_later(database: Database) {
    if !is_root() {
        return;
    }
    let Some(counted) = Counted::new() else {
        return;
    };
    let enter = format!("echo $$ > {}/cgroup.procs", counted.0.display());
    let mut server = Server::begin_under(database, |_| super::after(&enter)).await;
    server.until_ready().await;
    let instance = server.create(json!({"template": "demo"})).await;
    let mut client = Mcp::connect(&instance).await;
    assert!(store_credential(&server, "before").await.is_ok());

    counted.limit(&counted.count().to_string());
    // What waits for work ends after a while, and could not be made again.
    let before = threads(server.pid());
    let refused = server.post("/mcps", json!({"template": "demo"})).await;
    let id = refused["id"].as_str().expect("it has an id").to_owned();
    until(&server, "its launch fails", || async {
        let now = server.get(&format!("/mcps/{id}")).await;
        ["backing-off", "failed"]
            .iter()
            .any(|word| now["status"] == **word)
    })
    .await;
    let why = server.get(&format!("/mcps/{id}")).await;
    assert!(why["reason"].is_string(), "{why:#}");
    for round in 0..5 {
        let text = format!("round {round} with {before} threads");
        let answer = client.tool("echo", json!({"text": text})).await;
        assert_eq!(answer.as_deref(), Ok(text.as_str()));
        crate::outage::write_lines(&mut client, &format!("round{round}"), 50).await;
    }
    assert!(store_credential(&server, "during").await.is_ok());

    counted.limit("max");
    server.post(&format!("/mcps/{id}/start"), json!({})).await;
    server.wait_status(&id, &["running"], super::SOON).await;
    assert_eq!(credentials(&server).await, ["before", "during"]);
    let first = instance["id"].as_str().expect("it has an id");
    let now = server.get(&format!("/mcps/{first}")).await;
    assert_eq!(now["pid"], instance["pid"], "it was never touched: {now:#}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
    drop(server);
}
