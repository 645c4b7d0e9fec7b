//! What each request of `serve` does.

use std::{io, ops::Bound, os::fd::OwnedFd};

use super::{
    cgroups::Leaf,
    descriptors, network,
    peer::Packet,
    protocol::{Launch, NAME_MAX, Reply, Request, SOCKETS_INSIDE_MAX, decode_json},
    reactor::Reactor,
    table::Record,
};
use crate::runtime::{HostReport, Verb, WorkloadId};

/// Most descriptors held by name.
const HELD_MAX: usize = 16_384;

/// So many descriptors must be free for a launch: about a dozen for itself, the others for whoever serves next, who could
/// not reach its instances without one.
const LAUNCH_DESCRIPTORS: u64 = 32;
/// Why there is no launch then.
const NO_ROOM: &str = "minimcp keeper has no free descriptor for another program: give it more (LimitNOFILE of its unit, \
                       ulimit -n), or stop instances";

type Answer = (Reply, Vec<OwnedFd>);

fn refused(reason: impl Into<String>) -> Answer {
    let reason = reason.into();
    (Reply::Refused { reason }, Vec::new())
}

fn done(outcome: Result<(), String>) -> Answer {
    match outcome {
        Ok(()) => (Reply::Done, Vec::new()),
        Err(reason) => refused(reason),
    }
}

impl Reactor {
    /// Performs a request; the packet's secrets are wiped before this returns.
    pub(super) fn answer(&mut self, packet: Packet, greeted: bool) -> Answer {
        let request = match decode_json(packet.json()) {
            Ok(request) => request,
            Err(fault) => return refused(fault.to_string()),
        };
        if !greeted && !matches!(request, Request::Hello { .. }) {
            return refused("the first message must be a hello");
        }
        match request {
            Request::Hello {
                members,
                denials,
                freezes,
            } => {
                self.hands_denials = denials;
                if !freezes {
                    self.table.thaw_all();
                }
                if !members {
                    self.table.end_members(self.launcher.namespaces);
                }
                let pid = std::process::id();
                let host = HostReport {
                    program_replaced: self.sources.origin.is_replaced(),
                    ..self.host.clone()
                };
                (Reply::Welcome { pid, host }, Vec::new())
            }
            Request::Launch(launch) => self.launch(&launch, packet),
            Request::Perform {
                id,
                verb: Verb::Freeze,
            } => done(self.table.freeze(id)),
            Request::Perform {
                id,
                verb: Verb::Reclaim,
            } => done(self.reclaim(id)),
            Request::Perform { id, verb } => {
                self.table.perform(id, verb, self.launcher.namespaces);
                (Reply::Done, Vec::new())
            }
            Request::NextWorkload { after } => self.next_workload(after),
            Request::Hold { name } => self.hold(name, packet.descriptors),
            Request::NextHeld { after } => self.next_held(after),
            Request::SocketsInside { id, count } => self.sockets_inside(id, count),
            // Where it succeeds, the new program answers.
            Request::Upgrade => refused(self.upgrade()),
            Request::EndForeign { cgroup, process } => done(self.end_foreign(&cgroup, process)),
            Request::RemoveCgroup { cgroup } => done(self.remove_cgroup(&cgroup)),
            Request::DropHeld { name } => {
                self.table.descriptors.remove(&name);
                (Reply::Done, Vec::new())
            }
        }
    }

    fn launch(&mut self, launch: &Launch, packet: Packet) -> Answer {
        if self.table.workloads.contains_key(&launch.id) {
            return refused(format!("{} is already held", launch.id));
        }
        if descriptors::run_out(LAUNCH_DESCRIPTORS) {
            let reason = NO_ROOM.to_owned();
            return (Reply::NotStarted { reason }, Vec::new());
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        let secrets_at = packet.body_at + packet.header.json_len;
        let started = self.launcher.launch(
            serial,
            launch,
            packet.buffer,
            secrets_at,
            &packet.descriptors,
        );
        let launched = match started {
            Ok(launched) => launched,
            Err(reason) => return (Reply::NotStarted { reason }, Vec::new()),
        };
        let pid = launched.server;
        let pipes = [&launched.stdin, &launched.stdout, &launched.stderr];
        let caught = launched.sockets.get(1..).unwrap_or_default();
        let denials = launched.denials.as_ref().filter(|_| self.hands_denials);
        let has_denials = denials.is_some();
        let all = pipes
            .into_iter()
            .chain(caught)
            .chain([&launched.pidfd])
            .chain(denials);
        let copies: io::Result<Vec<OwnedFd>> = all.map(OwnedFd::try_clone).collect();
        let caught = launched.sockets.len().checked_sub(1);
        let watched = self.watch(&launched.pidfd, serial);
        let isolation = launched.isolation.clone();
        self.table.insert(launch.id, serial, launched);
        match (copies, watched) {
            (Ok(copies), Ok(())) => {
                let reply = Reply::Launched {
                    pid,
                    isolation,
                    caught,
                    pidfd: true,
                    denials: has_denials,
                };
                (reply, copies)
            }
            _ => {
                // Out of descriptors or memory: a child that cannot be watched must not live.
                let leaf = self.table.abandon(launch.id, self.launcher.namespaces);
                self.launcher.remove(leaf);
                let reason = "the keeper has no descriptor left to hold it".into();
                (Reply::NotStarted { reason }, Vec::new())
            }
        }
    }

    fn next_workload(&self, after: Option<WorkloadId>) -> Answer {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut behind = self.table.workloads.range((from, Bound::Unbounded));
        let Some((id, record)) = behind.find(|(_, record)| !record.forgotten) else {
            return (Reply::End, Vec::new());
        };
        let Record {
            stdin,
            stdout,
            stderr,
            pidfd,
            sockets,
            denials,
            leaf,
            ..
        } = record;
        let denials = denials.as_ref().filter(|_| self.hands_denials);
        let caught = sockets.get(1..).unwrap_or_default();
        let open = stdin.iter().chain([stdout, stderr]).chain(caught);
        let open = open.chain(pidfd).chain(denials);
        let copies: io::Result<Vec<OwnedFd>> = open.map(OwnedFd::try_clone).collect();
        let Ok(copies) = copies else {
            return refused("no descriptor left");
        };
        let reply = Reply::Workload {
            id: *id,
            pid: record.server,
            isolation: record.isolation.clone(),
            stdin: stdin.is_some(),
            caught: sockets.len().checked_sub(1),
            exit: record.exit.clone(),
            pidfd: pidfd.is_some(),
            denials: denials.is_some(),
            frozen: leaf.as_ref().is_some_and(Leaf::is_frozen),
        };
        (reply, copies)
    }

    fn sockets_inside(&self, id: WorkloadId, count: u8) -> Answer {
        if !(1..=SOCKETS_INSIDE_MAX).contains(&count) {
            return refused(format!(
                "1 to {SOCKETS_INSIDE_MAX} sockets are made at once"
            ));
        }
        let record = self.table.workloads.get(&id);
        let Some(inside) = record.and_then(|record| record.sockets.first()) else {
            return refused(format!("{id} has no network namespace of its own"));
        };
        match network::sockets_inside(inside, usize::from(count)) {
            Ok(sockets) => (Reply::Done, sockets),
            Err(errno) => refused(format!("its network cannot be entered: {}", errno.desc())),
        }
    }

    fn hold(&mut self, name: String, mut descriptors: Vec<OwnedFd>) -> Answer {
        if name.is_empty() || name.len() > NAME_MAX {
            return refused(format!("a name has 1 to {NAME_MAX} bytes"));
        }
        let held = &mut self.table.descriptors;
        if held.len() >= HELD_MAX && !held.contains_key(&name) {
            return refused(format!("{HELD_MAX} descriptors are held already"));
        }
        match (descriptors.pop(), descriptors.is_empty()) {
            (Some(descriptor), true) => {
                held.insert(name, descriptors::held(descriptor));
                (Reply::Done, Vec::new())
            }
            _ => refused("exactly one descriptor is held under a name"),
        }
    }

    fn next_held(&self, after: Option<String>) -> Answer {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut behind = self
            .table
            .descriptors
            .range::<String, _>((from, Bound::Unbounded));
        let Some((name, descriptor)) = behind.next() else {
            return (Reply::End, Vec::new());
        };
        match descriptor.try_clone() {
            Ok(copy) => (Reply::Held { name: name.clone() }, vec![copy]),
            Err(_) => refused("no descriptor left"),
        }
    }
}
