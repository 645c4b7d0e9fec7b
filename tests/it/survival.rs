//! What outlives what: instances a crash of `serve`, nothing a crash of the keeper.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use crate::{
    fixtures,
    harness::{Database, Server, on_both_databases, wait_until},
    mcp::Mcp,
    processes,
};

on_both_databases! {
    instances_survive_a_crash_of_serve_and_are_adopted,
    a_crash_of_the_keeper_leaves_no_orphan_and_everything_comes_back,
    a_killed_child_comes_back_behind_the_same_url,
    data_and_urls_survive_an_orderly_restart,
    fifty_mixed_instances_live_die_come_back_and_go,
}

const SOON: Duration = Duration::from_secs(60);

fn id_of(instance: &Value) -> String {
    instance["id"].as_str().expect("it has an id").to_owned()
}

/// Pids of all instances by id.
async fn pids(server: &Server) -> BTreeMap<String, u64> {
    let list = server.get("/mcps?limit=200").await;
    let items = list["items"].as_array().expect("a list");
    items
        .iter()
        .filter_map(|item| Some((id_of(item), item["pid"].as_u64()?)))
        .collect()
}

async fn all_running(server: &Server, instances: &[Value]) {
    for instance in instances {
        server
            .wait_status(&id_of(instance), &["running"], SOON)
            .await;
    }
}

async fn create_many(server: &Server, templates: &[&str], count: usize) -> Vec<Value> {
    let bodies = templates.iter().cycle().take(count);
    let creations = bodies.map(|template| server.create(json!({"template": template})));
    futures_util::future::join_all(creations).await
}

async fn instances_survive_a_crash_of_serve_and_are_adopted(database: Database) {
    let mut server = Server::start(database).await;
    let instances = create_many(&server, &["demo", "legacy-echo"], 6).await;
    all_running(&server, &instances).await;
    let before = pids(&server).await;
    assert_eq!(before.len(), 6);

    server.kill();
    for pid in before.values() {
        let alive = server
            .processes()
            .iter()
            .any(|process| u64::from(process.pid) == *pid);
        assert!(alive, "{pid} died with serve: {:?}", server.processes());
    }
    server.launch().await;
    all_running(&server, &instances).await;
    assert_eq!(pids(&server).await, before, "{}", server.log());
    for instance in &instances {
        let mut client = Mcp::connect(instance).await;
        let answer = client.tool("echo", json!({"text": "still here"})).await;
        assert_eq!(answer.as_deref(), Ok("still here"));
    }
}

async fn a_crash_of_the_keeper_leaves_no_orphan_and_everything_comes_back(database: Database) {
    let server = Server::start(database).await;
    let instances = create_many(&server, &["demo", "double-forks"], 4).await;
    all_running(&server, &instances).await;
    let before = pids(&server).await;
    let keeper = keeper_of(&server);
    processes::kill(keeper.pid);
    let gone = wait_until(Duration::from_secs(10), || {
        let alive = server.processes();
        let any = alive
            .iter()
            .any(|process| before.values().any(|pid| *pid == u64::from(process.pid)));
        (!any).then_some(())
    });
    assert!(gone.is_some(), "orphans: {:?}", server.processes());
    for instance in &instances {
        wait_generation(&server, instance, 2).await;
    }
    let mut client = Mcp::connect(&instances[0]).await;
    let answer = client.tool("echo", json!({"text": "back"})).await;
    assert_eq!(answer.as_deref(), Ok("back"));
}

/// The keeper: the one that names itself so and whose parent is not of its kind (inits are forks of it).
pub fn keeper_of(server: &Server) -> processes::Process {
    let all = server.processes();
    let keepers: Vec<_> = all
        .iter()
        .filter(|process| process.command.contains(" keeper"))
        .collect();
    let first = keepers
        .iter()
        .find(|process| !keepers.iter().any(|other| other.pid == process.parent));
    (*first.unwrap_or_else(|| panic!("no keeper: {all:?}"))).clone()
}

async fn wait_generation(server: &Server, instance: &Value, generation: u64) {
    let id = id_of(instance);
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let now = server.wait_status(&id, &["running"], SOON).await;
        if now["generation"].as_u64() >= Some(generation) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{now:#}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

async fn a_killed_child_comes_back_behind_the_same_url(database: Database) {
    let server = Server::start(database).await;
    let instance = server.create(json!({"template": "demo"})).await;
    let pid = instance["pid"].as_u64().expect("it runs");
    processes::kill(u32::try_from(pid).expect("pids are small"));
    wait_generation(&server, &instance, 2).await;
    let mut client = Mcp::connect(&instance).await;
    let answer = client.tool("echo", json!({"text": "back"})).await;
    assert_eq!(answer.as_deref(), Ok("back"));
}

async fn data_and_urls_survive_an_orderly_restart(database: Database) {
    let mut server = Server::start(database).await;
    let instance = server
        .create(json!({"template": "demo", "name": "kept"}))
        .await;
    assert_eq!(server.stop(), Some(0), "{}", server.log());
    assert_eq!(server.processes(), [], "{}", server.log());
    server.launch().await;
    let again = server
        .wait_status(&id_of(&instance), &["running"], SOON)
        .await;
    assert_eq!(again["access_url"], instance["access_url"]);
    assert!(again["generation"].as_u64() > instance["generation"].as_u64());
    let mut client = Mcp::connect(&instance).await;
    let answer = client.tool("echo", json!({"text": "back"})).await;
    assert_eq!(answer.as_deref(), Ok("back"));
}

async fn fifty_mixed_instances_live_die_come_back_and_go(database: Database) {
    let templates: &[&str] = if fixtures::deps().is_some() {
        &["demo", "demo", "demo", "legacy-echo", "memory", "time"]
    } else {
        &["demo", "legacy-echo"]
    };
    let mut server = Server::start(database).await;
    let instances = create_many(&server, templates, 50).await;
    all_running(&server, &instances).await;
    let before = pids(&server).await;
    assert_eq!(before.len(), 50);
    assert_eq!(server.access_ports().len(), 50);

    for pid in before.values().take(20) {
        processes::kill(u32::try_from(*pid).expect("pids are small"));
    }
    let killed: Vec<_> = before.keys().take(20).cloned().collect();
    for instance in &instances {
        if killed.contains(&id_of(instance)) {
            wait_generation(&server, instance, 2).await;
        }
    }
    all_running(&server, &instances).await;
    let alive = pids(&server).await;

    server.kill();
    server.launch().await;
    all_running(&server, &instances).await;
    assert_eq!(pids(&server).await, alive, "adopted, not restarted");

    let deletions: Vec<_> = instances.iter().map(id_of).collect();
    futures_util::future::join_all(deletions.iter().map(|id| server.delete(id))).await;
    let ports = server.get("/ports").await;
    assert_eq!(ports["leased"], json!([]), "{ports:#}");
    assert_eq!(server.access_ports(), [0_u16; 0]);
    let keeper = keeper_of(&server).pid;
    let allowed = [keeper, server.pid()];
    let clean = wait_until(SOON, || {
        let left = server.processes();
        left.iter()
            .all(|process| allowed.contains(&process.pid))
            .then_some(())
    });
    assert!(clean.is_some(), "{:?}", server.processes());
}
