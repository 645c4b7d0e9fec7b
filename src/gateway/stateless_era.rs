//! Requests of stateless clients (2026-07-28) to a stdio child.

use std::sync::Arc;

use http::{StatusCode, request::Parts};

use crate::upstream::{Caller, Era, INVALID_REQUEST, Kind, LOG_LEVELS, Upstream, result_message};

use super::{
    Accepts, Gateway, Message, Place, Reply,
    ready::NotBegun,
    reply,
    session_era::finish,
    stateless::{self, Finish},
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
        let level = match stateless::check(&parts.headers, message.envelope) {
            Ok(level) => level,
            Err(refusal) => return refusal.reply(id),
        };
        if message.kind == Kind::Notification {
            // There is no session that it could concern; a call is cancelled by closing its stream.
            return reply::empty(StatusCode::ACCEPTED);
        }
        let Some(handshake) = upstream.handshake_snapshot() else {
            return reply::json(
                StatusCode::SERVICE_UNAVAILABLE,
                reply::failure_message(id, "it is not initialized yet"),
            );
        };
        match message.envelope.method() {
            "server/discover" => {
                let result = handshake.discover_result();
                return reply::json(StatusCode::OK, result_message(id, &result));
            }
            "subscriptions/listen" => {
                return reply::error(
                    StatusCode::NOT_FOUND,
                    id,
                    crate::upstream::METHOD_NOT_FOUND,
                    "subscriptions/listen is not served for this server.",
                );
            }
            "" => return reply::error(StatusCode::BAD_REQUEST, id, INVALID_REQUEST, "no method"),
            _ => {}
        }
        let asked = LOG_LEVELS
            .iter()
            .position(|known| level.as_deref() == Some(known));
        let caller = Caller {
            era: Era::Modern,
            // A client that names no level wants no log messages: a level above all.
            log_level: asked.map_or(Some(u8::MAX), |index| u8::try_from(index).ok()),
            ..Caller::plain(place.table.fresh_key())
        };
        match self.begin(place, caller, message).await {
            Ok((call, _)) => {
                let last = Finish::new(handshake, message.envelope.method());
                // Here, unlike in the session era, a client that leaves wants no answer any more.
                let call = call.cancel_on_drop();
                finish(call, Accepts::read(&parts.headers), Some(Box::new(last))).await
            }
            Err(NotBegun::Unready(unready)) => reply::unready(&place.route, id, &unready),
            Err(NotBegun::Refused(error)) => {
                reply::json(StatusCode::OK, reply::upstream_message(id, &error))
            }
        }
    }
}
