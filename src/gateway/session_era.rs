//! Requests of clients of the session era (2024-11-05 to 2025-11-25) to a stdio child.

use std::sync::Arc;

use bytes::Bytes;
use http::{StatusCode, request::Parts};

use crate::{
    supervisor::access::Secret,
    upstream::{
        Call, Declared, Era, First, Handshake, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST,
        Item, Kind, LEGACY_VERSIONS, Upstream, error_message, negotiate, result_message, unquote,
    },
};

use super::{
    Accepts, Gateway, Message, Place, Reply, SESSION_HEADER, VERSION_HEADER,
    body::EventStream,
    dialogue::Exchange,
    in_place::opened,
    now_ms, own_child,
    ready::NotBegun,
    replay::TrackStream,
    reply,
    session::{Client, ClientTraits, NoSession, Session},
    wishes,
};

/// What became of a request.
pub enum Begun {
    /// The gateway knows the answer.
    Answer(Bytes),
    /// The child is at it.
    Call(Call),
    /// The instance cannot take it.
    Refused(Box<Reply>),
}

impl Gateway {
    pub(super) async fn post_in_session(
        &self,
        place: &Arc<Place>,
        parts: &Parts,
        message: &Message<'_>,
        upstream: &Upstream,
        session: Option<Arc<Session>>,
    ) -> Reply {
        if message.kind == Kind::Request && message.envelope.method() == "initialize" {
            return match Box::pin(self.open_session(place, message, upstream)).await {
                Ok((session, answer)) => opened(place, &session, answer),
                Err(refused) => *refused,
            };
        }
        let session = match open_session_of(place, parts, (message.id, message.secret), session) {
            Ok(session) => session,
            Err(refused) => return *refused,
        };
        match message.kind {
            Kind::Request => {
                let accepts = Accepts::read(&parts.headers);
                match self
                    .begin_in_session(place, &session, message, accepts)
                    .await
                {
                    Begun::Answer(answer) => one_answer(answer, StatusCode::OK, accepts),
                    Begun::Call(call) => {
                        finish(Exchange::Plain(call, session), message.id, accepts).await
                    }
                    Begun::Refused(refused) => *refused,
                }
            }
            Kind::Notification | Kind::Response => {
                take(&session, message, upstream);
                reply::empty(StatusCode::ACCEPTED)
            }
        }
    }

    /// Opens a session for an `initialize`, with the answer to it.
    pub(super) async fn open_session(
        &self,
        place: &Place,
        message: &Message<'_>,
        upstream: &Upstream,
    ) -> Result<(Arc<Session>, Bytes), Box<Reply>> {
        let Some(handshake) = upstream.handshake_snapshot() else {
            return Err(Box::new(reply::json(
                StatusCode::SERVICE_UNAVAILABLE,
                reply::failure_message(message.id, "it is not initialized yet"),
            )));
        };
        self.enter_session(place, message, &handshake, Some(upstream))
            .await
    }

    /// The same by what the child told of itself; without a connection the answer is given in its place.
    pub(super) async fn enter_session(
        &self,
        place: &Place,
        message: &Message<'_>,
        handshake: &Handshake,
        upstream: Option<&Upstream>,
    ) -> Result<(Arc<Session>, Bytes), Box<Reply>> {
        let id = message.id;
        let wanted = message.envelope.parameter("protocolVersion");
        let params = message.envelope.parameters().ok();
        let (Some(wanted), Some(params)) = (wanted.and_then(unquote), params) else {
            return Err(Box::new(reply::error(
                StatusCode::BAD_REQUEST,
                id,
                INVALID_PARAMS,
                "initialize needs the text params.protocolVersion.",
            )));
        };
        let version = negotiate(&wanted);
        // A stateless server keeps nothing per connection.
        let desk = place.route.members.load_full();
        let desk = desk.filter(|_| handshake.era == Era::Legacy);
        let opened = place.table.open(
            Client {
                traits: ClientTraits::read(params),
                declared: Declared::read(params),
                version,
            },
            &message.secret.token,
            (
                self.config.sessions_max,
                desk.as_ref().map(|desk| desk.members_max),
            ),
            now_ms(),
            |session| upstream.is_some_and(|upstream| session.is_calling(upstream)),
        );
        let session = match opened {
            Ok((session, evicted)) => {
                if let Some(evicted) = evicted {
                    place.table.close(&evicted);
                    if let Some(upstream) = upstream {
                        upstream.forget_session(evicted.key);
                    }
                }
                session
            }
            Err(why) => {
                let text = match why {
                    NoSession::Full(most) => format!(
                        "All {most} client sessions of this instance are in use (gateway.sessions_max); end one and try again."
                    ),
                    NoSession::MembersFull(most) => own_child::full(most),
                    NoSession::NoRandom => "The system has no random numbers.".to_owned(),
                };
                let status = StatusCode::SERVICE_UNAVAILABLE;
                return Err(Box::new(reply::error(status, id, INTERNAL_ERROR, &text)));
            }
        };
        let result = match desk {
            Some(desk) => {
                let given = self.give_child(place, &session, &desk, id, &wanted);
                given.await?
            }
            None => {
                // One that is not there may promise them: what it offers anew is told by us.
                let tells_news = match upstream {
                    Some(upstream) => place.tells_news(upstream).await,
                    None => true,
                };
                handshake.initialize_result(&wanted, tells_news).0
            }
        };
        Ok((session, result_message(id, &result)))
    }

    /// Answers a wish of a session that the gateway grants itself; `None`: the child must hear it.
    async fn grant(
        &self,
        place: &Place,
        session: &Session,
        message: &Message<'_>,
    ) -> Option<Begun> {
        match self.ready(place).await {
            Ok(upstream) if upstream.era() == Era::Modern => {
                let answer = place.grant(session, message, &upstream).await;
                Some(Begun::Answer(answer))
            }
            Ok(_) => None,
            Err(unready) => {
                let refused = reply::unready(&place.route, message.id, &unready);
                Some(Begun::Refused(Box::new(refused)))
            }
        }
    }

    /// Begins one request of a session.
    pub(super) async fn begin_in_session(
        &self,
        place: &Arc<Place>,
        session: &Arc<Session>,
        message: &Message<'_>,
        accepts: Accepts,
    ) -> Begun {
        let id = message.id;
        let param = |key: &str| unquote(message.envelope.parameter(key)?);
        let done = || Begun::Answer(result_message(id, "{}"));
        if session.own_upstream().is_none()
            && wishes::is_wish(message.envelope.method())
            && let Some(begun) = Box::pin(self.grant(place, session, message)).await
        {
            return begun;
        }
        match message.envelope.method() {
            "ping" => return done(),
            "initialize" => {
                return Begun::Answer(error_message(
                    id,
                    INVALID_REQUEST,
                    "initialize cannot be part of a batch.",
                    None,
                ));
            }
            "logging/setLevel" => {
                if let Some(level) = param("level")
                    && !place.table.set_level(session, &level)
                {
                    return done();
                }
            }
            "resources/subscribe" => {
                if let Some(uri) = param("uri")
                    && !place.table.subscribe(session, uri)
                {
                    let text = "This session has too many subscriptions.";
                    return Begun::Answer(error_message(id, INTERNAL_ERROR, text, None));
                }
            }
            "resources/unsubscribe" => {
                if let Some(uri) = param("uri")
                    && !place.table.unsubscribe(session, &uri)
                {
                    return done();
                }
            }
            _ => {}
        }
        let mut caller = session.caller();
        if !accepts.events {
            // There is no stream that a request of the server could travel on.
            caller.sampling = false;
            caller.elicitation = false;
            caller.roots = false;
        }
        let begun = match session.own_upstream() {
            Some(own) => own
                .call(caller, message.source, message.envelope)
                .map_err(NotBegun::Refused),
            None => self
                .begin(place, caller, message)
                .await
                .map(|(call, _)| call),
        };
        match begun {
            Ok(call) => Begun::Call(call),
            Err(NotBegun::Unready(unready)) => {
                Begun::Refused(Box::new(reply::unready(&place.route, id, &unready)))
            }
            Err(NotBegun::Refused(error)) => Begun::Answer(reply::upstream_message(id, &error)),
        }
    }
}

/// The session that was found for a request, with the headers of the request checked. To another token it does not
/// exist.
pub fn open_session_of(
    place: &Place,
    parts: &Parts,
    (id, secret): (&str, &Secret),
    found: Option<Arc<Session>>,
) -> Result<Arc<Session>, Box<Reply>> {
    let bad = |text: &str| {
        Box::new(reply::error(
            StatusCode::BAD_REQUEST,
            id,
            INVALID_REQUEST,
            text,
        ))
    };
    let Some(session) = found else {
        if parts.headers.contains_key(&SESSION_HEADER) {
            return Err(Box::new(place.no_session(parts, secret, id)));
        }
        return Err(bad(
            "The header Mcp-Session-Id is missing: send 'initialize' first, then the session id of its answer with every request.",
        ));
    };
    // Without the header, 2025-03-26 is to be assumed; the session knows better.
    if let Some(version) = parts.headers.get(&VERSION_HEADER)
        && !LEGACY_VERSIONS.iter().any(|known| version == *known)
    {
        return Err(bad(&format!(
            "The MCP-Protocol-Version of this request is not supported in a session; supported are {}.",
            LEGACY_VERSIONS.join(", ")
        )));
    }
    Ok(session)
}

/// A notification or a response of a client. What cannot be delivered is lost, as notifications are.
pub fn take(session: &Session, message: &Message<'_>, upstream: &Upstream) {
    let outcome = match (message.kind, message.envelope.method()) {
        (Kind::Response, _) => upstream
            .respond(session.key, message.source, message.envelope)
            .map(|_| ()),
        // The child was told once by us; roots are not offered to it.
        (_, "notifications/initialized" | "notifications/roots/list_changed") => Ok(()),
        // A stateless one has no request of its own that a client could be at.
        (_, "notifications/progress") if upstream.era() == Era::Modern => Ok(()),
        _ => upstream.notify(session.key, message.source, message.envelope),
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a notification of a client was lost");
    }
}

/// Answers with JSON when the answer comes first, else with a stream; `id`: of the request, raw JSON.
pub async fn finish(mut exchange: Exchange, id: &str, accepts: Accepts) -> Reply {
    loop {
        match exchange.first().await {
            First::Item(Item::Answer(answer)) => {
                return one_answer(answer, exchange.status(), accepts);
            }
            First::Item(item) if accepts.events => return stream(exchange, id, Some(item)),
            First::Slow if accepts.events => return stream(exchange, id, None),
            // A client without streams gets the answer only.
            First::Item(_) => {}
            First::Slow => {
                return match exchange.last().await {
                    Some(answer) => one_answer(answer, exchange.status(), accepts),
                    None => reply::empty(StatusCode::ACCEPTED),
                };
            }
            // Cancelled: the specification wants no answer.
            First::Over if accepts.events => return reply::events(EventStream::empty()),
            First::Over => return reply::empty(StatusCode::ACCEPTED),
        }
    }
}

fn stream(exchange: Exchange, id: &str, first: Option<Item>) -> Reply {
    let events = match exchange {
        Exchange::Plain(call, session) => {
            let stream = TrackStream::of_call(session, call, id);
            EventStream::of_session(match first {
                Some(Item::Message(message) | Item::Answer(message)) => stream.begin_with(message),
                None => stream,
            })
        }
        exchange => EventStream::of_call(exchange, first),
    };
    reply::events(events)
}

/// One answer, in the form that the client takes.
pub fn one_answer(answer: Bytes, status: StatusCode, accepts: Accepts) -> Reply {
    if accepts.json || !accepts.events {
        reply::json(status, answer)
    } else {
        reply::events(EventStream::of_answer(answer))
    }
}
