//! `/keys`: the master keys by id, and a new one.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;

use super::{AppState, error::ApiError};
use crate::{
    domain::principal::Principal,
    secrets,
    wire::{MasterKey, Page, Problem},
};

/// The answer for the list of keys; always one page.
pub type MasterKeyPage = Page<MasterKey>;

/// The task that seals stored credentials with the new key.
const RESEAL_TASK: &str = "reseal-credentials";

/// Lists the master keys by id; the keys themselves are never shown.
#[utoipa::path(
    get, path = "/keys", tag = "operations",
    responses((status = 200, description = "All keys; the active one first", body = Page<MasterKey>))
)]
pub async fn list(_who: Principal, State(state): State<AppState>) -> axum::Json<MasterKeyPage> {
    let active = state.keys.active_key_id();
    let keys = state.keys.key_ids().into_iter();
    let items = keys
        .map(|id| MasterKey {
            active: id == active,
            id,
        })
        .collect();
    axum::Json(Page {
        items,
        next_cursor: None,
    })
}

/// Removes the master keys that no stored credential is sealed with any more; the active one always stays. Answers of
/// idempotent requests that they sealed can no longer be repeated, and backups of the database made before need them:
/// keep a copy of the key file with those.
#[utoipa::path(
    post, path = "/keys/retire", tag = "operations",
    responses(
        (status = 200, description = "The keys removed", body = Page<MasterKey>),
        (status = 409, description = "`wrong-state`: the keys do not come from a file of the daemon's",
         body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn retire(
    _who: Principal,
    State(state): State<AppState>,
) -> Result<axum::Json<Page<MasterKey>>, ApiError> {
    let removed = secrets::retire_unused_keys(&state.keys, &state.store).await?;
    let items = removed
        .into_iter()
        .map(|id| MasterKey { id, active: false });
    Ok(axum::Json(Page {
        items: items.collect(),
        next_cursor: None,
    }))
}

/// Adds a master key that seals from now on. Stored credentials are sealed again with it in the background.
#[utoipa::path(
    post, path = "/keys/rotate", tag = "operations",
    responses(
        (status = 201, description = "The new key", body = MasterKey),
        (status = 409, description = "`wrong-state`: the keys do not come from a file of the daemon's",
         body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn rotate(
    _who: Principal,
    State(state): State<AppState>,
) -> Result<(StatusCode, axum::Json<MasterKey>), ApiError> {
    let keys = Arc::clone(&state.keys);
    let id = tokio::task::spawn_blocking(move || keys.rotate())
        .await
        .map_err(|error| ApiError::internal(error.to_string()))??;
    state.tasks.activate(RESEAL_TASK)?;
    Ok((
        StatusCode::CREATED,
        axum::Json(MasterKey { id, active: true }),
    ))
}
