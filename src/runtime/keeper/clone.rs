//! clone3(2): fork without exec, into new namespaces, with a pidfd.

use std::{
    convert::Infallible,
    io,
    num::NonZeroUsize,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap},
    unistd::Pid,
};

use super::descriptors::Kept;

/// The namespaces that a new init gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Namespaces {
    /// A user namespace that maps only our own uid and gid; gives the right to make the others.
    pub(super) user: bool,
    /// A pid namespace: the kernel kills everything in it when the init ends.
    pub(super) pid: bool,
    /// A mount namespace with a /proc that shows only the pid namespace.
    pub(super) mount: bool,
    /// IPC and UTS namespaces.
    pub(super) ipc: bool,
    /// A cgroup namespace.
    pub(super) cgroup: bool,
    /// A network namespace, with nothing but a loopback.
    pub(super) net: bool,
}

impl Namespaces {
    /// Without any: the init is a child subreaper and kills its descendants one by one.
    pub(super) const NONE: Self = Self {
        user: false,
        pid: false,
        mount: false,
        ipc: false,
        cgroup: false,
        net: false,
    };

    fn flags(self) -> libc::c_int {
        let mut flags = 0;
        if self.user {
            flags |= libc::CLONE_NEWUSER;
        }
        if self.pid {
            flags |= libc::CLONE_NEWPID;
        }
        if self.mount {
            flags |= libc::CLONE_NEWNS;
        }
        if self.ipc {
            flags |= libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        }
        if self.cgroup {
            flags |= libc::CLONE_NEWCGROUP;
        }
        if self.net {
            flags |= libc::CLONE_NEWNET;
        }
        flags
    }
}

/// Of linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// At least as long as a page.
const PAGE_BYTES: usize = 1 << 16;

/// Which side of a fork this is.
pub(super) enum Forked {
    /// The new process.
    Child,
    /// The old one.
    Parent {
        /// The new process as the old one sees it.
        pid: Pid,
        /// Stands for it, pid reuse or not; close-on-exec.
        pidfd: OwnedFd,
    },
}

/// Opens a descriptor that stands for a process (pidfd_open(2)); `None` when there is no such process.
pub(in crate::runtime) fn pidfd_open(pid: u32) -> io::Result<Option<OwnedFd>> {
    // SAFETY: takes two integers and touches none of our memory.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if result >= 0 {
        // SAFETY: the kernel has just made this descriptor for us.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(result as libc::c_int) }));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        error => Err(error),
    }
}

/// Sends a signal to the process that `pidfd` stands for (pidfd_send_signal(2)).
pub(in crate::runtime) fn pidfd_signal(
    pidfd: &OwnedFd,
    signal: nix::sys::signal::Signal,
) -> io::Result<()> {
    let null: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: the descriptor is open while borrowed; a null siginfo is allowed and means kill(2)'s.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal as libc::c_int,
            null,
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Forks into `namespaces`. The child gets a copy of everything, shared until written: also of every descriptor, so that
/// whoever holds many uses [`fork_with`].
///
/// To be called only by a process of a single thread: then the child may go on as if nothing had happened,
/// memory allocation included.
pub(super) fn fork_into(namespaces: Namespaces) -> io::Result<Forked> {
    fork_into_cgroup(namespaces, None)
}

/// The same, and into the cgroup whose folder this is (Linux 5.7): nothing of the child is ever elsewhere.
pub(super) fn fork_into_cgroup(
    namespaces: Namespaces,
    cgroup: Option<&OwnedFd>,
) -> io::Result<Forked> {
    fork(arguments_of_child(namespaces, cgroup))
}

/// The same, for a child that has none of our descriptors but `keep`. It costs as many as are numbered below the highest
/// of these and not as many as we hold: the child has our own table first, from which it copies these few.
///
/// # Errors
/// That of the fork, or `ECHILD` when the child ended before it had a table of its own.
pub(super) fn fork_with(
    namespaces: Namespaces,
    cgroup: Option<&OwnedFd>,
    keep: &[RawFd],
) -> io::Result<Forked> {
    let kept = Kept::new(keep)?;
    let mut arguments = arguments_of_child(namespaces, cgroup);
    arguments.flags |= libc::CLONE_FILES as u64;
    match fork(arguments)? {
        Forked::Child => {
            if kept.take().is_err() {
                super::init::exit(1);
            }
            Ok(Forked::Child)
        }
        // Whatever we opened or closed before, it would have, or miss.
        Forked::Parent { pid, pidfd } => match kept.wait(&pidfd) {
            Ok(()) => Ok(Forked::Parent { pid, pidfd }),
            Err(errno) => {
                let _ = pidfd_signal(&pidfd, nix::sys::signal::Signal::SIGKILL);
                let _ = nix::sys::wait::waitpid(pid, None);
                Err(errno.into())
            }
        },
    }
}

fn arguments_of_child(namespaces: Namespaces, cgroup: Option<&OwnedFd>) -> libc::clone_args {
    let cgroup = cgroup.map(AsRawFd::as_raw_fd);
    let flags = match cgroup {
        Some(_) => CLONE_INTO_CGROUP,
        None => 0,
    };
    let mut arguments = arguments(namespaces, flags);
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = cgroup.unwrap_or(0) as u64;
    arguments
}

/// The same into this process's own cgroup, and the new process is a child of our parent, as we are, who hears of its end.
pub(super) fn fork_sibling(namespaces: Namespaces) -> io::Result<Forked> {
    // The signal for its end is ours.
    fork(arguments(namespaces, libc::CLONE_PARENT as u64))
}

fn arguments(namespaces: Namespaces, flags: u64) -> libc::clone_args {
    // SAFETY: clone_args is plain integers, for which zero means "not used".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (namespaces.flags() | libc::CLONE_PIDFD) as u64 | flags;
    arguments
}

fn fork(mut arguments: libc::clone_args) -> io::Result<Forked> {
    let mut pidfd: libc::c_int = -1;
    arguments.pidfd = &raw mut pidfd as u64;
    // SAFETY: without CLONE_VM and without a new stack this is fork(2); the arguments live on our stack, and
    // the caller has one thread only, so no lock can be left held in the child.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match result {
        0 => Ok(Forked::Child),
        pid if pid > 0 => Ok(Forked::Parent {
            pid: Pid::from_raw(pid as libc::pid_t),
            // SAFETY: the kernel has just made this descriptor for us.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The stack of a child that borrows our memory; what it does not touch costs nothing.
const LENT_STACK_BYTES: usize = 1 << 20;

/// Runs `child` in a new process that has our memory until it executes a program or ends, for which we wait (vfork(2)). To
/// copy the memory of a fork, and to give the copy up at once for a program, takes longer than all that a server's process
/// does in between.
///
/// To be called only by a process of a single thread, or for a child that takes no lock. What the child allocates and does
/// not free stays with us.
///
/// # Errors
/// That of the fork; what the child does is not told.
pub(super) fn lend_memory<F: FnOnce() -> Infallible>(child: F) -> io::Result<Pid> {
    extern "C" fn begin<F: FnOnce() -> Infallible>(child: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the caller's own value, which stands still meanwhile; it is taken once.
        let child = unsafe { (*child.cast::<Option<F>>()).take() };
        child.map_or(1, |child| match child() {})
    }
    let len = NonZeroUsize::new(LENT_STACK_BYTES).ok_or(Errno::EINVAL)?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_STACK;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let stack = unsafe { mmap_anonymous(None, len, protection, flags)? };
    let mut child = Some(child);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: `begin` gets a stack of its own, which grows downwards from the end of a mapping of this length; its lowest page is
    // for nothing but to be missed by one that is too deep. `child` lives until the call is over, and so until it is used no more.
    let pid = unsafe {
        let guarded = mprotect(stack, PAGE_BYTES, ProtFlags::PROT_NONE);
        guarded.map(|()| {
            let top = stack.as_ptr().byte_add(LENT_STACK_BYTES);
            Errno::result(libc::clone(begin::<F>, top, flags, (&raw mut child).cast()))
        })
    };
    // SAFETY: mapped above with this length, and its user is gone.
    let _ = unsafe { munmap(stack, LENT_STACK_BYTES) };
    let pid = pid.and_then(|pid| pid);
    pid.map(Pid::from_raw).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{WaitStatus, waitpid};
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_child_has_our_memory_and_is_done_when_we_go_on() {
        let seen = AtomicU32::new(1);
        let pid = lend_memory(|| {
            seen.fetch_add(6, Ordering::Relaxed);
            super::super::init::exit(3)
        });
        assert_eq!(seen.load(Ordering::Relaxed), 7);
        let pid = pid.expect("a fork");
        assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, 3)));
    }
}
