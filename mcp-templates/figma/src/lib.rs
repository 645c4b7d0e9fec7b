//! The Figma MCP server, over Figma's REST API.

mod comments;
mod design;
mod dev_resources;
mod file;
mod folder;
mod images;
mod library;
mod picture;
mod server;
mod style_table;
mod teams;
mod tree;
mod variables;

use std::process::ExitCode;

pub use server::{Figma, Settings};

/// Serves MCP on stdin and stdout until stdin ends; told by the environment, see [`Settings::from_environment`].
#[must_use]
pub fn main() -> ExitCode {
    let mut server = Figma::new(Settings::from_environment());
    let list = server.write_list();
    minimcp_rest::serve_with_list(server, list)
}
