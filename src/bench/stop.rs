//! The end of a run before its time: asked for by a signal, seen by whatever measures.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::runtime::end_process;

/// Somebody asked the run to end.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Whether the run shall end, and the daemons that run for it: ours, and those of others that are measured beside.
#[derive(Debug, Default)]
pub struct Stop {
    asked: AtomicBool,
    daemons: Mutex<Vec<Running>>,
}

#[derive(Debug)]
struct Running {
    pid: u32,
    /// Whether it was told to end. A second SIGTERM would end `serve` without waiting for its keeper.
    told: bool,
}

impl Stop {
    /// Ends the run: its daemons are told to end, so that whoever waits for their answers waits no longer.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
        for running in self.lock().iter_mut() {
            tell(running);
        }
    }

    /// Whether the run shall end.
    #[must_use]
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// For whoever goes on with the next measurement.
    ///
    /// # Errors
    /// [`Interrupted`] once the run shall end.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.asked() {
            Err(Interrupted)
        } else {
            Ok(())
        }
    }

    /// A child of ours that is a daemon. One that is added when the run shall end already is for its owner to end, who
    /// asks [`Stop::check`].
    pub fn add(&self, pid: u32) {
        self.lock().push(Running { pid, told: false });
    }

    /// Sends SIGTERM to a daemon, once. It must not have been waited for yet.
    pub fn tell(&self, pid: u32) {
        let mut daemons = self.lock();
        if let Some(running) = daemons.iter_mut().find(|running| running.pid == pid) {
            tell(running);
        }
    }

    /// Forgets a daemon that was told.
    pub fn remove(&self, pid: u32) {
        self.lock().retain(|running| running.pid != pid);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Running>> {
        self.daemons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(running: &mut Running) {
    if !running.told {
        running.told = true;
        // Whether it ends is for its owner to see, who waits for it.
        let _ = end_process(running.pid, Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn whoever_asks_ends_the_daemons_too() {
        let stop = Stop::default();
        assert!(stop.check().is_ok());
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .spawn()
            .expect("cat is there");
        stop.add(child.id());
        stop.ask();
        assert!(stop.check().is_err());
        // Its stdin is still open: only the signal ends it.
        let stdin = child.stdin.take();
        let ended = child.wait().expect("our child");
        drop(stdin);
        assert!(!ended.success());
        stop.remove(child.id());
        assert!(stop.lock().is_empty());
    }
}
