//! Losses: counted by instance, and told by a record of their own once there is room for one.

use std::collections::BTreeMap;

use crate::domain::call::{CallOutcome, CallRecord};

/// Lost records by the key of their instance: the first of them, and how many.
pub(super) type Gaps = BTreeMap<i64, (CallRecord, i64)>;

/// Counts `record` as lost; for how many calls it stood.
pub(super) fn count_lost(gaps: &mut Gaps, record: &CallRecord) -> u64 {
    let calls = match record.outcome {
        CallOutcome::Lost(calls) => calls,
        _ => 1,
    };
    let first = || CallRecord {
        tool: "".into(),
        arguments: None,
        duration_us: 0,
        request_bytes: 0,
        answer_bytes: 0,
        ..record.clone()
    };
    let known = gaps
        .entry(record.instance_key)
        .or_insert_with(|| (first(), 0));
    known.1 = known.1.saturating_add(calls);
    // A record that tells of losses was counted when they happened.
    match record.outcome {
        CallOutcome::Lost(_) => 0,
        _ => 1,
    }
}

/// One record for each instance that lost some.
pub(super) fn gap_records(gaps: Gaps) -> Vec<CallRecord> {
    let told = gaps.into_values().map(|(first, calls)| CallRecord {
        outcome: CallOutcome::Lost(calls),
        ..first
    });
    told.collect()
}
