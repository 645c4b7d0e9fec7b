//! Takes pages back from a child that holds still: the kernel writes to swap (or zswap) what can go there, and forgets what it
//! can read again.
//!
//! By `memory.reclaim` of its cgroup (Linux 5.19, `Documentation/admin-guide/cgroup-v2.rst`) where the keeper has the memory
//! controller: it needs no privilege, and reaches what is cached for the child as well as what it has mapped. Else by
//! `MADV_PAGEOUT` of process_madvise(2) (Linux 5.10), which takes CAP_SYS_NICE and leaves alone what others have mapped too.
//!
//! Both can take long. A fork of the keeper does it, one at a time, and is killed when the child is to go on: both calls look
//! for a deadly signal as they go.

use std::{
    collections::VecDeque,
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    sys::{prctl, signal::Signal, wait::waitpid},
    unistd::{Pid, getpid, getppid},
};

use super::{
    cgroups::{Leaf, write},
    clone::{Forked, Namespaces, fork_into, fork_with, pidfd_open, pidfd_signal},
    init::{close_range, exit},
};
use crate::runtime::{WorkloadId, host::page_kib};

/// The file that is written to.
const RECLAIM: &str = "memory.reclaim";
/// Of linux/mman.h.
const MADV_PAGEOUT: libc::c_int = 21;
/// Most processes of one child that are looked at.
const PROCESSES_MAX: usize = 1_024;
/// As nice as can be: whoever computes goes first.
const NICE: libc::c_int = 19;

/// How pages are taken back on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Means {
    /// By its cgroup.
    Cgroup,
    /// Process by process.
    Pages,
}

impl Means {
    /// Finds out what works for children whose cgroups are made in `folder`.
    ///
    /// # Errors
    /// Why nothing does, as the end of a sentence.
    pub(super) fn find(folder: &Path, has_memory: bool) -> Result<Self, String> {
        if has_memory && folder.join(RECLAIM).exists() {
            return Ok(Self::Cgroup);
        }
        let lacks = if has_memory {
            "the kernel has no memory.reclaim (Linux 5.19)"
        } else {
            "the controller memory was not given to the keeper"
        };
        probe().map_err(|cause| format!("{lacks}, and processes refuse it ({cause})"))?;
        Ok(Self::Pages)
    }

    /// As `isolation` of the host has it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Cgroup => "on: by memory.reclaim of its cgroup",
            Self::Pages => "on: by process_madvise, what it has mapped alone",
        }
    }

    /// How many bytes the children of this cgroup hold; 0 where it cannot be read.
    fn held_bytes(self, folder: &Path) -> u64 {
        match self {
            Self::Cgroup => fs::read_to_string(folder.join("memory.current"))
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(0),
            Self::Pages => processes(folder).into_iter().map(resident_bytes).sum(),
        }
    }
}

struct UnderWay {
    id: WorkloadId,
    worker: Pid,
    pidfd: OwnedFd,
    means: Means,
    folder: PathBuf,
    before_bytes: u64,
}

/// Those whose pages are taken back, or will be.
#[derive(Default)]
pub(super) struct Reclaims {
    /// Each at most once.
    waiting: VecDeque<WorkloadId>,
    under_way: Option<UnderWay>,
    /// What was taken back since `serve` was told.
    pub(super) untold_bytes: u64,
}

impl Reclaims {
    /// The child gets its turn.
    pub(super) fn ask(&mut self, id: WorkloadId) {
        if !self.waiting.contains(&id) {
            self.waiting.push_back(id);
        }
    }

    /// The child goes on, or ends: it keeps what it has.
    pub(super) fn give_up(&mut self, id: WorkloadId) {
        self.waiting.retain(|waits| *waits != id);
        if let Some(under_way) = self.under_way.as_ref().filter(|now| now.id == id) {
            let _ = pidfd_signal(&under_way.pidfd, Signal::SIGKILL);
        }
    }

    /// The next that waits, if it is one's turn.
    pub(super) fn next(&mut self) -> Option<WorkloadId> {
        self.under_way
            .is_none()
            .then(|| self.waiting.pop_front())
            .flatten()
    }

    /// Begins with a child; gives what tells the end.
    pub(super) fn begin(&mut self, id: WorkloadId, leaf: &Leaf, means: Means) -> Option<&OwnedFd> {
        let folder = leaf.folder().to_owned();
        let before_bytes = means.held_bytes(&folder);
        let keeper = getpid();
        match fork_with(Namespaces::NONE, None, &[]).ok()? {
            Forked::Child => work(keeper, means, &folder, before_bytes),
            Forked::Parent { pid, pidfd } => {
                let under_way = UnderWay {
                    id,
                    worker: pid,
                    pidfd,
                    means,
                    folder,
                    before_bytes,
                };
                Some(&self.under_way.insert(under_way).pidfd)
            }
        }
    }

    /// The one that was under way is through, or was killed. Gives back what told it.
    pub(super) fn ended(&mut self) -> Option<OwnedFd> {
        let was = self.under_way.take()?;
        let _ = waitpid(was.worker, None);
        let after_bytes = was.means.held_bytes(&was.folder);
        let less = was.before_bytes.saturating_sub(after_bytes);
        self.untold_bytes = self.untold_bytes.saturating_add(less);
        Some(was.pidfd)
    }

    /// Another program goes on as this process, which knows of none of this.
    pub(super) fn stop(&mut self) {
        self.waiting.clear();
        if let Some(was) = self.under_way.take() {
            let _ = pidfd_signal(&was.pidfd, Signal::SIGKILL);
            let _ = waitpid(was.worker, None);
        }
    }

    /// Whether `pid` works for us.
    pub(super) fn is_worker(&self, pid: Pid) -> bool {
        self.under_way.as_ref().is_some_and(|now| now.worker == pid)
    }
}

/// What the fork does.
fn work(keeper: Pid, means: Means, folder: &Path, bytes: u64) -> ! {
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    if getppid() != keeper {
        exit(1);
    }
    let _ = prctl::set_name(c"minimcp-reclaim");
    // The ends of other children's pipes are among them: they must close when the keeper closes its own.
    close_range(3, u32::MAX, 0);
    // SAFETY: three integers.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    match means {
        // EAGAIN: there was not so much.
        Means::Cgroup => drop(write(folder, RECLAIM, &bytes.to_string())),
        Means::Pages => processes(folder).into_iter().for_each(page_out),
    }
    exit(0)
}

/// Those in a cgroup.
fn processes(folder: &Path) -> Vec<u32> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let pids = text.lines().filter_map(|line| line.parse().ok());
    pids.take(PROCESSES_MAX).collect()
}

fn resident_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|word| word.parse().ok());
    pages.unwrap_or(0_u64).saturating_mul(page_kib() * 1_024)
}

/// Takes back what a process has mapped alone. What the kernel refuses of it, stays.
fn page_out(pid: u32) {
    let Ok(Some(pidfd)) = pidfd_open(pid) else {
        return;
    };
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    for range in maps.lines().filter_map(range) {
        let _ = advise(&pidfd, &[range]);
    }
}

/// Of a line of `/proc/PID/maps`; `None` for those that the kernel made itself.
fn range(line: &str) -> Option<libc::iovec> {
    let (bounds, rest) = line.split_once(' ')?;
    if rest.ends_with("[vvar]") || rest.ends_with("[vdso]") || rest.ends_with("[vsyscall]") {
        return None;
    }
    let (from, to) = bounds.split_once('-')?;
    let [from, to] = [from, to].map(|hex| usize::from_str_radix(hex, 16));
    let (from, to) = (from.ok()?, to.ok()?);
    Some(libc::iovec {
        iov_base: std::ptr::without_provenance_mut(from),
        iov_len: to.checked_sub(from)?,
    })
}

fn advise(pidfd: &OwnedFd, ranges: &[libc::iovec]) -> io::Result<()> {
    // SAFETY: the ranges are of another process, or none; the kernel checks them, and moves pages, never what is in them.
    let advised = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            pidfd.as_raw_fd(),
            ranges.as_ptr(),
            ranges.len(),
            MADV_PAGEOUT,
            0,
        )
    };
    if advised < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether another process lets us, tried on a fork: the kernel looks at the right before it looks at the ranges.
fn probe() -> io::Result<()> {
    let keeper = getpid();
    match fork_into(Namespaces::NONE)? {
        Forked::Child => {
            let _ = prctl::set_pdeathsig(Signal::SIGKILL);
            while getppid() == keeper {
                nix::unistd::pause();
            }
            exit(0)
        }
        Forked::Parent { pid, pidfd } => {
            let advised = advise(&pidfd, &[]);
            let _ = pidfd_signal(&pidfd, Signal::SIGKILL);
            let _ = waitpid(pid, None);
            advised
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_of_a_process_are_read_without_the_kernels_own() {
        let found = range("7f00-8000 r-xp 00000000 fe:00 12 /usr/lib/x (deleted)").expect("one");
        assert_eq!((found.iov_base.addr(), found.iov_len), (0x7f00, 0x100));
        for line in [
            "7f00-8000 r--p 0 00:00 0 [vvar]",
            "",
            "x-y r",
            "8000-7f00 r--p 0 00:00 0",
        ] {
            assert!(range(line).is_none(), "{line}");
        }
    }

    #[test]
    fn who_waits_does_so_once_and_gives_up() {
        let [one, two] = [1, 2].map(|member| WorkloadId {
            instance: crate::domain::id::InstanceId(uuid::Uuid::now_v7()),
            generation: crate::domain::id::Generation(1),
            member,
        });
        let mut reclaims = Reclaims::default();
        for id in [one, two, one] {
            reclaims.ask(id);
        }
        reclaims.give_up(one);
        assert_eq!(reclaims.next(), Some(two));
        assert_eq!(reclaims.next(), None);
        assert!(reclaims.ended().is_none());
    }

    #[test]
    fn without_either_means_it_says_why() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(RECLAIM), "").expect("ours");
        assert_eq!(Means::find(folder.path(), true), Ok(Means::Cgroup));
        fs::write(folder.path().join("memory.current"), "4096\n").expect("ours");
        assert_eq!(Means::Cgroup.held_bytes(folder.path()), 4_096);
        assert_eq!(Means::Pages.held_bytes(folder.path()), 0, "nobody is in it");
    }
}
