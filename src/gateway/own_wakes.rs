//! Wakes that a connection gives itself while it is polled.
//!
//! hyper hands the body of a request over within one poll of its connection, and wakes the connection's own task twice at
//! that: the body is wanted, and a part of it is there. The runtime then polls the connection once more for nothing, which
//! is a good part of what a small call costs. So hyper is given a waker of ours, which tells such wakes from others:
//!
//! - While a body is read they are followed at once, without the runtime.
//! - Once it is read to its end, and until there is an answer, nobody is left whom they could be meant for.
//! - Those of everybody else (the socket, what the answer waits for) go to the task, as ever.

use std::{
    cell::Cell,
    pin::{Pin, pin},
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use hyper::body::{Body, Frame, SizeHint};

/// So often a connection is polled in a row; then the others have their turn.
const POLLS_MAX: usize = 8;

/// The request is being read, or none is there.
const READING: u8 = 0;
/// It was read to its end, and is not answered.
const WAITING: u8 = 1;

thread_local! {
    /// The connection that this thread polls now.
    static POLLED: Cell<*const Shared> = const { Cell::new(ptr::null()) };
}

struct Shared {
    /// Of the task, for the waker.
    task: Mutex<Waker>,
    /// The same, for what the answer waits for: held while that is polled.
    answering: Mutex<Waker>,
    by_itself: AtomicBool,
    stage: AtomicU8,
}

/// See the module; one for each connection.
pub(super) struct OwnWakes {
    shared: Arc<Shared>,
    waker: Waker,
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if ptr::eq(POLLED.get(), Arc::as_ptr(self)) {
            self.by_itself.store(true, Ordering::Relaxed);
        } else {
            locked(&self.task).wake_by_ref();
        }
    }
}

impl OwnWakes {
    pub(super) fn new() -> Self {
        let shared = Arc::new(Shared {
            task: Mutex::new(Waker::noop().clone()),
            answering: Mutex::new(Waker::noop().clone()),
            by_itself: AtomicBool::new(false),
            stage: AtomicU8::new(READING),
        });
        Self {
            waker: shared.clone().into(),
            shared,
        }
    }

    /// Polls a connection of hyper.
    pub(super) fn poll<F: Future>(
        &self,
        mut connection: Pin<&mut F>,
        cx: &Context<'_>,
    ) -> Poll<F::Output> {
        let shared = &*self.shared;
        let is_new = !locked(&shared.task).will_wake(cx.waker());
        if is_new {
            locked(&shared.task).clone_from(cx.waker());
            locked(&shared.answering).clone_from(cx.waker());
        }
        for _ in 0..POLLS_MAX {
            let polled = {
                let _polling = Polling::begin(shared);
                let mut cx = Context::from_waker(&self.waker);
                connection.as_mut().poll(&mut cx)
            };
            let by_itself = shared.by_itself.swap(false, Ordering::Relaxed);
            let moot = shared.stage.load(Ordering::Relaxed) == WAITING;
            if polled.is_ready() || !by_itself || moot {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The body of a request that begins.
    pub(super) fn body<B: Body + Unpin>(&self, inner: B) -> OwnBody<B> {
        let body = OwnBody {
            inner,
            shared: self.shared.clone(),
            waker: self.waker.clone(),
        };
        self.shared.stage.store(READING, Ordering::Relaxed);
        body.look();
        body
    }

    /// Awaits the answer to a request. What it waits for wakes the task itself.
    pub(super) async fn answering<F: Future>(&self, answer: F) -> F::Output {
        let mut answer = pin!(answer);
        // However it ends: what is polled from then on is the answer's body.
        let _answered = Answered(&self.shared);
        std::future::poll_fn(|_| {
            let task = locked(&self.shared.answering);
            answer.as_mut().poll(&mut Context::from_waker(&task))
        })
        .await
    }
}

struct Answered<'a>(&'a Shared);

impl Drop for Answered<'_> {
    fn drop(&mut self) {
        self.0.stage.store(READING, Ordering::Relaxed);
    }
}

/// This thread polls a connection, until it is dropped.
struct Polling(*const Shared);

impl Polling {
    fn begin(shared: &Shared) -> Self {
        Self(POLLED.replace(shared))
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        POLLED.set(self.0);
    }
}

/// The body of a request, which knows when it was read to its end. hyper fills it only while it polls the connection,
/// and polls whoever reads it afterwards: what it wakes is the connection.
pub(super) struct OwnBody<B> {
    inner: B,
    shared: Arc<Shared>,
    waker: Waker,
}

impl<B: Body> OwnBody<B> {
    fn look(&self) {
        if self.inner.is_end_stream() {
            self.shared.stage.store(WAITING, Ordering::Relaxed);
        }
    }
}

impl<B: Body + Unpin> Body for OwnBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let me = &mut *self;
        let polled = Pin::new(&mut me.inner).poll_frame(&mut Context::from_waker(&me.waker));
        match &polled {
            Poll::Ready(None) => me.shared.stage.store(WAITING, Ordering::Relaxed),
            Poll::Ready(Some(Ok(_))) => me.look(),
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn locked(waker: &Mutex<Waker>) -> MutexGuard<'_, Waker> {
    waker.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "own_wakes_tests.rs"]
mod tests;
