//! Tests of the spool.

use std::{fs, os::unix::fs::PermissionsExt};

use super::{
    fake_store,
    record::{LogRecord, NumberedLog},
    spooled::bytes_in_spool,
};
use crate::spool::SpoolRow;

type Spool = crate::spool::Spool<NumberedLog>;

/// As builds left it that did not number lines.
fn record(line: &str) -> NumberedLog {
    NumberedLog {
        writer: 0,
        number: 0,
        record: fake_store::record(line),
    }
}

fn append_all(spool: &mut Spool, lines: std::ops::Range<usize>) {
    for line in lines {
        let (taken, fault) = spool.append(&[record(&format!("line {line}"))], false);
        fault.expect("the folder is writable");
        assert_eq!(taken, 1);
    }
}

/// Reads and removes everything.
fn drain(spool: &mut Spool) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(batch) = spool.read(7, 1 << 20).expect("the folder is readable") {
        spool.advance(batch.end).expect("the folder is writable");
        lines.extend(batch.rows.into_iter().map(|row| row.record.line));
    }
    lines
}

fn numbered(lines: std::ops::Range<usize>) -> Vec<String> {
    lines.map(|line| format!("line {line}")).collect()
}

fn open(dir: &tempfile::TempDir, bytes_max: u64) -> Spool {
    Spool::open_blocking(&dir.path().join("spool"), bytes_max).expect("the folder is usable")
}

#[test]
fn order_is_kept_over_segments_and_restarts() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut spool = open(&dir, 4_000);
    append_all(&mut spool, 0..50);
    let first = spool
        .read(20, 1 << 20)
        .expect("readable")
        .expect("not empty");
    spool.advance(first.end).expect("writable");
    let taken = first.rows.len();
    drop(spool);
    let mut spool = open(&dir, 4_000);
    append_all(&mut spool, 50..60);
    assert_eq!(drain(&mut spool), numbered(taken..60));
    assert!(spool.is_empty());
    assert_eq!(spool.bytes(), 0);
    append_all(&mut spool, 60..61);
    assert_eq!(drain(&mut spool), numbered(60..61));
    let left = fs::read_dir(dir.path().join("spool"))
        .expect("a folder")
        .count();
    assert_eq!(left, 1, "only the cursor is left");
}

#[test]
fn what_was_read_but_not_stored_is_read_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut spool = open(&dir, 1 << 20);
    append_all(&mut spool, 0..5);
    assert!(spool.read(3, 1 << 20).expect("readable").is_some());
    drop(spool);
    assert_eq!(drain(&mut open(&dir, 1 << 20)), numbered(0..5));
}

#[test]
fn the_next_rows_are_read_ahead_over_segments_and_a_torn_record() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut spool = open(&dir, 4_000);
    append_all(&mut spool, 0..3);
    let segment = dir.path().join("spool/00000000000000000001.spool");
    let bytes = fs::read(&segment).expect("the segment");
    drop(spool);
    fs::write(&segment, &bytes[..bytes.len() - 1]).expect("writable");
    let mut spool = open(&dir, 4_000);
    append_all(&mut spool, 2..50);
    let mut lines = Vec::new();
    let mut batch = spool
        .read(2, 1 << 20)
        .expect("readable")
        .expect("not empty");
    loop {
        // Asked for twice, as it is when the batch on its way did not arrive.
        let ahead = spool.read_behind(batch.end, 7, 1 << 20).expect("readable");
        let again = spool.read_behind(batch.end, 7, 1 << 20).expect("readable");
        let ends = |it: &Option<crate::spool::SpoolBatch<_>>| it.as_ref().map(|batch| batch.end);
        assert_eq!(ends(&ahead), ends(&again));
        assert_eq!(spool.bytes_behind(batch.end) == 0, ahead.is_none());
        lines.extend(batch.rows.into_iter().map(|row| row.record.line));
        let Some(ahead) = ahead else {
            spool.advance(batch.end).expect("the folder is writable");
            break;
        };
        spool.advance(batch.end).expect("the folder is writable");
        let next = spool
            .read(7, 1 << 20)
            .expect("readable")
            .expect("not empty");
        assert_eq!(next.rows, ahead.rows, "the same in its turn");
        batch = ahead;
    }
    assert_eq!(lines, numbered(0..50));
    assert!(spool.is_empty());
}

#[test]
fn a_torn_last_record_is_passed_over() {
    // Three records of 40 bytes, torn in the last text, its header, and at the border before it.
    for torn in [119, 83, 80, 79] {
        let dir = tempfile::tempdir().expect("a folder");
        let mut spool = open(&dir, 1 << 20);
        append_all(&mut spool, 0..3);
        drop(spool);
        let segment = dir.path().join("spool/00000000000000000001.spool");
        let bytes = fs::read(&segment).expect("the segment");
        assert_eq!(bytes.len(), 120);
        fs::write(&segment, &bytes[..torn]).expect("writable");
        let mut spool = open(&dir, 1 << 20);
        append_all(&mut spool, 3..4);
        let mut expected = numbered(0..torn / 40);
        expected.extend(numbered(3..4));
        assert_eq!(drain(&mut spool), expected, "{torn}");
    }
}

#[test]
fn a_flipped_bit_never_becomes_a_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut spool = open(&dir, 1 << 20);
    append_all(&mut spool, 0..2);
    drop(spool);
    let segment = dir.path().join("spool/00000000000000000001.spool");
    let mut bytes = fs::read(&segment).expect("the segment");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&segment, &bytes).expect("writable");
    assert_eq!(drain(&mut open(&dir, 1 << 20)), ["line 0"]);
}

#[test]
fn a_record_is_laid_out_as_earlier_builds_left_it() {
    let dir = tempfile::tempdir().expect("a folder");
    append_all(&mut open(&dir, 1 << 20), 0..1);
    let segment = dir.path().join("spool/00000000000000000001.spool");
    let bytes = fs::read(&segment).expect("the segment");
    // By zlib's crc32 of the 32 bytes behind it.
    let head = [32_u32, 0x71da_3bc0].map(u32::to_le_bytes).concat();
    assert_eq!(bytes[..8], head);
    assert_eq!(bytes.len(), 40);
}

#[test]
fn the_bound_holds_and_rows_come_again_only_after_an_eighth_is_free() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut spool = open(&dir, 800);
    let rows: Vec<_> = (0..100)
        .map(|line| record(&format!("line {line:02}")))
        .collect();
    let (taken, fault) = spool.append(&rows, false);
    fault.expect("writable");
    // 34 bytes around a text of 7.
    assert_eq!(taken, 800 / 41);
    assert_eq!(spool.append(&rows, false).0, 0);
    assert!(!spool.accepts());
    assert_eq!(
        spool.append(&rows[..1], true).0,
        1,
        "a gap row may pass the bound"
    );
    let mut read = 0;
    while !spool.accepts() {
        let batch = spool.read(1, 1).expect("readable").expect("not empty");
        spool.advance(batch.end).expect("writable");
        read += 1;
    }
    assert!((2..=6).contains(&read), "{read}");
}

#[test]
fn only_the_owner_can_read_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut spool = open(&dir, 1 << 20);
    append_all(&mut spool, 0..1);
    for entry in fs::read_dir(dir.path().join("spool")).expect("a folder") {
        let mode = entry
            .expect("an entry")
            .metadata()
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_line_keeps_its_member_and_its_number_and_others_look_as_before() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut spool = open(&dir, 4_000);
    let members = [
        (0, 0, 0),
        (0, 0, 7),
        (9, 1, 0),
        (i64::MAX, i64::MAX, u32::MAX),
    ];
    let rows = members.map(|(writer, number, member)| NumberedLog {
        writer,
        number,
        record: LogRecord {
            member,
            ..fake_store::record("of someone")
        },
    });
    let (taken, fault) = spool.append(&rows, false);
    fault.expect("the folder is writable");
    assert_eq!(taken, rows.len());
    let read = spool.read(7, 1 << 20).expect("readable");
    assert_eq!(read.expect("not empty").rows, rows);
    let mut payload = Vec::new();
    rows[3].encode(&mut payload);
    let bytes = (crate::spool::RECORD_HEADER_BYTES + payload.len()) as u64;
    assert_eq!(bytes_in_spool(&rows[3].record), bytes);
}
