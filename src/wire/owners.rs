//! Owners on the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an owner has, and may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Owner {
    /// Its name.
    pub owner: String,
    /// Instances that are not deleted.
    pub instances: usize,
    /// Of these: running, frozen, or on their way up or down.
    pub awake: usize,
    /// The resident memory of those that are awake, in bytes, as it was measured last; pages that processes share count for
    /// each. `null` where nothing hangs on it: no budget of memory and no `sleep.memory_floor_bytes`.
    pub memory_bytes: Option<u64>,
    /// What it may have.
    pub budget: OwnerBudget,
}

/// What an owner may have at most; `null`: no bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OwnerBudget {
    /// Instances that are not deleted.
    pub instances_max: Option<usize>,
    /// Instances that are awake.
    pub awake_max: Option<usize>,
    /// Resident memory of those that are awake, in bytes.
    pub memory_bytes_max: Option<u64>,
}
