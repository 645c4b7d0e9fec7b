//! `/ports`: the access ports.

use axum::extract::State;

use super::AppState;
use crate::{domain::principal::Principal, wire::Ports};

/// The access ports: which are leased, which rest, how many are free.
#[utoipa::path(
    get, path = "/ports", tag = "operations",
    responses((status = 200, description = "The range and its leases", body = Ports))
)]
pub async fn list(_who: Principal, State(state): State<AppState>) -> axum::Json<Ports> {
    axum::Json(state.supervisor.ports())
}
