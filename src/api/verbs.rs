//! `/mcps/{id}/VERB`: start, stop, restart, extend, restore, and the access token.

use std::collections::BTreeMap;

use axum::extract::State;
use serde_json::Value;
use utoipa::{
    IntoResponses,
    openapi::{RefOr, Response},
};

use super::{
    AppState,
    error::ApiError,
    extract::{Faults, Json, PathParam},
    openapi::problem_response,
    shown::Shown,
};
use crate::{
    domain::{
        duration::HumanDuration, lease::read_duration, principal::Principal, violation::Violation,
    },
    wire::{Instance, RotateAccessToken, TtlRequest},
};

/// How every verb may be refused, beside what holds for all operations.
struct VerbRefusals;

impl IntoResponses for VerbRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let wrong_state =
            "`wrong-state`: says what would be possible; `over-budget` where it would be launched";
        [("404", "`not-found`"), ("409", wrong_state)]
            .map(|(status, text)| (status.to_owned(), RefOr::T(problem_response(text))))
            .into()
    }
}

/// Longest overlap of an old access token with a new one.
const OVERLAP_MAX: HumanDuration = HumanDuration::from_secs(7 * 24 * 3_600);

/// How long an old secret shall stay valid; the faults of the body are refused here.
pub(super) fn overlap_of(
    body: &RotateAccessToken,
    mut faults: Faults,
) -> Result<HumanDuration, ApiError> {
    let read = match &body.overlap {
        None | Some(Value::Null) => Ok(HumanDuration::default()),
        Some(value) => read_duration(value)
            .map_err(|message| Violation::new("/overlap", "invalid-duration", message)),
    };
    let overlap = faults.take(read.and_then(|overlap| {
        let message = || format!("overlap may be {OVERLAP_MAX} at most");
        (overlap <= OVERLAP_MAX)
            .then_some(overlap)
            .ok_or_else(|| Violation::new("/overlap", "out-of-range", message()))
    }));
    faults.refuse()?;
    Ok(overlap.unwrap_or_default())
}

/// Starts a stopped, sleeping or failed instance, or wakes a frozen one; its failure count begins anew.
#[utoipa::path(
    post, path = "/mcps/{id}/start", tag = "instances", params(("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`")),
    responses(
        (status = 200, description = "As it is now; follow `status` or the event stream", body = Instance),
        VerbRefusals,
    )
)]
pub async fn start(
    who: Principal,
    State(state): State<AppState>,
    PathParam(id): PathParam,
) -> Result<Shown, ApiError> {
    let id = state.supervisor.resolve(&who, &id)?;
    let seen = state.supervisor.start(&who, id).await?;
    Ok(Shown::instance(&seen))
}

/// Stops the instance; its URL, token, data and logs stay.
#[utoipa::path(
    post, path = "/mcps/{id}/stop", tag = "instances", params(("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`")),
    responses(
        (status = 200, description = "As it is now; follow `status` or the event stream", body = Instance),
        VerbRefusals,
    )
)]
pub async fn stop(
    who: Principal,
    State(state): State<AppState>,
    PathParam(id): PathParam,
) -> Result<Shown, ApiError> {
    let id = state.supervisor.resolve(&who, &id)?;
    let seen = state.supervisor.stop(&who, id).await?;
    Ok(Shown::instance(&seen))
}

/// Stops the instance, then starts it.
#[utoipa::path(
    post, path = "/mcps/{id}/restart", tag = "instances", params(("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`")),
    responses(
        (status = 200, description = "As it is now; follow `status` or the event stream", body = Instance),
        VerbRefusals,
    )
)]
pub async fn restart(
    who: Principal,
    State(state): State<AppState>,
    PathParam(id): PathParam,
) -> Result<Shown, ApiError> {
    let id = state.supervisor.resolve(&who, &id)?;
    let seen = state.supervisor.restart(&who, id).await?;
    Ok(Shown::instance(&seen))
}

/// Moves the deadline: the new TTL counts from now. Without a body the TTL last asked for counts again.
#[utoipa::path(
    post, path = "/mcps/{id}/extend", tag = "instances", params(("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`")),
    request_body(content = TtlRequest, example = json!({"ttl": "2h"})),
    responses(
        (status = 200, description = "As it is now", body = Instance),
        VerbRefusals,
    )
)]
pub async fn extend(
    who: Principal,
    State(state): State<AppState>,
    PathParam(id): PathParam,
    Json(body, mut faults): Json<TtlRequest>,
) -> Result<Shown, ApiError> {
    let id = state.supervisor.resolve(&who, &id)?;
    let ttl = faults.of(state.supervisor.check_ttl(&who, id, body.ttl.as_ref()))?;
    faults.refuse()?;
    let ttl = ttl.flatten();
    let seen = state.supervisor.extend(&who, id, ttl).await?;
    Ok(Shown::instance(&seen))
}

/// Brings an expired instance back within its restore window: same id, URL, token, data and logs.
#[utoipa::path(
    post, path = "/mcps/{id}/restore", tag = "instances", params(("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`")),
    request_body(content = TtlRequest, example = json!({"ttl": "2h"})),
    responses(
        (status = 200, description = "As it is now", body = Instance),
        VerbRefusals,
    )
)]
pub async fn restore(
    who: Principal,
    State(state): State<AppState>,
    PathParam(id): PathParam,
    Json(body, mut faults): Json<TtlRequest>,
) -> Result<Shown, ApiError> {
    let id = state.supervisor.resolve(&who, &id)?;
    let ttl = faults.of(state.supervisor.check_ttl(&who, id, body.ttl.as_ref()))?;
    faults.refuse()?;
    let ttl = ttl.flatten();
    let seen = state.supervisor.restore(&who, id, ttl).await?;
    Ok(Shown::instance(&seen))
}

/// Gives the access token `default` a new secret and shows it once; the old one stays valid for `overlap` (at most 7d).
#[utoipa::path(
    post, path = "/mcps/{id}/access-token", tag = "instances", params(("id" = String, Path, description = "Its id, its name, or `OWNER.NAME`")),
    request_body(content = RotateAccessToken, example = json!({"overlap": "5m"})),
    responses(
        (status = 200, description = "The instance with its new `access_token` and `connect_url`", body = Instance),
        VerbRefusals,
    )
)]
pub async fn rotate_access_token(
    who: Principal,
    State(state): State<AppState>,
    PathParam(id): PathParam,
    Json(body, faults): Json<RotateAccessToken>,
) -> Result<Shown, ApiError> {
    let id = state.supervisor.resolve(&who, &id)?;
    let overlap = overlap_of(&body, faults)?;
    let granted = state
        .supervisor
        .rotate_access_token(&who, id, overlap)
        .await?;
    Ok(Shown::granted(&granted, &granted.status))
}
