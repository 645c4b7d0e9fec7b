//! The records of a segment, one after the other, read in blocks.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::{Fields, PAYLOAD_BYTES_MAX, RECORD_HEADER_BYTES, SpoolRow};

const BLOCK_BYTES: usize = 256 << 10;

/// What comes next in a segment.
pub(super) enum Decoded<R> {
    /// The row and its length on disk.
    Row(R, u64),
    End,
    Damaged,
}

/// The reading of one segment.
pub(super) struct Records<'f> {
    file: &'f File,
    /// Where the next block begins, and how much of the segment is left there.
    offset: u64,
    left: u64,
    block: Vec<u8>,
    /// So much of the block was given out.
    used: usize,
}

impl<'f> Records<'f> {
    /// Those between `offset` and `left` bytes behind it.
    pub(super) fn new(file: &'f File, offset: u64, left: u64) -> Self {
        Self {
            file,
            offset,
            left,
            block: Vec::new(),
            used: 0,
        }
    }

    /// The next row.
    pub(super) fn next<R: SpoolRow>(&mut self) -> io::Result<Decoded<R>> {
        let header = self.ahead(RECORD_HEADER_BYTES)?;
        if header.len() < RECORD_HEADER_BYTES {
            let torn = !header.is_empty();
            return Ok(if torn { Decoded::Damaged } else { Decoded::End });
        }
        let mut fields = Fields(header);
        let (length, checksum) = (fields.u32() as usize, fields.u32());
        if length > PAYLOAD_BYTES_MAX {
            return Ok(Decoded::Damaged);
        }
        let bytes = RECORD_HEADER_BYTES + length;
        let record = self.ahead(bytes)?;
        let payload = record.get(RECORD_HEADER_BYTES..).unwrap_or_default();
        if payload.len() < length || crc32fast::hash(payload) != checksum {
            return Ok(Decoded::Damaged);
        }
        let row = R::decode(payload);
        self.used += bytes;
        Ok(match row {
            Some(row) => Decoded::Row(row, bytes as u64),
            None => Decoded::Damaged,
        })
    }

    /// The next `count` bytes, or as many as there are.
    fn ahead(&mut self, count: usize) -> io::Result<&[u8]> {
        if self.block.len() - self.used < count && self.left > 0 {
            self.block.drain(..self.used);
            self.used = 0;
            let missing = (count - self.block.len()).max(BLOCK_BYTES) as u64;
            let mut filled = self.block.len();
            let end = filled + usize::try_from(missing.min(self.left)).unwrap_or(BLOCK_BYTES);
            self.block.resize(end, 0);
            while filled < end {
                match self.file.read_at(&mut self.block[filled..], self.offset) {
                    Ok(0) => {
                        // Shorter than it was: what is missing is torn off.
                        self.left = 0;
                        break;
                    }
                    Ok(read) => {
                        filled += read;
                        self.offset += read as u64;
                        self.left = self.left.saturating_sub(read as u64);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.block.truncate(filled);
        }
        let rest = &self.block[self.used..];
        Ok(rest.get(..count).unwrap_or(rest))
    }
}
