//! `/tasks`: background tasks, and running one now.

use axum::extract::State;
use http::StatusCode;

use super::{AppState, error::ApiError, extract::PathParam};
use crate::{
    domain::principal::Principal,
    wire::{Page, Problem, TaskStatus},
};

/// The answer for the list of tasks; always one page.
pub type TaskPage = Page<TaskStatus>;

/// Lists the background tasks and how each did last.
#[utoipa::path(
    get, path = "/tasks", tag = "operations",
    responses((status = 200, description = "All tasks, by name", body = Page<TaskStatus>))
)]
pub async fn list(_who: Principal, State(state): State<AppState>) -> axum::Json<TaskPage> {
    axum::Json(Page {
        items: state.tasks.statuses(),
        next_cursor: None,
    })
}

/// Runs a task now; if it runs already, once more after that.
///
/// The answer does not wait for the run; see its status for the result.
#[utoipa::path(
    post, path = "/tasks/{name}/run", tag = "operations", params(("name" = String, Path, description = "Its name")),
    responses(
        (status = 202, description = "It will run", body = TaskStatus),
        (status = 404, description = "`not-found`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn run(
    _who: Principal,
    State(state): State<AppState>,
    PathParam(name): PathParam,
) -> Result<(StatusCode, axum::Json<TaskStatus>), ApiError> {
    state.tasks.activate(&name)?;
    let status = state
        .tasks
        .statuses()
        .into_iter()
        .find(|status| status.name == name)
        .ok_or_else(|| ApiError::internal("an activated task has no status"))?;
    Ok((StatusCode::ACCEPTED, axum::Json(status)))
}
