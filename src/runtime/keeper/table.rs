//! What the keeper holds: workloads until they are forgotten, and named descriptors.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
};

use nix::unistd::Pid;

use super::{
    cgroups::Leaf,
    clone::Namespaces,
    credential_files::Placed,
    launch::{Launched, kill_tree, send_signal},
    memory_kills::{self, MemoryKills},
    progress::StatusRecord,
    reclaim::{Means, Reclaims},
};
use crate::{
    domain::exit::{ExitStatus, ResourceUsage},
    runtime::{ExitReport, Verb, WorkloadId},
};

/// One child.
pub(super) struct Record {
    /// Names it in epoll and in status records.
    pub(super) serial: u64,
    /// The server's pid on the host.
    pub(super) server: u32,
    /// Its init.
    pub(super) init: Pid,
    /// `None` once the init was reaped.
    pub(super) pidfd: Option<OwnedFd>,
    /// Write end of its stdin, until closed.
    pub(super) stdin: Option<OwnedFd>,
    /// Read end of its stdout.
    pub(super) stdout: OwnedFd,
    /// Read end of its stderr.
    pub(super) stderr: OwnedFd,
    /// Of its network namespace: one that stands for it, the DNS socket, listeners. None once it has ended.
    pub(super) sockets: Vec<OwnedFd>,
    /// Where its refused system calls are counted.
    pub(super) denials: Option<OwnedFd>,
    /// How it ended; its init may still be there, alone.
    pub(super) exit: Option<ExitReport>,
    /// We sent SIGKILL.
    pub(super) killed: bool,
    /// What holds for it, in words.
    pub(super) isolation: BTreeMap<String, String>,
    /// Its credential files, until its end.
    pub(super) credentials: Option<Placed>,
    /// Its cgroup, until its end.
    pub(super) leaf: Option<Leaf>,
    /// To be dropped when it ends.
    pub(super) forgotten: bool,
    /// Where the kernel counts its memory kills.
    pub(super) memory: memory_kills::Count,
    /// What its init wrote.
    pub(super) status: Option<StatusRecord>,
}

/// All that is held.
#[derive(Default)]
pub(super) struct Table {
    /// By key.
    pub(super) workloads: BTreeMap<WorkloadId, Record>,
    by_serial: BTreeMap<u64, WorkloadId>,
    /// Ended, and `serve` was not yet told.
    pub(super) untold: BTreeSet<WorkloadId>,
    /// Named descriptors.
    pub(super) descriptors: BTreeMap<String, OwnedFd>,
    pub(super) memory_kills: MemoryKills,
    pub(super) reclaims: Reclaims,
}

impl Table {
    /// Adds a child that was just launched.
    pub(super) fn insert(&mut self, id: WorkloadId, serial: u64, launched: Launched) {
        let record = Record {
            serial,
            server: launched.server,
            init: launched.init,
            pidfd: Some(launched.pidfd),
            stdin: Some(launched.stdin),
            stdout: launched.stdout,
            stderr: launched.stderr,
            sockets: launched.sockets,
            denials: launched.denials,
            exit: None,
            killed: false,
            isolation: launched.isolation,
            credentials: launched.credentials,
            leaf: launched.leaf,
            forgotten: false,
            memory: launched.memory,
            status: None,
        };
        self.by_serial.insert(serial, id);
        self.workloads.insert(id, record);
    }

    /// Adds a child that was held before this program took over.
    pub(super) fn take_back(&mut self, id: WorkloadId, record: Record) {
        self.by_serial.insert(record.serial, id);
        self.workloads.insert(id, record);
    }

    /// Performs a verb; of a child that is not held, or has ended, there is nothing to do.
    pub(super) fn perform(&mut self, id: WorkloadId, verb: Verb, namespaces: Namespaces) {
        let Some(record) = self.workloads.get_mut(&id) else {
            return;
        };
        // Who is asked to leave must be able to.
        if matches!(verb, Verb::CloseStdin | Verb::Terminate | Verb::Thaw)
            && let Some(leaf) = &record.leaf
        {
            leaf.thaw();
            self.reclaims.give_up(id);
        }
        match (verb, &record.pidfd) {
            (Verb::CloseStdin, _) => record.stdin = None,
            (Verb::Terminate, Some(init)) => send_signal(init, libc::SIGTERM),
            (Verb::KillTree, Some(init)) => {
                record.killed = true;
                self.reclaims.give_up(id);
                if let Some(leaf) = &record.leaf {
                    leaf.kill();
                }
                kill_tree(init, namespaces);
            }
            (Verb::Forget, Some(_)) => {
                record.forgotten = true;
                record.stdin = None;
            }
            (Verb::Forget, None) => {
                self.by_serial.remove(&record.serial);
                self.untold.remove(&id);
                self.workloads.remove(&id);
            }
            (Verb::Terminate | Verb::KillTree, None)
            | (Verb::Freeze | Verb::Thaw | Verb::Reclaim, _) => {}
        }
    }

    /// Lets the processes of a child hold still; of one that has ended there is nothing to do.
    ///
    /// # Errors
    /// Why they go on, in one sentence.
    pub(super) fn freeze(&self, id: WorkloadId) -> Result<(), String> {
        let living = |record: &&Record| record.pidfd.is_some();
        let Some(record) = self.workloads.get(&id).filter(living) else {
            return Ok(());
        };
        let leaf = record.leaf.as_ref();
        leaf.ok_or("it has no cgroup of its own")?.freeze()
    }

    /// Lets all that hold still go on.
    pub(super) fn thaw_all(&mut self) {
        for (id, record) in &self.workloads {
            if let Some(leaf) = record.leaf.as_ref().filter(|leaf| leaf.is_frozen()) {
                leaf.thaw();
                self.reclaims.give_up(*id);
            }
        }
    }

    /// Begins to take pages back from the next that waits for it and still holds still; gives what tells the end.
    pub(super) fn reclaim_next(&mut self, means: Means) -> Option<&OwnedFd> {
        let (id, leaf) = loop {
            let id = self.reclaims.next()?;
            let leaf = self.workloads.get(&id).and_then(|its| its.leaf.as_ref());
            if let Some(leaf) = leaf.filter(|leaf| leaf.is_frozen()) {
                break (id, leaf);
            }
        };
        self.reclaims.begin(id, leaf, means)
    }

    /// Kills and drops a child that was launched in vain, waiting for its end.
    pub(super) fn abandon(&mut self, id: WorkloadId, namespaces: Namespaces) -> Option<Leaf> {
        self.perform(id, Verb::KillTree, namespaces);
        self.perform(id, Verb::Forget, namespaces);
        let record = self.workloads.remove(&id)?;
        self.by_serial.remove(&record.serial);
        let _ = nix::sys::wait::waitpid(record.init, None);
        record.leaf
    }

    /// Kills everything; the ends come by their pidfds.
    pub(super) fn kill_all(&mut self, namespaces: Namespaces) {
        let all: Vec<WorkloadId> = self.workloads.keys().copied().collect();
        for id in all {
            self.perform(id, Verb::KillTree, namespaces);
        }
    }

    /// Kills and drops every member.
    pub(super) fn end_members(&mut self, namespaces: Namespaces) {
        let ids = self.workloads.keys().copied();
        for id in ids.filter(|id| id.member > 0).collect::<Vec<_>>() {
            self.perform(id, Verb::KillTree, namespaces);
            self.perform(id, Verb::Forget, namespaces);
        }
    }

    /// Whether a child still lives.
    pub(super) fn any_alive(&self) -> bool {
        self.workloads.values().any(|record| record.pidfd.is_some())
    }

    /// Whether `pid` is an init of ours that was not reaped.
    pub(super) fn is_init(&self, pid: Pid) -> bool {
        let mut records = self.workloads.values();
        records.any(|record| record.pidfd.is_some() && record.init == pid)
    }

    /// Keeps what an init wrote until its end is seen; where nothing but that init is left, which does nothing any more, the
    /// child has ended: the kernel may take as long as a launch to tear its namespaces down. A serial of a launch that failed
    /// is ignored.
    pub(super) fn note_status(&mut self, status: StatusRecord) {
        let Some(id) = self.by_serial.get(&status.serial).copied() else {
            return;
        };
        if let Some(record) = self.workloads.get_mut(&id) {
            record.status = Some(status);
            if status.alone && record.exit.is_none() {
                self.conclude(id, status);
            }
        }
    }

    /// Notes how a child ended, to be told.
    fn conclude(&mut self, id: WorkloadId, status: StatusRecord) {
        let Some(record) = self.workloads.get_mut(&id) else {
            return;
        };
        record.sockets.clear();
        record.credentials = None;
        record.stdin = None;
        let killed_by_stranger = libc::WIFSIGNALED(status.wait_status)
            && libc::WTERMSIG(status.wait_status) == libc::SIGKILL
            && !record.killed;
        let memory = killed_by_stranger && self.memory_kills.explain(&record.memory);
        record.exit = Some(ExitReport {
            status: exit_status(status.wait_status, memory),
            usage: ResourceUsage {
                user_cpu_ms: status.user_cpu_ms,
                system_cpu_ms: status.system_cpu_ms,
                max_rss_kib: status.max_rss_kib,
            },
        });
        if !record.forgotten {
            self.untold.insert(id);
        }
    }

    /// The init of `serial` has ended, and with it its tree. Reaps it, and hands back the pidfd that is watched and the
    /// cgroup that is empty now.
    pub(super) fn ended(&mut self, serial: u64) -> Option<(OwnedFd, Option<Leaf>)> {
        let id = self.by_serial.get(&serial).copied()?;
        let record = self.workloads.get_mut(&id)?;
        let mut wait_status = 0;
        // SAFETY: rusage is plain integers; wait4 writes only to the two places given.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            let pid = record.init.as_raw();
            if libc::wait4(pid, &raw mut wait_status, libc::WNOHANG, &raw mut usage) == 0 {
                return None;
            }
            usage
        };
        let (pidfd, leaf) = (record.pidfd.take(), record.leaf.take());
        let forgotten = record.forgotten;
        if record.exit.is_none() {
            // An init that was killed wrote nothing: then what the kernel says of the init stands for all.
            let by_init = StatusRecord::new(serial, wait_status, &usage);
            let status = record.status.unwrap_or(by_init);
            self.conclude(id, status);
        }
        if forgotten {
            self.perform(id, Verb::Forget, Namespaces::NONE);
        }
        pidfd.map(|pidfd| (pidfd, leaf))
    }
}

/// Reads a wait4(2) status. `memory`: a SIGKILL came from the kernel, for want of memory.
fn exit_status(wait_status: i32, memory: bool) -> ExitStatus {
    if libc::WIFEXITED(wait_status) {
        let code = libc::WEXITSTATUS(wait_status);
        return ExitStatus::Exited { code };
    }
    match libc::WTERMSIG(wait_status) {
        libc::SIGKILL if memory => ExitStatus::OutOfMemory,
        signal => ExitStatus::Signaled { signal },
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::AsFd,
        process::{Command, Stdio},
    };

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::{
        domain::id::{Generation, InstanceId},
        runtime::keeper::clone::pidfd_open,
    };

    #[test]
    fn wait_statuses_in_words() {
        assert_eq!(exit_status(3 << 8, true), ExitStatus::Exited { code: 3 });
        assert_eq!(exit_status(15, true), ExitStatus::Signaled { signal: 15 });
        assert_eq!(exit_status(9, false), ExitStatus::Signaled { signal: 9 });
        assert_eq!(exit_status(9, true), ExitStatus::OutOfMemory);
    }

    fn child(serial: u64, init: u32) -> Launched {
        let null = || std::fs::File::open("/dev/null").expect("a device").into();
        Launched {
            init: Pid::from_raw(init.cast_signed()),
            pidfd: pidfd_open(init).expect("a call").expect("a process"),
            server: init,
            stdin: null(),
            stdout: null(),
            stderr: null(),
            leaf: None,
            memory: memory_kills::OwnCounter::default().count(),
            isolation: BTreeMap::from([("serial".to_owned(), serial.to_string())]),
            sockets: Vec::new(),
            denials: None,
            credentials: None,
        }
    }

    #[test]
    fn a_child_whose_init_is_alone_has_ended_and_its_init_goes_later() {
        // Stands for the init.
        let mut init = Command::new("cat")
            .stdin(Stdio::piped())
            .spawn()
            .expect("cat");
        let id = WorkloadId::main(InstanceId(uuid::Uuid::now_v7()), Generation(1));
        let mut table = Table::default();
        table.insert(id, 7, child(7, init.id()));
        let killed = StatusRecord {
            serial: 7,
            wait_status: 9,
            user_cpu_ms: 0,
            system_cpu_ms: 0,
            max_rss_kib: 0,
            alone: false,
        };
        table.note_status(killed);
        assert!(table.untold.is_empty(), "others of its tree may live");
        table.note_status(StatusRecord {
            alone: true,
            ..killed
        });
        assert_eq!(table.untold.iter().collect::<Vec<_>>(), [&id]);
        let exit = table.workloads[&id].exit.clone().expect("an end");
        assert_eq!(exit.status, ExitStatus::Signaled { signal: 9 });
        assert!(table.ended(7).is_none() && table.any_alive());
        // `serve` was told, and wants to know no more.
        table.untold.clear();
        table.perform(id, Verb::Forget, Namespaces::NONE);
        assert!(
            table.workloads.contains_key(&id),
            "its init is still to be reaped"
        );
        drop(init.stdin.take());
        let pidfd = pidfd_open(init.id()).expect("a call").expect("a process");
        let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut ended, PollTimeout::from(10_000_u16)), Ok(1));
        assert!(table.ended(7).is_some());
        assert!(table.workloads.is_empty() && table.untold.is_empty());
        assert!(init.wait().is_err(), "it was reaped");
    }
}
