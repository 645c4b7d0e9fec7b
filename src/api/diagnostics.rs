//! `/diagnostics`: what the daemon tells about itself.

use axum::{Json, extract::State};

use super::AppState;
use crate::{
    config::LOG_ROW_BYTES,
    domain::principal::Principal,
    wire::{DatabaseFacts, Diagnostics, LogPipelineFacts},
};

/// The state of database and log pipeline. A database that is away is told, and no fault of the request.
#[utoipa::path(
    get, path = "/diagnostics", tag = "operations",
    responses((status = 200, description = "What is known", body = Diagnostics))
)]
pub async fn read(_who: Principal, State(state): State<AppState>) -> Json<Diagnostics> {
    let (facts, error) = match state.store.facts().await {
        Ok(facts) => (Some(facts), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let number = |of: fn(&crate::store::StoreFacts) -> i64| facts.as_ref().map(of);
    let counters = state.logs.counters();
    Json(Diagnostics {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process: Some(state.process.clone()),
        freezer: state.supervisor.keeper().borrow().freezer(),
        reclaim: state.supervisor.keeper().borrow().reclaim(),
        database: DatabaseFacts {
            kind: state.store.kind().to_owned(),
            error,
            version: facts.as_ref().map(|facts| facts.version.clone()),
            schema: number(|facts| facts.schema),
            bytes: number(|facts| facts.bytes),
            instances: number(|facts| facts.instances),
            log_lines: number(|facts| facts.log_lines),
            log_text_bytes: number(|facts| facts.log_text_bytes),
            log_bytes: facts.as_ref().map(log_bytes),
            log_bytes_max: state.log_bytes_max,
        },
        logs: LogPipelineFacts {
            lines: counters.lines,
            stored: counters.stored,
            spooled: counters.spooled,
            dropped: counters.dropped,
            queue_bytes: counters.queue_bytes,
            spool_bytes: counters.spool_bytes,
            store_available: counters.store_available,
        },
        spools: (state.spools)(),
    })
}

fn log_bytes(facts: &crate::store::StoreFacts) -> u64 {
    let positive = |number: i64| u64::try_from(number).unwrap_or(0);
    let rows_bytes = positive(facts.log_lines).saturating_mul(LOG_ROW_BYTES);
    positive(facts.log_text_bytes).saturating_add(rows_bytes)
}
