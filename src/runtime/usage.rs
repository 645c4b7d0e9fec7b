//! What an instance uses now, read from /proc.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// What a tree of processes uses now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeUsage {
    /// Resident memory of all its processes in KiB; pages that they share are counted for each.
    pub rss_kib: u64,
    /// CPU time in milliseconds, of the living and of those already waited for.
    pub cpu_ms: u64,
    /// Living processes, the instance's init included.
    pub processes: u32,
}

impl std::iter::Sum for TreeUsage {
    fn sum<I: Iterator<Item = Self>>(trees: I) -> Self {
        trees.fold(Self::default(), |sum, tree| Self {
            rss_kib: sum.rss_kib.saturating_add(tree.rss_kib),
            cpu_ms: sum.cpu_ms.saturating_add(tree.cpu_ms),
            processes: sum.processes.saturating_add(tree.processes),
        })
    }
}

/// What the init of an instance calls itself (`/proc/PID/comm`, at most 15 bytes).
pub(super) const INIT_NAME: &str = "minimcp-init";

/// The same for prctl(2).
pub(super) const INIT_NAME_C: &std::ffi::CStr = c"minimcp-init";

/// Most processes that one reading looks at; past it the numbers are a lower bound.
const PROCESSES_MAX: usize = 4_096;

/// Sums up the tree of the server with this host pid: the instance's init and all below it, re-parented
/// processes included. Blocks for a few reads of /proc.
///
/// # Errors
/// When the process is gone, or /proc is not readable.
pub fn usage(pid: u32) -> io::Result<TreeUsage> {
    let parent = Stat::read(pid)?.parent;
    let under_init = fs::read_to_string(format!("/proc/{parent}/comm"))
        .is_ok_and(|name| name.trim_end() == INIT_NAME);
    let mut sum = TreeUsage::default();
    let mut queue = vec![if under_init { parent } else { pid }];
    let mut next = 0;
    while let Some(&pid) = queue.get(next) {
        next += 1;
        // A process may end while we look; then it simply no longer counts.
        let Ok(stat) = Stat::read(pid) else { continue };
        sum.rss_kib += stat.rss_kib;
        sum.cpu_ms += stat.cpu_ms;
        sum.processes += 1;
        if queue.len() < PROCESSES_MAX {
            queue.extend(children(pid).unwrap_or_default());
        }
    }
    Ok(sum)
}

/// Whether the process `pid` is `init` or below it.
///
/// # Errors
/// When a process on the way up is gone, or /proc does not show it.
pub(super) fn is_below(pid: u32, init: u32) -> io::Result<bool> {
    /// A server is a child of its init, or of what prepared its sandbox.
    const STEPS_MAX: usize = 8;
    let mut at = pid;
    for _ in 0..STEPS_MAX {
        if at == init || at <= 1 {
            return Ok(at == init);
        }
        at = Stat::read(at)?.parent;
    }
    Ok(false)
}

/// The folders right below `top` that the command line of some process names a file of. Blocks while it looks at all
/// processes; what cannot be read does not count.
#[must_use]
pub fn folders_in_command_lines(top: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let folder = |argument: &[u8]| {
        let below = Path::new(OsStr::from_bytes(argument))
            .strip_prefix(top)
            .ok()?;
        Some(top.join(below.iter().next()?))
    };
    let mut folders = BTreeSet::new();
    for line in lines {
        folders.extend(line.split(|byte| *byte == 0).filter_map(folder));
    }
    folders
}

/// The microseconds so far in which some process of this host waited for a processor; `None` where the kernel does not
/// count them. Blocks for one read of /proc.
#[must_use]
pub fn cpu_stalled_us() -> Option<u64> {
    stalled_us(&fs::read_to_string("/proc/pressure/cpu").ok()?)
}

/// The same for memory: some process waited until the kernel had found a page for it.
#[must_use]
pub fn memory_stalled_us() -> Option<u64> {
    stalled_us(&fs::read_to_string("/proc/pressure/memory").ok()?)
}

fn stalled_us(text: &str) -> Option<u64> {
    let some = text.lines().find(|line| line.starts_with("some "))?;
    some.rsplit_once("total=")?.1.trim().parse().ok()
}

/// Of `/proc/PID/stat`.
pub(super) struct Stat {
    pub(super) parent: u32,
    rss_kib: u64,
    cpu_ms: u64,
    /// When it began, since the start of the machine.
    pub(super) begun_ticks: u64,
}

impl Stat {
    pub(super) fn read(pid: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(
            &text,
            super::host::clock_ticks_per_second(),
            super::host::page_kib(),
        )
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc/PID/stat"))
    }

    /// Fields as proc(5) numbers them; the name in parentheses may hold anything, so they count from behind it.
    fn parse(text: &str, ticks_per_second: u64, page_kib: u64) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).and_then(|f| f.parse::<u64>().ok());
        let ticks = field(14)? + field(15)? + field(16)? + field(17)?;
        Some(Self {
            parent: u32::try_from(field(4)?).ok()?,
            rss_kib: field(24)? * page_kib,
            cpu_ms: ticks * 1_000 / ticks_per_second.max(1),
            begun_ticks: field(22)?,
        })
    }
}

fn children(pid: u32) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path().join("children");
        if let Ok(text) = fs::read_to_string(path) {
            found.extend(
                text.split_ascii_whitespace()
                    .filter_map(|p| p.parse::<u32>().ok()),
            );
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_count_of_waiting_for_a_processor_is_read() {
        let text = "some avg10=1.53 avg60=0.87 avg300=0.73 total=18019075090\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(stalled_us(text), Some(18_019_075_090));
        assert_eq!(stalled_us("full avg10=0.00 total=7\n"), None);
        assert_eq!(stalled_us("some total=x"), None);
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let line = "77 (a) b (c)) S 5 77 77 0 -1 4194560 1 2 3 4 100 50 7 3 20 0 1 0 9 1000 25 1 0";
        let stat = Stat::parse(line, 100, 4).expect("a valid line");
        assert_eq!((stat.parent, stat.rss_kib, stat.cpu_ms), (5, 100, 1_600));
    }

    #[test]
    fn counts_this_process() {
        let mine = usage(std::process::id()).expect("our own /proc");
        assert!(mine.processes >= 1 && mine.rss_kib > 0, "{mine:?}");
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(usage(u32::MAX - 1).is_err());
    }
}
