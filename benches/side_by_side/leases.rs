//! How late leases end: from the deadline to the moment when the server's process is gone.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{
    daemon::{Daemon, Instance},
    figures::{Figures, Summary},
};

/// The lease of every instance; long enough to be given to all of them before the first one ends.
const LEASE: Duration = Duration::from_secs(5);
/// Between two looks at /proc, in which 100 instances are found within a tenth of it.
const LOOK: Duration = Duration::from_millis(2);
/// How late a process may be before the run is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Rows for this many instances of `null` whose leases end at about the same time.
pub fn ends(figures: &mut Figures, null: &[String], count: usize) {
    let mut daemon = Daemon::start(&[("null", null)], &[]);
    let instances: Vec<Instance> = (0..count).map(|_| daemon.create("null")).collect();
    let deadlines: Vec<Instant> = instances
        .iter()
        .map(|instance| daemon.extend(instance, LEASE))
        .collect();
    let mut late: Vec<Option<Duration>> = vec![None; count];
    let last = deadlines.iter().max().expect("there are instances");
    while late.iter().any(Option::is_none) {
        std::thread::sleep(LOOK);
        let now = Instant::now();
        assert!(now < *last + PATIENCE, "a lease did not end");
        for ((instance, deadline), late) in instances.iter().zip(&deadlines).zip(&mut late) {
            if late.is_none() && !Path::new(&format!("/proc/{}", instance.pid)).exists() {
                *late = Some(now.checked_duration_since(*deadline).expect("not early"));
            }
        }
    }
    let late: Vec<Duration> = late.into_iter().flatten().collect();
    let all = late.iter().max().copied().unwrap_or_default();
    figures.times(
        &format!("{count} instances: deadline to its process gone"),
        Summary::of(late),
        None,
    );
    figures.number(
        &format!("{count} instances: deadline to all gone, at most"),
        all.as_secs_f64() * 1e3,
        "ms",
    );
}
