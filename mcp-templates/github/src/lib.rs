//! The GitHub MCP server, over GitHub's REST API. Tool names and arguments are those of GitHub's own server, so that
//! what a model learned of that one works here.

mod issues;
mod model;
mod pulls;
mod repos;
mod server;

use std::process::ExitCode;

pub use server::{GitHub, Settings};

/// Serves MCP on stdin and stdout until stdin ends; told by the environment, see [`Settings::from_environment`].
#[must_use]
pub fn main() -> ExitCode {
    minimcp_rest::serve(GitHub::new(Settings::from_environment()))
}
