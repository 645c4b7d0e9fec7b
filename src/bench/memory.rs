//! What the processes of a daemon hold, as `/proc` tells it.

use std::{collections::BTreeMap, fs, io, path::Path};

use super::daemon::Daemon;

/// Memory of some processes, in KiB, summed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Held {
    /// How many they are.
    pub processes: usize,
    /// Resident set.
    pub rss_kib: u64,
    /// Its part of the pages that it shares with others. `None`: nobody but root may know.
    pub pss_kib: Option<u64>,
    /// Pages of its own. `None`: nobody but root may know.
    pub private_kib: Option<u64>,
    /// Pages of its own that no file backs: what it has allocated and written to.
    pub anonymous_kib: u64,
}

impl Held {
    /// Of one process.
    #[must_use]
    pub fn by(pid: u32) -> Self {
        let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}"));
        match read("smaps_rollup") {
            Ok(text) => Self::of_rollup(&text),
            // A process that keeps its memory to itself shows its sums to everybody all the same.
            Err(_) => Self::of_status(&read("status").unwrap_or_default()),
        }
    }

    fn of_rollup(text: &str) -> Self {
        let of = |key: &str| field(text, key).unwrap_or(0);
        Self {
            processes: 1,
            rss_kib: of("Rss:"),
            pss_kib: Some(of("Pss:")),
            private_kib: Some(of("Private_Clean:") + of("Private_Dirty:")),
            anonymous_kib: of("Anonymous:"),
        }
    }

    fn of_status(text: &str) -> Self {
        Self {
            processes: 1,
            rss_kib: field(text, "VmRSS:").unwrap_or(0),
            pss_kib: None,
            private_kib: None,
            anonymous_kib: field(text, "RssAnon:").unwrap_or(0),
        }
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if self.processes == 0 {
            return other;
        }
        let both = |a: Option<u64>, b: Option<u64>| Some(a? + b?);
        Self {
            processes: self.processes + other.processes,
            rss_kib: self.rss_kib + other.rss_kib,
            pss_kib: both(self.pss_kib, other.pss_kib),
            private_kib: both(self.private_kib, other.private_kib),
            anonymous_kib: self.anonymous_kib + other.anonymous_kib,
        }
    }

    /// The mean of one process, in KiB.
    #[must_use]
    pub fn each(self, kib: u64) -> u64 {
        kib / u64::try_from(self.processes.max(1)).unwrap_or(1)
    }
}

/// The number of a line such as `Rss:   1234 kB`.
fn field(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.trim().trim_end_matches(" kB").parse().ok()
}

/// What a daemon holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// `serve`.
    pub serve: Held,
    /// The keeper.
    pub keeper: Held,
    /// The inits of the instances.
    pub inits: Held,
    /// The servers.
    pub servers: Held,
}

/// Adds up the processes of a daemon. The inits are forks of the keeper with its arguments; the servers are theirs.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn of(daemon: &Daemon) -> io::Result<Memory> {
    let all = processes(daemon.folder())?;
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
        *kind = kind.and(Held::by(*pid));
    }
    Ok(memory)
}

/// A process first, then its children, theirs, and so on.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn tree(root: u32) -> io::Result<Vec<u32>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        if let Some((pid, parent)) = pid.and_then(|pid| Some((pid, parent_of(pid)?))) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        found.extend(children.remove(pid).unwrap_or_default());
        at += 1;
    }
    Ok(found)
}

/// CPU time of a process so far, in milliseconds.
#[must_use]
pub fn cpu_ms(pid: u32) -> u64 {
    const TICK_MS: u64 = 10;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |index| fields.split_whitespace().nth(index)?.parse::<u64>().ok();
    (ticks(11).unwrap_or(0) + ticks(12).unwrap_or(0)) * TICK_MS
}

/// Whether a keeper of this folder, or one of its inits, lives.
pub(super) fn keeper_lives(folder: &Path) -> bool {
    processes(folder).is_ok_and(|all| all.values().any(|(_, keeper)| *keeper))
}

/// Every process: its parent, and whether its arguments are those of this folder's keeper.
fn processes(folder: &Path) -> io::Result<BTreeMap<u32, (u32, bool)>> {
    let folder = folder.to_string_lossy();
    let one = |entry: io::Result<fs::DirEntry>| {
        let path = entry.ok()?.path();
        let pid = path.file_name()?.to_str()?.parse().ok()?;
        let words = fs::read_to_string(path.join("cmdline")).ok()?;
        let mut arguments = words.split('\0').skip(1);
        let keeper = arguments.next() == Some("keeper") && words.contains(&*folder);
        Some((pid, (parent_of(pid)?, keeper)))
    };
    Ok(fs::read_dir("/proc")?.filter_map(one).collect())
}

/// The parent of a process.
pub(super) fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?;
    parent.parse().ok()
}

/// Whether a process is a server of the daemon in this folder: its parent is one of the keeper's inits.
pub(super) fn is_server_of(folder: &Path, pid: u32) -> bool {
    let arguments = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cmdline"));
    parent_of(pid)
        .and_then(|parent| arguments(parent).ok())
        .is_some_and(|words| words.contains(&*folder.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn both_files_of_the_kernel_are_understood() {
        let rollup = "55d0 ---p [rollup]\nRss:                4000 kB\nPss:  3000 kB\nPrivate_Clean:   500 kB\n\
                      Private_Dirty:  700 kB\nAnonymous:  600 kB\n";
        let held = Held::of_rollup(rollup);
        assert_eq!((held.rss_kib, held.pss_kib), (4_000, Some(3_000)));
        assert_eq!((held.private_kib, held.anonymous_kib), (Some(1_200), 600));
        let status = Held::of_status("Name:\tx\nVmRSS:\t    1500 kB\nRssAnon:\t     300 kB\n");
        assert_eq!((status.rss_kib, status.anonymous_kib), (1_500, 300));
        let sum = held.and(status);
        assert_eq!(
            (sum.processes, sum.each(sum.rss_kib), sum.pss_kib),
            (2, 2_750, None)
        );
        assert_eq!(Held::default().and(held).pss_kib, Some(3_000));
    }

    #[test]
    fn our_own_process_holds_something() {
        let held = Held::by(std::process::id());
        assert!(held.rss_kib > 0 && held.anonymous_kib > 0, "{held:?}");
        assert_eq!(
            parent_of(std::process::id()),
            Some(std::os::unix::process::parent_id())
        );
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .spawn()
            .expect("cat is there");
        let (parent, id) = (std::os::unix::process::parent_id(), child.id());
        let found = tree(parent).expect("proc is mounted");
        assert!(found.contains(&id) && found[0] == parent, "{found:?}");
        assert_eq!(tree(id).expect("proc is mounted"), [id]);
        drop(child.stdin.take());
        child.wait().expect("our child");
    }
}
