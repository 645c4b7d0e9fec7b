//! The MCP servers inside this binary, for `minimcp mcp NAME`.

use std::process::ExitCode;

/// Their names.
pub const NAMES: &[&str] = &["demo", "figma", "github", "gmail"];

/// Runs the built-in server `name` on stdin and stdout until stdin ends. It starts its own small runtime, so it must
/// be called before any other. An unknown name is told on stderr with exit code 2.
#[must_use]
pub fn run(name: &str) -> ExitCode {
    match name {
        "demo" => minimcp_demo::main(),
        "figma" => minimcp_figma::main(),
        "github" => minimcp_github::main(),
        "gmail" => minimcp_gmail::main(),
        _ => {
            eprintln!(
                "minimcp: there is no built-in MCP server of that name; there are: {}",
                NAMES.join(", ")
            );
            ExitCode::from(2)
        }
    }
}
