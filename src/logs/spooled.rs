//! A log row as it lies in the spool: `key i64 | generation u64 | at i64 | stream u8 | continued u8 | line`; where the
//! highest bit of `stream` is set, `member u32` stands before the line, and where the one below it is set,
//! `writer i64 | number i64` before that. Rows of builds that did not number them have no number.

use super::record::{LogRecord, LogStream, NumberedLog};
use crate::{
    domain::id::Generation,
    spool::{Fields, RECORD_HEADER_BYTES, SpoolRow},
    tally::Numbered,
};

const FIXED_BYTES: usize = 26;
/// In the byte of the stream: a member wrote it.
const FLAG_MEMBER: u8 = 0x80;
/// In the same byte: it is numbered.
const FLAG_NUMBER: u8 = 0x40;
const NUMBER_BYTES: usize = 16;

/// What a row takes of the spool, in bytes.
pub(super) fn bytes_in_spool(row: &LogRecord) -> u64 {
    let member_bytes = if row.member == 0 { 0 } else { size_of::<u32>() };
    (RECORD_HEADER_BYTES + FIXED_BYTES + NUMBER_BYTES + member_bytes + row.line.len()) as u64
}

impl Numbered for NumberedLog {
    fn number(&self) -> (i64, i64) {
        (self.writer, self.number)
    }
}

impl SpoolRow for NumberedLog {
    fn encode(&self, out: &mut Vec<u8>) {
        let row = &self.record;
        let member = if row.member == 0 { 0 } else { FLAG_MEMBER };
        let number = if self.writer == 0 { 0 } else { FLAG_NUMBER };
        out.extend_from_slice(&row.instance_key.to_le_bytes());
        out.extend_from_slice(&row.generation.0.to_le_bytes());
        out.extend_from_slice(&row.at.to_le_bytes());
        out.extend_from_slice(&[row.stream.code() | member | number, u8::from(row.continued)]);
        if number != 0 {
            out.extend_from_slice(&self.writer.to_le_bytes());
            out.extend_from_slice(&self.number.to_le_bytes());
        }
        if member != 0 {
            out.extend_from_slice(&row.member.to_le_bytes());
        }
        out.extend_from_slice(row.line.as_bytes());
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let (fixed, mut line) = payload.split_at_checked(FIXED_BYTES)?;
        let stream = fixed[FIXED_BYTES - 2];
        let (mut writer, mut number, mut member) = (0, 0, 0);
        if stream & FLAG_NUMBER != 0 {
            let (numbers, rest) = line.split_at_checked(NUMBER_BYTES)?;
            let mut fields = Fields(numbers);
            (writer, number) = (fields.u64().cast_signed(), fields.u64().cast_signed());
            line = rest;
        }
        if stream & FLAG_MEMBER != 0 {
            let (of_member, rest) = line.split_first_chunk()?;
            member = u32::from_le_bytes(*of_member);
            line = rest;
        }
        let mut fields = Fields(fixed);
        let (key, generation, at) = (fields.u64(), fields.u64(), fields.u64());
        let record = LogRecord {
            instance_key: key.cast_signed(),
            generation: Generation(generation),
            member,
            stream: LogStream::from_code(stream & !(FLAG_MEMBER | FLAG_NUMBER))?,
            at: at.cast_signed(),
            line: str::from_utf8(line).ok()?.to_owned(),
            continued: fixed[FIXED_BYTES - 1] != 0,
        };
        Some(Self {
            writer,
            number,
            record,
        })
    }

    fn cost_bytes(&self) -> usize {
        self.record.cost_bytes() + NUMBER_BYTES
    }
}
