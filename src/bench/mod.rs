//! `minimcp bench`: what this program costs on this machine, beside the same work without it.
//!
//! The method. A `serve` of the same binary is started with a folder, keeper and ports of its own, and spoken with over
//! loopback by a client that does little itself. Whatever is measured of it is measured in the same run without it: a
//! server over its own pipes, a bridge from HTTP to pipes that does nothing else (the floor), the database alone. Both
//! sides take turns, so that what else the machine does meets both; times are told as median and 99th percentile, of
//! several rounds the median. So ratios can be compared with those of another day, and single figures only with those
//! of the same run. The servers are `null`, which does next to nothing, so that the cost of the host is seen, and
//! `demo`, a real one on the SDK.

pub mod calls;
pub mod crowd;
pub mod daemon;
pub mod figures;
pub mod floor;
pub mod http;
pub mod leases;
pub mod logs;
pub mod machine;
pub mod many;
pub mod mcp;
pub mod memory;
pub mod parts;
mod serve;
pub mod starts;
mod stop;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use calls::Server;
use daemon::Daemon;
use figures::Figures;
pub use serve::INSTANCES_MAX;
pub use stop::{Interrupted, Stop};

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Section {
    /// Create to ready: one at a time, many at once, and with a warm spare.
    Starts,
    /// Calls through the access URL, in both eras.
    Calls,
    /// Log lines from children to the database.
    Logs,
    /// Memory, and CPU time while idle.
    Memory,
    /// Calls of the API.
    Api,
    /// `kill -9` of a server to its next answer.
    Restarts,
    /// How late leases end.
    Leases,
}

impl Section {
    /// All of them, in the order in which they are measured.
    pub const ALL: [Self; 7] = [
        Self::Starts,
        Self::Calls,
        Self::Logs,
        Self::Memory,
        Self::Api,
        Self::Restarts,
        Self::Leases,
    ];
}

/// How much is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Instances that are created one after the other for a row of starts.
    pub starts: usize,
    /// Calls of a round, one at a time.
    pub calls_alone: usize,
    /// Calls of a round, many at a time.
    pub calls_busy: usize,
    /// Rounds of calls.
    pub rounds: usize,
    /// Servers that are killed at each size.
    pub kills: usize,
    /// Calls of the API for a row.
    pub api_calls: usize,
    /// Lines of one flood, all children together.
    pub log_lines: usize,
    /// How many children write them.
    pub log_children: [usize; 2],
    /// How long the CPU time of an idle daemon is counted.
    pub idle: Duration,
    /// Numbers of instances, rising.
    pub sizes: Vec<usize>,
}

impl Plan {
    /// Some minutes' worth.
    #[must_use]
    pub fn full(sizes: impl IntoIterator<Item = usize>) -> Self {
        Self {
            starts: 100,
            calls_alone: 10_000,
            calls_busy: 64_000,
            rounds: 5,
            kills: 30,
            api_calls: 500,
            log_lines: 500_000,
            log_children: [1, 50],
            idle: Duration::from_secs(10),
            sizes: rising(sizes),
        }
    }

    /// Less than a minute's worth.
    #[must_use]
    pub fn quick(sizes: impl IntoIterator<Item = usize>) -> Self {
        Self {
            starts: 20,
            calls_alone: 1_000,
            calls_busy: 6_400,
            rounds: 3,
            kills: 5,
            api_calls: 100,
            log_lines: 100_000,
            log_children: [1, 10],
            idle: Duration::from_secs(4),
            sizes: rising(sizes),
        }
    }

    /// With so many times fewer samples, and one at least: to see that it works, not what it costs.
    #[must_use]
    pub fn divided_by(self, divisor: usize) -> Self {
        let fewer = |count: usize| (count / divisor.max(1)).max(1);
        Self {
            starts: fewer(self.starts),
            calls_alone: fewer(self.calls_alone),
            calls_busy: fewer(self.calls_busy),
            rounds: fewer(self.rounds),
            kills: fewer(self.kills),
            api_calls: fewer(self.api_calls),
            log_lines: fewer(self.log_lines),
            log_children: self.log_children,
            idle: self.idle / u32::try_from(divisor.max(1)).unwrap_or(u32::MAX),
            sizes: self.sizes,
        }
    }
}

/// Each once, the smallest first.
fn rising(sizes: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let sizes: BTreeSet<usize> = sizes.into_iter().filter(|size| *size > 0).collect();
    sizes.into_iter().collect()
}

/// A run.
pub struct Bench {
    /// What was found so far.
    pub figures: Figures,
    /// Whether it shall end.
    pub stop: Arc<Stop>,
    /// The `minimcp` program that is measured.
    pub program: String,
}

impl Bench {
    /// The command of one of the parts of [`parts::main`].
    #[must_use]
    pub fn part(&self, words: &[&str]) -> Vec<String> {
        let words = [self.program.as_str(), parts::WORD]
            .into_iter()
            .chain(words.iter().copied());
        words.map(str::to_owned).collect()
    }

    /// The server that does next to nothing.
    #[must_use]
    pub fn null_server(&self) -> Vec<String> {
        self.part(&["null"])
    }

    /// The built-in server that shows what a server is.
    #[must_use]
    pub fn demo_server(&self) -> Vec<String> {
        [&self.program, "mcp", "demo"].map(str::to_owned).to_vec()
    }

    /// Measures these sections. `postgres` is the address of a server where databases may be made and dropped.
    ///
    /// # Errors
    /// When the daemon does not come up or does not do what is measured, or the run shall end. What was started has
    /// ended then, too.
    pub fn run(
        &mut self,
        plan: &Plan,
        sections: &BTreeSet<Section>,
        postgres: Option<&str>,
    ) -> anyhow::Result<()> {
        let wanted = |section| sections.contains(&section);
        if wanted(Section::Starts) || wanted(Section::Calls) {
            let (null, demo) = (self.null_server(), self.demo_server());
            let mut daemon = Daemon::start(self, &[("null", &null)])?;
            for (name, command) in [("null", &null), ("demo", &demo)] {
                if wanted(Section::Starts) {
                    starts::compare(self, &mut daemon, name, command, 0, plan.starts)?;
                }
                if wanted(Section::Calls) {
                    let server = Server {
                        name,
                        command,
                        slowness: 1,
                    };
                    calls::compare(self, &mut daemon, plan, &server, None)?;
                }
            }
        }
        if wanted(Section::Logs) {
            logs::ingest(self, plan, postgres)?;
        }
        let many = [
            Section::Starts,
            Section::Memory,
            Section::Api,
            Section::Restarts,
            Section::Leases,
        ];
        if many.into_iter().any(wanted) {
            many::measure(self, plan, sections)?;
        }
        if wanted(Section::Starts) {
            crowd::measure(self, plan)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_rise_and_samples_never_vanish() {
        let plan = Plan::full([100, 1, 10, 10, 0]);
        assert_eq!(plan.sizes, [1, 10, 100]);
        let fewer = plan.clone().divided_by(1_000_000);
        assert_eq!((fewer.starts, fewer.rounds, fewer.kills), (1, 1, 1));
        assert_eq!(fewer.sizes, plan.sizes);
        assert_eq!(plan.clone().divided_by(0), plan);
    }
}
