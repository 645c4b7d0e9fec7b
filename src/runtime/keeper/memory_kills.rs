//! Whether the kernel killed for want of memory, by the counter of the cgroup that a child lives in.
//!
//! A SIGKILL does not say who sent it. The kernel counts the processes that it kills for want of memory in the cgroup
//! of the killed one: `oom_kill` in `memory.events.local` (cgroup v2) or in `memory.oom_control` (v1). Children may
//! share a cgroup, so each counted kill explains one death and no more. Where no cgroup with a memory controller is
//! found, as in the root of cgroup v2, the count of the whole host (`/proc/vmstat`) has to do.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::cgroup_names::folder_in;

/// The count of the whole host.
const HOST: &str = "/proc/vmstat";

/// Past so many cgroups those that are gone are forgotten.
const CGROUPS_MAX: usize = 1_024;

/// How often the kernel has killed in one cgroup, and how many of these kills have explained a death.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct MemoryKills {
    explained: BTreeMap<PathBuf, u64>,
}

/// Where a child's kills are counted, and how many there were when it began.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Count {
    file: PathBuf,
    at_launch: u64,
}

impl Count {
    /// For a child with a cgroup of its own: by the file of that.
    pub(super) fn in_cgroup(file: PathBuf) -> Self {
        let at_launch = read(&file);
        Self { file, at_launch }
    }
}

/// Where kills in the keeper's own cgroup are counted, in which children without one of their own are too. Found once: to
/// read all mounts of the host takes longer than a fork.
#[derive(Debug, Default)]
pub(super) struct OwnCounter {
    /// As `/proc/self/cgroup` had it.
    cgroups: String,
    file: PathBuf,
}

impl OwnCounter {
    /// For a child that is launched now.
    pub(super) fn count(&mut self) -> Count {
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        if self.cgroups != cgroups || !self.file.exists() {
            self.file = counter_of(&cgroups).unwrap_or_else(|| HOST.into());
            self.cgroups = cgroups;
        }
        Count {
            file: self.file.clone(),
            at_launch: read(&self.file),
        }
    }
}

impl MemoryKills {
    /// Whether a SIGKILL that nobody here sent was the kernel's, for want of memory. To be asked once for each.
    pub(super) fn explain(&mut self, count: &Count) -> bool {
        let explained = self.explained.entry(count.file.clone()).or_default();
        let before = count.at_launch.max(*explained);
        let is_one = read(&count.file) > before;
        if is_one {
            *explained = before + 1;
        }
        if self.explained.len() > CGROUPS_MAX {
            self.explained.retain(|file, _| file.exists());
        }
        is_one
    }
}

/// The file that counts for a process in these cgroups.
fn counter_of(cgroups: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    candidates(cgroups, &mounts)
        .into_iter()
        .find(|file| fs::read_to_string(file).is_ok_and(|text| number(&text).is_some()))
}

/// Where the counter may be: `cgroups` as `/proc/PID/cgroup`, `mounts` as `/proc/self/mountinfo` has it.
fn candidates(cgroups: &str, mounts: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in cgroups.lines() {
        // hierarchy:controllers:path; version 2 has no controllers here.
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (kind, file) = if controllers.is_empty() {
            ("cgroup2", "memory.events.local")
        } else if controllers.split(',').any(|name| name == "memory") {
            ("cgroup", "memory.oom_control")
        } else {
            continue;
        };
        for mount in mounts.lines() {
            if let Some(folder) = folder_in(mount, kind, path) {
                found.push(folder.join(file));
            }
        }
    }
    found
}

fn read(file: &Path) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    number(&text).unwrap_or(0)
}

/// All three files name it the same.
fn number(text: &str) -> Option<u64> {
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
25 30 0:23 / /sys rw,nosuid - sysfs sysfs rw
26 25 0:24 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
27 25 0:25 / /sys/fs/cgroup/pids rw,nosuid - cgroup cgroup rw,pids
28 25 0:26 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn the_cgroup_of_a_process_has_its_counter() {
        let found = candidates("4:memory:/a/b\n3:pids:/c\n0::/d\n", MOUNTS);
        let files = [
            "/sys/fs/cgroup/memory/a/b/memory.oom_control",
            "/sys/fs/cgroup/unified/d/memory.events.local",
        ];
        assert_eq!(found, files.map(PathBuf::from));
        assert_eq!(
            candidates("garbage\n0:\n", "x\n - \n"),
            Vec::<PathBuf>::new()
        );
    }

    #[test]
    fn a_mount_of_a_part_shows_that_part() {
        let mount = "40 30 0:26 /box /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let found = candidates("0::/box/one\n", mount);
        assert_eq!(
            found,
            [PathBuf::from("/sys/fs/cgroup/one/memory.events.local")]
        );
        assert_eq!(candidates("0::/elsewhere\n", mount), Vec::<PathBuf>::new());
    }

    #[test]
    fn each_kill_explains_one_death() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("memory.oom_control");
        let write = |kills: u64| {
            let text = format!("oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n");
            fs::write(&file, text).expect("the folder is ours");
        };
        let begun_at = |at_launch| Count {
            file: file.clone(),
            at_launch,
        };
        let mut kills = MemoryKills::default();
        write(7);
        assert!(!kills.explain(&begun_at(7)), "what was before its launch");
        write(8);
        let (first, second) = (begun_at(7), begun_at(7));
        assert!(kills.explain(&first));
        assert!(!kills.explain(&second), "one kill, two deaths");
        write(10);
        assert!(kills.explain(&second) && kills.explain(&begun_at(8)));
    }

    #[test]
    fn the_host_counts_too() {
        let text = fs::read_to_string(HOST).expect("Linux");
        assert!(number(&text).is_some(), "the line that we look for");
    }
}
