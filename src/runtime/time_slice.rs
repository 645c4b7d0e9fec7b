//! How long a thread runs before another has its turn (sched_setattr(2), `sched_runtime` of `SCHED_OTHER`, since Linux
//! 6.12). A share of the processor is not touched by it: who has shorter turns has more of them.
//!
//! The kernel lets whoever is woken go first only if its turn is the shorter one. Servers have shorter turns than the
//! daemon that writes to them, so where they share a processor a message is read as soon as it is written, and the daemon
//! is spared a wait. The kernel's own length is between 0.7 ms on one processor and 2.8 ms on eight or more; ours are near.

use std::time::Duration;

use libc::sched_attr;
use nix::errno::Errno;

/// The turns of the daemon, at least.
const DAEMON_MIN: Duration = Duration::from_millis(3);
/// The turns of a server, at most.
const SERVER_MAX: Duration = Duration::from_millis(1);

/// Turns of the daemon's length for this thread, and for those that it starts from now on. Where the kernel has no such
/// thing, or forbids it, all stays as it is.
pub fn take_the_daemons() {
    change(|own| own.max(DAEMON_MIN));
}

/// Turns of a server's length for this process, which goes on as one. Allocates nothing.
pub(super) fn take_a_servers() {
    change(|own| own.min(SERVER_MAX));
}

fn change(length: impl Fn(Duration) -> Duration) {
    let Ok(mut own) = read() else { return };
    // Other policies mean something else by it; older kernels tell none.
    if own.sched_policy != libc::SCHED_OTHER.unsigned_abs() || own.sched_runtime == 0 {
        return;
    }
    let wanted = length(Duration::from_nanos(own.sched_runtime)).as_nanos();
    let Ok(wanted) = u64::try_from(wanted) else {
        return;
    };
    if wanted != own.sched_runtime {
        own.sched_runtime = wanted;
        // It is a matter of microseconds, nothing to refuse a start for.
        let _ = write(&own);
    }
}

fn read() -> Result<sched_attr, Errno> {
    let mut own = sched_attr {
        size: 0,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel writes as much as it is told that there is.
    let read = unsafe {
        libc::syscall(
            libc::SYS_sched_getattr,
            0,
            &raw mut own,
            size_of::<sched_attr>(),
            0,
        )
    };
    Errno::result(read).map(|_| own)
}

fn write(own: &sched_attr) -> Result<(), Errno> {
    // SAFETY: the kernel reads as much as `size` says, which is what it wrote there itself.
    let written = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const *own, 0) };
    Errno::result(written).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Duration {
        Duration::from_nanos(read().expect("every kernel has it").sched_runtime)
    }

    #[test]
    fn turns_change_for_this_thread_and_those_that_it_starts_and_nothing_else_does() {
        // A thread of its own: what is tested stays with it.
        std::thread::spawn(|| {
            let before = read().expect("every kernel has it");
            if before.sched_runtime == 0 {
                return;
            }
            take_the_daemons();
            let inherited = std::thread::spawn(own).join();
            assert!(inherited.is_ok_and(|turn| turn >= DAEMON_MIN));
            take_a_servers();
            assert!(own() <= SERVER_MAX && own() > Duration::ZERO);
            let after = read().expect("every kernel has it");
            assert_eq!(after.sched_policy, before.sched_policy);
            assert_eq!(after.sched_nice, before.sched_nice);
        })
        .join()
        .expect("no panic");
    }
}
