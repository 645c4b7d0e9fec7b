//! Instances that nobody uses hold still with all that they have in memory, and a request lets them go on: with a keeper
//! that was given cgroups.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Child,
    time::{Duration, Instant},
};

use minimcp::{
    domain::{duration::HumanDuration, exit::ExitStatus},
    runtime::{Runtime, RuntimeError, Workload, local::LocalRuntime},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    cgroups::Given,
    harness::{Database, Server, on_both_databases},
    keeper::{Keeper, plan, within},
    mcp::Mcp,
    meetings::{Client, answer, everything, text},
    processes,
};

on_both_databases! {
    a_frozen_instance_goes_on_with_its_memory_intact,
}

const SOON: Duration = Duration::from_secs(60);
const FREEZE_AFTER: &str = "400ms";

/// A daemon with a keeper that was given cgroups.
struct House {
    server: Server,
    keeper: Child,
    given: Given,
    _folder: tempfile::TempDir,
}

impl House {
    /// `None` where no cgroup can be given.
    async fn open(database: Database, sleep_after: Option<HumanDuration>) -> Option<Self> {
        let given = Given::new()?;
        let folder = tempfile::tempdir().expect("a folder");
        let keeper = given.keeper_of_root(folder.path());
        let socket = folder.path().join("k.sock");
        let server = Server::start_with(database, |config| {
            config.runtime.keeper_spawn = false;
            config.runtime.keeper_socket = socket;
            config.runtime.leave_instances_running = true;
            config.sleep.freeze_after_default = FREEZE_AFTER.parse().ok();
            config.sleep.after_default = sleep_after;
            config.gateway.wake_budget = HumanDuration::from_secs(SOON.as_secs());
        })
        .await;
        Some(Self {
            server,
            keeper,
            given,
            _folder: folder,
        })
    }

    async fn until(&self, instance: &Value, word: &str) -> Value {
        self.server
            .wait_status(id_of(instance), &[word], SOON)
            .await
    }

    /// Waits until it is frozen, and holds that against the kernel.
    async fn frozen(&self, instance: &Value) -> Value {
        let there = self.until(instance, "frozen").await;
        let cgroup = self.cgroup(&there);
        assert!(is_frozen(&cgroup), "{}", cgroup.display());
        there
    }

    fn cgroup(&self, instance: &Value) -> PathBuf {
        let name = format!("child-{}-{}", id_of(instance), instance["generation"]);
        self.given.path().join(name)
    }

    async fn now(&self, instance: &Value) -> Value {
        self.server.get(&format!("/mcps/{}", id_of(instance))).await
    }

    /// Waits until some memory of those that are frozen was taken back.
    async fn until_reclaimed(&self) {
        let deadline = Instant::now() + SOON;
        loop {
            let metrics = self.server.send(Method::GET, "/metrics", None).await;
            let metrics = metrics.text().await.expect("a text");
            let mut lines = metrics.lines();
            let told = lines
                .find_map(|line| line.strip_prefix("minimcp_frozen_reclaimed_bytes_total "))
                .expect("it is told");
            if told.parse::<f64>().expect("a number") > 3e6 {
                return;
            }
            assert!(Instant::now() < deadline, "nothing was taken back");
            tokio::time::sleep(Duration::from_millis(20)).await; // poll
        }
    }

    /// What happened to an instance, oldest first.
    async fn told(&self, instance: &Value) -> Vec<String> {
        let path = format!("/mcps/{}/events?limit=200", id_of(instance));
        let page = self.server.get(&path).await;
        let items = page["items"].as_array().expect("a list");
        let mut events: Vec<_> = items
            .iter()
            .map(|event| {
                (
                    event["id"].as_i64(),
                    event["kind"].to_string().replace('"', ""),
                )
            })
            .collect();
        events.sort();
        events.into_iter().map(|(_, kind)| kind).collect()
    }

    /// The same, once this is among it: what happens is shown before it is written.
    async fn until_told(&self, instance: &Value, kind: &str) -> Vec<String> {
        let deadline = Instant::now() + SOON;
        loop {
            let kinds = self.told(instance).await;
            if kinds.iter().any(|told| told == kind) {
                return kinds;
            }
            assert!(Instant::now() < deadline, "no {kind}: {kinds:?}");
            tokio::time::sleep(Duration::from_millis(20)).await; // poll
        }
    }

    async fn close(mut self) {
        let all = self.server.get("/mcps?limit=200").await;
        for instance in all["items"].as_array().expect("a list") {
            self.server.delete(id_of(instance)).await;
        }
        drop(self.server);
        self.keeper.kill().expect("it is our child");
        self.keeper.wait().expect("it is our child");
    }
}

fn id_of(instance: &Value) -> &str {
    instance["id"].as_str().expect("it has an id")
}

fn is_frozen(cgroup: &Path) -> bool {
    let events = fs::read_to_string(cgroup.join("cgroup.events")).expect("it is there");
    events.lines().any(|line| line == "frozen 1")
}

fn pid_of(instance: &Value) -> u32 {
    let pid = instance["pid"].as_u64().expect("it has a process");
    u32::try_from(pid).expect("pids are small")
}

/// On a busy machine a process may take longer to hold still than the keeper waits for it.
pub async fn freeze(child: &Workload) {
    let deadline = Instant::now() + SOON;
    while let Err(error) = child.freeze().await {
        let late = matches!(&error, RuntimeError::Refused(reason) if reason.contains("hold still"));
        assert!(late && Instant::now() < deadline, "{error}");
    }
}

async fn add(client: &mut Mcp, number: u32) -> String {
    let answer = client.tool("add", json!({"number": number})).await;
    answer.unwrap_or_else(|error| panic!("{error}"))
}

async fn a_frozen_instance_goes_on_with_its_memory_intact(database: Database) {
    let Some(mut house) = House::open(database, None).await else {
        return;
    };
    let instance = house.server.create(json!({"template": "counts"})).await;
    assert_eq!(instance["freeze_after"], FREEZE_AFTER, "{instance:#}");
    let mut client = Mcp::connect(&instance).await;
    // Who only listens does not keep it from holding still, and its stream goes on.
    let news = client.stream().await;
    assert_eq!(client.tool("map", json!({})).await, Ok("1024".to_owned()));
    assert_eq!(add(&mut client, 5).await, "5");

    let there = house.frozen(&instance).await;
    assert_eq!(
        (&there["pid"], &there["generation"], &there["health"]),
        (&instance["pid"], &json!(1), &json!("healthy")),
        "{there:#}"
    );
    let reason = there["reason"].as_str().expect("it says why");
    assert!(reason.contains("the next request wakes it"), "{reason}");
    let metrics = house.server.send(Method::GET, "/metrics", None).await;
    let metrics = metrics.text().await.expect("a text");
    assert!(metrics.contains("minimcp_instances{status=\"frozen\"} 1"));
    let facts = house.server.get("/diagnostics").await;
    let reclaim = facts["reclaim"].as_str().expect("a keeper answers");
    assert!(reclaim.starts_with("on: "), "{reclaim}");
    house.until_reclaimed().await;

    // What it offers is known, and asking for it wakes nobody.
    let tools = client.tools().await;
    assert!(tools.contains(&"add".to_owned()), "{tools:?}");
    let there = house.now(&instance).await;
    assert_eq!(there["status"], "frozen", "{there:#}");
    assert!(is_frozen(&house.cgroup(&there)));

    assert_eq!(add(&mut client, 2).await, "7");
    let there = house.frozen(&instance).await;
    assert_eq!(
        (&there["pid"], &there["restarts"]),
        (&instance["pid"], &json!(0))
    );

    // The next daemon finds it as it was left, however the last one ended; and the session goes on.
    for end in [Server::kill, |server: &mut Server| {
        assert_eq!(server.stop(), Some(0), "{}", server.log());
    }] {
        let cgroup = house.cgroup(&there);
        end(&mut house.server);
        assert!(is_frozen(&cgroup));
        house.server.launch().await;
        let now = house.now(&instance).await;
        assert_eq!(
            (&now["status"], &now["pid"]),
            (&json!("frozen"), &instance["pid"]),
            "{now:#}\n{}",
            house.server.log()
        );
        assert!(is_frozen(&cgroup));
    }
    drop(news);
    assert_eq!(add(&mut client, 1).await, "8");
    let kinds = house.told(&instance).await;
    for kind in ["frozen", "thawed"] {
        assert!(kinds.iter().any(|told| told == kind), "{kind}: {kinds:?}");
    }
    for wrong in ["unhealthy", "exited", "backing-off"] {
        assert!(kinds.iter().all(|told| told != wrong), "{kinds:?}");
    }
    house.close().await;
}

#[tokio::test]
async fn whatever_ends_an_instance_ends_a_frozen_one() {
    let Some(house) = House::open(Database::Sqlite, None).await else {
        return;
    };
    let instance = house.server.create(json!({"template": "counts"})).await;
    let path = format!("/mcps/{}", id_of(&instance));
    let verb = async |name: &str| {
        house
            .server
            .post(&format!("{path}/{name}"), json!({}))
            .await
    };
    let ended = |now: &Value| now["last_exit"]["cause"].to_string();

    // It leaves by itself when its input is closed, as any other: so it was let go on.
    house.frozen(&instance).await;
    verb("stop").await;
    let now = house.until(&instance, "stopped").await;
    assert!(ended(&now).contains("code 0"), "{now:#}");

    verb("start").await;
    let there = house.frozen(&instance).await;
    assert_eq!(there["generation"], 2, "{there:#}");
    // It runs, as far as a start is concerned; but whoever asks for one wants it at work.
    verb("start").await;
    house.until_told(&instance, "thawed").await;

    house.frozen(&instance).await;
    verb("restart").await;
    let there = house.frozen(&instance).await;
    assert_eq!(there["generation"], 3, "{there:#}");
    assert!(ended(&there).contains("code 0"), "{there:#}");

    // Killed by somebody else, it is launched again by its policy.
    processes::kill(pid_of(&there));
    let deadline = Instant::now() + SOON;
    let there = loop {
        let there = house.now(&instance).await;
        if there["generation"] == 4 && there["status"] == "frozen" {
            break there;
        }
        assert!(Instant::now() < deadline, "{there:#}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    };
    assert!(ended(&there).contains("signal 9"), "{there:#}");

    let cgroup = house.cgroup(&there);
    house.server.delete(id_of(&instance)).await;
    assert!(!Path::new(&format!("/proc/{}", there["pid"])).exists());
    let gone = crate::harness::wait_until(SOON, || (!cgroup.exists()).then_some(()));
    assert!(gone.is_some());
    house.close().await;
}

#[tokio::test]
async fn it_is_frozen_first_and_stopped_later_and_what_is_used_is_neither() {
    let sleep_after = HumanDuration::from_ms(2_500);
    let Some(house) = House::open(Database::Sqlite, Some(sleep_after)).await else {
        return;
    };
    let held = house.server.create(json!({"template": "wishes"})).await;
    let (caller, _) = Client::in_session(&held, everything()).await;
    let call = tokio::spawn(caller.tool(2, "hold", json!({})).send());
    let heard = house.server.create(json!({"template": "wishes"})).await;
    let (subscriber, _) = Client::in_session(&heard, everything()).await;
    let params = json!({"uri": "test://a"});
    answer(subscriber.request(2, "resources/subscribe", params)).await;
    let own = house
        .server
        .create(json!({"template": "keeps-state"}))
        .await;
    let of_own = Mcp::connect(&own).await;
    let never = json!({"template": "counts", "freeze_after": "0s"});
    let never = house.server.create(never).await;
    let idle = house.server.create(json!({"template": "counts"})).await;
    house.until(&idle, "asleep").await;
    house.until(&never, "asleep").await;
    let position = |kinds: &[String], kind: &str| kinds.iter().position(|told| told == kind);
    for (instance, is_frozen) in [(&idle, true), (&never, false)] {
        let kinds = house.until_told(instance, "asleep").await;
        let frozen = position(&kinds, "frozen");
        assert_eq!(frozen.is_some(), is_frozen, "{kinds:?}");
        assert!(frozen < position(&kinds, "asleep"), "{kinds:?}");
    }
    // All of these were left alone for longer.
    for instance in [&held, &heard, &own] {
        let there = house.now(instance).await;
        assert_eq!(there["status"], "running", "{there:#}");
        let kinds = house.told(instance).await;
        assert!(position(&kinds, "frozen").is_none(), "{kinds:?}");
    }
    assert_eq!(
        text(caller.tool(3, "release", json!({}))).await,
        "released 1"
    );
    let body = call.await.expect("no panic").expect("an answer");
    assert!(body.text().await.expect("a body").contains("held"));
    house.until(&held, "frozen").await;
    of_own.end().await;
    house.until(&own, "frozen").await;
    house.close().await;
}

#[tokio::test]
async fn the_sessions_that_an_http_server_keeps_itself_outlive_it() {
    let Some(house) = House::open(Database::Sqlite, None).await else {
        return;
    };
    let instance = house
        .server
        .create(json!({"template": "http-session"}))
        .await;
    let mut client = Mcp::connect(&instance).await;
    for text in ["first", "second"] {
        let there = house.frozen(&instance).await;
        assert_eq!(there["pid"], instance["pid"], "{there:#}");
        let echo = client.tool("echo", json!({"text": text})).await;
        assert_eq!(echo, Ok(text.to_owned()));
    }
    // Its end is the server's to know, so it is woken for it.
    house.frozen(&instance).await;
    let ended = client.end().await;
    assert!(ended.is_success(), "{ended}");
    house.close().await;
}

#[tokio::test]
async fn without_a_cgroup_it_goes_to_sleep_at_once_and_the_doctor_says_why() {
    let server = Server::start_with(Database::Sqlite, |config| {
        config.sleep.freeze_after_default = Some(HumanDuration::from_ms(100));
        config.sleep.after_default = Some(HumanDuration::from_ms(1_500));
    })
    .await;
    let instance = server.create(json!({"template": "legacy-echo"})).await;
    let facts = server.get("/diagnostics").await;
    let freezer = facts["freezer"].as_str().expect("a keeper answers");
    assert!(freezer.starts_with("off: "), "{freezer}");
    server
        .wait_status(id_of(&instance), &["asleep"], SOON)
        .await;
    let path = format!("/mcps/{}/events?limit=200", id_of(&instance));
    let events = server.get(&path).await;
    assert!(!events.to_string().contains("\"frozen\""), "{events:#}");
}

#[tokio::test]
async fn a_keeper_freezes_what_has_a_cgroup_and_an_upgrade_keeps_it_so() {
    for options in crate::keeper::BOTH {
        let Some(given) = Given::new() else { return };
        let folder = tempfile::tempdir().expect("a folder");
        let mut keeper = given.keeper(folder.path(), options);
        let socket = folder.path().join("k.sock");
        let connect = async || LocalRuntime::connect(&socket, None).await;
        let runtime = connect().await.expect("a living keeper");
        let script = "trap 'exit 5' TERM; sleep 600 & while :; do wait; done";
        let launch = plan(folder.path(), &["sh", "-c", script]);
        let child = runtime.launch(launch).await.expect("sh is there");
        let cgroup = given
            .path()
            .join(format!("child-{}-1", child.id().instance));
        for _ in 0..3 {
            freeze(&child).await;
            assert!(is_frozen(&cgroup));
            child.thaw().await.expect("a living keeper");
            let goes_on = crate::harness::wait_until(SOON, || (!is_frozen(&cgroup)).then_some(()));
            assert!(goes_on.is_some());
        }
        freeze(&child).await;
        runtime.upgrade_keeper().await.expect("it goes on");
        assert!(is_frozen(&cgroup));
        drop((runtime, child));
        let runtime = connect().await.expect("a living keeper");
        let all = runtime.adoptable().await.expect("a living keeper");
        let [child] = all.as_slice() else {
            panic!("{all:?}");
        };
        assert!(child.was_frozen());
        // Whoever is to end hears of it.
        child.terminate().await.expect("a living keeper");
        let report = within(child.exited()).await;
        assert_eq!(report.status, ExitStatus::Exited { code: 5 });

        let launch = plan(folder.path(), &["sh", "-c", "sleep 600 & exec sleep 600"]);
        let child = runtime.launch(launch).await.expect("sh is there");
        freeze(&child).await;
        child.kill_tree().await.expect("a living keeper");
        let report = within(child.exited()).await;
        assert_eq!(report.status, ExitStatus::Signaled { signal: 9 });
        for ended in runtime.adoptable().await.expect("a living keeper") {
            ended.forget().await.expect("a living keeper");
        }
        given.until_empty(&runtime).await;
        keeper.kill().expect("it is our child");
        keeper.wait().expect("it is our child");
    }
}

#[tokio::test]
async fn a_keeper_without_cgroups_refuses_to_freeze() {
    let keeper = Keeper::start(&[]);
    let runtime = keeper.connect().await;
    assert!(!runtime.state().borrow().freezes());
    let launch = plan(keeper.folder(), &["sleep", "600"]);
    let child = runtime.launch(launch).await.expect("it is there");
    match child.freeze().await {
        Err(RuntimeError::Refused(reason)) => assert!(reason.contains("no cgroup"), "{reason}"),
        other => panic!("{other:?}"),
    }
    child.thaw().await.expect("it goes on anyway");
    child.kill_tree().await.expect("a living keeper");
    within(child.exited()).await;
}
