//! How late leases end: from the deadline to the moment when the server's process is gone.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    Bench,
    daemon::{Daemon, Instance},
    figures::{Figures, Summary},
};

/// The lease of every instance: long enough to be given to all of them before the first one ends.
const LEASE: Duration = Duration::from_secs(4);
/// So much longer for each instance.
const LEASE_EACH: Duration = Duration::from_millis(4);
/// Between two looks at /proc.
const LOOK: Duration = Duration::from_millis(1);
/// How late a process may be before the run is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Rows for these instances, whose leases end at about the same time.
///
/// # Errors
/// When one ends early or not at all, or the run shall end.
pub fn ends(bench: &mut Bench, daemon: &mut Daemon, instances: &[Instance]) -> anyhow::Result<()> {
    let count = u32::try_from(instances.len())?;
    let lease = LEASE + LEASE_EACH * count;
    // Leases are whole seconds.
    let lease = Duration::from_secs(lease.as_secs());
    let mut open = Vec::with_capacity(instances.len());
    for instance in instances {
        open.push((instance.pid_path(daemon)?, daemon.extend(instance, lease)?));
    }
    let last = open.iter().map(|(_, deadline)| *deadline).max();
    let last = last.context("no instance has a lease")?;
    let mut late = Vec::with_capacity(open.len());
    while !open.is_empty() {
        bench.stop.check()?;
        std::thread::sleep(LOOK);
        let now = Instant::now();
        ensure!(now < last + PATIENCE, "a lease does not end");
        let mut early = false;
        open.retain(|(process, deadline)| {
            if Path::new(process).exists() {
                return true;
            }
            match now.checked_duration_since(*deadline) {
                Some(time) => late.push(time),
                None => early = true,
            }
            false
        });
        ensure!(!early, "a lease ended before its time");
    }
    let all = late.iter().max().copied().unwrap_or_default();
    let figures = &mut bench.figures;
    let noun = if count == 1 { "lease" } else { "leases" };
    let title = format!("how late {count} {noun} end");
    figures.heading(&title, Figures::TIMES)?;
    figures.times("deadline to its process gone", Summary::of(late), None)?;
    let all_ms = all.as_secs_f64() * 1e3;
    figures.number("deadline to all gone, at most", all_ms, "ms")?;
    Ok(())
}

impl Instance {
    /// Where /proc shows its server. It may have been launched anew since it was created.
    fn pid_path(&self, daemon: &mut Daemon) -> anyhow::Result<String> {
        let told = daemon.json("GET", &format!("/mcps/{}", self.id), "")?;
        let pid = told["pid"].as_u64();
        let pid = pid.with_context(|| format!("an instance is {}", told["status"]))?;
        Ok(format!("/proc/{pid}"))
    }
}
