//! What all parts of the test share: the slots, the journal, what was found wrong, and the gate that makes them pause.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    lines::Ledger,
    model::{Slot, Violation},
};

/// Entries of the journal that are kept for a failure.
const JOURNAL_MAX: usize = 400;
/// Until all have come to rest: longer than every single request may take.
const REST_TIMEOUT: Duration = Duration::from_secs(150);

/// An instance as its creation was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Its id.
    pub id: String,
    /// Its name, which no other instance of the run has.
    pub name: String,
    /// Its access URL, for ever the same.
    pub url: String,
    /// Its access token.
    pub token: String,
}

/// One slot: at most one instance at a time.
#[derive(Debug, Default)]
pub struct Place {
    /// What must be true of it.
    pub model: Slot,
    /// The way to its instance, once it is known.
    pub access: Option<Access>,
    /// The name that a creation asked for, until it is known whether there is such an instance.
    pub asked_name: Option<String>,
    /// What its instance wrote.
    pub ledger: Ledger,
}

/// What all tasks change.
#[derive(Debug, Default)]
pub struct State {
    /// One for each slot.
    pub places: Vec<Place>,
    /// Names of creations that were not acknowledged and not found: they may come up later.
    pub ghosts: Vec<String>,
    /// How often which thing happened.
    pub tally: BTreeMap<String, u64>,
    violations: Vec<Violation>,
    journal: VecDeque<String>,
}

/// Shared by all tasks of a run.
pub struct World {
    begun: Instant,
    state: Mutex<State>,
    open: watch::Sender<bool>,
    /// How many tasks are at work.
    at_work: watch::Sender<usize>,
    ended: watch::Sender<bool>,
}

impl World {
    /// With so many empty slots, and the gate closed.
    pub fn new(slots: usize) -> Self {
        let state = State {
            places: std::iter::repeat_with(Place::default).take(slots).collect(),
            ..State::default()
        };
        Self {
            begun: Instant::now(),
            state: Mutex::new(state),
            open: watch::Sender::new(false),
            at_work: watch::Sender::new(0),
            ended: watch::Sender::new(false),
        }
    }

    /// The state. Nobody waits for anything while holding it.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Notes what happened.
    pub fn note(&self, text: impl Into<String>) {
        let at = self.begun.elapsed().as_millis();
        let mut state = self.state();
        if state.journal.len() >= JOURNAL_MAX {
            state.journal.pop_front();
        }
        state
            .journal
            .push_back(format!("{at:>7} ms  {}", text.into()));
    }

    /// Counts what happened.
    pub fn count(&self, what: &str) {
        *self.state().tally.entry(what.to_owned()).or_default() += 1;
    }

    /// Notes what must not be.
    pub fn wrong(&self, text: impl Into<String>) {
        let text = text.into();
        self.note(format!("VIOLATION {text}"));
        self.state().violations.push(text);
    }

    /// Notes the violation in `outcome`, if there is one.
    pub fn hold(&self, who: &str, outcome: Result<(), Violation>) {
        if let Err(violation) = outcome {
            self.wrong(format!("{who}: {violation}"));
        }
    }

    /// Everything that was found wrong.
    pub fn violations(&self) -> Vec<Violation> {
        self.state().violations.clone()
    }

    /// The journal as text.
    pub fn journal(&self) -> String {
        let state = self.state();
        state
            .journal
            .iter()
            .fold(String::new(), |all, line| all + line + "\n")
    }

    /// Before each single thing that a task does: waits while the gate is closed. `None`: the run is over.
    pub async fn turn(&self) -> Option<AtWork<'_>> {
        let mut open = self.open.subscribe();
        let mut ended = self.ended.subscribe();
        loop {
            tokio::select! {
                biased;
                _ = ended.wait_for(|ended| *ended) => return None,
                opened = open.wait_for(|open| *open) => opened.ok()?,
            };
            // Counted first, so that whoever closes the gate sees us or we see it closed.
            self.at_work.send_modify(|count| *count += 1);
            let at_work = AtWork(self);
            if *self.open.borrow() {
                return Some(at_work);
            }
        }
    }

    /// Lets everybody go on.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Closes the gate and waits until all rest.
    pub async fn rest(&self) {
        self.open.send_replace(false);
        let mut at_work = self.at_work.subscribe();
        let resting = tokio::time::timeout(REST_TIMEOUT, at_work.wait_for(|count| *count == 0));
        if resting.await.is_err() {
            self.wrong("something did not come to its end");
        }
    }

    /// No more turns.
    pub fn end(&self) {
        self.ended.send_replace(true);
    }
}

/// A pause on the way that a seed takes; nothing depends on its being long enough.
pub async fn pause(length_ms: u64) {
    let mut ticks = tokio::time::interval(Duration::from_millis(length_ms.max(1)));
    ticks.tick().await;
    ticks.tick().await;
}

/// Somebody is at work while this lives.
pub struct AtWork<'a>(&'a World);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.at_work.send_modify(|count| *count -= 1);
    }
}

/// Tells how to do a run again when it fails, whatever it was that failed.
pub struct Telltale<'a> {
    /// What to set to take the same way again.
    pub again: String,
    /// The run.
    pub world: &'a World,
}

impl Drop for Telltale<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = self.world.journal();
            eprintln!(
                "to do it again: {}\nwhat was done, the last of it:\n{journal}",
                self.again
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_is_at_work_behind_a_closed_gate() {
        let world = World::new(1);
        world.open();
        let at_work = world.turn().await.expect("it is open");
        let mut resting = std::pin::pin!(world.rest());
        assert!(futures_util::poll!(resting.as_mut()).is_pending());
        let mut next = std::pin::pin!(world.turn());
        assert!(
            futures_util::poll!(next.as_mut()).is_pending(),
            "it is closed"
        );
        drop(at_work);
        resting.await;
        world.open();
        assert!(next.await.is_some());
        world.end();
        assert!(world.turn().await.is_none());
        assert_eq!(world.violations(), [""; 0]);
    }
}
