//! What a child that is up does, or what is done with it while it is up.

use super::{Child, Lifecycle};
use crate::domain::{
    UnixMs,
    event::{Deadline, Effect},
    id::Generation,
    restart::RestartPolicy,
    state::{Health, InstanceState},
};

/// How long a child that closed its connection may take to end before it is given up.
const SILENT_GRACE_MS: i64 = 250;

impl Lifecycle {
    pub(super) fn hold_still(&mut self, generation: Generation, frozen: bool) -> Vec<Effect> {
        if generation != self.generation
            || self.state != InstanceState::Running
            || self.child != Child::Alive
            || self.broken.is_some()
            || self.frozen == frozen
        {
            return Vec::new();
        }
        self.frozen = frozen;
        vec![Effect::Publish]
    }

    pub(super) fn judged(&mut self, generation: Generation, health: Health) -> Vec<Effect> {
        if generation != self.generation
            || self.state != InstanceState::Running
            || self.health == health
            || self.frozen
        {
            return Vec::new();
        }
        self.health = health;
        let mut effects = vec![Effect::Publish];
        if health == Health::Unhealthy && self.policy.restart.policy != RestartPolicy::Never {
            let cause = format!(
                "{} probes in a row went unanswered",
                self.policy.health.failure_threshold
            );
            effects.extend(self.give_up_child(generation, cause));
        }
        effects
    }

    pub(super) fn silenced(
        &mut self,
        generation: Generation,
        cause: String,
        now: UnixMs,
    ) -> Vec<Effect> {
        let live = matches!(self.state, InstanceState::Starting | InstanceState::Running);
        if generation != self.generation || !live || self.silent.is_some() {
            return Vec::new();
        }
        self.silent = Some(cause);
        let at = now.saturating_add(SILENT_GRACE_MS);
        vec![Effect::Arm(Deadline::Silent, at)]
    }

    pub(super) fn give_up_child(&mut self, generation: Generation, cause: String) -> Vec<Effect> {
        let live = matches!(self.state, InstanceState::Starting | InstanceState::Running);
        if generation != self.generation || !live || self.broken.is_some() {
            return Vec::new();
        }
        self.broken = Some(cause);
        match self.child {
            Child::Alive => vec![Effect::KillTree(generation), Effect::Publish],
            _ => vec![Effect::Publish],
        }
    }

    pub(super) fn breach(&mut self, generation: Generation, cause: String) -> Vec<Effect> {
        let effects = self.give_up_child(generation, cause);
        self.breached |= !effects.is_empty();
        effects
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Policy, StatusWord};
    use super::*;
    use crate::domain::{
        event::Event,
        exit::ExitStatus,
        state::{DesiredState, StopReason},
    };

    const ONE: Generation = Generation(1);

    fn frozen() -> Lifecycle {
        let mut life = Lifecycle::new(Policy::default());
        for event in [Event::Start, Event::Launched(ONE), Event::Ready(ONE)] {
            life.step(event, 0, 0);
        }
        assert_eq!(life.step(Event::Frozen(ONE), 1, 0), [Effect::Publish]);
        assert_eq!(life.word(), StatusWord::Frozen);
        life
    }

    #[test]
    fn a_frozen_child_runs_on_when_it_is_thawed() {
        let mut life = frozen();
        assert!(life.step(Event::Frozen(ONE), 2, 0).is_empty(), "told twice");
        // What was asked before it held still says nothing of it.
        let unhealthy = Event::Health(ONE, Health::Unhealthy);
        assert!(life.step(unhealthy, 3, 0).is_empty());
        assert!(life.step(Event::Thawed(Generation(2)), 4, 0).is_empty());
        assert_eq!(life.step(Event::Thawed(ONE), 5, 0), [Effect::Publish]);
        assert_eq!(life.word(), StatusWord::Running);
        assert_eq!((life.generation, life.restarts), (ONE, 0));
    }

    #[test]
    fn only_what_runs_is_frozen() {
        let mut life = Lifecycle::new(Policy::default());
        life.step(Event::Start, 0, 0);
        for event in [Event::Launched(ONE), Event::Frozen(ONE)] {
            life.step(event, 0, 0);
        }
        assert_eq!(life.word(), StatusWord::Starting);
        life.step(Event::Ready(ONE), 1, 0);
        life.step(Event::Broken(ONE, "no answer".to_owned()), 2, 0);
        assert!(life.step(Event::Frozen(ONE), 3, 0).is_empty());
    }

    #[test]
    fn whatever_ends_it_finds_it_as_any_other() {
        for (reason, word) in [
            (StopReason::Idle, StatusWord::Asleep),
            (StopReason::Requested, StatusWord::Stopped),
            (StopReason::Expired, StatusWord::Expired),
        ] {
            let mut life = frozen();
            let effects = life.step(Event::Stop(reason), 2, 0);
            assert!(effects.contains(&Effect::CloseStdin(ONE)), "{effects:?}");
            assert_eq!(life.word(), StatusWord::Stopping);
            life.step(Event::Exited(ONE, ExitStatus::Exited { code: 0 }), 3, 0);
            assert_eq!(life.word(), word);
        }
        let mut life = frozen();
        let killed = ExitStatus::Signaled { signal: 9 };
        life.step(Event::Exited(ONE, killed), 2, 0);
        assert_eq!(life.word(), StatusWord::Starting);
        assert_eq!(life.desired, DesiredState::Running);
    }
}
