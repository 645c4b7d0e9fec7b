//! Rows of figures: printed as they come, or kept for JSON.

use std::time::Duration;

use serde_json::{Value, json};

use super::{mcp::Load, memory::Memory};

/// The report of one run.
pub struct Figures {
    json: bool,
    rows: Vec<Value>,
}

/// The median and the 99th percentile, in microseconds, and the rate where there is one.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    pub p50_us: f64,
    pub p99_us: f64,
    pub per_second: Option<f64>,
}

impl Summary {
    /// Of single times.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6;
        Self {
            p50_us: at(50),
            p99_us: at(99),
            per_second: None,
        }
    }

    /// Of a load.
    pub fn of_load(load: Load) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a count of samples is small")]
        let per_second = load.times.len() as f64 / load.took.as_secs_f64();
        Self {
            per_second: Some(per_second),
            ..Self::of(load.times)
        }
    }

    /// Of several rounds: the median of each figure.
    pub fn median(rounds: &[Self]) -> Self {
        let middle = |of: fn(&Self) -> f64| {
            let mut all: Vec<f64> = rounds.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        Self {
            p50_us: middle(|round| round.p50_us),
            p99_us: middle(|round| round.p99_us),
            per_second: rounds[0]
                .per_second
                .map(|_| middle(|round| round.per_second.unwrap_or(0.0))),
        }
    }
}

/// What a figure may be.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    Most(f64),
    Least(f64),
}

impl Figures {
    pub fn new(json: bool) -> Self {
        Self {
            json,
            rows: Vec::new(),
        }
    }

    /// A heading of what follows.
    pub fn heading(&self, text: &str, columns: &str) {
        if !self.json {
            println!("\n{text:<52} {columns}");
        }
    }

    /// The columns of [`Figures::times`].
    pub const TIMES: &str = "  p50 us     p99 us     calls/s   p50 ratio   rate ratio";
    /// The columns of [`Figures::memory`].
    pub const MEMORY: &str = " RSS KiB    PSS KiB    private  anonymous   (each)";

    /// The columns of [`Figures::compared`].
    pub const COMPARED: &str =
        "  p50 us   added us     p99 us    calls/s  floor: p50   rate  peer: p50   rate";

    /// A row of times beside the server's own pipes (what is added to their p50), the floor and the peer (ratios).
    pub fn compared(
        &mut self,
        name: &str,
        figures: Summary,
        direct: Summary,
        floor: Summary,
        peer: Option<Summary>,
    ) {
        let added_us = figures.p50_us - direct.p50_us;
        let p50_to = |base: Summary| figures.p50_us / base.p50_us;
        let rate_to = |base: Summary| Some(figures.per_second? / base.per_second?);
        let (floor_p50, floor_rate) = (p50_to(floor), rate_to(floor));
        let (peer_p50, peer_rate) = (peer.map(p50_to), peer.and_then(rate_to));
        if !self.json {
            println!(
                "{name:<52} {:>8.1} {added_us:>10.1} {:>10.1} {:>10} {floor_p50:>11.2} {:>6} {:>10} {:>6}",
                figures.p50_us,
                figures.p99_us,
                or_nothing(figures.per_second, 0),
                or_nothing(floor_rate, 2),
                or_nothing(peer_p50, 2),
                or_nothing(peer_rate, 2),
            );
        }
        self.rows.push(json!({
            "name": name, "p50_us": figures.p50_us, "added_us": added_us, "p99_us": figures.p99_us,
            "per_second": figures.per_second, "p50_to_floor": floor_p50, "rate_to_floor": floor_rate,
            "p50_to_peer": peer_p50, "rate_to_peer": peer_rate,
        }));
    }

    /// A row of one ratio with its goal. A ratio to nothing, or to less, is no verdict: the noise was larger.
    pub fn goal(&mut self, name: &str, value: f64, bound: Bound) {
        let (word, limit, met) = match bound {
            Bound::Most(limit) => ("at most", limit, value <= limit),
            Bound::Least(limit) => ("at least", limit, value >= limit),
        };
        let verdict = match (value.is_finite() && value > 0.0, met) {
            (false, _) => "no verdict",
            (true, true) => "met",
            (true, false) => "not met",
        };
        if !self.json {
            println!("{name:<52} {value:>8.2}   {word} {limit:.2}: {verdict}");
        }
        self.rows.push(json!({
            "name": name, "value": value, "bound": word, "limit": limit, "verdict": verdict,
        }));
    }

    /// A row of what could not be measured here, and how it can be.
    pub fn missing(&mut self, name: &str, remedy: &str) {
        if !self.json {
            println!("{name:<52} not found here: {remedy}");
        }
        self.rows.push(json!({"name": name, "missing": remedy}));
    }

    /// A row of times, as a ratio to `base` when there is one.
    pub fn times(&mut self, name: &str, figures: Summary, base: Option<Summary>) {
        let p50_ratio = base.map(|base| figures.p50_us / base.p50_us);
        let rate_ratio = base.and_then(|base| Some(figures.per_second? / base.per_second?));
        if !self.json {
            println!(
                "{name:<52} {:>8.1} {:>10.1} {:>11} {:>11} {:>12}",
                figures.p50_us,
                figures.p99_us,
                or_nothing(figures.per_second, 0),
                or_nothing(p50_ratio, 2),
                or_nothing(rate_ratio, 2),
            );
        }
        self.rows.push(json!({
            "name": name, "p50_us": figures.p50_us, "p99_us": figures.p99_us,
            "per_second": figures.per_second, "p50_ratio": p50_ratio, "rate_ratio": rate_ratio,
        }));
    }

    /// Rows of what a daemon with so many instances holds.
    pub fn memory(&mut self, instances: usize, memory: &Memory) {
        let kinds = [
            ("serve", memory.serve),
            ("keeper", memory.keeper),
            ("init", memory.inits),
            ("server", memory.servers),
        ];
        for (name, held) in kinds {
            let (rss, pss, private, anonymous) = (
                held.each(held.rss_kib),
                held.each(held.pss_kib),
                held.each(held.private_kib),
                held.each(held.anonymous_kib),
            );
            let row = format!("{name}, {instances} instances");
            if !self.json {
                println!("{row:<52} {rss:>8} {pss:>10} {private:>10} {anonymous:>10}");
            }
            self.rows.push(json!({
                "name": row, "processes": held.processes, "rss_kib": rss, "pss_kib": pss,
                "private_kib": private, "anonymous_kib": anonymous,
            }));
        }
    }

    /// A row of one number.
    pub fn number(&mut self, name: &str, value: f64, unit: &str) {
        if !self.json {
            println!("{name:<52} {value:>8.1} {unit}");
        }
        self.rows
            .push(json!({"name": name, "value": value, "unit": unit}));
    }

    /// The end of the report.
    pub fn finish(self) {
        if self.json {
            println!("{:#}", json!({"figures": self.rows}));
        }
    }
}

fn or_nothing(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(String::new, |value| format!("{value:.digits$}"))
}
