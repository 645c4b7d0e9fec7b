//! The keeper as a real process with real children.

use std::{
    fs::File,
    io::Read,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use minimcp::{
    domain::{
        exit::ExitStatus,
        id::{Generation, InstanceId},
        limits::Limits,
        sandbox::Sandbox,
    },
    runtime::{
        LaunchError, LaunchPlan, Runtime, RuntimeError, Workload, WorkloadId, local::LocalRuntime,
    },
};
use zeroize::Zeroizing;

pub const BOTH: [&[&str]; 2] = [&[], &["--no-pid-namespace"]];

/// The program as it was built.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_minimcp");

/// A keeper of its own for one test; killed with all its children when dropped.
pub struct Keeper {
    process: Child,
    folder: tempfile::TempDir,
}

impl Keeper {
    pub fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let process = Self::spawn(folder.path(), options);
        Self { process, folder }
    }

    /// One of this user. For root alone.
    pub fn start_as(user: u32) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::os::unix::fs::chown(folder.path(), Some(user), Some(user)).expect("we are root");
        let mut command = Self::command(Path::new(PROGRAM), folder.path(), &[]);
        let process = Self::announced(command.uid(user).gid(user));
        Self { process, folder }
    }

    /// One whose program is a copy in its folder, to be replaced: where it lies.
    pub fn start_from_copy(options: &[&str]) -> (Self, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("minimcp");
        std::fs::copy(PROGRAM, &program).expect("the folder is ours");
        let process = Self::spawn_program(&program, folder.path(), options);
        (Self { process, folder }, program)
    }

    fn spawn(folder: &Path, options: &[&str]) -> Child {
        Self::spawn_program(Path::new(PROGRAM), folder, options)
    }

    fn spawn_program(program: &Path, folder: &Path, options: &[&str]) -> Child {
        Self::announced(&mut Self::command(program, folder, options))
    }

    fn command(program: &Path, folder: &Path, options: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(["keeper", "--announce", "--socket"])
            .arg(folder.join("k.sock"))
            // Its end when this process ends, however that comes about.
            .args(["--parent-fd", "0"])
            .stdin(Stdio::piped())
            .args(options)
            .stdout(Stdio::piped())
            .env("NOT_FOR_CHILDREN", "x");
        command
    }

    fn announced(command: &mut Command) -> Child {
        let mut process = command.spawn().expect("the program is built");
        let mut line = String::new();
        let mut stdout = process.stdout.take().expect("piped");
        stdout.read_to_string(&mut line).expect("readable");
        assert_eq!(line, "ready\n");
        process
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill().expect("it is our child");
        self.process.wait().expect("it is our child");
    }

    /// Another keeper in the place of one that was killed.
    pub fn start_again(&mut self, options: &[&str]) {
        self.process = Self::spawn(self.folder.path(), options);
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("k.sock")
    }

    pub async fn connect(&self) -> LocalRuntime {
        LocalRuntime::connect(&self.socket(), None)
            .await
            .expect("a living keeper")
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn plan(folder: &Path, argv: &[&str]) -> LaunchPlan {
    LaunchPlan {
        files: Vec::new(),
        file_arguments: Vec::new(),
        id: WorkloadId::main(InstanceId(uuid::Uuid::now_v7()), Generation(1)),
        argv: argv.iter().map(|a| (*a).to_owned()).collect(),
        env: vec![("PATH".into(), Zeroizing::new("/usr/bin:/bin".into()))],
        cwd: folder.join("work"),
        limits: Limits::default(),
        sandbox: Sandbox::default(),
        passed: Vec::new(),
    }
}

pub async fn sh(keeper: &Keeper, runtime: &LocalRuntime, script: &str) -> Workload {
    let plan = plan(keeper.folder.path(), &["sh", "-c", script]);
    runtime.launch(plan).await.expect("sh is there")
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("in time")
}

/// Reads to the end; the end comes when every process that holds the other side is gone.
async fn read_all(fd: OwnedFd) -> String {
    let mut reader = tokio::net::unix::pipe::Receiver::from_owned_fd(fd).expect("a pipe");
    let mut text = String::new();
    within(tokio::io::AsyncReadExt::read_to_string(
        &mut reader,
        &mut text,
    ))
    .await
    .expect("UTF-8");
    text
}

/// Reads one line.
pub async fn read_line(fd: OwnedFd) -> String {
    let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(fd).expect("a pipe");
    let mut reader = tokio::io::BufReader::new(reader);
    let mut line = String::new();
    within(tokio::io::AsyncBufReadExt::read_line(
        &mut reader,
        &mut line,
    ))
    .await
    .expect("UTF-8");
    line
}

/// Pids of the processes with `marker` in their command line.
pub fn marked(marker: &str) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").expect("Linux");
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let mut text = Vec::new();
        let file = File::open(format!("/proc/{pid}/cmdline"));
        let read = file.and_then(|mut file| file.read_to_end(&mut text));
        read.is_ok() && String::from_utf8_lossy(&text).contains(marker)
    })
    .collect()
}

#[tokio::test]
async fn code_and_signal_are_reported() {
    for options in BOTH {
        let keeper = Keeper::start(options);
        let runtime = keeper.connect().await;
        let child = sh(&keeper, &runtime, "exit 7").await;
        assert_eq!(
            within(child.exited()).await.status,
            ExitStatus::Exited { code: 7 }
        );
        let child = sh(&keeper, &runtime, "kill -SEGV $$").await;
        let report = within(child.exited()).await;
        assert_eq!(report.status, ExitStatus::Signaled { signal: 11 });
        assert!(report.usage.max_rss_kib > 0);
    }
}

#[tokio::test]
async fn the_whole_tree_dies_with_the_server_or_by_kill() {
    for options in BOTH {
        let keeper = Keeper::start(options);
        let runtime = keeper.connect().await;
        let marker = uuid::Uuid::new_v4().to_string();
        let stray = format!("setsid sh -c 'trap \"\" TERM; sleep 900; : {marker}' & ");
        let child = sh(&keeper, &runtime, &format!("{stray} sleep 0.2; exit 0")).await;
        assert_eq!(
            within(child.exited()).await.status,
            ExitStatus::Exited { code: 0 }
        );
        assert_eq!(marked(&marker), Vec::<u32>::new());

        let script = format!("trap '' TERM; {stray} echo up; while :; do sleep 1; done");
        let child = sh(&keeper, &runtime, &script).await;
        let pipes = child.take_pipes().expect("fresh");
        assert_eq!(read_line(pipes.stdout).await, "up\n");
        child.terminate().await.expect("connected");
        assert!(!marked(&marker).is_empty(), "it ignores SIGTERM");
        child.kill_tree().await.expect("connected");
        let status = within(child.exited()).await.status;
        assert_eq!(status, ExitStatus::Signaled { signal: 9 });
        assert_eq!(marked(&marker), Vec::<u32>::new());
    }
}

#[tokio::test]
async fn terminate_reaches_the_group_and_closed_stdin_is_its_end() {
    for options in BOTH {
        let keeper = Keeper::start(options);
        let runtime = keeper.connect().await;
        let child = sh(&keeper, &runtime, "exec cat").await;
        child.close_stdin().await.expect("connected");
        assert_eq!(
            within(child.exited()).await.status,
            ExitStatus::Exited { code: 0 }
        );
        let child = sh(&keeper, &runtime, "exec sleep 900").await;
        child.terminate().await.expect("connected");
        let status = within(child.exited()).await.status;
        assert_eq!(status, ExitStatus::Signaled { signal: 15 });
    }
}

#[tokio::test]
async fn the_keepers_socket_is_out_of_reach_where_mounts_can_be_made() {
    let keeper = Keeper::start(BOTH[0]);
    let runtime = keeper.connect().await;
    let socket = keeper.socket();
    assert!(std::fs::metadata(&socket).is_ok());
    let script = format!("test ! -e {} || exit 3", socket.display());
    let child = sh(&keeper, &runtime, &script).await;
    let own_mounts = child.isolation().get("own-proc") == Some("on");
    let code = if own_mounts { 0 } else { 3 };
    assert_eq!(
        within(child.exited()).await.status,
        ExitStatus::Exited { code }
    );
}

#[test]
fn packets_of_strangers_are_refused_in_words_and_the_keeper_lives() {
    let keeper = Keeper::start(BOTH[0]);
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/keeper_stranger.py"
    );
    let told = Command::new("python3")
        .arg(script)
        .arg(keeper.socket())
        .output()
        .expect("python3 is there");
    let answers = String::from_utf8_lossy(&told.stdout);
    let trouble = String::from_utf8_lossy(&told.stderr);
    assert!(told.status.success(), "{answers}{trouble}");
    for (name, word) in [
        ("short", "not a message of minimcp"),
        ("garbage", "not a message of minimcp"),
        ("version", "speaks protocol version 99"),
        ("kind", "unknown kind"),
        ("length", "says 4000 bytes"),
        ("too-long", "longer than"),
        ("memfd", "memfd"),
        ("json", "unreadable body"),
        ("before-hello", "refused"),
    ] {
        let line = answers.lines().find(|line| line.starts_with(name));
        let refused = line.is_some_and(|line| line.to_lowercase().contains(word));
        assert!(refused, "{name}: {answers}");
    }
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    runtime.block_on(async {
        let serve = keeper.connect().await;
        let child = sh(&keeper, &serve, "exit 0").await;
        let status = within(child.exited()).await.status;
        assert_eq!(status, ExitStatus::Exited { code: 0 });
    });
}

#[tokio::test]
async fn a_plan_larger_than_a_packet_arrives_whole() {
    let keeper = Keeper::start(BOTH[0]);
    let runtime = keeper.connect().await;
    let script = "printf %s \"$A$B$C\" | wc -c; read end";
    let mut large = plan(keeper.folder.path(), &["sh", "-c", script]);
    let value = |letter: &str| Zeroizing::new(letter.repeat(100_000));
    let values = ["A", "B", "C"].map(|name| (name.to_owned(), value(name)));
    large.env.extend(values);
    let child = runtime
        .launch(large)
        .await
        .expect("within the kernel's limit");
    let pipes = child.take_pipes().expect("fresh");
    child.close_stdin().await.expect("connected");
    drop(pipes.stdin);
    assert_eq!(read_all(pipes.stdout).await.trim(), "300000");

    let mut beyond = plan(keeper.folder.path(), &["true"]);
    beyond
        .env
        .push(("A".into(), Zeroizing::new("a".repeat(5 << 20))));
    let refused = runtime.launch(beyond).await.expect_err("too much");
    assert!(!refused.to_string().contains("aaaa"), "{refused}");
    let child = sh(&keeper, &runtime, "exit 0").await;
    let status = within(child.exited()).await.status;
    assert_eq!(status, ExitStatus::Exited { code: 0 });
}

#[tokio::test]
async fn nothing_is_inherited() {
    for options in BOTH {
        let keeper = Keeper::start(options);
        let runtime = keeper.connect().await;
        let mut env_plan = plan(keeper.folder.path(), &["/usr/bin/env"]);
        env_plan.env = vec![
            ("A".into(), Zeroizing::new("1".into())),
            ("B".into(), Zeroizing::new("zwei \n \"drei\"".into())),
        ];
        let child = runtime.launch(env_plan).await.expect("env is there");
        let out = child.take_pipes().expect("fresh").stdout;
        assert_eq!(read_all(out).await, "A=1\nB=zwei \n \"drei\"\n");

        let mut fds = plan(
            keeper.folder.path(),
            // The shell's own glob opens the folder as one more descriptor: name those that matter.
            &[
                "sh",
                "-c",
                "for f in 0 1 2 3 4 5 6 7 8 9 128; do [ -e /proc/$$/fd/$f ] && echo $f; done; \
               grep -E 'NoNewPrivs|SigIgn|SigBlk' /proc/self/status; ulimit -c; ulimit -n; pwd",
            ],
        );
        fds.passed = vec![File::open("/dev/null").expect("a device").into()];
        let child = runtime.launch(fds).await.expect("sh is there");
        let out = read_all(child.take_pipes().expect("fresh").stdout).await;
        let words: Vec<&str> = out.split_whitespace().collect();
        let work = keeper.folder.path().join("work");
        let none = "0000000000000000";
        let expected = [
            "0",
            "1",
            "2",
            "3",
            "NoNewPrivs:",
            "1",
            "SigBlk:",
            none,
            "SigIgn:",
            none,
            "0",
            "1024",
        ];
        assert_eq!(words[..4], expected[..4]);
        for word in &expected[4..] {
            assert!(words.contains(word), "{word} in {out}");
        }
        assert_eq!(words.last().copied(), work.to_str());
    }
}

#[tokio::test]
async fn a_program_that_cannot_run_is_told_in_a_sentence() {
    for options in BOTH {
        let keeper = Keeper::start(options);
        let runtime = keeper.connect().await;
        for (program, sentence) in [
            ("no-such-program", "program no-such-program not found"),
            (
                "/etc/passwd",
                "/etc/passwd may not be executed: permission denied",
            ),
        ] {
            let failed = runtime.launch(plan(keeper.folder.path(), &[program])).await;
            let error = failed.expect_err("it cannot run");
            assert!(matches!(error, LaunchError::NotStarted(_)), "{error:?}");
            assert_eq!(error.to_string(), sentence);
        }
        assert!(runtime.adoptable().await.expect("connected").is_empty());
    }
}

#[tokio::test]
async fn a_killed_keeper_leaves_nothing() {
    for options in BOTH {
        let mut keeper = Keeper::start(options);
        let runtime = keeper.connect().await;
        let marker = uuid::Uuid::new_v4().to_string();
        let script = format!("setsid sh -c 'sleep 900; : {marker}' & echo up; sleep 900");
        let child = sh(&keeper, &runtime, &script).await;
        let pipes = child.take_pipes().expect("fresh");
        assert_eq!(read_line(pipes.stdout).await, "up\n");
        keeper.process.kill().expect("ours");
        assert_eq!(within(child.exited()).await.status, ExitStatus::KeeperLost);
        // The end of stderr comes when the last process that holds it is gone.
        read_all(pipes.stderr).await;
        within(async {
            while !marked(&marker).is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert!(matches!(runtime.adoptable().await, Err(RuntimeError::Lost)));
    }
}

#[tokio::test]
async fn a_new_serve_adopts() {
    for options in BOTH {
        let keeper = Keeper::start(options);
        let first = keeper.connect().await;
        // Of the host's files a server sees its own folder.
        let work = keeper.folder.path().join("work");
        std::fs::create_dir(&work).expect("ours");
        let go = work.join("go");
        let made = Command::new("mkfifo").arg(&go).status().expect("coreutils");
        assert!(made.success());
        let script = format!("read line < {}; echo $line; exec cat", go.display());
        let lives = sh(&keeper, &first, &script).await;
        let ends = sh(&keeper, &first, "read line; exit 5").await;
        let file = File::open("/dev/null").expect("a device");
        let held = first.hold("listener/a", std::os::fd::AsFd::as_fd(&file));
        held.await.expect("connected");
        let refused = LocalRuntime::connect(&keeper.socket(), None).await;
        assert!(matches!(refused.err(), Some(RuntimeError::Refused(_))));
        first.shutdown(false).await;
        // What happens while nobody is connected:
        drop(ends.take_pipes());
        std::fs::write(&go, "hello\n").expect("it reads");

        let second = keeper.connect().await;
        let all = second.adoptable().await.expect("connected");
        assert_eq!(all.len(), 2);
        let names: Vec<_> = second.held().await.expect("connected");
        assert_eq!(names.len(), 1);
        let find = |id| all.iter().find(|w| w.id() == id).expect("held");
        let again = find(lives.id());
        assert_eq!(again.pid(), lives.pid());
        let pipes = again.take_pipes().expect("fresh");
        assert_eq!(read_line(pipes.stdout).await, "hello\n");
        drop(pipes.stdin);
        drop(lives.take_pipes());
        again.close_stdin().await.expect("connected");
        assert_eq!(
            within(again.exited()).await.status,
            ExitStatus::Exited { code: 0 }
        );
        let ended = find(ends.id());
        ended.close_stdin().await.expect("connected");
        assert!(matches!(
            within(ended.exited()).await.status,
            ExitStatus::Exited { .. }
        ));
        again.forget().await.expect("connected");
        assert_eq!(second.adoptable().await.expect("connected").len(), 1);
    }
}
