//! The keeper holds some seven descriptors for each child that lives, and a child that is started gets none of them. A fork
//! that copied them all, for the copy to close them, took longer the more children there were; so a fork takes only the
//! few that it is to have ([`super::clone::fork_with`]), and what is held for long has high numbers, for these few to be
//! among the first.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};

use super::{init::close_all_but, launch::LAUNCH_TIMEOUT_MS};
use crate::runtime::host;

/// What is held for long has numbers from here on: enough are left below for what we always have, for namespaces made
/// ahead, and for one launch. The kernel copies tables in steps of 64.
const HELD_FROM: RawFd = 64;

/// Gives a descriptor that will be held for long a high number.
pub(super) fn held(descriptor: OwnedFd) -> OwnedFd {
    if descriptor.as_raw_fd() >= HELD_FROM {
        return descriptor;
    }
    // There is none left: it only costs time.
    duplicate(&descriptor).unwrap_or(descriptor)
}

/// Whether fewer than `reserve` descriptors are free for what is held, as [`host::descriptors_run_out`] tells it: what is
/// free below is for one launch.
pub(super) fn run_out(reserve: u64) -> bool {
    if host::descriptors_max() <= HELD_FROM.unsigned_abs().into() {
        return host::descriptors_run_out(reserve);
    }
    duplicate(&std::io::stdin()).map_or(true, |free| {
        u64::from(free.as_raw_fd().unsigned_abs()) + reserve >= host::descriptors_max()
    })
}

/// A duplicate with the lowest free number of those for what is held.
fn duplicate(descriptor: &impl AsFd) -> nix::Result<OwnedFd> {
    let free = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(HELD_FROM))?;
    // SAFETY: fcntl has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(free) })
}

/// What a child is to have of our descriptors, made ready before the fork: the child then allocates nothing.
pub(super) struct Kept {
    descriptors: Vec<RawFd>,
    /// By which the child tells that it shares our table no longer.
    given: EventFd,
}

impl Kept {
    pub(super) fn new(keep: &[RawFd]) -> nix::Result<Self> {
        let given = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        let tells = given.as_fd().as_raw_fd();
        let descriptors = keep.iter().copied().chain([tells]).collect();
        Ok(Self { descriptors, given })
    }

    /// Waits until the child has a table of its own.
    pub(super) fn wait(&self, child: &OwnedFd) -> Result<(), Errno> {
        loop {
            let mut either = [
                PollFd::new(self.given.as_fd(), PollFlags::POLLIN),
                PollFd::new(child.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut either, PollTimeout::from(LAUNCH_TIMEOUT_MS)) {
                Ok(0) => return Err(Errno::ETIMEDOUT),
                Ok(_) if either[0].any() == Some(true) => return Ok(()),
                Ok(_) => return Err(Errno::ECHILD),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// In a child that shares its parent's table: gets one of its own, with nothing else, and tells the parent.
    pub(super) fn take(mut self) -> Result<(), Errno> {
        let highest = self.descriptors.iter().copied().max().unwrap_or(0);
        // SAFETY: takes integers; what is closed is closed in a copy that this process alone has.
        let unshared = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                highest.cast_unsigned() + 1,
                u32::MAX,
                libc::CLOSE_RANGE_UNSHARE,
            )
        };
        if unshared != 0 {
            // A host that forbids it: all are copied.
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES)?;
        }
        close_all_but(&mut self.descriptors);
        self.given.write(1)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read};

    use super::*;
    use crate::runtime::keeper::clone::{Forked, Namespaces, fork_with};

    /// Ends with the number of descriptors that the child of a fork with `keep` has, its standard ones counted.
    fn count_in_child(keep: &[RawFd]) -> i32 {
        let forked = fork_with(Namespaces::NONE, None, keep).expect("a fork");
        let Forked::Parent { pid, .. } = forked else {
            // Neither allocates nor takes a lock, which another thread of the test could hold.
            let count = (0..4_096)
                // SAFETY: asks for flags.
                .filter(|raw| unsafe { libc::fcntl(*raw, libc::F_GETFD) } >= 0)
                .count();
            super::super::init::exit(count as i32)
        };
        match nix::sys::wait::waitpid(pid, None).expect("a child") {
            nix::sys::wait::WaitStatus::Exited(_, code) => code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_fork_takes_what_it_is_to_have_and_leaves_us_the_rest() {
        let files: Vec<fs::File> = (0..200)
            .map(|_| fs::File::open("/dev/zero").expect("a device"))
            .collect();
        let raw = |at: usize| files[at].as_raw_fd();
        assert_eq!(count_in_child(&[]), 0);
        assert_eq!(count_in_child(&[raw(3), raw(150), raw(77)]), 3);
        for mut file in files {
            let mut byte = [1];
            file.read_exact(&mut byte).expect("it is still open here");
            assert_eq!(byte, [0]);
        }
    }

    #[test]
    fn what_is_held_has_a_high_number_and_is_the_same() {
        let (reads, writes) = nix::unistd::pipe().expect("descriptors");
        let (reads, writes) = (held(reads), held(writes));
        assert!(reads.as_raw_fd() >= HELD_FROM && writes.as_raw_fd() >= HELD_FROM);
        nix::unistd::write(&writes, b"x").expect("room");
        let again = reads.as_raw_fd();
        let reads = held(reads);
        assert_eq!(reads.as_raw_fd(), again);
        assert_eq!(nix::unistd::read(&reads, &mut [0; 2]), Ok(1));
    }
}
