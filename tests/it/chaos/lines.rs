//! Which lines of an instance's log must be there. Pure.
//!
//! A line is acknowledged once somebody read it through the API: from then on it is there exactly once. A line that was
//! written (the call that wrote it was answered) is there too, or a gap row counts it, unless `serve` was killed
//! before the line was read: what is in the memory of a process that is killed is gone, and nobody is left to count it.

use std::collections::{BTreeMap, BTreeSet};

use super::model::Violation;

/// Begins every line of ours.
const MARK: &str = "chaos-";

/// Lines written by one call.
#[derive(Debug, Clone, Default)]
struct Batch {
    lines: u32,
    /// The call was answered: the lines are in the pipe.
    answered: bool,
    /// `serve` was killed before all of them were read.
    exposed: bool,
    /// Those that were read.
    read: BTreeSet<u32>,
}

/// What one instance wrote.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    batches: BTreeMap<String, Batch>,
    next: u32,
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

    /// `serve` was killed.
    pub fn serve_was_killed(&mut self) {
        for batch in self.batches.values_mut() {
            batch.exposed |= (batch.read.len() as u64) < u64::from(batch.lines);
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

    /// The whole log, while everything is calm: nothing acknowledged is missing, nothing is there twice. Answers how
    /// many lines are missing that neither a gap row nor a kill of `serve` explains; they may still be on their way.
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
        let missing: u64 = self
            .batches
            .values()
            .filter(|batch| batch.answered && !batch.exposed)
            .map(|batch| u64::from(batch.lines).saturating_sub(batch.read.len() as u64))
            .sum();
        Ok(missing.saturating_sub(counted))
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

    #[test]
    fn a_kill_of_serve_excuses_what_was_not_read_and_nothing_else() {
        let (mut ledger, _) = written();
        assert_eq!(ledger.read_some(&rows(&ALL[..1])), Ok(()));
        ledger.serve_was_killed();
        assert_eq!(ledger.read_all(&rows(&ALL[..1])), Ok(0));
        assert!(ledger.read_all(&rows(&ALL[1..])).is_err(), "it was read");
        let (mut ledger, _) = written();
        assert_eq!(ledger.read_all(&rows(&ALL)), Ok(0));
        ledger.serve_was_killed();
        assert!(ledger.read_all(&rows(&ALL[..2])).is_err(), "all were read");
        let word = ledger.begin("s1", 2);
        ledger.answered(&word);
        assert_eq!(ledger.read_all(&rows(&ALL)), Ok(2), "written afterwards");
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
