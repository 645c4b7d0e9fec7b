//! What the store says, what the keeper holds and what we run, compared; every difference has a cure.

use std::collections::{BTreeMap, BTreeSet};

use super::id::{Generation, InstanceId};

/// A child that the keeper holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LiveChild {
    /// Whose.
    pub instance: InstanceId,
    /// Which launch.
    pub generation: Generation,
    /// 0: the main child; else the number of a member.
    pub member: u32,
}

/// The three views.
#[derive(Debug, Clone, Default)]
pub struct Views {
    /// Instances recorded, with the port each says it holds.
    pub recorded: BTreeMap<InstanceId, Option<u16>>,
    /// Instances that have an actor, with the generation of the child it knows.
    pub acted: BTreeMap<InstanceId, Option<Generation>>,
    /// Those of them whose child is just being made: the keeper may hold it already or not yet.
    pub launching: BTreeSet<InstanceId>,
    /// Members that somebody answers for, those that are just being made or ended included.
    pub members: BTreeSet<LiveChild>,
    /// Those of them that were launched.
    pub launched_members: BTreeSet<LiveChild>,
    /// Children of the keeper.
    pub live: BTreeSet<LiveChild>,
    /// Port leases recorded.
    pub leases: BTreeMap<u16, InstanceId>,
}

/// What puts one difference right.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Correction {
    /// A row without an actor: start one.
    StartActor(InstanceId),
    /// An actor without a row: the row was deleted behind our back; stop it.
    StopActor(InstanceId),
    /// A child that nobody owns, or of another generation than its owner's: kill it.
    KillChild(LiveChild),
    /// The actor believes in a child that the keeper does not have.
    LostChild(LiveChild),
    /// A lease whose owner is not recorded: give the port back.
    ReleasePort(u16, InstanceId),
    /// A row with a port that is not leased: lease it again.
    LeasePort(u16, InstanceId),
}

/// Compares; the answer is in a fixed order and empty when all agree.
#[must_use]
pub fn diff(views: &Views) -> Vec<Correction> {
    let mut corrections = Vec::new();
    for id in views
        .recorded
        .keys()
        .filter(|id| !views.acted.contains_key(id))
    {
        corrections.push(Correction::StartActor(*id));
    }
    for id in views
        .acted
        .keys()
        .filter(|id| !views.recorded.contains_key(id))
    {
        corrections.push(Correction::StopActor(*id));
    }
    for child in &views.live {
        if views.members.contains(child) {
            continue;
        }
        let known = views.acted.get(&child.instance);
        // A row without an actor adopts its child itself when the actor starts.
        let awaits_actor = known.is_none() && views.recorded.contains_key(&child.instance);
        let is_owned = child.member == 0 && known == Some(&Some(child.generation));
        if !awaits_actor && !is_owned {
            corrections.push(Correction::KillChild(*child));
        }
    }
    for (instance, generation) in &views.acted {
        if let Some(generation) = *generation {
            let child = LiveChild {
                instance: *instance,
                generation,
                member: 0,
            };
            if !views.live.contains(&child) && !views.launching.contains(instance) {
                corrections.push(Correction::LostChild(child));
            }
        }
    }
    for member in views.launched_members.difference(&views.live) {
        corrections.push(Correction::LostChild(*member));
    }
    for (port, owner) in &views.leases {
        if views.recorded.get(owner) != Some(&Some(*port)) {
            corrections.push(Correction::ReleasePort(*port, *owner));
        }
    }
    for (id, port) in &views.recorded {
        if let Some(port) = *port
            && !views.leases.contains_key(&port)
        {
            corrections.push(Correction::LeasePort(port, *id));
        }
    }
    corrections
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn id(n: u128) -> InstanceId {
        InstanceId(Uuid::from_u128(n))
    }

    fn child(n: u128, generation: u64) -> LiveChild {
        LiveChild {
            instance: id(n),
            generation: Generation(generation),
            member: 0,
        }
    }

    #[test]
    fn a_member_is_killed_only_when_nobody_answers_for_it_and_lost_only_once_launched() {
        let member = |number| LiveChild {
            member: number,
            ..child(1, 2)
        };
        let mut views = Views {
            recorded: [(id(1), None)].into(),
            acted: [(id(1), Some(Generation(2)))].into(),
            members: [member(1), member(2), member(3)].into(),
            launched_members: [member(1), member(2)].into(),
            live: [child(1, 2), member(1), member(2)].into(),
            ..Views::default()
        };
        assert_eq!(diff(&views), []);
        views.live = [child(1, 2), member(1), member(9)].into();
        let cures = [
            Correction::KillChild(member(9)),
            Correction::LostChild(member(2)),
        ];
        assert_eq!(diff(&views), cures);
    }

    #[test]
    fn agreement_needs_nothing() {
        let views = Views {
            recorded: [(id(1), Some(3001)), (id(2), None)].into(),
            acted: [(id(1), Some(Generation(2))), (id(2), None)].into(),
            live: [child(1, 2)].into(),
            ..Views::default()
        };
        let views = Views {
            leases: [(3001, id(1))].into(),
            ..views
        };
        assert_eq!(diff(&views), []);
    }

    #[test]
    fn a_child_that_is_just_being_made_is_neither_lost_nor_a_stranger() {
        let mut views = Views {
            recorded: [(id(1), None)].into(),
            acted: [(id(1), Some(Generation(2)))].into(),
            launching: [id(1)].into(),
            ..Views::default()
        };
        assert_eq!(diff(&views), []);
        views.live = [child(1, 2)].into();
        assert_eq!(diff(&views), []);
        views.launching.clear();
        views.live.clear();
        assert_eq!(diff(&views), [Correction::LostChild(child(1, 2))]);
    }

    #[test]
    fn each_difference_has_its_cure() {
        let views = Views {
            recorded: [(id(1), Some(3001)), (id(2), Some(3002)), (id(3), None)].into(),
            acted: [
                (id(1), Some(Generation(2))),
                (id(3), Some(Generation(1))),
                (id(9), None),
            ]
            .into(),
            live: [child(1, 1), child(1, 2), child(2, 7), child(8, 1)].into(),
            leases: [(3001, id(1)), (3005, id(7))].into(),
            ..Views::default()
        };
        assert_eq!(
            diff(&views),
            [
                Correction::StartActor(id(2)),
                Correction::StopActor(id(9)),
                Correction::KillChild(child(1, 1)),
                Correction::KillChild(child(8, 1)),
                Correction::LostChild(child(3, 1)),
                Correction::ReleasePort(3005, id(7)),
                Correction::LeasePort(3002, id(2)),
            ]
        );
    }

    fn views() -> impl Strategy<Value = Views> {
        let ids = || 0_u128..6;
        (
            proptest::collection::btree_map(
                ids().prop_map(id),
                proptest::option::of(0_u16..6),
                0..6,
            ),
            proptest::collection::btree_map(
                ids().prop_map(id),
                proptest::option::of((1_u64..3).prop_map(Generation)),
                0..6,
            ),
            proptest::collection::btree_set((ids(), 1_u64..3).prop_map(|(n, g)| child(n, g)), 0..8),
            proptest::collection::btree_map(0_u16..6, ids().prop_map(id), 0..6),
        )
            .prop_map(|(recorded, acted, live, leases)| Views {
                recorded,
                acted,
                live,
                leases,
                ..Views::default()
            })
    }

    proptest! {
        /// A child is killed only when nobody answers for it.
        #[test]
        fn no_owned_child_is_killed(views in views()) {
            for correction in diff(&views) {
                if let Correction::KillChild(child) = correction {
                    prop_assert!(views.acted.get(&child.instance) != Some(&Some(child.generation)));
                }
            }
        }
    }
}
