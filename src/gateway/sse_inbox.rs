//! What was posted for the streams of HTTP+SSE and not looked at yet, within bounds.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use crate::supervisor::access::{Secret, Token};

/// Most requests of one stream that wait for their answers.
const UNANSWERED_MAX: usize = 128;
/// Most messages of one stream that wait to be looked at, because the client does not read.
const UNSEEN_MAX: usize = 256;

/// The streams of one instance, for the messages posted to them.
#[derive(Default)]
pub struct SseStreams(Mutex<HashMap<u128, Arc<Inbox>>>);

impl SseStreams {
    fn lock(&self) -> MutexGuard<'_, HashMap<u128, Arc<Inbox>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens an inbox, which takes messages by this token only.
    ///
    /// # Errors
    /// A sentence, when too many are open, or the system has no random numbers.
    pub fn open(&self, token: &Arc<Token>, most: usize) -> Result<Arc<Inbox>, &'static str> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| "The system has no random numbers.")?;
        let mut open = self.lock();
        if open.len() >= most {
            return Err(
                "All client sessions of this instance are in use (gateway.sessions_max); end one and try again.",
            );
        }
        let inbox = Arc::new(Inbox {
            id: u128::from_ne_bytes(random),
            token: token.clone(),
            unanswered: AtomicUsize::new(0),
            state: Mutex::default(),
        });
        open.insert(inbox.id, inbox.clone());
        Ok(inbox)
    }

    /// The inbox with this id, if this token opened it.
    #[must_use]
    pub fn find(&self, id: &str, token: &Arc<Token>) -> Option<Arc<Inbox>> {
        let hex = id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let id = hex.then(|| u128::from_str_radix(id, 16).ok())??;
        let inbox = self.lock().get(&id).cloned()?;
        Arc::ptr_eq(&inbox.token, token).then_some(inbox)
    }

    /// A stream has ended.
    pub fn close(&self, inbox: &Inbox) {
        inbox.close();
        self.lock().remove(&inbox.id);
    }

    /// The instance is gone: every stream ends.
    pub fn end_all(&self) {
        for inbox in self.lock().values() {
            inbox.close();
        }
    }
}

/// What was posted for one stream.
pub struct Inbox {
    /// Unguessable; the client knows it as 32 hexadecimal digits.
    pub id: u128,
    /// Whose messages it takes.
    token: Arc<Token>,
    unanswered: AtomicUsize,
    state: Mutex<Unseen>,
}

#[derive(Default)]
struct Unseen {
    messages: VecDeque<Posted>,
    bytes: usize,
    closed: bool,
    reader: Option<Waker>,
}

/// One message that was posted.
pub struct Posted {
    /// The whole body.
    pub source: Bytes,
    /// What let it in.
    pub secret: Secret,
    /// For a request.
    pub unanswered: Option<Unanswered>,
}

/// Counts a request until it is answered.
pub struct Unanswered(Arc<Inbox>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.unanswered.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Unseen> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message; `false`: there is no room, with `bytes_max` for all that wait.
    #[must_use]
    pub fn push(
        self: &Arc<Self>,
        source: Bytes,
        secret: &Secret,
        is_request: bool,
        bytes_max: usize,
    ) -> bool {
        let counted = is_request.then(|| {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
            Unanswered(self.clone())
        });
        if is_request && self.unanswered.load(Ordering::Relaxed) > UNANSWERED_MAX {
            return false;
        }
        let mut state = self.lock();
        let full = state.messages.len() >= UNSEEN_MAX || state.bytes + source.len() > bytes_max;
        if state.closed || (full && !state.messages.is_empty()) {
            drop(state);
            return false;
        }
        state.bytes += source.len();
        state.messages.push_back(Posted {
            source,
            secret: secret.clone(),
            unanswered: counted,
        });
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        true
    }

    /// The next message; `None` when the stream is to end.
    pub fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Option<Posted>> {
        let mut state = self.lock();
        if state.closed {
            return Poll::Ready(None);
        }
        match state.messages.pop_front() {
            Some(message) => {
                state.bytes -= message.source.len();
                Poll::Ready(Some(message))
            }
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let (dropped, reader) = (std::mem::take(&mut state.messages), state.reader.take());
        drop(state);
        drop(dropped);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// The session id of a query: `sessionId`, as the first servers named it, or `session_id`.
#[must_use]
pub fn session_id(query: Option<&str>) -> Option<&str> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        matches!(key, "sessionId" | "session_id").then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{access::TokenSettings, id::TokenName},
        supervisor::access::TokenSet,
    };

    fn token(name: &str) -> Arc<Token> {
        let name = TokenName::new(name).expect("a name");
        Token::new(name, TokenSettings::default(), 0)
    }

    #[test]
    fn a_session_is_found_by_its_id_and_the_token_that_opened_it() {
        let (streams, one, two) = (SseStreams::default(), token("one"), token("two"));
        let inbox = streams.open(&one, 1).expect("room");
        let id = format!("{:032x}", inbox.id);
        assert!(streams.find(&id, &one).is_some());
        assert!(streams.find(&id, &two).is_none());
        for other in [
            "",
            "0",
            &id[1..],
            &id.to_uppercase().replace(|c: char| c.is_ascii_digit(), "A"),
        ] {
            assert!(streams.find(other, &one).is_none(), "{other}");
        }
        assert!(streams.open(&one, 1).is_err());
        assert_eq!(session_id(Some("a=b&sessionId=7")), Some("7"));
        assert_eq!(session_id(Some("session_id=7")), Some("7"));
        assert_eq!(session_id(Some("sessionid=7")), None);
        assert_eq!(session_id(None), None);
    }

    #[test]
    fn what_waits_unread_is_bounded() {
        let (streams, one) = (SseStreams::default(), token("one"));
        let secrets = TokenSet::of_one(one.clone(), [1; 32]);
        let secret = secrets.opens(&[1; 32], 0).expect("it is valid");
        let inbox = streams.open(&one, 1).expect("room");
        let push = |text: &'static str, is_request| inbox.push(text.into(), secret, is_request, 10);
        // A single large message passes.
        assert!(push("01234567890123", true));
        assert!(!push("x", true));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(inbox.poll_pop(&mut cx), Poll::Ready(Some(_))));
        assert!(inbox.poll_pop(&mut cx).is_pending());
        assert_eq!(inbox.unanswered.load(Ordering::Relaxed), 0);
        let mut held = Vec::new();
        for _ in 0..UNANSWERED_MAX {
            assert!(push("r", true));
            let Poll::Ready(Some(posted)) = inbox.poll_pop(&mut cx) else {
                panic!("it was just put in");
            };
            held.push(posted.unanswered);
        }
        // As many as may be unanswered are; a notification still passes.
        assert!(!push("r", true));
        assert!(push("n", false));
        held.pop();
        assert!(push("r", true));
        inbox.close();
        assert!(!push("n", false));
        assert!(matches!(inbox.poll_pop(&mut cx), Poll::Ready(None)));
        drop(held);
        assert_eq!(inbox.unanswered.load(Ordering::Relaxed), 0);
    }
}
