//! Children of templates that need nothing of anybody are started ahead, and instances begin with them.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    harness::{Database, Server, on_both_databases},
    mcp::Mcp,
    processes,
};

on_both_databases! {
    an_instance_begins_with_a_process_that_was_there_before,
    spares_end_with_their_daemon_however_it_ends,
}

const SOON: Duration = Duration::from_secs(60);

async fn start(database: Database, changed: fn(&mut minimcp::config::Config)) -> Server {
    let server = Server::start_with(database, |config| {
        // Of the others none can be made: one has credentials, one speaks HTTP, one is not there.
        let wanted = [
            ("counts", 1),
            ("github", 1),
            ("http-session", 1),
            ("no-such", 1),
        ];
        config.runtime.warm_spares = wanted
            .map(|(name, most)| (name.parse().expect("a name"), most))
            .into();
        changed(config);
    })
    .await;
    until_spares(&server, 1).await;
    server
}

async fn metric(server: &Server, name: &str) -> f64 {
    let metrics = server.send(Method::GET, "/metrics", None).await;
    let metrics = metrics.text().await.expect("a text");
    let line = format!("minimcp_{name} ");
    let mut lines = metrics.lines();
    let told = lines.find_map(|told| told.strip_prefix(&line));
    told.expect("it is told").parse().expect("a number")
}

async fn until_spares(server: &Server, count: u32) {
    let deadline = Instant::now() + SOON;
    while metric(server, "warm_spares").await != f64::from(count) {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

/// The processes of the one template that is started ahead.
fn counting(server: &Server) -> Vec<u32> {
    let all = server.processes().into_iter();
    let counting = all.filter(|process| process.command.contains("keeps_state.py"));
    counting.map(|process| process.pid).collect()
}

/// What lies beside the folders of these instances: two for each spare.
fn others(server: &Server, instances: &[&Value]) -> Vec<PathBuf> {
    let entries = fs::read_dir(&server.config().runtime.instance_dir).expect("it is there");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let is_other = |path: &PathBuf| {
        let name = path.file_name().expect("it has one").to_string_lossy();
        !name.starts_with(".lock") && instances.iter().all(|one| one["id"] != *name)
    };
    paths.filter(is_other).collect()
}

/// What the comparison found, in all that it can come to.
async fn differences(server: &Server) -> Value {
    let found = &crate::reconciliation::reconcile(server).await["last_result"];
    json!([found["healed"], found["failed"], found["kept"]])
}

async fn an_instance_begins_with_a_process_that_was_there_before(database: Database) {
    let mut server = start(database, |_| {}).await;
    let [ahead] = counting(&server)[..] else {
        panic!("{:?}", server.processes());
    };
    // It is nobody's, and no stray.
    let list = server.get("/mcps").await;
    assert_eq!(list["items"], json!([]), "{list:#}");
    assert_eq!(differences(&server).await, json!([[], [], []]));
    assert_eq!(counting(&server), [ahead]);
    assert_eq!(others(&server, &[]).len(), 2);

    let named = json!({"template": "counts", "labels": {"a": "b"}, "owner": "ada"});
    let one = server.create(named).await;
    assert_eq!(
        (&one["pid"], &one["generation"], &one["status"]),
        (&json!(ahead), &json!(1), &json!("running")),
        "{one:#}"
    );
    let mut client = Mcp::connect(&one).await;
    let added = client.tool("add", json!({"number": 5})).await;
    assert_eq!(added, Ok("5".to_owned()));
    assert_eq!(metric(&server, "warm_spare_uses_total").await, 1.0);
    // A creation that is refused costs none.
    until_spares(&server, 1).await;
    let again = json!({"template": "counts", "name": one["name"], "owner": "ada"});
    let (code, problem) = server.call(Method::POST, "/mcps", Some(again)).await;
    assert_eq!(code.as_u16(), 409, "{problem:#}");
    // Another may have been made meanwhile; there are never two for long.
    until_spares(&server, 1).await;
    let settled = crate::harness::wait_until(SOON, || {
        (counting(&server).len() == 2 && others(&server, &[&one]).len() == 2).then_some(())
    });
    assert!(settled.is_some(), "{:?}", server.processes());
    // Its own now: it restarts as any other, and the next one is there meanwhile.
    until_spares(&server, 1).await;
    let id = one["id"].as_str().expect("an id");
    server.post(&format!("/mcps/{id}/restart"), json!({})).await;
    let now = server.wait_status(id, &["running"], SOON).await;
    assert_eq!(now["generation"], 2, "{now:#}");
    assert_ne!(now["pid"], ahead);
    assert_eq!(others(&server, &[&one]).len(), 2);

    // One that ended before somebody took it is as good as none.
    let spares = counting(&server);
    let spare = spares.iter().find(|pid| now["pid"] != **pid);
    let spare = *spare.expect("there is one");
    processes::kill(spare);
    let two = server.create(json!({"template": "counts"})).await;
    assert_eq!(
        (&two["status"], &two["generation"]),
        (&json!("running"), &json!(1))
    );
    assert_ne!(two["pid"], spare);
    assert_eq!(differences(&server).await, json!([[], [], []]));

    for instance in [&one, &two] {
        server.delete(instance["id"].as_str().expect("an id")).await;
    }
    assert_eq!(server.stop(), Some(0), "{}", server.log());
    assert_eq!(others(&server, &[]), Vec::<PathBuf>::new());
}

async fn spares_end_with_their_daemon_however_it_ends(database: Database) {
    let mut server = start(database, |config| {
        config.runtime.leave_instances_running = true;
        config.runtime.keeper_linger = true;
    })
    .await;
    let one = server.create(json!({"template": "counts"})).await;
    for end in [Server::kill, |server: &mut Server| {
        assert_eq!(server.stop(), Some(0), "{}", server.log());
    }] {
        until_spares(&server, 1).await;
        let before = counting(&server);
        assert_eq!(before.len(), 2, "{before:?}");
        end(&mut server);
        server.launch().await;
        let path = format!("/mcps/{}", one["id"].as_str().expect("an id"));
        let now = server.get(&path).await;
        assert_eq!(
            (&now["pid"], &now["status"]),
            (&one["pid"], &json!("running"))
        );
        until_spares(&server, 1).await;
        // Of the one before nothing is left.
        let pids = counting(&server);
        assert_eq!(pids.len(), 2, "{pids:?}");
        let stayed: Vec<_> = pids.iter().filter(|pid| before.contains(pid)).collect();
        assert_eq!(stayed.len(), 1, "{pids:?} after {before:?}");
        assert_eq!(
            others(&server, &[&one]).len(),
            2,
            "{:?}",
            others(&server, &[&one])
        );
    }
    crate::session_survival::end_with_keeper(server);
}

#[tokio::test]
async fn there_are_as_many_as_all_together_may_be_and_none_while_memory_is_short() {
    let server = Server::start_with(Database::Sqlite, |config| {
        let wanted = [("counts", 3), ("wishes", 3)];
        config.runtime.warm_spares = wanted
            .map(|(name, most)| (name.parse().expect("a name"), most))
            .into();
        config.runtime.warm_spares_max = 4;
    })
    .await;
    until_spares(&server, 4).await;
    assert_eq!(counting(&server).len(), 3);

    let short = Server::start_with(Database::Sqlite, |config| {
        config.runtime.warm_spares = [("counts".parse().expect("a name"), 1)].into();
        // Memory is short whenever it is looked at, which is when it is asked for.
        config.sleep.memory_pressure = Some(0);
        config
            .tasks
            .insert("memory-pressure".to_owned(), "off".to_owned());
    })
    .await;
    until_spares(&short, 1).await;
    short.post("/tasks/memory-pressure/run", json!({})).await;
    until_spares(&short, 0).await;
    let gone = crate::harness::wait_until(SOON, || counting(&short).is_empty().then_some(()));
    assert!(gone.is_some(), "{:?}", short.processes());
    let instance = short.create(json!({"template": "counts"})).await;
    assert_eq!(metric(&short, "warm_spare_uses_total").await, 0.0);
    assert_eq!(instance["status"], "running", "{instance:#}");
}
