//! A full disk below the database, the spools and the folders of instances.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{SOON, credentials, is_root, store_credential, until};
use crate::{
    chaos::lines::{Ledger, Row},
    harness::{Database, Server},
    mcp::Mcp,
    processes,
};

/// A daemon whose database, spools and folders lie on a file system of 6 MiB that only it sees, and the way there.
async fn on_small_disk() -> (Server, PathBuf) {
    let mut place = PathBuf::new();
    let mut server = Server::begin_under(Database::Sqlite, |config| {
        let data = config.runtime.instance_dir.parent().expect("it has one");
        place = data.join("small");
        fs::create_dir(&place).expect("the folder is ours");
        config.database.url = format!("sqlite:{}", place.join("minimcp.db").display());
        config.runtime.instance_dir = place.join("instances");
        config.logs.spool_dir = place.join("spool");
        config.calls.spool_dir = place.join("call-spool");
        let mount = format!("mount -t tmpfs -o size=6m tmpfs {}", place.display());
        let mut words = vec!["unshare".to_owned(), "--mount".to_owned()];
        words.extend(super::after(&mount));
        words
    })
    .await;
    server.until_ready().await;
    let seen = Path::new("/proc")
        .join(server.pid().to_string())
        .join("root");
    let seen = seen.join(place.strip_prefix("/").expect("it is absolute"));
    (server, seen)
}

/// Leaves no room.
fn fill(folder: &Path) {
    let mut ballast = File::create(folder.join("ballast")).expect("there is room for a name");
    for size in [64 << 10, 1_024, 1] {
        let chunk = vec![7; size];
        while ballast.write_all(&chunk).is_ok() {}
    }
}

pub(super) async fn whole_log(server: &Server, id: &str) -> Vec<Row> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = server
            .get(&format!("/mcps/{id}/logs?limit=1000{cursor}"))
            .await;
        rows.extend(crate::chaos::driver::rows_of(&page));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return rows,
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_with_the_reason_and_loses_nothing_that_was_acknowledged() {
    if !is_root() {
        return;
    }
    let (server, disk) = on_small_disk().await;
    let instance = server.create(json!({"template": "demo"})).await;
    let id = instance["id"].as_str().expect("it has an id").to_owned();
    let mut ledger = Ledger::default();
    let mut client = Mcp::connect(&instance).await;
    let before = ledger.begin("before", 50);
    crate::outage::write_lines(&mut client, &before, 50).await;
    ledger.answered(&before);
    until(&server, "the lines are stored", || async {
        whole_log(&server, &id).await.len() >= 50
    })
    .await;
    assert_eq!(ledger.read_all(&whole_log(&server, &id).await), Ok(0));

    fill(&disk);
    let mut stored = Vec::new();
    let refusal = loop {
        let name = format!("c{:03}", stored.len());
        match store_credential(&server, &name).await {
            Ok(()) => stored.push(name),
            Err(refusal) => break refusal,
        }
        assert!(stored.len() < 500, "there is room for ever");
    };
    assert_eq!(refusal["code"], "database-unavailable", "{refusal:#}");
    assert!(refusal.to_string().contains("full"), "why: {refusal:#}");

    // The data plane, a flood that has no place, and a child that dies meanwhile.
    let answer = client.tool("echo", json!({"text": "still here"})).await;
    assert_eq!(answer.as_deref(), Ok("still here"));
    let during = ledger.begin("during", 20_000);
    crate::outage::write_lines(&mut client, &during, 20_000).await;
    ledger.answered(&during);
    let pid = instance["pid"].as_u64().expect("it runs");
    processes::kill(u32::try_from(pid).expect("pids are small"));
    until(&server, "it comes back", || async {
        let now = server.get(&format!("/mcps/{id}")).await;
        now["status"] == "running" && now["generation"].as_u64() >= Some(2)
    })
    .await;
    let mut client = Mcp::connect(&instance).await;
    let answer = client.tool("echo", json!({"text": "back"})).await;
    assert_eq!(answer.as_deref(), Ok("back"));
    assert_eq!(credentials(&server).await, stored, "none more, none less");

    fs::remove_file(disk.join("ballast")).expect("it is ours");
    until(&server, "the database takes rows again", || async {
        store_credential(&server, "later").await.is_ok()
    })
    .await;
    stored.push("later".to_owned());
    assert_eq!(credentials(&server).await, stored);
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let rows = whole_log(&server, &id).await;
        match ledger
            .read_all(&rows)
            .expect("nothing acknowledged is gone")
        {
            0 => break,
            missing => assert!(
                std::time::Instant::now() < deadline,
                "{missing} lines are missing, uncounted\n{}",
                server.log()
            ),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await; // poll
    }
    let extended = server
        .post(&format!("/mcps/{id}/extend"), json!({"ttl": "1h"}))
        .await;
    assert_eq!(extended["generation"], 2, "{extended:#}");
}

#[tokio::test]
async fn a_file_system_that_is_read_only_is_named_at_the_start() {
    if !is_root() {
        return;
    }
    let mut server = Server::begin_under(Database::Sqlite, |config| {
        let data = config.runtime.instance_dir.parent().expect("it has one");
        let place = data.join("database");
        fs::create_dir(&place).expect("the folder is ours");
        config.database.url = format!("sqlite:{}", place.join("minimcp.db").display());
        let at = place.display();
        let mount = format!("mount --bind {at} {at} && mount -o remount,bind,ro {at}");
        let mut words = vec!["unshare".to_owned(), "--mount".to_owned()];
        words.extend(super::after(&mount));
        words
    })
    .await;
    let status = server.until_ended().await;
    assert_eq!(status.code(), Some(1), "{}", server.log());
    let log = server.log();
    assert!(log.contains("minimcp.db"), "which file: {log}");
    assert!(log.contains("Read-only file system"), "why: {log}");
}
