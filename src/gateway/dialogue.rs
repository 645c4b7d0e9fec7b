//! A call of a stateless client at a session-era child that may ask back: the child's requests become input-required
//! results, and the call waits until the client comes back.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use tokio::time::{Sleep, sleep};

use crate::upstream::{
    Call, Envelope, First, Item, Kind, SessionKey, Upstream, quote, result_message, unquote,
};

use super::{
    Message, Place, now_ms,
    parked::{Binding, StateKey, binding},
    reply,
    session::Session,
    stateless::Finish,
};

/// After the child's first question, how long others may follow into the same result.
const GATHER: Duration = Duration::from_millis(25);

/// A question of the child that the client has not answered.
struct Asked {
    key: String,
    /// Its id as the connection knows it.
    id: u64,
    method: String,
    params: Option<String>,
}

/// A call of a stateless client, with what the child wants to know. Dropping it cancels the call and answers the
/// child's questions with an error.
pub struct Conversation {
    call: Call,
    upstream: Arc<Upstream>,
    session: SessionKey,
    asked: Vec<Asked>,
    /// The child asked something, be it answered or not.
    was_asked: bool,
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // The session is of this call alone.
        if self.call.is_over() {
            // All that it was asked came before the answer.
            if self.was_asked {
                self.upstream.forget_asked(self.session);
            }
        } else {
            self.upstream.forget_session(self.session);
        }
    }
}

impl Conversation {
    /// A call that was just begun for this fresh session key.
    #[must_use]
    pub fn new(call: Call, upstream: Arc<Upstream>, session: SessionKey) -> Self {
        Self {
            // Here, unlike in the session era, a client that leaves wants no answer any more.
            call: call.cancel_on_drop(),
            upstream,
            session,
            asked: Vec::new(),
            was_asked: false,
        }
    }

    /// Lets the call go on with the client's next try.
    pub fn resume(&mut self, progress_token: Option<Box<str>>) {
        self.call.resume(progress_token);
    }

    /// Takes a question of the child in; `false` for any other message. One whose answer came already is answered.
    fn takes(&mut self, message: &[u8], responses: &mut HashMap<String, String>) -> bool {
        let Ok(envelope) = Envelope::parse(message) else {
            return false;
        };
        if envelope.method() == "notifications/cancelled" {
            // The child took a question back; the client was not told of it yet, or has forgotten it.
            let taken_back = envelope.parameter("requestId");
            let taken_back = taken_back.and_then(|id| id.parse::<u64>().ok());
            self.asked.retain(|asked| Some(asked.id) != taken_back);
            return true;
        }
        let id = match (envelope.kind(), envelope.id) {
            (Ok(Kind::Request), Some(id)) => id.get().parse::<u64>().ok(),
            _ => None,
        };
        let Some(id) = id else { return false };
        self.was_asked = true;
        let key = match self.call.asked_by(self.session, id) {
            // A name given by the server is kept, so that a client may know it.
            Some(raw) => unquote(&raw).unwrap_or_else(|| format!("request-{raw}")),
            None => return true,
        };
        self.asked.push(Asked {
            key,
            id,
            method: envelope.method().to_owned(),
            params: envelope.params.map(|params| params.get().to_owned()),
        });
        self.answer(responses);
        true
    }

    /// Hands the answers over that the client sent.
    fn answer(&mut self, responses: &mut HashMap<String, String>) {
        let (call, session) = (&self.call, self.session);
        self.asked
            .retain(|asked| match responses.remove(&asked.key) {
                Some(response) => {
                    call.respond(session, asked.id, &response);
                    false
                }
                None => true,
            });
    }

    fn input_requests(&self) -> String {
        let requests: Vec<String> = self
            .asked
            .iter()
            .map(|asked| {
                let params = asked.params.as_deref().unwrap_or("{}");
                let (key, method) = (quote(&asked.key), quote(&asked.method));
                format!("{key}:{{\"method\":{method},\"params\":{params}}}")
            })
            .collect();
        format!("{{{}}}", requests.join(","))
    }
}

/// One request of a stateless client and what it still waits for.
pub struct Dialogue {
    conversation: Option<Conversation>,
    /// Answers that came before their questions.
    responses: HashMap<String, String>,
    gather: Option<Pin<Box<Sleep>>>,
    /// The raw id of this request.
    id: Box<str>,
    bound: Bound,
    place: Arc<Place>,
    finish: Finish,
}

/// What a request state is sealed with; the binding is made only when there is one.
pub struct Bound {
    /// The key of the gateway.
    key: Arc<StateKey>,
    /// Which access token opened the way.
    token_hash: [u8; 32],
    /// The request.
    body: Bytes,
}

impl Bound {
    /// For the state of this request.
    #[must_use]
    pub(super) fn new(key: &Arc<StateKey>, message: &Message<'_>) -> Self {
        Self {
            key: key.clone(),
            token_hash: message.secret.hash,
            body: message.body.clone(),
        }
    }

    /// The binding; `None` when the request cannot be read, which it could before.
    pub(super) fn binding(&self, place: &Place) -> Option<Binding> {
        let envelope = Envelope::parse(&self.body).ok()?;
        let params = envelope.parameters().ok()?;
        let (id, method) = (place.route.id, envelope.method());
        Some(binding(id, &self.token_hash, method, params))
    }
}

impl Dialogue {
    /// Waits for a call, with the answers that the client sent along.
    #[must_use]
    pub(super) fn new(
        mut conversation: Conversation,
        mut responses: HashMap<String, String>,
        id: &str,
        bound: Bound,
        place: Arc<Place>,
        finish: Finish,
    ) -> Self {
        conversation.answer(&mut responses);
        // Something it must know is missing still: the client hears so at once.
        let gather = (!conversation.asked.is_empty()).then(|| Box::pin(sleep(GATHER)));
        Self {
            conversation: Some(conversation),
            responses,
            gather,
            id: id.into(),
            bound,
            place,
            finish,
        }
    }

    /// As [`Call::poll_next`]; the answer is complete for a stateless client, or asks for input.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        loop {
            let Some(conversation) = &mut self.conversation else {
                return Poll::Ready(None);
            };
            match conversation.call.poll_next(cx) {
                Poll::Ready(Some(Item::Message(message))) => {
                    if !conversation.takes(&message, &mut self.responses) {
                        return Poll::Ready(Some(Item::Message(message)));
                    }
                    if conversation.asked.is_empty() {
                        self.gather = None;
                    } else if self.gather.is_none() {
                        self.gather = Some(Box::pin(sleep(GATHER)));
                    }
                }
                Poll::Ready(Some(Item::Answer(answer))) => {
                    let completed = conversation.call.is_completed();
                    self.conversation = None;
                    let answer = if completed {
                        self.finish.learn(&answer);
                        answer
                    } else {
                        self.finish.apply(answer, Some(&self.id))
                    };
                    return Poll::Ready(Some(Item::Answer(answer)));
                }
                Poll::Ready(None) => {
                    self.conversation = None;
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    let gathered = self
                        .gather
                        .as_mut()
                        .is_some_and(|gather| gather.as_mut().poll(cx).is_ready());
                    if !gathered {
                        return Poll::Pending;
                    }
                    return Poll::Ready(self.park().map(Item::Answer));
                }
            }
        }
    }

    /// The input-required result; the call waits for the client's next try.
    fn park(&mut self) -> Option<Bytes> {
        let conversation = self.conversation.take()?;
        self.gather = None;
        conversation.call.park();
        let requests = conversation.input_requests();
        let (ticket, given_up) = self.place.parked.park(conversation, now_ms());
        drop(given_up);
        let sealed = self.bound.binding(&self.place);
        let sealed = sealed.and_then(|binding| self.bound.key.seal(&binding, ticket));
        let Some(state) = sealed else {
            drop(self.place.parked.take(ticket, now_ms()));
            let text = "the system has no random numbers";
            return Some(reply::failure_message(&self.id, text));
        };
        let result = format!(
            "{{\"resultType\":\"input_required\",\"inputRequests\":{requests},\"requestState\":\"{state}\"}}"
        );
        let answer = result_message(&self.id, &result);
        Some(self.finish.apply(answer, None))
    }
}

/// A call under way, for a client of either era.
pub enum Exchange {
    /// The session era: messages pass as they are.
    Plain(Call, Arc<Session>),
    /// A stateless client in front of a session-era child, with input-required results.
    Dialogue(Box<Dialogue>),
    /// A stateless client whose answers are only completed.
    Finished(Call, Box<Finish>),
}

impl Exchange {
    /// As [`Call::poll_next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        match self {
            Self::Plain(call, _) => call.poll_next(cx),
            Self::Dialogue(dialogue) => dialogue.poll_next(cx),
            Self::Finished(call, finish) => call.poll_next(cx).map(|item| match item {
                Some(Item::Answer(answer)) if call.is_completed() => {
                    finish.learn(&answer);
                    Some(Item::Answer(answer))
                }
                Some(Item::Answer(answer)) => Some(Item::Answer(finish.apply(answer, None))),
                other => other,
            }),
        }
    }

    /// As [`Call::first`].
    pub async fn first(&mut self) -> First {
        let mut woken = false;
        std::future::poll_fn(|cx| match self.poll_next(cx) {
            Poll::Ready(Some(item)) => Poll::Ready(First::Item(item)),
            Poll::Ready(None) => Poll::Ready(First::Over),
            Poll::Pending if woken && self.is_slow() => Poll::Ready(First::Slow),
            Poll::Pending => {
                woken = true;
                Poll::Pending
            }
        })
        .await
    }

    fn is_slow(&self) -> bool {
        match self {
            Self::Plain(call, _) | Self::Finished(call, _) => call.is_slow(),
            Self::Dialogue(dialogue) => {
                let conversation = dialogue.conversation.as_ref();
                conversation.is_some_and(|conversation| conversation.call.is_slow())
            }
        }
    }

    /// The answer, without what comes before it; `None` when the call was cancelled.
    pub async fn last(&mut self) -> Option<Bytes> {
        loop {
            match std::future::poll_fn(|cx| self.poll_next(cx)).await? {
                Item::Message(_) => {}
                Item::Answer(answer) => return Some(answer),
            }
        }
    }

    /// The HTTP status for an answer that comes alone.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Plain(..) => StatusCode::OK,
            Self::Dialogue(dialogue) => dialogue.finish.status(),
            Self::Finished(_, finish) => finish.status(),
        }
    }
}
