//! What must be true of one slot after what was asked and answered. Pure: no clock, no daemon.
//!
//! An answer that did not come, or that says "not now", leaves open whether it was done. So a slot has a set of states
//! that it may be in, and what is seen of it must be one of them.

use std::collections::BTreeSet;

use super::steps::Ask;

/// What becomes of a slot's instance once everything has settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// There is none.
    Absent,
    /// It runs.
    Running,
    /// It is down as somebody asked.
    Stopped,
    /// Its lease ran out, or is about to.
    Expired,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It was done, says the daemon.
    Done,
    /// It was refused: the status, and the code of the problem.
    Refused(u16, String),
    /// The connection broke.
    Broken,
    /// There was no answer within a time that is longer than every limit.
    Stuck,
}

/// Something that must not be.
pub type Violation = String;

/// What is known of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot(BTreeSet<State>);

impl Default for Slot {
    fn default() -> Self {
        Self([State::Absent].into())
    }
}

/// What a verb makes of a state; `None`: it cannot be done there.
fn effect(ask: Ask, state: State) -> Option<State> {
    use State::{Absent, Expired, Running, Stopped};
    match (ask, state) {
        (Ask::Write(_) | Ask::WriteAndRead(_), state) => Some(state),
        (Ask::Create, Absent) => Some(Running),
        // Before its end a lease changes nothing, and after it everything is refused.
        (Ask::Start | Ask::Restart | Ask::Stop, Expired) => Some(Expired),
        (Ask::Start | Ask::Restart, Running | Stopped) => Some(Running),
        (Ask::Stop, Running | Stopped) => Some(Stopped),
        (Ask::Expire, Running | Stopped | Expired) => Some(Expired),
        (Ask::Restore, Expired) => Some(Running),
        (Ask::Delete, Running | Stopped | Expired) => Some(Absent),
        (Ask::Create, _) | (Ask::Restore, Running | Stopped) | (_, Absent) => None,
    }
}

impl Slot {
    /// Every state that it may be in.
    pub fn possible(&self) -> &BTreeSet<State> {
        &self.0
    }

    /// Whether it is certain that nothing is there.
    pub fn is_absent(&self) -> bool {
        self.0.iter().all(|state| *state == State::Absent)
    }

    /// Takes in how a request ended.
    ///
    /// # Errors
    /// The answer contradicts what was acknowledged before.
    pub fn answered(&mut self, ask: Ask, ending: &Ending) -> Result<(), Violation> {
        let before = self.0.clone();
        let reached: BTreeSet<State> = before
            .iter()
            .filter_map(|state| effect(ask, *state))
            .collect();
        let only = |state: State| before.contains(&state).then(|| BTreeSet::from([state]));
        let after = match ending {
            Ending::Done => Some(reached).filter(|reached| !reached.is_empty()),
            Ending::Refused(404, _) => only(State::Absent),
            Ending::Refused(409, code) if code == "wrong-state" => match ask {
                // Its lease did not run out yet, or never had an end.
                Ask::Restore => Some(before.clone()),
                _ => only(State::Expired),
            },
            // Not now: who asked does not know whether it was done.
            Ending::Refused(503, _) | Ending::Broken => {
                Some(before.union(&reached).copied().collect())
            }
            Ending::Refused(409, code)
                if code == "conflict" || code == "idempotency-in-progress" =>
            {
                Some(before.union(&reached).copied().collect())
            }
            Ending::Refused(..) | Ending::Stuck => None,
        };
        self.0 = after.ok_or_else(|| format!("{ask:?} of what is {before:?}: {ending:?}"))?;
        Ok(())
    }

    /// What a look at it, once everything had settled, showed: the status word, or that it is absent. From now on it is
    /// certain.
    ///
    /// # Errors
    /// It may not be in that state.
    pub fn settled(&mut self, seen: Option<&str>) -> Result<(), Violation> {
        let state = match seen {
            None => State::Absent,
            Some("running") => State::Running,
            Some("stopped") => State::Stopped,
            Some("expired") => State::Expired,
            Some(other) => return Err(format!("{other}, which may be {:?}", self.0)),
        };
        if !self.0.contains(&state) {
            return Err(format!("{state:?}, which may be {:?}", self.0));
        }
        let may_expire =
            matches!(state, State::Running | State::Stopped) && self.0.contains(&State::Expired);
        self.0 = [state].into();
        if may_expire {
            self.0.insert(State::Expired);
        }
        Ok(())
    }

    /// A look by its name, while things happen: an instance is found there, or none.
    ///
    /// # Errors
    /// It cannot be so.
    pub fn looked_up(&mut self, found: bool) -> Result<(), Violation> {
        let before = self.0.clone();
        self.0.retain(|state| (*state != State::Absent) == found);
        if self.0.is_empty() {
            return Err(format!("found: {found}, of what may be {before:?}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(slot: &mut Slot, asks: &[Ask]) {
        for ask in asks {
            slot.answered(*ask, &Ending::Done).expect("it fits");
        }
    }

    fn refused(status: u16, code: &str) -> Ending {
        Ending::Refused(status, code.to_owned())
    }

    #[test]
    fn what_was_acknowledged_is_the_only_thing_that_may_be_seen() {
        let mut slot = Slot::default();
        done(&mut slot, &[Ask::Create, Ask::Stop]);
        for wrong in [None, Some("running"), Some("expired"), Some("failed")] {
            assert!(slot.clone().settled(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(slot.settled(Some("stopped")), Ok(()));
        done(&mut slot, &[Ask::Start]);
        assert!(slot.clone().settled(Some("stopped")).is_err());
        done(&mut slot, &[Ask::Delete]);
        assert!(slot.is_absent());
        assert!(
            slot.clone().settled(Some("running")).is_err(),
            "it came back"
        );
        assert_eq!(slot.settled(None), Ok(()));
    }

    #[test]
    fn an_acknowledged_instance_that_is_not_found_is_lost() {
        let mut slot = Slot::default();
        done(&mut slot, &[Ask::Create]);
        let lost = slot.clone().answered(Ask::Stop, &refused(404, "not-found"));
        assert!(lost.is_err());
        assert!(slot.looked_up(false).is_err());
        assert!(
            slot.looked_up(true).is_err(),
            "nothing is possible any more"
        );
    }

    #[test]
    fn without_an_answer_both_may_be_until_one_of_them_is_seen() {
        for ending in [
            Ending::Broken,
            refused(503, "database-unavailable"),
            refused(409, "conflict"),
        ] {
            let mut slot = Slot::default();
            slot.answered(Ask::Create, &ending).expect("open");
            assert_eq!(slot.possible().len(), 2, "{ending:?}");
            assert_eq!(slot.clone().settled(Some("running")), Ok(()));
            assert_eq!(slot.clone().looked_up(false), Ok(()));
            slot.looked_up(true).expect("open");
            slot.answered(Ask::Delete, &ending).expect("open");
            assert_eq!(slot.clone().settled(None), Ok(()));
            slot.answered(Ask::Stop, &refused(404, "not-found"))
                .expect("it was deleted");
            assert!(slot.is_absent());
        }
    }

    #[test]
    fn a_lease_that_ends_wins_over_every_verb_but_a_restore() {
        let mut slot = Slot::default();
        done(
            &mut slot,
            &[Ask::Create, Ask::Expire, Ask::Start, Ask::Stop],
        );
        slot.answered(Ask::Restart, &refused(409, "wrong-state"))
            .expect("it ran out");
        assert!(slot.clone().settled(Some("stopped")).is_err());
        assert_eq!(slot.clone().settled(Some("expired")), Ok(()));
        done(&mut slot, &[Ask::Restore]);
        assert_eq!(slot.clone().settled(Some("running")), Ok(()));
        let never_leased = slot.clone().answered(Ask::Restore, &Ending::Done);
        assert!(never_leased.is_err());
        let refusal = refused(409, "wrong-state");
        assert_eq!(slot.answered(Ask::Restore, &refusal), Ok(()));
        assert!(slot.answered(Ask::Stop, &refusal).is_err());
    }

    #[test]
    fn a_restore_that_broke_off_leaves_open_whether_the_lease_ends() {
        let mut slot = Slot::default();
        done(&mut slot, &[Ask::Create, Ask::Expire]);
        slot.answered(Ask::Restore, &Ending::Broken)
            .expect("it may have been done");
        assert_eq!(slot.settled(Some("running")), Ok(()));
        let refusal = refused(409, "wrong-state");
        assert_eq!(slot.clone().answered(Ask::Stop, &refusal), Ok(()));
        assert_eq!(slot.answered(Ask::Stop, &Ending::Done), Ok(()));
        assert!(slot.clone().settled(Some("running")).is_err());
        assert_eq!(slot.settled(Some("expired")), Ok(()));
        assert!(slot.answered(Ask::Stop, &Ending::Broken).is_ok());
        assert!(slot.settled(Some("stopped")).is_err());
    }

    #[test]
    fn a_failure_of_ours_a_silence_and_an_answer_for_nothing_are_violations() {
        for ending in [
            refused(500, "internal"),
            refused(401, "unauthenticated"),
            refused(507, "ports-exhausted"),
            refused(409, "name-taken"),
            Ending::Stuck,
        ] {
            let mut slot = Slot::default();
            assert!(slot.answered(Ask::Create, &ending).is_err(), "{ending:?}");
        }
        let stopped = Slot::default().answered(Ask::Stop, &Ending::Done);
        assert!(stopped.is_err(), "nothing was there");
    }
}
