//! `/owners`: what each owner has and may have; and in whose name a request acts.

use axum::extract::State;

use super::{AppState, error::ApiError, extract::Faults};
use crate::{
    domain::{id::OwnerId, principal::Principal, violation::Violation},
    wire::{Owner, OwnerBudget, Page},
};

/// The answer for the list of owners; always one page.
pub type OwnerPage = Page<Owner>;

/// Lists owners by name: those with an instance, and those with a budget of their own (`[budgets]` of the configuration).
#[utoipa::path(
    get, path = "/owners", tag = "operations",
    responses((status = 200, description = "What each has and may have", body = Page<Owner>))
)]
pub async fn list(_who: Principal, State(state): State<AppState>) -> axum::Json<OwnerPage> {
    let owners = state.supervisor.owners().into_iter();
    let items = owners.map(|one| Owner {
        owner: one.owner.to_string(),
        instances: one.instances,
        awake: one.awake,
        memory_bytes: one.memory_bytes,
        budget: OwnerBudget {
            instances_max: one.budget.instances_max,
            awake_max: one.budget.awake_max,
            memory_bytes_max: one.budget.memory_bytes_max,
        },
    });
    axum::Json(Page {
        items: items.collect(),
        next_cursor: None,
    })
}

/// The caller in the name of `owner`, as the member `owner` of a body says it; absent: in the caller's own.
///
/// # Errors
/// The faults found so far and this one, when it is no owner's name: what belongs to whom cannot be judged without it.
pub fn acting(
    who: Principal,
    owner: Option<String>,
    faults: &mut Faults,
) -> Result<Principal, ApiError> {
    let pattern = |message| Violation::new("/owner", "pattern", message);
    read(who, owner, faults, pattern)
}

/// As [`acting`], for the parameter `owner` of a query.
///
/// # Errors
/// As [`acting`].
pub fn acting_by_query(
    who: Principal,
    owner: Option<String>,
    faults: &mut Faults,
) -> Result<Principal, ApiError> {
    let pattern = |message| Violation::of_parameter("owner", "pattern", message);
    read(who, owner, faults, pattern)
}

fn read(
    who: Principal,
    owner: Option<String>,
    faults: &mut Faults,
    fault: impl Fn(String) -> Violation,
) -> Result<Principal, ApiError> {
    let owner = owner.map(OwnerId::new).transpose();
    match faults.take(owner.map_err(|error| fault(error.to_string()))) {
        Some(owner) => Ok(who.acting_for(owner)),
        None => Err(std::mem::take(faults).refusal()),
    }
}
