//! The init of an instance, as a descriptor: what it names can never become another process.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{keeper::clone, keeper_client::watched};

/// A pidfd that the keeper gave: of an instance's init, so that its end is the end of the whole tree. Only for
/// looking: the keeper alone sends signals.
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

impl From<OwnedFd> for Pidfd {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl Pidfd {
    /// Of the process with this number now, if there is one.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        Ok(clone::pidfd_open(pid)?.map(Self))
    }

    /// Whether the process has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.has_ended_within(Duration::ZERO).unwrap_or(false)
    }

    /// Whether the process has ended; waits for that so long, rounded down to milliseconds, at most 30 s.
    ///
    /// # Errors
    /// Those of poll(2): no memory.
    pub fn has_ended_within(&self, time: Duration) -> io::Result<bool> {
        let mut waited = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::from(
            u16::try_from(time.as_millis())
                .unwrap_or(30_000)
                .min(30_000),
        );
        loop {
            match poll(&mut waited, timeout) {
                Err(Errno::EINTR) => {}
                ready => return Ok(ready? > 0),
            }
        }
    }

    /// Which of these processes have ended; waits until one has, rounded up to milliseconds, at most 30 s.
    ///
    /// # Errors
    /// Those of poll(2): no memory, or more descriptors than this process may have.
    pub fn ended_among<'a>(
        all: impl Iterator<Item = &'a Self>,
        time: Duration,
    ) -> io::Result<Vec<bool>> {
        let watched = all.map(|one| PollFd::new(one.0.as_fd(), PollFlags::POLLIN));
        let mut watched: Vec<PollFd<'_>> = watched.collect();
        let timeout_ms = time.as_micros().div_ceil(1_000);
        let timeout_ms = u16::try_from(timeout_ms).unwrap_or(30_000).min(30_000);
        match poll(&mut watched, PollTimeout::from(timeout_ms)) {
            Err(Errno::EINTR) | Ok(_) => {}
            Err(cause) => return Err(cause.into()),
        }
        let ended = |one: &PollFd<'_>| one.revents().is_some_and(|seen| !seen.is_empty());
        Ok(watched.iter().map(ended).collect())
    }

    /// Resolves when the process has ended, also one that is not our child.
    ///
    /// # Errors
    /// When it cannot be watched: no descriptor is left.
    pub async fn ended(&self) -> io::Result<()> {
        let watched = watched(self.0.try_clone()?)?;
        watched.readable().await.map(drop)
    }

    /// Its pid as our /proc shows it. `None`: it was reaped, or /proc is that of other namespaces.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        pid_of(&fs::read_to_string(path).ok()?)
    }
}

/// The line `Pid:` of proc_pid_fdinfo(5): -1 once reaped, 0 in foreign namespaces.
fn pid_of(fdinfo: &str) -> Option<u32> {
    let pid = fdinfo.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    pid.trim().parse().ok().filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_stands_in_fdinfo() {
        assert_eq!(
            pid_of("pos:\t0\nflags:\t02\nPid:\t77\nNSpid:\t77\n"),
            Some(77)
        );
        for none in ["Pid:\t-1\n", "Pid:\t0\n", "pos:\t0\n", ""] {
            assert_eq!(pid_of(none), None, "{none}");
        }
    }

    #[tokio::test]
    async fn an_end_is_seen_and_stays_seen() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("cat is there");
        let opened = super::super::keeper::clone::pidfd_open(child.id()).expect("Linux");
        let pidfd = Pidfd::from(opened.expect("it lives"));
        assert!(!pidfd.has_ended());
        assert_eq!(pidfd.pid(), Some(child.id()));
        let own = Pidfd::open(std::process::id()).expect("Linux");
        let own = own.expect("this process lives");
        let both = || [&own, &pidfd].into_iter();
        let among = |time| Pidfd::ended_among(both(), time).expect("two descriptors");
        assert_eq!(among(Duration::ZERO), [false, false]);
        drop(child.stdin.take());
        pidfd.ended().await.expect("a descriptor is left");
        assert!(pidfd.has_ended(), "a zombie has ended");
        assert_eq!(among(Duration::from_secs(30)), [false, true]);
        child.wait().expect("it is our child");
        assert!(pidfd.has_ended());
        assert_eq!(pidfd.pid(), None);
    }
}
