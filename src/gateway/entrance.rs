//! Who comes in, and for what: all that is decided of a request before its body is read.

use std::sync::{Arc, atomic::Ordering};

use http::{HeaderValue, Method, request::Parts};
use tokio::time::Instant;

use crate::{
    domain::UnixMs,
    supervisor::{access::Secret, uses::Use},
};

use super::{
    Gateway, Place, Reply, SESSION_HEADER, access,
    approach::{Approach, Asked},
    body::GatewayBody,
    drain, held, limit, no_such_session, nothing_here, now_ms, preflight, present_http, reply,
    target::{self, Endpoint},
};

/// A request that was let in.
pub(super) struct Entrance<'a> {
    pub(super) place: &'a Arc<Place>,
    /// What opened the way.
    pub(super) secret: Secret,
    /// The value of the header that names a session.
    pub(super) session: Option<&'a HeaderValue>,
    /// When it came.
    pub(super) arrival: Arrival,
    /// It is a message of the transport of 2024.
    pub(super) is_for_stream: bool,
    in_use: Use,
}

/// When a request came, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) at: UnixMs,
    pub(super) began: Instant,
}

impl Arrival {
    pub(super) fn now() -> Self {
        Self {
            at: now_ms(),
            began: Instant::now(),
        }
    }
}

/// What becomes of a request.
pub(super) enum Entered<'a> {
    In(Entrance<'a>),
    /// It is answered already.
    Answered(Box<Reply>),
}

impl From<Reply> for Entered<'_> {
    fn from(answer: Reply) -> Self {
        Self::Answered(Box::new(answer))
    }
}

impl Gateway {
    /// Lets a request in, or answers it, with the origin to name in CORS headers; without a place there is nothing.
    pub(super) fn enter<'a>(
        &self,
        place: Option<&'a Arc<Place>>,
        approach: &Approach<'_>,
        parts: &'a Parts,
        began: Instant,
    ) -> (Option<&'a HeaderValue>, Entered<'a>) {
        let target = target::target(approach.path)
            .filter(|target| self.config.http_sse || !target.endpoint.is_http_sse());
        let open = self.config.public_server_cards
            && target.is_some_and(|target| target.endpoint == Endpoint::Card);
        let (visitor, origin) = match self.visitor(approach, &parts.headers, open) {
            Ok(found) => found,
            Err(denied) => return (None, reply::denied(&denied).into()),
        };
        let entered = match (place, target) {
            _ if self.ending.is_over() => drain::over().into(),
            (Some(place), Some(target)) => {
                let asked = Asked {
                    approach,
                    visitor: &visitor,
                    target,
                };
                self.admit(place, &asked, parts, began)
            }
            _ => nothing_here().into(),
        };
        (origin, entered)
    }

    fn admit<'a>(
        &self,
        place: &'a Arc<Place>,
        asked: &Asked<'_>,
        parts: &'a Parts,
        began: Instant,
    ) -> Entered<'a> {
        if parts.method == Method::OPTIONS {
            return preflight().into();
        }
        if asked.target.endpoint == Endpoint::Card && self.config.public_server_cards {
            return self.card(place, asked, parts).into();
        }
        let now = now_ms();
        let route = &place.route;
        let tokens = route.tokens.load();
        let in_path = asked.target.token;
        let secret = match access::check_token(&tokens, &parts.headers, in_path, now) {
            Ok(secret) => secret,
            Err(denied) => {
                let client = asked.visitor.client.map(|client| client.to_string());
                tracing::debug!(instance = %route.id, client, ?denied, "a request was refused");
                return reply::denied(&denied).into();
            }
        };
        drop(tokens);
        route.last_accessed_ms.store(now, Ordering::Relaxed);
        route.requests.fetch_add(1, Ordering::Relaxed);
        let in_use = route.uses.begin();
        secret.token.last_used_ms.store(now, Ordering::Relaxed);
        if let Err(limited) = secret.token.take(1, self.config.token_rate_limit) {
            return limit::too_often(&secret.token.name, limited).into();
        }
        match asked.target.endpoint {
            Endpoint::Mcp | Endpoint::Messages => {}
            Endpoint::Card => return self.card(place, asked, parts).into(),
            Endpoint::Sse => {
                let stream = self.open_sse(place, asked, parts, &secret);
                return held::until_over(stream, secret.validity).into();
            }
        }
        let is_for_stream = asked.target.endpoint == Endpoint::Messages;
        let session = parts.headers.get(&SESSION_HEADER);
        let foreign =
            |session| present_http(place) && !place.owners.lets_in(session, &secret.token);
        if !is_for_stream && session.is_some_and(foreign) {
            return no_such_session("null").into();
        }
        Entered::In(Entrance {
            place,
            secret,
            session,
            arrival: Arrival { at: now, began },
            is_for_stream,
            in_use,
        })
    }
}

impl Entrance<'_> {
    /// The answer on its way out `now`: a stream holds what let it in.
    pub(super) fn leave(self, answer: Reply, now: Instant) -> Reply {
        if self.is_for_stream || matches!(answer.body(), GatewayBody::Full(_)) {
            self.in_use.end(now);
            return answer;
        }
        if self.session.is_none()
            && let Some(opened) = answer.headers().get(&SESSION_HEADER)
        {
            self.place.owners.opened(opened, &self.secret.token);
        }
        held::in_use(held::until_over(answer, self.secret.validity), self.in_use)
    }
}
