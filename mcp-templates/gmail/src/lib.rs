//! A built-in MCP server.

use std::process::ExitCode;

/// Serves MCP on stdin and stdout until stdin ends.
#[must_use]
pub fn main() -> ExitCode {
    eprintln!("this server is not in this build yet");
    ExitCode::FAILURE
}
