//! Which lines of an instance's log must be there. Pure.
//!
//! A line that was written (the call that wrote it was answered) is in the log exactly once, or a gap row counts it,
//! whatever was killed meanwhile; once somebody read it, it stays. What `serve` had in its memory when it was killed is
//! counted in a file that the keeper holds ([`super::count`]), so a kill of `serve` excuses nothing. These lines are left
//! out, because nobody is left to count them:
//!
//! - Lines not yet read when that count was lost: `serve` was killed while a new keeper had not been given the file yet, or
//!   the keeper was killed before the next `serve` had taken over, and with the file the pipes that only it still held.
//! - Lines of a call that was not answered: any part of them may have been written.
//!
//! The other way round, gap rows may not count more than is missing, but for what cannot be told apart from it: lines of
//! those two kinds, the server's own few lines, lines of which a kill tore one in two, and one batch of the writer where the
//! database was away after a kill, so that nobody could ask whether it was committed.

use std::collections::{BTreeMap, BTreeSet};

use super::model::Violation;

/// Begins every line of ours.
const MARK: &str = "chaos-";
/// Lines that a kill of `serve` can take without any of ours being missing: the server's own, and halves of torn lines.
const STRAYS: u64 = 8;
/// The most lines of one batch of the writer.
pub const BATCH_LINES: u64 = 500;

/// Lines written by one call.
#[derive(Debug, Clone, Default)]
struct Batch {
    lines: u32,
    /// The call was answered: the lines are in the pipe.
    answered: bool,
    /// The count of what is in memory was lost before all of them were read.
    excused: bool,
    /// A comparison without a fault came after it: what is missing of it is counted.
    settled: bool,
    /// Those that were read.
    read: BTreeSet<u32>,
}

impl Batch {
    fn missing(&self) -> u64 {
        u64::from(self.lines).saturating_sub(self.read.len() as u64)
    }
}

/// What one instance wrote.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    batches: BTreeMap<String, Batch>,
    next: u32,
    /// What the gap rows of the log counted at the last comparison without a fault, in lines.
    counted: u64,
    /// So many more lines than are missing may be counted.
    leeway: u64,
}

/// Row id and text.
pub type Row = (i64, String);

impl Ledger {
    /// A call that is about to write `lines` lines: the text to give it. From two lines on the server numbers them, so
    /// there are at least two.
    pub fn begin(&mut self, owner: &str, lines: u32) -> String {
        self.next += 1;
        let word = format!("{MARK}{owner}-{}", self.next);
        let batch = Batch {
            lines: lines.max(2),
            ..Batch::default()
        };
        self.batches.insert(word.clone(), batch);
        word
    }

    /// The call was answered.
    pub fn answered(&mut self, word: &str) {
        if let Some(batch) = self.batches.get_mut(word) {
            batch.answered = true;
        }
    }

    /// How many lines a call writes.
    pub fn lines_of(&self, word: &str) -> u32 {
        self.batches.get(word).map_or(0, |batch| batch.lines)
    }

    /// `serve` was killed, and its count of lines is held.
    pub fn serve_was_killed(&mut self) {
        self.leeway += STRAYS;
    }

    /// The next `serve` may find no database to ask how much of the last batch it has.
    pub fn nobody_was_asked(&mut self) {
        self.leeway += BATCH_LINES;
    }

    /// The count of lines that nobody read yet is gone.
    pub fn count_was_lost(&mut self) {
        for batch in self.batches.values_mut() {
            batch.excused |= batch.missing() > 0;
        }
    }

    /// Some rows as they were read, in the order of the log.
    ///
    /// # Errors
    /// A row is there twice, out of order, or belongs to somebody else.
    pub fn read_some(&mut self, rows: &[Row]) -> Result<(), Violation> {
        let mut last: BTreeMap<&str, u32> = BTreeMap::new();
        for (id, text) in rows {
            let Some((word, number)) = self.place_of(text)? else {
                continue;
            };
            let (word, batch) = self
                .batches
                .get_key_value(word)
                .ok_or_else(|| format!("row {id} is of nobody here: {text}"))?;
            if number == 0 || number > batch.lines {
                return Err(format!("row {id} was never written: {text}"));
            }
            let before = last.insert(word, number).unwrap_or(0);
            if before >= number {
                return Err(format!("row {id} is there twice or out of order: {text}"));
            }
        }
        for (_, text) in rows {
            if let Some((word, number)) = self.place_of(text)? {
                let word = word.to_owned();
                if let Some(batch) = self.batches.get_mut(&word) {
                    batch.read.insert(number);
                }
            }
        }
        Ok(())
    }

    /// The whole log, while everything is calm: nothing acknowledged is missing, nothing is there twice, no gap row counts
    /// what is there. Answers how many lines are missing since the last time that no gap row counts; they may still be on
    /// their way. With none, this is where the next time begins.
    ///
    /// # Errors
    /// As [`Self::read_some`], or a line that was read before is gone.
    pub fn read_all(&mut self, rows: &[Row]) -> Result<u64, Violation> {
        let mut now: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
        for (_, text) in rows {
            if let Some((word, number)) = self.place_of(text)? {
                now.entry(word).or_default().insert(number);
            }
        }
        for (word, batch) in &self.batches {
            let there = now.get(word.as_str());
            let gone = |number: &&u32| !there.is_some_and(|there| there.contains(number));
            if let Some(lost) = batch.read.iter().find(gone) {
                return Err(format!("an acknowledged line is gone: {word} ({lost})"));
            }
        }
        self.read_some(rows)?;
        let counted: u64 = rows.iter().filter_map(|(_, text)| gap_of(text)).sum();
        let most = self.missing(|_| true) + self.leeway;
        if counted > most {
            return Err(format!(
                "gap rows count {counted} lines, and at most {most} can be missing"
            ));
        }
        let must_be_there = |batch: &Batch| batch.answered && !batch.excused && !batch.settled;
        let news = counted.saturating_sub(self.counted);
        let uncounted = self.missing(must_be_there).saturating_sub(news);
        if uncounted == 0 {
            self.counted = counted;
            for batch in self.batches.values_mut() {
                batch.settled = true;
            }
        }
        Ok(uncounted)
    }

    /// How many lines the gap rows counted at the last comparison without a fault.
    pub fn counted(&self) -> u64 {
        self.counted
    }

    fn missing(&self, of: impl Fn(&Batch) -> bool) -> u64 {
        let batches = self.batches.values().filter(|batch| of(batch));
        batches.map(Batch::missing).sum()
    }

    /// The call and the number that a line names; `None` for lines that are not ours, and for the torn last line of a
    /// server that was killed in the middle of it.
    fn place_of<'a>(&self, text: &'a str) -> Result<Option<(&'a str, u32)>, Violation> {
        if !text.starts_with(MARK) {
            return Ok(None);
        }
        let whole = text.split_once(" (").and_then(|(word, number)| {
            let number = number.strip_suffix(')')?.parse().ok()?;
            Some((word, number))
        });
        if whole.is_some() {
            return Ok(whole);
        }
        let torn = self.batches.iter().any(|(word, batch)| {
            !batch.answered && (word.starts_with(text) || text.starts_with(word))
        });
        if torn {
            Ok(None)
        } else {
            Err(format!("half a line: {text:?}"))
        }
    }
}

/// The lines that a gap row counts.
fn gap_of(text: &str) -> Option<u64> {
    let (count, rest) = text.split_once(' ')?;
    let is_gap = rest.starts_with("line lost: ") || rest.starts_with("lines lost: ");
    is_gap.then(|| count.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(texts: &[&str]) -> Vec<Row> {
        let numbered = texts.iter().zip(1..);
        numbered
            .map(|(text, id)| (id, (*text).to_owned()))
            .collect()
    }

    fn written() -> (Ledger, String) {
        let mut ledger = Ledger::default();
        let word = ledger.begin("s1", 3);
        ledger.answered(&word);
        (ledger, word)
    }

    const ALL: [&str; 3] = ["chaos-s1-1 (1)", "chaos-s1-1 (2)", "chaos-s1-1 (3)"];

    #[test]
    fn all_of_them_once_and_in_order_is_right() {
        let (mut ledger, word) = written();
        assert_eq!((word.as_str(), ledger.lines_of(&word)), ("chaos-s1-1", 3));
        let mut log = vec!["demo: crashing with code 1, as asked"];
        log.extend(ALL);
        assert_eq!(ledger.read_all(&rows(&log)), Ok(0));
        assert_eq!(ledger.read_all(&rows(&log)), Ok(0));
    }

    #[test]
    fn twice_out_of_order_of_nobody_and_half_are_violations() {
        for wrong in [
            [ALL[0], ALL[1], ALL[1]],
            [ALL[1], ALL[0], ALL[2]],
            [ALL[0], ALL[1], "chaos-s1-1 (4)"],
            [ALL[0], ALL[1], "chaos-s2-1 (1)"],
            [ALL[0], ALL[1], "chaos-s1-1 (3"],
        ] {
            let (mut ledger, _) = written();
            assert!(ledger.read_all(&rows(&wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_missing_is_told_until_a_gap_row_counts_it() {
        let (mut ledger, _) = written();
        assert_eq!(ledger.read_all(&rows(&ALL[..1])), Ok(2));
        let gap = "1 line lost: neither the log store nor the spool could take them";
        assert_eq!(ledger.read_all(&rows(&[ALL[0], gap])), Ok(1));
        let gap = "2 lines lost: neither the log store nor the spool could take them";
        assert_eq!(ledger.read_all(&rows(&[ALL[0], gap])), Ok(0));
    }

    const KILLED: &str = "2 lines lost: the daemon was killed before it could store them";

    #[test]
    fn a_kill_of_serve_excuses_nothing_and_a_gap_row_does() {
        let (mut ledger, _) = written();
        assert_eq!(ledger.read_some(&rows(&ALL[..1])), Ok(()));
        ledger.serve_was_killed();
        assert_eq!(ledger.read_all(&rows(&ALL[..1])), Ok(2), "not yet told");
        assert!(ledger.read_all(&rows(&ALL[1..])).is_err(), "it was read");
        assert_eq!(ledger.read_all(&rows(&[ALL[0], KILLED])), Ok(0));
    }

    #[test]
    fn a_gap_row_counts_once() {
        let (mut ledger, _) = written();
        ledger.serve_was_killed();
        assert_eq!(ledger.read_all(&rows(&[ALL[0], KILLED])), Ok(0));
        let word = ledger.begin("s1", 2);
        ledger.answered(&word);
        let log = [ALL[0], KILLED];
        assert_eq!(ledger.read_all(&rows(&log)), Ok(2), "written afterwards");
        let log = [ALL[0], KILLED, "chaos-s1-2 (1)", "chaos-s1-2 (2)"];
        assert_eq!(ledger.read_all(&rows(&log)), Ok(0));
    }

    #[test]
    fn a_count_that_was_lost_excuses_what_was_not_read_and_nothing_else() {
        let (mut ledger, _) = written();
        assert_eq!(ledger.read_some(&rows(&ALL[..1])), Ok(()));
        ledger.count_was_lost();
        assert_eq!(ledger.read_all(&rows(&ALL[..1])), Ok(0));
        assert!(ledger.read_all(&rows(&ALL[1..])).is_err(), "it was read");
        let (mut ledger, _) = written();
        assert_eq!(ledger.read_all(&rows(&ALL)), Ok(0));
        ledger.count_was_lost();
        assert!(ledger.read_all(&rows(&ALL[..2])).is_err(), "all were read");
        let word = ledger.begin("s1", 2);
        ledger.answered(&word);
        assert_eq!(ledger.read_all(&rows(&ALL)), Ok(2), "written afterwards");
    }

    #[test]
    fn gap_rows_that_count_what_is_there_are_a_violation() {
        let gap = |lines: u64| format!("{lines} lines lost: the daemon was killed");
        let counted = |ledger: &Ledger, lines: u64| {
            let log = [ALL[0], ALL[1], ALL[2], &gap(lines)];
            ledger.clone().read_all(&rows(&log)).is_ok()
        };
        let (mut ledger, _) = written();
        assert!(!counted(&ledger, 1), "nothing was killed");
        ledger.serve_was_killed();
        assert!(counted(&ledger, STRAYS) && !counted(&ledger, STRAYS + 1));
        ledger.nobody_was_asked();
        let most = STRAYS + BATCH_LINES;
        assert!(counted(&ledger, most) && !counted(&ledger, most + 1));
        ledger.begin("s1", 3);
        assert!(counted(&ledger, most + 3), "a call without an answer");
    }

    #[test]
    fn a_call_without_an_answer_may_have_written_any_part() {
        let mut ledger = Ledger::default();
        ledger.begin("s1", 3);
        assert_eq!(ledger.read_all(&rows(&[])), Ok(0));
        assert_eq!(ledger.read_all(&rows(&[ALL[0], "chaos-s1-1 (2"])), Ok(0));
        assert!(ledger.read_all(&rows(&[ALL[0], ALL[0]])).is_err());
    }
}
