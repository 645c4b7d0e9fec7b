//! A log row as it lies in the spool: `key i64 | generation u64 | at i64 | stream u8 | continued u8 | line`; where the
//! highest bit of `stream` is set, `member u32` stands before the line.

use super::record::{LogRecord, LogStream};
use crate::{
    domain::id::Generation,
    spool::{Fields, RECORD_HEADER_BYTES, SpoolRow},
};

const FIXED_BYTES: usize = 26;
/// In the byte of the stream: a member wrote it.
const FLAG_MEMBER: u8 = 0x80;

/// What a row takes of the spool, in bytes.
pub(super) fn bytes_in_spool(row: &LogRecord) -> u64 {
    let member_bytes = if row.member == 0 { 0 } else { size_of::<u32>() };
    (RECORD_HEADER_BYTES + FIXED_BYTES + member_bytes + row.line.len()) as u64
}

impl SpoolRow for LogRecord {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.instance_key.to_le_bytes());
        out.extend_from_slice(&self.generation.0.to_le_bytes());
        out.extend_from_slice(&self.at.to_le_bytes());
        if self.member == 0 {
            out.extend_from_slice(&[self.stream.code(), u8::from(self.continued)]);
        } else {
            out.extend_from_slice(&[self.stream.code() | FLAG_MEMBER, u8::from(self.continued)]);
            out.extend_from_slice(&self.member.to_le_bytes());
        }
        out.extend_from_slice(self.line.as_bytes());
    }

    fn decode(mut payload: Vec<u8>) -> Option<Self> {
        if payload.len() < FIXED_BYTES {
            return None;
        }
        let mut line = payload.split_off(FIXED_BYTES);
        let stream = payload[FIXED_BYTES - 2];
        let mut member = 0;
        if stream & FLAG_MEMBER != 0 {
            let (number, _) = line.split_first_chunk()?;
            member = u32::from_le_bytes(*number);
            line.drain(..size_of::<u32>());
        }
        let mut fields = Fields(&payload);
        let (key, generation, at) = (fields.u64(), fields.u64(), fields.u64());
        Some(Self {
            instance_key: key.cast_signed(),
            generation: Generation(generation),
            member,
            stream: LogStream::from_code(stream & !FLAG_MEMBER)?,
            at: at.cast_signed(),
            line: String::from_utf8(line).ok()?,
            continued: payload[FIXED_BYTES - 1] != 0,
        })
    }

    fn cost_bytes(&self) -> usize {
        Self::cost_bytes(self)
    }
}
