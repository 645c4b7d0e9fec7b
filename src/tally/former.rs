//! What a former daemon left in its count, and what of it nobody has any more.

use std::{collections::BTreeMap, fmt::Display, fs::File, io, os::unix::fs::FileExt};

use super::{
    BASE_BYTES, HEAD_BYTES, Losses, Lost, MAGIC, RUN_BYTES, SETTLED_AT, SLOT_BYTES, SLOTS_AT,
    WAY_BYTES_MAX, WAY_HEAD_BYTES, Way,
};
use crate::{
    domain::id::Generation,
    spool::{Fields, Spool, SpoolRow},
};

/// The store is asked so often how far the former daemon came.
const TRIES: u32 = 3;

/// A row with a number of its writer.
pub trait Numbered {
    /// The writer, and the number.
    fn number(&self) -> (i64, i64);
}

/// What a former daemon took with it, by its count in `file`, of which the rows are called `what`. `close` answers how far
/// a writer came, and lets nothing of it in any more up to a number, if there is one.
pub async fn lost<R, E, F>(
    file: &File,
    what: &str,
    spool: &Spool<R>,
    close: impl Fn(i64, Option<i64>) -> F,
) -> Losses
where
    R: SpoolRow + Numbered,
    E: Display,
    F: Future<Output = Result<i64, E>>,
{
    let former = match Former::read(file) {
        Ok(Some(former)) => former,
        Ok(None) => return Losses::new(),
        Err(error) => {
            tracing::warn!(%error, what, "the former daemon's count cannot be read");
            return Losses::new();
        }
    };
    let mut spooled = 0;
    if former.was_spooling() {
        let newest = spool.newest_row().unwrap_or_else(|error| {
            tracing::warn!(%error, what, "the end of the spool cannot be read");
            None
        });
        let newest = newest.map(|row| row.number());
        spooled = newest
            .filter(|(writer, _)| *writer == former.writer)
            .map_or(0, |(_, number)| number);
    }
    let mut stored = 0;
    if let Some(last) = former.last_sent() {
        // What is in the spool is still to be taken.
        let closed = spool.is_empty().then_some(last);
        let mut tries = 1;
        stored = loop {
            match close(former.writer, closed).await {
                Ok(came) => break came,
                Err(_) if tries < TRIES => tries += 1,
                Err(error) => {
                    // A lie in the rarest case, which a start that waits for an open transaction of nobody would not be
                    // worth.
                    tracing::warn!(%error, what, "what was on its way into the database counts as lost");
                    break 0;
                }
            }
        };
    }
    let lost = former.lost(stored, spooled);
    let count: u64 = lost.values().map(|lost| lost.count).sum();
    if count > 0 {
        let instances = lost.len();
        tracing::warn!(
            what,
            count,
            instances,
            "the former daemon was killed with these in its memory"
        );
    }
    lost
}

/// What a kill at this moment would lose of each instance if nothing that is on its way arrived.
#[cfg(test)]
pub(crate) fn lost_now(file: &File) -> Vec<(i64, u64)> {
    let former = Former::read(file).expect("it is readable");
    let lost = former.expect("somebody began it").lost(0, 0);
    lost.into_iter()
        .map(|(key, lost)| (key, lost.count))
        .collect()
}

/// So many slots are read at a time.
const SLOTS_AT_ONCE: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    entered: Lost,
    settled: [u64; 2],
}

/// Rows of one instance that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    key: i64,
    rows: u64,
    weight: u64,
}

/// Rows that were on their way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Batch {
    first: i64,
    settled_before: BTreeMap<i64, u64>,
    runs: Vec<Run>,
}

impl Batch {
    /// The number of its last row.
    fn last(&self) -> i64 {
        let rows: u64 = self.runs.iter().map(|run| run.rows).sum();
        self.first.saturating_add_unsigned(rows).saturating_sub(1)
    }

    /// What of each instance is settled if just the rows from `from` up to `to` arrived.
    fn settled(&self, from: i64, to: i64) -> BTreeMap<i64, u64> {
        let mut settled = self.settled_before.clone();
        let mut first = self.first;
        for run in &self.runs {
            let behind = first.saturating_add_unsigned(run.rows);
            let rows = to.saturating_add(1).min(behind) - from.max(first);
            if let (Ok(rows @ 1..), Some(sum)) = (u64::try_from(rows), settled.get_mut(&run.key)) {
                // A run counts each row once; one that tells of losses has a single row.
                *sum += if run.rows == run.weight {
                    rows
                } else {
                    run.weight
                };
            }
            first = behind;
        }
        settled
    }
}

/// What a former daemon left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Former {
    writer: i64,
    /// By key.
    slots: BTreeMap<i64, Slot>,
    ways: [Option<Batch>; 2],
}

impl Former {
    /// Reads the file of a daemon that is gone; nothing, if it never got so far as to write it.
    pub(super) fn read(file: &File) -> io::Result<Option<Self>> {
        let mut head = [0; HEAD_BYTES];
        if read_up_to(file, &mut head, 0)? < HEAD_BYTES || &head[..8] != MAGIC {
            return Ok(None);
        }
        let writer = Fields(&head[8..]).u64().cast_signed();
        let mut slots = BTreeMap::new();
        let mut block = vec![0; SLOTS_AT_ONCE * SLOT_BYTES];
        let mut at = SLOTS_AT;
        loop {
            let count = read_up_to(file, &mut block, at)?;
            at += count as u64;
            slots.extend(block[..count].chunks(SLOT_BYTES).filter_map(slot));
            if count < block.len() {
                break;
            }
        }
        let mut ways = [None, None];
        for way in Way::ALL {
            ways[way.index()] = read_way(file, way)?;
        }
        Ok(Some(Self {
            writer,
            slots,
            ways,
        }))
    }

    /// The number of the last row that was on its way into the store.
    pub(super) fn last_sent(&self) -> Option<i64> {
        self.ways[Way::Store.index()].as_ref().map(Batch::last)
    }

    /// Whether rows were on their way into the spool.
    pub(super) fn was_spooling(&self) -> bool {
        self.ways[Way::Spool.index()].is_some()
    }

    /// What is neither in the store, which has the rows up to `stored`, nor in the spool, whose newest row is `spooled`, nor
    /// told by a row of these.
    pub(super) fn lost(&self, stored: i64, spooled: i64) -> Losses {
        let [sent, spooling] = &self.ways;
        let mut settled: BTreeMap<i64, [u64; 2]> = self
            .slots
            .iter()
            .map(|(key, slot)| (*key, slot.settled))
            .collect();
        let mut known = |way: Way, sums: BTreeMap<i64, u64>| {
            for (key, sum) in sums {
                if let Some(settled) = settled.get_mut(&key) {
                    settled[way.index()] = sum;
                }
            }
        };
        if let Some(batch) = spooling {
            known(Way::Spool, batch.settled(batch.first, spooled));
        }
        if let Some(batch) = sent {
            // Rows that stepped aside into the spool while they were on their way count there.
            let aside = spooling.as_ref().filter(|other| other.first <= batch.first);
            let aside = aside.map_or(0, |other| spooled.min(other.last()));
            known(
                Way::Store,
                batch.settled(batch.first.max(aside + 1), stored),
            );
        }
        let lost = self.slots.iter().filter_map(|(key, slot)| {
            let settled: u64 = settled.get(key)?.iter().sum();
            let count = slot.entered.count.saturating_sub(settled);
            let lost = Lost {
                count,
                ..slot.entered
            };
            (count > 0).then_some((*key, lost))
        });
        lost.collect()
    }
}

fn slot(bytes: &[u8]) -> Option<(i64, Slot)> {
    // The end of the file may lie in front of what its last slot settled.
    let mut whole = [0; SLOT_BYTES];
    whole.get_mut(..bytes.len())?.copy_from_slice(bytes);
    let mut fields = Fields(&whole);
    let key = fields.u64().cast_signed();
    let generation = Generation(fields.u64());
    let at = fields.u64().cast_signed();
    let count = fields.u64();
    let settled = [fields.u64(), fields.u64()];
    let entered = Lost {
        generation,
        at,
        count,
    };
    (key != 0 && bytes.len() >= SETTLED_AT).then_some((key, Slot { entered, settled }))
}

fn read_way(file: &File, way: Way) -> io::Result<Option<Batch>> {
    let mut head = [0; WAY_HEAD_BYTES];
    if read_up_to(file, &mut head, way.at())? < WAY_HEAD_BYTES {
        return Ok(None);
    }
    let mut fields = Fields(&head);
    let (sum, _) = (fields.u32(), fields.u32());
    let (bases, runs) = (fields.u32() as usize, fields.u32() as usize);
    let first = fields.u64().cast_signed();
    let length = bases * BASE_BYTES + runs * RUN_BYTES;
    if runs == 0 || (WAY_HEAD_BYTES + length) as u64 > WAY_BYTES_MAX {
        return Ok(None);
    }
    let mut body = vec![0; length];
    let whole = read_up_to(file, &mut body, way.at() + WAY_HEAD_BYTES as u64)? == length;
    let mut digest = crc32fast::Hasher::new();
    digest.update(&head[8..]);
    digest.update(&body);
    if !whole || digest.finalize() != sum {
        // It was killed before the rows set out.
        return Ok(None);
    }
    let mut fields = Fields(&body);
    let mut base = |_| (fields.u64().cast_signed(), fields.u64());
    let settled_before = (0..bases).map(&mut base).collect();
    let run = |_| Run {
        key: fields.u64().cast_signed(),
        rows: fields.u64(),
        weight: fields.u64(),
    };
    Ok(Some(Batch {
        first,
        settled_before,
        runs: (0..runs).map(run).collect(),
    }))
}

/// Fills `bytes` as far as the file goes; how many there were.
fn read_up_to(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
