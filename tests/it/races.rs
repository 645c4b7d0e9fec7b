//! What can go wrong between two steps: a store that comes back, children that a new daemon does not know, a stop
//! in the middle of a launch.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Duration};

use minimcp::{
    clock::Clock,
    config::Config,
    domain::{
        exit::ExitStatus,
        id::{Generation, InstanceId},
        limits::Limits,
        principal::Principal,
        sandbox::Sandbox,
        state::StatusWord,
    },
    logs::LogPipeline,
    runtime::{
        LaunchPlan, Runtime, WorkloadId,
        fake::{FakeChild, FakeRuntime, Script},
    },
    secrets::KeyRing,
    store::Store,
    supervisor::{Context, CreateRequest, Supervisor, SupervisorError, route::AccessEvent},
    templates::Catalogue,
};
use serde_json::json;
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::{
    harness::{Database, on_both_databases},
    processes,
};

on_both_databases! {
    a_child_that_the_record_does_not_know_is_replaced,
    what_expired_is_purged_also_when_it_was_slow_to_stop,
    instances_that_wait_for_their_turn_are_no_difference,
    a_stop_during_a_slow_launch_leaves_no_child,
}

pub const SOON: Duration = Duration::from_secs(20);

/// A supervisor over a real store and children without processes.
pub struct House {
    folder: TempDir,
    config: Config,
    pub store: Store,
    pub runtime: FakeRuntime,
    pub children: mpsc::Receiver<FakeChild>,
    pub supervisor: Supervisor,
    logs: LogPipeline,
    pub access: mpsc::Receiver<AccessEvent>,
}

impl House {
    pub async fn new(database: Database, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = Config::default();
        config.database.url = database.create(folder.path()).await;
        config.runtime.instance_dir = folder.path().join("instances");
        config.logs.spool_dir = folder.path().join("spool");
        config.runtime.port_min = 9_000 + u16::try_from(std::process::id() % 90).unwrap_or(0) * 10;
        config.runtime.port_max = config.runtime.port_min + 9;
        config.runtime.template_dirs = vec![templates(folder.path().join("templates"))];
        change(&mut config);
        let store = Store::connect(&config.database).await.expect("a store");
        let (runtime, children) = FakeRuntime::new();
        let (supervisor, logs, access) = supervise(&folder, &config, &store, &runtime).await;
        Self {
            folder,
            config,
            store,
            runtime,
            children,
            supervisor,
            logs,
            access,
        }
    }

    /// The daemon goes, the children stay, another daemon comes.
    async fn next_daemon(&mut self) {
        self.supervisor.shut_down(true, SOON).await;
        let (supervisor, logs, access) =
            supervise(&self.folder, &self.config, &self.store, &self.runtime).await;
        (self.supervisor, self.logs, self.access) = (supervisor, logs, access);
    }

    /// The machine goes down with everything on it, and comes back no sooner than `after` (unix milliseconds).
    pub async fn reboot(self, after: i64) -> Self {
        let Self {
            folder,
            config,
            store,
            runtime,
            children,
            supervisor,
            logs,
            access,
        } = self;
        supervisor.shut_down(true, SOON).await;
        drop((supervisor, logs, access));
        runtime.lose_keeper();
        let ports = config.runtime.port_min..=config.runtime.port_max;
        let is_dark = || {
            let listening = processes::listening_ports();
            Clock::System.now() > after && listening.range(ports.clone()).next().is_none()
        };
        assert!(until(is_dark).await, "something still listens");
        runtime.restore_keeper();
        let (supervisor, logs, access) = supervise(&folder, &config, &store, &runtime).await;
        Self {
            folder,
            config,
            store,
            runtime,
            children,
            supervisor,
            logs,
            access,
        }
    }

    pub async fn create(&self, template: &str, ttl: Option<&str>) -> InstanceId {
        let request = CreateRequest {
            template: template.to_owned(),
            name: None,
            ttl: ttl.map(|ttl| json!(ttl)),
            credentials: BTreeMap::new(),
            settings: BTreeMap::new(),
            labels: BTreeMap::new(),
            freeze_after: None,
            sleep_after: None,
            force: false,
        };
        let granted = self.supervisor.create(&who(), request).await;
        granted.expect("an instance").status.record.id
    }

    /// Launches a child that nobody of the supervisor knows.
    pub async fn launch(&self, id: WorkloadId) {
        let plan = LaunchPlan {
            id,
            argv: vec!["cat".to_owned()],
            env: Vec::new(),
            files: Vec::new(),
            file_arguments: Vec::new(),
            cwd: "/".into(),
            limits: Limits::default(),
            sandbox: Sandbox::default(),
            passed: Vec::new(),
        };
        self.runtime.launch(plan).await.expect("a child");
    }

    pub async fn launched(&self, instance: InstanceId, generation: u64) {
        let wanted = WorkloadId::main(instance, Generation(generation));
        let seen = until(|| self.runtime.alive().contains(&wanted)).await;
        assert!(seen, "{wanted:?} is not among {:?}", self.runtime.alive());
    }
}

async fn supervise(
    folder: &TempDir,
    config: &Config,
    store: &Store,
    runtime: &FakeRuntime,
) -> (Supervisor, LogPipeline, mpsc::Receiver<AccessEvent>) {
    let keys = KeyRing::load(&folder.path().join("key"), None, None).expect("a key ring");
    let logs = LogPipeline::start(&config.logs, Arc::new(store.clone()))
        .await
        .expect("a pipeline");
    let exe = std::env::current_exe().expect("our own path");
    let (access, inbox) = mpsc::channel(64);
    let context = Context::new(
        Arc::new(config.clone()),
        store.clone(),
        Arc::new(keys),
        Arc::new(runtime.clone()),
        logs.logs(),
        Arc::new(Catalogue::load(&config.runtime, exe)),
        Clock::System,
        access,
        "http://127.0.0.1:7420",
    );
    let (supervisor, _, _) = Supervisor::start_up(context).await.expect("a supervisor");
    (supervisor, logs, inbox)
}

/// A template whose expired instances cannot be restored for long, and whose server takes its time to stop; and one of
/// servers with a child for every session.
fn templates(folder: PathBuf) -> PathBuf {
    let own = folder.join("brief");
    fs::create_dir_all(&own).expect("the folder is ours");
    let text = r#"
        schema = 1
        name = "brief"
        title = "Brief"
        description = "Is purged at once."
        [server]
        transport = "stdio"
        command = ["/bin/cat"]
        [stop]
        eof_grace = "500ms"
        term_grace = "500ms"
        [lease]
        restore_window = "0s"
    "#;
    fs::write(own.join("template.toml"), text).expect("the folder is ours");
    let own = folder.join("members");
    fs::create_dir_all(&own).expect("the folder is ours");
    let text = r#"
        schema = 1
        name = "members"
        title = "Members"
        description = "A child for every session."
        [server]
        transport = "stdio"
        command = ["/bin/cat"]
        sessions = "per-session"
    "#;
    fs::write(own.join("template.toml"), text).expect("the folder is ours");
    folder
}

pub fn who() -> Principal {
    minimcp::api::auth::administrator()
}

pub async fn until(mut condition: impl FnMut() -> bool) -> bool {
    for _ in 0..500 {
        if condition() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
    false
}

#[tokio::test]
async fn a_deletion_right_after_the_store_came_back_ends() {
    let house = House::new(Database::Sqlite, |_| {}).await;
    let id = house.create("demo", None).await;
    house.launched(id, 1).await;
    let mut events = house.supervisor.events();
    let url = house.config.database.url.clone();
    let mut rival = SqliteConnection::connect(&url)
        .await
        .expect("a second connection");
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut rival)
        .await
        .expect("nobody writes");
    let child = house.runtime.alive()[0];
    assert!(house.runtime.end(child, ExitStatus::Exited { code: 1 }));
    // Told without a number: the write has just failed, and is to be tried again a little later.
    loop {
        let event = tokio::time::timeout(SOON, events.recv()).await;
        if event.expect("in time").expect("a sender").id == 0 {
            break;
        }
    }
    sqlx::query("ROLLBACK")
        .execute(&mut rival)
        .await
        .expect("it is ours");
    house
        .supervisor
        .delete(&who(), id)
        .await
        .expect("the store is back");
    assert!(matches!(
        house.supervisor.get(&who(), id),
        Err(SupervisorError::NotFound(_))
    ));
}

async fn a_child_that_the_record_does_not_know_is_replaced(database: Database) {
    let mut house = House::new(database, |_| {}).await;
    let id = house.create("demo", None).await;
    house.launched(id, 1).await;
    // As if the daemon had restarted it while the store was away, and then crashed.
    let newer = WorkloadId::main(id, Generation(2));
    house.supervisor.shut_down(true, SOON).await;
    let old = house.runtime.alive()[0];
    assert!(house.runtime.end(old, ExitStatus::Exited { code: 1 }));
    house.launch(newer).await;
    house.next_daemon().await;
    house.launched(id, 3).await;
    assert_eq!(house.runtime.alive().len(), 1, "one child of one instance");
}

async fn what_expired_is_purged_also_when_it_was_slow_to_stop(database: Database) {
    let house = House::new(database, |_| {}).await;
    let id = house.create("brief", Some("1s")).await;
    house.launched(id, 1).await;
    let gone = until(|| house.supervisor.get(&who(), id).is_err()).await;
    assert!(
        gone,
        "{:?}",
        house.supervisor.get(&who(), id).map(|s| s.word)
    );
}

async fn instances_that_wait_for_their_turn_are_no_difference(database: Database) {
    let mut house = House::new(database, |config| config.runtime.launches_max = 1).await;
    let first = house.create("demo", None).await;
    house.launched(first, 1).await;
    // Nobody answers its handshake: it keeps the only turn for some seconds.
    let second = house.create("demo", None).await;
    assert!(house.children.recv().await.is_some());
    let word = || house.supervisor.get(&who(), second).map(|s| s.word);
    let waits = until(|| matches!(word(), Ok(StatusWord::Starting))).await;
    assert!(waits, "{:?}", word());
    let found = house.supervisor.reconcile().await.expect("all can be read");
    assert_eq!(found["differences"], 0, "{found:#}");
}

async fn a_stop_during_a_slow_launch_leaves_no_child(database: Database) {
    let house = House::new(database, |_| {}).await;
    let id = house.create("demo", None).await;
    house.launched(id, 1).await;
    let slow = Script {
        launch_takes: Duration::from_millis(300),
        on_stdin_closed: None,
        ..Script::default()
    };
    house.runtime.script(id, slow);
    house.supervisor.restart(&who(), id).await.expect("it runs");
    let again = until(|| house.runtime.launched().len() == 2).await;
    assert!(again, "{:?}", house.runtime.launched());
    house.supervisor.stop(&who(), id).await.expect("it starts");
    house.supervisor.delete(&who(), id).await.expect("deleted");
    assert_eq!(house.runtime.alive(), []);
}
