//! Requests of stateless clients (2026-07-28) to a stdio child.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use http::{StatusCode, request::Parts};

use crate::upstream::{
    Caller, Envelope, Era, INVALID_PARAMS, INVALID_REQUEST, Kind, LOG_LEVELS, SessionKey, Upstream,
    error_message, result_message,
};

use super::{
    Accepts, Gateway, Message, Place, Reply,
    dialogue::{Bound, Conversation, Dialogue, Exchange},
    input::{Input, may_ask},
    listen::Listening,
    now_ms,
    parked::StateKey,
    ready::NotBegun,
    reply,
    session_era::finish,
    stateless::{self, Finish, Refusal, Told},
};

impl Gateway {
    pub(super) async fn post_stateless(
        &self,
        place: &Arc<Place>,
        parts: &Parts,
        message: &Message<'_>,
        upstream: &Upstream,
    ) -> Reply {
        let id = message.id;
        if message.kind == Kind::Response {
            return reply::refused(
                StatusCode::BAD_REQUEST,
                "A client of this revision never sends responses.",
            );
        }
        let told = match stateless::check(&parts.headers, message.envelope) {
            Ok(told) => told,
            Err(refusal) => return refusal.reply(id),
        };
        if message.kind == Kind::Notification {
            take(message, upstream);
            return reply::empty(StatusCode::ACCEPTED);
        }
        if let Err(text) = place.param_headers.check(&parts.headers, message.envelope) {
            return Refusal::mismatch(text).reply(id);
        }
        let Some(handshake) = upstream.handshake_snapshot() else {
            return reply::json(
                StatusCode::SERVICE_UNAVAILABLE,
                reply::failure_message(id, "it is not initialized yet"),
            );
        };
        let method = message.envelope.method();
        match method {
            "server/discover" => {
                let result = handshake.discover_result();
                return reply::json(StatusCode::OK, result_message(id, &result));
            }
            "subscriptions/listen" => {
                match Box::pin(self.listen(place, message, Some(upstream), &handshake)).await {
                    Listening::Answered(answer) => return *answer,
                    Listening::OfTheChild => {}
                }
            }
            "" => return reply::error(StatusCode::BAD_REQUEST, id, INVALID_REQUEST, "no method"),
            _ => {}
        }
        let accepts = Accepts::read(&parts.headers);
        let caller = caller(&told, place);
        let last = Finish::new(handshake.clone(), method, place);
        // A stateless child has input-required results of its own.
        let key = self.state_key.as_ref();
        let exchange = match key.filter(|_| handshake.era == Era::Legacy && may_ask(method)) {
            Some(key) => {
                let caller = Caller {
                    sampling: told.traits.sampling,
                    elicitation: told.traits.elicitation,
                    roots: told.traits.roots,
                    ..caller
                };
                let session = caller.session;
                let begun = match Input::read(message.source, message.envelope) {
                    Ok(None) => {
                        let begun = self.begin(place, caller, message).await;
                        begun
                            .map(|(call, by)| {
                                (Conversation::new(call, by, session), HashMap::new())
                            })
                            .map_err(|why| Box::new(not_begun(place, id, &why)))
                    }
                    // Boxed, because hardly any request has input.
                    Ok(Some(input)) => {
                        Box::pin(self.take_up(place, message, caller, key, input)).await
                    }
                    Err(text) => Err(invalid(id, &text)),
                };
                let (conversation, responses) = match begun {
                    Ok(begun) => begun,
                    Err(refused) => return *refused,
                };
                let bound = Bound::new(key, message);
                let place = place.clone();
                let dialogue = Dialogue::new(conversation, responses, id, bound, place, last);
                Exchange::Dialogue(Box::new(dialogue))
            }
            None => match self.begin(place, caller, message).await {
                Ok((call, _)) => Exchange::Finished(call.cancel_on_drop(), Box::new(last)),
                Err(why) => return not_begun(place, id, &why),
            },
        };
        finish(exchange, id, accepts).await
    }

    /// Begins a call that brings input along, or takes up the one that waits for it; with what the client answers.
    async fn take_up(
        &self,
        place: &Arc<Place>,
        message: &Message<'_>,
        caller: Caller,
        key: &Arc<StateKey>,
        input: Input,
    ) -> Result<(Conversation, HashMap<String, String>), Box<Reply>> {
        let id = message.id;
        let Some(state) = input.state else {
            let envelope = Envelope::parse(&input.stripped)
                .map_err(|error| invalid(id, &error.to_string()))?;
            let stripped = Message {
                source: &input.stripped,
                envelope: &envelope,
                body: Bytes::new(),
                ..*message
            };
            let session = caller.session;
            let (call, upstream) = self
                .begin(place, caller, &stripped)
                .await
                .map_err(|why| Box::new(not_begun(place, id, &why)))?;
            return Ok((Conversation::new(call, upstream, session), input.responses));
        };
        let binding = Bound::new(key, message).binding(place);
        let ticket = binding.and_then(|binding| key.open(&binding, &state));
        let ticket = ticket.ok_or_else(|| {
            let text = "params.requestState was changed, or belongs to another request.";
            invalid(id, text)
        })?;
        let mut conversation = place.parked.take(ticket, now_ms()).ok_or_else(|| {
            let text = "params.requestState is used up or out of time: send the request without it to begin anew.";
            invalid(id, text)
        })?;
        conversation.resume(progress_token(message.envelope));
        Ok((conversation, input.responses))
    }
}

fn invalid(id: &str, text: &str) -> Box<Reply> {
    let body = error_message(id, INVALID_PARAMS, text, None);
    Box::new(reply::json(StatusCode::BAD_REQUEST, body))
}

fn not_begun(place: &Place, id: &str, why: &NotBegun) -> Reply {
    match why {
        NotBegun::Unready(unready) => reply::unready(&place.route, id, unready),
        NotBegun::Refused(error) => reply::json(StatusCode::OK, reply::upstream_message(id, error)),
    }
}

/// A notification that the core protocol does not know goes to the child as it is; what it knows concerns a session,
/// or is said by closing a stream.
fn take(message: &Message<'_>, upstream: &Upstream) {
    let known = [
        "notifications/cancelled",
        "notifications/initialized",
        "notifications/progress",
        "notifications/roots/list_changed",
    ];
    if known.contains(&message.envelope.method()) {
        return;
    }
    let sent = upstream.notify(SessionKey::DAEMON, message.source, message.envelope);
    if let Err(error) = sent {
        tracing::debug!(%error, "a notification of a client was lost");
    }
}

fn progress_token(envelope: &Envelope<'_>) -> Option<Box<str>> {
    let meta = envelope.meta().ok()??;
    meta.get("progressToken").map(Box::from)
}

fn caller(told: &Told, place: &Place) -> Caller {
    let asked = LOG_LEVELS
        .iter()
        .position(|known| told.log_level.as_deref() == Some(known));
    Caller {
        era: Era::Modern,
        // A client that names no level wants no log messages: a level above all.
        log_level: asked.map_or(Some(u8::MAX), |index| u8::try_from(index).ok()),
        ..Caller::plain(place.table.fresh_key())
    }
}
