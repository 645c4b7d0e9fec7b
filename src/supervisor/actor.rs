//! The one task of an instance: takes in whatever happens, asks the lifecycle what follows, has it done.

use std::{future::pending, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    Context, InstanceStatus, SupervisorError,
    command::{Command, Reply, Verb},
    launch::{Child, LaunchOutcome, SealedByVariable, Turn},
    route::Route,
    timers::{Timer, Timers},
};
use crate::{
    domain::{
        UnixMs,
        event::Event,
        exit::{ExitStatus, ResourceUsage},
        id::Generation,
        instance::InstanceRecord,
        lifecycle::Lifecycle,
        probe::ProbeTracker,
        state::{DesiredState, InstanceState, StatusWord, StopReason},
        template::Template,
    },
    runtime::ExitReport,
    upstream::{Handshake, UpstreamError},
};

/// A child that ends closes its stdout a moment before its exit report comes, which tells more.
const BROKEN_GRACE: Duration = Duration::from_millis(250);

/// A launch in progress. Until it is its turn it can be called off without a trace.
pub(super) enum Launching {
    /// For a turn and for a keeper.
    Waiting(BoxFuture<'static, Option<Turn>>),
    /// The keeper is at work.
    Spawning(BoxFuture<'static, LaunchOutcome>),
}

/// What a question to the child led to.
pub(super) enum ProbeOutcome {
    /// The handshake.
    Handshake(Result<Arc<Handshake>, UpstreamError>),
    /// A liveness probe.
    Liveness(Result<(), UpstreamError>),
}

/// The state of one instance, owned by its task.
pub(super) struct Actor {
    pub(super) context: Arc<Context>,
    pub(super) record: InstanceRecord,
    pub(super) life: Lifecycle,
    pub(super) template: Option<Arc<Template>>,
    pub(super) route: Arc<Route>,
    pub(super) route_state: watch::Sender<super::route::RouteState>,
    pub(super) status: watch::Sender<Arc<InstanceStatus>>,
    pub(super) mailbox: mpsc::Receiver<Command>,
    pub(super) timers: Timers,
    pub(super) launching: Option<Launching>,
    pub(super) turn: Option<Turn>,
    pub(super) child: Option<Box<Child>>,
    pub(super) probing: Option<BoxFuture<'static, ProbeOutcome>>,
    pub(super) tracker: ProbeTracker,
    pub(super) sealed: SealedByVariable,
    /// When the present status word began.
    pub(super) since: UnixMs,
    /// Events not yet in the store.
    pub(super) unsaved_events: Vec<crate::store::NewEvent>,
    /// How many of them live listeners have heard already.
    pub(super) told_unsaved: usize,
    /// The record differs from the store's.
    pub(super) dirty: bool,
    /// The wait after a failed write is over.
    pub(super) retry_due: bool,
    /// Writes that failed in a row.
    pub(super) save_failures: u32,
    /// The raw handshake last written, by hash.
    pub(super) saved_handshake: Option<u64>,
    /// Who waits for the deletion.
    pub(super) delete_replies: Vec<Reply>,
    pub(super) leaving: bool,
}

enum Input {
    Command(Command),
    Deserted,
    Exited(ExitReport),
    Broken(String),
    Timer,
    Turn(Option<Turn>),
    Launched(LaunchOutcome),
    Probed(ProbeOutcome),
}

impl Actor {
    /// Runs until the instance is removed or the daemon ends.
    pub(super) async fn run(mut self) {
        loop {
            let input = self.next_input().await;
            // On the heap while it lasts: a thousand actors that wait should not each keep room for a transaction.
            if Box::pin(self.take(input)).await {
                return;
            }
        }
    }

    /// Takes in one input and all that follows; `true`: the actor's work is done.
    async fn take(&mut self, input: Input) -> bool {
        self.handle(input).await;
        self.call_off_launch_if_stopping().await;
        let unsaved = self.dirty || !self.unsaved_events.is_empty();
        if unsaved && (self.save_failures == 0 || self.retry_due) {
            self.save().await;
        }
        self.leaving || self.finish_deletion().await
    }

    /// Ordered by what may not wait: an end before new wishes, wishes before timers, timers before progress.
    async fn next_input(&mut self) -> Input {
        let due = self.timers.next();
        let child = self.child.as_deref();
        tokio::select! {
            biased;
            report = exited(child) => Input::Exited(report),
            cause = broken(child) => Input::Broken(cause),
            command = self.mailbox.recv() => command.map_or(Input::Deserted, Input::Command),
            () = due_at(due) => Input::Timer,
            input = progress(&mut self.launching) => input,
            outcome = answer(&mut self.probing) => Input::Probed(outcome),
        }
    }

    async fn handle(&mut self, input: Input) {
        match input {
            Input::Command(command) => self.obey(command).await,
            Input::Deserted => self.leaving = true,
            Input::Exited(report) => self.on_exit(report).await,
            Input::Broken(cause) => {
                if let Some(child) = &mut self.child {
                    child.broken = Some(cause);
                    let at = Instant::now() + BROKEN_GRACE;
                    self.timers.arm(Timer::GiveUpBroken, at);
                }
            }
            Input::Timer => {
                while let Some(timer) = self.timers.take_due(Instant::now()) {
                    self.on_timer(timer).await;
                }
            }
            Input::Turn(turn) => self.spawn_in_turn(turn).await,
            Input::Launched(outcome) => self.on_launched(outcome).await,
            Input::Probed(outcome) => self.on_probed(outcome).await,
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Boot => {
                if self.record.lease.is_over(self.context.clock.now()) {
                    self.expire().await;
                } else if self.should_boot() {
                    self.apply(Event::Start).await;
                }
                self.arm_lease();
            }
            Command::Shutdown => self.apply(Event::Stop(StopReason::Shutdown)).await,
            Command::Wake => {
                if self.life.word() == StatusWord::Asleep {
                    self.apply(Event::Start).await;
                }
            }
            Command::Leave => self.leaving = true,
            Command::ChildLost(generation) => {
                if self.child_of(generation).is_some() {
                    let usage = ResourceUsage::default();
                    self.on_exit(ExitReport {
                        status: ExitStatus::KeeperLost,
                        usage,
                    })
                    .await;
                }
            }
            Command::Do(verb, reply) => self.execute(verb, reply).await,
        }
    }

    async fn execute(&mut self, verb: Verb, reply: Reply) {
        if matches!(
            self.life.state,
            InstanceState::Stopped {
                reason: StopReason::Deleted
            } | InstanceState::Stopping {
                reason: StopReason::Deleted,
                ..
            }
        ) && !matches!(verb, Verb::Delete)
        {
            let _ = reply.send(Err(SupervisorError::NotFound(self.record.id.to_string())));
            return;
        }
        let deleting = matches!(verb, Verb::Delete);
        match self.try_execute(verb).await {
            Ok(()) if deleting => self.delete_replies.push(reply),
            Ok(()) => {
                let _ = reply.send(Ok(self.current_status()));
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    async fn try_execute(&mut self, verb: Verb) -> Result<(), SupervisorError> {
        self.check_state(&verb)?;
        match verb {
            Verb::Start => self.apply_acknowledged(Event::Start).await,
            Verb::Stop => {
                self.apply_acknowledged(Event::Stop(StopReason::Requested))
                    .await
            }
            Verb::Restart => self.apply_acknowledged(Event::Restart).await,
            Verb::Delete => {
                self.apply_acknowledged(Event::Stop(StopReason::Deleted))
                    .await
            }
            Verb::Extend(ttl) => self.extend(ttl).await,
            Verb::Restore(ttl) => self.restore(ttl).await,
            Verb::Patch(name, labels) => self.patch(name, labels).await,
            Verb::Token(change) => self.change_tokens(change).await,
        }
    }

    /// Which verbs fit which state, in the words of the API.
    fn check_state(&self, verb: &Verb) -> Result<(), SupervisorError> {
        let status = self.life.word();
        let expired = self.is_expired();
        let refuse = |allowed| {
            Err(SupervisorError::WrongState {
                verb: verb.name(),
                status,
                allowed,
            })
        };
        match verb {
            Verb::Start | Verb::Stop | Verb::Restart | Verb::Extend(_) if expired => {
                refuse("its lease ran out; restore it or delete it")
            }
            Verb::Restore(_) if !expired => refuse("only an expired instance can be restored"),
            Verb::Restore(_) if !self.record.lease.is_restorable(self.context.clock.now()) => {
                refuse("its restore window is over")
            }
            _ => Ok(()),
        }
    }

    /// Its lease ran out; its child may still be on its way down.
    fn is_expired(&self) -> bool {
        matches!(
            self.life.state,
            InstanceState::Stopped {
                reason: StopReason::Expired
            } | InstanceState::Stopping {
                reason: StopReason::Expired,
                ..
            }
        )
    }

    async fn on_timer(&mut self, timer: Timer) {
        let now = self.context.clock.now();
        match timer {
            Timer::Life(deadline) => self.apply(Event::Deadline(deadline)).await,
            Timer::LeaseWarning => self.warn_of_expiry(now),
            Timer::LeaseEnd if self.record.lease.is_over(now) => self.expire().await,
            Timer::Purge if !self.record.lease.is_restorable(now) => {
                if self.is_expired() {
                    self.apply(Event::Stop(StopReason::Deleted)).await;
                }
            }
            // The wall clock was set back, or the timer was shortened: look again later.
            Timer::LeaseEnd | Timer::Purge => self.arm_lease(),
            Timer::Probe => self.begin_probe(),
            Timer::PersistAgain => self.retry_due = true,
            Timer::GiveUpBroken => {
                if let Some(child) = &mut self.child
                    && let Some(cause) = child.broken.clone()
                {
                    let generation = child.generation;
                    self.apply(Event::Broken(generation, cause)).await;
                }
            }
            Timer::YieldLaunchTurn => self.turn = None,
        }
    }

    async fn on_probed(&mut self, outcome: ProbeOutcome) {
        self.probing = None;
        let Some(generation) = self.child.as_ref().map(|child| child.generation) else {
            return;
        };
        match outcome {
            ProbeOutcome::Handshake(Ok(handshake)) => {
                self.on_handshake(generation, &handshake).await
            }
            ProbeOutcome::Handshake(Err(error)) => {
                self.apply(Event::Broken(
                    generation,
                    format!("the MCP handshake failed: {error}"),
                ))
                .await;
            }
            ProbeOutcome::Liveness(result) => {
                let threshold = self.life_policy_threshold();
                let health = self.tracker.note(result.is_ok(), threshold);
                if let Err(error) = result {
                    tracing::debug!(instance = %self.record.id, %generation, %error, "a liveness probe failed");
                }
                self.apply(Event::Health(generation, health)).await;
                self.arm_probe();
            }
        }
    }

    /// What is asleep stays asleep; everything else that should run begins.
    fn should_boot(&self) -> bool {
        self.life.desired == DesiredState::Running
            && !self.life.has_child()
            && self.life.state
                != InstanceState::Stopped {
                    reason: StopReason::Idle,
                }
    }

    fn life_policy_threshold(&self) -> u32 {
        self.template
            .as_ref()
            .map_or(1, |template| template.health.failure_threshold)
    }

    /// Whether the present child is of this generation.
    pub(super) fn child_of(&self, generation: Generation) -> Option<&Child> {
        self.child
            .as_deref()
            .filter(|child| child.generation == generation)
    }
}

async fn exited(child: Option<&Child>) -> ExitReport {
    match child {
        Some(child) => child.workload.exited().await,
        None => pending().await,
    }
}

async fn broken(child: Option<&Child>) -> String {
    match child {
        Some(child) if child.broken.is_none() => child.upstream.broken().await,
        _ => pending().await,
    }
}

async fn due_at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

async fn progress(launching: &mut Option<Launching>) -> Input {
    match launching {
        Some(Launching::Waiting(turn)) => Input::Turn(turn.await),
        Some(Launching::Spawning(outcome)) => Input::Launched(outcome.await),
        None => pending().await,
    }
}

async fn answer(probing: &mut Option<BoxFuture<'static, ProbeOutcome>>) -> ProbeOutcome {
    match probing {
        Some(probing) => probing.await,
        None => pending().await,
    }
}
