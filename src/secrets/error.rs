//! What can go wrong with secrets; no variant can hold one.

use crate::store::StoreError;

/// Why a secret could not be sealed, opened or kept.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// A key or token file cannot be used; one sentence that names it.
    #[error("{0}")]
    File(String),
    /// The keys do not fit the data; one sentence.
    #[error("{0}")]
    WrongKey(String),
    /// No key of the ring has this id.
    #[error("the master key {0} is not in the key ring")]
    UnknownKey(String),
    /// It was changed, moved to another name, or sealed by another key of the same id.
    #[error(
        "the sealed secret {0} cannot be opened: it was changed, or it belongs to another place"
    )]
    Unopenable(String),
    /// Nothing that is not UTF-8 can be put into an environment variable.
    #[error("the secret {0} is not UTF-8 text")]
    NotText(String),
    /// The system gave no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// The keys come from the environment or a systemd credential: only whoever provides them can add one.
    #[error("{0}")]
    ReadOnly(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
