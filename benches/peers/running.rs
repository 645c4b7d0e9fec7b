//! A peer that runs, with its configuration and its servers.

use std::{
    fs,
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use minimcp::{
    bench::{
        Stop,
        mcp::Endpoint,
        memory::{self, Held},
    },
    runtime::kill_process_if,
};
use nix::{
    sys::{
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use tempfile::TempDir;

use crate::kind::{CONFIG, Kind};

/// How long it may take until its servers answer.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take to end, its servers with it.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take, and how long one is waited for after a kill.
pub const PATIENCE: Duration = Duration::from_secs(12);
/// How often what is waited for is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// The last bytes of its log that are told.
const LOG_BYTES: usize = 1_500;

/// A running peer. It ends with this value.
pub struct Peer {
    kind: &'static Kind,
    process: Child,
    stop: Arc<Stop>,
    port: u16,
    /// What its servers are started with, as `/proc` tells it.
    server: String,
    folder: TempDir,
}

impl Peer {
    /// Starts one before so many servers of this command, and waits for nothing.
    pub fn start(
        kind: &'static Kind,
        program: &Path,
        command: &[String],
        servers: usize,
        stop: &Arc<Stop>,
    ) -> anyhow::Result<Self> {
        stop.check()?;
        let folder = tempfile::Builder::new()
            .prefix("minimcp-bench-peer-")
            .tempdir()?;
        // It is free, and not so soon given to somebody else.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let launch = kind.launch(port, servers, command, folder.path());
        if let Some(text) = launch.config {
            fs::write(folder.path().join(CONFIG), text)?;
        }
        let log = fs::File::create(folder.path().join("log"))?;
        let process = Command::new(program)
            .args(launch.arguments)
            .current_dir(folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C is for us alone, who end it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        stop.add(process.id());
        let server: String = command.iter().map(|word| format!("{word}\0")).collect();
        Ok(Self {
            kind,
            process,
            stop: stop.clone(),
            port,
            server,
            folder,
        })
    }

    /// Where its server with this number is.
    pub fn endpoint(&self, number: usize) -> Endpoint {
        Endpoint {
            patience: PATIENCE,
            ..self.kind.endpoint(self.port, number)
        }
    }

    /// Waits until this is so.
    pub fn wait_until(&self, is_so: impl Fn() -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while !is_so() {
            self.stop.check()?;
            let why = if !self.lives() {
                "it ended".to_owned()
            } else if Instant::now() > deadline {
                format!("it is not ready after {} s", READY_TIMEOUT.as_secs())
            } else {
                thread::sleep(LOOK); // poll
                continue;
            };
            let log = fs::read(self.folder.path().join("log")).unwrap_or_default();
            let last = &log[log.len().saturating_sub(LOG_BYTES)..];
            bail!(
                "{}: {why}; its last words:\n{}",
                self.kind.name,
                String::from_utf8_lossy(last)
            );
        }
        Ok(())
    }

    /// Kills all its servers; how long until a new client gets a call of the first answered well. `None`: not within
    /// [`PATIENCE`].
    pub fn kill_and_wait(&self) -> anyhow::Result<Option<Duration>> {
        let servers = self.servers()?;
        ensure!(!servers.is_empty(), "{} has no server", self.kind.name);
        let endpoint = self.endpoint(0);
        let began = Instant::now();
        for pid in servers {
            kill_process_if(pid, || self.is_server(pid))?;
        }
        while !endpoint.answers() {
            self.stop.check()?;
            if began.elapsed() > PATIENCE {
                return Ok(None);
            }
            // Every try is a session that it may keep: seldom, where it takes long.
            thread::sleep((began.elapsed() / 20).max(LOOK)); // poll
        }
        Ok(Some(began.elapsed()))
    }

    /// What it holds itself: all its processes but the servers.
    pub fn held(&self) -> anyhow::Result<Held> {
        let all = memory::tree(self.process.id())?;
        let hosts = all.into_iter().filter(|pid| !self.is_server(*pid));
        Ok(hosts.map(Held::by).fold(Held::default(), Held::and))
    }

    /// Whether it has not ended. It is not waited for, so that its number stays its own, and its group's.
    fn lives(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        matches!(
            waitid(Id::Pid(self.pid()), flags),
            Ok(WaitStatus::StillAlive)
        )
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }

    fn servers(&self) -> anyhow::Result<Vec<u32>> {
        let mut all = memory::tree(self.process.id())?;
        all.retain(|pid| self.is_server(*pid));
        Ok(all)
    }

    fn is_server(&self, pid: u32) -> bool {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words == self.server)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // SIGTERM first, so that it ends its servers.
        self.stop.tell(self.process.id());
        let deadline = Instant::now() + END_TIMEOUT;
        while Instant::now() < deadline && self.lives() {
            thread::sleep(LOOK); // poll
        }
        self.stop.remove(self.process.id());
        // What it did not end. A server in a group of its own ends with its stdin.
        let _ = killpg(self.pid(), Signal::SIGKILL);
        let _ = self.process.wait();
    }
}
