//! The bodies that the gateway answers with, and the bounded reading of those that it gets.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper::body::{Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::upstream::{Failure, Item, RelayedCall, Upstream};

use super::{
    dialogue::Exchange, held::Held, http_sse::SseStream, listen::ListenStream, replay::TrackStream,
};

/// How long a stream may be silent before a comment line shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a client may pause inside a request body.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How much of a body over the limit is still read and thrown away, so that the client gets to read the refusal.
const DRAIN_MAX_BYTES: usize = 32 << 20;
/// How long a broken stream of an HTTP child waits for the cause of the break.
const CAUSE_WAIT: Duration = Duration::from_secs(2);

/// A response body.
pub enum GatewayBody {
    /// All at once.
    Full(Option<Bytes>),
    /// Server-sent events.
    Events(Box<EventStream>),
    /// The stream of an HTTP child.
    Relayed(Box<Relayed>),
    /// One of those that stream, with what it holds.
    Held(Box<Held>),
}

impl GatewayBody {
    /// Whether it has no end of its own.
    #[must_use]
    pub fn is_standing(&self) -> bool {
        match self {
            Self::Full(_) => false,
            Self::Events(events) => events.is_standing(),
            Self::Relayed(relayed) => relayed.answers.is_none(),
            Self::Held(held) => held.is_standing(),
        }
    }

    /// Whether the server behind it serves it.
    #[must_use]
    pub fn is_relayed(&self) -> bool {
        match self {
            Self::Full(_) | Self::Events(_) => false,
            Self::Relayed(_) => true,
            Self::Held(held) => held.is_relayed(),
        }
    }

    /// Ends it in order, because the daemon goes down.
    pub fn finish(&mut self) {
        match self {
            Self::Full(_) => {}
            Self::Events(events) => events.finish(),
            Self::Relayed(_) => *self = Self::Full(None),
            Self::Held(held) => held.finish(),
        }
    }
}

impl hyper::body::Body for GatewayBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Events(events) => events
                .poll_event(cx)
                .map(|event| event.map(|event| Ok(Frame::data(event)))),
            Self::Relayed(relayed) => relayed.poll_frame(cx),
            Self::Held(held) => held.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Self::Events(_) | Self::Relayed(_) | Self::Held(_) => SizeHint::default(),
        }
    }
}

enum Source {
    Call(Box<Exchange>),
    Session(Box<TrackStream>),
    Listener(Box<ListenStream>),
    Sse(Box<SseStream>),
    Nothing,
}

/// A stream of events: of one call until its answer, or of a session until it ends.
pub struct EventStream {
    source: Source,
    first: Option<Item>,
    silence: Pin<Box<Sleep>>,
}

impl EventStream {
    /// The rest of a call, whose first item may be known already.
    #[must_use]
    pub fn of_call(exchange: Exchange, first: Option<Item>) -> Self {
        Self::new(Source::Call(Box::new(exchange)), first)
    }

    /// A stream of a session-era client, which it may resume.
    #[must_use]
    pub fn of_session(stream: TrackStream) -> Self {
        Self::new(Source::Session(Box::new(stream)), None)
    }

    /// What a stateless client asked to hear, after the first message.
    #[must_use]
    pub fn of_listener(stream: ListenStream, first: Item) -> Self {
        Self::new(Source::Listener(Box::new(stream)), Some(first))
    }

    /// The stream of a client of the transport of 2024.
    #[must_use]
    pub fn of_sse(stream: SseStream) -> Self {
        Self::new(Source::Sse(Box::new(stream)), None)
    }

    /// A stream of one answer.
    #[must_use]
    pub fn of_answer(answer: Bytes) -> Self {
        Self::new(Source::Nothing, Some(Item::Answer(answer)))
    }

    /// A stream that ends at once: the answer to a call that was cancelled.
    #[must_use]
    pub fn empty() -> Self {
        Self::new(Source::Nothing, None)
    }

    fn new(source: Source, first: Option<Item>) -> Self {
        Self {
            source,
            first,
            silence: Box::pin(sleep(KEEP_ALIVE)),
        }
    }

    fn is_standing(&self) -> bool {
        match &self.source {
            Source::Session(stream) => stream.is_standing(),
            Source::Listener(_) | Source::Sse(_) => true,
            Source::Call(_) | Source::Nothing => false,
        }
    }

    fn finish(&mut self) {
        match &self.source {
            Source::Listener(stream) => stream.end(),
            _ => self.source = Source::Nothing,
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let item = match (self.first.take(), &mut self.source) {
            (Some(item), _) => Poll::Ready(Some(item)),
            (None, Source::Call(exchange)) => exchange.poll_next(cx),
            (None, Source::Session(stream)) => {
                let event = stream.poll_event(cx);
                return self.written(event, cx);
            }
            (None, Source::Sse(stream)) => {
                let event = stream.poll_event(cx);
                return self.written(event, cx);
            }
            (None, Source::Listener(stream)) => stream.poll_next(cx),
            (None, Source::Nothing) => Poll::Ready(None),
        };
        match item {
            Poll::Ready(None) => {
                self.source = Source::Nothing;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Item::Message(message))) => {
                self.silence.as_mut().reset(Instant::now() + KEEP_ALIVE);
                Poll::Ready(Some(event(&message)))
            }
            Poll::Ready(Some(Item::Answer(answer))) => {
                self.source = Source::Nothing;
                Poll::Ready(Some(event(&answer)))
            }
            Poll::Pending => self.poll_silence(cx),
        }
    }

    /// What a source that writes its events itself has come to.
    fn written(&mut self, event: Poll<Option<Bytes>>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match &event {
            Poll::Ready(Some(_)) => self.silence.as_mut().reset(Instant::now() + KEEP_ALIVE),
            Poll::Ready(None) => self.source = Source::Nothing,
            Poll::Pending => return self.poll_silence(cx),
        }
        event
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.silence.as_mut().poll(cx).is_ready() {
            self.silence.as_mut().reset(Instant::now() + KEEP_ALIVE);
            // Registers the new deadline; it cannot be over yet.
            let _ = self.silence.as_mut().poll(cx);
            return Poll::Ready(Some(Bytes::from_static(b": alive\n\n")));
        }
        Poll::Pending
    }
}

/// An event with a message, written out.
pub fn event(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len() + 32);
    out.extend_from_slice(b"event: message\ndata: ");
    out.extend_from_slice(message);
    out.extend_from_slice(b"\n\n");
    out.freeze()
}

type FailedFuture = Pin<Box<dyn Future<Output = Arc<Failure>> + Send + Sync>>;

/// The body of an HTTP child's response. An event stream that breaks off, or is silent for as long as a call may be,
/// ends with a JSON-RPC error that tells why.
pub struct Relayed {
    incoming: Incoming,
    /// The id of the request, when the response is an event stream that must answer it.
    answers: Option<Box<str>>,
    failed: Option<FailedFuture>,
    broken: Option<Pin<Box<Sleep>>>,
    silence: Option<Pin<Box<Sleep>>>,
    upstream: Arc<Upstream>,
    _counted: Option<RelayedCall>,
}

impl Relayed {
    /// `answers`: the raw id of the request that an event stream must answer.
    #[must_use]
    pub fn new(
        incoming: Incoming,
        answers: Option<Box<str>>,
        failed: FailedFuture,
        upstream: Arc<Upstream>,
        counted: Option<RelayedCall>,
    ) -> Self {
        Self {
            incoming,
            answers,
            failed: Some(failed),
            broken: None,
            silence: None,
            upstream,
            _counted: counted,
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        use hyper::body::Body;
        if self.failed.is_none() {
            return Poll::Ready(None);
        }
        if self.broken.is_none() {
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(Some(Err(error))) => {
                    if self.answers.is_none() {
                        return Poll::Ready(Some(Err(error)));
                    }
                    self.broken = Some(Box::pin(sleep(CAUSE_WAIT)));
                }
                Poll::Pending => return self.poll_silence(cx),
                other => {
                    self.silence = None;
                    return other;
                }
            }
        }
        let (Some(id), Some(failed)) = (&self.answers, &mut self.failed) else {
            return Poll::Ready(None);
        };
        let waited = self
            .broken
            .as_mut()
            .is_some_and(|wait| wait.as_mut().poll(cx).is_ready());
        let answer = match failed.as_mut().poll(cx) {
            Poll::Ready(failure) => failure.answer(id),
            Poll::Pending if waited => {
                super::reply::failure_message(id, "its HTTP server broke the stream off")
            }
            Poll::Pending => return Poll::Pending,
        };
        self.end_with(&answer)
    }

    /// A call that gives no sign of life for too long ends, as it would over a pipe.
    fn poll_silence(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(id) = &self.answers else {
            return Poll::Pending;
        };
        let limit = self.upstream.options().call_timeout;
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(limit)));
        if silence.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.upstream.count_overdue();
        let text = format!("it gave no sign of life for {} s", limit.as_secs_f32());
        let answer = super::reply::failure_message(id, &text);
        self.end_with(&answer)
    }

    fn end_with(&mut self, answer: &[u8]) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.failed = None;
        // The break may have come inside an event: the blank line ends it.
        let mut out = BytesMut::from(&b"\n\n"[..]);
        out.extend_from_slice(&event(answer));
        Poll::Ready(Some(Ok(Frame::data(out.freeze()))))
    }
}

/// Why a request body was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum NotRead {
    /// It is larger than the limit.
    TooLarge,
    /// The client paused too long.
    TooSlow,
    /// The connection broke.
    Broken,
}

/// Reads a body of up to `limit_bytes`.
///
/// # Errors
/// [`NotRead`].
pub async fn read<B>(mut body: B, limit_bytes: usize) -> Result<Bytes, NotRead>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut length: usize = 0;
    loop {
        // Most bodies came with their head: then no timer is made, nor room for one.
        let at_once = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
        let frame = match at_once {
            Poll::Ready(frame) => frame,
            Poll::Pending => match Box::pin(timeout(PAUSE_MAX, body.frame())).await {
                Ok(frame) => frame,
                Err(_) => return Err(NotRead::TooSlow),
            },
        };
        let data = match frame {
            None => break,
            Some(Err(_)) => return Err(NotRead::Broken),
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        length += data.len();
        if length > limit_bytes {
            // What comes now is thrown away.
            if length >= limit_bytes.saturating_add(DRAIN_MAX_BYTES) {
                break;
            }
            (first, rest) = (Bytes::new(), BytesMut::new());
        } else if first.is_empty() {
            // One frame is the common case: it is used as it is.
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
    }
    if length > limit_bytes {
        return Err(NotRead::TooLarge);
    }
    Ok(if rest.is_empty() {
        first
    } else {
        rest.freeze()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{Full, StreamBody};

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        let read_full = |text: &'static str| read(Full::new(Bytes::from(text)), 4);
        assert_eq!(read_full("1234").await, Ok(Bytes::from("1234")));
        assert_eq!(read_full("12345").await, Err(NotRead::TooLarge));
        assert_eq!(read_full("").await, Ok(Bytes::new()));
        let parts = ["ab", "", "cd"].map(|part| Ok::<_, hyper::Error>(Frame::data(part.into())));
        let body = StreamBody::new(futures_util::stream::iter(parts));
        assert_eq!(read(body, 4).await, Ok(Bytes::from("abcd")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_is_given_up() {
        let never = futures_util::stream::pending::<Result<Frame<Bytes>, hyper::Error>>();
        assert_eq!(read(StreamBody::new(never), 4).await, Err(NotRead::TooSlow));
    }
}
