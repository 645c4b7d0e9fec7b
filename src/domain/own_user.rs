//! The user that an instance has for itself alone, where the keeper may choose: which numbers there are, and which one
//! an instance gets.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::id::InstanceId;

/// User ids, and group ids of the same numbers, that belong to instances and to nobody else on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserIds {
    /// The first one.
    pub min: u32,
    /// The last one.
    pub max: u32,
}

impl UserIds {
    /// Whether a number is one of them.
    #[must_use]
    pub fn contains(self, uid: u32) -> bool {
        (self.min..=self.max).contains(&uid)
    }

    /// How many there are.
    #[must_use]
    pub fn count(self) -> u32 {
        (self.max - self.min).saturating_add(1)
    }

    /// The first free number from a place that the instance's id gives: several daemons of one host that were left with
    /// the same range then seldom meet. `None`: all are taken.
    #[must_use]
    pub fn pick(self, instance: InstanceId, taken: &BTreeSet<u32>) -> Option<u32> {
        // The last bytes of an id are random; the first ones are a time.
        let [.., a, b, c, d] = *instance.0.as_bytes();
        let from = u32::from_be_bytes([a, b, c, d]) % self.count();
        (0..self.count())
            .map(|step| {
                self.min + ((u64::from(from) + u64::from(step)) % u64::from(self.count())) as u32
            })
            .find(|uid| !taken.contains(uid))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_picked_is_free_and_in_the_range(
            min in 1_000_u32..1_010, len in 1_u32..8, id in any::<u128>(),
            taken in proptest::collection::btree_set(1_000_u32..1_020, 0..16),
        ) {
            let ids = UserIds { min, max: min + len - 1 };
            let picked = ids.pick(InstanceId(uuid::Uuid::from_u128(id)), &taken);
            match picked {
                Some(uid) => prop_assert!(ids.contains(uid) && !taken.contains(&uid)),
                None => prop_assert!((ids.min..=ids.max).all(|uid| taken.contains(&uid))),
            }
        }
    }

    #[test]
    fn a_range_that_ends_at_the_last_number_wraps() {
        let ids = UserIds {
            min: u32::MAX - 2,
            max: u32::MAX - 1,
        };
        let id = InstanceId(uuid::Uuid::from_u128(1));
        let taken = BTreeSet::from([u32::MAX - 1]);
        assert_eq!(ids.pick(id, &taken), Some(u32::MAX - 2));
    }
}
