//! Secrets: the master key ring, sealing, and the tokens that open the doors.
//!
//! A plaintext exists only in a [`zeroize::Zeroizing`] buffer, in no `Debug`, error or log line. The store sees sealed
//! blobs and hashes.

mod error;
mod file;
mod key_ring;
mod rotation;
mod seal;
mod token;

pub use error::SecretsError;
pub use key_ring::{KeyRing, KeySource};
pub use rotation::{ResealProgress, check_keys, reseal, retire_unused_keys};
pub use token::{AccessToken, AdminToken, hash_token, verify_token};
