//! How late leases end: from the deadline to the moment when the server's process is gone.

use std::{
    collections::VecDeque,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    Bench,
    daemon::{Daemon, Instance},
    figures::{Figures, Summary},
};
use crate::runtime::Pidfd;

/// The lease of every instance that ends with all the others: long enough to be given to all of them before the first
/// one ends.
const LEASE: Duration = Duration::from_secs(4);
/// So much longer for each instance.
const LEASE_EACH: Duration = Duration::from_millis(4);
/// The lease of those that end one after the other.
const SPREAD_LEASE: Duration = Duration::from_secs(2);
/// From one of their ends to the next: two hundred a second.
const APART: Duration = Duration::from_millis(5);
/// Between two looks at whether the run shall end.
const LOOK: Duration = Duration::from_millis(100);
/// How late a process may be before the run is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server and when its lease ends.
type Leased = (Pidfd, Instant);

/// Rows for these instances: half of the leases end one after the other while all live, then the others at about the
/// same time.
///
/// # Errors
/// When one ends early or not at all, or the run shall end.
pub fn ends(bench: &mut Bench, daemon: &mut Daemon, instances: &[Instance]) -> anyhow::Result<()> {
    let (spread, together) = instances.split_at(instances.len() / 2);
    if !spread.is_empty() {
        let late = one_after_the_other(bench, daemon, spread)?;
        let count = spread.len();
        let title = format!(
            "how late {count} of {} leases end, 5 ms apart",
            instances.len()
        );
        tell(&mut bench.figures, &title, late)?;
    }
    let count = u32::try_from(together.len())?;
    // Leases are whole seconds.
    let lease = Duration::from_secs((LEASE + LEASE_EACH * count).as_secs());
    let mut open = VecDeque::new();
    for instance in together {
        open.push_back(leased(daemon, instance, lease)?);
    }
    let late = gone(bench, &mut open, None)?;
    let noun = if count == 1 { "lease" } else { "leases" };
    tell(
        &mut bench.figures,
        &format!("how late {count} {noun} end at once"),
        late,
    )
}

/// Gives each its lease [`APART`] from the one before, and watches those that end meanwhile.
fn one_after_the_other(
    bench: &Bench,
    daemon: &mut Daemon,
    instances: &[Instance],
) -> anyhow::Result<Vec<Duration>> {
    let (mut open, mut late) = (VecDeque::new(), Vec::new());
    let mut next = Instant::now();
    for instance in instances {
        late.extend(gone(bench, &mut open, Some(next))?);
        open.push_back(leased(daemon, instance, SPREAD_LEASE)?);
        next += APART;
    }
    late.extend(gone(bench, &mut open, None)?);
    Ok(late)
}

/// Gives a lease from now on.
fn leased(daemon: &mut Daemon, instance: &Instance, lease: Duration) -> anyhow::Result<Leased> {
    let process = instance.process(daemon)?;
    Ok((process, daemon.extend(instance, lease)?))
}

/// How late these processes are gone, in the order of their deadlines; until all are, or until then.
fn gone(
    bench: &Bench,
    open: &mut VecDeque<Leased>,
    until: Option<Instant>,
) -> anyhow::Result<Vec<Duration>> {
    let mut late = Vec::new();
    loop {
        bench.stop.check()?;
        let now = Instant::now();
        if until.is_some_and(|until| now >= until) {
            return Ok(late);
        }
        let left = until.map_or(LOOK, |until| (until - now).min(LOOK));
        let Some((process, deadline)) = open.front() else {
            if until.is_none() {
                return Ok(late);
            }
            thread::sleep(left);
            continue;
        };
        ensure!(now < *deadline + PATIENCE, "a lease does not end");
        if process.has_ended_within(left)? {
            // Its init reaps it at once.
            while process.pid().is_some() {
                ensure!(deadline.elapsed() < PATIENCE, "a server is not reaped");
                thread::yield_now();
            }
            let time = Instant::now().checked_duration_since(*deadline);
            late.push(time.context("a lease ended before its time")?);
            open.pop_front();
        }
    }
}

fn tell(figures: &mut Figures, title: &str, late: Vec<Duration>) -> anyhow::Result<()> {
    let all_ms = late.iter().max().copied().unwrap_or_default().as_secs_f64() * 1e3;
    figures.heading(title, Figures::TIMES)?;
    figures.times("deadline to its process gone", Summary::of(late), None)?;
    figures.number("deadline to its process gone, at most", all_ms, "ms")?;
    Ok(())
}

impl Instance {
    /// Its server, which may have been launched anew since it was created.
    fn process(&self, daemon: &mut Daemon) -> anyhow::Result<Pidfd> {
        let told = daemon.json("GET", &format!("/mcps/{}", self.id), "")?;
        let pid = told["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        let pid = pid.with_context(|| format!("an instance is {}", told["status"]))?;
        Pidfd::open(pid)?.context("the server of an instance is gone before its time")
    }
}
