//! The life of an instance as a table: state and event in, effects out.
//!
//! ```text
//!            Start                    Ready
//!  Pending ─────────► Starting ─────────────► Running
//!     │ Stop             │  ▲ Backoff            │  Exited, Broken, Unhealthy (policy)
//!     ▼                  ▼  │                    ▼
//!  Stopped ◄── Exited ── Stopping ◄── Stop ── BackingOff ──► Failed (policy gives up)
//! ```
//!
//! A running child whose processes hold still is frozen. Nothing of it is kept: it is in the kernel as long as the child.
//!
//! Every event that speaks of a generation other than the present one is ignored, but a child that comes late
//! is killed. [`Effect::Persist`] always precedes [`Effect::Launch`]: intent is written before it is acted on.

mod conduct;

pub use super::policy::Policy;
use super::{
    UnixMs,
    event::{Deadline, Effect, Event},
    exit::ExitStatus,
    id::Generation,
    restart::{RestartDecision, RestartRow},
    state::{DesiredState, Health, InstanceState, StatusWord, StopReason},
};

/// How long to wait before a kill that was not confirmed is sent again.
const KILL_AGAIN_MS: i64 = 1_000;

/// The longest of each grace period when a lease ran out.
const EXPIRY_GRACE_MS: u64 = 80;

/// Whether there is a child of the present generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Child {
    None,
    Launching,
    Alive,
}

/// One instance's life. The fields are what the store keeps.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    /// What was asked.
    pub desired: DesiredState,
    /// What it is doing.
    pub state: InstanceState,
    /// How it does.
    pub health: Health,
    /// Its processes hold still, because nobody uses it; only ever while it is running.
    pub frozen: bool,
    /// The last launch.
    pub generation: Generation,
    /// Failures in a row.
    pub restart_row: RestartRow,
    /// Launches after a child that ended by itself.
    pub restarts: u64,
    policy: Policy,
    child: Child,
    /// Why we ended the present child ourselves; goes before the bare exit status in a cause.
    broken: Option<String>,
    /// Whether what ended it would come again: then no policy launches it.
    breached: bool,
    /// Why the present child can answer nothing any more, while its end is awaited.
    silent: Option<String>,
}

impl Lifecycle {
    /// A life as the store remembers it, with no child known yet.
    #[must_use]
    pub fn restored(
        desired: DesiredState,
        state: InstanceState,
        generation: Generation,
        restart_row: RestartRow,
        restarts: u64,
        policy: Policy,
    ) -> Self {
        Self {
            desired,
            state,
            health: Health::Unknown,
            frozen: false,
            generation,
            restart_row,
            restarts,
            policy,
            child: Child::None,
            broken: None,
            breached: false,
            silent: None,
        }
    }

    /// A life that begins.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self::restored(
            DesiredState::Running,
            InstanceState::Pending,
            Generation::default(),
            RestartRow::default(),
            0,
            policy,
        )
    }

    /// The word for it.
    #[must_use]
    pub fn word(&self) -> StatusWord {
        match self.frozen {
            true => StatusWord::Frozen,
            false => StatusWord::of(&self.state, self.health),
        }
    }

    /// Why the present child was given up, if it was.
    #[must_use]
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Whether a child exists or is being made.
    #[must_use]
    pub fn has_child(&self) -> bool {
        self.child != Child::None
    }

    /// Replaces the policy, for the next decision on (a template was reloaded).
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Takes in `event` at `now`; answers what to do, in order. `jitter` is uniform in `0..=u16::MAX`.
    pub fn step(&mut self, event: Event, now: UnixMs, jitter: u16) -> Vec<Effect> {
        let effects = self.take(event, now, jitter);
        // Whatever ends its running thaws it, or kills it as it is.
        self.frozen &= self.state == InstanceState::Running;
        effects
    }

    fn take(&mut self, event: Event, now: UnixMs, jitter: u16) -> Vec<Effect> {
        match event {
            Event::Start => self.start(false),
            Event::Restore => self.start(true),
            Event::Restart => self.restart(now),
            Event::Stop(reason) => self.stop(reason, now),
            Event::Launched(generation) => self.launched(generation, now),
            Event::LaunchFailed(generation, status) => {
                if generation != self.generation || self.child != Child::Launching {
                    return Vec::new();
                }
                self.ended(&status, now, jitter)
            }
            Event::Adopted(generation) => self.adopted(generation, now),
            Event::Ready(generation) => self.ready(generation, now),
            Event::Health(generation, health) => self.judged(generation, health),
            Event::Frozen(generation) => self.hold_still(generation, true),
            Event::Thawed(generation) => self.hold_still(generation, false),
            Event::Broken(generation, cause) => self.give_up_child(generation, cause),
            Event::Breach(generation, cause) => self.breach(generation, cause),
            Event::Silent(generation, cause) => self.silenced(generation, cause, now),
            Event::Exited(generation, status) => {
                if generation != self.generation || self.child == Child::None {
                    return Vec::new();
                }
                self.ended(&status, now, jitter)
            }
            Event::Deadline(deadline) => self.deadline(deadline, now),
        }
    }

    fn start(&mut self, restoring: bool) -> Vec<Effect> {
        match &mut self.state {
            InstanceState::Stopped {
                reason: StopReason::Deleted,
            }
            | InstanceState::Stopping {
                reason: StopReason::Deleted,
                ..
            } => Vec::new(),
            InstanceState::Stopped {
                reason: StopReason::Expired,
            }
            | InstanceState::Stopping {
                reason: StopReason::Expired,
                ..
            } if !restoring => Vec::new(),
            InstanceState::Pending
            | InstanceState::Stopped { .. }
            | InstanceState::Failed { .. } => {
                self.desired = DesiredState::Running;
                self.restart_row = RestartRow::default();
                self.launch()
            }
            InstanceState::BackingOff { .. } => {
                self.desired = DesiredState::Running;
                self.launch()
            }
            InstanceState::Stopping { reason, then_start } => {
                self.desired = DesiredState::Running;
                *reason = StopReason::Requested;
                *then_start = true;
                vec![Effect::Persist, Effect::Publish]
            }
            InstanceState::Starting | InstanceState::Running => Vec::new(),
        }
    }

    fn restart(&mut self, now: UnixMs) -> Vec<Effect> {
        match self.state {
            InstanceState::Starting | InstanceState::Running => {
                self.restart_row = RestartRow::default();
                self.begin_stopping(StopReason::Requested, true, now)
            }
            InstanceState::BackingOff { .. } => {
                self.restart_row = RestartRow::default();
                self.launch()
            }
            _ => self.start(false),
        }
    }

    fn stop(&mut self, reason: StopReason, now: UnixMs) -> Vec<Effect> {
        if reason >= StopReason::Requested {
            self.desired = DesiredState::Stopped;
        }
        match &mut self.state {
            InstanceState::Starting | InstanceState::Running => {
                self.begin_stopping(reason, false, now)
            }
            InstanceState::Stopping {
                reason: present,
                then_start,
            } => {
                *present = (*present).max(reason);
                *then_start = false;
                vec![Effect::Persist, Effect::Publish]
            }
            InstanceState::BackingOff { .. } => {
                self.state = InstanceState::Stopped { reason };
                vec![
                    Effect::Disarm(Deadline::Backoff),
                    Effect::Persist,
                    Effect::Publish,
                ]
            }
            // The daemon's own going changes nothing for what is down already.
            InstanceState::Pending
            | InstanceState::Stopped { .. }
            | InstanceState::Failed { .. }
                if reason == StopReason::Shutdown =>
            {
                Vec::new()
            }
            InstanceState::Stopped { reason: present } => {
                if *present >= reason {
                    return Vec::new();
                }
                *present = reason;
                vec![Effect::Persist, Effect::Publish]
            }
            InstanceState::Pending | InstanceState::Failed { .. } => {
                self.state = InstanceState::Stopped { reason };
                vec![Effect::Persist, Effect::Publish]
            }
        }
    }

    fn launched(&mut self, generation: Generation, now: UnixMs) -> Vec<Effect> {
        if generation != self.generation || self.child != Child::Launching {
            return vec![Effect::KillTree(generation)];
        }
        self.child = Child::Alive;
        match self.state {
            InstanceState::Stopping { .. } => vec![
                Effect::CloseStdin(generation),
                Effect::Arm(Deadline::Term, after(now, self.policy.stop.eof_grace.ms())),
            ],
            // Counted from here: a launch may have waited for its turn, or for the keeper.
            _ => vec![
                Effect::Arm(
                    Deadline::Start,
                    after(now, self.policy.health.start_timeout.ms()),
                ),
                Effect::Publish,
            ],
        }
    }

    fn adopted(&mut self, generation: Generation, now: UnixMs) -> Vec<Effect> {
        if generation != self.generation || self.child != Child::None {
            return vec![Effect::KillTree(generation)];
        }
        self.child = Child::Alive;
        self.health = Health::Unknown;
        self.broken = None;
        if self.desired == DesiredState::Stopped {
            let reason = match self.state {
                InstanceState::Stopping { reason, .. } | InstanceState::Stopped { reason } => {
                    reason
                }
                _ => StopReason::Requested,
            };
            return self.begin_stopping(reason, false, now);
        }
        self.state = InstanceState::Starting;
        vec![
            Effect::Arm(
                Deadline::Start,
                after(now, self.policy.health.start_timeout.ms()),
            ),
            Effect::Publish,
        ]
    }

    fn ready(&mut self, generation: Generation, now: UnixMs) -> Vec<Effect> {
        if generation != self.generation
            || self.state != InstanceState::Starting
            || self.broken.is_some()
        {
            return Vec::new();
        }
        self.state = InstanceState::Running;
        self.health = Health::Healthy;
        self.restart_row.ready_at = Some(now);
        vec![
            Effect::Disarm(Deadline::Start),
            Effect::Persist,
            Effect::Publish,
        ]
    }

    fn ended(&mut self, status: &ExitStatus, now: UnixMs, jitter: u16) -> Vec<Effect> {
        self.child = Child::None;
        self.health = Health::Unknown;
        let mut effects = vec![
            Effect::Disarm(Deadline::Start),
            Effect::Disarm(Deadline::Silent),
            Effect::Disarm(Deadline::Term),
            Effect::Disarm(Deadline::Kill),
        ];
        self.silent = None;
        let broken = self.broken.take();
        let breached = std::mem::take(&mut self.breached);
        match self.state {
            InstanceState::Stopping {
                then_start: true, ..
            } => effects.extend(self.launch()),
            InstanceState::Stopping { reason, .. } => {
                self.state = InstanceState::Stopped { reason };
                effects.extend([Effect::Persist, Effect::Publish]);
            }
            _ if breached => {
                let cause = broken.unwrap_or_else(|| format!("it {status}"));
                self.state = InstanceState::Failed { cause };
                effects.extend([Effect::Persist, Effect::Publish]);
            }
            _ => match self
                .restart_row
                .after_exit(&self.policy.restart, status, now, jitter)
            {
                RestartDecision::LaunchAt(at) if at <= now => effects.extend(self.launch()),
                RestartDecision::LaunchAt(at) => {
                    self.state = InstanceState::BackingOff { until: at };
                    effects.extend([
                        Effect::Arm(Deadline::Backoff, at),
                        Effect::Persist,
                        Effect::Publish,
                    ]);
                }
                RestartDecision::GiveUp(cause) => {
                    let cause = match broken {
                        Some(broken) => format!("{broken}; {cause}"),
                        None => cause,
                    };
                    self.state = InstanceState::Failed { cause };
                    effects.extend([Effect::Persist, Effect::Publish]);
                }
            },
        }
        effects
    }

    fn deadline(&mut self, deadline: Deadline, now: UnixMs) -> Vec<Effect> {
        match (deadline, &self.state) {
            (Deadline::Start, InstanceState::Starting) => {
                let cause = format!(
                    "it did not finish the MCP handshake within {}",
                    self.policy.health.start_timeout
                );
                self.give_up_child(self.generation, cause)
            }
            (Deadline::Silent, _) => match self.silent.take() {
                Some(cause) => self.give_up_child(self.generation, cause),
                None => Vec::new(),
            },
            (Deadline::Backoff, InstanceState::BackingOff { .. }) => self.launch(),
            (Deadline::Term, InstanceState::Stopping { reason, .. })
                if self.child == Child::Alive =>
            {
                vec![
                    Effect::Terminate(self.generation),
                    Effect::Arm(
                        Deadline::Kill,
                        after(now, grace_ms(self.policy.stop.term_grace.ms(), *reason)),
                    ),
                ]
            }
            (Deadline::Kill, InstanceState::Stopping { .. }) if self.child == Child::Alive => vec![
                Effect::KillTree(self.generation),
                Effect::Arm(Deadline::Kill, now.saturating_add(KILL_AGAIN_MS)),
            ],
            _ => Vec::new(),
        }
    }

    fn launch(&mut self) -> Vec<Effect> {
        self.generation = self.generation.next();
        if self.state.comes_back() {
            self.restarts += 1;
        }
        self.state = InstanceState::Starting;
        self.health = Health::Unknown;
        self.child = Child::Launching;
        self.broken = None;
        self.breached = false;
        vec![
            Effect::Disarm(Deadline::Backoff),
            Effect::Persist,
            Effect::Publish,
            Effect::Launch(self.generation),
        ]
    }

    fn begin_stopping(&mut self, reason: StopReason, then_start: bool, now: UnixMs) -> Vec<Effect> {
        self.state = InstanceState::Stopping { reason, then_start };
        self.health = Health::Unknown;
        let mut effects = vec![Effect::Disarm(Deadline::Start), Effect::Publish];
        if self.child == Child::Alive {
            effects.extend([
                Effect::CloseStdin(self.generation),
                Effect::Arm(Deadline::Term, after(now, self.policy.stop.eof_grace.ms())),
            ]);
        }
        // Last: a child that is to go need not wait for the store. Where a caller waits, the store has it first.
        effects.push(Effect::Persist);
        effects
    }
}

/// A lease ends when it was said to end, so its graces are short; it was announced long before.
fn grace_ms(grace_ms: u64, reason: StopReason) -> u64 {
    match reason {
        StopReason::Expired => grace_ms.min(EXPIRY_GRACE_MS),
        _ => grace_ms,
    }
}

fn after(now: UnixMs, ms: u64) -> UnixMs {
    now.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX))
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;
