//! What rarely happens beside a connection: it is looked at only when it has woken the task itself, not on each of the
//! many wake-ups that the connection has.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// A future with a waker of its own, inside a task that mostly does something else.
pub struct Aside<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    waker: Waker,
    /// The task's waker that the bell has.
    task: Option<Waker>,
}

/// Rings for one future, and tells the task.
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F: Future> Aside<F> {
    /// Polled at the first [`Aside::poll`], and then when it is woken.
    pub fn new(future: F) -> Self {
        let bell = Arc::new(Bell {
            rung: AtomicBool::new(true),
            task: AtomicWaker::new(),
        });
        Self {
            future: Box::pin(future),
            waker: bell.clone().into(),
            bell,
            task: None,
        }
    }

    /// Its outcome, once. To be polled by the task on each of its wake-ups.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        let known = self.task.as_ref();
        let moved = known.is_none_or(|known| !known.will_wake(cx.waker()));
        if !moved && !self.bell.rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // Ringing takes the waker out; it is put back before the bell is looked at.
        self.bell.task.register(cx.waker());
        if moved {
            self.task = Some(cx.waker().clone());
        }
        if self.bell.rung.swap(false, Ordering::AcqRel) {
            return self
                .future
                .as_mut()
                .poll(&mut Context::from_waker(&self.waker));
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize};

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_when_it_was_woken_and_never_else() {
        let polls = AtomicUsize::new(0);
        let (sender, mut receiver) = oneshot::channel();
        let mut aside = Aside::new(poll_fn(|cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut receiver).poll(cx)
        }));
        for _ in 0..5 {
            let polled = poll_fn(|cx| Poll::Ready(aside.poll(cx))).await;
            assert!(polled.is_pending());
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        sender.send(7).expect("it waits");
        assert_eq!(poll_fn(|cx| aside.poll(cx)).await, Ok(7));
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn it_wakes_the_task_that_polled_it_last() {
        let (sender, receiver) = oneshot::channel();
        let mut aside = Aside::new(receiver);
        let polled = aside.poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        let waiting = tokio::spawn(async move { poll_fn(|cx| aside.poll(cx)).await });
        tokio::task::yield_now().await;
        sender.send(7).expect("it waits");
        assert_eq!(waiting.await.expect("no panic"), Ok(7));
    }
}
