//! Namespaces that the keeper makes ahead of a launch.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use minimcp::{
    domain::{
        egress::Catch,
        own_user::UserIds,
        sandbox::{Network, Sandbox},
    },
    runtime::{Pipes, Runtime, Workload, local::LocalRuntime},
};

use crate::keeper::{Keeper, plan, read_line};

/// So many of a kind are kept ready.
const READY: usize = 2;
/// A user that nobody is.
const PLAIN: u32 = 4_242;
/// Users for instances.
const OWN: UserIds = UserIds {
    min: 84_242,
    max: 84_249,
};

/// What a server sees of its world: its mounts without their numbers, ids, rights, files.
const LOOK: &str = "read line; { \
    id; hostname; cat /proc/self/uid_map /proc/self/gid_map; \
    grep -E '^(Cap|NoNew|Seccomp:|NSpid|Groups)' /proc/self/status; \
    grep . /proc/sys/user/max_user_namespaces /proc/sys/user/max_inotify_watches; \
    cat /etc/passwd /etc/hosts /etc/resolv.conf /proc/net/route /proc/net/if_inet6; \
    stat -c '%A %u:%g %N' / /* /etc/* /dev/* /tmp/* /run/* /var/*; ls /proc/self/fd; \
    cut -d ' ' -f 4- /proc/self/mountinfo; } 2>&1 | tr '\\n' '|'; echo; read line";

/// Whether this test can look into the keeper.
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: only root can look into a keeper");
    }
    root
}

/// The mount namespaces that a process holds.
pub fn held(pid: u32) -> BTreeSet<String> {
    let all = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives");
    let links = all.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let names = links.map(|link| link.display().to_string());
    names.filter(|name| name.starts_with("mnt:")).collect()
}

/// Those of a keeper, once as many are ready as are kept of a kind.
pub async fn once_ready(pid: u32) -> BTreeSet<String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let ready = held(pid);
        if ready.len() == READY {
            return ready;
        }
        assert!(Instant::now() < deadline, "{ready:?} are ready");
        tokio::time::sleep(Duration::from_millis(2)).await; // poll
    }
}

/// A server that has told what it sees and lives on, so that nothing else gets the numbers of its namespaces.
struct Looked {
    workload: Workload,
    pipes: Pipes,
    mounts: String,
    told: Vec<String>,
}

impl Looked {
    async fn launch(runtime: &LocalRuntime, folder: &Path, sandbox: &Sandbox) -> Self {
        let mut plan = plan(folder, &["sh", "-c", LOOK]);
        plan.sandbox = sandbox.clone();
        let workload = runtime.launch(plan).await.expect("it starts");
        let mounts = fs::read_link(format!("/proc/{}/ns/mnt", workload.pid())).expect("it lives");
        let pipes = workload.take_pipes().expect("fresh");
        nix::unistd::write(&pipes.stdin, b"\n").expect("it reads");
        let stdout = pipes.stdout.try_clone().expect("a descriptor");
        let told = read_line(stdout).await;
        Self {
            workload,
            pipes,
            mounts: mounts.display().to_string(),
            told: told.split('|').map(str::to_owned).collect(),
        }
    }

    async fn end(self) {
        drop(self.pipes);
        self.workload.close_stdin().await.expect("the keeper lives");
        self.workload.exited().await;
    }
}

/// A launch into namespaces made ahead shows a server what one that makes its own does, and nobody gets them twice.
async fn makes_no_difference(start: impl Fn() -> Keeper, user_ids: Option<UserIds>) {
    for network in [Network::AllowList, Network::None, Network::Open] {
        let sandbox = Sandbox {
            network,
            user_ids,
            caught: Catch {
                ports: vec![80, 443],
                addresses: Vec::new(),
            },
            ..Sandbox::default()
        };
        let keeper = start();
        let runtime = keeper.connect().await;
        let launch = || Looked::launch(&runtime, keeper.folder(), &sandbox);
        let first = launch().await;
        let expects = |line: &str| first.told.iter().any(|told| told == line);
        assert!(expects("NoNewPrivs:\t1"), "{:#?}", first.told);
        let mut all = vec![first];
        for _ in 0..3 {
            let ready = once_ready(keeper.pid()).await;
            let next = launch().await;
            let pairs = all[0].told.iter().zip(&next.told);
            let other: Vec<_> = pairs.filter(|(first, next)| first != next).collect();
            assert!(other.is_empty(), "{network:?}, {user_ids:?}: {other:#?}");
            assert_eq!(next.told.len(), all[0].told.len());
            let own = &next.mounts;
            assert!(ready.contains(own), "{own} is not one of {ready:?}");
            assert!(
                !held(keeper.pid()).contains(own),
                "it is the server's alone"
            );
            assert!(all.iter().all(|one| one.mounts != *own), "{own} twice");
            all.push(next);
        }
        for one in all {
            one.end().await;
        }
    }
}

#[tokio::test]
async fn a_launch_into_namespaces_made_ahead_is_as_any_other() {
    if is_root() {
        makes_no_difference(|| Keeper::start(&[]), None).await;
        makes_no_difference(|| Keeper::start(&[]), Some(OWN)).await;
    }
}

#[tokio::test]
async fn so_it_is_under_a_keeper_of_a_plain_user() {
    if is_root() {
        makes_no_difference(|| Keeper::start_as(PLAIN), None).await;
    }
}

#[tokio::test]
async fn none_are_made_where_a_layer_is_missing() {
    if !is_root() {
        return;
    }
    let lacks = Keeper::start(&["--without", "private-root"]);
    let whole = Keeper::start(&[]);
    for keeper in [&lacks, &whole] {
        let runtime = keeper.connect().await;
        let looked = Looked::launch(&runtime, keeper.folder(), &Sandbox::default()).await;
        looked.end().await;
    }
    once_ready(whole.pid()).await;
    assert_eq!(held(lacks.pid()), BTreeSet::new());
}
