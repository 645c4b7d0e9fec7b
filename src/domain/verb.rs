//! What may be asked of an instance in which state, and what its lease and its past ask for by themselves.

use super::{
    UnixMs,
    instance::Lease,
    state::{DesiredState, InstanceState, StopReason},
};

/// A verb, as far as the state has a say in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Start, stop, restart or extend: for what has a lease that runs.
    Run,
    /// Bring it back after its lease ran out.
    Restore,
    /// Name, labels, access tokens: for whatever is there.
    Change,
    /// Remove it.
    Delete,
}

/// Why a verb does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    /// It is being deleted: to everyone it is gone.
    Gone,
    /// The state does not allow it; what would be possible, in words.
    State(&'static str),
}

/// Holds a verb against state and lease.
///
/// # Errors
/// [`Misfit`] when it does not fit.
pub fn check(verb: Verb, state: &InstanceState, lease: &Lease, now: UnixMs) -> Result<(), Misfit> {
    let expired = is_going(state, StopReason::Expired);
    match verb {
        Verb::Delete => Ok(()),
        _ if is_going(state, StopReason::Deleted) => Err(Misfit::Gone),
        Verb::Run if expired => Err(Misfit::State("its lease ran out; restore it or delete it")),
        Verb::Restore if !expired => Err(Misfit::State("only an expired instance can be restored")),
        Verb::Restore if !lease.is_restorable(now) => {
            Err(Misfit::State("its restore window is over"))
        }
        Verb::Run | Verb::Restore | Verb::Change => Ok(()),
    }
}

/// Something that happens to an instance without anyone asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Its lease ran out.
    Expire,
    /// It should run.
    Start,
    /// Its restore window is over: remove it.
    Purge,
    /// It is not time yet, since the wall clock was set back or the lease was changed: look again when it is.
    LookAgain,
}

/// What an instance without a child needs when its daemon starts: what is asleep stays asleep.
#[must_use]
pub fn at_boot(
    desired: DesiredState,
    state: &InstanceState,
    has_child: bool,
    lease: &Lease,
    now: UnixMs,
) -> Option<Wish> {
    let asleep = InstanceState::Stopped {
        reason: StopReason::Idle,
    };
    if lease.is_over(now) {
        Some(Wish::Expire)
    } else if desired == DesiredState::Running && !has_child && *state != asleep {
        Some(Wish::Start)
    } else {
        None
    }
}

/// What is due when a timer of the lease fires; `None`: nothing any more, it is being deleted.
#[must_use]
pub fn at_lease_timer(state: &InstanceState, lease: &Lease, now: UnixMs) -> Option<Wish> {
    if is_going(state, StopReason::Deleted) {
        return None;
    }
    let (wish, is_due) = if is_going(state, StopReason::Expired) {
        (Wish::Purge, !lease.is_restorable(now))
    } else {
        (Wish::Expire, lease.is_over(now))
    };
    Some(if is_due { wish } else { Wish::LookAgain })
}

/// Whether it is down for this reason, or on its way there.
fn is_going(state: &InstanceState, why: StopReason) -> bool {
    matches!(state, InstanceState::Stopped { reason } | InstanceState::Stopping { reason, .. } if *reason == why)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::duration::HumanDuration;

    const VERBS: [Verb; 4] = [Verb::Run, Verb::Restore, Verb::Change, Verb::Delete];

    fn stopped(reason: StopReason) -> InstanceState {
        InstanceState::Stopped { reason }
    }

    fn stopping(reason: StopReason) -> InstanceState {
        InstanceState::Stopping {
            reason,
            then_start: false,
        }
    }

    /// A lease that ended at 10,000 and can be restored for a minute.
    fn ended() -> Lease {
        let mut lease = Lease::granted(Some(HumanDuration::from_secs(10)), 0);
        lease.expire(HumanDuration::from_secs(60));
        lease
    }

    #[test]
    fn an_expired_instance_can_be_restored_or_deleted_until_its_window_is_over() {
        for state in [stopped(StopReason::Expired), stopping(StopReason::Expired)] {
            let at = |verb, now| check(verb, &state, &ended(), now);
            assert!(matches!(at(Verb::Run, 20_000), Err(Misfit::State(_))));
            assert_eq!(at(Verb::Restore, 69_999), Ok(()));
            assert!(matches!(at(Verb::Restore, 70_000), Err(Misfit::State(_))));
            assert_eq!(at(Verb::Delete, 70_000), Ok(()));
        }
    }

    #[test]
    fn what_is_being_deleted_is_gone_to_all_but_a_second_deletion() {
        for state in [stopped(StopReason::Deleted), stopping(StopReason::Deleted)] {
            for verb in VERBS {
                let expected = match verb {
                    Verb::Delete => Ok(()),
                    _ => Err(Misfit::Gone),
                };
                assert_eq!(check(verb, &state, &ended(), 0), expected, "{verb:?}");
            }
        }
    }

    #[test]
    fn a_start_of_the_daemon_wakes_what_should_run_and_nothing_else() {
        let endless = Lease::granted(None, 0);
        let at = |desired, state, has_child| at_boot(desired, &state, has_child, &endless, 50);
        let running = DesiredState::Running;
        assert_eq!(
            at(running, InstanceState::Pending, false),
            Some(Wish::Start)
        );
        assert_eq!(at(running, InstanceState::Starting, true), None);
        assert_eq!(at(running, stopped(StopReason::Idle), false), None);
        assert_eq!(
            at(running, stopped(StopReason::Shutdown), false),
            Some(Wish::Start)
        );
        let requested = stopped(StopReason::Requested);
        assert_eq!(at(DesiredState::Stopped, requested, false), None);
        let over = Lease::granted(Some(HumanDuration::from_secs(10)), 0);
        assert_eq!(
            at_boot(running, &InstanceState::Running, true, &over, 10_000),
            Some(Wish::Expire)
        );
    }

    proptest! {
        #[test]
        fn a_lease_timer_asks_for_nothing_before_its_time(ttl in 1_i64..1_000_000, window in 0_i64..1_000_000, now in 0_i64..3_000_000) {
            let ms = |ms: i64| HumanDuration::from_ms(ms.cast_unsigned());
            let mut lease = Lease::granted(Some(ms(ttl)), 0);
            let wish = at_lease_timer(&InstanceState::Running, &lease, now);
            prop_assert_eq!(wish, Some(if now >= ttl { Wish::Expire } else { Wish::LookAgain }));
            lease.expire(ms(window));
            let wish = at_lease_timer(&stopped(StopReason::Expired), &lease, now);
            let over = now >= ttl + window;
            prop_assert_eq!(wish, Some(if over { Wish::Purge } else { Wish::LookAgain }));
            prop_assert_eq!(at_lease_timer(&stopping(StopReason::Deleted), &lease, now), None);
        }
    }
}
