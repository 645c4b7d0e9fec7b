//! A keeper that was given a part of the cgroup tree: every child is in a cgroup of its own, dies by it, and leaves
//! none behind. The limits themselves need controllers, which `tests/systemd/vm` has.

use std::{
    fs,
    io::Read,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use minimcp::{
    domain::exit::ExitStatus,
    runtime::{Runtime, Workload, local::LocalRuntime},
};

use crate::keeper::{plan, within};

/// Somebody without any right; no user of a usual host has this id.
pub const NOBODY_UID: u32 = 4_242;

/// A cgroup that was given to a user, as systemd does by `Delegate=yes`.
pub struct Given(PathBuf);

impl Given {
    /// `None`, and it says so, where this process may make none.
    pub fn new() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("Linux");
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let mount = mount
            .and_then(|line| line.split(' ').nth(4))
            .map(PathBuf::from);
        let name = format!("minimcp-it-{}", uuid::Uuid::now_v7().simple());
        let folder = mount.map(|mount| mount.join(name));
        let made = folder.filter(|folder| fs::create_dir(folder).is_ok());
        let Some(folder) = made.filter(|_| nix::unistd::geteuid().is_root()) else {
            eprintln!("SKIPPED: no cgroup v2 can be made here and given away");
            return None;
        };
        for file in [
            "",
            "cgroup.procs",
            "cgroup.threads",
            "cgroup.subtree_control",
        ] {
            chown(folder.join(file), Some(NOBODY_UID), Some(NOBODY_UID)).expect("root may");
        }
        Some(Self(folder))
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn children(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).expect("it is ours").flatten();
        let folders = entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir());
        folders.filter(|path| !path.ends_with("keeper")).collect()
    }

    /// A killed process is not gone at once; the keeper looks again whenever it has something to do.
    pub async fn until_empty(&self, runtime: &LocalRuntime) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.children().is_empty() {
            assert!(Instant::now() < deadline, "{:?}", self.children());
            tokio::time::sleep(Duration::from_millis(10)).await; // poll
            runtime.held().await.expect("a living keeper");
        }
    }

    /// Runs a keeper in it, as the user.
    pub fn keeper(&self, folder: &Path, options: &[&str]) -> Child {
        chown(folder, Some(NOBODY_UID), Some(NOBODY_UID)).expect("root may");
        let become_user = "exec setpriv --reuid 4242 --regid 4242 --clear-groups \"$@\"";
        self.keeper_by(become_user, folder, options)
    }

    /// Runs a keeper of root in it; systemd says so to root by an attribute of the folder.
    pub fn keeper_of_root(&self, folder: &Path) -> Child {
        let mark = "import os, sys; os.setxattr(sys.argv[1], 'trusted.delegate', b'1')";
        let marked = Command::new("python3")
            .args(["-c", mark])
            .arg(&self.0)
            .status();
        assert!(marked.expect("there is a Python").success());
        self.keeper_by("exec \"$@\"", folder, &[])
    }

    fn keeper_by(&self, begin: &str, folder: &Path, options: &[&str]) -> Child {
        let mut process = Command::new("sh")
            .args(["-c", &format!("echo $$ >\"$0/cgroup.procs\" && {begin}")])
            .arg(&self.0)
            .arg(env!("CARGO_BIN_EXE_minimcp"))
            .args(["keeper", "--announce", "--parent-fd", "0", "--socket"])
            .arg(folder.join("k.sock"))
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let mut line = String::new();
        let mut stdout = process.stdout.take().expect("piped");
        stdout.read_to_string(&mut line).expect("readable");
        assert_eq!(line, "ready\n");
        process
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        let _ = fs::remove_dir(self.0.join("keeper"));
        let _ = fs::remove_dir(&self.0);
    }
}

fn cgroup_of(child: &Workload) -> String {
    let text = fs::read_to_string(format!("/proc/{}/cgroup", child.pid())).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("0::"));
    line.expect("there is a cgroup v2").to_owned()
}

#[tokio::test]
async fn each_child_has_a_cgroup_until_its_tree_is_gone() {
    for options in crate::keeper::BOTH {
        let Some(given) = Given::new() else { return };
        let folder = tempfile::tempdir().expect("a folder");
        let mut keeper = given.keeper(folder.path(), options);
        let runtime = LocalRuntime::connect(&folder.path().join("k.sock"), None)
            .await
            .expect("a living keeper");
        assert!(given.children().is_empty(), "{:?}", given.children());
        let script = "setsid sleep 600 & sleep 600 & exec sleep 600";
        let mut launch = plan(folder.path(), &["sh", "-c", script]);
        launch.limits.max_memory_bytes = Some(1 << 30);
        let id = launch.id;
        let child = runtime.launch(launch).await.expect("sh is there");
        let told = child.isolation().get("cgroup").expect("it is told");
        assert!(told.starts_with("on: its own"), "{told}");
        let name = format!("child-{}-1", id.instance);
        assert!(cgroup_of(&child).ends_with(&name), "{}", cgroup_of(&child));
        assert_eq!(given.children(), [given.0.join(&name)]);
        child.kill_tree().await.expect("a living keeper");
        let report = within(child.exited()).await;
        assert_eq!(report.status, ExitStatus::Signaled { signal: 9 });
        child.forget().await.expect("a living keeper");
        given.until_empty(&runtime).await;

        // One that cannot start leaves none either.
        let absent = plan(folder.path(), &["no-such-program"]);
        runtime.launch(absent).await.expect_err("it is not there");
        given.until_empty(&runtime).await;

        keeper.kill().expect("it is our child");
        keeper.wait().expect("it is our child");
    }
}
