//! The keeper: the small process that forks, isolates, reaps, and holds descriptors, so that `serve` can
//! crash or be replaced without touching an instance.
//!
//! One thread, no async runtime, no network, no database. Everything that it started ends with it: by the
//! kernel (PID namespaces and PDEATHSIG) when it is killed, by its own hand otherwise.

mod away;
mod base_root;
pub(super) mod cgroup_names;
mod cgroups;
pub(super) mod clone;
mod credential_files;
mod denials;
mod descriptors;
mod failure;
mod filter_program;
mod freezer;
mod handover;
mod identity;
mod init;
mod launch;
mod layers;
mod memory_kills;
mod mounts;
mod network;
mod oom_score;
mod payload;
mod peer;
mod plan_check;
mod privileges;
mod progress;
pub mod protocol;
mod reactor;
mod reclaim;
mod requests;
pub(super) mod root;
pub(super) mod second_wall;
mod secret_buffer;
mod spares;
mod strays;
mod syscalls;
mod table;
mod taken_users;
mod tree;
mod watch;

use std::{
    ffi::OsString,
    fs, io,
    io::Write,
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        linux::net::SocketAddrExt,
        unix::{ffi::OsStrExt, net as unix},
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

use self::reactor::{Reactor, Sources};
use super::{FileLock, LockError, channel, harden_process, lock_file};
use crate::domain::sandbox::Layer;

/// What `minimcp keeper` was told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    socket: PathBuf,
    parent_fd: Option<RawFd>,
    linger: bool,
    without: Vec<Layer>,
    announce: bool,
    /// Where the state of the former program lies, which this one goes on from.
    resume: Option<RawFd>,
    /// Whatever was told, as it was told, to be told again.
    told: Vec<OsString>,
}

const USAGE: &str = "usage: minimcp keeper --socket PATH [--parent-fd N] [--linger] \
                     [--without LAYER]... [--no-pid-namespace] [--announce]";

impl Options {
    fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut options = Self {
            told: arguments.collect(),
            ..Self::default()
        };
        let mut arguments = options.told.clone().into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| USAGE.to_owned());
            match argument.to_str() {
                Some("--socket") => options.socket = value()?.into(),
                Some("--parent-fd") => {
                    let number = value()?.to_str().and_then(|text| text.parse().ok());
                    options.parent_fd = Some(number.filter(|fd| *fd >= 0).ok_or(USAGE)?);
                }
                Some("--resume") => {
                    let number = value()?.to_str().and_then(|text| text.parse().ok());
                    options.resume = Some(number.filter(|fd| *fd >= 0).ok_or(USAGE)?);
                }
                Some("--linger") => options.linger = true,
                Some("--no-pid-namespace") => options.without.push(Layer::PidNamespace),
                // As on a host that lacks it: to see what the other layers still stop.
                Some("--without") => {
                    let word = value()?;
                    let named = |layer: &Layer| word.to_str() == Some(layer.word());
                    options
                        .without
                        .push(Layer::ALL.into_iter().find(named).ok_or(USAGE)?);
                }
                Some("--announce") => options.announce = true,
                _ => return Err(USAGE.to_owned()),
            }
        }
        if options.socket.as_os_str().is_empty() {
            return Err(USAGE.to_owned());
        }
        Ok(options)
    }
}

/// Runs the keeper until SIGTERM, or until `--parent-fd` is closed by its other side (unless `--linger`).
/// `arguments` are those behind the word `keeper`. To be called before any thread exists.
///
/// With `--announce` it writes one line to stdout: `ready`, or `error: ` and a sentence; then it closes it.
/// `variable` reads the environment, for what systemd says in it (`NOTIFY_SOCKET`, `LISTEN_FDS`).
/// Exits with 0 when told to end, with 2 on wrong usage, with 1 when it could not begin.
#[must_use]
pub fn main(
    arguments: impl Iterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> ExitCode {
    let mut arguments = arguments.peekable();
    if arguments.peek().is_some_and(|first| first == handover::ASK) {
        let _ = writeln!(io::stdout(), "{}", handover::understood());
        return ExitCode::SUCCESS;
    }
    let options = match Options::parse(arguments) {
        Ok(options) => options,
        Err(usage) => {
            let _ = writeln!(io::stderr(), "{usage}");
            return ExitCode::from(2);
        }
    };
    match serve(&options, &variable) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            if options.announce {
                let _ = writeln!(io::stdout(), "error: {sentence}");
            }
            let _ = writeln!(io::stderr(), "minimcp keeper: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: &Options, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<(), String> {
    let program = std::env::current_exe();
    let program = program.map_err(|cause| format!("cannot tell which program this is: {cause}"))?;
    harden_process().map_err(|cause| format!("cannot harden this process: {cause}"))?;
    // A Ctrl-C at the terminal is for serve. Fails for the leader of a group, which then has its own terminal.
    let _ = nix::unistd::setsid();
    let mut handled = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGCHLD,
        Signal::SIGHUP,
    ] {
        handled.add(signal);
    }
    let sentence =
        |what: &'static str| move |errno: nix::Error| format!("{what}: {}", errno.desc());
    handled
        .thread_block()
        .map_err(sentence("cannot block signals"))?;
    handled.remove(Signal::SIGHUP);
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&handled, flags).map_err(sentence("cannot read signals"))?;
    let pid = std::process::id().to_string();
    let is = |name: &str, value: &str| variable(name).is_some_and(|found| found == value);
    let activated = is("LISTEN_PID", &pid) && is("LISTEN_FDS", "1");
    if let Some(raw) = options.resume {
        let state = handover::State::read(inherited(raw, "--resume")?)?;
        let (reactor, place) = state.go_on(options, activated, signals, program)?;
        let ended = reactor.run();
        place.leave();
        return ended.map_err(sentence("the keeper's loop failed"));
    }
    let place = Place::take(&options.socket, activated)?;
    let lock = place.lock.file().try_clone();
    let sources = Sources {
        origin: handover::Origin {
            program,
            told: options.told.clone(),
            lock: lock.map_err(|cause| cause.to_string())?.into(),
        },
        listener: place.listener()?,
        signals,
        lifeline: options
            .parent_fd
            .filter(|_| !options.linger)
            .map(|raw| inherited(raw, "--parent-fd"))
            .transpose()?,
    };
    let reactor = Reactor::new(sources, &options.without, &options.socket)
        .map_err(sentence("cannot set the keeper up"))?;
    announce(options.announce, variable("NOTIFY_SOCKET"));
    let ended = reactor.run();
    place.leave();
    ended.map_err(sentence("the keeper's loop failed"))
}

/// Takes over a descriptor that was inherited under a known number.
fn inherited(raw: RawFd, what: &str) -> Result<OwnedFd, String> {
    // SAFETY: fcntl touches no memory.
    let flags = unsafe { libc::fcntl(raw, libc::F_SETFD, libc::FD_CLOEXEC) };
    if flags < 0 {
        return Err(format!("{what}: descriptor {raw} is not open"));
    }
    // SAFETY: it is open, and whoever started us gave it to us for this purpose alone.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// The socket's place in the file system, ours while the lock beside it is held.
struct Place {
    socket: PathBuf,
    lock: FileLock,
    /// The socket came from systemd, which also cleans it up.
    activated: bool,
}

impl Place {
    fn take(socket: &Path, activated: bool) -> Result<Self, String> {
        let mut beside = socket.as_os_str().to_owned();
        beside.push(".lock");
        let lock = lock_file(Path::new(&beside)).map_err(|error| match error {
            LockError::Held(_) => format!("a keeper already runs behind {}", socket.display()),
            LockError::Io { .. } => error.to_string(),
        })?;
        Ok(Self {
            socket: socket.to_owned(),
            lock,
            activated,
        })
    }

    fn listener(&self) -> Result<OwnedFd, String> {
        /// Where systemd begins (`SD_LISTEN_FDS_START`).
        const FIRST_ACTIVATED: RawFd = 3;
        if self.activated {
            return inherited(FIRST_ACTIVATED, "LISTEN_FDS");
        }
        let shown = self.socket.display();
        match fs::symlink_metadata(&self.socket) {
            Ok(found) => {
                use std::os::unix::fs::FileTypeExt;
                if !found.file_type().is_socket() {
                    return Err(format!("{shown} is there already and is no socket"));
                }
                // We hold the lock, so whoever made it is gone.
                fs::remove_file(&self.socket)
                    .map_err(|cause| format!("cannot replace the stale {shown}: {cause}"))?;
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(format!("cannot look at {shown}: {cause}")),
        }
        channel::listen_at(&self.socket)
            .map_err(|cause| format!("cannot listen at {shown}: {cause}"))
    }

    fn leave(self) {
        if !self.activated {
            let _ = fs::remove_file(&self.socket);
        }
        let _ = self.lock.remove();
    }
}

/// Tells whoever waits that connections are served now.
fn announce(on_stdout: bool, notify_socket: Option<OsString>) {
    if on_stdout {
        let mut stdout = io::stdout();
        let _ = stdout.write_all(b"ready\n").and_then(|()| stdout.flush());
    }
    // Whoever reads our stdout sees its end now, and not only at ours.
    if let Ok(null) = fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(&null);
    }
    let Some(target) = notify_socket else {
        return;
    };
    let address = match target.as_bytes().strip_prefix(b"@") {
        Some(name) => unix::SocketAddr::from_abstract_name(name),
        None => unix::SocketAddr::from_pathname(&target),
    };
    let sent = address
        .and_then(|address| unix::UnixDatagram::unbound()?.send_to_addr(b"READY=1\n", &address));
    if let Err(cause) = sent {
        let _ = writeln!(io::stderr(), "minimcp keeper: cannot tell systemd: {cause}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options() {
        let options = parse("--socket /run/k --parent-fd 0 --linger").expect("valid");
        assert_eq!(options.socket, Path::new("/run/k"));
        assert_eq!((options.parent_fd, options.linger), (Some(0), true));
        for wrong in [
            "",
            "--socket",
            "--socket k --parent-fd -1",
            "--socket k --speed 3",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
