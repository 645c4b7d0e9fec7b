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

impl Principal {
    /// The same caller, acting in the name of `owner`, which an administrator may for any; `None`: in the caller's own.
    #[must_use]
    pub fn acting_for(self, owner: Option<OwnerId>) -> Self {
        match self.role {
            Role::Administrator => Self {
                owner: owner.unwrap_or(self.owner),
                ..self
            },
        }
    }

    /// Who has or lacks something, for a sentence to an administrator: `you have`, or `ada has`.
    #[must_use]
    pub fn has(&self) -> String {
        match self.owner.is_default() {
            true => "you have".to_owned(),
            false => format!("{} has", self.owner),
        }
    }
}
