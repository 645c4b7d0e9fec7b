//! Secrets: the master key ring, sealing, the tokens that open the doors, and how values are kept out of what is shown.
//!
//! A plaintext exists only in a [`zeroize::Zeroizing`] buffer, in no `Debug`, error or log line. The store sees sealed
//! blobs and hashes.

mod encodings;
mod error;
mod file;
mod key_ring;
mod redacted_stream;
pub mod redaction;
mod rotation;
mod seal;
mod token;

pub use error::SecretsError;
pub use file::read_private;
pub use key_ring::{KeyRing, KeySource};
pub use redacted_stream::RedactedStream;
pub use redaction::Redactions;
pub use rotation::{ResealProgress, check_keys, reseal, retire_unused_keys};
pub use token::{AccessToken, AdminToken, fingerprint, hash_token, verify_token};
