//! The end of the daemon, as its clients see it: calls under way come to their answers, whoever connects meanwhile waits
//! in the queue of a listener that the keeper holds.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use http::{HeaderValue, Method, StatusCode, header};
use tokio::time::{Instant, sleep};

use super::{Gateway, Reply, cause::Cause, ready, reply};

/// Between two looks whether calls are still under way.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What is asked while the daemon ends.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// Requests without the head of an answer.
    asked: AtomicUsize,
    /// Sessions and streams are given up: the next daemon knows better.
    is_over: AtomicBool,
}

impl Ending {
    /// Counts a request until the head of its answer is there, or it is given up. A call is counted by its connection to
    /// the child as well, but not before its body was read. `None`: what is asked by GET is a stream without an end of its
    /// own, or answered at once.
    pub(super) fn asked(&self, method: &Method) -> Option<Asking<'_>> {
        if *method == Method::GET {
            return None;
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        Some(Asking(&self.asked))
    }

    /// Whether only the next daemon can answer.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// The answer, unless it says that something is not there which was only given up for the next daemon.
    pub(super) fn judge(&self, answer: Reply) -> Reply {
        if answer.status() == StatusCode::NOT_FOUND && self.is_over() {
            return over();
        }
        answer
    }
}

/// A request whose answer has not begun.
pub(super) struct Asking<'a>(&'a AtomicUsize);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// To one that came too late.
pub(super) fn over() -> Reply {
    let text = "The daemon ends; try again, the next one goes on with the same sessions.";
    let mut reply = reply::refused(StatusCode::SERVICE_UNAVAILABLE, text);
    let soon = HeaderValue::from_static("1");
    reply.headers_mut().insert(header::RETRY_AFTER, soon);
    Cause::Ending.mark(reply)
}

impl Gateway {
    /// Waits until no call is under way any more, for `gateway.drain_timeout` at most; after this, whoever asks is told to
    /// ask the next daemon. Nobody brings a first request any more.
    pub(super) async fn drain(&self) {
        let limit = self.config.drain_timeout.std();
        let began = Instant::now();
        loop {
            let under_way = self.calls_under_way();
            if under_way == 0 {
                break;
            }
            if began.elapsed() >= limit {
                tracing::warn!(
                    under_way,
                    "calls did not end within gateway.drain_timeout; their clients get no answer"
                );
                break;
            }
            sleep(LOOK_EVERY).await;
        }
        self.ending.is_over.store(true, Ordering::Relaxed);
    }

    /// Calls whose answers somebody waits for: those that wait for input of a client that has yet to come back do not
    /// count, since nobody is let in any more.
    fn calls_under_way(&self) -> usize {
        let places: Vec<_> = self.places().values().cloned().collect();
        let of_place = |place: &std::sync::Arc<super::Place>| {
            let shared = ready::present(&place.route);
            let shared = shared.map_or(0, |upstream| upstream.calls());
            let sessions = place.table.sessions();
            let own = sessions
                .values()
                .filter_map(|session| session.own_upstream());
            let own: usize = own.map(|upstream| upstream.calls()).sum();
            drop(sessions);
            (shared + own).saturating_sub(place.parked.waiting())
        };
        let calls: usize = places.iter().map(of_place).sum();
        calls.max(self.ending.asked.load(Ordering::Relaxed))
    }
}
