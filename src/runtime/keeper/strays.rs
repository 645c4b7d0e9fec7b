//! What does not belong into the cgroups of children: processes that were not started here, cgroups without a child.
//!
//! `serve` finds them and asks; the keeper looks for itself before it does anything, so that a `serve` in other hands
//! can end nothing by this that it could not end with a child.

use std::path::{Component, Path, PathBuf};

use nix::sys::signal::Signal;

use super::{
    cgroup_names::CHILD,
    cgroups::{Cgroups, Leaf},
    clone::{pidfd_open, pidfd_signal},
    reactor::Reactor,
};
use crate::{domain::reconcile::ForeignProcess, runtime::child_cgroups};

impl Reactor {
    /// Kills a process in the cgroup of a child that was not started here. One that is gone is no error.
    ///
    /// # Errors
    /// Why it lives on, in one sentence.
    pub(super) fn end_foreign(&self, cgroup: &str, process: ForeignProcess) -> Result<(), String> {
        let pid = process.pid;
        let folder = self.cgroups()?.folder().join(child_cgroup(cgroup)?);
        // From here on the descriptor means this one process, whatever becomes of its number.
        let Some(pidfd) = pidfd_open(pid).map_err(|cause| cause.to_string())? else {
            return Ok(());
        };
        if !child_cgroups::processes(&folder).contains(&pid) {
            return Ok(());
        }
        match child_cgroups::foreign(pid, std::process::id()) {
            Some(found) if found == process => pidfd_signal(&pidfd, Signal::SIGKILL)
                .map_err(|cause| format!("process {pid} cannot be killed: {cause}")),
            Some(_) => Ok(()),
            None => Err(format!(
                "process {pid} is no stranger, or is not shown to the keeper"
            )),
        }
    }

    /// Removes the cgroup of a child that is not held, with all that is in it.
    ///
    /// # Errors
    /// Why not, in one sentence.
    pub(super) fn remove_cgroup(&mut self, cgroup: &str) -> Result<(), String> {
        let folder = self.cgroups()?.folder().join(child_cgroup(cgroup)?);
        let mut records = self.table.workloads.values();
        let is_held =
            records.any(|record| record.leaf.as_ref().map(Leaf::folder) == Some(&*folder));
        if is_held {
            return Err(format!("the child of {cgroup} is held"));
        }
        if let Ok(cgroups) = &mut self.launcher.cgroups {
            cgroups.remove_named(cgroup);
        }
        Ok(())
    }

    fn cgroups(&self) -> Result<&Cgroups, String> {
        let cgroups = self.launcher.cgroups.as_ref();
        cgroups.map_err(|reason| format!("the keeper has no cgroups: {reason}"))
    }
}

/// A name from outside, if it can be that of a child's cgroup.
fn child_cgroup(name: &str) -> Result<PathBuf, String> {
    let mut parts = Path::new(name).components();
    let is_one = matches!(parts.next(), Some(Component::Normal(part)) if part == name);
    if is_one && name.starts_with(CHILD) {
        Ok(name.into())
    } else {
        Err("this is no name of a child's cgroup".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_cgroup_of_a_child_is_a_name() {
        assert_eq!(child_cgroup("child-x"), Ok("child-x".into()));
        for name in [
            "keeper",
            "child-x/..",
            "child-x/",
            "../child-x",
            "/child-x",
            "",
            ".",
            "child-/../x",
        ] {
            assert!(child_cgroup(name).is_err(), "{name}");
        }
    }
}
