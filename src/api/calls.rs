//! `/mcps/{id}/calls`: who called which tool, when, how long, and how it ended.

use std::collections::HashMap;

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    AppState,
    error::ApiError,
    extract::{PathParam, Query},
    instances::page_limit,
    logs::point,
    view,
};
use crate::{
    domain::{
        call::{CallOutcome, percentile},
        duration::HumanDuration,
        principal::Principal,
        violation::Violation,
    },
    store::{CallQuery, CallSample, Store, StoreError},
    wire::{CallEntry, CallNumbers, CallStats, OutcomeSchema, Page, Problem, ToolStats},
};

/// The answer for one page of calls.
pub type CallPage = Page<CallEntry>;

/// Most calls that statistics are made of.
const SAMPLES_MAX: u32 = 10_000;
/// Most tools of the statistics.
const TOOLS_MAX: usize = 100;

/// Query of a page of calls.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CallsQuery {
    /// Only calls of this tool.
    tool: Option<String>,
    /// Only calls with this access token.
    token: Option<String>,
    /// Only calls that ended so: ok, tool-error, rpc-error, input-required, cancelled, disconnected, failed, refused; and
    /// `lost`, which tells how many calls from then on have no record.
    #[param(value_type = Option<OutcomeSchema>, inline)]
    outcome: Option<String>,
    /// Only calls of this time or later: RFC 3339, or how long ago, such as `10m`.
    #[param(example = "10m")]
    since: Option<String>,
    /// Only calls of this time or earlier.
    until: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<i64>,
    /// Entries of the page, 1 to 1000; default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// The calls of an instance's tools, newest first. A call is there a moment after its end.
#[utoipa::path(
    get, path = "/mcps/{id}/calls", tag = "instances",
    params(("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`"), CallsQuery),
    responses(
        (status = 200, description = "One page", body = Page<CallEntry>),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list(
    who: Principal,
    State(state): State<AppState>,
    PathParam(id): PathParam,
    Query(query, mut faults): Query<CallsQuery>,
) -> Result<axum::Json<CallPage>, ApiError> {
    let limit = page_limit(query.limit, &mut faults);
    let now = view::now_ms();
    if let Some(outcome) = &query.outcome
        && !CallOutcome::WORDS.contains(&outcome.as_str())
    {
        let text = format!("outcome must be one of {}", CallOutcome::WORDS.join(", "));
        faults.add([Violation::of_parameter("outcome", "enum", text)]);
    }
    let page = CallQuery {
        before: query.cursor,
        since: point(query.since.as_deref(), "since", now, &mut faults),
        until: point(query.until.as_deref(), "until", now, &mut faults),
        tool: query.tool.as_deref(),
        token: query.token.as_deref(),
        outcome: query.outcome.as_deref(),
        // One more tells whether there is a next page.
        limit: u32::try_from(limit + 1).unwrap_or(u32::MAX),
    };
    faults.refuse()?;
    let id = state.supervisor.resolve(&who, &id)?;
    let key = state.supervisor.get(&who, id)?.record.key;
    let mut rows = state.store.calls_page(key, page).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = rows.last().filter(|_| more).map(|row| row.id.to_string());
    let items = rows.into_iter().map(|row| CallEntry {
        id: row.id,
        started_at: view::time(row.started_at),
        generation: row.generation.0,
        token: row.token,
        tool: row.tool,
        era: if row.stateless {
            "stateless"
        } else {
            "session"
        }
        .to_owned(),
        duration_us: row.duration_us,
        outcome: row.outcome,
        code: row.code,
        request_bytes: row.request_bytes,
        answer_bytes: row.answer_bytes,
        arguments: row.arguments,
    });
    Ok(axum::Json(Page {
        items: items.collect(),
        next_cursor,
    }))
}

/// The statistics of an instance's calls in the last `window`.
pub(super) async fn stats(
    store: &Store,
    key: i64,
    window: HumanDuration,
) -> Result<CallStats, StoreError> {
    let window_ms = i64::try_from(window.ms()).unwrap_or(i64::MAX);
    let since = view::now_ms().saturating_sub(window_ms);
    let samples = store.call_samples(key, since, SAMPLES_MAX).await?;
    Ok(counted(&samples, window))
}

fn counted(samples: &[CallSample], window: HumanDuration) -> CallStats {
    let calls: Vec<&CallSample> = samples
        .iter()
        .filter(|sample| sample.outcome != CallOutcome::Lost(0).word())
        .collect();
    let mut by_tool: HashMap<&str, Vec<&CallSample>> = HashMap::new();
    for sample in &calls {
        by_tool.entry(&sample.tool).or_default().push(sample);
    }
    let mut tools: Vec<ToolStats> = by_tool
        .into_iter()
        .map(|(tool, samples)| ToolStats {
            tool: tool.to_owned(),
            numbers: numbers(samples.into_iter()),
        })
        .collect();
    tools.sort_by(|a, b| {
        let by_count = b.numbers.count.cmp(&a.numbers.count);
        by_count.then_with(|| a.tool.cmp(&b.tool))
    });
    tools.truncate(TOOLS_MAX);
    CallStats {
        window: window.to_string(),
        complete: calls.len() == samples.len()
            && u32::try_from(samples.len()).is_ok_and(|count| count < SAMPLES_MAX),
        total: numbers(calls.into_iter()),
        tools,
    }
}

fn numbers<'a>(samples: impl Iterator<Item = &'a CallSample>) -> CallNumbers {
    let good = [CallOutcome::Ok.word(), CallOutcome::InputRequired.word()];
    let mut errors = 0;
    let mut durations: Vec<i64> = samples
        .map(|sample| {
            errors += u64::from(!good.contains(&sample.outcome.as_str()));
            sample.duration_us
        })
        .collect();
    durations.sort_unstable();
    CallNumbers {
        count: u64::try_from(durations.len()).unwrap_or(u64::MAX),
        errors,
        p50_us: percentile(&durations, 50),
        p95_us: percentile(&durations, 95),
        p99_us: percentile(&durations, 99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_together_and_by_tool() {
        let sample = |tool: &str, outcome: &str, duration_us| CallSample {
            tool: tool.to_owned(),
            outcome: outcome.to_owned(),
            duration_us,
        };
        let samples = [
            sample("b", "ok", 30),
            sample("a", "rpc-error", 10),
            sample("b", "input-required", 20),
        ];
        let stats = counted(&samples, HumanDuration::from_secs(3_600));
        assert_eq!((stats.window.as_str(), stats.complete), ("1h", true));
        let total = CallNumbers {
            count: 3,
            errors: 1,
            p50_us: 20,
            p95_us: 30,
            p99_us: 30,
        };
        assert_eq!(stats.total, total);
        let tools: Vec<_> = stats
            .tools
            .iter()
            .map(|tool| (tool.tool.as_str(), tool.numbers.count))
            .collect();
        assert_eq!(tools, [("b", 2), ("a", 1)]);
        assert_eq!(
            counted(&[], HumanDuration::from_secs(60)).total,
            CallNumbers::default()
        );
        let gap = counted(&[sample("", "lost", 0)], HumanDuration::from_secs(60));
        assert_eq!((gap.total, gap.complete), (CallNumbers::default(), false));
    }
}
