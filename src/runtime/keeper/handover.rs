//! An upgrade in place: another program goes on as this process, with its pid, its children and its descriptors.
//!
//! What is known is written to a memfd, every descriptor is kept open over execve(2), and the new program reads it. It is
//! asked first whether it understands such a state. As long as the execve has not happened, everything can be taken back.

use std::{
    convert::Infallible,
    ffi::{CString, OsString},
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, MetadataExt},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        memfd::{MFdFlags, memfd_create},
        signalfd::SignalFd,
    },
    unistd::{Pid, execv},
};
use serde::{Deserialize, Serialize};

use super::{
    Options, Place,
    cgroups::Leaf,
    credential_files::Placed,
    inherited,
    launch::Launcher,
    memory_kills::{Count, MemoryKills},
    peer::Peer,
    progress::StatusRecord,
    protocol::Reply,
    reactor::{Reactor, Sources},
    table::Record,
};
use crate::runtime::{ExitReport, FileLock, WorkloadId};

/// The version of [`State`]; grows when a field changes its meaning.
const STATE: u32 = 1;
/// The oldest one that this program goes on from.
const STATE_OLDEST: u32 = 1;
/// Asks a program which states it understands.
pub(super) const ASK: &str = "--state-versions";
/// How long the new program may take to say which states it understands.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The longest such answer in bytes.
const ANSWER_MAX: usize = 256;

/// The file of the program that runs, also when it has no name any more.
const OWN: &str = "/proc/self/exe";

/// The answer to [`ASK`]: oldest, newest, version of the program.
pub(super) fn understood() -> String {
    format!("{STATE_OLDEST} {STATE} {}", env!("CARGO_PKG_VERSION"))
}

/// What an upgrade needs beside the state.
pub(super) struct Origin {
    /// Where this program lay when it began.
    pub(super) program: PathBuf,
    /// Its arguments behind the word `keeper`.
    pub(super) told: Vec<OsString>,
    /// A duplicate of what holds the lock of the socket's place.
    pub(super) lock: OwnedFd,
}

impl Origin {
    /// Whether another file lies where this program did; not when there is none.
    pub(super) fn is_replaced(&self) -> bool {
        let identity = |path: &Path| -> Option<(u64, u64)> {
            let found = std::fs::metadata(path).ok()?;
            Some((found.dev(), found.ino()))
        };
        let (own, there) = (identity(Path::new(OWN)), identity(&self.program));
        there.is_some() && own.is_some() && own != there
    }
}

#[derive(Serialize, Deserialize)]
struct Workload {
    id: WorkloadId,
    serial: u64,
    server: u32,
    init: i32,
    pidfd: Option<RawFd>,
    stdin: Option<RawFd>,
    stdout: RawFd,
    stderr: RawFd,
    sockets: Vec<RawFd>,
    denials: Option<RawFd>,
    exit: Option<ExitReport>,
    killed: bool,
    isolation: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    credentials: Option<(PathBuf, bool)>,
    leaf: Option<PathBuf>,
    forgotten: bool,
    memory: Count,
    status: Option<StatusRecord>,
}

/// All that one program hands to the next. Descriptors by their numbers.
#[derive(Serialize, Deserialize)]
pub(super) struct State {
    state: u32,
    /// The version of the program that wrote it.
    from: String,
    next_serial: u64,
    hands_denials: bool,
    listener: RawFd,
    lock: RawFd,
    lifeline: Option<RawFd>,
    /// Both ends.
    status: (RawFd, RawFd),
    /// The connection that asked for the upgrade, and the number of its request.
    peer: (RawFd, u64),
    workloads: Vec<Workload>,
    untold: Vec<WorkloadId>,
    held: Vec<(String, RawFd)>,
    memory_kills: MemoryKills,
    cgroups: Result<PathBuf, String>,
}

/// Descriptors that stay open over an execve.
#[derive(Default)]
struct Passed<'a>(Vec<BorrowedFd<'a>>);

impl<'a> Passed<'a> {
    fn pass(&mut self, descriptor: &'a impl AsFd) -> RawFd {
        let descriptor = descriptor.as_fd();
        self.0.push(descriptor);
        descriptor.as_raw_fd()
    }

    fn set(&self, flags: FdFlag) -> Result<(), String> {
        self.0.iter().try_for_each(|descriptor| {
            fcntl(descriptor, FcntlArg::F_SETFD(flags))
                .map(drop)
                .map_err(|errno| format!("a descriptor cannot be passed on: {}", errno.desc()))
        })
    }
}

impl Reactor {
    /// Lets the program that lies where this one did go on. Returns only when it does not: why.
    pub(super) fn upgrade(&mut self) -> String {
        match self.try_upgrade() {
            Ok(never) => match never {},
            Err(reason) => reason,
        }
    }

    fn try_upgrade(&mut self) -> Result<Infallible, String> {
        let flushed = self.peer.as_mut().map(Peer::flush);
        let waits = self.peer.as_ref().is_none_or(Peer::has_backlog);
        if waits || !matches!(flushed, Some(Ok(()))) {
            return Err("answers still wait to be read; try again".to_owned());
        }
        // The next program would not know who makes some.
        self.launcher.spares.clear();
        let origin = &self.sources.origin;
        look_at(&origin.program)?;
        self.table.reclaims.stop();
        let mut passed = Passed::default();
        let state = self.state(&mut passed)?;
        let json = serde_json::to_vec(&state).map_err(|fault| fault.to_string())?;
        let errno =
            |errno: nix::Error| format!("there is no memory for its state: {}", errno.desc());
        let file = memfd_create(c"minimcp-keeper-state", MFdFlags::MFD_CLOEXEC).map_err(errno)?;
        let mut file = File::from(file);
        file.write_all(&json).map_err(|cause| cause.to_string())?;
        let at = passed.pass(&file);
        let words = [OsString::from("keeper")];
        let resume = [OsString::from("--resume"), at.to_string().into()];
        let words = words.iter().chain(&origin.told).chain(&resume);
        let program = std::iter::once(origin.program.as_os_str());
        let words = program.chain(words.map(OsString::as_os_str));
        let words: Result<Vec<CString>, _> =
            words.map(|word| CString::new(word.as_bytes())).collect();
        let words = words.map_err(|_| "an argument has a zero in it".to_owned())?;
        let outcome = passed.set(FdFlag::empty()).and_then(|()| {
            let failed = |errno: nix::Error| {
                format!(
                    "{} cannot be run: {}",
                    origin.program.display(),
                    errno.desc()
                )
            };
            execv(&words[0], &words).map_err(failed)
        });
        // Still here: nothing of it must reach a child.
        passed.set(FdFlag::FD_CLOEXEC)?;
        outcome
    }

    fn state<'a>(&'a self, passed: &mut Passed<'a>) -> Result<State, String> {
        let peer = self.peer.as_ref().ok_or("nobody is connected")?;
        let mut workloads = Vec::new();
        for (id, record) in &self.table.workloads {
            workloads.push(Workload {
                id: *id,
                serial: record.serial,
                server: record.server,
                init: record.init.as_raw(),
                pidfd: record.pidfd.as_ref().map(|fd| passed.pass(fd)),
                stdin: record.stdin.as_ref().map(|fd| passed.pass(fd)),
                stdout: passed.pass(&record.stdout),
                stderr: passed.pass(&record.stderr),
                sockets: record.sockets.iter().map(|fd| passed.pass(fd)).collect(),
                denials: record.denials.as_ref().map(|fd| passed.pass(fd)),
                exit: record.exit.clone(),
                killed: record.killed,
                isolation: record.isolation.clone(),
                credentials: record.credentials.as_ref().map(Placed::known),
                leaf: record.leaf.as_ref().map(|leaf| leaf.folder().to_owned()),
                forgotten: record.forgotten,
                memory: record.memory.clone(),
                status: record.status,
            });
        }
        let held = self.table.descriptors.iter();
        let held = held.map(|(name, fd)| (name.clone(), passed.pass(fd)));
        Ok(State {
            state: STATE,
            from: env!("CARGO_PKG_VERSION").to_owned(),
            next_serial: self.next_serial,
            hands_denials: self.hands_denials,
            held: held.collect(),
            listener: passed.pass(&self.sources.listener),
            lock: passed.pass(&self.sources.origin.lock),
            lifeline: self.sources.lifeline.as_ref().map(|fd| passed.pass(fd)),
            status: (
                passed.pass(&self.status),
                passed.pass(&self.launcher.status),
            ),
            peer: (passed.pass(&peer.socket), self.asked),
            workloads,
            untold: self.table.untold.iter().copied().collect(),
            memory_kills: self.table.memory_kills.clone(),
            cgroups: claimed(&self.launcher),
        })
    }
}

/// Its part of the cgroup tree, or why there is none.
fn claimed(launcher: &Launcher) -> Result<PathBuf, String> {
    let cgroups = launcher.cgroups.as_ref();
    cgroups
        .map(|cgroups| cgroups.folder().to_owned())
        .map_err(Clone::clone)
}

impl State {
    /// Reads what the former program wrote.
    pub(super) fn read(file: OwnedFd) -> Result<Self, String> {
        let file = File::from(file);
        let len = file.metadata().map_err(|cause| cause.to_string())?.len();
        let mut json = vec![0; usize::try_from(len).unwrap_or(0)];
        file.read_exact_at(&mut json, 0)
            .map_err(|cause| cause.to_string())?;
        let state: Self = serde_json::from_slice(&json)
            .map_err(|fault| format!("the state of the former program is unreadable: {fault}"))?;
        if !(STATE_OLDEST..=STATE).contains(&state.state) {
            return Err(format!(
                "a state of version {} is not understood",
                state.state
            ));
        }
        Ok(state)
    }

    /// The keeper as it was, run by this program; the answer to whoever asked for it is on its way.
    pub(super) fn go_on(
        self,
        options: &Options,
        activated: bool,
        signals: SignalFd,
        program: PathBuf,
    ) -> Result<(Reactor, Place), String> {
        let take = |raw: RawFd| inherited(raw, "a descriptor of the former program");
        let mut beside = options.socket.as_os_str().to_owned();
        beside.push(".lock");
        let lock = FileLock::again(take(self.lock)?, beside.into());
        let place = Place {
            socket: options.socket.clone(),
            lock: lock.map_err(|cause| format!("the lock of its socket is lost: {cause}"))?,
            activated,
        };
        let copy = place.lock.file().try_clone();
        // Its own two words are added again by the next one.
        let told = options.told.len().saturating_sub(2);
        let sources = Sources {
            listener: take(self.listener)?,
            signals,
            lifeline: self.lifeline.map(take).transpose()?,
            origin: Origin {
                program,
                told: options.told[..told].to_vec(),
                lock: copy.map_err(|cause| cause.to_string())?.into(),
            },
        };
        let status = (take(self.status.0)?, take(self.status.1)?);
        let (without, socket) = (&options.without, &options.socket);
        let errno = |errno: nix::Error| format!("cannot set the keeper up: {}", errno.desc());
        let mut reactor = Reactor::with(sources, without, socket, status, Some(self.cgroups));
        let reactor_of = reactor.as_mut().map_err(|failure| errno(*failure))?;
        for workload in self.workloads {
            let (id, record) = workload.record(&take)?;
            if let Some(pidfd) = &record.pidfd {
                reactor_of.watch(pidfd, record.serial).map_err(errno)?;
            }
            reactor_of.table.take_back(id, record);
        }
        for (name, raw) in self.held {
            reactor_of.table.descriptors.insert(name, take(raw)?);
        }
        reactor_of.table.untold.extend(self.untold);
        reactor_of.table.memory_kills = self.memory_kills;
        reactor_of.next_serial = self.next_serial;
        reactor_of.hands_denials = self.hands_denials;
        let mut peer = Peer::new(take(self.peer.0)?);
        peer.greeted = true;
        let reply = Reply::Upgraded {
            from: self.from,
            to: env!("CARGO_PKG_VERSION").to_owned(),
            host: reactor_of.host.clone(),
        };
        peer.answer(self.peer.1, &reply, Vec::new());
        reactor_of.welcome(peer);
        reactor_of.tell();
        let reactor = reactor.map_err(errno)?;
        Ok((reactor, place))
    }
}

impl Workload {
    fn record(
        self,
        take: &impl Fn(RawFd) -> Result<OwnedFd, String>,
    ) -> Result<(WorkloadId, Record), String> {
        let sockets: Result<_, String> = self.sockets.into_iter().map(take).collect();
        let record = Record {
            serial: self.serial,
            server: self.server,
            init: Pid::from_raw(self.init),
            pidfd: self.pidfd.map(take).transpose()?,
            stdin: self.stdin.map(take).transpose()?,
            stdout: take(self.stdout)?,
            stderr: take(self.stderr)?,
            sockets: sockets?,
            denials: self.denials.map(take).transpose()?,
            exit: self.exit,
            killed: self.killed,
            isolation: self.isolation,
            credentials: self.credentials.map(Placed::again),
            // Without it the tree is killed by other means.
            leaf: self.leaf.and_then(|folder| Leaf::again(folder).ok()),
            forgotten: self.forgotten,
            memory: self.memory,
            status: self.status,
        };
        Ok((self.id, record))
    }
}

/// Whether the program there goes on from a state of ours: it is asked.
fn look_at(program: &Path) -> Result<(), String> {
    let shown = program.display();
    let mut command = Command::new(program);
    command
        .args(["keeper", ASK])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let spawned = command.spawn();
    let mut asked = spawned.map_err(|cause| format!("{shown} cannot be run: {cause}"))?;
    let answer = answer_of(&mut asked);
    // It ended, or it must.
    let _ = asked.kill();
    let _ = asked.wait();
    let answer = answer.unwrap_or_default();
    let mut words = answer.split_whitespace();
    let mut number = || words.next().and_then(|word| word.parse::<u32>().ok());
    let (Some(oldest), Some(newest)) = (number(), number()) else {
        return Err(format!(
            "{shown} does not say which state of a keeper it understands"
        ));
    };
    if !(oldest..=newest).contains(&STATE) {
        let version = words.next().unwrap_or("unknown");
        return Err(format!(
            "{shown} has version {version}, which goes on from keepers of state {oldest} to {newest}, and this one \
             has state {STATE}: restart the keeper, and with it all instances"
        ));
    }
    Ok(())
}

fn answer_of(asked: &mut Child) -> Option<String> {
    let mut stdout = asked.stdout.take()?;
    let until = Instant::now() + ANSWER_LIMIT;
    let mut answer = Vec::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).ok()?;
        let mut states = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
        match poll(&mut states, timeout) {
            Ok(0) => return None,
            Err(nix::Error::EINTR) => continue,
            Err(_) => return None,
            Ok(_) => {}
        }
        let mut chunk = [0; ANSWER_MAX];
        let read = stdout.read(&mut chunk).ok()?;
        answer.extend_from_slice(&chunk[..read]);
        if read == 0 || answer.len() >= ANSWER_MAX {
            return String::from_utf8(answer).ok();
        }
    }
}
