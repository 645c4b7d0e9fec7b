//! Losses: counted by instance, and told by a row in the log once there is room for one.

use std::collections::BTreeMap;

use super::record::{LogRecord, LogStream};
use crate::domain::{UnixMs, id::Generation};

/// Lines of one instance that were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) generation: Generation,
    pub(super) since: UnixMs,
    pub(super) lines: u64,
}

/// Lost lines by instance key.
pub(super) type Gaps = BTreeMap<i64, Gap>;

/// Counts `record` as lost.
pub(super) fn count_lost(gaps: &mut Gaps, record: &LogRecord) {
    let gap = gaps.entry(record.instance_key).or_insert(Gap {
        generation: record.generation,
        since: record.at,
        lines: 0,
    });
    gap.generation = record.generation;
    gap.lines += 1;
}

/// Counts `gap` in.
pub(super) fn merge_gap(gaps: &mut Gaps, key: i64, gap: Gap) {
    gaps.entry(key)
        .and_modify(|known| {
            known.lines += gap.lines;
            known.since = known.since.min(gap.since);
            known.generation = known.generation.max(gap.generation);
        })
        .or_insert(gap);
}

/// One row for each instance that lost lines.
pub(super) fn gap_rows(gaps: &Gaps) -> Vec<LogRecord> {
    let rows = gaps.iter().map(|(key, gap)| {
        let noun = if gap.lines == 1 { "line" } else { "lines" };
        LogRecord {
            instance_key: *key,
            generation: gap.generation,
            member: 0,
            stream: LogStream::System,
            at: gap.since,
            line: format!(
                "{} {noun} lost: neither the log store nor the spool could take them",
                gap.lines
            ),
            continued: false,
        }
    });
    rows.collect()
}
