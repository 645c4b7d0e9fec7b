//! One member: performs what its life decided, and tells its session when it is over.

use std::{
    future::{Future, pending},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    command::Command,
    launch::{self, Child, Recipe, Turn, Waited},
    seats::HeldCell,
    session_child::{Bond, MemberRefused, SessionChild},
    turns::Asking,
};
use crate::{
    domain::{
        duration::HumanDuration,
        exit::ExitStatus,
        member::{MemberEffect, MemberEnd, MemberEvent, MemberLife, MemberPolicy},
        state::StopReason,
    },
    runtime::{KeeperState, RuntimeError, WorkloadId},
    upstream::{Failure, Upstream, UpstreamError},
};

/// A child that ends closes its stdout a moment before its exit report comes, which tells more.
const BROKEN_GRACE: Duration = Duration::from_millis(250);
/// How long the pipes of an ended child are read on before its end is told.
const DRAIN_LIMIT: Duration = Duration::from_millis(500);
/// A launch keeps its turn no longer than this.
const TURN_LIMIT: Duration = super::effects::TURN_LIMIT;
/// How long an event may wait for a place in the actor's mailbox.
const NOTE_PATIENCE: Duration = Duration::from_secs(5);

/// Whether the members of an instance may live.
#[derive(Clone)]
pub(super) enum Gate {
    /// Yes, and further ones may be launched from this.
    Open(Arc<Recipe>),
    /// Those that live may go on; the main child is not there at the moment.
    Paused,
    /// The daemon ends: those that serve stay for the next one.
    Released,
    /// No: the instance stops.
    Closed(StopReason),
}

/// Where a session waits for its member.
pub(super) type MemberReply = oneshot::Sender<Result<SessionChild, MemberRefused>>;

/// What everyone who knows a member shares.
#[derive(Clone, Default)]
pub(super) struct Signals {
    /// With its session.
    pub(super) bond: Bond,
    /// The keeper does not have it any more.
    pub(super) lost: CancellationToken,
    /// The keeper has launched it, as this pid; 0 before.
    pub(super) pid: Arc<AtomicU32>,
    /// The connection to it, once it was launched.
    pub(super) upstream: Arc<OnceLock<Weak<Upstream>>>,
}

/// One member, owned by its task.
pub(super) struct Member {
    context: Arc<Context>,
    id: WorkloadId,
    session_idle: Option<HumanDuration>,
    signals: Signals,
    gate: watch::Receiver<Gate>,
    reply: Option<MemberReply>,
    notes: mpsc::WeakSender<Command>,
    life: MemberLife,
    recipe: Option<Arc<Recipe>>,
    turn: Option<(Turn, Instant)>,
    waiting: Option<BoxFuture<'static, Waited<Turn>>>,
    launching: Option<BoxFuture<'static, Result<Child, ExitStatus>>>,
    shaking: Option<BoxFuture<'static, Result<(), UpstreamError>>>,
    child: Option<Child>,
    /// Why it can never answer again, and when that counts.
    broken: Option<(String, Instant)>,
    broken_told: bool,
    deadline: Option<Instant>,
    stop_told: bool,
    claim_told: bool,
    unwanted_told: bool,
}

impl Member {
    /// A member that waits for its turn.
    pub(super) fn new(
        context: Arc<Context>,
        recipe: Arc<Recipe>,
        number: u32,
        signals: Signals,
        gate: watch::Receiver<Gate>,
        reply: MemberReply,
        notes: mpsc::WeakSender<Command>,
    ) -> Self {
        let id = WorkloadId {
            member: number,
            ..WorkloadId::main(recipe.record.id, recipe.generation)
        };
        let life = MemberLife::new(MemberPolicy::from(&*recipe.template));
        // A client waits for it. Its instance is awake, so only the machine's memory can hold it.
        let asking = Asking {
            guest: (&recipe.record).into(),
            demand: Arc::new(AtomicU64::new(1)),
            used_at: 0,
            held: HeldCell::default(),
        };
        let waiting = launch::await_turn(Arc::clone(&context), None, true, asking, false);
        Self {
            waiting: Some(waiting),
            session_idle: recipe.template.server.session_idle,
            recipe: Some(recipe),
            reply: Some(reply),
            ..Self::with(context, id, life, (signals, gate, notes))
        }
    }

    /// One that a former daemon left, with its pipes.
    pub(super) fn left(
        context: Arc<Context>,
        child: Child,
        policy: MemberPolicy,
        signals: Signals,
        gate: watch::Receiver<Gate>,
        notes: mpsc::WeakSender<Command>,
    ) -> Self {
        let (id, life) = (child.workload.id(), MemberLife::left(policy));
        let mut member = Self::with(context, id, life, (signals, gate, notes));
        member.take_child(child);
        member
    }

    fn with(
        context: Arc<Context>,
        id: WorkloadId,
        life: MemberLife,
        (signals, gate, notes): (Signals, watch::Receiver<Gate>, mpsc::WeakSender<Command>),
    ) -> Self {
        Self {
            context,
            id,
            session_idle: None,
            signals,
            gate,
            reply: None,
            notes,
            life,
            recipe: None,
            turn: None,
            waiting: None,
            launching: None,
            shaking: None,
            child: None,
            broken: None,
            broken_told: false,
            deadline: None,
            stop_told: false,
            claim_told: false,
            unwanted_told: false,
        }
    }

    /// Lives it to its end.
    pub(super) async fn run(mut self) {
        while !self.life.is_gone() {
            let Some(event) = self.next_event().await else {
                continue;
            };
            for effect in self.life.step(event) {
                self.perform(effect).await;
            }
        }
    }

    /// Ordered by what may not wait: an end, then wishes, then timers, then progress.
    async fn next_event(&mut self) -> Option<MemberEvent> {
        let child = self.child.as_ref();
        let turn_over = self.turn.as_ref().map(|(_, until)| *until);
        let broken_due = self.broken.as_ref().map(|(_, due)| *due);
        tokio::select! {
            biased;
            status = exited(child, &self.signals.lost) => Some(MemberEvent::Exited(status)),
            event = shut(&mut self.gate), if !self.stop_told => {
                self.stop_told = true;
                Some(event)
            }
            () = self.signals.bond.claimed.cancelled(), if !self.claim_told => {
                self.claim_told = true;
                Some(MemberEvent::Claimed)
            }
            () = given_up(self.reply.as_mut(), &self.signals.bond.unwanted), if !self.unwanted_told => {
                self.unwanted_told = true;
                self.signals.bond.unwanted.cancel();
                Some(MemberEvent::Unwanted)
            }
            () = due_at(broken_due) => {
                let (cause, _) = self.broken.take()?;
                Some(MemberEvent::Broken(cause))
            }
            cause = broken(child), if !self.broken_told => {
                self.broken_told = true;
                self.broken = Some((cause, Instant::now() + BROKEN_GRACE));
                None
            }
            () = due_at(self.deadline) => {
                self.deadline = None;
                Some(MemberEvent::Deadline)
            }
            () = due_at(turn_over) => {
                self.turn = None;
                None
            }
            turn = outcome(&mut self.waiting) => Some(match turn {
                Waited::Turn(turn) => {
                    self.turn = Some((turn, Instant::now() + TURN_LIMIT));
                    MemberEvent::TurnCame
                }
                Waited::Unwanted(_) | Waited::Over => MemberEvent::InstanceStops(StopReason::Shutdown),
            }),
            launched = outcome(&mut self.launching) => Some(match launched {
                Ok(child) => {
                    let upstream = Arc::clone(&child.upstream);
                    self.shaking = Some(Box::pin(
                        async move { upstream.handshake().await.map(drop) },
                    ));
                    self.take_child(child);
                    MemberEvent::Launched
                }
                Err(status) => MemberEvent::LaunchFailed(status),
            }),
            shaken = outcome(&mut self.shaking) => Some(match shaken {
                Ok(()) => MemberEvent::Ready,
                Err(error) => MemberEvent::Broken(format!("the MCP handshake failed: {error}")),
            }),
        }
    }

    async fn perform(&mut self, effect: MemberEffect) {
        let workload = self.child.as_ref().map(|child| child.workload.clone());
        let done = match (effect, workload) {
            (MemberEffect::Launch, _) => {
                self.launching = self.launch();
                Ok(())
            }
            (MemberEffect::Serve, _) => {
                self.serve();
                Ok(())
            }
            (MemberEffect::ArmIn(ms), _) => {
                self.deadline = Some(Instant::now() + Duration::from_millis(ms));
                Ok(())
            }
            (MemberEffect::LetGo, _) => {
                // As the main child: whoever comes next finds it at the keeper.
                self.child = None;
                Ok(())
            }
            (MemberEffect::Over(end), _) => {
                self.finish(end).await;
                Ok(())
            }
            (MemberEffect::CloseStdin, Some(workload)) => {
                if let Some(child) = &self.child {
                    child.upstream.close_stdin();
                }
                workload.close_stdin().await
            }
            (MemberEffect::Terminate, Some(workload)) => workload.terminate().await,
            (MemberEffect::KillTree, Some(workload)) => workload.kill_tree().await,
            (_, None) => Ok(()),
        };
        self.log_failure(done);
    }

    fn launch(&self) -> Option<BoxFuture<'static, Result<Child, ExitStatus>>> {
        let recipe = Arc::clone(self.recipe.as_ref()?);
        let (context, id) = (Arc::clone(&self.context), self.id);
        context.launches.fetch_add(1, Ordering::Relaxed);
        Some(Box::pin(async move {
            if let KeeperState::Connected { host, .. } = &*context.runtime.state().borrow()
                && !host.members
            {
                let reason = "the keeper that runs is from an older version, which knows one child of an \
                              instance only; restart it";
                return Err(ExitStatus::NotStarted {
                    reason: reason.to_owned(),
                });
            }
            launch::start(&context, &recipe, id, None).await
        }))
    }

    fn take_child(&mut self, child: Child) {
        self.signals
            .pid
            .store(child.workload.pid(), Ordering::Relaxed);
        // A member has one child in its life.
        let _ = self.signals.upstream.set(Arc::downgrade(&child.upstream));
        self.child = Some(child);
    }

    fn serve(&mut self) {
        self.turn = None;
        self.deadline = None;
        if let (Some(child), Some(reply)) = (&self.child, self.reply.take()) {
            let served = SessionChild::new(
                self.id.member,
                self.id.generation,
                self.session_idle,
                Arc::clone(&child.upstream),
                self.signals.bond.clone(),
            );
            // Whoever waited left: dropping it says that it is not wanted.
            drop(reply.send(Ok(served)));
        }
    }

    async fn finish(&mut self, end: MemberEnd) {
        (self.turn, self.waiting, self.shaking) = (None, None, None);
        let mut failure = Failure {
            cause: end.cause,
            status: end.status,
            generation: self.id.generation,
            last_stderr: Vec::new(),
        };
        let child = self.child.take();
        if let Some(child) = &child {
            let drained_by = Instant::now() + DRAIN_LIMIT;
            for capture in &child.captures {
                capture
                    .drained(drained_by.saturating_duration_since(Instant::now()))
                    .await;
            }
            failure.last_stderr = child.last_lines();
            child.upstream.fail_all(failure.clone());
        }
        let note =
            (!end.asked).then(|| format!("session child {}: {}", self.id.member, failure.cause));
        let lost = failure.status == Some(ExitStatus::KeeperLost);
        if let Some(reply) = self.reply.take() {
            drop(reply.send(Err(MemberRefused::Failed(Arc::new(failure)))));
        }
        self.signals.bond.over.cancel();
        if let Some(child) = child {
            if lost {
                // Nobody saw it end.
                let killed = child.workload.kill_tree().await;
                self.log_failure(killed);
            }
            let forgotten = child.workload.forget().await;
            self.log_failure(forgotten);
        }
        if let (Some(message), Some(actor)) = (note, self.notes.upgrade()) {
            let command = Command::Note("session-child-exited", message.into());
            if actor.send_timeout(command, NOTE_PATIENCE).await.is_err() {
                tracing::warn!(instance = %self.id.instance, "the end of a session child is not among its events");
            }
        }
    }

    fn log_failure(&self, result: Result<(), RuntimeError>) {
        // A keeper that is gone took the child with it.
        if let Err(error) = result {
            tracing::debug!(instance = %self.id.instance, member = self.id.member, %error, "the keeper did not take a command");
        }
    }
}

async fn exited(child: Option<&Child>, lost: &CancellationToken) -> ExitStatus {
    match child {
        Some(child) => tokio::select! {
            report = child.workload.exited() => report.status,
            () = lost.cancelled() => ExitStatus::KeeperLost,
        },
        None => pending().await,
    }
}

async fn broken(child: Option<&Child>) -> String {
    match child {
        Some(child) => child.upstream.broken().await,
        None => pending().await,
    }
}

/// Why it may not go on here; an actor that is gone took the gate with it.
async fn shut(gate: &mut watch::Receiver<Gate>) -> MemberEvent {
    let is_shut = |gate: &Gate| matches!(gate, Gate::Closed(_) | Gate::Released);
    match gate.wait_for(is_shut).await.as_deref() {
        Ok(Gate::Closed(reason)) => MemberEvent::InstanceStops(*reason),
        Ok(Gate::Released) => MemberEvent::Released,
        Ok(Gate::Open(_) | Gate::Paused) | Err(_) => {
            MemberEvent::InstanceStops(StopReason::Shutdown)
        }
    }
}

async fn given_up(reply: Option<&mut MemberReply>, unwanted: &CancellationToken) {
    match reply {
        Some(reply) => tokio::select! {
            () = reply.closed() => {}
            () = unwanted.cancelled() => {}
        },
        None => unwanted.cancelled().await,
    }
}

async fn due_at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

/// What is being done, once; then nothing.
async fn outcome<T>(doing: &mut Option<impl Future<Output = T> + Unpin>) -> T {
    match doing {
        Some(future) => {
            let done = future.await;
            *doing = None;
            done
        }
        None => pending().await,
    }
}
