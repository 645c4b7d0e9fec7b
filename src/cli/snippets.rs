//! What a person pastes into an MCP client. Pure.

use serde_json::json;

/// The `mcpServers` entry that Claude Desktop, Cursor and most others read.
pub(crate) fn mcp_servers_json(name: &str, url: &str, token: &str) -> String {
    let entry = json!({
        "mcpServers": {
            name: {
                "type": "http",
                "url": url,
                "headers": { "Authorization": format!("Bearer {token}") },
            }
        }
    });
    serde_json::to_string_pretty(&entry).unwrap_or_default()
}

/// The line for Claude Code.
pub(crate) fn claude_line(name: &str, url: &str, token: &str) -> String {
    format!(
        "claude mcp add --transport http {name} {url} --header \"Authorization: Bearer {token}\""
    )
}

/// Every line of `text` moved in by `by` columns.
pub(crate) fn indented(text: &str, by: usize) -> String {
    text.lines()
        .map(|line| format!("{:by$}{line}", ""))
        .collect::<Vec<_>>()
        .join("\n")
}
