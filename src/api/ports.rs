//! `/ports`: the access ports.

use axum::extract::State;

use super::{AppState, view};
use crate::{
    domain::principal::Principal,
    wire::{PortLeaseView, Ports, QuarantinedPort},
};

/// The access ports: which are leased, which rest, how many are free.
#[utoipa::path(
    get, path = "/ports", tag = "operations",
    responses((status = 200, description = "The range and its leases", body = Ports))
)]
pub async fn list(who: Principal, State(state): State<AppState>) -> axum::Json<Ports> {
    let pool = state.supervisor.ports();
    let (port_min, port_max) = pool.range();
    let leased = pool.leased().iter().filter_map(|(port, holder)| {
        // One that was deleted a moment ago no longer holds it.
        let status = state.supervisor.get(&who, *holder).ok()?;
        Some(PortLeaseView {
            port: *port,
            instance: holder.to_string(),
            leased_at: view::time(status.record.created_at),
        })
    });
    let quarantined = pool
        .quarantined()
        .iter()
        .map(|(port, until)| QuarantinedPort {
            port: *port,
            until: view::time(*until),
        });
    axum::Json(Ports {
        port_min,
        port_max,
        leased: leased.collect(),
        quarantined: quarantined.collect(),
        free: pool.free(),
    })
}
