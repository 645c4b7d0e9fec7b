//! Holds the log within its bytes: each instance, then all together. Those that have the most lose first, so that a flood
//! takes nothing from the others.

use std::collections::HashSet;

use super::retention::STEP_ROWS;
use crate::store::{LogUsage, Store, StoreError};

/// Where several have the same, so many bytes of one go before another loses some.
const STEP_BYTES: u64 = 1 << 20;

/// One part in so many of what an instance is told to have is much to lose: to count its lines costs less than to delete
/// those.
const MUCH: u64 = 16;

/// How many bytes of log are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBytes {
    /// Of one instance.
    pub per_instance: u64,
    /// Of all together.
    pub total: u64,
}

impl LogBytes {
    /// The instance that loses its oldest lines next, and how many bytes of them.
    fn next(&self, usage: &[LogUsage]) -> Option<(i64, u64)> {
        let most = usage.iter().max_by_key(|one| one.cost_bytes())?;
        let costs = usage.iter().map(LogUsage::cost_bytes);
        let total = costs.fold(0, u64::saturating_add);
        let own_excess = most.cost_bytes().saturating_sub(self.per_instance);
        // No further below the next one than a step: then it is that one's turn.
        let others = usage
            .iter()
            .filter(|one| one.instance_key != most.instance_key);
        let next_most = others.map(LogUsage::cost_bytes).max().unwrap_or(0);
        let ahead = (most.cost_bytes() - next_most).max(STEP_BYTES);
        let shared_excess = total.saturating_sub(self.total).min(ahead);
        let excess = own_excess.max(shared_excess);
        (excess > 0).then_some((most.instance_key, excess))
    }

    /// How many bytes are too much.
    fn excess(&self, usage: &[LogUsage]) -> u64 {
        let over = |cost: u64| cost.saturating_sub(self.per_instance);
        let own = usage.iter().map(|one| over(one.cost_bytes()));
        let own = own.fold(0, u64::saturating_add);
        let total = usage.iter().map(LogUsage::cost_bytes);
        let total = total.fold(0, u64::saturating_add);
        own.max(total.saturating_sub(self.total))
    }

    /// Deletes in steps what is too much; how many lines it were. Beside a flood it deletes no more than twice what was too
    /// much when it began. What is told of an instance is held against its lines before it costs many of them; besides, each
    /// run counts one instance anew: that of its `turn`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn hold(&self, store: &Store, turn: u64) -> Result<u64, StoreError> {
        let mut lines = 0;
        let mut usage = store.log_usage().await?;
        let mut counted = HashSet::new();
        for key in doubtful(&usage, turn) {
            counted.insert(key);
            if recount(store, key).await {
                usage = store.log_usage().await?;
            }
        }
        // What is too much now, and as much again for what comes meanwhile; then the next run goes on.
        let mut left = self.excess(&usage).saturating_mul(2);
        // Asked again after each step: lines come while it works, and the next step may be due to another instance.
        while let Some((key, excess)) = self.next(&usage)
            && left > 0
        {
            let told = usage.iter().find(|one| one.instance_key == key);
            let is_much = told.is_some_and(|told| excess > told.cost_bytes() / MUCH);
            if is_much && counted.insert(key) && recount(store, key).await {
                usage = store.log_usage().await?;
                left = self.excess(&usage).saturating_mul(2);
                continue;
            }
            let deleted = store.trim_log_bytes(key, excess, STEP_ROWS).await?;
            if deleted.lines == 0 {
                tracing::error!(key, "the usage of the log told of lines that are not there");
                if !store.drop_empty_log_usage(key).await? {
                    break;
                }
            }
            lines += deleted.lines;
            left = left.saturating_sub(deleted.cost_bytes);
            usage = store.log_usage().await?;
        }
        Ok(lines)
    }
}

/// The instance of this turn, and those of which no lines are told, which then would not be in the list.
fn doubtful(usage: &[LogUsage], turn: u64) -> Vec<i64> {
    let none = usage.iter().filter(|one| one.lines == 0);
    let mut keys: Vec<i64> = none.map(|one| one.instance_key).collect();
    let mut all: Vec<i64> = usage.iter().map(|one| one.instance_key).collect();
    all.sort_unstable();
    let place = usize::try_from(turn % (all.len().max(1) as u64)).unwrap_or(0);
    keys.extend(all.get(place));
    keys
}

/// Whether the usage was wrong. One that cannot be counted now is taken as it is.
async fn recount(store: &Store, key: i64) -> bool {
    let recounted = store.recount_log_usage(key).await;
    recounted.unwrap_or_else(|error| {
        tracing::warn!(key, %error, "the log lines of an instance cannot be counted");
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(instance_key: i64, text_bytes: u64) -> LogUsage {
        LogUsage {
            instance_key,
            lines: 0,
            text_bytes,
        }
    }

    #[test]
    fn each_has_its_turn_to_be_counted_and_who_has_nothing_is_in_doubt() {
        let full = |key| LogUsage {
            lines: 1,
            ..usage(key, 9)
        };
        let all = [full(8), full(3), full(5)];
        let turns = (0..4).map(|turn| doubtful(&all, turn));
        assert_eq!(turns.collect::<Vec<_>>(), [[3], [5], [8], [3]]);
        assert_eq!(doubtful(&[usage(7, 9), full(3)], 0), [7, 3]);
        assert_eq!(doubtful(&[], 5), [0; 0]);
    }

    #[test]
    fn the_largest_loses_first_and_only_what_is_too_much() {
        const MIB: u64 = 1 << 20;
        let usage = |key, mib: u64| usage(key, mib * MIB);
        let bytes = LogBytes {
            per_instance: 100 * MIB,
            total: 250 * MIB,
        };
        assert_eq!(bytes.next(&[]), None);
        assert_eq!(bytes.next(&[usage(1, 100), usage(2, 100)]), None);
        assert_eq!(
            bytes.next(&[usage(1, 90), usage(2, 130)]),
            Some((2, 30 * MIB))
        );
        let three = [usage(1, 90), usage(2, 100), usage(3, 80)];
        assert_eq!(
            bytes.next(&three),
            Some((2, 10 * MIB)),
            "20 are too much, 10 are more than others have"
        );
        assert_eq!(bytes.excess(&three), 20 * MIB);
        assert_eq!(bytes.excess(&[usage(1, 120), usage(2, 130)]), 50 * MIB);
        let absurd = [usage(1, u64::MAX / MIB), usage(2, u64::MAX / MIB)];
        assert!(bytes.next(&absurd).is_some(), "no sum overflows");
        let many: Vec<_> = (0..100).map(|key| usage(key, 10)).collect();
        assert!(bytes.next(&many).is_some_and(|(_, excess)| excess == MIB));
    }
}
