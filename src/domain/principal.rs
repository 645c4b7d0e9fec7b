//! Who asks. Every handler takes a [`Principal`] from day one.

use super::id::OwnerId;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything, for every owner.
    Administrator,
}

/// The authenticated caller of the management API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// In whose name new instances and credentials are kept.
    pub owner: OwnerId,
    /// What the caller may do.
    pub role: Role,
}
