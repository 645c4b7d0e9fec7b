//! The keeper's side of a launch, and the probe that finds what this host allows.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixCredentials,
            recvmsg, setsockopt, socketpair, sockopt,
        },
        wait::{WaitStatus, waitpid},
    },
    unistd::{Pid, getegid, geteuid, pipe2},
};

use super::{
    clone::{Forked, Namespaces, fork_into},
    identity::{self, Identity, Shared},
    init::{self, InitPlan, Probe},
    layers::{Host, Layers},
    payload::Payload,
    progress::Stage,
    protocol::Launch,
    root, second_wall,
    secret_buffer::SecretBuffer,
    syscalls::Filters,
};
use crate::{
    domain::sandbox::{Profile, Sandbox, is_plain},
    runtime::PASSED_MAX,
};

/// Longest time from the fork to the execve, in milliseconds; only a hung file system takes that long.
const LAUNCH_TIMEOUT_MS: u16 = 10_000;

/// A child that runs.
pub(super) struct Launched {
    /// Its init, our direct child.
    pub(super) init: Pid,
    /// Stands for the init.
    pub(super) pidfd: OwnedFd,
    /// The server's pid on the host.
    pub(super) server: u32,
    /// Our end of its stdin.
    pub(super) stdin: OwnedFd,
    /// Our end of its stdout.
    pub(super) stdout: OwnedFd,
    /// Our end of its stderr.
    pub(super) stderr: OwnedFd,
    /// What holds for it.
    pub(super) layers: Layers,
}

/// What every launch of this keeper shares.
pub(super) struct Launcher {
    /// What the probe found; those of every launch, that of the network aside.
    pub(super) namespaces: Namespaces,
    host: Host,
    filters: Option<Filters>,
    /// Write end of the status pipe.
    pub(super) status: OwnedFd,
    heap_start: Option<usize>,
    uid: u32,
    gid: u32,
    /// Hidden from every server.
    keeper_socket: CString,
}

impl Launcher {
    /// Probes the host by doing, best first; `allow_pid_namespace = false` forces the fallback.
    pub(super) fn new(status: OwnedFd, allow_pid_namespace: bool, keeper_socket: CString) -> Self {
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let with = |user, mount| Namespaces {
            user,
            pid: true,
            mount,
            ipc: mount,
            net: false,
        };
        let candidates = [
            with(true, true),
            with(false, true),
            with(true, false),
            with(false, false),
        ];
        let found = candidates.into_iter().find(|candidate| {
            allow_pid_namespace && works(*candidate, uid, gid, Probe::Namespaces)
        });
        let namespaces = found.unwrap_or(Namespaces::NONE);
        let net = Namespaces {
            net: true,
            ..namespaces
        };
        let filters = Filters::compile(namespaces.ipc).ok();
        let plain = Namespaces {
            user: false,
            ..namespaces
        };
        let as_another = |own_namespace| {
            let probe = Probe::OwnUser { own_namespace };
            uid == 0 && namespaces.mount && works(plain, uid, gid, probe)
        };
        let own_user_namespace = as_another(true);
        let host = Host {
            namespaces,
            net: namespaces.mount && works(net, uid, gid, Probe::Namespaces),
            private_root: namespaces.mount && works(namespaces, uid, gid, Probe::Root),
            filter: filters.is_some(),
            landlock: second_wall::abi(),
            as_root: uid == 0,
            own_user: own_user_namespace || as_another(false),
            own_user_namespace,
        };
        Self {
            namespaces,
            host,
            filters,
            status,
            heap_start: heap_start(),
            uid,
            gid,
            keeper_socket,
        }
    }

    /// Layer to state, in words, for a template that asks for nothing special.
    pub(super) fn isolation(&self) -> BTreeMap<String, String> {
        let with = |profile| {
            let sandbox = Sandbox {
                profile,
                ..Sandbox::default()
            };
            let identity = match self.host.own_user && profile == Profile::Strict {
                true => Identity::Own(0),
                false => Identity::Keepers(Shared::NotRoot),
            };
            self.host.layers(&sandbox, identity).ok()
        };
        let layers = with(Profile::Strict).or_else(|| with(Profile::Off));
        let mut words = layers.map(|layers| layers.report()).unwrap_or_default();
        if self.host.own_user {
            let each = "a user of each instance alone, from the range in the configuration";
            words.insert("identity".to_owned(), each.to_owned());
        }
        words
    }

    /// Starts a child and waits until its program runs. The secrets are wiped here in any case.
    pub(super) fn launch(
        &self,
        serial: u64,
        launch: &Launch,
        secrets: SecretBuffer,
        secrets_at: usize,
        passed: &[OwnedFd],
    ) -> Result<Launched, String> {
        let values = secrets.bytes().get(secrets_at..).unwrap_or_default();
        check(launch, values, passed.len())?;
        let identity = identity::decide(&self.host, launch)?;
        let layers = self.host.layers(&launch.sandbox, identity)?;
        make_folder(&launch.cwd)?;
        identity::hand_over(&launch.cwd, identity, launch.sandbox.user_ids, self.uid)?;
        let own = layers.own_user();
        let no_pipe = |cause: Errno| format!("no descriptors for its pipes: {}", cause.desc());
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(no_pipe);
        let (child_stdin, stdin) = pipe()?;
        let (stdout, child_stdout) = pipe()?;
        let (stderr, child_stderr) = pipe()?;
        for ours in [&stdin, &stdout, &stderr] {
            fcntl(ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(no_pipe)?;
        }
        let flags = SockFlag::SOCK_CLOEXEC;
        let (progress, child_progress) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(no_pipe)?;
        // Each message then carries the sender's pid as we see it, from whatever namespace it comes.
        setsockopt(&progress, sockopt::PassCred, &true).map_err(no_pipe)?;
        let passed: Vec<_> = passed.iter().map(AsRawFd::as_raw_fd).collect();
        let forked =
            fork_into(layers.namespaces).map_err(|cause| format!("cannot fork: {cause}"))?;
        let Forked::Parent { pid: init, pidfd } = forked else {
            let plan = InitPlan {
                layers,
                serial,
                status: self.status.as_raw_fd(),
                payload: Payload {
                    launch,
                    stdio: [&child_stdin, &child_stdout, &child_stderr].map(AsRawFd::as_raw_fd),
                    passed: &passed,
                    uid: own.unwrap_or(self.uid),
                    gid: own.unwrap_or(self.gid),
                    layers,
                    filters: self.filters.as_ref(),
                },
                secrets,
                secrets_at,
                heap_start: self.heap_start,
                keeper_socket: &self.keeper_socket,
            };
            init::run(plan, child_progress)
        };
        drop((
            secrets,
            child_progress,
            child_stdin,
            child_stdout,
            child_stderr,
        ));
        match await_exec(&progress) {
            Ok(server) => Ok(Launched {
                init,
                pidfd,
                server,
                stdin,
                stdout,
                stderr,
                layers,
            }),
            Err(failure) => {
                kill_tree(&pidfd, self.namespaces);
                // It ends now by SIGKILL or of its own; not reaping it would leave a zombie.
                let _ = waitpid(init, None);
                Err(failure.sentence(launch))
            }
        }
    }
}

/// SIGKILL to the init of a namespace, or the signal that lets a subreaper kill its tree.
pub(super) fn kill_tree(pidfd: &OwnedFd, namespaces: Namespaces) {
    let signal = if namespaces.pid {
        libc::SIGKILL
    } else {
        libc::SIGUSR2
    };
    send_signal(pidfd, signal);
}

/// pidfd_send_signal(2); a process that already ended is no error.
pub(super) fn send_signal(pidfd: &OwnedFd, signal: libc::c_int) {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a valid descriptor, and no information to read.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            none,
            0,
        )
    };
}

fn works(namespaces: Namespaces, uid: u32, gid: u32, probe: Probe) -> bool {
    match fork_into(namespaces) {
        Ok(Forked::Child) => init::probe(namespaces, uid, gid, probe),
        Ok(Forked::Parent { pid, .. }) => {
            matches!(waitpid(pid, None), Ok(WaitStatus::Exited(_, 0)))
        }
        Err(_) => false,
    }
}

/// The address where the heap of this process begins.
fn heap_start() -> Option<usize> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("[heap]"))?;
    usize::from_str_radix(line.split('-').next()?, 16).ok()
}

fn check(launch: &Launch, values: &[u8], passed: usize) -> Result<(), String> {
    let total: usize = launch
        .env
        .iter()
        .map(|(_, len)| *len)
        .fold(0, usize::saturating_add);
    if total != values.len() {
        return Err("the plan's environment is not as long as it says".into());
    }
    if launch.argv.first().is_none_or(String::is_empty) {
        return Err("the plan names no program".into());
    }
    if launch.argv.iter().any(|argument| argument.contains('\0')) || values.contains(&0) {
        return Err("an argument or a variable holds a NUL byte".into());
    }
    if let Some((name, _)) = launch
        .env
        .iter()
        .find(|(name, _)| name.is_empty() || name.contains(['=', '\0']))
    {
        return Err(format!("{name:?} cannot be the name of a variable"));
    }
    if !launch.cwd.is_absolute() {
        return Err(format!(
            "the working folder {} is not absolute",
            launch.cwd.display()
        ));
    }
    if let Some(path) = root::named(&launch.sandbox).find(|path| !is_plain(path)) {
        return Err(format!("{} cannot be shown to it", path.display()));
    }
    if passed > PASSED_MAX {
        return Err(format!("more than {PASSED_MAX} descriptors to pass on"));
    }
    Ok(())
}

fn make_folder(folder: &Path) -> Result<(), String> {
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(folder);
    made.map_err(|cause| {
        format!(
            "cannot make the working folder {}: {cause}",
            folder.display()
        )
    })
}

/// Why there is no running program.
enum Failure {
    /// The number is that of a path of the plan, where one is at fault.
    At(Stage, Errno, Option<usize>),
    DiedInSetup,
    TimedOut,
}

fn await_exec(progress: &OwnedFd) -> Result<u32, Failure> {
    let (mut server, mut place) = (None, None);
    loop {
        let mut ready = [PollFd::new(progress.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::from(LAUNCH_TIMEOUT_MS)) {
            Ok(0) => return Err(Failure::TimedOut),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return Err(Failure::DiedInSetup),
        }
        match receive_stage(progress) {
            Ok(Some((Stage::Ready, _, pid))) => server = Some(pid),
            Ok(Some((Stage::Place, index, _))) => place = usize::try_from(index).ok(),
            Ok(Some((stage, errno, _))) => {
                return Err(Failure::At(stage, Errno::from_raw(errno), place));
            }
            // The last copy of the other end was closed by a successful execve, or by a death.
            Ok(None) => return server.ok_or(Failure::DiedInSetup),
            Err(Errno::EINTR) => {}
            Err(_) => return Err(Failure::DiedInSetup),
        }
    }
}

fn receive_stage(progress: &OwnedFd) -> nix::Result<Option<(Stage, i32, u32)>> {
    let mut bytes = [0_u8; 5];
    let mut control = nix::cmsg_space!(UnixCredentials);
    let mut parts = [io::IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(progress.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    if message.bytes == 0 {
        return Ok(None);
    }
    let mut pid = 0;
    for part in message.cmsgs()? {
        match part {
            ControlMessageOwned::ScmCredentials(sender) => pid = sender.pid().cast_unsigned(),
            ControlMessageOwned::ScmRights(raw) => {
                // SAFETY: just made for us; nobody sends any here, and if so they are closed.
                raw.into_iter()
                    .for_each(|fd| drop(unsafe { OwnedFd::from_raw_fd(fd) }));
            }
            _ => {}
        }
    }
    let stage = Stage::from_byte(bytes[0]).unwrap_or(Stage::Keeper);
    let errno = i32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
    Ok(Some((stage, errno, pid)))
}

impl Failure {
    fn sentence(&self, launch: &Launch) -> String {
        let program = launch.argv.first().map_or("", String::as_str);
        let (stage, errno, place) = match self {
            Self::At(stage, errno, place) => (*stage, *errno, *place),
            Self::DiedInSetup => return "it was killed before its program ran".into(),
            Self::TimedOut => {
                return format!("{program} did not start within {LAUNCH_TIMEOUT_MS} ms");
            }
        };
        let why = errno.desc();
        match stage {
            Stage::Exec => match errno {
                Errno::ENOENT if program.contains('/') && Path::new(program).exists() => {
                    format!("the interpreter that {program} asks for is not found")
                }
                Errno::ENOENT => format!("program {program} not found"),
                Errno::EACCES => format!("{program} may not be executed: permission denied"),
                Errno::ENOEXEC => format!("{program} is not a program that this host can run"),
                Errno::E2BIG => "its arguments and environment are too long".into(),
                _ => format!("cannot execute {program}: {why}"),
            },
            Stage::Folder => format!("cannot enter {}: {why}", launch.cwd.display()),
            Stage::Limits => format!("cannot set its limits: {why}"),
            Stage::Fork => format!("cannot fork: {why}"),
            Stage::Maps | Stage::Proc | Stage::Network => {
                format!("cannot set up its namespaces: {why}")
            }
            Stage::Root | Stage::Place => {
                match place.and_then(|index| root::named(&launch.sandbox).nth(index)) {
                    Some(path) if errno == Errno::ELOOP => format!(
                        "{} passes through a symbolic link, which a grant must not: name the real path",
                        path.display()
                    ),
                    Some(path) => format!("cannot show {} to it: {why}", path.display()),
                    None => format!("cannot make its root: {why}"),
                }
            }
            Stage::Identity => format!("cannot become its own user: {why}"),
            Stage::Landlock => format!("cannot restrict it by Landlock: {why}"),
            Stage::Filter => format!("cannot filter its system calls: {why}"),
            Stage::Ready
            | Stage::Keeper
            | Stage::Session
            | Stage::Descriptors
            | Stage::Privileges => {
                format!("set-up failed: {why}")
            }
        }
    }
}
