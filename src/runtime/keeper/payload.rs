//! From the fork of the server to its execve(2).

use std::{
    ffi::{CStr, CString},
    os::fd::RawFd,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

use nix::{
    errno::Errno,
    sys::{prctl, resource::Resource, signal::SigSet},
};

use zeroize::Zeroizing;

use crate::{domain::file_argument::filled, runtime::time_slice};

use super::{
    denials::{self, Page},
    init::{close_range, exit},
    layers::Layers,
    privileges,
    progress::{Failed, Stage, report},
    protocol::Launch,
    second_wall,
    syscalls::Filters,
};

/// Descriptors are moved above this number before they are placed, so that none is overwritten.
const ABOVE: RawFd = 64;

/// Where a program without a slash is looked up when its environment has no `PATH`.
pub(super) const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What the server executes.
pub(super) struct Payload<'a> {
    /// Program, arguments, names of variables, folder, limits.
    pub(super) launch: &'a Launch,
    /// The child's ends of stdin, stdout, stderr; blocking.
    pub(super) stdio: [RawFd; 3],
    /// Become 3, 4, ….
    pub(super) passed: &'a [RawFd],
    /// Who we are.
    pub(super) uid: u32,
    /// Our group.
    pub(super) gid: u32,
    /// What it gets of isolation.
    pub(super) layers: Layers,
    /// What `layers.filter` installs.
    pub(super) filters: Option<&'a Filters>,
    /// Where its credential files are.
    pub(super) credentials: Option<&'a Path>,
    /// Where refused calls are counted, if they are.
    pub(super) denials: Option<Page>,
}

impl Payload<'_> {
    /// All that must stay open until they are placed.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.stdio.into_iter().chain(self.passed.iter().copied())
    }
}

/// What is handed to execve(2).
pub(super) struct Program {
    argv: Vec<CString>,
    env: Vec<Variable>,
}

/// `NAME=VALUE` with its NUL; wiped when dropped.
struct Variable(Zeroizing<Vec<u8>>);

impl Variable {
    /// The keeper has refused NUL bytes, so none is lost here.
    fn new(name: &str, value: &[u8]) -> Option<Self> {
        // Of its length at once: growing would leave copies behind.
        let text = Zeroizing::new([name.as_bytes(), b"=", value, b"\0"].concat());
        CStr::from_bytes_with_nul(&text).is_ok().then(|| Self(text))
    }
}

impl AsRef<CStr> for Variable {
    fn as_ref(&self) -> &CStr {
        CStr::from_bytes_with_nul(&self.0).unwrap_or_default()
    }
}

impl Program {
    /// That of a launch, whose values `secrets` holds.
    pub(super) fn of(payload: &Payload<'_>, secrets: &[u8]) -> Self {
        let launch = payload.launch;
        let path_of = |name: &str| {
            let path = payload.credentials?.join(name);
            Some(path.into_os_string().into_vec())
        };
        let arguments = filled(&launch.argv, &launch.file_arguments, path_of).into_iter();
        let mut at = 0;
        let variables = launch.env.iter().filter_map(|(name, len)| {
            let value = secrets.get(at..at + len).unwrap_or_default();
            at += len;
            Variable::new(name, value)
        });
        let files = launch.files.iter();
        let paths = files.filter_map(|(name, _)| Variable::new(name, &path_of(name)?));
        Self {
            argv: arguments
                .filter_map(|text| CString::new(text).ok())
                .collect(),
            env: variables.chain(paths).collect(),
        }
    }
}

/// Becomes the server, in memory that is the init's until the execve: what is allocated here stays there.
pub(super) fn run(
    payload: &Payload<'_>,
    program: &Program,
    progress: RawFd,
    init: Option<RawFd>,
    own_namespace: bool,
) -> ! {
    let moved = |descriptor: RawFd| {
        // SAFETY: dup and fcntl touch no memory; the number is ours alone in this process.
        let moved = unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, ABOVE * 2) };
        if moved < 0 { descriptor } else { moved }
    };
    let (progress, init) = (moved(progress), init.map(moved));
    let Err((stage, errno)) = become_server(payload, program, progress, init, own_namespace);
    report(progress, stage, errno as i32);
    exit(127)
}

fn become_server(
    payload: &Payload<'_>,
    program: &Program,
    progress: RawFd,
    init: Option<RawFd>,
    own_namespace: bool,
) -> Result<std::convert::Infallible, Failed> {
    if !own_namespace {
        // The second half of the chain: an init that dies takes its server along.
        prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
            .map_err(|errno| (Stage::Session, errno))?;
    }
    nix::unistd::setsid().map_err(|errno| (Stage::Session, errno))?;
    time_slice::take_a_servers();
    place_descriptors(payload).map_err(|errno| (Stage::Descriptors, errno))?;
    set_limits(payload).map_err(|errno| (Stage::Limits, errno))?;
    prctl::set_no_new_privs().map_err(|errno| (Stage::Privileges, errno))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let cwd = &payload.launch.cwd;
    nix::unistd::chdir(cwd).map_err(|errno| (Stage::Folder, errno))?;
    let layers = &payload.layers;
    if layers.landlock > 0 {
        second_wall::restrict(
            &payload.launch.sandbox,
            cwd,
            payload.credentials,
            layers.private_root,
        )
        .map_err(|errno| (Stage::Landlock, errno))?;
    }
    if layers.no_capabilities {
        privileges::drop_capabilities().map_err(|errno| (Stage::Privileges, errno))?;
    }
    reset_signals();
    report(progress, Stage::Ready, 0);
    // Last, since what comes before needs calls that a server does not.
    if let (true, Some(filters)) = (layers.filter, payload.filters) {
        let listener = filters.install(init.is_some());
        let listener = listener.map_err(|errno| (Stage::Filter, errno))?;
        // Without it every refused call would wait for ever.
        if let (Some(listener), Some(init)) = (listener, init) {
            denials::hand_over(init, &listener).map_err(|errno| (Stage::Filter, errno))?;
        }
    }
    let named = payload.launch.argv.first().map_or("", String::as_str);
    Err((Stage::Exec, execute(named, program)))
}

/// Tries each candidate as execvp(3) does; returns why the most promising one failed.
fn execute(program: &str, Program { argv, env }: &Program) -> Errno {
    let path = env
        .iter()
        .find_map(|entry| entry.as_ref().to_bytes().strip_prefix(b"PATH="))
        .unwrap_or(DEFAULT_PATH.as_bytes());
    let run = |file: &CStr| match nix::unistd::execve(file, argv, env) {
        Ok(never) => match never {},
        Err(errno) => errno,
    };
    if program.contains('/') {
        return argv.first().map_or(Errno::ENOENT, |file| run(file));
    }
    let mut worst = Errno::ENOENT;
    for folder in path.split(|byte| *byte == b':').filter(|f| !f.is_empty()) {
        let file = std::path::Path::new(std::ffi::OsStr::from_bytes(folder)).join(program);
        let Ok(file) = CString::new(file.as_os_str().as_bytes()) else {
            continue;
        };
        match run(&file) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            errno => worst = errno,
        }
    }
    worst
}

fn place_descriptors(payload: &Payload<'_>) -> Result<(), Errno> {
    let mut moved = Vec::new();
    for descriptor in payload.descriptors() {
        // SAFETY: fcntl touches no memory of ours.
        let copy = unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, ABOVE) };
        moved.push(Errno::result(copy)?);
    }
    let mut next = 0;
    for descriptor in moved {
        // SAFETY: dup2 touches no memory; whatever had this number is no longer needed in this process.
        Errno::result(unsafe { libc::dup2(descriptor, next) })?;
        next += 1;
    }
    // Not closed but marked: the progress socket must last until the execve.
    close_range(next as u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    Ok(())
}

fn set_limits(payload: &Payload<'_>) -> Result<(), Errno> {
    let limits = payload.launch.limits;
    let mut wanted = vec![
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NOFILE, limits.max_open_files),
        (Resource::RLIMIT_FSIZE, limits.max_file_size_bytes),
    ];
    // Without a user or a user namespace of its own it would count every process of this user.
    if payload.layers.counts_processes() {
        wanted.push((Resource::RLIMIT_NPROC, limits.max_processes));
    }
    if let Some(bytes) = limits.max_address_space_bytes {
        wanted.push((Resource::RLIMIT_AS, bytes));
    }
    for (resource, value) in wanted {
        let (_, hard) = nix::sys::resource::getrlimit(resource)?;
        let value = value.min(hard);
        nix::sys::resource::setrlimit(resource, value, value)?;
    }
    Ok(())
}

/// Every signal has its default meaning, and none is blocked.
fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is no function of ours. The two that cannot be set fail without harm.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let _ = SigSet::empty().thread_set_mask();
}
