//! Losses: counted by instance, and told by a record of their own once there is room for one.

use std::collections::BTreeMap;

use crate::{
    domain::{
        call::{CallOutcome, CallRecord, NumberedCall},
        id::TokenName,
    },
    tally::{Losses, Weight},
};

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

/// What a former daemon took with it, to be told. Which tokens let those calls in is lost with them: they count to the
/// first one.
pub(super) fn killed(lost: &Losses) -> Gaps {
    let gaps = lost.iter().map(|(key, lost)| {
        let record = CallRecord {
            instance_key: *key,
            generation: lost.generation,
            token: TokenName::first(),
            tool: "".into(),
            stateless: false,
            started_at: lost.at,
            duration_us: 0,
            outcome: CallOutcome::Lost(0),
            request_bytes: 0,
            answer_bytes: 0,
            arguments: None,
        };
        (*key, (record, lost.count.cast_signed()))
    });
    gaps.collect()
}

/// What a row settles of the records that came in: itself, or those that it tells as lost.
pub(super) fn weight(row: &NumberedCall) -> Weight {
    let calls = match row.record.outcome {
        CallOutcome::Lost(calls) => calls.unsigned_abs(),
        _ => 1,
    };
    (row.record.instance_key, calls)
}

/// The same of several.
pub(super) fn weights(rows: &[NumberedCall]) -> impl Iterator<Item = Weight> {
    rows.iter().map(weight)
}

/// One record for each instance that lost some.
pub(super) fn gap_records(gaps: Gaps) -> Vec<CallRecord> {
    let told = gaps.into_values().map(|(first, calls)| CallRecord {
        outcome: CallOutcome::Lost(calls),
        ..first
    });
    told.collect()
}
