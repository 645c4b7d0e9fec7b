//! The configuration files of others: reads what MCP clients and registries keep of a server and translates it into a
//! template ([`import`]), and writes what a client keeps of an instance ([`export`]). Pure: nothing is looked up, nothing
//! is written.
//!
//! What a file holds of secrets goes into [`Credential::value`] and nowhere else: not into the manifest, a note or a
//! refusal. [`Draft::manifest`] holds itself to that.

pub mod export;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;

mod arguments;
mod clients;
mod docker;
mod draft;
mod launcher;
mod manifest;
mod reference;
mod secret;
mod server_json;
mod source;
#[cfg(test)]
mod tests;
mod variables;

pub use draft::{Credential, Draft, Found, Run, Setting, Wanted};
pub use manifest::{ManifestRefused, Release};
pub use source::{Format, ReadError, SERVERS_MAX, TEXT_BYTES_MAX, import};
