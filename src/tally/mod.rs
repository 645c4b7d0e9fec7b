//! How much is in the memory of this process alone, counted where a SIGKILL leaves it: the next daemon tells it as lost.
//!
//! Of log lines and of call records there is one count each, in a file without a name in memory, of which the keeper holds
//! a descriptor. What comes in counts as entered, and as settled once it, or a row that tells how much is lost, is in the
//! store or the spool. What is on its way to either is written down first: nobody else could say later whose the numbers
//! were that arrived.
//!
//! ```text
//! head:      magic, the number of the writer
//! two ways:  CRC-32, counts, first number | key, settled before | key, rows, weight     (to the store, to the spool)
//! slots:     key, generation, time, entered, settled by the store, by the spool
//! ```
//!
//! A slot and its parts never cross a page, and what a way holds is checked by its sum: a kill leaves the old or the new.

mod former;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use uuid::Uuid;

use crate::{
    domain::{UnixMs, id::Generation},
    spool::{Spool, SpoolRow},
};

pub use former::Numbered;
use former::lost;
#[cfg(test)]
pub(crate) use former::lost_now;

/// What one instance lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// The launch that the newest of it is of.
    pub generation: Generation,
    /// When the newest of it came in.
    pub at: UnixMs,
    /// How many lines or records.
    pub count: u64,
}

/// What is lost, by the key of its instance.
pub type Losses = BTreeMap<i64, Lost>;

/// Files in memory in which is counted what is in the memory of a daemon alone.
#[derive(Debug)]
pub struct CountFiles {
    /// That of the daemon before this one.
    pub former: Option<File>,
    /// An empty one for this daemon.
    pub own: File,
}

const MAGIC: &[u8; 8] = b"mMCPmem1";
const HEAD_BYTES: usize = 16;
const WAYS_AT: u64 = 4 << 10;
/// What is on one way at most; of more nothing is written down.
const WAY_BYTES_MAX: u64 = 1 << 20;
const WAY_HEAD_BYTES: usize = 24;
const BASE_BYTES: usize = 16;
const RUN_BYTES: usize = 24;
const SLOTS_AT: u64 = WAYS_AT + 2 * WAY_BYTES_MAX;
const SLOT_BYTES: usize = 64;
/// So many slots are kept, whether anything of their instances is in memory or not.
const SLOTS_KEPT: usize = 1_024;
/// In a slot, where what the first way settled is.
const SETTLED_AT: usize = 32;

/// Where rows are safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In the store.
    Store,
    /// In the spool.
    Spool,
}

impl Way {
    const ALL: [Self; 2] = [Self::Store, Self::Spool];

    fn index(self) -> usize {
        match self {
            Self::Store => 0,
            Self::Spool => 1,
        }
    }

    fn at(self) -> u64 {
        WAYS_AT + WAY_BYTES_MAX * self.index() as u64
    }
}

/// Begins the count of the writer with this number, if there are files for it, with what the former one tells as lost; `what`
/// and `close` are for [`lost`]. Without a count nothing is told as lost later.
pub async fn begun<R, E, F>(
    files: Option<CountFiles>,
    writer: i64,
    what: &str,
    spool: &Spool<R>,
    close: impl Fn(i64, Option<i64>) -> F,
) -> (Losses, Option<Tally>)
where
    R: SpoolRow + Numbered,
    E: Display,
    F: Future<Output = Result<i64, E>>,
{
    let Some(CountFiles { former, own }) = files else {
        return (Losses::new(), None);
    };
    let lost = match former {
        Some(file) => lost(&file, what, spool, close).await,
        None => Losses::new(),
    };
    let tally = Tally::begin(own, writer, &lost);
    let warn = |error| tracing::warn!(%error, what, "those in memory cannot be counted");
    (lost, tally.map_err(warn).ok())
}

/// A number for a writer, which none had before: 63 random bits. 0 is nobody.
#[must_use]
pub fn new_writer() -> i64 {
    let (random, _) = Uuid::new_v4().as_u64_pair();
    (random >> 1).cast_signed().max(1)
}

/// The key of whose a row is, and how much that entered it settles: itself, or what it tells as lost.
pub type Weight = (i64, u64);

#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    index: u32,
    entered: u64,
    settled: [u64; 2],
}

impl Slot {
    fn is_settled(&self) -> bool {
        self.entered == self.settled.iter().sum::<u64>()
    }
}

#[derive(Debug, Default)]
struct Slots {
    by_key: HashMap<i64, Slot>,
    free: Vec<u32>,
    next: u32,
    /// Whether rows are on the ways, which name what was settled before.
    out: [bool; 2],
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
pub struct Tally {
    file: File,
    slots: Mutex<Slots>,
}

impl Tally {
    /// Begins in an empty file, for the writer with this number, with what is lost already and still to be told.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn begin(file: File, writer: i64, lost: &Losses) -> io::Result<Self> {
        let tally = Self {
            file,
            slots: Mutex::default(),
        };
        for (key, lost) in lost {
            tally.enter(*key, lost.generation, lost.at, lost.count.cast_signed());
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

    /// `count` more of an instance are in memory, or less: whoever read bytes counts their ends of lines before the lines
    /// themselves are known.
    pub fn enter(&self, key: i64, generation: Generation, at: UnixMs, count: i64) {
        let mut slots = self.slots();
        let slot = slots.of(key);
        slot.entered = slot.entered.saturating_add_signed(count);
        let mut bytes = [0; SETTLED_AT];
        bytes[..8].copy_from_slice(&key.to_le_bytes());
        bytes[8..16].copy_from_slice(&generation.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&at.to_le_bytes());
        bytes[24..].copy_from_slice(&slot.entered.to_le_bytes());
        self.write(&bytes, slot_at(slot.index));
    }

    /// Rows are about to go a way, the first of them with the number `first`, the others with those that follow.
    pub fn sets_out(&self, way: Way, first: i64, rows: impl Iterator<Item = Weight>) {
        let mut runs: Vec<(i64, u64, u64)> = Vec::new();
        for (key, weight) in rows {
            match runs.last_mut() {
                // A row that tells of losses stands for itself, as they are safe all together.
                Some((last, count, sum)) if *last == key && weight == 1 && count == sum => {
                    *count += 1;
                    *sum += 1;
                }
                _ => runs.push((key, 1, weight)),
            }
        }
        let mut bases = BTreeMap::new();
        let mut slots = self.slots();
        slots.out[way.index()] = true;
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
        for (key, rows, weight) in runs {
            bytes.extend_from_slice(&key.to_le_bytes());
            bytes.extend_from_slice(&rows.to_le_bytes());
            bytes.extend_from_slice(&weight.to_le_bytes());
        }
        let sum = crc32fast::hash(&bytes[8..]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        self.write(&bytes, way.at());
    }

    /// Nothing is on a way any more.
    pub fn arrived(&self, way: Way) {
        self.write(&[0; WAY_HEAD_BYTES], way.at());
        let mut slots = self.slots();
        slots.out[way.index()] = false;
        if slots.by_key.len() > SLOTS_KEPT && slots.out == [false; 2] {
            self.give_back(&mut slots);
        }
    }

    /// Slots that say nothing: else each instance that ever was would have one.
    fn give_back(&self, slots: &mut Slots) {
        let settled = slots.by_key.extract_if(|_, slot| slot.is_settled());
        let settled: Vec<u32> = settled.map(|(_, slot)| slot.index).collect();
        for index in settled {
            self.write(&[0; SLOT_BYTES], slot_at(index));
            slots.free.push(index);
        }
    }

    /// Rows are safe.
    pub fn settle(&self, way: Way, rows: impl Iterator<Item = Weight>) {
        let mut sums = BTreeMap::<i64, u64>::new();
        for (key, weight) in rows {
            *sums.entry(key).or_default() += weight;
        }
        let mut slots = self.slots();
        for (key, weight) in sums {
            let slot = slots.of(key);
            let settled = &mut slot.settled[way.index()];
            *settled += weight;
            let at = slot_at(slot.index) + (SETTLED_AT + 8 * way.index()) as u64;
            self.write(&settled.to_le_bytes(), at);
        }
    }

    /// The file is memory, which refuses only when there is none left; rows go on without a count then.
    fn write(&self, bytes: &[u8], at: u64) {
        if let Err(error) = self.file.write_all_at(bytes, at) {
            tracing::warn!(%error, "what is in memory cannot be counted");
        }
    }
}

fn slot_at(index: u32) -> u64 {
    SLOTS_AT + u64::from(index) * SLOT_BYTES as u64
}
