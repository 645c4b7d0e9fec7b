//! The one task of an instance: takes in whatever happens, asks the lifecycle what follows, has it done.

use std::{future::pending, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    Context, SupervisorError,
    capabilities::{Learning, Learnt},
    command::{Command, Reply, Verb},
    launch::{Child, LaunchOutcome, Recipe, Turn, Waited},
    members::{self, Census, Members},
    route::Route,
    sealed::SealedByVariable,
    seen::Published,
    timers::{Timer, Timers},
};
use crate::{
    clock::Clock,
    domain::{
        UnixMs,
        event::Event,
        exit::{ExitStatus, ResourceUsage},
        id::Generation,
        instance::InstanceRecord,
        lifecycle::Lifecycle,
        probe::ProbeTracker,
        state::{InstanceState, StopReason},
        template::Template,
        verb::{self, Misfit, Wish},
    },
    runtime::{ExitReport, sleep_exactly_until},
    traces::Span,
    upstream::{Handshake, UpstreamError},
};

/// A launch in progress. Until it is its turn it can be called off without a trace.
pub(super) enum Launching {
    /// For a turn and for a keeper.
    Waiting(BoxFuture<'static, Waited<Turn>>),
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
    pub(super) status: watch::Sender<Arc<Published>>,
    pub(super) mailbox: mpsc::Receiver<Command>,
    pub(super) timers: Timers,
    pub(super) launching: Option<Launching>,
    pub(super) turn: Option<Turn>,
    pub(super) child: Option<Box<Child>>,
    pub(super) probing: Option<BoxFuture<'static, ProbeOutcome>>,
    /// The child is asked what it offers.
    pub(super) learning: Option<Learning>,
    pub(super) tracker: ProbeTracker,
    /// The launch under way, until its server answers.
    pub(super) launch_span: Option<Span>,
    /// When a request woke it; until its server answers.
    pub(super) woken: Option<Instant>,
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
    /// A child that answered a former daemon is being taken over, which is no change of state to anyone.
    pub(super) adopting: bool,
    /// What the present child was launched from, if client sessions get members of the same make.
    pub(super) recipe: Option<Arc<Recipe>>,
    pub(super) members: Option<Members>,
    pub(super) census: watch::Sender<Census>,
    /// The number of the first member of this daemon: above those of a former one.
    pub(super) first_member: u32,
    pub(super) own_mailbox: mpsc::WeakSender<Command>,
}

enum Input {
    Command(Command),
    Deserted,
    Exited(ExitReport),
    Broken(String),
    Timer,
    MembersGone,
    Turn(Waited<Turn>),
    Launched(LaunchOutcome),
    Probed(ProbeOutcome),
    Learnt(Learnt),
}

impl Actor {
    /// Runs until the instance is removed or the daemon ends.
    pub(super) async fn run(&mut self) {
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
        self.settle().await
    }

    /// What follows whatever was taken in; `true`: the actor's work is done.
    pub(super) async fn settle(&mut self) -> bool {
        self.wake_if_wanted().await;
        self.call_off_launch_if_stopping().await;
        let unsaved = self.dirty || !self.unsaved_events.is_empty();
        if unsaved && (self.save_failures == 0 || self.retry_due) {
            self.save().await;
        }
        (self.leaving && self.members_are_gone()) || self.finish_deletion().await
    }

    /// Ordered by what may not wait: an end before new wishes, wishes before timers, timers before progress.
    async fn next_input(&mut self) -> Input {
        let (clock, due) = (self.context.clock, self.timers.next());
        let child = self.child.as_deref();
        let is_stopping = matches!(self.life.state, InstanceState::Stopping { .. });
        let last_word = self.leaving || matches!(self.life.state, InstanceState::Stopped { .. });
        tokio::select! {
            biased;
            report = exited(child, is_stopping.then_some(&self.census)) => Input::Exited(report),
            cause = broken(child) => Input::Broken(cause),
            command = self.mailbox.recv(), if !self.leaving => {
                command.map_or(Input::Deserted, Input::Command)
            }
            () = members::all_gone(&self.census), if last_word && !self.members_are_gone() => {
                Input::MembersGone
            }
            () = due_at(clock, due) => Input::Timer,
            input = progress(&mut self.launching) => input,
            outcome = answer(&mut self.probing) => Input::Probed(outcome),
            learnt = answer(&mut self.learning) => Input::Learnt(learnt),
        }
    }

    async fn handle(&mut self, input: Input) {
        match input {
            Input::Command(command) => self.obey(command).await,
            Input::Deserted => self.leave(),
            // What follows comes behind every input.
            Input::MembersGone => {}
            Input::Exited(report) => self.on_exit(report).await,
            Input::Broken(cause) => {
                if let Some(child) = &mut self.child {
                    child.told_silent = true;
                    let generation = child.generation;
                    self.apply(Event::Silent(generation, cause)).await;
                }
            }
            Input::Timer => {
                while let Some(timer) = self.timers.take_due(Instant::now()) {
                    self.on_timer(timer).await;
                }
            }
            Input::Turn(waited) => self.spawn_in_turn(waited).await,
            Input::Launched(outcome) => self.on_launched(outcome).await,
            Input::Probed(outcome) => self.on_probed(outcome).await,
            Input::Learnt(learnt) => self.on_learnt(learnt).await,
        }
    }

    pub(super) async fn obey(&mut self, command: Command) {
        match command {
            Command::Boot => {
                let (life, lease) = (&self.life, &self.record.lease);
                let now = self.context.clock.now();
                match verb::at_boot(life.desired, &life.state, life.has_child(), lease, now) {
                    Some(Wish::Start) => self.apply(Event::Start).await,
                    Some(Wish::Expire) => self.expire().await,
                    Some(Wish::Purge | Wish::LookAgain) | None => {}
                }
                self.arm_lease();
            }
            Command::Shutdown => self.apply(Event::Stop(StopReason::Shutdown)).await,
            // Whether it sleeps is looked at behind every input.
            Command::Wake => {}
            Command::Rest(relief) => self.rest_early(relief).await,
            Command::Leave => self.leave(),
            Command::Note(kind, message) => self.note(kind, message.into()),
            Command::Breach(generation, cause) => {
                self.apply(Event::Breach(generation, cause.into())).await
            }
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
            Command::Wished(desired) => self.follow_record(desired).await,
            Command::Do(asked) => self.execute(asked.verb, asked.reply).await,
        }
    }

    /// The children stay for the next daemon; those members that serve nobody yet go.
    fn leave(&mut self) {
        self.leaving = true;
        self.tend_members();
    }

    async fn execute(&mut self, verb: Verb, reply: Reply) {
        let deleting = matches!(verb, Verb::Delete);
        match self.try_execute(verb).await {
            Ok(()) if deleting => self.delete_replies.push(reply),
            Ok(()) => {
                let _ = reply.send(Ok(Arc::new(self.current_status().into())));
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    async fn try_execute(&mut self, verb: Verb) -> Result<(), SupervisorError> {
        self.check_state(&verb)?;
        match verb {
            Verb::Start => {
                self.thaw("it was asked to start").await;
                self.apply_acknowledged(Event::Start).await
            }
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
            Verb::Patch(change) => self.patch(change).await,
            Verb::Token(change) => self.change_tokens(change).await,
        }
    }

    /// What the state says of a verb, in the words of the API.
    pub(super) fn check_state(&self, verb: &Verb) -> Result<(), SupervisorError> {
        let now = self.context.clock.now();
        verb::check(verb.kind(), &self.life.state, &self.record.lease, now).map_err(|misfit| {
            match misfit {
                Misfit::Gone => SupervisorError::NotFound(self.record.id.to_string()),
                Misfit::State(allowed) => SupervisorError::WrongState {
                    verb: verb.name(),
                    status: self.life.word(),
                    allowed,
                },
            }
        })
    }

    async fn on_timer(&mut self, timer: Timer) {
        let now = self.context.clock.now();
        match timer {
            Timer::Life(deadline) => self.apply(Event::Deadline(deadline)).await,
            Timer::LeaseWarning => self.warn_of_expiry(now),
            Timer::LeaseEnd | Timer::Purge => {
                match verb::at_lease_timer(&self.life.state, &self.record.lease, now) {
                    Some(Wish::Expire) => self.expire().await,
                    Some(Wish::Purge) => self.apply(Event::Stop(StopReason::Deleted)).await,
                    Some(Wish::LookAgain) => self.arm_lease(),
                    Some(Wish::Start) | None => {}
                }
            }
            Timer::Probe => {
                self.begin_probe();
                self.learn_again_if_changed();
            }
            Timer::Learn => self.begin_learning(),
            Timer::Sleep => self.look_whether_used().await,
            Timer::PersistAgain => self.retry_due = true,
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
                let cause = format!("the MCP handshake failed: {}", self.redacted(&error));
                self.apply(Event::Broken(generation, cause)).await;
            }
            ProbeOutcome::Liveness(result) => {
                let threshold = self.life_policy_threshold();
                let health = self.tracker.note(result.is_ok(), threshold);
                let mut lost = None;
                if let Err(error) = result {
                    let error = self.redacted(&error);
                    tracing::debug!(instance = %self.record.id, %generation, error, "a liveness probe failed");
                    self.log_of_remote(&format!("a probe failed: {error}"));
                    lost = self.remote_is_lost(health, &error);
                }
                self.apply(match lost {
                    Some(cause) => Event::Broken(generation, cause),
                    None => Event::Health(generation, health),
                })
                .await;
                self.arm_probe();
                self.look_at_sleep_again();
            }
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

/// The end of the main child; when the instance stops, that of all.
async fn exited(child: Option<&Child>, census: Option<&watch::Sender<Census>>) -> ExitReport {
    let Some(child) = child else {
        return pending().await;
    };
    let report = child.workload.exited().await;
    if let Some(census) = census {
        members::all_gone(census).await;
    }
    report
}

async fn broken(child: Option<&Child>) -> String {
    match child {
        Some(child) if !child.told_silent => child.upstream.broken().await,
        _ => pending().await,
    }
}

async fn due_at(clock: Clock, due: Option<(Timer, Instant)>) {
    match due {
        // What an owner was told is held to the millisecond.
        Some((Timer::LeaseEnd, due)) if matches!(clock, Clock::System) => {
            sleep_exactly_until(due).await
        }
        Some((_, due)) => sleep_until(due).await,
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

async fn answer<T>(asked: &mut Option<BoxFuture<'static, T>>) -> T {
    match asked {
        Some(asked) => asked.await,
        None => pending().await,
    }
}
