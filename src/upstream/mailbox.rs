//! A bounded queue from a server's reader to one waiting client, without a task between them.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

/// Most messages that wait in one mailbox.
const MESSAGES_MAX: usize = 256;
/// Most bytes that wait in one mailbox; a single larger message still passes when nothing else waits.
const BYTES_MAX: usize = 1 << 20;

/// What comes out of a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A notification or request of the server.
    Message(Bytes),
    /// The answer; the last item.
    Answer(Bytes),
}

#[derive(Default)]
struct State {
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    answer: Option<Bytes>,
    closed: bool,
    completed: bool,
    dropped: u64,
    reader: Option<Waker>,
}

/// The queue. The reader of the server puts in, one client takes out; when it is full the oldest message is dropped
/// and counted, so that a slow client never holds up the server.
#[derive(Default)]
pub struct Mailbox(Mutex<State>);

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a notification in; drops the oldest ones when there is no room.
    pub fn push(&self, message: Bytes) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        while !state.queue.is_empty()
            && (state.queue.len() >= MESSAGES_MAX || state.queued_bytes + message.len() > BYTES_MAX)
        {
            if let Some(old) = state.queue.pop_front() {
                state.queued_bytes -= old.len();
                state.dropped += 1;
            }
        }
        state.queued_bytes += message.len();
        state.queue.push_back(message);
        wake(state);
    }

    /// Puts a message in that must not be lost; `false` when there is no room or nobody reads any more.
    #[must_use]
    pub fn push_or_refuse(&self, message: Bytes) -> bool {
        let mut state = self.lock();
        if state.closed || state.queue.len() >= MESSAGES_MAX / 2 {
            return false;
        }
        state.queued_bytes += message.len();
        state.queue.push_back(message);
        wake(state);
        true
    }

    /// Puts the answer in; everything later is ignored.
    pub fn answer(&self, answer: Bytes) {
        let mut state = self.lock();
        if !state.closed {
            state.answer = Some(answer);
            state.closed = true;
            wake(state);
        }
    }

    /// As [`Mailbox::answer`], for one that has everything that a stateless client wants.
    pub fn answer_completed(&self, answer: Bytes) {
        let mut state = self.lock();
        if !state.closed {
            state.answer = Some(answer);
            state.closed = true;
            state.completed = true;
            wake(state);
        }
    }

    /// Nothing more will come; what waits can still be taken.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        wake(state);
    }

    /// The reader went away: what waits is freed.
    pub fn abandon(&self) {
        let mut state = self.lock();
        *state = State {
            closed: true,
            dropped: state.dropped,
            ..State::default()
        };
    }

    /// Notifications dropped for want of room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Wakes whoever waits in [`Mailbox::poll_next`], so that it looks at its own conditions again.
    pub fn nudge(&self) {
        wake(self.lock());
    }

    /// The next item in order; `None` at the end. One reader at a time: the last to poll is woken.
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        self.poll_told(cx).map(|item| item.map(|(item, _)| item))
    }

    /// The same, and whether it is an answer that came by [`Mailbox::answer_completed`].
    pub fn poll_told(&self, cx: &mut Context<'_>) -> Poll<Option<(Item, bool)>> {
        let mut state = self.lock();
        if let Some(message) = state.queue.pop_front() {
            state.queued_bytes -= message.len();
            return Poll::Ready(Some((Item::Message(message), false)));
        }
        if let Some(answer) = state.answer.take() {
            return Poll::Ready(Some((Item::Answer(answer), state.completed)));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        match &mut state.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

fn wake(mut state: MutexGuard<'_, State>) {
    let reader = state.reader.take();
    drop(state);
    if let Some(reader) = reader {
        reader.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(mailbox: &Mailbox) -> Poll<Option<Item>> {
        mailbox.poll_next(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn messages_come_before_the_answer_and_nothing_after_it() {
        let mailbox = Mailbox::default();
        assert!(take(&mailbox).is_pending());
        mailbox.push("a".into());
        mailbox.answer("b".into());
        mailbox.push("c".into());
        mailbox.answer("d".into());
        assert_eq!(take(&mailbox), Poll::Ready(Some(Item::Message("a".into()))));
        assert_eq!(take(&mailbox), Poll::Ready(Some(Item::Answer("b".into()))));
        assert_eq!(take(&mailbox), Poll::Ready(None));
    }

    #[test]
    fn a_full_mailbox_drops_the_oldest_and_counts() {
        let mailbox = Mailbox::default();
        for n in 0..MESSAGES_MAX + 3 {
            mailbox.push(n.to_string().into());
        }
        assert_eq!(mailbox.dropped(), 3);
        assert_eq!(take(&mailbox), Poll::Ready(Some(Item::Message("3".into()))));
        assert!(!mailbox.push_or_refuse("x".into()));
        mailbox.push(vec![b'x'; BYTES_MAX + 1].into());
        let Poll::Ready(Some(Item::Message(big))) = take(&mailbox) else {
            panic!("the large message is gone");
        };
        assert_eq!(big.len(), BYTES_MAX + 1);
    }
}
