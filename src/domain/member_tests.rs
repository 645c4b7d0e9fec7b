use proptest::prelude::*;

use super::*;
use crate::domain::duration::HumanDuration;

const POLICY: MemberPolicy = MemberPolicy {
    start_timeout_ms: 60_000,
    stop: StopSpec {
        eof_grace: HumanDuration::from_secs(2),
        term_grace: HumanDuration::from_secs(3),
    },
};

fn after(events: &[MemberEvent]) -> (MemberLife, Vec<MemberEffect>) {
    let mut life = MemberLife::new(POLICY);
    let mut last = Vec::new();
    for event in events {
        last = life.step(event.clone());
    }
    (life, last)
}

fn serving() -> Vec<MemberEvent> {
    vec![
        MemberEvent::TurnCame,
        MemberEvent::Launched,
        MemberEvent::Ready,
    ]
}

fn end_of(effects: &[MemberEffect]) -> MemberEnd {
    match effects {
        [MemberEffect::Over(end)] => end.clone(),
        other => panic!("not over: {other:?}"),
    }
}

const EXIT: ExitStatus = ExitStatus::Exited { code: 3 };

#[test]
fn a_session_that_ends_ends_its_member_politely() {
    let mut events = serving();
    let (_, effects) = after(&events);
    assert_eq!(effects, [MemberEffect::Serve]);
    for (event, effects) in [
        (
            MemberEvent::Unwanted,
            vec![MemberEffect::CloseStdin, MemberEffect::ArmIn(2_000)],
        ),
        (
            MemberEvent::Deadline,
            vec![MemberEffect::Terminate, MemberEffect::ArmIn(3_000)],
        ),
        (
            MemberEvent::Deadline,
            vec![MemberEffect::KillTree, MemberEffect::ArmIn(1_000)],
        ),
        (
            MemberEvent::Deadline,
            vec![MemberEffect::KillTree, MemberEffect::ArmIn(1_000)],
        ),
    ] {
        events.push(event);
        assert_eq!(after(&events).1, effects);
    }
    events.push(MemberEvent::Exited(ExitStatus::Signaled { signal: 9 }));
    let end = end_of(&after(&events).1);
    assert!(end.asked, "{end:?}");
}

#[test]
fn an_expiry_hurries() {
    let mut events = serving();
    events.push(MemberEvent::InstanceStops(StopReason::Expired));
    let hurried = [MemberEffect::CloseStdin, MemberEffect::ArmIn(80)];
    assert_eq!(after(&events).1, hurried);
}

#[test]
fn an_end_that_nobody_asked_for_is_told_with_its_cause() {
    let mut events = serving();
    events.push(MemberEvent::Exited(EXIT));
    let end = end_of(&after(&events).1);
    assert_eq!(
        (end.cause.as_str(), end.asked),
        ("it exited with code 3", false)
    );

    let mut events = serving();
    events.push(MemberEvent::Broken("its stdout is closed".into()));
    // The session ends because of it: that is no wish of its client.
    events.push(MemberEvent::Unwanted);
    events.push(MemberEvent::Exited(ExitStatus::Signaled { signal: 9 }));
    let end = end_of(&after(&events).1);
    assert!(end.cause.starts_with("its stdout is closed; it"), "{end:?}");
    assert!(!end.asked);

    let late = [
        MemberEvent::TurnCame,
        MemberEvent::Launched,
        MemberEvent::Deadline,
    ];
    assert_eq!(after(&late).1[0], MemberEffect::KillTree);
}

#[test]
fn nobody_who_left_is_launched_for() {
    let (life, effects) = after(&[MemberEvent::Unwanted]);
    assert!(life.is_gone());
    assert_eq!(end_of(&effects).status, None);
    // The keeper was at work already.
    let (_, effects) = after(&[
        MemberEvent::TurnCame,
        MemberEvent::Unwanted,
        MemberEvent::Launched,
    ]);
    assert_eq!(effects[0], MemberEffect::CloseStdin);
}

#[test]
fn one_that_serves_is_left_to_the_next_daemon_and_one_on_its_way_up_is_not() {
    let mut events = serving();
    events.push(MemberEvent::Released);
    let (life, effects) = after(&events);
    assert_eq!(effects, [MemberEffect::LetGo]);
    assert!(life.is_gone());
    let (_, effects) = after(&[
        MemberEvent::TurnCame,
        MemberEvent::Launched,
        MemberEvent::Released,
    ]);
    assert_eq!(effects[0], MemberEffect::CloseStdin);
    assert!(after(&[MemberEvent::Released]).0.is_gone());
    // One that was asked to leave goes on doing so.
    let mut events = serving();
    events.extend([MemberEvent::Unwanted, MemberEvent::Released]);
    assert_eq!(after(&events).1, []);
}

#[test]
fn one_that_was_left_serves_the_session_that_claims_it_and_ends_without_one() {
    let step = |life: &mut MemberLife, event| life.step(event);
    let mut life = MemberLife::left(POLICY);
    assert_eq!(step(&mut life, MemberEvent::Claimed), []);
    let effects = step(&mut life, MemberEvent::Unwanted);
    assert_eq!(effects[0], MemberEffect::CloseStdin);
    let over = step(&mut life, MemberEvent::Exited(EXIT));
    assert!(end_of(&over).asked, "its session ended: {over:?}");

    let mut life = MemberLife::left(POLICY);
    let effects = step(&mut life, MemberEvent::Unwanted);
    assert_eq!(effects[0], MemberEffect::CloseStdin);
    assert_eq!(step(&mut life, MemberEvent::Claimed), []);
    let over = end_of(&step(&mut life, MemberEvent::Exited(EXIT)));
    assert!(
        !over.asked && over.cause.contains("former daemon"),
        "{over:?}"
    );

    // It ended while there was no daemon.
    let mut life = MemberLife::left(POLICY);
    let over = end_of(&step(&mut life, MemberEvent::Exited(EXIT)));
    assert_eq!(
        (over.cause.as_str(), over.asked),
        ("it exited with code 3", false)
    );
    let mut life = MemberLife::left(POLICY);
    assert_eq!(
        step(&mut life, MemberEvent::Released),
        [MemberEffect::LetGo]
    );
}

fn events() -> impl Strategy<Value = Vec<MemberEvent>> {
    let event = prop_oneof![
        Just(MemberEvent::TurnCame),
        Just(MemberEvent::Launched),
        Just(MemberEvent::LaunchFailed(EXIT)),
        Just(MemberEvent::Ready),
        Just(MemberEvent::Broken("b".into())),
        Just(MemberEvent::Unwanted),
        Just(MemberEvent::InstanceStops(StopReason::Requested)),
        Just(MemberEvent::InstanceStops(StopReason::Expired)),
        Just(MemberEvent::Released),
        Just(MemberEvent::Claimed),
        Just(MemberEvent::Deadline),
        Just(MemberEvent::Exited(EXIT)),
    ];
    proptest::collection::vec(event, 0..24)
}

proptest! {
    /// One launch, one end, a hand-over only of what nobody gave up, and nothing is done to a child that is not there.
    #[test]
    fn a_life_has_one_beginning_and_one_end(events in events(), left in any::<bool>()) {
        let mut life = if left { MemberLife::left(POLICY) } else { MemberLife::new(POLICY) };
        let (mut launches, mut served, mut over, mut alive, mut unwanted) = (0, 0, 0, left, false);
        for event in events {
            alive |= event == MemberEvent::Launched && launches > 0 && over == 0;
            unwanted |= matches!(
                event,
                MemberEvent::Unwanted | MemberEvent::InstanceStops(_) | MemberEvent::Released
            );
            for effect in life.step(event) {
                prop_assert_eq!(over, 0, "{:?} after the end", effect);
                match effect {
                    MemberEffect::Launch => launches += 1,
                    MemberEffect::Serve => {
                        prop_assert!(!unwanted);
                        served += 1;
                    }
                    MemberEffect::CloseStdin | MemberEffect::Terminate | MemberEffect::KillTree => {
                        prop_assert!(alive);
                    }
                    MemberEffect::ArmIn(_) => {}
                    MemberEffect::LetGo => over += 1,
                    MemberEffect::Over(end) => {
                        prop_assert_eq!(end.asked, end.asked && unwanted);
                        over += 1;
                    }
                }
            }
            prop_assert_eq!(life.is_gone(), over == 1);
        }
        prop_assert!(launches <= 1 && served <= 1);
    }

    /// Whatever happened before: a member that is not wanted is gone, or killed after two more deadlines at most.
    #[test]
    fn an_unwanted_member_does_not_stay(events in events()) {
        let mut life = MemberLife::new(POLICY);
        for event in events {
            life.step(event);
        }
        let mut effects = life.step(MemberEvent::Unwanted);
        effects.extend(life.step(MemberEvent::Launched));
        for _ in 0..2 {
            effects.extend(life.step(MemberEvent::Deadline));
        }
        prop_assert!(life.is_gone() || life.state == State::Launching
            || effects.contains(&MemberEffect::KillTree), "{:?}: {:?}", life, effects);
    }

    /// There are never more processes than members may be, and an admitted one gets its place.
    #[test]
    fn members_stay_within_their_limit(present in 0_usize..9, ending in 0_usize..9, waiting in 0_usize..9, max in 1_usize..6) {
        let ending = ending.min(present);
        match admit(present, ending, waiting, max) {
            Admission::Now => prop_assert!(present + waiting < max),
            Admission::WhenOneIsGone => {
                prop_assert!(present + waiting >= max);
                prop_assert!(present - ending + waiting < max);
            }
            Admission::Refused => prop_assert!(present - ending + waiting >= max),
        }
    }

    /// Only one that rests gives way, the one that rested longest among those that help.
    #[test]
    fn who_works_does_not_give_way(
        sessions in proptest::collection::vec((0_i64..50, any::<bool>(), any::<bool>()), 0..12),
        sessions_max in 1_usize..12,
        members_max in proptest::option::of(1_usize..12),
    ) {
        let all: Vec<_> = sessions
            .iter()
            .enumerate()
            .map(|(key, (used_at, busy, has_member))| Resting {
                key,
                used_at: *used_at,
                busy: || *busy,
                has_member: *has_member,
            })
            .collect();
        let members = all.iter().filter(|one| one.has_member).count();
        let members_full = members_max.is_some_and(|max| members >= max);
        let helps = |key: &usize| {
            let (_, busy, has_member) = sessions[*key];
            !busy && (has_member || !members_full)
        };
        let helping = || all.iter().filter(|one| helps(&one.key));
        match room(all.iter().copied(), sessions_max, members_max) {
            Room::Free => prop_assert!(all.len() < sessions_max && !members_full),
            Room::After(key) => {
                prop_assert!(all.len() >= sessions_max || members_full);
                let oldest = helping().map(|one| one.used_at).min();
                prop_assert!(helps(&key));
                prop_assert_eq!(Some(all[key].used_at), oldest);
            }
            Room::MembersFull(max) => {
                prop_assert!(members >= max && helping().next().is_none());
            }
            Room::SessionsFull(max) => {
                prop_assert!(all.len() >= max && !members_full && helping().next().is_none());
            }
        }
    }
}
