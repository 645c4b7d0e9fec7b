//! The event streams of session-era clients, which a client may resume by `Last-Event-ID` after its connection broke.
//!
//! What was sent is kept for a while, within bounds; a call whose stream broke goes on.
//!
//! What a session was sent in an earlier life, by a former daemon, is gone: its standing stream goes on with what came
//! since, its calls are lost. Whoever comes back for one is answered with an error that says so.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};

use serde_json::json;

use crate::upstream::{Call, INTERNAL_ERROR, Item, error_message};

use super::{event_id::EventId, session::Session};

/// Most streams of calls that a session can resume.
const TRACKS_MAX: usize = 4;
/// Most messages of one stream that are kept.
const SENT_MAX: usize = 64;
/// Most bytes of one stream that are kept; what is larger by itself cannot be sent again.
const SENT_MAX_BYTES: usize = 256 << 10;
/// How long a client should wait before it comes back, in milliseconds.
const RETRY_MS: u32 = 1_000;
/// The first revision whose clients take an event without data.
const PRIMED_SINCE: &str = "2025-11-25";

#[derive(Default)]
struct State {
    call: Option<Call>,
    sent: VecDeque<(u64, Bytes)>,
    sent_bytes: usize,
    last: u64,
    over: bool,
}

impl State {
    fn keep(&mut self, message: &Bytes) {
        self.last += 1;
        self.sent_bytes += message.len();
        self.sent.push_back((self.last, message.clone()));
        while self.sent.len() > SENT_MAX || self.sent_bytes > SENT_MAX_BYTES {
            match self.sent.pop_front() {
                Some((_, old)) => self.sent_bytes -= old.len(),
                None => break,
            }
        }
    }
}

/// One stream, whoever reads it now.
#[derive(Default)]
struct Track {
    number: u64,
    /// The raw id of the request that it answers.
    request: Option<Box<str>>,
    turn: AtomicU64,
    state: Mutex<State>,
}

impl Track {
    /// Of a call whose answer nobody will have: an error that says so, and the end.
    fn lost(event: &EventId, is_of_this_life: bool) -> Option<Self> {
        let request = event.request.as_deref()?;
        let (cause, text) = if is_of_this_life {
            let text = "The stream of this call is no longer kept, and its answer is lost with it.";
            ("stream-dropped", text)
        } else {
            let text =
                "The daemon ended while this call was under way, and its answer is lost with it.";
            ("daemon-restarted", text)
        };
        let text = format!(
            "{text} The MCP server may have carried it out or not; the session goes on, call again if that does no harm."
        );
        let data = json!({"cause": cause, "retryable": true, "outcome": "unknown"});
        let error = error_message(request, INTERNAL_ERROR, &text, Some(&data));
        let number = event.number.saturating_add(1);
        Some(Self {
            number: event.stream,
            state: Mutex::new(State {
                sent_bytes: error.len(),
                sent: [(number, error)].into(),
                last: number,
                over: true,
                ..State::default()
            }),
            ..Self::default()
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The streams of one session.
#[derive(Default)]
pub struct Tracks {
    standing: Arc<Track>,
    calls: Mutex<(u64, VecDeque<Arc<Track>>)>,
}

impl Tracks {
    fn calls(&self) -> MutexGuard<'_, (u64, VecDeque<Arc<Track>>)> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, call: Call, request: &str) -> Arc<Track> {
        let mut calls = self.calls();
        calls.0 += 1;
        let track = Arc::new(Track {
            number: calls.0,
            request: Some(request.into()),
            state: Mutex::new(State {
                call: Some(call),
                ..State::default()
            }),
            ..Track::default()
        });
        if calls.1.len() >= TRACKS_MAX {
            // One that ended goes first. The reader of one that goes keeps it; only resuming it is over.
            let ended = calls.1.iter().position(|track| track.lock().over);
            calls.1.remove(ended.unwrap_or(0));
        }
        calls.1.push_back(track.clone());
        track
    }

    fn find(&self, stream: u64) -> Option<Arc<Track>> {
        if stream == 0 {
            return Some(self.standing.clone());
        }
        let calls = self.calls();
        calls.1.iter().find(|track| track.number == stream).cloned()
    }

    /// The session ended: calls that only wait to be resumed are let go.
    pub fn clear(&self) {
        self.calls().1.clear();
    }
}

/// A stream as one connection reads it. A new reader ends an older one, because a client that comes back must not
/// wait until its old connection is found dead.
pub struct TrackStream {
    track: Arc<Track>,
    session: Arc<Session>,
    turn: u64,
    /// The next event to send.
    next: u64,
    primes: bool,
    /// A message that was taken from the call already.
    first: Option<Bytes>,
}

impl TrackStream {
    /// The standing stream, from now on.
    #[must_use]
    pub fn standing(session: Arc<Session>) -> Self {
        let track = session.tracks.standing.clone();
        let next = track.lock().last + 1;
        Self::read(session, track, next)
    }

    /// The stream of a call, from its beginning; `request`: the raw id of what it answers.
    #[must_use]
    pub fn of_call(session: Arc<Session>, call: Call, request: &str) -> Self {
        let track = session.tracks.open(call, request);
        Self::read(session, track, 1)
    }

    /// What follows an event. `None` when its stream cannot be resumed any more, and nobody knows which request it was to
    /// answer, or that answer had come.
    #[must_use]
    pub fn after(session: Arc<Session>, event: EventId) -> Option<Self> {
        let is_of_this_life = event.epoch == session.epoch;
        let track = match event.stream {
            0 if !is_of_this_life => {
                let standing = session.tracks.standing.clone();
                return Some(Self::read(session, standing, 1));
            }
            stream if is_of_this_life => session.tracks.find(stream),
            _ => None,
        };
        let next = event.number.saturating_add(1);
        let track = match track {
            Some(track) => track,
            // One that this life never had is of another session.
            None if is_of_this_life && event.stream > session.tracks.calls().0 => return None,
            None => Arc::new(Track::lost(&event, is_of_this_life)?),
        };
        Some(Self::read(session, track, next))
    }

    fn read(session: Arc<Session>, track: Arc<Track>, next: u64) -> Self {
        let turn = track.turn.fetch_add(1, Ordering::AcqRel) + 1;
        if track.number == 0 {
            session.begin_standing();
        }
        Self {
            primes: session.version >= PRIMED_SINCE,
            track,
            session,
            turn,
            next,
            first: None,
        }
    }

    /// Puts a message in front that was taken from the call already.
    #[must_use]
    pub fn begin_with(mut self, message: Bytes) -> Self {
        self.first = Some(message);
        self
    }

    /// Whether it is the standing stream, not that of a call.
    #[must_use]
    pub fn is_standing(&self) -> bool {
        self.track.number == 0
    }

    /// The next event, written out; `None` at the end.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.track.turn.load(Ordering::Acquire) != self.turn {
            return Poll::Ready(None);
        }
        let stream = self.track.number;
        let epoch = self.session.epoch;
        // Once the answer is there, nothing can be lost that an id would have to name.
        let id = |number, state: &State| EventId {
            epoch,
            stream,
            number,
            request: self
                .track
                .request
                .clone()
                .filter(|_| !state.over || number < state.last),
        };
        let mut state = self.track.lock();
        if std::mem::take(&mut self.primes) {
            let last = id(self.next - 1, &state);
            let text = format!("id: {last}\nretry: {RETRY_MS}\ndata: \n\n");
            return Poll::Ready(Some(text.into()));
        }
        if let Some(message) = self.first.take() {
            state.keep(&message);
            self.next = state.last + 1;
            return Poll::Ready(Some(written(&id(state.last, &state), &message)));
        }
        let kept = state.sent.iter().find(|(number, _)| *number >= self.next);
        if let Some((number, message)) = kept {
            self.next = number + 1;
            return Poll::Ready(Some(written(&id(*number, &state), message)));
        }
        if state.over {
            return Poll::Ready(None);
        }
        let item = match &mut state.call {
            Some(call) => call.poll_next(cx),
            None => self.session.poll_standing(cx),
        };
        let message = match item {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => {
                state.over = stream != 0;
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Item::Message(message))) => message,
            Poll::Ready(Some(Item::Answer(answer))) => {
                state.over = true;
                state.call = None;
                answer
            }
        };
        state.keep(&message);
        self.next = state.last + 1;
        Poll::Ready(Some(written(&id(state.last, &state), &message)))
    }
}

impl Drop for TrackStream {
    fn drop(&mut self) {
        if self.track.number == 0 {
            self.session.end_standing();
        }
    }
}

fn written(id: &EventId, message: &[u8]) -> Bytes {
    let head = format!("id: {id}\nevent: message\ndata: ");
    let mut out = BytesMut::with_capacity(head.len() + message.len() + 2);
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(message);
    out.extend_from_slice(b"\n\n");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded() {
        let mut state = State::default();
        for _ in 0..SENT_MAX + 2 {
            state.keep(&Bytes::from_static(b"x"));
        }
        assert_eq!(state.sent.len(), SENT_MAX);
        assert_eq!(state.sent.front().map(|(number, _)| *number), Some(3));
        state.keep(&vec![b'x'; SENT_MAX_BYTES + 1].into());
        assert_eq!((state.sent.len(), state.sent_bytes), (0, 0));
        assert_eq!(state.last, 67);
    }
}
