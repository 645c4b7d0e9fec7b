//! `/mcps`: create, list, get, patch, delete.

use axum::{extract::State, response::IntoResponse};
use http::{StatusCode, header};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    AppState,
    error::ApiError,
    extract::{Faults, Json, PathParam, Query},
    owners,
    shown::Shown,
};
use crate::{
    domain::{
        duration::HumanDuration, id::InstanceId, principal::Principal, state::StatusWord,
        violation::Violation,
    },
    supervisor::{CreateRequest, ListFilter, check_patch},
    wire::{
        CreateInstance, Instance, ListedInstance, Page, PatchInstance, Problem, Stats,
        StatusSchema, ViewSchema,
    },
};

/// Entries of a page when the request does not say.
pub const LIMIT_DEFAULT: usize = 100;
/// Most entries of a page.
pub const LIMIT_MAX: usize = 1_000;
/// How long `?wait=ready` waits when the request does not say.
const WAIT_DEFAULT: HumanDuration = HumanDuration::from_secs(30);

/// What a create call waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WaitFor {
    Ready,
}

/// Query of a create call.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CreateQuery {
    /// `ready`: answer once the instance runs, failed, or `timeout` is over.
    #[param(value_type = Option<String>, example = "ready")]
    wait: Option<WaitFor>,
    /// How long to wait (seconds, or a text such as `20s`; default 30s, at most the server's request timeout).
    #[param(value_type = Option<String>, example = "20s")]
    timeout: Option<HumanDuration>,
}

/// Query of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only instances with this status.
    #[param(value_type = Option<StatusSchema>, inline, example = "running")]
    status: Option<StatusWord>,
    /// Only instances of this template.
    template: Option<String>,
    /// Only instances of this owner.
    owner: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Entries of the page, 1 to 1000; default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `full` (the default): entries as `GET /mcps/{id}` answers. `summary`: what a table of instances shows, a quarter of it.
    #[param(value_type = Option<ViewSchema>, inline, example = "summary")]
    #[serde(default)]
    view: View,
}

/// How much a list tells of each instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum View {
    #[default]
    Full,
    Summary,
}

/// Checks `limit` of a query; the default stands in for one that is not allowed.
pub fn page_limit(asked: Option<usize>, faults: &mut Faults) -> usize {
    let limit = asked.unwrap_or(LIMIT_DEFAULT);
    if (1..=LIMIT_MAX).contains(&limit) {
        return limit;
    }
    let message = format!("limit must be 1 to {LIMIT_MAX}");
    faults.add([Violation::of_parameter("limit", "out-of-range", message)]);
    LIMIT_DEFAULT
}

/// Creates an instance and starts it.
///
/// The answer holds the access token; it is shown only here and on rotation. With `wait=ready` the answer comes when
/// the instance runs, failed, or the time is over: look at `status`.
#[utoipa::path(
    post, path = "/mcps", tag = "instances", params(CreateQuery),
    request_body(content = CreateInstance, example = json!({"template": "demo", "name": "my-demo", "ttl": "2h"})),
    responses(
        (status = 201, description = "Created", body = Instance, headers(("Location" = String, description = "Its path"))),
        (status = 409, description = "`name-taken`, `template-unavailable`, or `over-budget`: the owner has as much as `[budgets]` of the configuration allows", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`validation-failed`: every fault is listed", body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "`ports-exhausted`, `descriptors-exhausted` or `instances-exhausted`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn create(
    who: Principal,
    State(state): State<AppState>,
    Query(query, asked): Query<CreateQuery>,
    Json(body, mut faults): Json<CreateInstance>,
) -> Result<impl IntoResponse, ApiError> {
    faults.join(asked);
    if query.timeout.is_some() && query.wait.is_none() {
        let message = "timeout goes with wait=ready";
        faults.add([Violation::of_parameter("timeout", "conflict", message)]);
    }
    let who = owners::acting(who, body.owner, &mut faults)?;
    let request = CreateRequest {
        template: body.template,
        name: body.name,
        ttl: body.ttl,
        credentials: body.credentials,
        settings: body.settings,
        labels: body.labels,
        freeze_after: body.freeze_after,
        sleep_after: body.sleep_after,
        force: body.force,
    };
    if faults.any() {
        faults.of(state.supervisor.check_create(&who, request.clone()).await)?;
    }
    faults.refuse()?;
    let granted = state.supervisor.create(&who, request).await?;
    let id = granted.status.record.id;
    let shown = match query.wait {
        Some(WaitFor::Ready) => {
            let wait = state.wait_budget(query.timeout.unwrap_or(WAIT_DEFAULT));
            // The instance exists by now and its token is shown only once: whatever the wait brings, answer 201.
            match state.supervisor.wait_settled(&who, id, wait).await {
                Ok(seen) => Shown::granted(&granted, &seen),
                Err(_) => Shown::granted(&granted, &granted.status),
            }
        }
        None => Shown::granted(&granted, &granted.status),
    };
    let location = [(header::LOCATION, format!("/api/v1/mcps/{id}"))];
    Ok((StatusCode::CREATED, location, shown))
}

/// Lists instances, oldest first.
#[utoipa::path(
    get, path = "/mcps", tag = "instances", params(ListQuery),
    responses((status = 200, description = "One page", body = Page<ListedInstance>))
)]
pub async fn list(
    who: Principal,
    State(state): State<AppState>,
    Query(query, mut faults): Query<ListQuery>,
) -> Result<Shown, ApiError> {
    let limit = page_limit(query.limit, &mut faults);
    let cursor = query.cursor.as_deref().map(str::parse::<InstanceId>);
    let after = cursor.transpose().map_err(|_| {
        let message = "cursor is not one that a list of instances gave";
        Violation::of_parameter("cursor", "pattern", message)
    });
    let after = faults.take(after).flatten();
    faults.refuse()?;
    let filter = ListFilter {
        status: query.status,
        template: query.template,
        owner: query.owner,
    };
    let supervisor = &state.supervisor;
    Ok(match query.view {
        View::Full => {
            let (items, next) = supervisor.list(&who, &filter, after, limit);
            Shown::page(&items, next)
        }
        View::Summary => {
            let (items, next) = supervisor.glance(&who, &filter, after, limit);
            Shown::summaries(&items, next)
        }
    })
}

/// One instance, by id or name.
#[utoipa::path(
    get, path = "/mcps/{id}", tag = "instances", params(("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`")),
    responses(
        (status = 200, description = "The instance as it is now", body = Instance),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get(
    who: Principal,
    State(state): State<AppState>,
    PathParam(id): PathParam,
) -> Result<Shown, ApiError> {
    let id = state.supervisor.resolve(&who, &id)?;
    let seen = state.supervisor.get(&who, id)?;
    Ok(Shown::instance(&seen))
}

/// Changes name, labels, or how long it may be unused before it is frozen or sleeps; what is absent stays.
#[utoipa::path(
    patch, path = "/mcps/{id}", tag = "instances", params(("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`")),
    request_body(content = PatchInstance, example = json!({"labels": {"team": "search"}})),
    responses(
        (status = 200, description = "As it is now", body = Instance),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`name-taken`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`validation-failed`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn patch(
    who: Principal,
    State(state): State<AppState>,
    PathParam(id): PathParam,
    Json(body, mut faults): Json<PatchInstance>,
) -> Result<Shown, ApiError> {
    let id = state.supervisor.resolve(&who, &id)?;
    let policy = &state.supervisor.context().config.sleep;
    let (freeze, sleep) = (body.freeze_after.as_ref(), body.sleep_after.as_ref());
    let change = faults.of(check_patch(policy, body.name, body.labels, freeze, sleep))?;
    faults.refuse()?;
    let change = change.unwrap_or_default();
    let seen = state.supervisor.patch(&who, id, change).await?;
    Ok(Shown::instance(&seen))
}

/// Stops the instance, gives its port back and removes it with its data, token and logs.
#[utoipa::path(
    delete, path = "/mcps/{id}", tag = "instances", params(("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`")),
    responses(
        (status = 204, description = "Gone"),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn delete(
    who: Principal,
    State(state): State<AppState>,
    PathParam(id): PathParam,
) -> Result<StatusCode, ApiError> {
    let id = state.supervisor.resolve(&who, &id)?;
    state.supervisor.delete(&who, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Query of the statistics.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StatsQuery {
    /// How far back calls are counted, 1s to 30d; default 1h.
    #[param(value_type = Option<String>, example = "1h")]
    window: Option<String>,
}

/// Longest time that calls are counted over.
const WINDOW_MAX: HumanDuration = HumanDuration::from_secs(30 * 24 * 3_600);

fn window(asked: Option<&str>) -> Result<HumanDuration, Violation> {
    let window = asked.map_or(Ok(HumanDuration::from_secs(3_600)), str::parse);
    window
        .ok()
        .filter(|window| (HumanDuration::from_secs(1)..=WINDOW_MAX).contains(window))
        .ok_or_else(|| {
            let text = format!("window must be a time from 1s to {WINDOW_MAX}, such as 1h");
            Violation::of_parameter("window", "out-of-range", text)
        })
}

/// What the instance uses now, and what became of the latest calls.
#[utoipa::path(
    get, path = "/mcps/{id}/stats", tag = "instances", params(("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`"), StatsQuery),
    responses(
        (status = 200, description = "Memory, CPU time, sessions, requests, calls", body = Stats),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn stats(
    who: Principal,
    State(state): State<AppState>,
    PathParam(id): PathParam,
    Query(query, mut faults): Query<StatsQuery>,
) -> Result<axum::Json<Stats>, ApiError> {
    let window = faults.take(window(query.window.as_deref()));
    faults.refuse()?;
    let id = state.supervisor.resolve(&who, &id)?;
    let key = state.supervisor.get(&who, id)?.record.key;
    let mut stats = state.supervisor.stats(&who, id).await?;
    stats.calls = super::calls::stats(&state.store, key, window.unwrap_or_default()).await?;
    Ok(axum::Json(stats))
}
