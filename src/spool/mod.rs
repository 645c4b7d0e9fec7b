//! Rows on disk while the store is away or slow, in order, within a bound.
//!
//! A folder of append-only segments `NNNNNNNNNNNNNNNNNNNN.spool` and a file `cursor` that tells how far they were
//! read. A record is `length u32 | CRC-32 of the payload u32 | payload`, little endian; the payload belongs to the
//! kind of rows ([`SpoolRow`]). A process that dies in the middle of a write leaves a torn last record, which ends its
//! segment; a new process never appends to an old segment.
//! Files have mode 0600, the folder 0700. The rows are redacted already.

mod offload;
mod records;

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io,
    marker::PhantomData,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

pub use offload::Offloaded;
use records::{Decoded, Records};

/// Bytes before the payload of each record.
pub const RECORD_HEADER_BYTES: usize = 8;
/// No honest record is longer; a longer length is damage.
const PAYLOAD_BYTES_MAX: usize = 64 << 20;
const SEGMENTS: u64 = 8;

/// What can lie in a spool.
pub trait SpoolRow: Sized + Send + 'static {
    /// Appends the payload of its record to `out`.
    fn encode(&self, out: &mut Vec<u8>);
    /// The row of a payload; `None` for damage.
    fn decode(payload: &[u8]) -> Option<Self>;
    /// What it costs in memory, in bytes.
    fn cost_bytes(&self) -> usize;
}

/// Why a spool does not work.
#[derive(Debug, thiserror::Error)]
#[error("the spool in {} cannot be used", dir.display())]
pub struct SpoolError {
    dir: PathBuf,
    source: io::Error,
}

struct Segment {
    number: u64,
    bytes: u64,
}

/// A spool of one kind of rows. Calls block on the file system; see [`Offloaded`].
pub struct Spool<R> {
    dir: PathBuf,
    bytes_max: u64,
    segment_bytes_max: u64,
    /// Oldest first; the newest may be open for writing.
    segments: VecDeque<Segment>,
    writing: Option<File>,
    /// Open at the oldest segment.
    reading: Option<File>,
    read_offset: u64,
    cursor: File,
    next_number: u64,
    /// Set when the bound was reached; cleared when an eighth is free again.
    full: bool,
    rows: PhantomData<fn() -> R>,
}

/// A place between two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    segment: u64,
    offset: u64,
}

/// Rows read, and the place behind them.
pub struct SpoolBatch<R> {
    /// The rows, oldest first.
    pub rows: Vec<R>,
    /// Behind the last of them.
    pub end: Place,
}

impl<R: SpoolRow> Spool<R> {
    /// Opens the folder, makes it if need be, and finds what an earlier process left. Past `bytes_max` it takes no more.
    ///
    /// # Errors
    /// The folder cannot be made, read or written.
    pub async fn open(dir: &Path, bytes_max: u64) -> Result<Self, SpoolError> {
        let dir = dir.to_owned();
        let failed_dir = dir.clone();
        let opened =
            tokio::task::spawn_blocking(move || Self::open_blocking(&dir, bytes_max)).await;
        opened
            .unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
            .map_err(|source| SpoolError {
                dir: failed_dir,
                source,
            })
    }

    /// The same, on the thread of the caller.
    ///
    /// # Errors
    /// The folder cannot be made, read or written.
    pub fn open_blocking(dir: &Path, bytes_max: u64) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        let mut numbers = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".spool"));
            numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        let cursor = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join("cursor"))?;
        let (read_segment, read_offset) = read_cursor(&cursor)?;
        let mut spool = Self {
            dir: dir.to_owned(),
            bytes_max,
            segment_bytes_max: (bytes_max / SEGMENTS).max(1),
            segments: VecDeque::new(),
            writing: None,
            reading: None,
            read_offset: 0,
            cursor,
            next_number: numbers.last().copied().unwrap_or(0).max(read_segment) + 1,
            full: false,
            rows: PhantomData,
        };
        for number in numbers {
            let path = spool.path(number);
            let bytes = fs::metadata(&path)?.len();
            if number < read_segment || (number == read_segment && read_offset >= bytes) {
                fs::remove_file(path)?;
            } else {
                spool.segments.push_back(Segment { number, bytes });
            }
        }
        if spool
            .segments
            .front()
            .is_some_and(|first| first.number == read_segment)
        {
            spool.read_offset = read_offset;
        }
        Ok(spool)
    }

    /// Bytes not yet read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let total: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        total.saturating_sub(self.read_offset)
    }

    /// Whether everything was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Bytes on disk.
    fn disk_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Whether there is room. Once the bound was reached there is none before an eighth is free again, so that
    /// losses make few gaps instead of many.
    pub fn accepts(&mut self) -> bool {
        if self.full {
            let free_again = self.bytes_max - self.bytes_max / SEGMENTS;
            self.full = self.disk_bytes() > free_again;
        }
        !self.full
    }

    /// Appends rows, oldest first, as long as there is room; how many it took, and the fault that stopped it.
    /// `urgent` rows (gap rows) may pass the bound.
    pub fn append(&mut self, rows: &[R], urgent: bool) -> (usize, io::Result<()>) {
        if !self.accepts() && !urgent {
            return (0, Ok(()));
        }
        let (mut written, mut encoded_rows) = (0, 0);
        let mut encoded = Vec::new();
        let mut room = self.bytes_max.saturating_sub(self.disk_bytes());
        for row in rows {
            let start = encoded.len();
            encode(row, &mut encoded);
            let bytes = (encoded.len() - start) as u64;
            if bytes > room && !urgent {
                encoded.truncate(start);
                self.full = true;
                break;
            }
            room = room.saturating_sub(bytes);
            encoded_rows += 1;
            if encoded.len() as u64 >= self.segment_bytes_max {
                if let Err(error) = self.write(&encoded) {
                    return (written, Err(error));
                }
                encoded.clear();
                written = encoded_rows;
            }
        }
        if encoded_rows > written
            && let Err(error) = self.write(&encoded)
        {
            return (written, Err(error));
        }
        (encoded_rows, Ok(()))
    }

    /// The place behind everything appended so far.
    #[must_use]
    pub fn end(&self) -> Option<Place> {
        self.segments.back().map(|last| Place {
            segment: last.number,
            offset: last.bytes,
        })
    }

    fn write(&mut self, encoded: &[u8]) -> io::Result<()> {
        let fits = self
            .segments
            .back()
            .is_some_and(|last| last.bytes < self.segment_bytes_max);
        if self.writing.is_none() || !fits {
            let number = self.next_number;
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(self.path(number))?;
            self.next_number += 1;
            self.segments.push_back(Segment { number, bytes: 0 });
            self.writing = Some(file);
        }
        let (Some(file), Some(segment)) = (&mut self.writing, self.segments.back_mut()) else {
            return Err(io::Error::other("no segment is open"));
        };
        if let Err(error) = file.write_all_at(encoded, segment.bytes) {
            // A torn record must not stand in front of good ones.
            if file.set_len(segment.bytes).is_err() {
                self.writing = None;
            }
            return Err(error);
        }
        segment.bytes += encoded.len() as u64;
        Ok(())
    }

    /// Reads the oldest rows: at most `rows_max`, about `bytes_max`. `None`: the spool is empty. Nothing is
    /// removed before [`Spool::advance`].
    ///
    /// # Errors
    /// The file system refused.
    pub fn read(&mut self, rows_max: usize, bytes_max: usize) -> io::Result<Option<SpoolBatch<R>>> {
        while let Some(first) = self.segments.front() {
            let number = first.number;
            let left = first.bytes.saturating_sub(self.read_offset);
            let file = match &mut self.reading {
                Some(file) => file,
                None => match File::open(self.path(number)) {
                    Ok(file) => self.reading.insert(file),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        tracing::warn!(segment = number, "a segment of a spool is gone");
                        self.remove_first()?;
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            let (rows, offset) =
                rows_of(file, (number, self.read_offset), left, rows_max, bytes_max)?;
            if !rows.is_empty() {
                let segment = number;
                let end = Place { segment, offset };
                return Ok(Some(SpoolBatch { rows, end }));
            }
            self.remove_first()?;
        }
        Ok(None)
    }

    /// The same for the rows behind a place that was not advanced to yet, while those before it are on their way.
    ///
    /// # Errors
    /// The file system refused.
    pub fn read_behind(
        &self,
        place: Place,
        rows_max: usize,
        bytes_max: usize,
    ) -> io::Result<Option<SpoolBatch<R>>> {
        for (number, offset, left) in self.left_behind(place).filter(|(.., left)| *left > 0) {
            let file = File::open(self.path(number))?;
            let (rows, offset) = rows_of(&file, (number, offset), left, rows_max, bytes_max)?;
            if !rows.is_empty() {
                let segment = number;
                let end = Place { segment, offset };
                return Ok(Some(SpoolBatch { rows, end }));
            }
        }
        Ok(None)
    }

    /// Bytes behind a place.
    #[must_use]
    pub fn bytes_behind(&self, place: Place) -> u64 {
        self.left_behind(place).map(|(.., left)| left).sum()
    }

    /// Segments behind a place: the number of each, where to read on, and how much is left there.
    fn left_behind(&self, place: Place) -> impl Iterator<Item = (u64, u64, u64)> {
        let segments = self.segments.iter().map(move |segment| {
            let is_first = segment.number == place.segment;
            let offset = if is_first { place.offset } else { 0 };
            let left = segment.bytes.saturating_sub(offset);
            (segment.number, offset, left)
        });
        segments.filter(move |(number, ..)| *number >= place.segment)
    }

    /// The newest whole row of the newest segment, for who wants to know how far a former process came.
    ///
    /// # Errors
    /// The file system refused.
    pub fn newest_row(&self) -> io::Result<Option<R>> {
        let Some(newest) = self.segments.back() else {
            return Ok(None);
        };
        let file = File::open(self.path(newest.number))?;
        let mut records = Records::new(&file, 0, newest.bytes);
        let mut row = None;
        while let Decoded::Row(next, _) = records.next::<R>()? {
            row = Some(next);
        }
        Ok(row)
    }

    /// Everything before `place` is in the store: it is not read again.
    ///
    /// # Errors
    /// The file system refused; then it may be read again by a later process.
    pub fn advance(&mut self, place: Place) -> io::Result<()> {
        while self
            .segments
            .front()
            .is_some_and(|first| first.number < place.segment)
        {
            self.remove_first()?;
        }
        let Some(first) = self.segments.front() else {
            return Ok(());
        };
        if first.number > place.segment {
            return Ok(());
        }
        self.read_offset = place.offset;
        let read_through = place.offset >= first.bytes;
        let mut bytes = Vec::with_capacity(20);
        bytes.extend_from_slice(&place.segment.to_le_bytes());
        bytes.extend_from_slice(&place.offset.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        self.cursor.write_all_at(&bytes, 0)?;
        if read_through {
            self.remove_first()?;
        }
        Ok(())
    }

    fn remove_first(&mut self) -> io::Result<()> {
        let Some(first) = self.segments.pop_front() else {
            return Ok(());
        };
        self.reading = None;
        self.read_offset = 0;
        if self.segments.is_empty() {
            self.writing = None;
        }
        match fs::remove_file(self.path(first.number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Brings what was written to the disk itself.
    ///
    /// # Errors
    /// The file system refused.
    pub fn sync(&self) -> io::Result<()> {
        self.cursor.sync_data()?;
        self.writing.as_ref().map_or(Ok(()), File::sync_data)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:020}.spool"))
    }
}

/// The rows of a segment from a place on, of which `left` bytes follow, and where the last of them ends.
fn rows_of<R: SpoolRow>(
    file: &File,
    (number, mut offset): (u64, u64),
    left: u64,
    rows_max: usize,
    bytes_max: usize,
) -> io::Result<(Vec<R>, u64)> {
    let mut records = Records::new(file, offset, left);
    let mut rows = Vec::new();
    let mut bytes = 0;
    while rows.len() < rows_max && bytes < bytes_max {
        match records.next::<R>()? {
            Decoded::Row(row, length) => {
                offset += length;
                bytes += row.cost_bytes();
                rows.push(row);
            }
            Decoded::End => break,
            Decoded::Damaged => {
                tracing::warn!(
                    segment = number,
                    offset,
                    "a spool has a torn record; the rest of this segment is passed over"
                );
                break;
            }
        }
    }
    Ok((rows, offset))
}

/// The place of the cursor file; damage counts as the beginning.
fn read_cursor(file: &File) -> io::Result<(u64, u64)> {
    let mut place = [0; 20];
    match file.read_exact_at(&mut place, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok((0, 0)),
        Err(error) => return Err(error),
    }
    let mut fields = Fields(&place);
    let (segment, offset) = (fields.u64(), fields.u64());
    if crc32fast::hash(&place[..16]) == fields.u32() {
        Ok((segment, offset))
    } else {
        Ok((0, 0))
    }
}

fn encode(row: &impl SpoolRow, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
    row.encode(out);
    let payload = start + RECORD_HEADER_BYTES;
    // Rows are bounded where they are made, far below 4 GiB.
    let length = u32::try_from(out.len() - payload).unwrap_or(u32::MAX);
    let checksum = crc32fast::hash(&out[payload..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..payload].copy_from_slice(&checksum.to_le_bytes());
}

/// Little-endian fields, read from the front. The caller knows that they are there.
pub struct Fields<'b>(pub &'b [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let (field, rest) = self.0.split_at(N);
        array.copy_from_slice(field);
        self.0 = rest;
        array
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}
