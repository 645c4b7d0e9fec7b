//! What is left without an owner outside of the database: folders, listeners and children with the keeper, cgroups and
//! the processes in them. The comparison finds it in a running daemon.

use std::{
    fs,
    net::TcpListener,
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use minimcp::{
    domain::id::{Generation, InstanceId},
    domain::reconcile::ForeignProcess,
    runtime::{CgroupStray, Runtime, WorkloadId, child_cgroups, local::LocalRuntime},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    cgroups::Given,
    harness::{Database, Server, wait_until},
    keeper::{plan, within},
    races::House,
    reconciliation::{SOON, counted, event_of_all, kinds, reconcile, start},
};

async fn doctor(server: &Server) -> String {
    let said = tokio::process::Command::new(env!("CARGO_BIN_EXE_minimcp"))
        .env_clear()
        .args(["--api-url", &server.url(), "--token-file"])
        .arg(&server.config().api.admin_token_file)
        .arg("doctor")
        .output();
    let said = said.await.expect("the binary starts");
    String::from_utf8_lossy(&said.stdout).into_owned()
}

#[tokio::test]
async fn folders_without_a_row_go_where_nothing_is_lost_and_are_told_where_something_would_be() {
    let server = start(Database::Sqlite).await;
    server.create(json!({"template": "demo"})).await;
    let place = server.config().runtime.instance_dir.clone();
    let [deleted, empty, data] = [(); 3].map(|()| Uuid::now_v7().to_string());
    fs::create_dir_all(place.join(format!("{deleted}.deleted/deep"))).expect("ours");
    fs::create_dir(place.join(&empty)).expect("ours");
    fs::create_dir(place.join(&data)).expect("ours");
    fs::write(place.join(&data).join("notes"), "kept").expect("ours");
    let report = reconcile(&server).await;
    let mut healed = kinds(&report, "healed");
    healed.sort_unstable();
    assert_eq!(healed, ["empty-folder", "folder-of-deleted"], "{report:#}");
    assert_eq!(kinds(&report, "kept"), ["folder-without-row"]);
    assert!(!place.join(format!("{deleted}.deleted")).exists());
    assert!(!place.join(&empty).exists());
    let notes = fs::read_to_string(place.join(&data).join("notes"));
    assert_eq!(notes.ok().as_deref(), Some("kept"));
    event_of_all(&server, &deleted, "reconciled").await;
    event_of_all(&server, &data, "reconcile-kept").await;
    // It is found again, and told and counted once.
    let again = reconcile(&server).await;
    assert_eq!(again["last_result"]["differences"], 0, "{again:#}");
    assert_eq!(kinds(&again, "kept"), ["folder-without-row"]);
    let count = counted(&server, "folder-without-row", "kept").await;
    assert_eq!(count, Some(1));
    let said = doctor(&server).await;
    let told = said.lines().any(|line| {
        line.starts_with("warn") && line.contains("comparison") && line.contains(&data)
    });
    assert!(told && said.contains("all agree"), "{said}");
}

#[tokio::test]
async fn what_the_keeper_holds_for_nobody_goes_and_what_it_lost_comes_back() {
    let house = House::new(Database::Sqlite, |_| {}).await;
    let own = house.create("demo", None).await;
    house.launched(own, 1).await;
    let stranger = InstanceId(Uuid::now_v7());
    house
        .launch(WorkloadId::main(stranger, Generation(3)))
        .await;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let name = |id: InstanceId| format!("listener/{id}");
    let held = house.runtime.hold(&name(stranger), listener.as_fd()).await;
    held.expect("the keeper takes it");
    let dropped = house.runtime.drop_held(&name(own)).await;
    dropped.expect("the keeper lets it go");
    let report = house.supervisor.reconcile().await.expect("all can be read");
    let found = json!({"last_result": report});
    let mut healed = kinds(&found, "healed");
    healed.sort_unstable();
    let expected = [
        "child-without-owner",
        "listener-not-held",
        "listener-without-owner",
    ];
    assert_eq!(healed, expected, "{found:#}");
    let alive = house.runtime.alive();
    assert_eq!(alive, [WorkloadId::main(own, Generation(1))]);
    let names = house.runtime.held_names().await.expect("a keeper");
    assert_eq!(names, [name(own)]);
    let again = house.supervisor.reconcile().await.expect("all can be read");
    assert_eq!(again["differences"], 0, "{again:#}");
}

/// A process that the test started, in the cgroup of a child; ended with this.
struct Foreign(Child);

impl Foreign {
    fn new(folder: &std::path::Path) -> Self {
        let process = Command::new("sh")
            .args([
                "-c",
                "echo $$ >\"$0/cgroup.procs\" && echo in && exec sleep 600",
            ])
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn();
        let mut process = process.expect("there is a shell");
        let mut word = [0; 3];
        let stdout = process.stdout.as_mut().expect("piped");
        std::io::Read::read_exact(stdout, &mut word).expect("it moved there");
        Self(process)
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("it is our child").is_some()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_process_that_the_keeper_did_not_start_and_a_cgroup_without_a_child_are_seen_and_go() {
    let Some(given) = Given::new() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let mut keeper = given.keeper(folder.path(), &[]);
    let runtime = LocalRuntime::connect(&folder.path().join("k.sock"), None)
        .await
        .expect("a living keeper");
    let script = "setsid sleep 600 & (sleep 600 &) ; exec sleep 600";
    let launch = plan(folder.path(), &["sh", "-c", script]);
    let id = launch.id;
    let child = runtime.launch(launch).await.expect("sh is there");
    let name = format!("child-{}-1", id.instance);
    let shown = || {
        let all = child_cgroups(keeper.id()).into_iter();
        all.collect::<std::collections::BTreeMap<_, _>>()
    };
    // Its own, however they begot each other, are no strangers.
    assert!(shown()[&name].foreign.is_empty(), "{:?}", shown());
    assert_eq!(
        shown()[&name].child.map(|child| child.instance),
        Some(id.instance)
    );
    let mut foreign = Foreign::new(&given.path().join(&name));
    let seen: Vec<ForeignProcess> = shown()[&name].foreign.iter().copied().collect();
    assert_eq!(
        seen.iter().map(|one| one.pid).collect::<Vec<_>>(),
        [foreign.0.id()]
    );
    // Another process of this number is not meant.
    let other = ForeignProcess {
        begun_ticks: seen[0].begun_ticks + 1,
        ..seen[0]
    };
    let tidied = runtime
        .tidy(CgroupStray::Process(name.clone(), other))
        .await;
    tidied.expect("it is gone already");
    // Nor may a child be ended so, nor a process elsewhere.
    let own = ForeignProcess {
        pid: child.pid(),
        begun_ticks: 0,
    };
    let refused = runtime.tidy(CgroupStray::Process(name.clone(), own)).await;
    refused.expect_err("it was started by the keeper");
    let this = ForeignProcess {
        pid: std::process::id(),
        begun_ticks: 0,
    };
    for place in ["keeper", "../..", &name] {
        let _ = runtime
            .tidy(CgroupStray::Process(place.to_owned(), this))
            .await;
    }
    let refused = runtime.tidy(CgroupStray::Cgroup(name.clone())).await;
    refused.expect_err("its child is held");
    assert!(!foreign.has_ended());
    // As a user without any right it may not end a process of another one, and says so.
    let refused = runtime
        .tidy(CgroupStray::Process(name.clone(), seen[0]))
        .await;
    let refused = refused.expect_err("it belongs to root").to_string();
    assert!(refused.contains("cannot be killed"), "{refused}");
    assert!(!foreign.has_ended());

    let left = given.path().join(format!("child-{}-9", Uuid::now_v7()));
    fs::create_dir_all(left.join("below")).expect("root may");
    let left_name = left
        .file_name()
        .expect("it has one")
        .to_string_lossy()
        .into_owned();
    assert!(shown().contains_key(&left_name));
    for path in [left.join("below"), left.clone()] {
        let own = Some(crate::cgroups::NOBODY_UID);
        for file in ["", "cgroup.procs", "cgroup.kill"] {
            std::os::unix::fs::chown(path.join(file), own, own).expect("root may");
        }
    }
    let mut inside = Foreign::new(&left.join("below"));
    let tidied = runtime.tidy(CgroupStray::Cgroup(left_name)).await;
    tidied.expect("nobody is of it");
    let deadline = Instant::now() + Duration::from_secs(20);
    while left.exists() || !inside.has_ended() {
        assert!(Instant::now() < deadline, "{:?}", given.children());
        tokio::time::sleep(Duration::from_millis(10)).await; // poll
        runtime.held().await.expect("a living keeper");
    }

    drop(foreign);
    child.kill_tree().await.expect("a living keeper");
    within(child.exited()).await;
    child.forget().await.expect("a living keeper");
    given.until_empty(&runtime).await;
    keeper.kill().expect("it is our child");
    keeper.wait().expect("it is our child");
}

/// The whole daemon, with a keeper that was given cgroups.
#[tokio::test]
async fn a_daemon_ends_a_stranger_in_the_cgroup_of_an_instance_and_says_so() {
    let Some(given) = Given::new() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let mut keeper = given.keeper_of_root(folder.path());
    let socket = folder.path().join("k.sock");
    let server = Server::start_with(Database::Sqlite, |config| {
        config.runtime.keeper_spawn = false;
        config.runtime.keeper_socket = socket;
        config
            .tasks
            .insert("reconcile".to_owned(), "off".to_owned());
    })
    .await;
    reconcile(&server).await;
    let instance = server.create(json!({"template": "demo"})).await;
    let id = instance["id"].as_str().expect("it has an id").to_owned();
    let mut foreign = Foreign::new(&given.path().join(format!("child-{id}-1")));
    let left = given.path().join(format!("child-{}-1", Uuid::now_v7()));
    fs::create_dir(&left).expect("root may");
    let report = reconcile(&server).await;
    let mut healed = kinds(&report, "healed");
    healed.sort_unstable();
    assert_eq!(
        healed,
        ["cgroup-without-child", "foreign-process"],
        "{report:#}"
    );
    let ended = wait_until(SOON, || foreign.has_ended().then_some(()));
    assert!(ended.is_some() && !left.exists(), "{report:#}");
    let told: Value = event_of_all(&server, &id, "reconciled").await;
    let pid = foreign.0.id().to_string();
    assert!(told["message"].to_string().contains(&pid), "{told:#}");
    let again = reconcile(&server).await;
    assert_eq!(again["last_result"]["differences"], 0, "{again:#}");
    let now = server.get(&format!("/mcps/{id}")).await;
    assert_eq!(now["pid"], instance["pid"], "its own processes went on");
    server.delete(&id).await;
    drop(server);
    keeper.kill().expect("it is our child");
    keeper.wait().expect("it is our child");
}
