//! The keeper's loop: one thread, one epoll, nothing that waits for `serve`.

use std::{
    ffi::CString,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        signalfd::SignalFd,
        socket::{SockFlag, accept4},
    },
    unistd::{Pid, pipe2, read},
};

use super::{
    cgroups::Cgroups,
    handover::Origin,
    launch::Launcher,
    peer::{Incoming, Peer},
    progress::StatusRecord,
    protocol::{Event, Kind, Malformed, Reply, encode},
    table::Table,
    watch::for_each_child,
};
use crate::{
    domain::sandbox::Layer,
    runtime::{HostReport, WorkloadId},
};

const LISTENER: u64 = 0;
const PEER: u64 = 1;
const SIGNALS: u64 = 2;
const LIFELINE: u64 = 3;
const STATUS: u64 = 4;
/// Whoever makes namespaces ahead has ended.
const SPARE: u64 = 5;
/// Whoever takes pages back has ended.
const RECLAIM: u64 = 6;
/// Workloads are numbered from here on.
const FIRST_SERIAL: u64 = 16;
/// Longest wait for the killed to be gone at our own end, in milliseconds.
const FAREWELL_MS: u16 = 10_000;

/// What the loop listens to.
pub(super) struct Sources {
    /// Where `serve` connects.
    pub(super) listener: OwnedFd,
    /// SIGTERM, SIGINT, SIGCHLD.
    pub(super) signals: SignalFd,
    /// When its other end closes, we end; `None`: never.
    pub(super) lifeline: Option<OwnedFd>,
    /// What an upgrade needs.
    pub(super) origin: Origin,
}

/// The keeper at work.
pub(super) struct Reactor {
    epoll: Epoll,
    pub(super) sources: Sources,
    /// Read end of the status pipe.
    pub(super) status: OwnedFd,
    pub(super) launcher: Launcher,
    pub(super) table: Table,
    pub(super) host: HostReport,
    pub(super) next_serial: u64,
    /// The `serve` that is connected takes pages of refused system calls.
    pub(super) hands_denials: bool,
    pub(super) peer: Option<Peer>,
    /// Since when there was no `serve`, as far as that was looked at.
    pub(super) away_since: Option<Instant>,
    /// The number of the request that is being answered.
    pub(super) asked: u64,
    /// What the peer's epoll entry asks for now.
    interest: EpollFlags,
}

impl Reactor {
    /// Probes the host and sets the loop up.
    pub(super) fn new(sources: Sources, without: &[Layer], socket: &Path) -> nix::Result<Self> {
        let (status, status_write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        nix::fcntl::fcntl(
            &status,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )?;
        Self::with(sources, without, socket, (status, status_write), None)
    }

    /// The same over a status pipe that is there already; `claimed`: as for [`Launcher::new`].
    pub(super) fn with(
        sources: Sources,
        without: &[Layer],
        socket: &Path,
        (status, status_write): (OwnedFd, OwnedFd),
        claimed: Option<Result<PathBuf, String>>,
    ) -> nix::Result<Self> {
        let socket = std::path::absolute(socket).map_err(|_| Errno::EINVAL)?;
        let socket = CString::new(socket.into_os_string().into_vec()).map_err(|_| Errno::EINVAL)?;
        let launcher = Launcher::new(status_write, without, socket, claimed);
        if !launcher.namespaces.pid {
            // Orphans of an init that was killed by a stranger come to us, to be killed.
            nix::sys::prctl::set_child_subreaper(true)?;
        }
        let (open_files_max, _) =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
        let cgroups = launcher.cgroups.as_ref();
        let can_reclaim = cgroups.and_then(Cgroups::reclaim).is_ok();
        let host = HostReport {
            isolation: launcher.isolation(),
            open_files_max,
            members: true,
            gates: true,
            credential_files: true,
            file_arguments: true,
            freezes: launcher.cgroups.is_ok(),
            reclaims: can_reclaim,
            ..HostReport::default()
        };
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let readable = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        epoll.add(&sources.listener, readable(LISTENER))?;
        epoll.add(&sources.signals, readable(SIGNALS))?;
        epoll.add(&status, readable(STATUS))?;
        if let Some(lifeline) = &sources.lifeline {
            epoll.add(lifeline, readable(LIFELINE))?;
        }
        Ok(Self {
            epoll,
            sources,
            status,
            launcher,
            table: Table::default(),
            host,
            next_serial: FIRST_SERIAL,
            hands_denials: false,
            peer: None,
            away_since: None,
            asked: 0,
            interest: EpollFlags::empty(),
        })
    }

    /// Serves until told to end; then everything is killed.
    pub(super) fn run(mut self) -> nix::Result<()> {
        loop {
            let now = Instant::now();
            let held = self.look_after_the_held(now);
            let turn = self.turn(sooner(held, self.launcher.spares.wait(now)))?;
            if turn.is_over {
                break;
            }
            if turn.is_idle {
                self.make_spare();
            }
            self.launcher.sweep();
            self.reclaim_next();
            self.tell();
        }
        self.launcher.spares.clear();
        self.table.kill_all(self.launcher.namespaces);
        self.table.reclaims.stop();
        while self.table.any_alive() {
            if self.turn(EpollTimeout::from(FAREWELL_MS))?.is_idle {
                break;
            }
        }
        Ok(())
    }

    fn turn(&mut self, timeout: EpollTimeout) -> nix::Result<Turn> {
        let mut events = [EpollEvent::empty(); 64];
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 1,
            Err(errno) => return Err(errno),
        };
        let mut turn = Turn {
            is_over: false,
            is_idle: count == 0,
        };
        for event in events.iter().take(count).filter(|e| !e.events().is_empty()) {
            match event.data() {
                LISTENER => self.accept(),
                PEER => self.hear(event.events()),
                SIGNALS => turn.is_over |= self.on_signals(),
                LIFELINE => turn.is_over |= self.lifeline_is_cut(),
                STATUS => self.read_statuses(),
                SPARE => {
                    if let Some(pidfd) = self.launcher.spares.made() {
                        let _ = self.epoll.delete(&pidfd);
                    }
                }
                RECLAIM => self.reclaimed(),
                serial => {
                    // What its init wrote came before its end.
                    self.read_statuses();
                    if let Some((pidfd, leaf)) = self.table.ended(serial) {
                        self.launcher.remove(leaf);
                        // Closing it is not enough: `serve` holds a duplicate, and with it our entry would live on.
                        let _ = self.epoll.delete(&pidfd);
                    }
                }
            }
        }
        Ok(turn)
    }

    /// Lets epoll tell when the init of a new workload ends.
    pub(super) fn watch(&self, pidfd: &OwnedFd, serial: u64) -> nix::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, serial);
        self.epoll.add(pidfd, event)
    }

    /// Nobody waits for us: something can be made for the next launch.
    fn make_spare(&mut self) {
        let status = self.launcher.status.as_raw_fd();
        if let Some(pidfd) = self.launcher.spares.make(status) {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, SPARE);
            if self.epoll.add(pidfd, event).is_err() {
                self.launcher.spares.clear();
            }
        }
    }

    /// Takes pages back from a child once it has its turn, if it still holds still then.
    pub(super) fn reclaim(&mut self, id: WorkloadId) -> Result<(), String> {
        let cgroups = self.launcher.cgroups.as_ref();
        cgroups.and_then(Cgroups::reclaim).map_err(Clone::clone)?;
        self.table.reclaims.ask(id);
        Ok(())
    }

    fn reclaim_next(&mut self) {
        let cgroups = self.launcher.cgroups.as_ref();
        let Ok(means) = cgroups.and_then(Cgroups::reclaim) else {
            return;
        };
        if let Some(pidfd) = self.table.reclaim_next(means) {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, RECLAIM);
            if self.epoll.add(pidfd, event).is_err() {
                self.table.reclaims.stop();
            }
        }
    }

    fn reclaimed(&mut self) {
        if let Some(pidfd) = self.table.reclaims.ended() {
            let _ = self.epoll.delete(&pidfd);
        }
    }

    fn accept(&mut self) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let Ok(raw) = accept4(self.sources.listener.as_raw_fd(), flags) else {
            return;
        };
        // SAFETY: accept4 has just made this descriptor for us.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        let refusal = if self.peer.as_ref().is_some_and(Peer::is_alive) {
            "another serve is connected to this keeper".to_owned()
        } else {
            match Peer::check(&socket) {
                Ok(()) => return self.welcome(Peer::new(socket)),
                Err(refusal) => refusal,
            }
        };
        let packet = encode(Kind::Reply, 0, &Reply::Refused { reason: refusal });
        // Whoever does not read it will see the closed socket.
        let _ = crate::runtime::channel::send(socket.as_fd(), &[&packet], &[]);
    }

    pub(super) fn welcome(&mut self, peer: Peer) {
        self.hang_up();
        self.interest = EpollFlags::EPOLLIN;
        let event = EpollEvent::new(self.interest, PEER);
        if self.epoll.add(&peer.socket, event).is_ok() {
            self.peer = Some(peer);
        }
    }

    fn hang_up(&mut self) {
        if let Some(peer) = self.peer.take() {
            let _ = self.epoll.delete(&peer.socket);
        }
    }

    fn hear(&mut self, events: EpollFlags) {
        let Some(peer) = &self.peer else { return };
        if !events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            return;
        }
        match peer.read() {
            Incoming::Nothing => {}
            Incoming::Closed => self.hang_up(),
            Incoming::Packet(packet) => {
                let request = packet.header.request;
                let greeted = peer.greeted;
                self.asked = request;
                let (reply, descriptors) = self.answer(packet, greeted);
                if let Some(peer) = &mut self.peer {
                    peer.greeted |= matches!(reply, Reply::Welcome { .. });
                    peer.answer(request, &reply, descriptors);
                }
            }
            Incoming::Malformed(request, fault) => {
                let reason = fault.to_string();
                if let Some(peer) = &mut self.peer {
                    peer.answer(request, &Reply::Refused { reason }, Vec::new());
                    // With another version, or a stranger, there is nothing more to talk about.
                    if matches!(fault, Malformed::Version { .. } | Malformed::NotOurs) {
                        let _ = peer.flush();
                        self.hang_up();
                    }
                }
            }
        }
    }

    /// Sends what waits, then the ends that `serve` was not told of, and sets what epoll asks for.
    pub(super) fn tell(&mut self) {
        let Some(peer) = &mut self.peer else { return };
        let mut broken = peer.flush().is_err();
        while peer.greeted && !broken && !peer.has_backlog() {
            let Some(id) = self.table.untold.first().copied() else {
                break;
            };
            let record = self.table.workloads.get(&id);
            if let Some(report) = record.and_then(|record| record.exit.clone()) {
                let packet = encode(Kind::Event, 0, &Event::Exited { id, report });
                match peer.try_send(&packet) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(_) => broken = true,
                }
            }
            if !broken {
                self.table.untold.remove(&id);
            }
        }
        let bytes = self.table.reclaims.untold_bytes;
        if peer.greeted && !broken && bytes > 0 && !peer.has_backlog() {
            match peer.try_send(&encode(Kind::Event, 0, &Event::Reclaimed { bytes })) {
                Ok(true) => self.table.reclaims.untold_bytes = 0,
                Ok(false) => {}
                Err(_) => broken = true,
            }
        }
        if broken {
            return self.hang_up();
        }
        let untold = !self.table.untold.is_empty() || self.table.reclaims.untold_bytes > 0;
        let mut wanted = EpollFlags::empty();
        wanted.set(EpollFlags::EPOLLIN, peer.has_room());
        let waits = peer.has_backlog() || (peer.greeted && untold);
        wanted.set(EpollFlags::EPOLLOUT, waits);
        if wanted != self.interest {
            let mut event = EpollEvent::new(wanted, PEER);
            if self.epoll.modify(&peer.socket, &mut event).is_ok() {
                self.interest = wanted;
            }
        }
    }

    /// `true` when one of them means the end.
    fn on_signals(&mut self) -> bool {
        let mut is_over = false;
        while let Ok(Some(signal)) = self.sources.signals.read_signal() {
            match i32::try_from(signal.ssi_signo) {
                Ok(libc::SIGCHLD) => self.kill_orphans(),
                _ => is_over = true,
            }
        }
        is_over
    }

    /// Without pid namespaces: children of ours that are no init lost theirs.
    fn kill_orphans(&self) {
        if self.launcher.namespaces.pid {
            return;
        }
        for_each_child(|pid| {
            let pid = Pid::from_raw(pid);
            if !self.table.is_init(pid) && !self.table.reclaims.is_worker(pid) {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                let flags = nix::sys::wait::WaitPidFlag::WNOHANG;
                let _ = nix::sys::wait::waitpid(pid, Some(flags));
            }
        });
    }

    fn lifeline_is_cut(&self) -> bool {
        let mut byte = [0];
        let lifeline = self.sources.lifeline.as_ref();
        !lifeline.is_some_and(|pipe| matches!(read(pipe, &mut byte), Ok(1..)))
    }

    fn read_statuses(&mut self) {
        let mut bytes = [0; StatusRecord::LEN];
        while let Ok(StatusRecord::LEN) = read(&self.status, &mut bytes) {
            self.table.note_status(StatusRecord::decode(&bytes));
        }
    }
}

/// The shorter of two waits.
fn sooner(timeout: EpollTimeout, other: Option<Duration>) -> EpollTimeout {
    let Some(other) = other else { return timeout };
    // Up to a millisecond more, so that it is over when the loop wakes.
    let other_ms = i32::try_from(other.as_micros().div_ceil(1_000)).unwrap_or(i32::MAX);
    let timeout_ms = i32::from(timeout);
    let least_ms = if timeout_ms < 0 {
        other_ms
    } else {
        timeout_ms.min(other_ms)
    };
    EpollTimeout::try_from(least_ms).unwrap_or(EpollTimeout::MAX)
}

struct Turn {
    is_over: bool,
    is_idle: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_wait_counts_and_none_is_no_limit() {
        let ms = |ms: u16| EpollTimeout::from(ms);
        let wait = |us| Some(Duration::from_micros(us));
        assert_eq!(sooner(EpollTimeout::NONE, None), EpollTimeout::NONE);
        assert_eq!(sooner(EpollTimeout::NONE, wait(19_001)), ms(20));
        assert_eq!(sooner(ms(7), None), ms(7));
        assert_eq!(sooner(ms(7), wait(19_001)), ms(7));
        assert_eq!(sooner(ms(7), wait(0)), EpollTimeout::ZERO);
    }
}
