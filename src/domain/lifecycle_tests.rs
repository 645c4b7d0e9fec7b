//! The table's cases by name, then random histories against a model of the host.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::domain::restart::{RestartPolicy, RestartSpec};

const CRASH: ExitStatus = ExitStatus::Exited { code: 3 };

fn running(policy: Policy) -> Lifecycle {
    let mut life = Lifecycle::new(policy);
    life.step(Event::Start, 0, 0);
    life.step(Event::Launched(Generation(1)), 1, 0);
    life.step(Event::Ready(Generation(1)), 2, 0);
    assert_eq!(life.word(), StatusWord::Running);
    life
}

#[test]
fn intent_is_persisted_before_it_is_acted_on() {
    let effects = Lifecycle::new(Policy::default()).step(Event::Start, 0, 0);
    let persist = effects.iter().position(|e| *e == Effect::Persist);
    let launch = effects
        .iter()
        .position(|e| *e == Effect::Launch(Generation(1)));
    assert!(persist.is_some() && persist < launch, "{effects:?}");
}

#[test]
fn a_child_that_is_to_go_does_not_wait_for_the_store() {
    let effects = running(Policy::default()).step(Event::Stop(StopReason::Expired), 10, 0);
    let place = |wanted: Effect| effects.iter().position(|effect| *effect == wanted);
    let (told, asked) = (
        place(Effect::Publish),
        place(Effect::CloseStdin(Generation(1))),
    );
    assert!(told.is_some() && told < asked, "{effects:?}");
    assert!(asked < place(Effect::Persist), "{effects:?}");
}

#[test]
fn stopping_follows_the_order_of_the_specification() {
    let mut life = running(Policy::default());
    let one = Generation(1);
    assert!(
        life.step(Event::Stop(StopReason::Requested), 10, 0)
            .contains(&Effect::CloseStdin(one))
    );
    let effects = life.step(Event::Deadline(Deadline::Term), 2_010, 0);
    assert_eq!(
        effects,
        [Effect::Terminate(one), Effect::Arm(Deadline::Kill, 5_010)]
    );
    assert!(
        life.step(Event::Deadline(Deadline::Kill), 5_010, 0)
            .contains(&Effect::KillTree(one))
    );
    life.step(
        Event::Exited(one, ExitStatus::Signaled { signal: 9 }),
        5_011,
        0,
    );
    assert_eq!(life.word(), StatusWord::Stopped);
    assert_eq!(life.desired, DesiredState::Stopped);
}

#[test]
fn a_silent_child_is_given_up_only_if_it_lives_on() {
    let one = Generation(1);
    let silent = || Event::Silent(one, "it closed its stdout".to_owned());
    let mut life = running(Policy::default());
    let effects = life.step(silent(), 10, 0);
    assert_eq!(effects, [Effect::Arm(Deadline::Silent, 260)]);
    assert!(life.step(silent(), 11, 0).is_empty(), "told twice");
    let effects = life.step(Event::Deadline(Deadline::Silent), 260, 0);
    assert!(effects.contains(&Effect::KillTree(one)), "{effects:?}");
    assert_eq!(life.broken(), Some("it closed its stdout"));

    // One that ends in time is told by its exit alone, and the next one is not given up for it.
    let mut life = running(Policy::default());
    life.step(silent(), 10, 0);
    let effects = life.step(Event::Exited(one, CRASH), 20, 0);
    assert!(effects.contains(&Effect::Disarm(Deadline::Silent)));
    life.step(Event::Launched(Generation(2)), 30, 0);
    let effects = life.step(Event::Deadline(Deadline::Silent), 260, 0);
    assert!(effects.is_empty(), "{effects:?}");
}

#[test]
fn a_crash_launches_again_at_once_with_the_next_generation() {
    let mut life = running(Policy::default());
    let effects = life.step(Event::Exited(Generation(1), CRASH), 50, 0);
    assert!(
        effects.contains(&Effect::Launch(Generation(2))),
        "{effects:?}"
    );
    assert_eq!(life.restarts, 1);
    // What was asked for is not counted.
    life.step(Event::Launched(Generation(2)), 60, 0);
    life.step(Event::Restart, 61, 0);
    life.step(Event::Exited(Generation(2), CRASH), 62, 0);
    assert_eq!((life.generation, life.restarts), (Generation(3), 1));
    assert!(
        life.step(Event::Exited(Generation(1), CRASH), 51, 0)
            .is_empty(),
        "stale"
    );
}

#[test]
fn a_crash_loop_fails_with_its_cause() {
    let mut life = Lifecycle::new(Policy::default());
    let mut now = 0;
    life.step(Event::Start, now, 0);
    for _ in 0..100 {
        life.step(Event::Launched(life.generation), now, 0);
        life.step(Event::Exited(life.generation, CRASH), now, 0);
        if let InstanceState::BackingOff { until } = life.state {
            now = until;
            life.step(Event::Deadline(Deadline::Backoff), now, 0);
        }
    }
    let InstanceState::Failed { cause } = &life.state else {
        panic!("{:?}", life.state)
    };
    assert!(
        cause.contains("code 3") && cause.contains("8 times"),
        "{cause}"
    );
}

#[test]
fn what_went_past_its_budget_is_not_launched_again_by_any_policy() {
    let mut life = Lifecycle::new(Policy::default());
    life.step(Event::Start, 0, 0);
    life.step(Event::Launched(Generation(1)), 1, 0);
    life.step(Event::Ready(Generation(1)), 2, 0);
    let old = life.step(Event::Breach(Generation(0), "stale".into()), 3, 0);
    assert!(old.is_empty());
    let effects = life.step(Event::Breach(Generation(1), "too much".into()), 4, 0);
    assert!(effects.contains(&Effect::KillTree(Generation(1))));
    let killed = ExitStatus::Signaled { signal: 9 };
    life.step(Event::Exited(Generation(1), killed), 5, 0);
    let cause = "too much".to_owned();
    assert_eq!(life.state, InstanceState::Failed { cause });
    // By hand it begins anew, and an end of another kind is treated as before.
    life.step(Event::Start, 6, 0);
    life.step(Event::Launched(Generation(2)), 7, 0);
    life.step(Event::Exited(Generation(2), CRASH), 8, 0);
    assert_eq!(
        life.state,
        InstanceState::Starting,
        "launched by policy again"
    );
    assert_eq!(life.generation, Generation(3));
}

#[test]
fn a_start_that_never_answers_says_so() {
    let never = RestartSpec {
        policy: RestartPolicy::Never,
        ..RestartSpec::default()
    };
    let mut life = Lifecycle::new(Policy {
        restart: never,
        ..Policy::default()
    });
    life.step(Event::Start, 0, 0);
    life.step(Event::Launched(Generation(1)), 1, 0);
    let effects = life.step(Event::Deadline(Deadline::Start), 60_000, 0);
    assert!(effects.contains(&Effect::KillTree(Generation(1))));
    life.step(
        Event::Exited(Generation(1), ExitStatus::Signaled { signal: 9 }),
        60_001,
        0,
    );
    let InstanceState::Failed { cause } = &life.state else {
        panic!("{:?}", life.state)
    };
    assert!(
        cause.starts_with("it did not finish the MCP handshake within 1m"),
        "{cause}"
    );
}

#[test]
fn expired_instances_come_back_only_by_restore() {
    let mut life = running(Policy::default());
    life.step(Event::Stop(StopReason::Expired), 10, 0);
    assert!(life.step(Event::Start, 11, 0).is_empty());
    life.step(
        Event::Exited(Generation(1), ExitStatus::Exited { code: 0 }),
        12,
        0,
    );
    assert_eq!(life.word(), StatusWord::Expired);
    assert!(life.step(Event::Start, 13, 0).is_empty());
    assert!(life.step(Event::Restart, 13, 0).is_empty());
    assert!(
        life.step(Event::Restore, 14, 0)
            .contains(&Effect::Launch(Generation(2)))
    );
}

#[test]
fn a_stop_during_the_launch_still_stops() {
    let mut life = Lifecycle::new(Policy::default());
    life.step(Event::Start, 0, 0);
    life.step(Event::Stop(StopReason::Requested), 1, 0);
    assert_eq!(life.word(), StatusWord::Stopping);
    assert!(
        life.step(Event::Launched(Generation(1)), 2, 0)
            .contains(&Effect::CloseStdin(Generation(1)))
    );
}

#[test]
fn a_failed_launch_while_stopping_is_a_stop() {
    let mut life = Lifecycle::new(Policy::default());
    life.step(Event::Start, 0, 0);
    life.step(Event::Stop(StopReason::Deleted), 1, 0);
    life.step(
        Event::LaunchFailed(Generation(1), ExitStatus::KeeperLost),
        2,
        0,
    );
    assert_eq!(
        life.state,
        InstanceState::Stopped {
            reason: StopReason::Deleted
        }
    );
}

#[test]
fn adoption_keeps_the_generation_and_honours_a_stop() {
    let policy = Policy::default();
    let row = RestartRow::default();
    let mut life = Lifecycle::restored(
        DesiredState::Running,
        InstanceState::Running,
        Generation(4),
        row,
        3,
        policy,
    );
    life.step(Event::Adopted(Generation(4)), 0, 0);
    life.step(Event::Ready(Generation(4)), 1, 0);
    assert_eq!(
        (life.word(), life.generation, life.restarts),
        (StatusWord::Running, Generation(4), 3)
    );

    let mut stopped = Lifecycle::restored(
        DesiredState::Stopped,
        InstanceState::Running,
        Generation(4),
        row,
        3,
        policy,
    );
    assert!(
        stopped
            .step(Event::Adopted(Generation(4)), 0, 0)
            .contains(&Effect::CloseStdin(Generation(4)))
    );
    let mut stale = Lifecycle::restored(
        DesiredState::Running,
        InstanceState::Running,
        Generation(5),
        row,
        3,
        policy,
    );
    assert_eq!(
        stale.step(Event::Adopted(Generation(4)), 0, 0),
        [Effect::KillTree(Generation(4))]
    );
}

#[test]
fn shutdown_keeps_what_was_asked() {
    let mut life = running(Policy::default());
    life.step(Event::Stop(StopReason::Shutdown), 5, 0);
    assert_eq!(life.desired, DesiredState::Running);
    let mut stopped = running(Policy::default());
    stopped.step(Event::Stop(StopReason::Requested), 5, 0);
    stopped.step(Event::Stop(StopReason::Shutdown), 6, 0);
    stopped.step(Event::Exited(Generation(1), CRASH), 7, 0);
    assert_eq!(
        stopped.state,
        InstanceState::Stopped {
            reason: StopReason::Requested
        }
    );
}

/// A host that does what it is told: it launches, kills, and remembers what lives.
#[derive(Default)]
struct Host {
    launching: Option<Generation>,
    alive: Option<Generation>,
    timers: BTreeMap<Deadline, UnixMs>,
    ignores_eof: bool,
    ignores_term: bool,
}

impl Host {
    /// Performs effects; answers events that follow at once.
    fn perform(&mut self, effects: Vec<Effect>) -> Result<Vec<Event>, TestCaseError> {
        let mut events = Vec::new();
        for effect in effects {
            match effect {
                Effect::Launch(generation) => {
                    prop_assert!(
                        self.alive.is_none(),
                        "a second child beside {:?}",
                        self.alive
                    );
                    prop_assert!(self.launching.is_none(), "two launches at once");
                    self.launching = Some(generation);
                }
                Effect::CloseStdin(generation)
                    if self.alive == Some(generation) && !self.ignores_eof =>
                {
                    events.extend(self.end(ExitStatus::Exited { code: 0 }));
                }
                Effect::Terminate(generation)
                    if self.alive == Some(generation) && !self.ignores_term =>
                {
                    events.extend(self.end(ExitStatus::Signaled { signal: 15 }));
                }
                Effect::KillTree(generation) if self.alive == Some(generation) => {
                    events.extend(self.end(ExitStatus::Signaled { signal: 9 }));
                }
                Effect::Arm(deadline, at) => {
                    self.timers.insert(deadline, at);
                }
                Effect::Disarm(deadline) => {
                    self.timers.remove(&deadline);
                }
                _ => {}
            }
        }
        Ok(events)
    }

    fn end(&mut self, status: ExitStatus) -> Option<Event> {
        self.alive
            .take()
            .map(|generation| Event::Exited(generation, status))
    }
}

fn drive(
    life: &mut Lifecycle,
    host: &mut Host,
    event: Event,
    now: UnixMs,
) -> Result<(), TestCaseError> {
    let mut queue = vec![event];
    while let Some(event) = queue.pop() {
        let before = life.generation;
        let expired = matches!(
            life.state,
            InstanceState::Stopped {
                reason: StopReason::Expired
            }
        );
        let restoring = event == Event::Restore;
        let effects = life.step(event, now, 7);
        prop_assert!(life.generation >= before, "the generation went back");
        let launches = effects
            .iter()
            .filter(|e| matches!(e, Effect::Launch(_)))
            .count();
        prop_assert!(launches <= 1);
        prop_assert!(
            !(expired && launches > 0 && !restoring),
            "launched while expired"
        );
        queue.extend(host.perform(effects)?);
        prop_assert!(!life.frozen || life.state == InstanceState::Running);
    }
    prop_assert_eq!(
        life.has_child(),
        host.alive.is_some() || host.launching.is_some()
    );
    Ok(())
}

#[derive(Debug, Clone)]
enum Move {
    Ask(Event),
    LaunchDone(bool),
    Crash(i32),
    /// Of the child that lives.
    Told(fn(Generation) -> Event),
    Time(i64),
}

fn moves() -> impl Strategy<Value = Move> {
    let reasons = prop_oneof![
        Just(StopReason::Idle),
        Just(StopReason::Shutdown),
        Just(StopReason::Requested),
        Just(StopReason::Expired),
        Just(StopReason::Deleted),
    ];
    prop_oneof![
        3 => Just(Move::Ask(Event::Start)),
        2 => Just(Move::Ask(Event::Restart)),
        1 => Just(Move::Ask(Event::Restore)),
        2 => reasons.prop_map(|reason| Move::Ask(Event::Stop(reason))),
        6 => any::<bool>().prop_map(Move::LaunchDone),
        3 => (0..4).prop_map(Move::Crash),
        5 => Just(Move::Told(Event::Ready)),
        1 => Just(Move::Told(|of| Event::Health(of, Health::Unhealthy))),
        1 => Just(Move::Told(|of| Event::Broken(of, "stdout closed".into()))),
        1 => Just(Move::Told(|of| Event::Silent(of, "stdout closed".into()))),
        2 => Just(Move::Told(Event::Frozen)),
        1 => Just(Move::Told(Event::Thawed)),
        4 => (1_i64..40_000).prop_map(Move::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_history_breaks_the_invariants(
        history in proptest::collection::vec(moves(), 1..80),
        ignores_eof: bool,
        ignores_term: bool,
    ) {
        let mut life = Lifecycle::new(Policy::default());
        let mut host = Host { ignores_eof, ignores_term, ..Host::default() };
        let mut now: UnixMs = 0;
        for step in history {
            now += 1;
            match step {
                Move::Ask(event) => drive(&mut life, &mut host, event, now)?,
                Move::LaunchDone(true) => {
                    if let Some(generation) = host.launching.take() {
                        host.alive = Some(generation);
                        drive(&mut life, &mut host, Event::Launched(generation), now)?;
                    }
                }
                Move::LaunchDone(false) => {
                    if let Some(generation) = host.launching.take() {
                        let status = ExitStatus::NotStarted { reason: "no such program".into() };
                        drive(&mut life, &mut host, Event::LaunchFailed(generation, status), now)?;
                    }
                }
                Move::Crash(code) => {
                    if let Some(event) = host.end(ExitStatus::Exited { code }) {
                        drive(&mut life, &mut host, event, now)?;
                    }
                }
                Move::Told(event) => {
                    if let Some(generation) = host.alive {
                        drive(&mut life, &mut host, event(generation), now)?;
                    }
                }
                Move::Time(ms) => {
                    now += ms;
                    let due: Vec<_> = host.timers.iter().filter(|(_, at)| **at <= now).map(|(d, _)| *d).collect();
                    for deadline in due {
                        host.timers.remove(&deadline);
                        drive(&mut life, &mut host, Event::Deadline(deadline), now)?;
                    }
                }
            }
        }
        // Whatever happened: a stop and enough time end it.
        drive(&mut life, &mut host, Event::Stop(StopReason::Requested), now)?;
        for _ in 0..8 {
            now += 60_000;
            if let Some(generation) = host.launching.take() {
                host.alive = Some(generation);
                drive(&mut life, &mut host, Event::Launched(generation), now)?;
            }
            let due: Vec<_> = host.timers.keys().copied().collect();
            for deadline in due {
                host.timers.remove(&deadline);
                drive(&mut life, &mut host, Event::Deadline(deadline), now)?;
            }
        }
        prop_assert!(matches!(life.state, InstanceState::Stopped { .. }), "{:?}", life.state);
        prop_assert!(host.alive.is_none() && host.launching.is_none());
        prop_assert_eq!(life.desired, DesiredState::Stopped);
    }
}
