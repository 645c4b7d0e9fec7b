//! The data plane: an access URL in, the instance's MCP server out.
//!
//! Session-era and stateless clients share one child. An HTTP child gets the requests of clients that speak its era
//! streamed through; all others are translated. Nothing here knows the store: what a request needs is in the
//! [`Route`].

mod accepts;
mod access;
mod approach;
mod batch;
mod body;
mod call_span;
mod card;
mod cause;
mod dialogue;
mod drain;
mod entrance;
mod event_id;
mod event_text;
mod forwarded;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod held;
mod http_sse;
#[cfg(test)]
mod http_sse_tests;
mod in_place;
mod input;
mod kept_sessions;
#[cfg(test)]
mod kept_sessions_tests;
mod lens;
mod limit;
mod listen;
mod listener;
mod measures;
#[cfg(test)]
mod meetings_tests;
mod news;
mod own_child;
mod own_wakes;
mod owners;
mod param_headers;
mod parked;
mod path;
mod post;
mod proxy;
mod ready;
mod record;
mod replay;
#[cfg(test)]
mod replay_tests;
mod reply;
mod scope;
mod session;
mod session_era;
mod session_id;
mod session_wishes;
mod sse_inbox;
mod stateless;
mod stateless_era;
#[cfg(test)]
mod stateless_tests;
mod target;
#[cfg(test)]
mod tests;
mod tool_names;
mod watchdog;
mod wishes;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use tokio::time::Instant;

use crate::{
    clock::Clock,
    config::GatewayConfig,
    domain::{UnixMs, id::InstanceId},
    supervisor::{
        access::Secret,
        route::{Route, RouteState},
    },
    upstream::{Envelope, Era, Kind},
};

pub use body::GatewayBody;
pub use forwarded::Peer;
pub use kept_sessions::KeptSessions;
pub use measures::Measures;
pub use path::{PathBody, PathGateway, Routes};
pub use record::CallSink;
pub use reply::Reply;

use accepts::Accepts;
use access::Sites;
use approach::Approach;
use dialogue::Conversation;
use drain::Ending;
use entrance::{Entered, Entrance};
use event_id::EventId;
use forwarded::Proxies;
use owners::SessionOwners;
use param_headers::ParamHeaders;
use parked::{ParkingLot, StateKey};
use proxy::RelayedSessions;
use replay::TrackStream;
use reply::{no_such_session, not_allowed, nothing_here, preflight};
use session::SessionTable;
use sse_inbox::SseStreams;
use tool_names::ToolNames;

static SESSION_HEADER: HeaderName = HeaderName::from_static("mcp-session-id");
static VERSION_HEADER: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// The gateway. One for all instances.
pub struct Gateway {
    /// For streams that work on by themselves.
    me: Weak<Self>,
    config: GatewayConfig,
    sites: Sites,
    proxies: Proxies,
    places: Mutex<HashMap<InstanceId, Arc<Place>>>,
    /// Set once at the start, when calls are recorded.
    calls: OnceLock<Arc<CallSink>>,
    /// Set once at the start, when sessions outlive this daemon.
    kept: OnceLock<Arc<KeptSessions>>,
    measures: Arc<Measures>,
    ending: Ending,
    /// `None` when the system had no random numbers: then no call can wait for input.
    state_key: Option<Arc<StateKey>>,
}

/// One instance with the sessions of its clients.
struct Place {
    route: Arc<Route>,
    table: Arc<SessionTable>,
    parked: ParkingLot<Conversation>,
    /// Of the sessions that an HTTP child keeps itself.
    owners: SessionOwners,
    param_headers: ParamHeaders,
    /// Sessions that an HTTP child opened for clients.
    relayed: RelayedSessions,
    sse: SseStreams,
    tools: ToolNames,
}

impl Gateway {
    /// A gateway that serves nothing yet.
    #[must_use]
    pub fn new(config: GatewayConfig) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            sites: Sites::new(&config),
            proxies: Proxies::new(&config.trusted_proxies),
            config,
            places: Mutex::default(),
            calls: OnceLock::new(),
            kept: OnceLock::new(),
            measures: Arc::default(),
            ending: Ending::default(),
            state_key: StateKey::random().map(Arc::new),
        })
    }

    /// Gives every call of a tool to `sink` from now on; the first one stays.
    pub fn record_calls(&self, sink: CallSink) {
        let _ = self.calls.set(Arc::new(sink));
    }

    /// Takes back the sessions of `kept` as their instances come up, and keeps there what changes from now on. To be
    /// called before there is an instance; the first one stays.
    pub fn keep_sessions(&self, kept: Arc<KeptSessions>) {
        let _ = self.kept.set(kept);
    }

    /// What it counts.
    #[must_use]
    pub fn measures(&self) -> Arc<Measures> {
        Arc::clone(&self.measures)
    }

    fn places(&self) -> MutexGuard<'_, HashMap<InstanceId, Arc<Place>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, route: &Arc<Route>) -> Arc<Place> {
        let mut places = self.places();
        let place = places
            .entry(route.id)
            .or_insert_with(|| Arc::new(Place::new(route, self)));
        place.clone()
    }

    /// The place of an instance, unless it was deleted.
    fn living_place(&self, route: &Arc<Route>) -> Option<Arc<Place>> {
        let mut places = self.places();
        // Looked at under the lock: a deleted instance is `Gone` before its place is forgotten.
        if matches!(*route.state.borrow(), RouteState::Gone) {
            return None;
        }
        // It is not there yet: its sessions would not find the children that are just being taken over.
        if !places.contains_key(&route.id) && !route.left.are_known() {
            return None;
        }
        let place = places
            .entry(route.id)
            .or_insert_with(|| Arc::new(Place::new(route, self)));
        Some(place.clone())
    }

    /// Answers one request, however it came in; without a place there is nothing. It and what it awaits are moved more than
    /// once before they begin: what is rarely needed, and large, is boxed.
    async fn serve<B>(
        &self,
        place: Option<&Arc<Place>>,
        approach: &Approach<'_>,
        parts: &Parts,
        body: B,
    ) -> Reply
    where
        B: hyper::body::Body<Data = Bytes> + Unpin,
    {
        let began = Instant::now();
        let _asked = self.ending.asked(&parts.method);
        let (origin, entered) = self.enter(place, approach, parts, began);
        let (mut answer, ended) = match entered {
            Entered::In(entrance) => {
                let Entrance { place, secret, .. } = &entrance;
                let answer = match parts.method {
                    _ if entrance.is_for_stream => {
                        Box::pin(self.post_sse(place, parts, body, secret)).await
                    }
                    Method::POST => self.post(&entrance, parts, body).await,
                    // A list of tools whose first stream broke may come again.
                    Method::GET => held::seen_through(
                        Box::pin(self.get(place, parts, secret)).await,
                        secret,
                        self.config.line_limit_bytes,
                    ),
                    Method::DELETE => Box::pin(self.delete(place, parts, secret)).await,
                    _ => not_allowed("POST, GET, DELETE"),
                };
                let ended = Instant::now();
                (entrance.leave(answer, ended), ended)
            }
            Entered::Answered(answer) => (*answer, Instant::now()),
        };
        if let Some(origin) = origin {
            let headers = answer.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            let exposed = HeaderValue::from_static("Mcp-Session-Id, WWW-Authenticate, Retry-After");
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        let answer = self.told(place, &parts.headers, self.ending.judge(answer));
        self.measures.answered(answer.status(), ended - began);
        answer
    }

    async fn get(&self, place: &Arc<Place>, parts: &Parts, secret: &Secret) -> Reply {
        if let Some(session) = place.session_of(&parts.headers, secret, now_ms()) {
            if !Accepts::read(&parts.headers).events {
                return reply::refused(
                    StatusCode::NOT_ACCEPTABLE,
                    "A stream is sent as events: send 'Accept: text/event-stream'.",
                );
            }
            let stream = match parts.headers.get("last-event-id") {
                None => Some(TrackStream::standing(session)),
                Some(last) => last
                    .to_str()
                    .ok()
                    .and_then(EventId::parse)
                    .and_then(|last| TrackStream::after(session, last)),
            };
            return match stream {
                Some(stream) => reply::events(body::EventStream::of_session(stream)),
                None => reply::refused(
                    StatusCode::BAD_REQUEST,
                    "The stream of this Last-Event-ID cannot be resumed any more.",
                ),
            };
        }
        match self.ready(place).await {
            Err(unready) => reply::unready(&place.route, "null", &unready),
            Ok(upstream) if upstream.speaks(Era::Legacy) => {
                self.relay(place, parts, Bytes::new(), None).await
            }
            Ok(_) if parts.headers.contains_key(&SESSION_HEADER) => {
                place.no_session(parts, secret, "null")
            }
            Ok(_) => not_allowed("POST"),
        }
    }

    async fn delete(&self, place: &Arc<Place>, parts: &Parts, secret: &Secret) -> Reply {
        if let Some(session) = place.session_of(&parts.headers, secret, now_ms()) {
            place.table.close(&session);
            if let Some(upstream) = ready::present(&place.route) {
                upstream.forget_session(session.key);
                place.renew_news(&upstream);
            }
            return reply::empty(StatusCode::NO_CONTENT);
        }
        match ready::present(&place.route) {
            Some(upstream) if upstream.speaks(Era::Legacy) => {
                self.relay(place, parts, Bytes::new(), None).await
            }
            _ if parts.headers.contains_key(&SESSION_HEADER) => {
                place.no_session(parts, secret, "null")
            }
            _ => not_allowed("POST"),
        }
    }

    /// Ends the sessions that nobody used for `gateway.session_idle`.
    fn sweep_sessions(&self) {
        let idle_ms = i64::try_from(self.config.session_idle.ms()).unwrap_or(i64::MAX);
        let before = now_ms().saturating_sub(idle_ms);
        if let Some(kept) = self.kept.get() {
            kept.drop_left(before);
        }
        let places: Vec<Arc<Place>> = self.places().values().cloned().collect();
        for place in places {
            // Dropping them cancels them.
            drop(place.parked.overdue(now_ms()));
            let mut gone = place.table.close_idle(Some(before));
            gone.extend(place.table.close_without_token(now_ms()));
            for session in gone {
                if let Some(upstream) = ready::present(&place.route) {
                    upstream.forget_session(session.key);
                    place.renew_news(&upstream);
                }
            }
        }
    }

    /// What revoked tokens opened ends: their streams by themselves, their sessions here.
    fn end_sessions_of_ended_tokens(&self, id: InstanceId) {
        let place = self.places().get(&id).cloned();
        let Some(place) = place else { return };
        for session in place.table.close_without_token(now_ms()) {
            if let Some(upstream) = ready::present(&place.route) {
                upstream.forget_session(session.key);
                place.renew_news(&upstream);
            }
        }
    }

    fn forget_place(&self, id: InstanceId) {
        if let Some(place) = self.places().remove(&id) {
            place.table.close_idle(None);
            place.table.listeners.end_all();
            place.sse.end_all();
            drop(place.parked.overdue(UnixMs::MAX));
        }
    }
}

impl Place {
    fn new(route: &Arc<Route>, gateway: &Gateway) -> Self {
        let kept = gateway.kept.get().cloned();
        let table = Arc::new(SessionTable::new(route.clone(), kept));
        table.tell_of_subscriptions(&route.uses);
        own_child::follow_taken_back(&table, gateway.config.session_idle);
        Self {
            route: route.clone(),
            table,
            parked: ParkingLot::default(),
            owners: SessionOwners::default(),
            param_headers: ParamHeaders::default(),
            relayed: RelayedSessions::default(),
            sse: SseStreams::default(),
            tools: ToolNames::default(),
        }
    }

    /// The session that a request names, if there is one and it belongs to this token.
    fn session_of(
        &self,
        headers: &HeaderMap,
        secret: &Secret,
        now: UnixMs,
    ) -> Option<Arc<session::Session>> {
        self.session_named(headers.get(&SESSION_HEADER), secret, now)
    }

    /// The same for the value of its header.
    fn session_named(
        &self,
        header: Option<&HeaderValue>,
        secret: &Secret,
        now: UnixMs,
    ) -> Option<Arc<session::Session>> {
        let id = header?.to_str().ok()?;
        self.table.find(id, &secret.token, now)
    }
}

/// One JSON-RPC message of a client.
struct Message<'a> {
    source: &'a [u8],
    envelope: &'a Envelope<'a>,
    kind: Kind,
    /// The raw id of a request, else `null`.
    id: &'a str,
    /// Which access token opened the way.
    secret: &'a Secret,
    /// The request body that holds it; empty for a part of a batch.
    body: Bytes,
}

fn present_http(place: &Place) -> bool {
    ready::present(&place.route).is_some_and(|upstream| upstream.http().is_some())
}

fn now_ms() -> UnixMs {
    Clock::System.now()
}
