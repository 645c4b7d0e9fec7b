//! Where a run took place: figures of two machines, or of two builds, are not to be compared.

use std::{fs, thread};

use serde::Serialize;

/// The machine, as the kernel tells it, and this build.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The version of this program.
    pub minimcp: &'static str,
    /// `release` or `debug`.
    pub build: &'static str,
    /// CPUs that we may use.
    pub cpus: usize,
    /// The model of the first one.
    pub cpu: String,
    /// Memory.
    pub memory_mib: u64,
    /// The version of the kernel.
    pub kernel: String,
    /// The load average of the last minute, before the run.
    pub load_before: f64,
}

impl Machine {
    /// This one, now.
    #[must_use]
    pub fn this() -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let after = |text: &str, key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.map(|rest| rest.trim_start_matches([':', ' ', '\t']).to_owned())
                .unwrap_or_default()
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal");
        let first = |text: &str| text.split_whitespace().next().unwrap_or("").to_owned();
        Self {
            minimcp: env!("CARGO_PKG_VERSION"),
            build: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
            cpus: thread::available_parallelism().map_or(1, usize::from),
            cpu: after(&read("/proc/cpuinfo"), "model name"),
            memory_mib: first(&memory).parse::<u64>().unwrap_or(0) / 1_024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: first(&read("/proc/loadavg")).parse().unwrap_or(0.0),
        }
    }

    /// In one line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self {
            minimcp,
            build,
            cpus,
            memory_mib,
            kernel,
            load_before,
            ..
        } = self;
        let noun = if *cpus == 1 { "CPU" } else { "CPUs" };
        format!(
            "minimcp {minimcp} ({build} build) on {cpus} {noun}, {memory_mib} MiB, Linux {kernel}; load average before: {load_before:.1}"
        )
    }

    /// What makes these figures worse than they could be.
    #[must_use]
    pub fn doubts(&self) -> Vec<&'static str> {
        /// A quiet machine has some daemons that do a little.
        const QUIET: f64 = 0.5;
        let mut doubts = Vec::new();
        if self.build == "debug" {
            doubts
                .push("This is a debug build: every figure of minimcp is several times too high.");
        }
        if self.load_before > QUIET {
            doubts.push("The machine was not quiet: look at the ratios, which suffer less, and run it again.");
        }
        doubts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_machine_and_a_debug_build_are_told() {
        let mut machine = Machine::this();
        assert!(machine.cpus > 0 && machine.memory_mib > 0, "{machine:?}");
        assert!(machine.line().contains(&machine.kernel));
        (machine.build, machine.load_before) = ("release", 0.1);
        assert!(machine.doubts().is_empty());
        (machine.build, machine.load_before) = ("debug", 3.0);
        assert_eq!(machine.doubts().len(), 2);
    }
}
