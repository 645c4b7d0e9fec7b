//! Performs what the lifecycle decided; outcomes come back to it as events.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    SupervisorError,
    actor::{Actor, Launching, ProbeOutcome},
    launch::{self, Child, LaunchOutcome, Turn, Waited},
    remote,
    route::RouteState,
    seen::Published,
    timers::Timer,
    turns::Asking,
};
use crate::{
    domain::{
        event::{Effect, Event},
        exit::{ExitRecord, ExitStatus},
        id::Generation,
        probe::{self, ProbeTracker},
        state::{InstanceState, StatusWord},
    },
    runtime::ExitReport,
    upstream::Failure,
};

/// How long the pipes of an ended child are read on before its end is told: its tree is gone, so this is short.
const DRAIN_LIMIT: Duration = Duration::from_millis(500);

/// A launch keeps its turn no longer than this, so that slow starters do not hold up the rest.
pub(super) const TURN_LIMIT: Duration = Duration::from_secs(15);

impl Actor {
    /// Takes an event to the lifecycle and performs what follows.
    pub(super) async fn apply(&mut self, event: Event) {
        let effects = self.step_and_publish(event);
        self.follow(effects).await;
    }

    /// What happened is shown before it is written: nobody who learns of it by other ways finds old news here.
    fn step_and_publish(&mut self, event: Event) -> Vec<Effect> {
        let restarts = self.life.restarts;
        let effects = self.step(event);
        let more = self.life.restarts.saturating_sub(restarts);
        self.context.restarts.fetch_add(more, Ordering::Relaxed);
        if effects.contains(&Effect::Publish) {
            self.publish();
        }
        effects
    }

    /// Performs what [`Self::step_and_publish`] left to do. What the store does not take now is written later: a
    /// child's life does not hang on the database.
    async fn follow(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Persist => self.save().await,
                Effect::Publish => {}
                effect => self.perform(effect).await,
            }
        }
    }

    /// The same for a caller who waits for an answer: nothing is done, and nothing changed, unless the store has
    /// it first.
    pub(super) async fn apply_acknowledged(&mut self, event: Event) -> Result<(), SupervisorError> {
        let (life, timers, since) = (self.life.clone(), self.timers.clone(), self.since);
        let events = self.unsaved_events.len();
        let effects = self.step(event);
        let is_recorded = effects.contains(&Effect::Persist);
        if is_recorded && let Err(error) = self.try_save().await {
            // The store may have taken it and only its answer was lost: a generation that it may know is never
            // used again, or every later write would look stale to it.
            let generation = self.life.generation;
            (self.life, self.timers, self.since) = (life, timers, since);
            self.life.generation = generation;
            self.unsaved_events.truncate(events);
            return Err(error.into());
        }
        for effect in effects
            .into_iter()
            .filter(|effect| *effect != Effect::Persist)
        {
            self.perform(effect).await;
        }
        Ok(())
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let now = self.context.clock.now();
        let before = self.life.word();
        let effects = self.life.step(event, now, jitter());
        let after = self.life.word();
        if before != after && !self.adopting {
            self.since = now;
            self.note_transition(after);
        }
        effects
    }

    async fn perform(&mut self, effect: Effect) {
        match effect {
            // Handled by the callers, who differ in what a failure means.
            Effect::Persist => {}
            Effect::Publish => self.publish(),
            Effect::Launch(_) => {
                let entry = self.context.catalogue.refresh(&self.record.template);
                let needs_keeper = entry
                    .as_ref()
                    .is_none_or(|entry| !remote::is_remote(&entry.template));
                let package = entry.and_then(|entry| entry.missing_package);
                if let Some(package) = &package {
                    let message = format!("the package {} is installed first", package.source);
                    self.note("installing", message);
                }
                self.begin_launch_span();
                let seen = self.route.last_accessed_ms.load(Ordering::Relaxed);
                let used_at = self.record.last_accessed_at.unwrap_or(0).max(seen);
                let asking = Asking {
                    guest: (&self.record).into(),
                    demand: Arc::clone(&self.route.demand),
                    used_at,
                    held: Arc::clone(&self.route.held),
                };
                let (context, is_wake) = (Arc::clone(&self.context), self.woken.is_some());
                let waiting = launch::await_turn(context, package, needs_keeper, asking, is_wake);
                self.launching = Some(Launching::Waiting(waiting));
            }
            Effect::CloseStdin(generation) => {
                if let Some(child) = self.child_of(generation) {
                    child.upstream.close_stdin();
                    log_failure(&self.record.id, child.workload.close_stdin().await);
                }
            }
            Effect::Terminate(generation) => {
                if let Some(child) = self.child_of(generation) {
                    log_failure(&self.record.id, child.workload.terminate().await);
                }
            }
            Effect::KillTree(generation) => {
                if let Some(child) = self.child_of(generation) {
                    log_failure(&self.record.id, child.workload.kill_tree().await);
                }
            }
            Effect::Arm(deadline, at) => {
                self.timers
                    .arm(Timer::Life(deadline), self.context.clock.instant(at));
            }
            Effect::Disarm(deadline) => self.timers.disarm(Timer::Life(deadline)),
        }
    }

    pub(super) async fn spawn_in_turn(&mut self, waited: Waited<Turn>) {
        self.launching = None;
        let mut turn = match waited {
            Waited::Turn(turn) => turn,
            Waited::Unwanted(held) => return self.sleep_on(&held).await,
            Waited::Over => return,
        };
        if let Some(obstacle) = turn.obstacle.take() {
            self.on_launched(Err(launch::not_started(obstacle))).await;
            return;
        }
        self.turn = Some(turn);
        self.launch_event("turn");
        let known = self.sealed.clone();
        let spawning = launch::launch(
            Arc::clone(&self.context),
            &self.record,
            self.life.generation,
            known,
        );
        self.launching = Some(Launching::Spawning(spawning));
    }

    /// A launch that still waits for its turn ends here when nobody wants it any more.
    pub(super) async fn call_off_launch_if_stopping(&mut self) {
        let stopping = matches!(self.life.state, InstanceState::Stopping { .. });
        if stopping && matches!(self.launching, Some(Launching::Waiting(_))) {
            self.launching = None;
            self.launch_failed("called-off");
            let reason = "it was stopped before its turn came".to_owned();
            let generation = self.life.generation;
            self.apply(Event::LaunchFailed(
                generation,
                ExitStatus::NotStarted { reason },
            ))
            .await;
        }
    }

    pub(super) async fn on_launched(&mut self, outcome: LaunchOutcome) {
        self.launching = None;
        let generation = self.life.generation;
        match outcome {
            Ok(launched) => {
                self.sealed = launched.sealed;
                self.life.set_policy((&*launched.template).into());
                self.recipe = launched.recipe;
                self.template = Some(launched.template);
                self.tracker = ProbeTracker::default();
                let seat = self.turn.as_mut().and_then(|turn| turn.permit.seat.take());
                self.child = Some(Box::new(Child {
                    _seat: seat,
                    ..launched.child
                }));
                self.timers
                    .arm(Timer::YieldLaunchTurn, Instant::now() + TURN_LIMIT);
                self.launch_event("spawned");
                self.log_connecting();
                self.begin_handshake();
                self.apply(Event::Launched(generation)).await;
            }
            Err(status) => {
                self.turn = None;
                self.launch_failed("launch-failed");
                self.record.last_exit = Some(ExitRecord {
                    generation,
                    status: status.clone(),
                    at: self.context.clock.now(),
                    usage: crate::domain::exit::ResourceUsage::default(),
                    last_stderr: Vec::new(),
                });
                self.note("launch-failed", format!("it {status}"));
                self.apply(Event::LaunchFailed(generation, status)).await;
            }
        }
    }

    pub(super) fn begin_handshake(&mut self) {
        if let Some(child) = &self.child {
            let upstream = Arc::clone(&child.upstream);
            self.probing = Some(Box::pin(async move {
                ProbeOutcome::Handshake(upstream.handshake().await.map(Arc::new))
            }));
        }
    }

    pub(super) fn begin_probe(&mut self) {
        if self.life.state != InstanceState::Running || self.life.frozen || self.probing.is_some() {
            return;
        }
        if let (Some(child), Some(template)) = (&self.child, &self.template) {
            let upstream = Arc::clone(&child.upstream);
            let timeout = template.health.timeout.std();
            self.probing = Some(Box::pin(async move {
                ProbeOutcome::Liveness(upstream.probe(timeout).await)
            }));
        }
    }

    /// The next liveness probe.
    pub(super) fn arm_probe(&mut self) {
        let Some(template) = &self.template else {
            return;
        };
        let now = self.context.clock.now();
        let wait = probe::wait_for_moment(now, template.health.interval, jitter());
        self.timers.arm(Timer::Probe, Instant::now() + wait.std());
    }

    pub(super) async fn on_exit(&mut self, mut report: ExitReport) {
        if let ExitStatus::Disconnected { cause } = &mut report.status {
            *cause = self.life.broken().map(str::to_owned);
            self.log_of_remote(&report.status.to_string());
        }
        let Some(child) = self.child.take() else {
            return;
        };
        self.probing = None;
        self.turn = None;
        self.launch_failed("exited");
        for timer in [Timer::Probe, Timer::Sleep, Timer::YieldLaunchTurn] {
            self.timers.disarm(timer);
        }
        self.forget_if_changed(&child.upstream).await;
        let drained_by = Instant::now() + DRAIN_LIMIT;
        for capture in &child.captures {
            capture
                .drained(drained_by.saturating_duration_since(Instant::now()))
                .await;
        }
        let last_stderr = child.last_lines();
        let cause = match self.life.broken() {
            Some(_) if self.is_remote() => format!("it {}", report.status),
            Some(broken) => format!("{broken}; it {}", report.status),
            None => format!("it {}", report.status),
        };
        let failure = Failure {
            cause: cause.clone(),
            status: Some(report.status.clone()),
            generation: child.generation,
            last_stderr: last_stderr.clone(),
        };
        self.record.last_exit = Some(ExitRecord {
            generation: child.generation,
            status: report.status.clone(),
            at: self.context.clock.now(),
            usage: report.usage,
            last_stderr,
        });
        self.note("exited", cause);
        let generation = child.generation;
        let lost = report.status == ExitStatus::KeeperLost;
        let effects = self.step_and_publish(Event::Exited(generation, report.status));
        child.upstream.fail_all(failure);
        if lost {
            // Nobody saw it end. A child that lives after all must not run beside its successor.
            log_failure(&self.record.id, child.workload.kill_tree().await);
        }
        let id = self.record.id;
        // Beside each other: the next launch is what clients wait for.
        let (forgotten, ()) = tokio::join!(child.workload.forget(), self.follow(effects));
        log_failure(&id, forgotten);
    }

    /// Shows the present state to everyone who looks.
    pub(super) fn publish(&mut self) {
        self.tend_members();
        let status: Arc<Published> = Arc::new(self.current_status().into());
        // On its way there it can be woken already.
        let word = match self.is_asleep() {
            true => StatusWord::Asleep,
            false => status.word,
        };
        self.tell_version(&status);
        let retry_after_s = self.remote_retry_after_s();
        let route_state = match (&self.life.state, &self.child) {
            (InstanceState::Running, Some(child)) if self.life.frozen => RouteState::Frozen {
                upstream: Arc::clone(&child.upstream),
                generation: child.generation,
            },
            (InstanceState::Running, Some(child)) => RouteState::Ready {
                upstream: Arc::clone(&child.upstream),
                generation: child.generation,
            },
            (
                InstanceState::Pending
                | InstanceState::Starting
                | InstanceState::Running
                | InstanceState::BackingOff { .. }
                | InstanceState::Stopping {
                    then_start: true, ..
                },
                _,
            ) if retry_after_s.is_none() => RouteState::Starting,
            _ => RouteState::Down {
                word,
                since: self.since,
                failure: self.record.last_exit.as_ref().map(|exit| {
                    Arc::new(Failure {
                        cause: status
                            .reason
                            .clone()
                            .unwrap_or_else(|| format!("it {}", exit.status)),
                        status: Some(exit.status.clone()),
                        generation: exit.generation,
                        last_stderr: exit.last_stderr.clone(),
                    })
                }),
                retry_after_s,
            },
        };
        // In this order: whose call was answered finds it running.
        self.status.send_replace(status);
        self.route_state.send_replace(route_state);
    }

    pub(super) async fn on_handshake(
        &mut self,
        generation: Generation,
        handshake: &crate::upstream::Handshake,
    ) {
        if let Some(turn) = self.turn.take() {
            turn.permit.ready(&self.record.template);
        }
        self.timers.disarm(Timer::YieldLaunchTurn);
        let was_ready = self.life.word() == StatusWord::Running;
        let effects = self.step_and_publish(Event::Ready(generation));
        // Who waits for it is answered before the record is written.
        tokio::task::yield_now().await;
        self.follow(effects).await;
        // Its end is that of the span.
        self.launch_span = None;
        if !was_ready && self.life.word() == StatusWord::Running {
            self.log_connected(handshake);
            self.save_handshake(generation, handshake).await;
            self.arm_probe();
            self.arm_sleep();
            self.plan_learning();
        }
    }
}

pub(super) fn log_failure(
    instance: &crate::domain::id::InstanceId,
    result: Result<(), crate::runtime::RuntimeError>,
) {
    // A keeper that is gone took the child with it; the exit report tells that better.
    if let Err(error) = result {
        tracing::debug!(%instance, %error, "the keeper did not take a command");
    }
}

fn jitter() -> u16 {
    let mut bytes = [0; 2];
    // Without randomness the backoff is merely regular.
    let _ = getrandom::fill(&mut bytes);
    u16::from_ne_bytes(bytes)
}
