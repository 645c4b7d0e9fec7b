//! What one owner may have of this machine, and why a launch waits. Pure.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::id::OwnerId;

/// What an owner may have at most; what is absent has no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Instances that are not deleted.
    pub instances_max: Option<usize>,
    /// Instances that are awake: running or frozen, or on their way up or down.
    pub awake_max: Option<usize>,
    /// Resident memory of those that are awake, in bytes.
    pub memory_bytes_max: Option<u64>,
}

/// The budgets of all owners.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budgets {
    /// For every owner: as in [`Budget`].
    pub instances_max: Option<usize>,
    /// For every owner: as in [`Budget`].
    pub awake_max: Option<usize>,
    /// For every owner: as in [`Budget`].
    pub memory_bytes_max: Option<u64>,
    /// Others for single owners; what one of them leaves out is as for every owner.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub owner: BTreeMap<OwnerId, Budget>,
}

impl Budgets {
    /// What is in force for `owner`.
    #[must_use]
    pub fn of(&self, owner: &OwnerId) -> Budget {
        let own = self.owner.get(owner).copied().unwrap_or_default();
        Budget {
            instances_max: own.instances_max.or(self.instances_max),
            awake_max: own.awake_max.or(self.awake_max),
            memory_bytes_max: own.memory_bytes_max.or(self.memory_bytes_max),
        }
    }

    /// Whether some owner's launches are bounded by anything.
    #[must_use]
    pub fn bounds_launches(&self) -> bool {
        let own = self.owner.values();
        self.awake_max.is_some()
            || own.clone().any(|budget| budget.awake_max.is_some())
            || self.bounds_memory()
    }

    /// Whether some owner's memory is bounded.
    #[must_use]
    pub fn bounds_memory(&self) -> bool {
        let mut own = self.owner.values();
        self.memory_bytes_max.is_some() || own.any(|budget| budget.memory_bytes_max.is_some())
    }
}

/// What an owner has awake now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Use {
    /// How many.
    pub awake: usize,
    /// Their resident memory in bytes, as it was measured last; of those that were not yet, what their template needs.
    pub memory_bytes: u64,
}

/// Why a launch waits for room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// Its owner has as many awake as it may.
    Awake {
        /// Whose.
        owner: OwnerId,
        /// So many.
        awake: usize,
        /// The most.
        most: usize,
    },
    /// It would need more memory than its owner may have.
    OwnerMemory {
        /// Whose.
        owner: OwnerId,
        /// In use, in bytes.
        used_bytes: u64,
        /// What it is known to need.
        need_bytes: u64,
        /// The most.
        most_bytes: u64,
    },
    /// It would need more memory than the machine has above the floor.
    Memory {
        /// What it is known to need.
        need_bytes: u64,
        /// What is available less what launches under way still need.
        left_bytes: u64,
        /// `sleep.memory_floor_bytes`.
        floor_bytes: u64,
    },
}

impl Held {
    /// The owner whose instances can make room; `None`: any can.
    #[must_use]
    pub fn owner(&self) -> Option<&OwnerId> {
        match self {
            Self::Awake { owner, .. } | Self::OwnerMemory { owner, .. } => Some(owner),
            Self::Memory { .. } => None,
        }
    }
}

/// One sentence without its end, for people.
impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: &u64| bytes.div_ceil(1 << 20);
        match self {
            Self::Awake { owner, awake, most } => write!(
                f,
                "{owner} has {awake} of {most} instances awake that its budget allows (awake_max)"
            ),
            Self::OwnerMemory {
                owner,
                used_bytes,
                need_bytes,
                most_bytes,
            } => write!(
                f,
                "the instances of {owner} use {} MiB and it needs about {} MiB, of {} MiB that the budget allows (memory_bytes_max)",
                mib(used_bytes),
                mib(need_bytes),
                mib(most_bytes)
            ),
            Self::Memory {
                need_bytes,
                left_bytes,
                floor_bytes,
            } => write!(
                f,
                "the machine has {} MiB of memory left and it needs about {} MiB, of which {} MiB are to stay free (sleep.memory_floor_bytes)",
                mib(left_bytes),
                mib(need_bytes),
                mib(floor_bytes)
            ),
        }
    }
}

/// Why one more of `owner` that needs so much cannot be launched beside what is in use; `None`: it can. Who has nothing
/// awake is held by its count of awake ones never, by its memory only if the one alone needs more than all may.
#[must_use]
pub fn held_by_owner(owner: &OwnerId, budget: Budget, used: Use, need_bytes: u64) -> Option<Held> {
    if let Some(most) = budget.awake_max
        && used.awake >= most
    {
        return Some(Held::Awake {
            owner: owner.clone(),
            awake: used.awake,
            most,
        });
    }
    let most_bytes = budget.memory_bytes_max?;
    let wanted = used.memory_bytes.saturating_add(need_bytes);
    (wanted > most_bytes).then(|| Held::OwnerMemory {
        owner: owner.clone(),
        used_bytes: used.memory_bytes,
        need_bytes,
        most_bytes,
    })
}

/// Why the machine has no room for what needs so much, when so many bytes are available and launches under way will still
/// take `reserved_bytes` of them; `None`: it has.
#[must_use]
pub fn held_by_machine(
    floor_bytes: u64,
    available_bytes: u64,
    reserved_bytes: u64,
    need_bytes: u64,
) -> Option<Held> {
    let left_bytes = available_bytes.saturating_sub(reserved_bytes);
    (left_bytes.saturating_sub(need_bytes) < floor_bytes).then_some(Held::Memory {
        need_bytes,
        left_bytes,
        floor_bytes,
    })
}

/// What a template's instances are known to need after one of them was seen with so much: the most that was seen, which
/// fades by a sixteenth of the difference with each look at one that has less, so that one leak is not remembered for ever.
#[must_use]
pub fn learned(known_bytes: u64, seen_bytes: u64) -> u64 {
    match known_bytes.checked_sub(seen_bytes) {
        None => seen_bytes,
        Some(more) => known_bytes - more.div_ceil(16),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ada() -> OwnerId {
        OwnerId::new("ada").expect("an owner")
    }

    #[test]
    fn what_an_owner_leaves_out_is_as_for_all() {
        let mut budgets = Budgets {
            awake_max: Some(3),
            ..Budgets::default()
        };
        assert_eq!(budgets.of(&ada()).awake_max, Some(3));
        assert!(budgets.bounds_launches() && !budgets.bounds_memory());
        let own = Budget {
            memory_bytes_max: Some(9),
            instances_max: Some(1),
            awake_max: None,
        };
        budgets.owner.insert(ada(), own);
        let all = Budget {
            awake_max: Some(3),
            ..own
        };
        assert_eq!(budgets.of(&ada()), all);
        assert!(budgets.bounds_memory());
        assert!(!Budgets::default().bounds_launches());
        let only_count = Budgets {
            instances_max: Some(1),
            ..Budgets::default()
        };
        assert!(!only_count.bounds_launches());
    }

    #[test]
    fn an_owner_is_held_by_count_and_by_memory() {
        let budget = Budget {
            awake_max: Some(2),
            memory_bytes_max: Some(100),
            instances_max: None,
        };
        let held = |awake, memory_bytes, need| {
            held_by_owner(
                &ada(),
                budget,
                Use {
                    awake,
                    memory_bytes,
                },
                need,
            )
        };
        assert_eq!(held(1, 60, 40), None);
        assert!(matches!(held(2, 0, 0), Some(Held::Awake { most: 2, .. })));
        assert!(matches!(
            held(1, 60, 41),
            Some(Held::OwnerMemory { used_bytes: 60, .. })
        ));
        assert!(matches!(held(0, 0, 101), Some(Held::OwnerMemory { .. })));
        let off = held_by_owner(
            &ada(),
            Budget::default(),
            Use {
                awake: 9,
                memory_bytes: 9,
            },
            9,
        );
        assert_eq!(off, None);
    }

    #[test]
    fn the_machine_keeps_its_floor() {
        assert_eq!(held_by_machine(100, 200, 50, 50), None);
        assert!(held_by_machine(100, 200, 50, 51).is_some());
        assert!(held_by_machine(100, 99, 0, 0).is_some());
        assert!(held_by_machine(1, 0, u64::MAX, u64::MAX).is_some());
        assert_eq!(held_by_machine(0, 0, 0, 0), None);
    }

    #[test]
    fn every_reason_says_what_is_allowed() {
        let bytes = 3 << 20;
        for (held, words) in [
            (
                Held::Awake {
                    owner: ada(),
                    awake: 3,
                    most: 2,
                },
                "ada has 3 of 2 instances awake",
            ),
            (
                Held::OwnerMemory {
                    owner: ada(),
                    used_bytes: bytes,
                    need_bytes: 1,
                    most_bytes: bytes,
                },
                "ada use 3 MiB and it needs about 1 MiB, of 3 MiB",
            ),
            (
                Held::Memory {
                    need_bytes: bytes,
                    left_bytes: bytes,
                    floor_bytes: 0,
                },
                "has 3 MiB of memory left and it needs about 3 MiB",
            ),
        ] {
            assert!(held.to_string().contains(words), "{held}");
        }
    }

    proptest! {
        #[test]
        fn what_is_known_rises_at_once_and_fades_towards_what_is_seen(known: u64, seen: u64) {
            let then = learned(known, seen);
            prop_assert!(then >= seen && then <= known.max(seen));
            prop_assert!(known <= seen || then < known);
        }
    }
}
