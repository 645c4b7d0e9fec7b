//! In whose name a request acts.

use super::{error::ApiError, extract::Faults};
use crate::domain::{id::OwnerId, principal::Principal, violation::Violation};

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
