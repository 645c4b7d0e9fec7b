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
    runtime::{Runtime, local::LocalRuntime},
};

use crate::keeper::{Keeper, plan, read_line};

/// So many of a kind are kept ready.
const READY: usize = 2;
/// A user that nobody is.
const PLAIN: u32 = 4_242;
/// Users for instances.
const OWN: UserIds = UserIds {
    min: 84_242,
    max: 84_243,
};

/// What a server sees of its world: its mounts without their numbers, ids, rights, files.
const LOOK: &str = "read line; { \
    id; hostname; cat /proc/self/uid_map /proc/self/gid_map; \
    grep -E '^(Cap|NoNew|Seccomp:|NSpid|Groups)' /proc/self/status; \
    grep . /proc/sys/user/max_user_namespaces /proc/sys/user/max_inotify_watches; \
    cat /etc/passwd /etc/hosts /etc/resolv.conf /proc/net/route /proc/net/if_inet6; \
    stat -c '%A %u:%g %N' / /* /etc/* /dev/* /tmp/* /run/* /var/*; ls /proc/self/fd; \
    cut -d ' ' -f 4- /proc/self/mountinfo; } 2>&1 | tr '\\n' '|'; echo";

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

/// Those beside these others, once as many are ready as are kept of a kind.
pub async fn once_ready(pid: u32, others: &BTreeSet<String>) -> BTreeSet<String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let ready = &held(pid) - others;
        if ready.len() == READY {
            return ready;
        }
        assert!(Instant::now() < deadline, "only {ready:?} are ready");
        tokio::time::sleep(Duration::from_millis(2)).await; // poll
    }
}

/// Launches a server in such a sandbox: its mount namespace, and what it sees.
async fn look(runtime: &LocalRuntime, folder: &Path, sandbox: &Sandbox) -> (String, String) {
    let mut plan = plan(folder, &["sh", "-c", LOOK]);
    plan.sandbox = sandbox.clone();
    let workload = runtime.launch(plan).await.expect("it starts");
    let own = fs::read_link(format!("/proc/{}/ns/mnt", workload.pid())).expect("it lives");
    let pipes = workload.take_pipes().expect("fresh");
    nix::unistd::write(&pipes.stdin, b"\n").expect("it reads");
    let told = read_line(pipes.stdout).await;
    workload.exited().await;
    workload.forget().await.expect("the keeper lives");
    (own.display().to_string(), told)
}

/// A launch into namespaces made ahead shows a server what one that makes its own does, and nobody gets them twice.
async fn makes_no_difference(keeper: &Keeper, user_ids: Option<UserIds>) {
    let runtime = keeper.connect().await;
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
        let others = held(keeper.pid());
        let (first, expected) = look(&runtime, keeper.folder(), &sandbox).await;
        assert!(expected.contains("|NoNewPrivs:\t1|"), "{expected}");
        assert!(!others.contains(&first), "nothing was made for it yet");
        let mut seen = BTreeSet::from([first]);
        for _ in 0..3 {
            let ready = once_ready(keeper.pid(), &others).await;
            let (own, told) = look(&runtime, keeper.folder(), &sandbox).await;
            let lines = |text: &str| text.split('|').map(str::to_owned).collect::<Vec<_>>();
            let pairs = lines(&expected).into_iter().zip(lines(&told));
            let other: Vec<_> = pairs.filter(|(expected, told)| expected != told).collect();
            assert!(other.is_empty(), "{network:?}, {user_ids:?}: {other:#?}");
            assert_eq!(told.len(), expected.len(), "{network:?}, {user_ids:?}");
            assert!(ready.contains(&own), "{own} is not one of {ready:?}");
            let still = held(keeper.pid());
            assert!(!still.contains(&own), "it is the server's alone");
            assert!(seen.insert(own), "one after the other");
        }
        once_ready(keeper.pid(), &others).await;
    }
}

#[tokio::test]
async fn a_launch_into_namespaces_made_ahead_is_as_any_other() {
    if is_root() {
        let keeper = Keeper::start(&[]);
        makes_no_difference(&keeper, None).await;
        makes_no_difference(&Keeper::start(&[]), Some(OWN)).await;
    }
}

#[tokio::test]
async fn so_it_is_under_a_keeper_of_a_plain_user() {
    if is_root() {
        makes_no_difference(&Keeper::start_as(PLAIN), None).await;
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
        look(&runtime, keeper.folder(), &Sandbox::default()).await;
    }
    once_ready(whole.pid(), &BTreeSet::new()).await;
    assert_eq!(held(lacks.pid()), BTreeSet::new());
}
