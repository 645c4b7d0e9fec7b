//! `/events` and `/mcps/{id}/events`: what happened, as pages and as a stream of server-sent events or over a WebSocket.
//!
//! A stream with `Last-Event-ID` first replays from the store, then goes on live; see [`Follow`].

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{Stream, stream};
use http::{HeaderMap, header};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::IntoParams;

use super::{
    AppState,
    error::{ApiError, Code},
    event_follow::{Follow, Told, from_row},
    event_socket,
    extract::{PathParam, Query},
    instances::page_limit,
    websocket::Handshake,
};
use crate::{
    domain::{id::InstanceId, principal::Principal},
    wire::{InstanceEvent, Page, Problem},
};

/// Between two keep-alive comments: shorter than the idle timeout of common proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The answer for one page of events.
pub type EventPage = Page<InstanceEvent>;

/// Query of an event list or stream.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// Only events after this one: `next_cursor` of the page before, or any event's `id`.
    cursor: Option<i64>,
    /// Entries of a page, 1 to 1000; default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// Query of the stream of all events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StreamQuery {
    /// Only events of this instance (id or name).
    instance: Option<String>,
    /// Replay what came after this event first, as `Last-Event-ID` does; 0 replays all that is kept.
    cursor: Option<i64>,
}

/// Whether the client asks for a stream.
pub fn wants_stream(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|text| text.contains("text/event-stream"))
}

/// `Last-Event-ID` as a number.
///
/// # Errors
/// `invalid-header` when it is not one of ours.
pub fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, ApiError> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or("");
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        ApiError::new(
            Code::InvalidHeader,
            "Last-Event-ID must be the id of an earlier event",
        )
    })
}

/// Takes one of the places for open streams.
///
/// # Errors
/// `too-many-streams`.
pub fn stream_place(state: &AppState) -> Result<OwnedSemaphorePermit, ApiError> {
    Arc::clone(&state.streams)
        .try_acquire_owned()
        .map_err(|_| ApiError::new(Code::TooManyStreams, "too many event streams are open"))
}

/// Sends `events` as server-sent events with keep-alive comments.
pub fn sse(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let events = futures_util::StreamExt::map(events, Ok::<_, Infallible>);
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    // Proxies such as nginx buffer answers unless told not to.
    let headers = [("x-accel-buffering", "no")];
    (headers, Sse::new(events).keep_alive(keep_alive)).into_response()
}

/// Everything that happens, as server-sent events; `data` is one event as JSON.
///
/// As a WebSocket (`Upgrade: websocket`) each event is a text of JSON, with `type` `event` or `gap`. A page offers the
/// subprotocols `events.v1.minimcp` and `base64url.bearer.authorization.minimcp.TOKEN`, with the token in base64url without
/// padding, because it cannot send `Authorization`; pages of other origins must be listed in `api.cors_origins`. It is
/// closed with 1001 when the daemon goes down, 1013 when its database is away, 1008 for who does not read or does not answer
/// pings, 1003 for who sends a message.
///
/// With `Last-Event-ID` (or `cursor`) what was missed comes first. Reconnect with the last `id` that was seen. A listener
/// that falls behind is brought up from the database; one that has seen no `id` yet is told by an event of the type `gap`
/// with `{"missed": N}` how many it missed.
#[utoipa::path(
    get, path = "/events", tag = "operations", params(
        StreamQuery,
        ("Last-Event-ID" = Option<i64>, Header, description = "The last event that was seen"),
        ("Sec-WebSocket-Protocol" = Option<String>, Header, description = "WebSockets only: the subprotocols"),
    ),
    responses(
        (status = 101, description = "A WebSocket; each message is an `EventMessage`"),
        (status = 200, description = "A stream without end", body = InstanceEvent, content_type = "text/event-stream"),
        (status = 403, description = "`forbidden`: a WebSocket of a page of another origin", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not-found`: no such instance", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn stream_all(
    who: Principal,
    State(state): State<AppState>,
    headers: HeaderMap,
    socket: Option<Handshake>,
    Query(query, faults): Query<StreamQuery>,
) -> Result<Response, ApiError> {
    faults.refuse()?;
    let instance = query
        .instance
        .map(|id| state.supervisor.resolve(&who, &id))
        .transpose()?;
    let after = last_event_id(&headers)?.or(query.cursor);
    open(&state, instance, after, socket).await
}

/// The events of one instance, oldest first; with `Accept: text/event-stream` as a stream, or as a WebSocket.
#[utoipa::path(
    get, path = "/mcps/{id}/events", tag = "instances", params(
        ("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`"), EventQuery,
        ("Last-Event-ID" = Option<i64>, Header, description = "Streams only: the last event that was seen"),
        ("Sec-WebSocket-Protocol" = Option<String>, Header, description = "WebSockets only: the subprotocols"),
    ),
    responses(
        (status = 101, description = "A WebSocket, as of `/events`"),
        (status = 200, description = "One page, or a stream", body = Page<InstanceEvent>),
        (status = 403, description = "`forbidden`: a WebSocket of a page of another origin", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn of_instance(
    who: Principal,
    State(state): State<AppState>,
    PathParam(id): PathParam,
    headers: HeaderMap,
    socket: Option<Handshake>,
    Query(query, mut faults): Query<EventQuery>,
) -> Result<Response, ApiError> {
    let limit = page_limit(query.limit, &mut faults);
    faults.refuse()?;
    let id = state.supervisor.resolve(&who, &id)?;
    if socket.is_some() || wants_stream(&headers) {
        let after = last_event_id(&headers)?.or(query.cursor);
        return open(&state, Some(id), after, socket).await;
    }
    let rows_max = u32::try_from(limit).unwrap_or(u32::MAX);
    let after = query.cursor.unwrap_or(0);
    let rows = state.store.events_page(Some(id), after, rows_max).await?;
    let next_cursor = rows
        .last()
        .filter(|_| rows.len() >= limit)
        .map(|row| row.id.to_string());
    let items = rows.into_iter().map(from_row).collect();
    Ok(axum::Json(EventPage { items, next_cursor }).into_response())
}

async fn open(
    state: &AppState,
    instance: Option<InstanceId>,
    after: Option<i64>,
    socket: Option<Handshake>,
) -> Result<Response, ApiError> {
    let place = stream_place(state)?;
    let live = state.supervisor.events();
    let (store, shutdown) = (state.store.clone(), state.shutdown.clone());
    let mut follow = Follow::new(store, live, shutdown.clone(), instance, after);
    // The first read happens before the answer begins, so that a database that is away is a 503 and no empty stream.
    follow.begin().await?;
    if let Some(socket) = socket {
        return Ok(socket.accept(async move |socket| {
            event_socket::run(socket, follow, shutdown).await;
            drop(place);
        }));
    }
    Ok(sse(stream::unfold(
        (follow, place),
        |(mut follow, place)| async move {
            let told = follow.next().await?;
            Some((to_sse(&told), (follow, place)))
        },
    )))
}

fn to_sse(told: &Told) -> Event {
    match told {
        Told::Event(event) => {
            let sse = Event::default().data(serde_json::to_string(event).unwrap_or_default());
            // Without a number of the store's (it was away) there is nothing to resume from.
            match event.id > 0 {
                true => sse.id(event.id.to_string()),
                false => sse,
            }
        }
        Told::Gap(gap) => {
            let data = serde_json::to_string(gap).unwrap_or_default();
            Event::default().event("gap").data(data)
        }
    }
}
