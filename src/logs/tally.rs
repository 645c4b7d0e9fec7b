//! How many lines are in the memory of this process alone, counted where a SIGKILL leaves it: the next daemon tells them as
//! lost.
//!
//! It lies in a file without a name in memory, of which the keeper holds a descriptor. A line counts as entered once it was
//! read from its pipe, and as settled once it, or a gap row that counts it, is in the store or the spool. What is on its way
//! to either is written down first: nobody else could say later which lines the numbers were that arrived.
//!
//! ```text
//! head:      magic, the number of the writer
//! two ways:  CRC-32, counts, first number | key, lines settled before | key, rows, lines     (to the store, to the spool)
//! slots:     key, generation, time, lines entered, lines settled by the store, by the spool
//! ```
//!
//! A slot and its parts never cross a page, and what a way holds is checked by its sum: a kill leaves the old or the new.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crc::{CRC_32_ISO_HDLC, Crc, Table};

use super::{gap::Gaps, record::NumberedLog};
use crate::domain::{UnixMs, id::Generation};

pub(super) static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISO_HDLC);

pub(super) const MAGIC: &[u8; 8] = b"mMCPlog1";
pub(super) const HEAD_BYTES: usize = 16;
const WAYS_AT: u64 = 4 << 10;
/// What is on one way at most; of more nothing is written down.
pub(super) const WAY_BYTES_MAX: u64 = 1 << 20;
pub(super) const WAY_HEAD_BYTES: usize = 24;
pub(super) const BASE_BYTES: usize = 16;
pub(super) const RUN_BYTES: usize = 24;
pub(super) const SLOTS_AT: u64 = WAYS_AT + 2 * WAY_BYTES_MAX;
pub(super) const SLOT_BYTES: usize = 64;
/// In a slot, where the settled lines of the first way are.
pub(super) const SETTLED_AT: usize = 32;

/// Where lines are safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// In the store.
    Store,
    /// In the spool.
    Spool,
}

impl Way {
    pub(super) const ALL: [Self; 2] = [Self::Store, Self::Spool];

    pub(super) fn index(self) -> usize {
        match self {
            Self::Store => 0,
            Self::Spool => 1,
        }
    }

    pub(super) fn at(self) -> u64 {
        WAYS_AT + WAY_BYTES_MAX * self.index() as u64
    }
}

/// Whose a row is, and how many entered lines it settles: itself, or those that a gap row counts.
pub(super) type Weight = (i64, u64);

/// The weights of a batch whose first rows tell of `gaps`.
pub(super) fn weights<'a>(
    rows: &'a [NumberedLog],
    gaps: &'a Gaps,
) -> impl Iterator<Item = Weight> + 'a {
    let told = gaps.values().map(|gap| gap.lines);
    let lines = told.chain(std::iter::repeat(1));
    rows.iter().map(|row| row.record.instance_key).zip(lines)
}

#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    index: u32,
    entered: u64,
    settled: [u64; 2],
}

#[derive(Debug, Default)]
struct Slots {
    by_key: HashMap<i64, Slot>,
    free: Vec<u32>,
    next: u32,
}

impl Slots {
    fn of(&mut self, key: i64) -> &mut Slot {
        let (free, next) = (&mut self.free, &mut self.next);
        self.by_key.entry(key).or_insert_with(|| {
            let index = free.pop().unwrap_or_else(|| {
                *next += 1;
                *next - 1
            });
            Slot {
                index,
                ..Slot::default()
            }
        })
    }
}

/// The count of one writer.
#[derive(Debug)]
pub(super) struct Tally {
    file: File,
    slots: Mutex<Slots>,
}

impl Tally {
    /// Begins in an empty file, with lines that are lost already and still to be told.
    pub(super) fn begin(file: File, writer: i64, lost: &Gaps) -> io::Result<Self> {
        let tally = Self {
            file,
            slots: Mutex::default(),
        };
        for ((key, _), gap) in lost {
            tally.enter(*key, gap.generation, gap.since, gap.lines.cast_signed());
        }
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(MAGIC);
        head[8..].copy_from_slice(&writer.to_le_bytes());
        tally.file.write_all_at(&head, 0)?;
        Ok(tally)
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `lines` more of an instance are in memory, or less: whoever read bytes counts their ends of lines before the lines
    /// themselves are known.
    pub(super) fn enter(&self, key: i64, generation: Generation, at: UnixMs, lines: i64) {
        let mut slots = self.slots();
        let slot = slots.of(key);
        slot.entered = slot.entered.saturating_add_signed(lines);
        let mut bytes = [0; SETTLED_AT];
        bytes[..8].copy_from_slice(&key.to_le_bytes());
        bytes[8..16].copy_from_slice(&generation.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&at.to_le_bytes());
        bytes[24..].copy_from_slice(&slot.entered.to_le_bytes());
        self.write(&bytes, slot_at(slot.index));
    }

    /// Rows are about to go a way, the first of them with the number `first`, the others with those that follow.
    pub(super) fn sets_out(&self, way: Way, first: i64, rows: impl Iterator<Item = Weight>) {
        let mut runs: Vec<(i64, u64, u64)> = Vec::new();
        for (key, lines) in rows {
            match runs.last_mut() {
                // A gap row stands for itself, as its lines are safe all together.
                Some((last, count, sum)) if *last == key && lines == 1 && count == sum => {
                    *count += 1;
                    *sum += 1;
                }
                _ => runs.push((key, 1, lines)),
            }
        }
        let mut bases = BTreeMap::new();
        let mut slots = self.slots();
        for (key, _, _) in &runs {
            let settled = slots.of(*key).settled[way.index()];
            bases.insert(*key, settled);
        }
        drop(slots);
        let length = WAY_HEAD_BYTES + bases.len() * BASE_BYTES + runs.len() * RUN_BYTES;
        if length as u64 > WAY_BYTES_MAX {
            self.arrived(way);
            return;
        }
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&[0; 8]);
        for count in [bases.len(), runs.len()] {
            bytes.extend_from_slice(&u32::try_from(count).unwrap_or(0).to_le_bytes());
        }
        bytes.extend_from_slice(&first.to_le_bytes());
        for (key, settled) in bases {
            bytes.extend_from_slice(&key.to_le_bytes());
            bytes.extend_from_slice(&settled.to_le_bytes());
        }
        for (key, rows, lines) in runs {
            bytes.extend_from_slice(&key.to_le_bytes());
            bytes.extend_from_slice(&rows.to_le_bytes());
            bytes.extend_from_slice(&lines.to_le_bytes());
        }
        let sum = CRC.checksum(&bytes[8..]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        self.write(&bytes, way.at());
    }

    /// Nothing is on a way any more.
    pub(super) fn arrived(&self, way: Way) {
        self.write(&[0; WAY_HEAD_BYTES], way.at());
    }

    /// Rows are safe.
    pub(super) fn settle(&self, way: Way, rows: impl Iterator<Item = Weight>) {
        let mut sums = BTreeMap::<i64, u64>::new();
        for (key, lines) in rows {
            *sums.entry(key).or_default() += lines;
        }
        let mut slots = self.slots();
        for (key, lines) in sums {
            let slot = slots.of(key);
            let settled = &mut slot.settled[way.index()];
            *settled += lines;
            let at = slot_at(slot.index) + (SETTLED_AT + 8 * way.index()) as u64;
            self.write(&settled.to_le_bytes(), at);
        }
    }

    /// Forgets an instance that was purged.
    pub(super) fn forget(&self, key: i64) {
        let mut slots = self.slots();
        if let Some(slot) = slots.by_key.remove(&key) {
            self.write(&[0; SLOT_BYTES], slot_at(slot.index));
            slots.free.push(slot.index);
        }
    }

    /// The file is memory, which refuses only when there is none left; lines go on without a count then.
    fn write(&self, bytes: &[u8], at: u64) {
        if let Err(error) = self.file.write_all_at(bytes, at) {
            tracing::warn!(%error, "lines in memory cannot be counted");
        }
    }
}

fn slot_at(index: u32) -> u64 {
    SLOTS_AT + u64::from(index) * SLOT_BYTES as u64
}
