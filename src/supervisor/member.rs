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
    launch::{self, Child, Recipe, Turn},
    route::{MemberRefused, SessionChild},
};
use crate::{
    domain::{
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
    /// No: the instance stops.
    Closed(StopReason),
}

/// Where a session waits for its member.
pub(super) type MemberReply = oneshot::Sender<Result<SessionChild, MemberRefused>>;

/// What everyone who knows a member shares.
#[derive(Clone, Default)]
pub(super) struct Signals {
    /// Its session ended.
    pub(super) unwanted: CancellationToken,
    /// It is gone, and its calls are answered.
    pub(super) over: CancellationToken,
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
    recipe: Arc<Recipe>,
    number: u32,
    signals: Signals,
    gate: watch::Receiver<Gate>,
    reply: Option<MemberReply>,
    notes: mpsc::WeakSender<Command>,
    life: MemberLife,
    turn: Option<(Turn, Instant)>,
    waiting: Option<BoxFuture<'static, Option<Turn>>>,
    launching: Option<BoxFuture<'static, Result<Child, ExitStatus>>>,
    shaking: Option<BoxFuture<'static, Result<(), UpstreamError>>>,
    child: Option<Child>,
    /// Why it can never answer again, and when that counts.
    broken: Option<(String, Instant)>,
    broken_told: bool,
    deadline: Option<Instant>,
    stop_told: bool,
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
        let life = MemberLife::new(MemberPolicy::from(&*recipe.template));
        Self {
            // A client waits for it.
            waiting: Some(launch::await_turn(
                Arc::clone(&context),
                None,
                true,
                (Arc::new(AtomicU64::new(1)), 0),
            )),
            context,
            recipe,
            number,
            signals,
            gate,
            reply: Some(reply),
            notes,
            life,
            turn: None,
            launching: None,
            shaking: None,
            child: None,
            broken: None,
            broken_told: false,
            deadline: None,
            stop_told: false,
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
            reason = closed(&mut self.gate), if !self.stop_told => {
                self.stop_told = true;
                Some(MemberEvent::InstanceStops(reason))
            }
            () = given_up(self.reply.as_mut(), &self.signals.unwanted), if !self.unwanted_told => {
                self.unwanted_told = true;
                self.signals.unwanted.cancel();
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
                Some(turn) => {
                    self.turn = Some((turn, Instant::now() + TURN_LIMIT));
                    MemberEvent::TurnCame
                }
                None => MemberEvent::InstanceStops(StopReason::Shutdown),
            }),
            launched = outcome(&mut self.launching) => Some(match launched {
                Ok(child) => {
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
                self.launching = Some(self.launch());
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

    fn launch(&self) -> BoxFuture<'static, Result<Child, ExitStatus>> {
        let (context, recipe) = (Arc::clone(&self.context), Arc::clone(&self.recipe));
        let id = WorkloadId {
            member: self.number,
            ..WorkloadId::main(recipe.record.id, recipe.generation)
        };
        context.launches.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
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
        })
    }

    fn take_child(&mut self, child: Child) {
        self.signals
            .pid
            .store(child.workload.pid(), Ordering::Relaxed);
        let upstream = Arc::clone(&child.upstream);
        // A member is launched once.
        let _ = self.signals.upstream.set(Arc::downgrade(&upstream));
        self.shaking = Some(Box::pin(
            async move { upstream.handshake().await.map(drop) },
        ));
        self.child = Some(child);
    }

    fn serve(&mut self) {
        self.turn = None;
        self.deadline = None;
        if let (Some(child), Some(reply)) = (&self.child, self.reply.take()) {
            let served = SessionChild::new(
                self.number,
                Arc::clone(&child.upstream),
                self.signals.unwanted.clone(),
                self.signals.over.clone(),
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
            generation: self.recipe.generation,
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
            (!end.asked).then(|| format!("session child {}: {}", self.number, failure.cause));
        let lost = failure.status == Some(ExitStatus::KeeperLost);
        if let Some(reply) = self.reply.take() {
            drop(reply.send(Err(MemberRefused::Failed(Arc::new(failure)))));
        }
        self.signals.over.cancel();
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
            let command = Command::Note("session-child-exited", message);
            if actor.send_timeout(command, NOTE_PATIENCE).await.is_err() {
                tracing::warn!(instance = %self.recipe.record.id, "the end of a session child is not among its events");
            }
        }
    }

    fn log_failure(&self, result: Result<(), RuntimeError>) {
        // A keeper that is gone took the child with it.
        if let Err(error) = result {
            tracing::debug!(instance = %self.recipe.record.id, member = self.number, %error, "the keeper did not take a command");
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

/// Why the instance stops; an actor that is gone took the gate with it.
async fn closed(gate: &mut watch::Receiver<Gate>) -> StopReason {
    match gate.wait_for(|gate| matches!(gate, Gate::Closed(_))).await {
        Ok(gate) => match &*gate {
            Gate::Closed(reason) => *reason,
            Gate::Open(_) | Gate::Paused => StopReason::Shutdown,
        },
        Err(_) => StopReason::Shutdown,
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
