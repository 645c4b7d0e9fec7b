//! The members of one instance: who is admitted, how many there are, and when all of them end.
//!
//! One task for each instance that ever had members owns the set; each member is owned by a task of its own.

use std::{
    collections::{BTreeMap, VecDeque},
    future::pending,
    sync::{Arc, atomic::Ordering},
};

use tokio::{
    sync::{mpsc, watch},
    task::{Id as TaskId, JoinError, JoinSet},
};

use super::{
    Context,
    actor::Actor,
    boot::end,
    command::Command,
    launch::Child,
    member::{Gate, Member, MemberReply, Signals},
    session_child::{MemberDesk, MemberRefused},
};
use crate::{
    domain::{
        id::{Generation, InstanceId},
        member::{Admission, MemberPolicy, admit},
        state::{InstanceState, StopReason},
    },
    runtime::{RuntimeError, WorkloadId},
    upstream::Upstream,
};

/// Wishes that wait for the task; further ones are refused.
const WISHES_MAX: usize = 64;

/// A member as others see it.
#[derive(Clone)]
pub(super) struct MemberSeen {
    /// Its number.
    pub(super) number: u32,
    /// The launch whose recipe it has.
    pub(super) generation: Generation,
    signals: Signals,
}

impl MemberSeen {
    /// Its host pid, once it was launched.
    pub(super) fn pid(&self) -> Option<u32> {
        let pid = self.signals.pid.load(Ordering::Relaxed);
        (pid > 0).then_some(pid)
    }

    /// The connection to it, while there is one.
    fn upstream(&self) -> Option<Arc<Upstream>> {
        self.signals.upstream.get()?.upgrade()
    }

    /// The keeper does not have it any more.
    pub(super) fn lose(&self) {
        self.signals.lost.cancel();
    }
}

/// All members whose processes are not known to be gone, by number.
pub(super) type Census = Arc<[MemberSeen]>;

/// Number and pid of each.
pub(super) fn listed(census: &Census) -> Vec<(u32, Option<u32>)> {
    let members = census.iter();
    members
        .map(|member| (member.number, member.pid()))
        .collect()
}

/// Calls under way at them, and those that they did not answer in time.
pub(super) fn under_way(census: &Census) -> (usize, u64) {
    let connections = census.iter().filter_map(MemberSeen::upstream);
    connections.fold((0, 0), |(calls, overdue), upstream| {
        (calls + upstream.calls(), overdue + upstream.overdue())
    })
}

/// A member that a former daemon left, with its pipes.
pub(super) struct LeftBehind {
    pub(super) child: Child,
    pub(super) signals: Signals,
}

/// The way to the set, held by the actor. Dropping it ends every member.
pub(super) struct Members {
    gate: watch::Sender<Gate>,
    wishes: mpsc::Sender<MemberReply>,
}

impl Members {
    /// A set that begins with the members of a former daemon.
    pub(super) fn begin_with(actor: &Actor, policy: MemberPolicy, left: Vec<LeftBehind>) -> Self {
        let (gate, watched) = watch::channel(Gate::Paused);
        let (wishes, inbox) = mpsc::channel(WISHES_MAX);
        let mut set = Set {
            context: Arc::clone(&actor.context),
            instance: actor.record.id,
            gate: watched,
            inbox,
            census: actor.census.clone(),
            notes: actor.own_mailbox.clone(),
            next_number: actor.first_member,
            present: BTreeMap::new(),
            waiting: VecDeque::new(),
            tasks: JoinSet::new(),
        };
        for LeftBehind { child, signals } in left {
            let (id, known) = (child.workload.id(), signals.clone());
            let (context, gate) = (Arc::clone(&set.context), set.gate.clone());
            let member = Member::left(context, child, policy, known, gate, set.notes.clone());
            set.enter(id.member, id.generation, signals, member);
        }
        tokio::spawn(set.run());
        Self { gate, wishes }
    }

    /// Sets the gate; `true` when that is another one.
    fn set(&self, gate: Gate) -> bool {
        self.gate.send_if_modified(|present| {
            let same = match (&*present, &gate) {
                (Gate::Open(old), Gate::Open(new)) => Arc::ptr_eq(old, new),
                (Gate::Paused, Gate::Paused) | (Gate::Released, Gate::Released) => true,
                (Gate::Closed(old), Gate::Closed(new)) => old == new,
                _ => false,
            };
            if !same {
                *present = gate;
            }
            !same
        })
    }
}

impl Actor {
    /// Lets the members live, grow or end as the instance's state says.
    pub(super) fn tend_members(&mut self) {
        let gate = match &self.life.state {
            InstanceState::Stopping { reason, .. } | InstanceState::Stopped { reason } => {
                Gate::Closed(*reason)
            }
            InstanceState::Failed { .. } => Gate::Closed(StopReason::Requested),
            _ if self.leaving => Gate::Released,
            InstanceState::Running if self.child.is_some() => match &self.recipe {
                Some(recipe) => Gate::Open(Arc::clone(recipe)),
                None => Gate::Paused,
            },
            InstanceState::Pending
            | InstanceState::Starting
            | InstanceState::Running
            // What its members hold is worth keeping while only the main child is ill.
            | InstanceState::BackingOff { .. } => Gate::Paused,
        };
        if let Gate::Open(recipe) = &gate
            && let Some(members_max) = recipe.template.server.members_max()
        {
            let members = match self.members.take() {
                Some(members) => members,
                None => {
                    let policy = MemberPolicy::from(&*recipe.template);
                    Members::begin_with(self, policy, Vec::new())
                }
            };
            let members = self.members.insert(members);
            let desk = MemberDesk::new(members_max, members.wishes.clone());
            if members.set(gate) {
                self.route.members.store(Some(Arc::new(desk)));
            }
            return;
        }
        if self.life.state == InstanceState::Running {
            // The template changed: new sessions share the main child.
            self.route.members.store(None);
        }
        if let Some(members) = &self.members {
            members.set(gate);
        }
    }

    /// Whether no process of a member is left.
    pub(super) fn members_are_gone(&self) -> bool {
        self.census.borrow().is_empty()
    }
}

/// Resolves when no process of a member is left.
pub(super) async fn all_gone(census: &watch::Sender<Census>) {
    let mut census = census.subscribe();
    // The sender lives as long as the borrow of it.
    if census.wait_for(|census| census.is_empty()).await.is_err() {
        pending().await
    }
}

/// Ends the children that the keeper holds and that are so.
///
/// # Errors
/// The keeper cannot be asked.
pub(super) async fn end_held(
    context: &Context,
    is_so: impl Fn(WorkloadId) -> bool,
) -> Result<(), RuntimeError> {
    for workload in context.runtime.adoptable().await? {
        if is_so(workload.id()) {
            end(&workload).await;
        }
    }
    Ok(())
}

struct Present {
    generation: Generation,
    signals: Signals,
    task: TaskId,
    /// Its own task panicked; the present one ends what it left.
    orphaned: bool,
}

struct Set {
    context: Arc<Context>,
    instance: InstanceId,
    gate: watch::Receiver<Gate>,
    inbox: mpsc::Receiver<MemberReply>,
    census: watch::Sender<Census>,
    notes: mpsc::WeakSender<Command>,
    next_number: u32,
    present: BTreeMap<u32, Present>,
    /// Admitted, and not begun until one that is on its way out is gone.
    waiting: VecDeque<MemberReply>,
    tasks: JoinSet<u32>,
}

impl Set {
    async fn run(mut self) {
        let mut is_owned = true;
        while is_owned || !self.tasks.is_empty() {
            tokio::select! {
                biased;
                Some(done) = self.tasks.join_next_with_id() => {
                    self.remove(done);
                    self.begin_waiting();
                }
                changed = self.gate.changed(), if is_owned => {
                    is_owned = changed.is_ok();
                    self.begin_waiting();
                }
                // The daemon's gateway holds a sender too, so the end of this channel is not ours.
                Some(reply) = self.inbox.recv(), if is_owned => self.admit(reply),
            }
        }
    }

    fn admit(&mut self, reply: MemberReply) {
        let members_max = match &*self.gate.borrow() {
            Gate::Open(recipe) => recipe.template.server.members_max(),
            Gate::Paused | Gate::Released | Gate::Closed(_) => None,
        };
        let Some(members_max) = members_max else {
            drop(reply.send(Err(MemberRefused::Down)));
            return;
        };
        self.waiting.retain(|waiting| !waiting.is_closed());
        let ending = self.present.values();
        let ending = ending
            .filter(|member| member.signals.bond.unwanted.is_cancelled())
            .count();
        match admit(self.present.len(), ending, self.waiting.len(), members_max) {
            Admission::Now => self.begin(reply),
            Admission::WhenOneIsGone => self.waiting.push_back(reply),
            Admission::Refused => drop(reply.send(Err(MemberRefused::Full(members_max)))),
        }
    }

    /// Lets those in whose place is free now; refuses them all when the instance stops.
    fn begin_waiting(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|reply| !reply.is_closed());
        for reply in waiting {
            self.admit(reply);
        }
    }

    fn begin(&mut self, reply: MemberReply) {
        let Gate::Open(recipe) = self.gate.borrow().clone() else {
            return;
        };
        let (number, signals) = (self.next_number, Signals::default());
        self.next_number = self.next_number.wrapping_add(1).max(1);
        let generation = recipe.generation;
        let member = Member::new(
            Arc::clone(&self.context),
            recipe,
            number,
            signals.clone(),
            self.gate.clone(),
            reply,
            self.notes.clone(),
        );
        self.enter(number, generation, signals, member);
    }

    /// Lets a member live.
    fn enter(&mut self, number: u32, generation: Generation, signals: Signals, member: Member) {
        let task = self.tasks.spawn(async move {
            member.run().await;
            number
        });
        let task = task.id();
        let present = Present {
            generation,
            signals,
            task,
            orphaned: false,
        };
        self.present.insert(number, present);
        self.publish();
    }

    fn remove(&mut self, done: Result<(TaskId, u32), JoinError>) {
        let number = match done {
            Ok((_, number)) => Some(number),
            Err(error) => {
                let mut present = self.present.iter();
                let found = present.find(|(_, member)| member.task == error.id());
                let found = found.map(|(number, member)| (*number, member.orphaned));
                tracing::error!(instance = %self.instance, %error, "the task of a session child ended badly");
                match found {
                    Some((number, false)) => return self.end_orphan(number),
                    other => other.map(|(number, _)| number),
                }
            }
        };
        if let Some(member) = number.and_then(|number| self.present.remove(&number)) {
            member.signals.bond.over.cancel();
        }
        self.publish();
    }

    /// The task of a member panicked: its session ends, and its child, which the keeper may still hold, is ended before
    /// its place is free.
    fn end_orphan(&mut self, number: u32) {
        let Some(member) = self.present.get_mut(&number) else {
            return;
        };
        member.signals.bond.unwanted.cancel();
        member.signals.bond.over.cancel();
        let id = WorkloadId {
            member: number,
            ..WorkloadId::main(self.instance, member.generation)
        };
        let (context, notes) = (Arc::clone(&self.context), self.notes.clone());
        let task = self.tasks.spawn(async move {
            if let Err(error) = end_held(&context, |held| held == id).await {
                tracing::error!(%id, %error, "a session child that nobody looks after could not be ended");
            }
            if let Some(actor) = notes.upgrade() {
                let message = format!("session child {number}: its task panicked, and it was ended");
                let told = Command::Note("session-child-exited", message.into());
                // An event less is better than a place that stays taken.
                drop(actor.try_send(told));
            }
            number
        });
        member.task = task.id();
        member.orphaned = true;
    }

    fn publish(&self) {
        let seen = self.present.iter().map(|(number, member)| MemberSeen {
            number: *number,
            generation: member.generation,
            signals: member.signals.clone(),
        });
        self.census.send_replace(seen.collect());
    }
}
