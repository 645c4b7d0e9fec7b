//! How what is bounded is shared between instances: the queue in memory, and the spool.

use std::collections::BTreeMap;

/// An instance may hold so many times of what is left.
const TIMES_OF_REST: u64 = 4;

/// Whether an instance that holds `own_bytes` may add to what holds `used_bytes` of `bound_bytes`.
///
/// One alone gets four fifths, two get four ninths each, and so on: some is always left for one that holds nothing. (A
/// dynamic threshold, as switches use it for their buffers: Choudhury and Hahne, 1998.)
pub(super) fn has_room(own_bytes: u64, used_bytes: u64, bound_bytes: u64) -> bool {
    let rest = bound_bytes.saturating_sub(used_bytes);
    rest > 0 && own_bytes <= rest.saturating_mul(TIMES_OF_REST)
}

/// What each instance holds of the spool. What an earlier daemon left there is nobody's.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// Looked up for each line, among few: without a hash, which costs more.
    held: BTreeMap<i64, u64>,
}

impl Shares {
    pub(super) fn of(&self, key: i64) -> u64 {
        self.held.get(&key).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, key: i64, bytes: u64) {
        *self.held.entry(key).or_default() += bytes;
    }

    pub(super) fn remove(&mut self, key: i64, bytes: u64) {
        if let Some(held) = self.held.get_mut(&key) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                self.held.remove(&key);
            }
        }
    }

    /// Nothing is held any more.
    pub(super) fn clear(&mut self) {
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everyone adds a byte at a time for as long as there is room; what each holds in the end.
    fn filled(instances: usize, bound: u64) -> Vec<u64> {
        let mut held = vec![0; instances];
        loop {
            let mut grew = false;
            for at in 0..instances {
                let used = held.iter().sum();
                if has_room(held[at], used, bound) {
                    held[at] += 1;
                    grew = true;
                }
            }
            if !grew {
                return held;
            }
        }
    }

    #[test]
    fn those_who_flood_get_the_same_and_one_who_is_quiet_always_has_room() {
        for instances in [1, 2, 3, 10, 50] {
            let held = filled(instances, 10_000);
            let (least, most) = (held.iter().min(), held.iter().max());
            let (Some(least), Some(most)) = (least, most) else {
                unreachable!("there are some");
            };
            assert!(most - least <= 1, "{held:?}");
            let used: u64 = held.iter().sum();
            assert!((8_000..10_000).contains(&used), "{used} by {instances}");
            assert!(has_room(0, used, 10_000));
        }
        assert!(!has_room(0, 10_000, 10_000));
        assert!(!has_room(0, 11_000, 10_000));
    }

    #[test]
    fn what_was_never_counted_is_not_missed() {
        let mut shares = Shares::default();
        shares.add(1, 10);
        shares.remove(2, 5);
        shares.remove(1, 4);
        assert_eq!((shares.of(1), shares.of(2)), (6, 0));
        shares.remove(1, 40);
        assert_eq!(shares.of(1), 0);
    }
}
