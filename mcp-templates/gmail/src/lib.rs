//! The Gmail MCP server, over the Gmail API.

mod attachment;
mod compose;
mod credentials;
mod drafts;
mod filters;
mod labels;
mod message;
mod mime;
mod modify;
mod read;
mod reply;
mod scopes;
mod send;
mod server;
mod threads;
mod token;

use std::process::ExitCode;

pub use credentials::{Credentials, Settings};
pub use server::Gmail;

/// Serves MCP on stdin and stdout until stdin ends; told by the environment, see [`Settings::from_environment`].
#[must_use]
pub fn main() -> ExitCode {
    let mut server = Gmail::new(Settings::from_environment());
    let list = server.write_list();
    minimcp_rest::serve_with_list(server, list)
}
