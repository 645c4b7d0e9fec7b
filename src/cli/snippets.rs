//! What a person pastes into an MCP client. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

#[derive(Serialize)]
struct Clients<'a> {
    #[serde(rename = "mcpServers")]
    mcp_servers: BTreeMap<&'a str, Entry<'a>>,
}

/// In the order in which people read it.
#[derive(Serialize)]
struct Entry<'a> {
    #[serde(rename = "type")]
    transport: &'static str,
    url: &'a str,
    headers: Headers,
}

#[derive(Serialize)]
struct Headers {
    #[serde(rename = "Authorization")]
    authorization: String,
}

/// The `mcpServers` entry that Claude Desktop, Cursor and most others read.
pub(crate) fn mcp_servers_json(name: &str, url: &str, token: &str) -> String {
    let entry = Clients {
        mcp_servers: BTreeMap::from([(
            name,
            Entry {
                transport: "http",
                url,
                headers: Headers {
                    authorization: format!("Bearer {token}"),
                },
            },
        )]),
    };
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
