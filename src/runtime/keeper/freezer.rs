//! The freezer of cgroup v2: every process of a cgroup holds still, unseen by any of them, with all its memory, until it is
//! let go on or killed (Linux, `Documentation/admin-guide/cgroup-v2.rst`, `cgroup.freeze` and `cgroup.events`). It needs
//! no controller, so it is there wherever a child has a cgroup of its own.
//!
//! Stopping the processes by signals where there is none would not do: their parents and they themselves see it, and one
//! that a process stopped on purpose would go on with all others.

use std::{
    fs::File,
    io::{Read, Seek},
    os::fd::AsFd,
    path::Path,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::cgroups::write;

/// The file that is written to.
pub(super) const FREEZE: &str = "cgroup.freeze";
/// The file that tells when it is done.
const EVENTS: &str = "cgroup.events";

/// How long the processes may take to hold still. They wait for something when nobody uses them, and then it takes a
/// fraction of a millisecond; the keeper does nothing else meanwhile.
const LIMIT: Duration = Duration::from_millis(25);

/// Has every process in this cgroup hold still, and waits for it.
///
/// # Errors
/// Why they may not, in one sentence.
pub(super) fn freeze(folder: &Path) -> Result<(), String> {
    let failed = |cause: std::io::Error| format!("its cgroup cannot be frozen: {cause}");
    let mut events = File::open(folder.join(EVENTS)).map_err(failed)?;
    write(folder, FREEZE, "1").map_err(failed)?;
    let until = Instant::now() + LIMIT;
    loop {
        // Read before it is waited for: what came before a reading wakes nobody.
        if says_frozen(&mut events).map_err(failed)? {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let limit_ms = LIMIT.as_millis();
            return Err(format!(
                "its processes did not come to hold still within {limit_ms} ms"
            ));
        }
        // A millisecond more, so that the end is not waited for in a busy loop.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
        let mut states = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        match poll(&mut states, timeout.unwrap_or(PollTimeout::ZERO)) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}

fn says_frozen(events: &mut File) -> std::io::Result<bool> {
    let mut text = String::new();
    events.rewind()?;
    events.read_to_string(&mut text)?;
    Ok(text.lines().any(|line| line == "frozen 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_no_cgroup_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let refused = freeze(folder.path()).expect_err("it is no cgroup");
        assert!(
            refused.starts_with("its cgroup cannot be frozen"),
            "{refused}"
        );
        std::fs::write(folder.path().join(EVENTS), "populated 1\nfrozen 0\n").expect("ours");
        std::fs::write(folder.path().join(FREEZE), "0").expect("ours");
        let refused = freeze(folder.path()).expect_err("nobody froze it");
        assert!(refused.contains("did not come to hold still"), "{refused}");
        std::fs::write(folder.path().join(EVENTS), "populated 1\nfrozen 1\n").expect("ours");
        assert_eq!(freeze(folder.path()), Ok(()));
    }
}
