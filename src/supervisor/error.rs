//! Why the supervisor refuses or fails; knows nothing of HTTP.

use crate::{
    domain::{state::StatusWord, violation::Violation},
    store::StoreError,
};

/// Why the supervisor refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The request is not valid: every fault.
    #[error("the request is not valid")]
    Invalid(Vec<Violation>),
    /// No such instance.
    #[error("there is no instance {0}")]
    NotFound(String),
    /// No such instance, but others of that name: the second text lists their slugs.
    #[error("there is no instance {0}; other owners have {1}")]
    OfOthers(String, String),
    /// The name belongs to another instance of this owner.
    #[error("the name {0:?} is taken by another instance of this owner")]
    NameTaken(String),
    /// The template's program is missing.
    #[error("template {name} is not available here: {reason}")]
    TemplateUnavailable {
        /// The template.
        name: String,
        /// Why, with the install hint.
        reason: String,
    },
    /// The verb does not fit the state.
    #[error("cannot {verb} an instance that is {status}: {allowed}")]
    WrongState {
        /// What was asked.
        verb: &'static str,
        /// What it is.
        status: StatusWord,
        /// What would be possible.
        allowed: &'static str,
    },
    /// Every port of the range is leased, resting or taken by strangers.
    #[error(
        "no access port is free: {leased} of {min} to {max} are leased, {quarantined} rest, {foreign} are taken by other programs"
    )]
    PortsExhausted {
        /// First port.
        min: u16,
        /// Last port.
        max: u16,
        /// Held by instances.
        leased: usize,
        /// In quarantine.
        quarantined: usize,
        /// Taken by strangers.
        foreign: usize,
    },
    /// This process may open no further file: the limit.
    #[error(
        "the daemon may have {0} files open and has none left for another access port: raise its limit (LimitNOFILE= of its unit), or delete an instance"
    )]
    DescriptorsExhausted(u64),
    /// `runtime.instances_max` is reached.
    #[error("{0} instances exist, as many as runtime.instances_max allows; delete one first")]
    InstancesExhausted(usize),
    /// The owner's budget is used up: which bound, what is allowed and what is used.
    #[error("{0}")]
    OverBudget(String),
    /// No such access token.
    #[error("the instance has no access token {0:?}")]
    NoToken(String),
    /// The name belongs to another access token of this instance.
    #[error("the name {0:?} is taken by another access token of this instance")]
    TokenNameTaken(String),
    /// The access token's time is up.
    #[error(
        "the time of the access token {0:?} is up; give it another end first, or make a new one"
    )]
    TokenExpired(String),
    /// The instance has as many access tokens as it may.
    #[error("the instance has {0} access tokens, as many as it may; revoke one first")]
    TokensExhausted(usize),
    /// Too many commands wait for this instance.
    #[error("the instance is busy; try again")]
    Busy,
    /// The actor panicked before it answered, and begins again from the record.
    #[error(
        "what manages the instance failed and begins again; look whether it was done, then try again"
    )]
    ActorFailed,
    /// The daemon goes down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// The database is away.
    #[error("the database is away: {0}")]
    Unavailable(String),
    /// A failure of our own; the text is for the log, not for the caller.
    #[error("internal: {0}")]
    Internal(String),
}

impl From<StoreError> for SupervisorError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(reason) => Self::Unavailable(reason),
            other => Self::Internal(other.to_string()),
        }
    }
}
