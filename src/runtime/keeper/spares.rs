//! Namespaces that are made ahead of the launch that gets them: making them, with a network and the greater part of a
//! root, is most of the time of a launch, and is the same for every instance.
//!
//! No process waits in them. A fork of the keeper makes them, lays out in them what names no instance, hands their
//! descriptors to the keeper and is gone; so nothing of any instance is ever in them, and with the keeper's descriptors they
//! end, also when it goes on as another program. A launch takes them in the place of new ones, once; its cgroup, its process
//! namespace and all that follows are its own in either case. One that finds none makes its own, by the same code.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::fs::MetadataExt,
    },
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns, unshare},
    sys::{
        prctl,
        signal::Signal,
        socket::{AddressFamily, SockFlag, SockType, socketpair},
        stat::Mode,
        wait::waitpid,
    },
    unistd::{Pid, getegid, geteuid},
};

use super::{
    base_root::{Base, leave_host},
    clone::{Forked, Namespaces, fork_sibling, fork_with},
    descriptors,
    init::{exit, reader_is_gone, write_maps},
    launch::{kill_tree, send_signal},
    layers::Layers,
    network,
    progress::{Stage, report, report_with, send_with},
};
use crate::runtime::channel;

/// So many of one kind are kept ready.
const OF_A_KIND: usize = 2;
/// So many in all.
const IN_ALL: usize = 4;
/// How long after the last launch the next are made: who was launched last is just starting, and a host of two processors
/// has none to spare then.
const QUIET: Duration = Duration::from_millis(10);
/// So many descriptors must be free to make some, and as long it is before that is looked at again when they are not.
const DESCRIPTORS: u64 = 64;
const WITHOUT_ROOM: Duration = Duration::from_secs(5);
/// After so many that could not be made in a row no more are tried.
const FAILURES_MAX: u32 = 3;
/// `PROC_USER_INIT_INO` of linux/proc_ns.h: the number of the host's own user namespace.
const FIRST_USER_NAMESPACE: u64 = 0xEFFF_FFFD;
/// Says when the mounts that the keeper sees have changed (proc_pid_mounts(5)).
const MOUNTS: &str = "/proc/self/mounts";

/// What must be alike for a launch to take them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    namespaces: Namespaces,
    gated: bool,
}

impl Kind {
    /// That of a launch with these layers; `None`: nothing can be made ahead for it.
    pub(super) fn of(layers: &Layers) -> Option<Self> {
        (layers.private_root && layers.namespaces.pid).then(|| Self {
            namespaces: layers.namespaces,
            gated: layers.network.is_gated(),
        })
    }

    /// What is made ahead, in the order in which it is entered: the others belong to the user namespace, and in the mount
    /// namespace `/proc` is covered.
    fn namespaces(self) -> Vec<(CloneFlags, &'static str)> {
        let Namespaces { user, ipc, net, .. } = self.namespaces;
        let all = [
            (user, CloneFlags::CLONE_NEWUSER, "/proc/self/ns/user"),
            (ipc, CloneFlags::CLONE_NEWIPC, "/proc/self/ns/ipc"),
            (ipc, CloneFlags::CLONE_NEWUTS, "/proc/self/ns/uts"),
            (net, CloneFlags::CLONE_NEWNET, "/proc/self/ns/net"),
            (true, CloneFlags::CLONE_NEWNS, "/proc/self/ns/mnt"),
        ];
        let wanted = all.into_iter().filter(|(wanted, ..)| *wanted);
        wanted.map(|(_, flag, path)| (flag, path)).collect()
    }
}

/// The namespaces of one launch to come.
pub(super) struct Spare {
    kind: Kind,
    base: Base,
    namespaces: Vec<(CloneFlags, OwnedFd)>,
    pub(super) made: Made,
}

/// How some were made, as far as a launch into them must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Made {
    /// As [`network::prepare`] found it.
    pub(super) v6: bool,
    /// The host's root is gone from the mount namespace: what is to be shown of it is copied before that is entered.
    pub(super) apart: bool,
}

impl Made {
    fn encode(self) -> u8 {
        u8::from(self.v6) | u8::from(self.apart) << 1
    }

    fn decode(byte: u8) -> Self {
        Self {
            v6: byte & 1 != 0,
            apart: byte & 2 != 0,
        }
    }
}

impl Spare {
    /// What a launch into them still makes by its fork.
    pub(super) fn own(&self) -> Namespaces {
        Namespaces {
            pid: true,
            cgroup: self.kind.namespaces.cgroup,
            ..Namespaces::NONE
        }
    }

    /// Whether there is a user namespace, to be entered before the fork into them.
    pub(super) fn has_user(&self) -> bool {
        self.kind.namespaces.user
    }

    /// Moves this process, which is alone in its thread group, into those of these kinds.
    pub(super) fn enter(&self, flags: CloneFlags) -> Result<(), Errno> {
        let wanted = self.namespaces.iter();
        let mut wanted = wanted.filter(|(flag, _)| flags.contains(*flag));
        wanted.try_for_each(|(flag, namespace)| setns(namespace, *flag))
    }

    /// In the place of the fork that this is: enters the user namespace, in which alone the init's process namespace can be
    /// made, and forks the init. Only the init returns.
    pub(super) fn fork_init(&self, progress: RawFd) {
        let failed = |errno: Errno| {
            report(progress, Stage::Ahead, errno as i32);
            exit(1)
        };
        if let Err(errno) = self.enter(CloneFlags::CLONE_NEWUSER) {
            failed(errno);
        }
        match fork_sibling(self.own()) {
            Ok(Forked::Child) => {}
            Ok(Forked::Parent { pid, pidfd }) => {
                let told = report_with(progress, Stage::Init, pid.as_raw(), &[pidfd.as_raw_fd()]);
                if told.is_err() {
                    // Nobody would know of it.
                    kill_tree(&pidfd, self.own());
                }
                exit(0)
            }
            Err(cause) => failed(Errno::from_raw(cause.raw_os_error().unwrap_or(0))),
        }
    }

    /// To be kept open until all are entered.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.namespaces.iter().map(|(_, fd)| fd.as_raw_fd())
    }
}

/// Some that are just made.
struct Making {
    kind: Kind,
    base: Base,
    pid: Pid,
    pidfd: OwnedFd,
    told: OwnedFd,
    /// What the host has is no longer what they are made from.
    is_stale: bool,
}

/// Those that are ready.
pub(super) struct Spares {
    /// The oldest first.
    ready: Vec<Spare>,
    making: Option<Making>,
    /// What was launched last, and when the next may be made.
    wanted: Option<(Kind, Instant)>,
    failures: u32,
    mounts: Option<File>,
}

impl Spares {
    pub(super) fn new() -> Self {
        Self {
            ready: Vec::new(),
            making: None,
            wanted: None,
            failures: 0,
            mounts: File::open(MOUNTS).ok(),
        }
    }

    /// A launch of this kind has ended. More of the kind are made when it had time to start; where none are left, launches
    /// that come meanwhile do not put that off, or one right after the other would never find any.
    pub(super) fn want(&mut self, kind: Kind, now: Instant) {
        let waits = self.wanted.filter(|_| self.ready.is_empty());
        let waits = waits.filter(|(wanted, due)| *wanted == kind && *due + QUIET > now);
        self.wanted = waits.or(Some((kind, now + QUIET)));
    }

    /// Those for a launch of this kind on a host that has `base` now.
    pub(super) fn take(&mut self, kind: Kind, base: &Base) -> Option<Spare> {
        self.drop_if_mounts_changed();
        let stale = |spare: &Spare| spare.kind == kind && spare.base != *base;
        self.ready.retain(|spare| !stale(spare));
        let at = self.ready.iter().position(|spare| spare.kind == kind)?;
        Some(self.ready.remove(at))
    }

    /// What was taken could not be entered: there will be none any more.
    pub(super) fn give_up(&mut self) {
        self.failures = FAILURES_MAX;
        self.clear();
    }

    /// Ends them all, and whoever makes more.
    pub(super) fn clear(&mut self) {
        self.ready.clear();
        if let Some(making) = self.making.take() {
            send_signal(&making.pidfd, libc::SIGKILL);
            let _ = waitpid(making.pid, None);
        }
    }

    /// How long until some should be made, if nothing else comes; `None`: none are to be made.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let (kind, due) = self.wanted?;
        let there = self.ready.iter().filter(|spare| spare.kind == kind).count();
        let lacks = there < OF_A_KIND && self.making.is_none() && self.failures < FAILURES_MAX;
        lacks.then(|| due.saturating_duration_since(now))
    }

    /// Begins to make some, if that is due. What comes back is to be watched: it tells that [`Self::made`] is to be called.
    pub(super) fn make(&mut self, status: RawFd) -> Option<&OwnedFd> {
        if self.wait(Instant::now()) != Some(Duration::ZERO) {
            return None;
        }
        let (kind, due) = self.wanted.as_mut()?;
        if descriptors::run_out(DESCRIPTORS) {
            *due += WITHOUT_ROOM;
            return None;
        }
        let kind = *kind;
        self.drop_if_mounts_changed();
        match begin(kind, status) {
            Ok(making) => Some(&self.making.insert(making).pidfd),
            Err(_) => {
                self.failures += 1;
                None
            }
        }
    }

    /// Whoever made some has ended. What was watched comes back.
    pub(super) fn made(&mut self) -> Option<OwnedFd> {
        let Making {
            kind,
            base,
            pid,
            pidfd,
            told,
            is_stale,
        } = self.making.take()?;
        let _ = waitpid(pid, None);
        let mut byte = [0];
        let flags = kind.namespaces();
        match channel::receive(told.as_fd(), &mut byte) {
            Ok(received) if received.descriptors.len() == flags.len() => {
                self.failures = 0;
                if !is_stale {
                    let flags = flags.into_iter().map(|(flag, _)| flag);
                    self.ready.push(Spare {
                        kind,
                        base,
                        namespaces: flags.zip(received.descriptors).collect(),
                        made: Made::decode(byte[0]),
                    });
                }
            }
            _ => self.failures += 1,
        }
        if self.ready.len() > IN_ALL {
            self.ready.remove(0);
        }
        Some(pidfd)
    }

    /// Those that show mounts as they no longer are.
    fn drop_if_mounts_changed(&mut self) {
        let Some(mounts) = &self.mounts else { return };
        let mut changes = [PollFd::new(mounts.as_fd(), PollFlags::POLLPRI)];
        // One that changed is told once.
        if poll(&mut changes, PollTimeout::ZERO) != Ok(0) {
            self.ready.clear();
            if let Some(making) = &mut self.making {
                making.is_stale = true;
            }
        }
    }
}

fn begin(kind: Kind, status: RawFd) -> io::Result<Making> {
    let base = Base::look(kind.gated);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (told, tells) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    let keep = [tells.as_raw_fd(), status];
    let Forked::Parent { pid, pidfd } = fork_with(Namespaces::NONE, None, &keep)? else {
        exit(i32::from(
            make_and_tell(kind, &base, tells.as_raw_fd(), status).is_err(),
        ))
    };
    Ok(Making {
        kind,
        base,
        pid,
        pidfd,
        told,
        is_stale: false,
    })
}

/// The whole life of the fork that makes some.
fn make_and_tell(kind: Kind, base: &Base, tells: RawFd, status: RawFd) -> Result<(), Errno> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if reader_is_gone(status) {
        return Err(Errno::EPIPE);
    }
    if kind.namespaces.user {
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        unshare(CloneFlags::CLONE_NEWUSER)?;
        write_maps(uid, gid)?;
    }
    let all = kind.namespaces();
    let others = all.iter().map(|(flag, _)| *flag);
    let others = others.filter(|flag| *flag != CloneFlags::CLONE_NEWUSER);
    unshare(others.fold(CloneFlags::empty(), CloneFlags::union))?;
    // While there is a /proc.
    let opened = |(flag, path): &(CloneFlags, &str)| {
        let opened = open(*path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok((*flag, opened))
    };
    let namespaces: Result<Vec<_>, Errno> = all.iter().map(opened).collect();
    let namespaces = namespaces?;
    let v6 = kind.namespaces.net && network::prepare(kind.gated)?;
    // While there is a /proc.
    let apart = !kind.namespaces.user && is_first_user_namespace();
    base.lay_out()?;
    if apart {
        leave_host()?;
    }
    // A host that allows to make them may forbid to enter them. One's own user namespace is never entered again.
    let others = namespaces.iter();
    let mut others = others.filter(|(flag, _)| *flag != CloneFlags::CLONE_NEWUSER);
    others.try_for_each(|(flag, namespace)| setns(namespace, *flag))?;
    let namespaces: Vec<RawFd> = namespaces.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
    send_with(tells, &[Made { v6, apart }.encode()], &namespaces)
}

/// Whether this process is in the host's own user namespace. Only there can files be copied from the host's mount namespace,
/// and a `/proc` be mounted where none is seen.
fn is_first_user_namespace() -> bool {
    fs::metadata("/proc/self/ns/user")
        .is_ok_and(|namespace| namespace.ino() == FIRST_USER_NAMESPACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_are_made_when_the_last_launch_had_its_time_and_not_never() {
        let kind = Kind {
            namespaces: Namespaces {
                pid: true,
                mount: true,
                ..Namespaces::NONE
            },
            gated: false,
        };
        let (mut spares, now) = (Spares::new(), Instant::now());
        assert_eq!(spares.wait(now), None);
        spares.want(kind, now);
        assert_eq!(spares.wait(now), Some(QUIET));
        // There is none for the next launch, so that does not put it off; one after a long time is a new beginning.
        spares.want(kind, now + QUIET / 2);
        assert_eq!(spares.wait(now + QUIET / 2), Some(QUIET / 2));
        spares.want(kind, now + QUIET * 5);
        assert_eq!(spares.wait(now + QUIET * 5), Some(QUIET));
    }

    #[test]
    fn how_some_were_made_reads_back() {
        for (v6, apart) in [(false, false), (true, false), (false, true), (true, true)] {
            let made = Made { v6, apart };
            assert_eq!(Made::decode(made.encode()), made);
        }
    }
}
