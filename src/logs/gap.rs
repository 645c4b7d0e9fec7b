//! Losses: counted by instance and cause, and told by a row in the log once there is room for one.

use std::collections::BTreeMap;

use super::record::{LogRecord, LogStream, NumberedLog};
use crate::{
    domain::{UnixMs, id::Generation},
    tally::{Losses, Weight},
};

/// Why lines were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Loss {
    /// Neither queue, store nor spool took them.
    NoPlace,
    /// The instance held its share of the spool.
    OverShare,
    /// The instance wrote more than `logs.rate_limit_per_instance`.
    OverRate,
    /// They were in the memory of a daemon that was killed.
    Killed,
}

impl Loss {
    fn sentence(self) -> &'static str {
        match self {
            Self::NoPlace => "neither the log store nor the spool could take them",
            Self::OverShare => "this instance had its share of the spool",
            Self::OverRate => {
                "this instance wrote more than logs.rate_limit_per_instance lets through"
            }
            Self::Killed => "the daemon was killed before it could store them",
        }
    }
}

/// Lines of one instance that were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) generation: Generation,
    pub(super) since: UnixMs,
    pub(super) lines: u64,
}

/// Lost lines by instance key and cause.
pub(super) type Gaps = BTreeMap<(i64, Loss), Gap>;

/// Counts `record` as lost.
pub(super) fn count_lost(gaps: &mut Gaps, record: &LogRecord, loss: Loss) {
    let gap = gaps.entry((record.instance_key, loss)).or_insert(Gap {
        generation: record.generation,
        since: record.at,
        lines: 0,
    });
    gap.generation = record.generation;
    gap.lines += 1;
}

/// Counts `gap` in.
pub(super) fn merge_gap(gaps: &mut Gaps, of: (i64, Loss), gap: Gap) {
    gaps.entry(of)
        .and_modify(|known| {
            known.lines += gap.lines;
            known.since = known.since.min(gap.since);
            known.generation = known.generation.max(gap.generation);
        })
        .or_insert(gap);
}

/// What a former daemon took with it, to be told.
pub(super) fn killed(lost: &Losses) -> Gaps {
    let gaps = lost.iter().map(|(key, lost)| {
        let gap = Gap {
            generation: lost.generation,
            since: lost.at,
            lines: lost.count,
        };
        ((*key, Loss::Killed), gap)
    });
    gaps.collect()
}

/// What the rows of a batch settle whose first ones tell of `gaps`.
pub(super) fn weights<'a>(
    rows: &'a [NumberedLog],
    gaps: &'a Gaps,
) -> impl Iterator<Item = Weight> + 'a {
    let told = gaps.values().map(|gap| gap.lines);
    let lines = told.chain(std::iter::repeat(1));
    rows.iter().map(|row| row.record.instance_key).zip(lines)
}

/// One row for each instance that lost lines, and each cause.
pub(super) fn gap_rows(gaps: &Gaps) -> Vec<LogRecord> {
    let rows = gaps.iter().map(|((key, loss), gap)| {
        let noun = if gap.lines == 1 { "line" } else { "lines" };
        LogRecord {
            instance_key: *key,
            generation: gap.generation,
            member: 0,
            stream: LogStream::System,
            at: gap.since,
            line: format!("{} {noun} lost: {}", gap.lines, loss.sentence()),
            continued: false,
        }
    });
    rows.collect()
}
