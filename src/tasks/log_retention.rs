//! Holds the log within its bytes: each instance, then all together. Those that have the most lose first, so that a flood
//! takes nothing from the others.

use super::retention::STEP_ROWS;
use crate::store::{LogUsage, Store, StoreError};

/// Where several have the same, so many bytes of one go before another loses some.
const STEP_BYTES: u64 = 1 << 20;

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
    /// much when it began.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn hold(&self, store: &Store) -> Result<u64, StoreError> {
        let mut lines = 0;
        let mut usage = store.log_usage().await?;
        // What is too much now, and as much again for what comes meanwhile; then the next run goes on.
        let mut left = self.excess(&usage).saturating_mul(2);
        // Asked again after each step: lines come while it works, and the next step may be due to another instance.
        while let Some((key, excess)) = self.next(&usage)
            && left > 0
        {
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
