//! When a connection to an access port ends: its listener closes, nobody uses it, or its client sends a head drop by drop.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::connections::{Room, first_request::FirstRequest};

/// How often a connection's progress is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a request head may take.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// How long a connection may rest between two requests.
const REST_MAX: Duration = Duration::from_secs(15 * 60);

/// How the connections of a listener end.
#[derive(Clone, Default)]
pub(super) struct Closing {
    /// No further request is taken; those under way come to their end.
    pub(super) drain: CancellationToken,
    /// What is still there a few seconds later is cut.
    pub(super) close: CancellationToken,
}

impl Closing {
    pub(super) fn close(&self) {
        self.drain.cancel();
        self.close.cancel();
    }
}

/// What a connection did, counted by its task alone; cheaper than a timer per request.
#[derive(Default)]
pub(super) struct Pulse {
    pub(super) reads: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
}

/// Counts one more; nobody else counts here.
pub(super) fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// A request until its answer has begun.
pub(super) struct UnderWay<'a>(&'a Pulse);

impl<'a> UnderWay<'a> {
    pub(super) fn begin(pulse: &'a Pulse) -> Self {
        count(&pulse.begun);
        Self(pulse)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        count(&self.0.ended);
    }
}

/// What becomes of a connection.
pub(super) enum Order {
    /// It ends when the answer under way is out, as soon as its client says no more.
    Finish,
    /// The same, and soon: its listener closes.
    Close,
    /// It ends now.
    Drop,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// No request for long: it may end.
    Rested,
    /// A request head does not come to its end.
    Stalled,
}

/// Finds connections that send a head drop by drop, and those that nobody uses.
pub(super) struct Watchdog {
    ended: u64,
    read_at_end: u64,
    since: Instant,
    begun_ever: bool,
    drains: bool,
}

impl Watchdog {
    pub(super) fn new(pulse: &Pulse) -> Self {
        Self {
            ended: pulse.ended.load(Ordering::Relaxed),
            read_at_end: 0,
            since: Instant::now(),
            begun_ever: false,
            drains: false,
        }
    }

    /// Waits until something must happen to the connection.
    pub(super) async fn order(
        &mut self,
        pulse: &Pulse,
        closing: &Closing,
        room: &Room,
        first: &FirstRequest,
    ) -> Order {
        loop {
            tokio::select! {
                biased;
                () = closing.close.cancelled() => return Order::Close,
                () = closing.drain.cancelled(), if !self.drains => {
                    self.drains = true;
                    tokio::select! {
                        biased;
                        () = closing.close.cancelled() => return Order::Close,
                        () = first.waited_for() => return Order::Finish,
                    }
                }
                () = room.asked(), if !self.drains => {}
                () = sleep(LOOK_EVERY) => {}
            }
            match self.look(pulse) {
                Verdict::Fine if !self.drains && self.may_go(pulse, room) => {
                    // An answer that is still being streamed comes to its end.
                    self.drains = true;
                    return if self.begun_ever {
                        Order::Finish
                    } else {
                        Order::Drop
                    };
                }
                Verdict::Fine => {}
                Verdict::Rested => return Order::Finish,
                Verdict::Stalled => return Order::Drop,
            }
        }
    }

    /// Whether it is to give up its place for others, after a look.
    fn may_go(&self, pulse: &Pulse, room: &Room) -> bool {
        let rests = pulse.begun.load(Ordering::Relaxed) == self.ended;
        rests && room.may_go(self.begun_ever, self.since)
    }

    fn look(&mut self, pulse: &Pulse) -> Verdict {
        let (begun, ended, read) = (
            pulse.begun.load(Ordering::Relaxed),
            pulse.ended.load(Ordering::Relaxed),
            pulse.reads.load(Ordering::Relaxed),
        );
        if begun != ended || ended != self.ended {
            self.ended = ended;
            self.read_at_end = read;
            self.since = Instant::now();
            self.begun_ever = true;
            return Verdict::Fine;
        }
        let waited = self.since.elapsed();
        let in_head = read != self.read_at_end || !self.begun_ever;
        if in_head && waited >= HEAD_MAX {
            Verdict::Stalled
        } else if waited >= REST_MAX {
            Verdict::Rested
        } else {
            Verdict::Fine
        }
    }
}
