//! `/mcps/{id}/logs`: pages with filters and search, and a follow by server-sent events.

use axum::{
    extract::State,
    response::{IntoResponse, Response, sse::Event},
};
use futures_util::{StreamExt, stream};
use http::HeaderMap;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    AppState,
    error::ApiError,
    events::{last_event_id, sse, stream_place, wants_stream},
    extract::{Faults, PathParam, Query},
    instances::page_limit,
    view,
};
use crate::{
    domain::{UnixMs, duration::HumanDuration, principal::Principal, violation::Violation},
    logs::{LogStream, StoredLog, Tail, TailFilter, TailStart},
    store::{LogQuery, LogSearch, StoreError},
    wire::{LogLine, Page, Problem},
};

/// Longest text to search for, in bytes.
const SEARCH_BYTES_MAX: usize = 1_024;
/// So many lines of an instance are looked at for one page of a search; a quarter of a second or so on a busy database.
const SEARCH_LINES: u32 = 200_000;
/// Most lines that a follow or `tail` begins with.
const TAIL_MAX: u32 = 10_000;

/// The answer for one page of log lines.
pub type LogPage = Page<LogLine>;

/// Which end of the log a page begins at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Order {
    Asc,
    Desc,
}

/// Query of a log page or follow.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogsQuery {
    /// Only lines of this time or later: RFC 3339, or how long ago, such as `10m`. Pages only.
    #[param(example = "10m")]
    since: Option<String>,
    /// Only lines of this time or earlier. Pages only.
    until: Option<String>,
    /// `stdout`, `stderr` or `system` (a word of the daemon's own).
    stream: Option<String>,
    /// Only lines that contain this text, in upper or lower case.
    #[serde(alias = "text")]
    q: Option<String>,
    /// `asc` (oldest first, the default) or `desc`. Pages only.
    #[param(value_type = Option<String>)]
    order: Option<Order>,
    /// The newest so many lines, oldest of them first; a follow begins with them. At most 10000, pages 1000.
    tail: Option<u32>,
    /// `next_cursor` of the page before, with the same `order`; a follow begins after this line.
    cursor: Option<i64>,
    /// Entries of a page, 1 to 1000; default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// The log of an instance: a page, or with `Accept: text/event-stream` a follow.
///
/// Each server-sent event is one line as JSON; resume with `Last-Event-ID`, nothing is lost or doubled. A page with `q` or
/// `stream` looks at 200000 lines at most: it may hold less than `limit`, or nothing, and have a `next_cursor` all the
/// same, with which the search goes on. One with `tail` looks at all that are kept.
#[utoipa::path(
    get, path = "/mcps/{id}/logs", tag = "instances", params(
        ("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`"), LogsQuery,
        ("Last-Event-ID" = Option<i64>, Header, description = "Follows only: the last line that was seen"),
    ),
    responses(
        (status = 200, description = "One page, or a follow", body = Page<LogLine>),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn read(
    who: Principal,
    State(state): State<AppState>,
    PathParam(id): PathParam,
    headers: HeaderMap,
    Query(query, mut faults): Query<LogsQuery>,
) -> Result<Response, ApiError> {
    let id = state.supervisor.resolve(&who, &id)?;
    let key = state.supervisor.get(&who, id)?.record.key;
    let plan = Plan::new(&query, view::now_ms(), &mut faults);
    if wants_stream(&headers) {
        check_follow(&query, &mut faults);
        faults.refuse()?;
        let start = follow_start(&query, plan.limit, last_event_id(&headers)?);
        return follow(&state, key, start, plan.filter()).await;
    }
    faults.refuse()?;
    let found = plan.search(&state, key, plan.store_query(&query)).await?;
    Ok(axum::Json(plan.page(found)).into_response())
}

/// A query that was checked.
struct Plan<'a> {
    stream: Option<LogStream>,
    text: Option<&'a str>,
    since: Option<UnixMs>,
    until: Option<UnixMs>,
    newest_first: bool,
    tail: bool,
    limit: usize,
}

impl<'a> Plan<'a> {
    fn new(query: &'a LogsQuery, now: UnixMs, faults: &mut Faults) -> Self {
        let mut wrong = |name: &str, code: &str, message: &str| {
            faults.add([Violation::of_parameter(name, code, message)]);
        };
        let words = [LogStream::Stdout, LogStream::Stderr, LogStream::System];
        let stream = query.stream.as_deref().and_then(|text| {
            let found = words.into_iter().find(|stream| stream.as_str() == text);
            if found.is_none() {
                wrong("stream", "enum", "stream must be stdout, stderr or system");
            }
            found
        });
        if query
            .q
            .as_ref()
            .is_some_and(|text| text.len() > SEARCH_BYTES_MAX)
        {
            wrong("q", "too-long", "q may hold 1024 bytes at most");
        }
        let tail = query.tail.is_some();
        if tail && (query.cursor.is_some() || query.order.is_some() || query.limit.is_some()) {
            let message = "tail does not go with cursor, order or limit";
            wrong("tail", "conflict", message);
        }
        if query.tail.is_some_and(|count| count > TAIL_MAX) {
            wrong("tail", "out-of-range", "tail may be 10000 at most");
        }
        let limit = match query.tail {
            Some(count) => (count as usize).min(super::instances::LIMIT_MAX),
            None => page_limit(query.limit, faults),
        };
        Self {
            stream,
            text: query.q.as_deref().filter(|text| !text.is_empty()),
            since: point(query.since.as_deref(), "since", now, faults),
            until: point(query.until.as_deref(), "until", now, faults),
            newest_first: tail || query.order == Some(Order::Desc),
            tail,
            limit,
        }
    }

    fn store_query(&self, query: &LogsQuery) -> LogQuery<'a> {
        let (after, before) = if self.newest_first {
            (None, query.cursor)
        } else {
            (query.cursor, None)
        };
        LogQuery {
            after,
            before,
            since: self.since,
            until: self.until,
            stream: self.stream.map(LogStream::code),
            text: self.text,
            newest_first: self.newest_first,
            limit: u32::try_from(self.limit).unwrap_or(u32::MAX),
        }
    }

    async fn search(
        &self,
        state: &AppState,
        key: i64,
        mut query: LogQuery<'_>,
    ) -> Result<LogSearch, StoreError> {
        let mut found = LogSearch::default();
        // A tail of none is asked by those who only want to know that the log is there.
        while query.limit > 0 {
            let next = state.store.search_logs(key, query, SEARCH_LINES).await?;
            let more = u32::try_from(next.entries.len()).unwrap_or(u32::MAX);
            found.entries.extend(next.entries);
            found.unfinished_at = next.unfinished_at;
            // A tail has no cursor to go on with: it is looked for until it is whole, a stretch at a time.
            if !self.tail || found.unfinished_at.is_none() {
                break;
            }
            query.before = found.unfinished_at;
            query.limit = query.limit.saturating_sub(more);
        }
        Ok(found)
    }

    fn filter(&self) -> TailFilter {
        TailFilter {
            stream: self.stream,
            text: self.text.map(str::to_owned),
        }
    }

    fn page(&self, found: LogSearch) -> LogPage {
        let mut rows = found.entries;
        let full = rows.len() >= self.limit;
        let last = rows.last().filter(|_| full).map(|row| row.id);
        let next_cursor = last.or(found.unfinished_at).filter(|_| !self.tail);
        let next_cursor = next_cursor.map(|id| id.to_string());
        if self.tail {
            rows.reverse();
        }
        let items = rows
            .into_iter()
            .map(|row| LogLine {
                id: row.id,
                at: view::time(row.at),
                generation: row.generation.0,
                session_child: number(row.member),
                stream: stream_word(LogStream::from_code(row.stream)),
                line: row.line,
                continued: row.continued,
            })
            .collect();
        LogPage { items, next_cursor }
    }
}

/// The number of the session's own child that wrote it.
fn number(member: u32) -> Option<u32> {
    (member > 0).then_some(member)
}

fn stream_word(stream: Option<LogStream>) -> String {
    stream.map_or("unknown", LogStream::as_str).to_owned()
}

/// A point in time: RFC 3339, or a duration before now.
pub(super) fn point(
    given: Option<&str>,
    name: &str,
    now: UnixMs,
    faults: &mut Faults,
) -> Option<UnixMs> {
    let text = given?;
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time.as_millisecond());
    }
    if let Ok(ago) = text.parse::<HumanDuration>() {
        let ago_ms = i64::try_from(ago.ms()).unwrap_or(i64::MAX);
        return Some(now.saturating_sub(ago_ms));
    }
    let message =
        format!("{name} must be a time such as 2026-01-31T12:00:00Z, or how long ago, such as 10m");
    faults.add([Violation::of_parameter(name, "pattern", message)]);
    None
}

fn check_follow(query: &LogsQuery, faults: &mut Faults) {
    let given = [
        ("since", query.since.is_some()),
        ("until", query.until.is_some()),
        ("order", query.order.is_some()),
    ];
    for (name, _) in given.into_iter().filter(|(_, given)| *given) {
        let message = format!("{name} does not go with a follow");
        faults.add([Violation::of_parameter(name, "conflict", message)]);
    }
}

fn follow_start(query: &LogsQuery, limit: usize, last_id: Option<i64>) -> TailStart {
    // On a reconnect the header tells the newer place.
    match (last_id.or(query.cursor), query.tail) {
        (Some(id), _) => TailStart::After(id),
        (None, Some(count)) => TailStart::Last(count),
        (None, None) => TailStart::Last(u32::try_from(limit).unwrap_or(u32::MAX)),
    }
}

async fn follow(
    state: &AppState,
    key: i64,
    start: TailStart,
    filter: TailFilter,
) -> Result<Response, ApiError> {
    let place = stream_place(state)?;
    let mut tail = state.logs.follow(key, start, filter);
    // Before the answer begins: who has it and then sees something happen must find it here, and a database that is
    // away is a 503 and no empty stream.
    tail.begin().await?;
    let shutdown = state.shutdown.clone();
    let batches = stream::unfold(
        (tail, place, shutdown),
        |(mut tail, place, shutdown)| async {
            let lines = tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                lines = next_lines(&mut tail) => lines?,
            };
            let events: Vec<Event> = lines.into_iter().map(to_sse).collect();
            Some((stream::iter(events), (tail, place, shutdown)))
        },
    );
    Ok(sse(batches.flatten()))
}

/// `None` ends the stream: the pipeline closed, or the store is away and the client should come back with
/// `Last-Event-ID`.
async fn next_lines(tail: &mut Tail) -> Option<Vec<StoredLog>> {
    match tail.next().await {
        Ok(lines) => lines,
        Err(error) => {
            tracing::warn!("a log follow ended: {error}");
            None
        }
    }
}

fn to_sse(line: StoredLog) -> Event {
    let record = line.record;
    let shown = LogLine {
        id: line.id,
        at: view::time(record.at),
        generation: record.generation.0,
        session_child: number(record.member),
        stream: record.stream.as_str().to_owned(),
        line: record.line,
        continued: record.continued,
    };
    Event::default()
        .id(line.id.to_string())
        .data(serde_json::to_string(&shown).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::id::Generation, store::LogEntry};

    fn query(text: &str) -> LogsQuery {
        let uri = format!("http://x/?{text}").parse().expect("a uri");
        let axum::extract::Query(query) = axum::extract::Query::try_from_uri(&uri).expect(text);
        query
    }

    fn rows(ids: &[i64]) -> LogSearch {
        let row = |id: &i64| LogEntry {
            id: *id,
            generation: Generation(1),
            member: 0,
            stream: LogStream::Stderr.code(),
            at: 0,
            line: format!("line {id}"),
            continued: false,
        };
        LogSearch {
            entries: ids.iter().map(row).collect(),
            unfinished_at: None,
        }
    }

    fn plan(query: &LogsQuery) -> Plan<'_> {
        let mut faults = Faults::default();
        let plan = Plan::new(query, 0, &mut faults);
        assert!(!faults.any(), "{faults:?}");
        plan
    }

    #[test]
    fn a_time_is_a_date_or_how_long_ago() {
        let mut faults = Faults::default();
        let mut at = |text, now| point(Some(text), "since", now, &mut faults);
        assert_eq!(at("10m", 1_000_000), Some(400_000));
        assert_eq!(at("1970-01-01T00:00:01Z", 0), Some(1_000));
        assert_eq!(at("yesterday", 0), None);
        assert!(faults.any());
    }

    #[test]
    fn tail_reads_the_end_and_shows_it_in_order() {
        let two = query("tail=2");
        let asked = plan(&two).store_query(&two);
        assert!(asked.newest_first);
        assert_eq!(asked.limit, 2);
        let page = plan(&two).page(rows(&[9, 8]));
        assert_eq!(
            page.items.iter().map(|line| line.id).collect::<Vec<_>>(),
            [8, 9]
        );
        assert_eq!(page.next_cursor, None);
        let none = query("tail=0");
        assert_eq!(plan(&none).limit, 0);
        assert_eq!(plan(&none).page(rows(&[])).next_cursor, None);
    }

    #[test]
    fn the_cursor_goes_on_in_the_same_direction() {
        let forward = query("cursor=5&limit=2");
        assert_eq!(plan(&forward).store_query(&forward).after, Some(5));
        let cursor = |ids: &[i64]| plan(&forward).page(rows(ids)).next_cursor;
        assert_eq!(cursor(&[6, 7]).as_deref(), Some("7"));
        assert_eq!(cursor(&[6]), None);
        let unfinished = |ids: &[i64]| LogSearch {
            unfinished_at: Some(9),
            ..rows(ids)
        };
        let next = |ids: &[i64]| plan(&forward).page(unfinished(ids)).next_cursor;
        assert_eq!(next(&[6]).as_deref(), Some("9"));
        assert_eq!(next(&[]).as_deref(), Some("9"));
        let backward = query("cursor=5&order=desc");
        assert_eq!(plan(&backward).store_query(&backward).before, Some(5));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            "stream=both",
            "tail=5&cursor=1",
            "tail=10001",
            "limit=0",
            "limit=1001",
            "since=soon",
            "tail=5&order=asc",
        ] {
            let mut faults = Faults::default();
            Plan::new(&query(bad), 0, &mut faults);
            assert!(faults.any(), "{bad}");
        }
        let mut faults = Faults::default();
        check_follow(&query("since=10m&order=asc"), &mut faults);
        Plan::new(&query("stream=both&limit=0&until=x"), 0, &mut faults);
        let error = faults.refuse().expect_err("five faults");
        let told = error.problem("r").violations.into_iter();
        let told: Vec<_> = told.filter_map(|one| one.parameter).collect();
        assert_eq!(told, ["limit", "order", "since", "stream", "until"]);
    }

    #[test]
    fn a_follow_prefers_the_place_the_client_reached() {
        let start = |text, last| follow_start(&query(text), 100, last);
        assert_eq!(start("cursor=5", Some(9)), TailStart::After(9));
        assert_eq!(start("cursor=5", None), TailStart::After(5));
        assert_eq!(start("tail=0", None), TailStart::Last(0));
        assert_eq!(start("", None), TailStart::Last(100));
    }
}
