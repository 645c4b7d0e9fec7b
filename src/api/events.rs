//! `/events` and `/mcps/{id}/events`: what happened, as pages and as a stream of server-sent events.
//!
//! A stream with `Last-Event-ID` first replays from the store, then goes on live without a gap or a double: the live
//! side is subscribed before the store is read, and ids that were sent already are skipped. A listener that is too
//! slow for the live side is brought up from the store again.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

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
use tokio::sync::{OwnedSemaphorePermit, broadcast};
use utoipa::IntoParams;

use super::{
    AppState,
    error::{ApiError, Code},
    extract::{PathParam, Query},
    instances::page_limit,
    view,
};
use crate::{
    domain::{id::InstanceId, principal::Principal},
    store::EventRow,
    supervisor,
    wire::{InstanceEvent, Page, Problem},
};

/// Rows read from the store at a time.
const REPLAY_ROWS: u32 = 500;
/// Ids remembered to skip doubles at the seam; as many as the live side can hold back.
const RECENT_IDS: usize = 1_024;
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
/// With `Last-Event-ID` (or `cursor`) what was missed comes first. Reconnect with the last `id` that was seen.
#[utoipa::path(
    get, path = "/events", tag = "operations", params(
        StreamQuery,
        ("Last-Event-ID" = Option<i64>, Header, description = "The last event that was seen"),
    ),
    responses(
        (status = 200, description = "A stream without end", body = InstanceEvent, content_type = "text/event-stream"),
        (status = 404, description = "`not-found`: no such instance", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn stream_all(
    who: Principal,
    State(state): State<AppState>,
    headers: HeaderMap,
    Query(query, faults): Query<StreamQuery>,
) -> Result<Response, ApiError> {
    faults.refuse()?;
    let instance = query
        .instance
        .map(|id| state.supervisor.resolve(&who, &id))
        .transpose()?;
    let after = last_event_id(&headers)?.or(query.cursor);
    open(&state, instance, after).await
}

/// The events of one instance, oldest first; with `Accept: text/event-stream` as a stream.
#[utoipa::path(
    get, path = "/mcps/{id}/events", tag = "instances", params(
        ("id" = String, Path, description = "Its id or its name"), EventQuery,
        ("Last-Event-ID" = Option<i64>, Header, description = "Streams only: the last event that was seen"),
    ),
    responses(
        (status = 200, description = "One page, or a stream", body = Page<InstanceEvent>),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn of_instance(
    who: Principal,
    State(state): State<AppState>,
    PathParam(id): PathParam,
    headers: HeaderMap,
    Query(query, mut faults): Query<EventQuery>,
) -> Result<Response, ApiError> {
    let limit = page_limit(query.limit, &mut faults);
    faults.refuse()?;
    let id = state.supervisor.resolve(&who, &id)?;
    if wants_stream(&headers) {
        let after = last_event_id(&headers)?.or(query.cursor);
        return open(&state, Some(id), after).await;
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

fn from_row(row: EventRow) -> InstanceEvent {
    view::event(&supervisor::InstanceEvent {
        id: row.id,
        instance: row.instance,
        generation: row.generation,
        at: row.at,
        kind: row.kind,
        message: row.message,
    })
}

async fn open(
    state: &AppState,
    instance: Option<InstanceId>,
    after: Option<i64>,
) -> Result<Response, ApiError> {
    let place = stream_place(state)?;
    let mut follow = Follow::new(state.clone(), instance, after);
    // The first read happens before the answer begins, so that a database that is away is a 503 and no empty stream.
    if follow.behind {
        follow.catch_up().await?;
    }
    Ok(sse(stream::unfold(
        (follow, place),
        |(mut follow, place)| async move {
            let event = follow.next().await?;
            Some((to_sse(&event), (follow, place)))
        },
    )))
}

fn to_sse(event: &InstanceEvent) -> Event {
    let data = serde_json::to_string(event).unwrap_or_default();
    let sse = Event::default().data(data);
    // Without a number of the store's (it was away) there is nothing to resume from.
    if event.id > 0 {
        sse.id(event.id.to_string())
    } else {
        sse
    }
}

/// One listener's place in the events.
struct Follow {
    state: AppState,
    live: broadcast::Receiver<supervisor::InstanceEvent>,
    instance: Option<InstanceId>,
    pending: VecDeque<InstanceEvent>,
    /// The greatest id that was sent or asked for; `None`: none yet.
    last_id: Option<i64>,
    recent: VecDeque<i64>,
    /// The store holds events that this listener has not seen.
    behind: bool,
}

impl Follow {
    fn new(state: AppState, instance: Option<InstanceId>, after: Option<i64>) -> Self {
        Self {
            live: state.supervisor.events(),
            state,
            instance,
            pending: VecDeque::new(),
            last_id: after,
            recent: VecDeque::new(),
            behind: after.is_some(),
        }
    }

    /// The next event; `None`: the daemon goes down, or the store failed while catching up (the client reconnects
    /// with `Last-Event-ID`).
    async fn next(&mut self) -> Option<InstanceEvent> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            if self.behind {
                self.catch_up().await.ok()?;
                continue;
            }
            let shutdown = self.state.shutdown.clone();
            let received = tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                received = self.live.recv() => received,
            };
            match received {
                Ok(event) => {
                    let wanted = self.instance.is_none_or(|id| id == event.instance);
                    if self.is_new(event.id) && wanted {
                        return Some(view::event(&event));
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => self.behind = self.last_id.is_some(),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    async fn catch_up(&mut self) -> Result<(), ApiError> {
        let after = self.last_id.unwrap_or(0);
        let store = &self.state.store;
        let rows = store.events_page(self.instance, after, REPLAY_ROWS).await?;
        self.behind = rows.len() >= REPLAY_ROWS as usize;
        for row in rows {
            if self.is_new(row.id) {
                self.pending.push_back(from_row(row));
            }
        }
        Ok(())
    }

    /// Remembers an id; whether it was not sent before.
    fn is_new(&mut self, id: i64) -> bool {
        if id <= 0 {
            return true;
        }
        if self.recent.contains(&id) {
            return false;
        }
        if self.recent.len() >= RECENT_IDS {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
        self.last_id = Some(self.last_id.map_or(id, |last| last.max(id)));
        true
    }
}
