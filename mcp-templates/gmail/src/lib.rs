//! The Gmail MCP server, over the Gmail API.

mod compose;
mod message;
mod read;
mod server;
mod token;
mod write;

use std::process::ExitCode;

pub use server::{Credentials, Gmail, Settings};

/// Serves MCP on stdin and stdout until stdin ends; told by the environment, see [`Settings::from_environment`].
#[must_use]
pub fn main() -> ExitCode {
    minimcp_rest::serve(Gmail::new(Settings::from_environment()))
}
