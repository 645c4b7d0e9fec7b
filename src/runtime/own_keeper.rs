//! A keeper that `serve` starts itself, where no service manager does.

use std::{
    io::{self, BufRead, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Weak},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        signal::Signal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{RuntimeError, host};

/// How long a keeper that is not our child may take to kill all its children and end.
const ADOPTED_END_TIMEOUT: Duration = Duration::from_secs(10);

/// How to start a keeper.
#[derive(Debug, Clone)]
pub struct SpawnKeeper {
    /// The `minimcp` program.
    pub exe: PathBuf,
    /// Whether it goes on when we end, with all its instances.
    pub linger: bool,
}

/// A keeper that we started. Without `linger`, dropping this ends it, and it kills all that it started.
#[derive(Debug)]
pub struct SpawnedKeeper {
    process: Process,
    lifeline: Option<Arc<OwnedFd>>,
}

/// How it is known to us.
#[derive(Debug)]
enum Process {
    Started(Child),
    /// By the program that this process was before.
    StartedBefore(Pid),
    /// By a process that is gone.
    Adopted(u32),
}

impl Process {
    fn kill(&mut self) {
        match self {
            Self::Started(child) => drop(child.kill()),
            // Our child until we have waited for it, so the number means no other.
            Self::StartedBefore(pid) => drop(nix::sys::signal::kill(*pid, Signal::SIGKILL)),
            Self::Adopted(pid) => drop(host::kill_process_if(*pid, || true)),
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        match self {
            Self::Started(child) => child.wait().map(drop),
            Self::StartedBefore(pid) => loop {
                match waitpid(*pid, None) {
                    Err(Errno::EINTR) => {}
                    other => return Ok(other.map(drop)?),
                }
            },
            Self::Adopted(pid) => host::end_process(*pid, ADOPTED_END_TIMEOUT),
        }
    }
}

impl SpawnedKeeper {
    /// The keeper with this pid, if this process started it, as another program before.
    pub(super) fn again(pid: u32, lifeline: Option<OwnedFd>) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?);
        let is_child = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        matches!(is_child, Ok(WaitStatus::StillAlive)).then_some(Self {
            process: Process::StartedBefore(pid),
            lifeline: lifeline.map(Arc::new),
        })
    }

    /// The keeper with this pid, whose `lifeline` it held itself.
    pub(super) fn adopted(pid: u32, lifeline: OwnedFd) -> Self {
        let lifeline = Some(Arc::new(lifeline));
        let child = i32::try_from(pid).map(Pid::from_raw);
        let is_child = child.map(|pid| waitpid(pid, Some(WaitPidFlag::WNOHANG)));
        let process = match (child, is_child) {
            // Of a program that this process was before.
            (Ok(pid), Ok(Ok(WaitStatus::StillAlive))) => Process::StartedBefore(pid),
            _ => Process::Adopted(pid),
        };
        Self { process, lifeline }
    }

    /// What keeps it alive, where there is something.
    pub(super) fn lifeline(&self) -> Weak<OwnedFd> {
        self.lifeline
            .as_ref()
            .map(Arc::downgrade)
            .unwrap_or_default()
    }

    /// Leaves it to the program that this process becomes.
    pub(super) fn into_lifeline(self) -> Option<OwnedFd> {
        self.lifeline.and_then(Arc::into_inner)
    }

    /// Kills the keeper, and so everything that it started. Blocks until it is reaped.
    pub(super) fn kill(mut self) {
        self.process.kill();
        let _ = self.process.wait();
    }

    /// Ends the keeper and waits until it and all that it started are gone. A lingering one is left alone.
    /// Blocks.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn end(mut self) -> io::Result<()> {
        if self.lifeline.take().is_some() {
            self.process.wait()?;
        }
        Ok(())
    }
}

/// Starts a keeper at `socket` with an empty environment and waits until it serves. Blocks.
///
/// # Errors
/// [`RuntimeError::Unreachable`] with the keeper's own sentence, for example when another one runs there.
pub fn spawn_keeper(
    exe: &Path,
    socket: &Path,
    linger: bool,
) -> Result<SpawnedKeeper, RuntimeError> {
    let failed = |cause: io::Error| {
        RuntimeError::Unreachable(format!("cannot start {} keeper: {cause}", exe.display()))
    };
    let socket = std::path::absolute(socket).map_err(failed)?;
    let mut command = Command::new(exe);
    command
        .args(["keeper", "--announce", "--socket"])
        .arg(socket)
        .args(if linger {
            ["--linger", "--parent-fd", "0"].as_slice()
        } else {
            &["--parent-fd", "0"]
        })
        .env_clear()
        .current_dir("/")
        .stdin(if linger {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let lifeline = child.stdin.take().map(OwnedFd::from);
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        let read = io::BufReader::new(stdout.take(4_096)).read_line(&mut line);
        read.map_err(failed)?;
    }
    if line.trim_end() == "ready" {
        return Ok(SpawnedKeeper {
            process: Process::Started(child),
            lifeline: lifeline.map(Arc::new),
        });
    }
    drop(lifeline);
    let status = child.wait().map_err(failed)?;
    let sentence = line.trim_end().strip_prefix("error: ").map(str::to_owned);
    Err(RuntimeError::Unreachable(sentence.unwrap_or_else(|| {
        format!("the keeper ended with {status}")
    })))
}
