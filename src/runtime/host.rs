//! Calls to the kernel that other rooms need.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg, OFlag},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt,
            socket, sockopt,
        },
    },
    unistd::{SysconfVar, sysconf},
};

use super::keeper::clone;

/// How many connections wait for us to accept them on an access port.
const BACKLOG: i32 = 128;

/// An empty file in memory, without a place in the file system; it is gone with its last descriptor. `name` is only
/// seen in /proc.
///
/// # Errors
/// Those of memfd_create(2).
pub fn memory_file(name: &std::ffi::CStr) -> io::Result<fs::File> {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    Ok(nix::sys::memfd::memfd_create(name, flags)?.into())
}

/// A lock on a file, held until it is dropped or the process ends.
#[derive(Debug)]
pub struct FileLock {
    file: Flock<fs::File>,
    path: PathBuf,
}

impl FileLock {
    /// The descriptor that holds the lock, which belongs to the open file: a duplicate holds it too.
    pub(super) fn file(&self) -> &fs::File {
        &self.file
    }

    /// A lock that this process holds already by this descriptor.
    pub(super) fn again(file: OwnedFd, path: PathBuf) -> io::Result<Self> {
        match Flock::lock(fs::File::from(file), FlockArg::LockExclusiveNonblock) {
            Ok(locked) => Ok(Self { file: locked, path }),
            Err((_, errno)) => Err(errno.into()),
        }
    }

    /// Deletes the file and lets go of it, in the order that keeps a waiting process from locking a file
    /// that is no longer there.
    ///
    /// # Errors
    /// When the file cannot be deleted.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// Why a lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another living process holds it.
    #[error("{0} is locked by another running process")]
    Held(PathBuf),
    /// The file cannot be opened.
    #[error("cannot lock {path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// Takes an exclusive lock on `path` (made with mode 0600 if missing) without waiting. The kernel frees it
/// when the process ends, however it ends.
///
/// # Errors
/// [`LockError`].
pub fn lock_file(path: &Path) -> Result<FileLock, LockError> {
    let failed = |cause: io::Error| LockError::Io {
        path: path.to_owned(),
        cause,
    };
    loop {
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)
            .map_err(failed)?;
        let locked = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => locked,
            Err((_, Errno::EWOULDBLOCK)) => return Err(LockError::Held(path.to_owned())),
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        // Its last owner may have deleted the file between our open and our lock: then lock the new one.
        let ours = locked.metadata().map_err(failed)?;
        if fs::metadata(path).is_ok_and(|there| there.ino() == ours.ino()) {
            return Ok(FileLock {
                file: locked,
                path: path.to_owned(),
            });
        }
    }
}

/// Sends SIGTERM to a process and waits until it is gone (pidfd_open(2): its number cannot come to mean another).
///
/// # Errors
/// When it may not be signalled, or is still there after `timeout`.
pub fn end_process(pid: u32, timeout: std::time::Duration) -> io::Result<()> {
    let Some(pidfd) = clone::pidfd_open(pid)? else {
        return Ok(());
    };
    clone::pidfd_signal(&pidfd, nix::sys::signal::Signal::SIGTERM)?;
    let mut waited = [nix::poll::PollFd::new(
        pidfd.as_fd(),
        nix::poll::PollFlags::POLLIN,
    )];
    let timeout = nix::poll::PollTimeout::try_from(timeout).unwrap_or(nix::poll::PollTimeout::MAX);
    match nix::poll::poll(&mut waited, timeout)? {
        0 => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("process {pid} does not end"),
        )),
        _ => Ok(()),
    }
}

/// Sends SIGKILL to a process that `is_meant`, which is asked when its number cannot come to mean another one any more
/// (pidfd_open(2)). Says whether it was there and meant.
///
/// # Errors
/// When it may not be signalled.
pub fn kill_process_if(pid: u32, is_meant: impl FnOnce() -> bool) -> io::Result<bool> {
    match clone::pidfd_open(pid)? {
        Some(pidfd) if is_meant() => {
            clone::pidfd_signal(&pidfd, nix::sys::signal::Signal::SIGKILL).map(|()| true)
        }
        _ => Ok(false),
    }
}

/// No core dumps and no ptrace or `/proc/PID/mem` by processes of the same user; the limit of open files is
/// raised to the hard limit. To be called first thing, before any secret is read.
///
/// # Errors
/// When the kernel refuses one of the three.
pub fn harden_process() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

/// How many descriptors this process may have open.
#[must_use]
pub fn descriptors_max() -> u64 {
    // It fails for a wrong pointer or an unknown resource only.
    getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)
}

/// Whether fewer than `reserve` descriptors are free, told by the lowest number that is: all below it are taken. Numbers
/// above it may be taken as well, so `false` promises nothing.
#[must_use]
pub fn descriptors_run_out(reserve: u64) -> bool {
    let lowest_free = io::stdin().as_fd().try_clone_to_owned();
    lowest_free.map_or(true, |free| {
        u64::from(free.as_raw_fd().unsigned_abs()) + reserve >= descriptors_max()
    })
}

/// Binds a listening TCP socket, non-blocking and close-on-exec. `SO_REUSEADDR` is set, so that a port with
/// connections in TIME_WAIT can be bound again; `SO_REUSEPORT` never is, since it would let another process
/// of this user take the port over. Port 0 lets the kernel choose.
///
/// # Errors
/// `AddrInUse` when another socket listens there, and whatever else bind(2) says.
pub fn bind_listener(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    let address = SockaddrStorage::from(SocketAddr::new(address, port));
    bind(socket.as_raw_fd(), &address)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket.into())
}

/// A write end whose reader is already gone: writing to it fails with `EPIPE`.
pub(super) fn closed_pipe_end() -> io::Result<OwnedFd> {
    let (_, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    Ok(write)
}

pub(super) fn clock_ticks_per_second() -> u64 {
    sysconf(SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .and_then(|ticks| u64::try_from(ticks).ok())
        .unwrap_or(100)
}

pub(super) fn page_kib() -> u64 {
    sysconf(SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|bytes| u64::try_from(bytes).ok())
        .map_or(4, |bytes| bytes / 1_024)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_lock_is_exclusive_and_free_again_after_drop() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let first = lock_file(&path).expect("nobody holds it");
        assert!(matches!(lock_file(&path), Err(LockError::Held(_))));
        first.remove().expect("the file is there");
        assert!(!path.exists());
        assert!(lock_file(&path).is_ok());
    }

    #[test]
    fn a_port_is_bound_once() {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let first = bind_listener(local, 0).expect("a free port");
        let port = first.local_addr().expect("bound").port();
        let second = bind_listener(local, port).expect_err("it is taken");
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(bind_listener(local, port).is_ok());
    }

    #[test]
    fn nobody_reads_a_closed_pipe_end() {
        let end = closed_pipe_end().expect("a pipe");
        assert_eq!(nix::unistd::write(&end, b"x"), Err(Errno::EPIPE));
    }
}
