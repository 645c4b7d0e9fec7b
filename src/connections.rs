//! Room for the connections of strangers: each costs a descriptor, and children, database and logs need some as well.
//!
//! Who finds no place waits, and whoever has rested longest without a request gives one up for it.

pub mod first_request;

use std::{
    fmt::Display,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};

/// How long a connection may be silent from its beginning while others wait for its place.
const SILENCE_WHEN_FULL: Duration = Duration::from_millis(500);
/// How long a connection that was used may rest then. Longer, because its client may be about to use it again, and would
/// not know whether that request was heard.
const REST_WHEN_FULL: Duration = Duration::from_secs(10);
/// How often those that rest are asked for a place.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Most connections of the API, however many descriptors there are.
const API_MAX: usize = 1_024;
/// Fewest places of each kind, however few descriptors there are.
const SHARE_MIN: usize = 8;
/// So many of those that rest may go for one that could not be accepted: others look for descriptors as well.
const GO_WHEN_FAILED: usize = 32;
/// What goes on is told so often.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// How many connections may be open at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// To the API's listeners, the path gateway among them.
    pub api: usize,
    /// To all access ports together.
    pub access: usize,
}

impl Shares {
    /// Of so many descriptors (`RLIMIT_NOFILE`): a quarter for the API, three eighths for access ports; the rest is for
    /// children, their egress, the database and files.
    #[must_use]
    pub fn of(descriptors: u64) -> Self {
        // Beyond the kernel's own counter of permits nothing is bounded by us.
        let all = usize::try_from(descriptors).unwrap_or(usize::MAX);
        Self {
            api: (all / 4).clamp(SHARE_MIN, API_MAX),
            access: (all / 8)
                .saturating_mul(3)
                .clamp(SHARE_MIN, Semaphore::MAX_PERMITS),
        }
    }
}

/// Places for connections.
#[derive(Debug)]
pub struct Room {
    places: Arc<Semaphore>,
    /// Who is between accept and its place.
    waiting: AtomicUsize,
    /// So many of those that rest may go.
    asked: AtomicUsize,
    ask: Notify,
    failures: Mutex<Complaint>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Room {
    /// Room for so many.
    #[must_use]
    pub fn new(places: usize) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(places)),
            waiting: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            ask: Notify::new(),
            failures: Mutex::default(),
        })
    }

    /// A place: at once where one is free, otherwise when one is given up.
    pub async fn enter(&self) -> Place {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Place(place);
        }
        let _waiting = Waiting::begin(&self.waiting);
        let place = Arc::clone(&self.places).acquire_owned();
        let mut place = std::pin::pin!(place);
        loop {
            self.ask_for(self.waiting.load(Ordering::Relaxed));
            tokio::select! {
                biased;
                place = &mut place => match place {
                    Ok(place) => return Place(place),
                    // Never closed.
                    Err(_) => std::future::pending().await,
                },
                () = sleep(ASK_EVERY) => {}
            }
        }
    }

    /// Resolves when somebody asks for a place; then [`Self::may_go`] tells whether it is still wanted.
    pub async fn asked(&self) {
        self.ask.notified().await;
    }

    /// Whether one that has had no request since `since` is to give up its place now. `used`: it had one before.
    #[must_use]
    pub fn may_go(&self, used: bool, since: Instant) -> bool {
        let patience = if used {
            REST_WHEN_FULL
        } else {
            SILENCE_WHEN_FULL
        };
        let one = |left: usize| left.checked_sub(1);
        since.elapsed() >= patience
            && self
                .asked
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one)
                .is_ok()
    }

    /// A connection to `what` could not be accepted, mostly since there was no descriptor: tells it, at most once a
    /// minute, and asks those that rest to go.
    pub fn failed(&self, what: &dyn Display, error: &io::Error) {
        self.ask_for(GO_WHEN_FAILED);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = failures.again(Instant::now()) {
            tracing::warn!(times, "a connection to {what} cannot be accepted: {error}");
        }
    }

    fn ask_for(&self, places: usize) {
        self.asked.store(places, Ordering::Relaxed);
        self.ask.notify_waiters();
    }
}

/// Counts one who waits, however its waiting ends.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Something that goes wrong again and again: told the first time, and then once a minute.
#[derive(Debug, Default)]
pub struct Complaint {
    told: Option<Instant>,
    untold: u64,
}

impl Complaint {
    /// It went wrong once more. `Some`: it is to be told now, with how often it was since it was told last.
    pub fn again(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        let quiet = self
            .told
            .is_some_and(|told| now.saturating_duration_since(told) < TELL_EVERY);
        if quiet {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn connections_never_take_more_than_their_share() {
        assert_eq!(
            Shares::of(192),
            Shares {
                api: 48,
                access: 72
            }
        );
        let large = Shares::of(524_288);
        assert_eq!((large.api, large.access), (1_024, 196_608));
        assert_eq!(Shares::of(u64::MAX).api, API_MAX, "no limit");
        assert_eq!(Shares::of(0), Shares { api: 8, access: 8 });
        for descriptors in 64..10_000 {
            let Shares { api, access } = Shares::of(descriptors);
            assert!(
                (api + access) as u64 <= descriptors * 5 / 8,
                "{descriptors}"
            );
        }
    }

    #[test]
    fn a_complaint_is_told_once_a_minute_with_its_count() {
        let mut complaint = Complaint::default();
        let begin = Instant::now();
        assert_eq!(complaint.again(begin), Some(1));
        for second in 1..60 {
            assert_eq!(complaint.again(begin + Duration::from_secs(second)), None);
        }
        assert_eq!(complaint.again(begin + TELL_EVERY), Some(60));
        assert_eq!(complaint.again(begin + TELL_EVERY), None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_goes_for_each_that_waits() {
        let room = Room::new(2);
        let (first, _second) = (room.enter().await, room.enter().await);
        let begin = Instant::now();
        assert!(!room.may_go(false, begin), "nobody waits");
        let (asked, waits) = (room.asked(), room.enter());
        let (mut asked, mut waits) = (std::pin::pin!(asked), std::pin::pin!(waits));
        assert!(asked.as_mut().now_or_never().is_none());
        assert!(waits.as_mut().now_or_never().is_none(), "it is full");
        asked.await;
        assert!(!room.may_go(false, begin), "it has just come");
        tokio::time::advance(SILENCE_WHEN_FULL).await;
        assert!(!room.may_go(true, begin), "it may be used again");
        assert!(room.may_go(false, begin));
        assert!(!room.may_go(false, begin), "one is enough for one");
        drop(first);
        let _third = waits.await;
        // Nobody waits any more: who rests may stay.
        assert!(room.asked().now_or_never().is_none());
        tokio::time::advance(REST_WHEN_FULL).await;
        assert!(!room.may_go(true, begin));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_asks_again_and_leaves_no_trace() {
        let room = Room::new(1);
        let held = room.enter().await;
        let patience = Duration::from_secs(1);
        let waiting = tokio::time::timeout(patience, room.enter());
        let asked_often = async {
            for _ in 0..5 {
                room.asked().await;
            }
        };
        let (waited, ()) = tokio::join!(waiting, asked_often);
        assert!(waited.is_err());
        assert_eq!(room.waiting.load(Ordering::Relaxed), 0);
        drop(held);
        assert!(room.enter().now_or_never().is_some());
    }
}
