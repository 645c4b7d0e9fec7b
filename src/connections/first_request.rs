//! The first request of a connection whose listener stops: it may be on its way, and hyper closes a connection on which
//! nothing was asked yet at once. Who was let in before the end of a daemon is answered by it.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::SetOnce,
    time::{sleep, timeout},
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

/// How long a connection that was accepted is waited for when its listener stops: for its place, and then for its first
/// request.
const FIRST_REQUEST_MAX: Duration = Duration::from_secs(1);

/// Listeners that stop together, and their connections on which nothing was asked yet.
#[derive(Debug, Clone, Default)]
pub struct FirstRequests(TaskTracker);

impl FirstRequests {
    /// To be held by a listener for as long as it takes connections.
    pub fn listener(&self) -> TaskTrackerToken {
        self.0.token()
    }

    /// For a connection that was accepted.
    #[must_use]
    pub fn connection(&self) -> FirstRequest {
        FirstRequest {
            awaited: Mutex::new(Some(self.0.token())),
            begun: SetOnce::new(),
        }
    }

    /// Resolves once no listener takes connections any more and none of those taken is waited for. To be called when they
    /// all stop.
    pub async fn over(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

/// One connection, until its first request begins.
#[derive(Debug)]
pub struct FirstRequest {
    awaited: Mutex<Option<TaskTrackerToken>>,
    begun: SetOnce<()>,
}

impl FirstRequest {
    /// Drives the answer to a request. Whatever counts requests under way has seen this one before it is no longer
    /// waited for.
    pub async fn answering<F: Future>(&self, mut answer: Pin<&mut F>) -> F::Output {
        if !self.begun.initialized() {
            let first = poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await;
            self.settle();
            if let Poll::Ready(answered) = first {
                return answered;
            }
        }
        answer.await
    }

    /// Resolves when this connection, whose listener stops, may be told to end: at once when it was asked something, else
    /// after its first request began or is overdue.
    pub async fn waited_for(&self) {
        let _ = timeout(FIRST_REQUEST_MAX, self.begun.wait()).await;
        self.settle();
    }

    fn settle(&self) {
        let _ = self.begun.set(());
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        drop(awaited.take());
    }
}

/// Resolves when one that was accepted before `stop` need not wait for its place any more.
pub async fn no_place_after(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(FIRST_REQUEST_MAX).await;
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;
    use tokio::{sync::oneshot, time::Instant};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_was_asked_is_waited_for_and_not_for_ever() {
        let all = FirstRequests::default();
        let (first, second) = (all.connection(), all.connection());
        let mut over = pin!(all.over());
        assert!(over.as_mut().now_or_never().is_none());
        drop(first);
        assert!(over.as_mut().now_or_never().is_none(), "one is still there");
        let began = Instant::now();
        second.waited_for().await;
        assert_eq!(began.elapsed(), FIRST_REQUEST_MAX);
        over.await;
        assert_eq!(began.elapsed(), FIRST_REQUEST_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_seen_by_others_before_it_is_no_longer_waited_for() {
        let all = FirstRequests::default();
        let connection = all.connection();
        let mut over = pin!(all.over());
        let (done, answer) = oneshot::channel();
        let counted = std::cell::Cell::new(false);
        let mut answer = pin!(async {
            assert!(over.as_mut().now_or_never().is_none());
            counted.set(true);
            answer.await
        });
        let mut answering = pin!(connection.answering(answer.as_mut()));
        assert!(answering.as_mut().now_or_never().is_none());
        assert!(counted.get());
        let began = Instant::now();
        connection.waited_for().await;
        assert_eq!(began.elapsed(), Duration::ZERO, "it was asked");
        done.send(7).expect("it is waited for");
        assert_eq!(answering.await, Ok(7));
        all.over().await;
        // The second one goes its way.
        let second = pin!(async { 8 });
        assert_eq!(connection.answering(second).await, 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_takes_connections_is_waited_for() {
        let all = FirstRequests::default();
        let listener = all.listener();
        let mut over = pin!(all.over());
        assert!(over.as_mut().now_or_never().is_none());
        let late = all.connection();
        drop(listener);
        assert!(over.as_mut().now_or_never().is_none(), "it took one more");
        drop(late);
        over.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_waited_for_as_long() {
        let stop = CancellationToken::new();
        let mut gone = pin!(no_place_after(&stop));
        assert!(gone.as_mut().now_or_never().is_none());
        let began = Instant::now();
        stop.cancel();
        gone.await;
        assert_eq!(began.elapsed(), FIRST_REQUEST_MAX);
    }
}
