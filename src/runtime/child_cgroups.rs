//! The cgroups of children as the kernel shows them, and who in them was not started by the keeper.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    keeper::cgroup_names::{CHILD, OWN, child_named, folder_in},
    usage::Stat,
};
use crate::domain::reconcile::{ForeignProcess, ShownCgroup};

/// Most processes that one look at a cgroup judges.
const PROCESSES_MAX: usize = 4_096;

/// Most steps from a process up to the keeper.
const STEPS_MAX: usize = 256;

/// The cgroup of a child below that of the keeper with this pid, by name. Empty where the keeper has no part of the tree
/// for itself. Blocks for a few reads of /proc and /sys/fs/cgroup.
#[must_use]
pub fn child_cgroups(keeper: u32) -> Vec<(String, ShownCgroup)> {
    let Some(place) = children_of(keeper) else {
        return Vec::new();
    };
    let mut shown = Vec::new();
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if !name.starts_with(CHILD) {
            continue;
        }
        let pids = processes(&entry.path());
        let foreign = pids.into_iter().filter_map(|pid| foreign(pid, keeper));
        let cgroup = ShownCgroup {
            child: child_named(&name),
            foreign: foreign.collect(),
        };
        shown.push((name, cgroup));
    }
    shown
}

/// The folder with the cgroups of children beside the keeper's own.
fn children_of(keeper: u32) -> Option<PathBuf> {
    let cgroups = fs::read_to_string(format!("/proc/{keeper}/cgroup")).ok()?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let above = path.strip_suffix(OWN)?.strip_suffix('/')?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts
        .lines()
        .find_map(|mount| folder_in(mount, "cgroup2", above))
        .filter(|folder| folder.is_dir())
}

/// All in a cgroup and below it.
pub(super) fn processes(folder: &Path) -> Vec<u32> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let pids = text.lines().filter_map(|line| line.parse().ok());
    let mut pids: Vec<u32> = pids.take(PROCESSES_MAX).collect();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_below = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_below && pids.len() < PROCESSES_MAX {
            pids.extend(processes(&entry.path()));
        }
    }
    pids
}

/// The process `pid`, if the keeper did not start it and it is shown to us.
pub(super) fn foreign(pid: u32, keeper: u32) -> Option<ForeignProcess> {
    // 0: of a PID namespace outside of ours.
    let stat = Stat::read(pid).ok().filter(|_| pid > 0)?;
    let parent = |pid| Stat::read(pid).map(|stat| stat.parent);
    let process = ForeignProcess {
        pid,
        begun_ticks: stat.begun_ticks,
    };
    is_foreign(pid, keeper, parent).then_some(process)
}

/// Whether the way up from `pid` leads past the keeper. Who ends on the way, or is not shown to us, is not judged.
fn is_foreign(pid: u32, keeper: u32, parent: impl Fn(u32) -> io::Result<u32>) -> bool {
    let mut at = pid;
    for _ in 0..STEPS_MAX {
        if at == keeper {
            return false;
        }
        if at <= 1 {
            return true;
        }
        let Ok(above) = parent(at) else { return false };
        at = above;
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_process_is_foreign_when_the_way_up_leads_past_the_keeper() {
        let parents: BTreeMap<u32, u32> = [
            (50, 1),
            (60, 50),
            (61, 60),
            (70, 1),
            (71, 70),
            (80, 99),
            (90, 0),
            (5, 5),
        ]
        .into();
        let parent = |pid| {
            let found = parents.get(&pid).copied();
            found.ok_or(io::Error::from(io::ErrorKind::NotFound))
        };
        let judged = |pid| is_foreign(pid, 50, parent);
        assert!(!judged(50) && !judged(60) && !judged(61), "the keeper's");
        assert!(judged(70) && judged(71) && judged(90));
        assert!(!judged(80), "its parent ended while we looked");
        assert!(!judged(5), "no way up leads in a circle");
    }
}
