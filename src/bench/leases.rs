//! How late leases end: from the deadline to the moment when the server's process is gone.

use std::{
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};

use super::{
    Bench, Stop,
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
/// Leases that were given and not yet taken in: as many as there may be instances.
const GIVEN_MAX: usize = super::INSTANCES_MAX;
/// Between two looks at those whose leases are to end, while one that has ended is not reaped yet.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Between two looks at whether one that has ended was reaped, which its init does at once.
const LOOK_REAPED: Duration = Duration::from_micros(200);
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
        let late = watched(bench, |watcher| {
            let mut next = Instant::now();
            for instance in spread {
                thread::sleep(next.saturating_duration_since(Instant::now()));
                watcher.send(leased(daemon, instance, SPREAD_LEASE)?)?;
                next += APART;
            }
            Ok(())
        })?;
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
    let late = watched(bench, |watcher| {
        for instance in together {
            watcher.send(leased(daemon, instance, lease)?)?;
        }
        Ok(())
    })?;
    let noun = if count == 1 { "lease" } else { "leases" };
    tell(
        &mut bench.figures,
        &format!("how late {count} {noun} end at once"),
        late,
    )
}

/// How late those are gone that `give` hands over, which a thread of its own looks at: whoever gives leases waits for the
/// daemon's answers meanwhile.
fn watched(
    bench: &Bench,
    give: impl FnOnce(&SyncSender<Leased>) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Duration>> {
    let (sender, given) = mpsc::sync_channel(GIVEN_MAX);
    let stop = &*bench.stop;
    thread::scope(|scope| {
        let watcher = scope.spawn(move || gone(stop, &given));
        let all_given = give(&sender);
        drop(sender);
        let late = watcher.join();
        let late = late.map_err(|_| anyhow!("a thread of the bench panicked"))?;
        // What the watcher has to say is the cause of a message that was not taken.
        let late = late?;
        all_given?;
        Ok(late)
    })
}

/// Gives a lease from now on.
fn leased(daemon: &mut Daemon, instance: &Instance, lease: Duration) -> anyhow::Result<Leased> {
    let process = instance.process(daemon)?;
    Ok((process, daemon.extend(instance, lease)?))
}

/// How late these processes are gone; until no more are given and all are gone.
fn gone(stop: &Stop, given: &Receiver<Leased>) -> anyhow::Result<Vec<Duration>> {
    let (mut open, mut dying): (Vec<Leased>, Vec<Leased>) = (Vec::new(), Vec::new());
    let (mut late, mut more, mut seen) = (Vec::new(), true, Instant::now());
    while more || !open.is_empty() || !dying.is_empty() {
        stop.check()?;
        // A lease that is given while this waits for those before lasts longer than that.
        let next = match open.is_empty() && dying.is_empty() {
            true => given.recv_timeout(LOOK),
            false => given.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            }),
        };
        match next {
            Ok(leased) => {
                open.push(leased);
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => more = false,
        }
        // To look at hundreds of processes costs too much to be done each time that one is not reaped yet.
        if dying.is_empty() || seen.elapsed() >= LOOK_AGAIN {
            let patience = if dying.is_empty() {
                LOOK
            } else {
                Duration::ZERO
            };
            let ended = Pidfd::ended_among(open.iter().map(|(process, _)| process), patience)?;
            seen = Instant::now();
            let mut ended = ended.into_iter();
            let (gone, left) = open
                .into_iter()
                .partition::<Vec<_>, _>(|_| ended.next() == Some(true));
            open = left;
            dying.extend(gone);
        }
        let mut early = false;
        dying.retain(|(process, deadline)| {
            let is_reaped = process.pid().is_none();
            if is_reaped {
                let time = Instant::now().checked_duration_since(*deadline);
                early |= time.is_none();
                late.extend(time);
            }
            !is_reaped
        });
        ensure!(!early, "a lease ended before its time");
        if !dying.is_empty() {
            // Those who do the work need the processors.
            thread::sleep(LOOK_REAPED); // poll
        }
        let overdue = |(_, deadline): &Leased| seen > *deadline + PATIENCE;
        ensure!(
            !open.iter().chain(&dying).any(overdue),
            "a lease does not end"
        );
    }
    Ok(late)
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
