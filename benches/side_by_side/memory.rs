//! What the processes of a daemon hold, as `/proc` tells it.

use std::{collections::BTreeMap, fs, path::Path};

use super::daemon::Daemon;

/// Memory of some processes, in KiB, summed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Held {
    pub processes: usize,
    /// Resident set.
    pub rss_kib: u64,
    /// Its part of the pages that it shares with others.
    pub pss_kib: u64,
    /// Pages of its own.
    pub private_kib: u64,
    /// Pages of its own that no file backs: what it has allocated and written to.
    pub anonymous_kib: u64,
}

impl Held {
    fn add(&mut self, pid: u32) {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let of = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
                .unwrap_or(0_u64)
        };
        self.processes += 1;
        self.rss_kib += of("Rss:");
        self.pss_kib += of("Pss:");
        self.private_kib += of("Private_Clean:") + of("Private_Dirty:");
        self.anonymous_kib += of("Anonymous:");
    }

    /// The mean of one process, in KiB.
    pub fn each(self, kib: u64) -> u64 {
        kib / u64::try_from(self.processes.max(1)).unwrap_or(1)
    }
}

/// What a daemon holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    pub serve: Held,
    pub keeper: Held,
    pub inits: Held,
    pub servers: Held,
}

/// Adds up the processes of a daemon. The inits are forks of the keeper with its arguments; the servers are theirs.
pub fn of(daemon: &Daemon) -> Memory {
    let all = processes(daemon.folder());
    let is_keeper = |pid: &u32| all.get(pid).is_some_and(|(_, keeper)| *keeper);
    let mut memory = Memory::default();
    for (pid, (parent, keeper)) in &all {
        let kind = if *pid == daemon.pid() {
            &mut memory.serve
        } else if *keeper && is_keeper(parent) {
            &mut memory.inits
        } else if *keeper {
            &mut memory.keeper
        } else if is_keeper(parent) {
            &mut memory.servers
        } else {
            continue;
        };
        kind.add(*pid);
    }
    memory
}

/// CPU time of a process so far, in milliseconds.
pub fn cpu_ms(pid: u32) -> u64 {
    const TICK_MS: u64 = 10;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |index| fields.split_whitespace().nth(index)?.parse::<u64>().ok();
    (ticks(11).unwrap_or(0) + ticks(12).unwrap_or(0)) * TICK_MS
}

/// Every process: its parent, and whether its arguments are those of this folder's keeper.
fn processes(folder: &Path) -> BTreeMap<u32, (u32, bool)> {
    let folder = folder.to_str().expect("temporary folders are ASCII");
    fs::read_dir("/proc")
        .expect("proc is mounted")
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let pid = path.file_name()?.to_str()?.parse().ok()?;
            let words = fs::read_to_string(path.join("cmdline")).ok()?;
            let mut arguments = words.split('\0').skip(1);
            let keeper = arguments.next() == Some("keeper") && words.contains(folder);
            let stat = fs::read_to_string(path.join("stat")).ok()?;
            let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?;
            Some((pid, (parent.parse().ok()?, keeper)))
        })
        .collect()
}
