//! Rows of figures: handed on as lines of a table while they come, and kept for JSON.

use std::{io, time::Duration};

use serde_json::{Value, json};

use super::{
    mcp::Load,
    memory::{Held, Memory},
};

/// The table could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the figures cannot be written: {0}")]
pub struct ReportError(#[from] pub io::Error);

/// Takes the lines of the table.
pub type Lines = Box<dyn FnMut(&str) -> io::Result<()> + Send>;

/// The report of one run.
pub struct Figures {
    lines: Option<Lines>,
    group: String,
    rows: Vec<Value>,
}

/// The median and the 99th percentile, in microseconds, and the rate where there is one.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    /// Half of the times are at most so long.
    pub p50_us: f64,
    /// 99 of 100 times are at most so long.
    pub p99_us: f64,
    /// How many there were in a second, all together.
    pub per_second: Option<f64>,
}

impl Summary {
    /// Of single times; of none, nothing is a number.
    #[must_use]
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |percent: usize| {
            let place = times.len().saturating_sub(1) * percent / 100;
            times.get(place).map_or(f64::NAN, |time| us(*time))
        };
        Self {
            p50_us: at(50),
            p99_us: at(99),
            per_second: None,
        }
    }

    /// Of a load.
    #[must_use]
    pub fn of_load(load: Load) -> Self {
        Self {
            per_second: Some(rate(load.times.len(), load.took)),
            ..Self::of(load.times)
        }
    }

    /// Of several rounds: the median of each figure.
    #[must_use]
    pub fn median(rounds: &[Self]) -> Self {
        let middle = |of: fn(&Self) -> f64| {
            let mut all: Vec<f64> = rounds.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
        };
        let rated = rounds.iter().all(|round| round.per_second.is_some());
        Self {
            p50_us: middle(|round| round.p50_us),
            p99_us: middle(|round| round.p99_us),
            per_second: rated.then(|| middle(|round| round.per_second.unwrap_or(f64::NAN))),
        }
    }
}

/// Microseconds.
pub(super) fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// So many in a second.
#[must_use]
pub fn rate(count: usize, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count of samples is small")]
    let count = count as f64;
    count / took.as_secs_f64()
}

/// What a figure may be.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// No more.
    Most(f64),
    /// No less.
    Least(f64),
}

impl Figures {
    /// The columns of [`Figures::times`].
    pub const TIMES: &str = "  p50 us     p99 us     calls/s   p50 ratio   rate ratio";
    /// The columns of [`Figures::memory`].
    pub const MEMORY: &str = " RSS KiB    PSS KiB    private  anonymous   (each)";
    /// The columns of [`Figures::held_together`].
    pub const MEMORY_TOGETHER: &str =
        " RSS KiB    PSS KiB    private  anonymous   ratios: RSS    PSS  priv.";
    /// The columns of [`Figures::compared`].
    pub const COMPARED: &str = "  p50 us   added us     p99 us    calls/s  floor: p50   rate";
    /// The columns of [`Figures::compared`] where a peer stands beside.
    pub const COMPARED_WITH_PEER: &str =
        "  p50 us   added us     p99 us    calls/s  floor: p50   rate  peer: p50   rate";

    /// Figures that are only kept.
    #[must_use]
    pub fn kept() -> Self {
        Self {
            lines: None,
            group: String::new(),
            rows: Vec::new(),
        }
    }

    /// Figures that are written as they come, too.
    #[must_use]
    pub fn written(lines: Lines) -> Self {
        Self {
            lines: Some(lines),
            ..Self::kept()
        }
    }

    /// A line for readers of the table alone.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remark(&mut self, text: &str) -> Result<(), ReportError> {
        match &mut self.lines {
            Some(lines) => Ok(lines(text)?),
            None => Ok(()),
        }
    }

    /// A heading of what follows, which belongs together.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn heading(&mut self, text: &str, columns: &str) -> Result<(), ReportError> {
        text.clone_into(&mut self.group);
        let line = format!("\n{text:<52} {columns}");
        self.remark(line.trim_end())
    }

    fn row(&mut self, line: &str, name: &str, mut values: Value) -> Result<(), ReportError> {
        values["group"] = json!(self.group);
        values["name"] = json!(name.trim_start());
        self.rows.push(values);
        self.remark(line.trim_end())
    }

    /// A row of times beside the server's own pipes (what is added to their p50), the floor and the peer (ratios).
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn compared(
        &mut self,
        name: &str,
        figures: Summary,
        direct: Summary,
        floor: Summary,
        peer: Option<Summary>,
    ) -> Result<(), ReportError> {
        let added_us = figures.p50_us - direct.p50_us;
        let p50_to = |base: Summary| figures.p50_us / base.p50_us;
        let rate_to = |base: Summary| Some(figures.per_second? / base.per_second?);
        let (floor_p50, floor_rate) = (p50_to(floor), rate_to(floor));
        let (peer_p50, peer_rate) = (peer.map(p50_to), peer.and_then(rate_to));
        let line = format!(
            "{name:<52} {:>8.1} {added_us:>10.1} {:>10.1} {:>10} {floor_p50:>11.2} {:>6} {:>10} {:>6}",
            figures.p50_us,
            figures.p99_us,
            or_nothing(figures.per_second, 0),
            ratio_or_nothing(floor_rate),
            ratio_or_nothing(peer_p50),
            ratio_or_nothing(peer_rate),
        );
        let mut values = json!({
            "p50_us": figures.p50_us, "added_us": added_us, "p99_us": figures.p99_us,
            "per_second": figures.per_second, "p50_to_floor": floor_p50, "rate_to_floor": floor_rate,
        });
        if peer.is_some() {
            values["p50_to_peer"] = json!(peer_p50);
            values["rate_to_peer"] = json!(peer_rate);
        }
        self.row(&line, name, values)
    }

    /// A row of one ratio with its goal. A ratio to nothing, or to less, is no verdict: the noise was larger.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn goal(&mut self, name: &str, value: f64, bound: Bound) -> Result<(), ReportError> {
        let (word, limit, met) = match bound {
            Bound::Most(limit) => ("at most", limit, value <= limit),
            Bound::Least(limit) => ("at least", limit, value >= limit),
        };
        let verdict = match (value.is_finite() && value > 0.0, met) {
            (false, _) => "no verdict",
            (true, true) => "met",
            (true, false) => "not met",
        };
        let line = format!("{name:<52} {value:>8.2}   {word} {limit:.2}: {verdict}");
        let values = json!({"value": value, "bound": word, "limit": limit, "verdict": verdict});
        self.row(&line, name, values)
    }

    /// A row of what could not be measured here, and how it can be.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn missing(&mut self, name: &str, remedy: &str) -> Result<(), ReportError> {
        let line = format!("{name:<52} not measured: {remedy}");
        self.row(&line, name, json!({"missing": remedy}))
    }

    /// A row of times, as a ratio to `base` when there is one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn times(
        &mut self,
        name: &str,
        figures: Summary,
        base: Option<Summary>,
    ) -> Result<(), ReportError> {
        let p50_ratio = base.map(|base| figures.p50_us / base.p50_us);
        let rate_ratio = base.and_then(|base| Some(figures.per_second? / base.per_second?));
        let line = format!(
            "{name:<52} {:>8.1} {:>10.1} {:>11} {:>11} {:>12}",
            figures.p50_us,
            figures.p99_us,
            or_nothing(figures.per_second, 0),
            ratio_or_nothing(p50_ratio),
            ratio_or_nothing(rate_ratio),
        );
        let values = json!({
            "p50_us": figures.p50_us, "p99_us": figures.p99_us, "per_second": figures.per_second,
            "p50_ratio": p50_ratio, "rate_ratio": rate_ratio,
        });
        self.row(&line, name, values)
    }

    /// Rows of what a daemon with so many instances holds.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn memory(&mut self, instances: usize, memory: &Memory) -> Result<(), ReportError> {
        let noun = if instances == 1 {
            "instance"
        } else {
            "instances"
        };
        for (name, held) in [
            ("serve", memory.serve),
            ("keeper", memory.keeper),
            ("init", memory.inits),
            ("server", memory.servers),
        ] {
            self.held(&format!("{name}, {instances} {noun}"), held)?;
        }
        Ok(())
    }

    /// A row of what processes hold, each.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn held(&mut self, name: &str, held: Held) -> Result<(), ReportError> {
        let each = |kib: Option<u64>| kib.map(|kib| held.each(kib));
        let (rss, anonymous) = (held.each(held.rss_kib), held.each(held.anonymous_kib));
        let (pss, private) = (each(held.pss_kib), each(held.private_kib));
        let unknown = |kib: Option<u64>| kib.map_or_else(|| "-".to_owned(), |kib| kib.to_string());
        let line = format!(
            "{name:<52} {rss:>8} {:>10} {:>10} {anonymous:>10}",
            unknown(pss),
            unknown(private)
        );
        let values = json!({
            "processes": held.processes, "rss_kib": rss, "pss_kib": pss, "private_kib": private,
            "anonymous_kib": anonymous,
        });
        self.row(&line, name, values)
    }

    /// A row of what processes hold together, as a ratio to `base` when there is one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn held_together(
        &mut self,
        name: &str,
        held: Held,
        base: Option<Held>,
    ) -> Result<(), ReportError> {
        #[expect(clippy::cast_precision_loss, reason = "memory in KiB is small")]
        let to = |ours: u64, theirs: u64| (theirs > 0).then(|| ours as f64 / theirs as f64);
        let rss_ratio = base.and_then(|base| to(held.rss_kib, base.rss_kib));
        let pss_ratio = base.and_then(|base| to(held.pss_kib?, base.pss_kib?));
        let private_ratio = base.and_then(|base| to(held.private_kib?, base.private_kib?));
        let unknown = |kib: Option<u64>| kib.map_or_else(|| "-".to_owned(), |kib| kib.to_string());
        let line = format!(
            "{name:<52} {:>8} {:>10} {:>10} {:>10} {:>13} {:>6} {:>6}",
            held.rss_kib,
            unknown(held.pss_kib),
            unknown(held.private_kib),
            held.anonymous_kib,
            ratio_or_nothing(rss_ratio),
            ratio_or_nothing(pss_ratio),
            ratio_or_nothing(private_ratio),
        );
        let values = json!({
            "processes": held.processes, "rss_kib": held.rss_kib, "pss_kib": held.pss_kib,
            "private_kib": held.private_kib, "anonymous_kib": held.anonymous_kib,
            "rss_ratio": rss_ratio, "pss_ratio": pss_ratio, "private_ratio": private_ratio,
        });
        self.row(&line, name, values)
    }

    /// A row of what did not happen, however long it was waited for.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn never(&mut self, name: &str, waited: Duration) -> Result<(), ReportError> {
        let seconds = waited.as_secs();
        let line = format!("{name:<52}    never within {seconds} s");
        self.row(&line, name, json!({"never_within_s": seconds}))
    }

    /// A row of one number.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn number(&mut self, name: &str, value: f64, unit: &str) -> Result<(), ReportError> {
        let line = format!("{name:<52} {value:>8.1} {unit}");
        self.row(&line, name, json!({"value": value, "unit": unit}))
    }

    /// A row of a rate beside that of something else.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn rate_beside(
        &mut self,
        name: &str,
        value: f64,
        base: f64,
        unit: &str,
    ) -> Result<(), ReportError> {
        let ratio = value / base;
        let line = format!("{name:<52} {value:>8.0} {unit}, {ratio:.2} of it");
        let values = json!({"value": value, "unit": unit, "rate_ratio": ratio});
        self.row(&line, name, values)
    }

    /// All rows so far, in their order.
    #[must_use]
    pub fn into_rows(self) -> Vec<Value> {
        self.rows
    }
}

/// A small one with more digits: a hundredth is not nothing.
fn ratio_or_nothing(ratio: Option<f64>) -> String {
    let is_small = ratio.is_some_and(|ratio| ratio.abs() < 0.1);
    or_nothing(ratio, if is_small { 4 } else { 2 })
}

fn or_nothing(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(String::new, |value| format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn of_us(times: &[u64]) -> Summary {
        Summary::of(
            times
                .iter()
                .map(|time| Duration::from_micros(*time))
                .collect(),
        )
    }

    #[test]
    fn a_summary_is_of_sorted_times() {
        let hundred: Vec<u64> = (1..=100).rev().collect();
        let summary = of_us(&hundred);
        assert!((summary.p50_us - 50.0).abs() < 1e-6, "{summary:?}");
        assert!((summary.p99_us - 99.0).abs() < 1e-6, "{summary:?}");
        assert!(of_us(&[]).p50_us.is_nan());
        let rounds = [of_us(&[9]), of_us(&[1]), of_us(&[5])];
        assert!((Summary::median(&rounds).p50_us - 5.0).abs() < 1e-6);
        assert_eq!(Summary::median(&rounds).per_second, None);
    }

    #[test]
    fn rows_are_lines_and_values() {
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = seen.clone();
        let mut figures = Figures::written(Box::new(move |line| {
            lines.lock().expect("one thread").push(line.to_owned());
            Ok(())
        }));
        figures.heading("a group", "columns").expect("written");
        let twice = of_us(&[40]);
        figures
            .times("  ours", twice, Some(of_us(&[20])))
            .expect("written");
        figures
            .times("theirs", twice, Some(of_us(&[4_000])))
            .expect("written");
        let held = |kib: u64| Held {
            rss_kib: kib,
            ..Held::default()
        };
        figures
            .held_together("memory", held(300), Some(held(400)))
            .expect("written");
        figures
            .never("back", Duration::from_secs(12))
            .expect("written");
        figures
            .goal("of it", 2.0, Bound::Most(1.1))
            .expect("written");
        figures
            .goal("of nothing", f64::NAN, Bound::Most(1.1))
            .expect("written");
        let rows = figures.into_rows();
        assert_eq!(rows[0]["group"], "a group");
        assert_eq!(rows[0]["name"], "ours");
        assert_eq!(rows[0]["p50_ratio"], 2.0);
        assert_eq!(rows[0]["rate_ratio"], Value::Null);
        assert_eq!(rows[2]["rss_ratio"], 0.75);
        assert_eq!(rows[2]["pss_ratio"], Value::Null);
        assert_eq!(rows[2]["private_ratio"], Value::Null);
        assert_eq!(rows[3]["never_within_s"], 12);
        assert_eq!(rows[4]["verdict"], "not met");
        assert_eq!(rows[5]["verdict"], "no verdict");
        let seen = seen.lock().expect("one thread");
        assert_eq!(seen.len(), 7, "{seen:?}");
        assert!(seen[2].contains(" 0.0100"), "{}", seen[2]);
        assert!(seen[4].contains("never within 12 s"), "{}", seen[4]);
        assert!(
            seen[1].starts_with("  ours ") && seen[1].contains("40.0"),
            "{}",
            seen[1]
        );
    }

    #[test]
    fn a_reader_that_went_away_is_told() {
        let mut figures = Figures::written(Box::new(|_| Err(io::ErrorKind::BrokenPipe.into())));
        let ReportError(cause) = figures.number("x", 1.0, "KiB").expect_err("nobody reads");
        assert_eq!(cause.kind(), io::ErrorKind::BrokenPipe);
    }
}
