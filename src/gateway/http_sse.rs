//! HTTP+SSE, the transport of revision 2024-11-05: `GET /sse` opens a stream whose first event names `/messages`;
//! what a client posts there is answered on the stream.
//!
//! The stream is the session: it does all the work, and when it ends, its calls are cancelled, because nobody could
//! ever hear their answers. A client that does not read its stream holds up only itself.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    future::BoxFuture,
    stream::{SelectAll, Stream, StreamExt},
};
use http::{Method, StatusCode, request::Parts};
use tokio::time::{Sleep, sleep};

use crate::{
    domain::access::TokenSettings,
    supervisor::access::{CallPermit, Secret},
    upstream::{
        Envelope, INTERNAL_ERROR, INVALID_REQUEST, Item, Kind, error_message, result_message,
    },
};

use super::{
    Accepts, Gateway, GatewayBody, Message, Place, Reply,
    approach::Asked,
    body::{self, EventStream},
    dialogue::Exchange,
    entrance::Arrival,
    in_place::InPlace,
    lens::seen_body,
    limit, ready,
    record::{self, Recorder},
    reply::{self, not_allowed},
    scope,
    session::Session,
    session_era::{Begun, take},
    sse_inbox::{Inbox, Posted, Unanswered, session_id},
};

/// How long a stream may go without `initialize`.
const GREETING_MAX: Duration = Duration::from_secs(60);

/// What a message comes to.
enum Started {
    /// Nothing is to be said to it.
    Nothing,
    Answer(Bytes),
    /// A session began, with this answer.
    Session(Arc<Session>, Bytes),
    Call(Box<Exchange>, Option<CallPermit>),
}

/// One message on its way to its answer.
struct Work {
    stage: Stage,
    /// What may be seen of a list of tools.
    seen_by: Option<Arc<TokenSettings>>,
    recorder: Option<Box<Recorder>>,
    _unanswered: Option<Unanswered>,
}

enum Stage {
    Beginning(BoxFuture<'static, Started>),
    Going {
        exchange: Box<Exchange>,
        _permit: Option<CallPermit>,
    },
    Over,
}

/// What comes out of the work on a message.
enum Outcome {
    Message(Bytes),
    Session(Arc<Session>, Bytes),
}

impl Work {
    fn said(&mut self, message: Bytes) -> Poll<Option<Outcome>> {
        if let Some(recorder) = &mut self.recorder {
            recorder.message(&message);
        }
        Poll::Ready(Some(Outcome::Message(match &self.seen_by {
            Some(settings) => seen_body(&settings.scope, message),
            None => message,
        })))
    }
}

impl Stream for Work {
    type Item = Outcome;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Outcome>> {
        loop {
            match &mut self.stage {
                Stage::Beginning(future) => match future.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Started::Call(exchange, permit)) => {
                        self.stage = Stage::Going {
                            exchange,
                            _permit: permit,
                        };
                    }
                    Poll::Ready(Started::Nothing) => self.stage = Stage::Over,
                    Poll::Ready(Started::Answer(answer)) => {
                        self.stage = Stage::Over;
                        return self.said(answer);
                    }
                    Poll::Ready(Started::Session(session, answer)) => {
                        self.stage = Stage::Over;
                        return Poll::Ready(Some(Outcome::Session(session, answer)));
                    }
                },
                Stage::Going { exchange, .. } => match exchange.poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Item::Message(message))) => return self.said(message),
                    Poll::Ready(Some(Item::Answer(answer))) => {
                        self.stage = Stage::Over;
                        return self.said(answer);
                    }
                    Poll::Ready(None) => {
                        self.stage = Stage::Over;
                        if let Some(recorder) = &mut self.recorder {
                            recorder.finish();
                        }
                    }
                },
                Stage::Over => return Poll::Ready(None),
            }
        }
    }
}

/// A stream as its connection reads it. Dropping it ends the session.
pub struct SseStream {
    gateway: Arc<Gateway>,
    place: Arc<Place>,
    inbox: Arc<Inbox>,
    endpoint: Option<Bytes>,
    session: Option<Arc<Session>>,
    greeted: bool,
    greeting: Pin<Box<Sleep>>,
    work: SelectAll<Work>,
}

impl SseStream {
    /// The next event, written out; `None` at the end.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(endpoint) = self.endpoint.take() {
            return Poll::Ready(Some(endpoint));
        }
        loop {
            // What was begun comes before the next message, so that a cancellation finds its call.
            match self.work.poll_next_unpin(cx) {
                Poll::Ready(Some(Outcome::Message(message))) => {
                    return Poll::Ready(Some(body::event(&message)));
                }
                Poll::Ready(Some(Outcome::Session(session, answer))) => {
                    session.begin_standing();
                    self.session = Some(session);
                    return Poll::Ready(Some(body::event(&answer)));
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
            match self.inbox.poll_pop(cx) {
                Poll::Ready(Some(posted)) => self.look_at(posted),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => break,
            }
        }
        if let Some(session) = &self.session {
            return match session.poll_standing(cx) {
                Poll::Ready(Some(Item::Message(message) | Item::Answer(message))) => {
                    Poll::Ready(Some(body::event(&message)))
                }
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            };
        }
        if !self.greeted && self.greeting.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        Poll::Pending
    }

    /// Begins with what was posted.
    fn look_at(&mut self, posted: Posted) {
        let Posted {
            source,
            secret,
            unanswered,
        } = posted;
        let method = Envelope::parse(&source).map(|envelope| envelope.method().to_owned());
        let method = method.unwrap_or_default();
        let repeated = method == "initialize" && std::mem::replace(&mut self.greeted, true);
        let settings = (method == "tools/list").then(|| secret.token.settings.load_full());
        let envelope = Envelope::parse(&source).ok();
        let recorder = self.gateway.calls.get().and_then(|sink| {
            let one = envelope.iter().map(|envelope| (&source[..], envelope));
            record::begin(
                sink,
                &self.place,
                &secret,
                (false, Arrival::now()),
                None,
                one,
            )
        });
        let (gateway, place) = (self.gateway.clone(), self.place.clone());
        let session = self.session.clone();
        // Boxed: it holds a message and the way of its request until that is begun.
        let begin = async move {
            gateway
                .start(&place, session, source, &secret, repeated)
                .await
        };
        self.work.push(Work {
            stage: Stage::Beginning(Box::pin(begin)),
            recorder,
            seen_by: settings.filter(|settings| !settings.scope.is_all()),
            _unanswered: unanswered,
        });
    }
}

impl Drop for SseStream {
    fn drop(&mut self) {
        self.place.sse.close(&self.inbox);
        // The calls first, so that the child hears of their end before that of the session.
        self.work.clear();
        let Some(session) = self.session.take() else {
            return;
        };
        session.end_standing();
        self.place.table.close(&session);
        if let Some(upstream) = ready::present(&self.place.route) {
            upstream.forget_session(session.key);
            self.place.renew_news(&upstream);
        }
    }
}

impl Gateway {
    /// `GET /sse`: opens a stream.
    pub(super) fn open_sse(
        &self,
        place: &Arc<Place>,
        asked: &Asked<'_>,
        parts: &Parts,
        secret: &Secret,
    ) -> Reply {
        if parts.method != Method::GET {
            return not_allowed("GET");
        }
        let opened = place.sse.open(&secret.token, self.config.sessions_max);
        let (gateway, inbox) = match (self.me.upgrade(), opened) {
            (Some(gateway), Ok(inbox)) => (gateway, inbox),
            (None, _) => {
                return reply::refused(StatusCode::SERVICE_UNAVAILABLE, "The gateway ends.");
            }
            (_, Err(why)) => return reply::refused(StatusCode::SERVICE_UNAVAILABLE, why),
        };
        let outside = asked.approach.outside_path(asked.visitor);
        let token = asked.target.token.map(|token| format!("/{token}"));
        let endpoint = format!(
            "event: endpoint\ndata: {outside}{}/messages?sessionId={:032x}\n\n",
            token.unwrap_or_default(),
            inbox.id
        );
        reply::events(EventStream::of_sse(SseStream {
            gateway,
            place: place.clone(),
            inbox,
            endpoint: Some(endpoint.into()),
            session: None,
            greeted: false,
            greeting: Box::pin(sleep(GREETING_MAX)),
            work: SelectAll::new(),
        }))
    }

    /// `POST /messages?sessionId=…`: takes one message; its answer comes on the stream.
    pub(super) async fn post_sse<B>(
        &self,
        place: &Arc<Place>,
        parts: &Parts,
        body: B,
        secret: &Secret,
    ) -> Reply
    where
        B: hyper::body::Body<Data = Bytes> + Unpin,
    {
        if parts.method != Method::POST {
            return not_allowed("POST");
        }
        let inbox = session_id(parts.uri.query()).and_then(|id| place.sse.find(id, &secret.token));
        let Some(inbox) = inbox else {
            return reply::refused(
                StatusCode::NOT_FOUND,
                "This session does not exist or has ended: open a stream with GET /sse, and post to the address of its first event.",
            );
        };
        let limit = self.config.body_limit_bytes;
        let source = match self.read_json(parts, body).await {
            Ok(source) => source,
            Err(refused) => return *refused,
        };
        let parsed = Envelope::parse(&source).and_then(|message| Ok((message.kind()?, message)));
        let (kind, id) = match &parsed {
            Ok((kind, envelope)) => (*kind, envelope.id.map_or("null", |id| id.get())),
            Err(error) => return reply::not_a_message(error),
        };
        if inbox.push(source.clone(), secret, kind == Kind::Request, limit) {
            reply::empty(StatusCode::ACCEPTED)
        } else {
            reply::error(
                StatusCode::SERVICE_UNAVAILABLE,
                id,
                INTERNAL_ERROR,
                "Too many messages of this session wait: read its event stream, and try again.",
            )
        }
    }

    /// Begins with a message of a stream.
    async fn start(
        &self,
        place: &Arc<Place>,
        session: Option<Arc<Session>>,
        source: Bytes,
        secret: &Secret,
        repeated: bool,
    ) -> Started {
        let parsed = Envelope::parse(&source).and_then(|message| Ok((message.kind()?, message)));
        // It could be read when it was posted.
        let Ok((kind, envelope)) = parsed else {
            return Started::Nothing;
        };
        let is_request = kind == Kind::Request;
        let id = match envelope.id {
            Some(id) if is_request => id.get(),
            _ => "null",
        };
        let refuse = |text: &str| match kind {
            Kind::Request => Started::Answer(error_message(id, INVALID_REQUEST, text, None)),
            Kind::Notification | Kind::Response => Started::Nothing,
        };
        let greets = is_request && envelope.method() == "initialize";
        if greets && repeated {
            return refuse("initialize was sent on this stream already.");
        }
        if !greets && session.is_none() {
            return if is_request && envelope.method() == "ping" {
                Started::Answer(result_message(id, "{}"))
            } else {
                refuse("Send initialize first, and wait for its answer.")
            };
        }
        let permit = match limit::begin(
            secret,
            is_request.into(),
            self.config.token_concurrency_max,
            id,
        ) {
            Ok(permit) => permit,
            Err(refused) => return answer_of(*refused),
        };
        let _in_use = place.route.uses.begin();
        let message = Message {
            source: &source,
            envelope: &envelope,
            kind,
            id,
            secret,
            body: source.clone(),
        };
        let upstream = match self.ready_at_once(place, session.as_deref()) {
            Some(upstream) => upstream,
            None => {
                let shared = session.as_ref();
                let answered = self.in_place(place, None, &message, false, shared).await;
                match answered {
                    Some(InPlace::Opened(session, answer)) => {
                        return Started::Session(session, answer);
                    }
                    Some(InPlace::Answer(answer)) => return Started::Answer(answer),
                    Some(InPlace::Refused(refused)) if is_request => return answer_of(*refused),
                    // Streams of news are for stateless clients.
                    Some(InPlace::Taken | InPlace::Stream(_) | InPlace::Refused(_)) => {
                        return Started::Nothing;
                    }
                    None => {}
                }
                match self.ready_in(place, session.as_deref()).await {
                    Ok(upstream) => upstream,
                    Err(unready) if is_request => {
                        return answer_of(reply::unready(&place.route, id, &unready));
                    }
                    Err(_) => return Started::Nothing,
                }
            }
        };
        if let Err(refused) = scope::check(secret, &upstream, id, &source, &envelope).await {
            return if is_request {
                answer_of(*refused)
            } else {
                Started::Nothing
            };
        }
        let Some(session) = session else {
            return match self.open_session(place, &message, &upstream).await {
                Ok((session, answer)) => Started::Session(session, answer),
                Err(refused) => answer_of(*refused),
            };
        };
        if !is_request {
            take(&session, &message, &upstream);
            return Started::Nothing;
        }
        let accepts = Accepts {
            json: true,
            events: true,
        };
        match self
            .begin_in_session(place, &session, &message, accepts)
            .await
        {
            Begun::Answer(answer) => Started::Answer(answer),
            Begun::Refused(refused) => answer_of(*refused),
            Begun::Call(call) => {
                // Once the stream is over, nobody can hear the answer.
                let exchange = Exchange::Plain(call.cancel_on_drop(), session);
                Started::Call(Box::new(exchange), permit)
            }
        }
    }
}

/// The JSON-RPC message in a reply that stands for itself.
fn answer_of(reply: Reply) -> Started {
    match reply.into_body() {
        GatewayBody::Full(Some(answer)) => Started::Answer(answer),
        _ => Started::Answer(reply::failure_message("null", "it gave no answer")),
    }
}
