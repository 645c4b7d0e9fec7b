//! `/upgrade`: the daemon goes on as the program that lies where its own did.

use axum::{Json, extract::State};
use futures_util::future::BoxFuture;
use http::StatusCode;

use super::{
    AppState,
    error::{ApiError, Code},
};
use crate::{
    domain::principal::Principal,
    wire::{Problem, UpgradeBegun},
};

/// Asks the program, and has the daemon stop for it; `Err` is the sentence why it goes on as it is.
pub type UpgradeDesk =
    Box<dyn Fn() -> BoxFuture<'static, Result<UpgradeBegun, String>> + Send + Sync>;

/// Goes on as the program that lies where the daemon's own did. That one is asked first whether it would serve with this
/// configuration and database; if not, nothing happens. Instances, sessions and connections that wait stay as they are.
#[utoipa::path(
    post, path = "/upgrade", tag = "operations",
    responses(
        (status = 202, description = "It stops for its successor", body = UpgradeBegun),
        (status = 409, description = "It goes on as it is: `upgrade-refused` says why", body = Problem),
    )
)]
pub async fn begin(
    _who: Principal,
    State(state): State<AppState>,
) -> Result<(StatusCode, Json<UpgradeBegun>), ApiError> {
    match (state.upgrade)().await {
        Ok(begun) => Ok((StatusCode::ACCEPTED, Json(begun))),
        Err(why) => Err(ApiError::new(Code::UpgradeRefused, why)),
    }
}
