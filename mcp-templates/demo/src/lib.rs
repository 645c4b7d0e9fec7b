//! The demo MCP server: a newcomer's first server, and the fixture of our tests. It needs nothing.

mod server;

use std::process::ExitCode;

pub use server::Demo;

/// Serves MCP on stdin and stdout until stdin ends.
#[must_use]
pub fn main() -> ExitCode {
    minimcp_rest::serve(Demo::new())
}
