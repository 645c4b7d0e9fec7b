//! The `minimcp` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    // Each of these starts with one thread and a runtime of its own, or none, so they come before everything else.
    match arguments.next().as_deref().and_then(|first| first.to_str()) {
        Some("keeper") => minimcp::runtime::keeper::main(arguments, |name| std::env::var_os(name)),
        Some(minimcp::bench::parts::WORD) => minimcp::bench::parts::main(arguments),
        Some("mcp") => match arguments.next().as_deref().and_then(|name| name.to_str()) {
            Some(name) if !name.starts_with('-') => minimcp::mcp_servers::run(name),
            _ => minimcp::cli::main(),
        },
        _ => minimcp::cli::main(),
    }
}
