//! Servers that memory kills, told from those that are killed: with a real cgroup and a real kill by the kernel.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    harness::{Database, Server},
    mcp::Mcp,
    processes,
};

const SOON: Duration = Duration::from_secs(60);
/// What the keeper and all its children may use together; `demo` may be told to fill 256 MiB.
const LIMIT_BYTES: u64 = 128 << 20;

/// A memory cgroup of this test, below the one that it runs in.
struct Cgroup(PathBuf);

impl Cgroup {
    /// `None`, and it says so, where this process may not make one.
    fn new() -> Option<Self> {
        let made = Self::version_1().or_else(Self::version_2);
        if made.is_none() {
            eprintln!("SKIPPED with a real memory kill: no memory cgroup can be made here");
        }
        made
    }

    fn version_1() -> Option<Self> {
        let own = own_path(|controllers| controllers.split(',').any(|name| name == "memory"))?;
        let cgroup = Self::make(Path::new("/sys/fs/cgroup/memory"), &own)?;
        cgroup.set("memory.limit_in_bytes", LIMIT_BYTES)?;
        // Without swap accounting there is no such file, and without swap there is no need of it.
        let _ = cgroup.set("memory.memsw.limit_in_bytes", LIMIT_BYTES);
        Some(cgroup)
    }

    fn version_2() -> Option<Self> {
        let own = own_path(str::is_empty)?;
        let cgroup = Self::make(Path::new("/sys/fs/cgroup"), &own)?;
        cgroup.set("memory.max", LIMIT_BYTES)?;
        let _ = cgroup.set("memory.swap.max", 0);
        Some(cgroup)
    }

    fn make(mount: &Path, own: &str) -> Option<Self> {
        let name = format!("minimcp-it-{}", uuid::Uuid::now_v7().simple());
        let folder = mount.join(own.trim_start_matches('/')).join(name);
        fs::create_dir(&folder).ok()?;
        Some(Self(folder))
    }

    fn set(&self, file: &str, value: u64) -> Option<()> {
        let path = self.0.join(file);
        // In a cgroup file system a new file cannot be made, and elsewhere it must not be.
        path.exists().then_some(())?;
        fs::write(path, value.to_string()).ok()
    }

    fn take_in(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("the cgroup is ours");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its processes are gone by now, or the harness has said so.
        let _ = fs::remove_dir(&self.0);
    }
}

/// The cgroup of this process in the hierarchy with such controllers.
fn own_path(is_it: impl Fn(&str) -> bool) -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        is_it(controllers).then(|| path.to_owned())
    })
}

async fn next_launch(server: &Server, instance: &Value, generation: u64) -> Value {
    let id = instance["id"].as_str().expect("it has an id");
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let now = server.wait_status(id, &["running"], SOON).await;
        if now["generation"].as_u64() >= Some(generation) {
            return now;
        }
        assert!(std::time::Instant::now() < deadline, "{now:#}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

/// What the kernel adds to the score of a process when it has to choose whom to end.
fn oom_score_adj(pid: u32) -> i32 {
    let path = format!("/proc/{pid}/oom_score_adj");
    let text = fs::read_to_string(path).expect("it runs");
    text.trim().parse().expect("a number")
}

#[tokio::test]
async fn a_server_goes_before_the_daemon_when_the_host_runs_out_of_memory() {
    let server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "demo"})).await;
    let own = oom_score_adj(server.pid());
    assert!(own < 100, "this test runs with a score of {own} itself");
    for process in server.processes() {
        let score = oom_score_adj(process.pid);
        let is_ours = process.command.contains(" serve") || process.command.contains(" keeper");
        // Inits are forks of the keeper and named as it.
        let is_init = process.pid != server.pid() && score == 100;
        assert!(is_init || (is_ours && score == own), "{process:?}: {score}");
    }
    let pid = instance["pid"].as_u64().expect("it runs");
    assert_eq!(
        oom_score_adj(u32::try_from(pid).expect("pids are small")),
        100
    );
}

#[tokio::test]
async fn a_server_that_memory_kills_is_told_from_one_that_is_killed() {
    let Some(cgroup) = Cgroup::new() else { return };
    let server = Server::start(Database::Sqlite).await;
    let keeper = server.processes().into_iter();
    let keeper = keeper
        .filter(|process| process.command.contains(" keeper"))
        .map(|process| process.pid)
        .min();
    cgroup.take_in(keeper.expect("serve started one"));
    let eater = server.create(json!({"template": "demo"})).await;
    let neighbour = server.create(json!({"template": "demo"})).await;

    let mut client = Mcp::connect(&eater).await;
    let error = client
        .tool("memory", json!({"mebibytes": 256}))
        .await
        .expect_err("there is no such memory");
    let told = error.to_string();
    assert!(told.contains("for want of memory"), "{told}");
    assert_eq!(error["data"]["out_of_memory"], true, "{told}");
    let eater = next_launch(&server, &eater, 2).await;
    assert_eq!(eater["last_exit"]["out_of_memory"], true, "{eater:#}");
    let told = eater["last_exit"].to_string();
    assert!(told.contains("was ended for want of memory"), "{told}");

    // It shares the cgroup, and was launched before the kernel killed there.
    let pid = neighbour["pid"].as_u64().expect("it runs");
    processes::kill(u32::try_from(pid).expect("pids are small"));
    let neighbour = next_launch(&server, &neighbour, 2).await;
    let exit = &neighbour["last_exit"];
    assert_eq!(exit["out_of_memory"], false, "{neighbour:#}");
    assert_eq!(exit["signal"], 9, "{neighbour:#}");
    drop(server);
}
