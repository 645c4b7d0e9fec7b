//! What a client keeps of an instance: the text to paste, where it belongs, and how the token gets in.
//!
//! Formats as the clients' own documentation has them in November 2026.

use serde::{Serialize, Serializer};

/// JSON whose keys stay in the order in which people read them.
#[derive(Serialize)]
#[serde(untagged)]
enum Node {
    Text(String),
    Flag(bool),
    List(Vec<Node>),
    #[serde(serialize_with = "in_order")]
    Table(Vec<(String, Node)>),
}

fn in_order<S: Serializer>(entries: &[(String, Node)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(entries.iter().map(|(key, value)| (key, value)))
}

impl From<&str> for Node {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

fn table<const N: usize>(entries: [(&str, Node); N]) -> Node {
    Node::Table(entries.map(|(key, value)| (key.to_owned(), value)).into())
}

fn pretty(node: &Node) -> String {
    serde_json::to_string_pretty(node).unwrap_or_default()
}

/// A client that has a format of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Claude Code.
    ClaudeCode,
    /// Claude Desktop, which starts programs only: a bridge of npm carries it to the URL.
    ClaudeDesktop,
    /// Cursor.
    Cursor,
    /// VS Code.
    VsCode,
    /// Codex.
    Codex,
    /// Windsurf.
    Windsurf,
    /// Gemini CLI.
    Gemini,
    /// MCP Inspector.
    Inspector,
    /// Any other: the shape that most understand.
    Json,
}

/// The access token in a snippet that was made without one, where the client cannot fetch it from elsewhere.
pub const PLACEHOLDER: &str = "ACCESS_TOKEN";

/// The configuration of one client for one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snippet {
    /// The file that it belongs into; `None`: wherever the client asks for it.
    pub file: Option<&'static str>,
    /// `json` or `toml`.
    pub language: &'static str,
    /// What to paste; merged with what the file holds already.
    pub text: String,
    /// A command that does the same.
    pub command: Option<String>,
    /// How the access token gets in, where the text holds none.
    pub token: Option<String>,
}

impl Client {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::ClaudeCode,
        Self::ClaudeDesktop,
        Self::Cursor,
        Self::VsCode,
        Self::Codex,
        Self::Windsurf,
        Self::Gemini,
        Self::Inspector,
        Self::Json,
    ];

    /// Its word in requests and on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude-code",
            Self::ClaudeDesktop => "claude-desktop",
            Self::Cursor => "cursor",
            Self::VsCode => "vscode",
            Self::Codex => "codex",
            Self::Windsurf => "windsurf",
            Self::Gemini => "gemini",
            Self::Inspector => "inspector",
            Self::Json => "json",
        }
    }

    /// What people call it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::ClaudeCode => "Claude Code",
            Self::ClaudeDesktop => "Claude Desktop",
            Self::Cursor => "Cursor",
            Self::VsCode => "VS Code",
            Self::Codex => "Codex",
            Self::Windsurf => "Windsurf",
            Self::Gemini => "Gemini CLI",
            Self::Inspector => "MCP Inspector",
            Self::Json => "Other clients",
        }
    }

    /// The client of this word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|client| client.word() == word)
    }

    /// The configuration for the instance `name` at `url`. With a `token` the text holds it; without one the client
    /// fetches it from where its own ways allow, else [`PLACEHOLDER`] stands for it.
    #[must_use]
    pub fn snippet(self, name: &str, url: &str, token: Option<&str>) -> Snippet {
        let variable = variable(name);
        let from_variable = format!("set the environment variable {variable} to the access token");
        let in_place = || format!("put the access token in the place of {PLACEHOLDER}");
        let given = token.unwrap_or(PLACEHOLDER);
        let bearer = |reference: String| match token {
            Some(token) => format!("Bearer {token}"),
            None => format!("Bearer {reference}"),
        };
        let headers = |reference: &str| {
            let value = Node::Text(bearer(reference.to_owned()));
            ("headers", table([("Authorization", value)]))
        };
        let servers = |entry: Node| pretty(&table([("mcpServers", table([(name, entry)]))]));
        let typed = |kind: &str| {
            servers(table([
                ("type", kind.into()),
                ("url", url.into()),
                headers(PLACEHOLDER),
            ]))
        };
        let of_env = format!("${{env:{variable}}}");
        let (file, text, command, how) = match self {
            Self::ClaudeCode => (
                Some(".mcp.json"),
                servers(table([
                    ("type", "http".into()),
                    ("url", url.into()),
                    headers(&format!("${{{variable}}}")),
                ])),
                Some(claude_line(name, url, given)),
                from_variable,
            ),
            Self::ClaudeDesktop => (
                Some("claude_desktop_config.json"),
                servers(bridge(url, given)),
                None,
                in_place(),
            ),
            Self::Cursor => (
                Some("~/.cursor/mcp.json"),
                servers(table([("url", url.into()), headers(&of_env)])),
                None,
                from_variable,
            ),
            Self::VsCode => (
                Some(".vscode/mcp.json"),
                vs_code(name, url, token),
                None,
                "VS Code asks for the access token when it starts the server".to_owned(),
            ),
            Self::Codex => (
                Some("~/.codex/config.toml"),
                codex(name, url, token, &variable),
                None,
                from_variable,
            ),
            Self::Windsurf => (
                Some("~/.codeium/windsurf/mcp_config.json"),
                servers(table([("serverUrl", url.into()), headers(&of_env)])),
                None,
                from_variable,
            ),
            Self::Gemini => (
                Some("~/.gemini/settings.json"),
                servers(table([
                    ("httpUrl", url.into()),
                    headers(&format!("${variable}")),
                ])),
                Some(format!(
                    "gemini mcp add --scope user --transport http --header \"Authorization: Bearer {given}\" {name} {url}"
                )),
                from_variable,
            ),
            Self::Inspector => (None, typed("streamable-http"), None, in_place()),
            Self::Json => (None, typed("http"), None, in_place()),
        };
        Snippet {
            file,
            language: if self == Self::Codex { "toml" } else { "json" },
            text,
            command,
            token: token.is_none().then_some(how),
        }
    }
}

/// The line that adds an instance to Claude Code.
#[must_use]
pub fn claude_line(name: &str, url: &str, token: &str) -> String {
    format!(
        "claude mcp add --transport http {name} {url} --header \"Authorization: Bearer {token}\""
    )
}

/// The variable that holds the access token of an instance, for clients that read one.
fn variable(name: &str) -> String {
    let name: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect();
    format!("MINIMCP_{name}_TOKEN")
}

/// The token goes through a variable, because the bridge and some shells split a header at its space.
fn bridge(url: &str, token: &str) -> Node {
    let mut arguments = vec![
        "-y",
        "mcp-remote",
        url,
        "--header",
        "Authorization:${AUTHORIZATION}",
    ];
    let is_local = ["http://127.0.0.1", "http://localhost"]
        .iter()
        .any(|it| url.starts_with(it));
    if url.starts_with("http://") && !is_local {
        arguments.push("--allow-http");
    }
    let bearer = Node::Text(format!("Bearer {token}"));
    table([
        ("command", "npx".into()),
        (
            "args",
            Node::List(arguments.into_iter().map(Node::from).collect()),
        ),
        ("env", table([("AUTHORIZATION", bearer)])),
    ])
}

fn vs_code(name: &str, url: &str, token: Option<&str>) -> String {
    let id = format!("{name}-access-token");
    let bearer = match token {
        Some(token) => format!("Bearer {token}"),
        None => format!("Bearer ${{input:{id}}}"),
    };
    let headers = table([("Authorization", Node::Text(bearer))]);
    let entry = table([
        ("type", "http".into()),
        ("url", url.into()),
        ("headers", headers),
    ]);
    let servers = ("servers", table([(name, entry)]));
    if token.is_some() {
        return pretty(&table([servers]));
    }
    let input = table([
        ("type", "promptString".into()),
        ("id", Node::Text(id)),
        ("description", Node::Text(format!("Access token of {name}"))),
        ("password", Node::Flag(true)),
    ]);
    pretty(&table([("inputs", Node::List(vec![input])), servers]))
}

fn codex(name: &str, url: &str, token: Option<&str>, variable: &str) -> String {
    let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
    // Names of instances are bare keys: a-z, 0-9 and '-'.
    let head = format!("[mcp_servers.{name}]\nurl = {}\n", text(url));
    match token {
        Some(token) => format!(
            "{head}http_headers = {{ Authorization = {} }}",
            text(&format!("Bearer {token}"))
        ),
        None => format!("{head}bearer_token_env_var = {}", text(variable)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interchange::{Run, import};

    const URL: &str = "http://127.0.0.1:3001/mcp";

    #[test]
    fn every_client_gets_url_and_token_and_without_a_token_none() {
        for client in Client::ALL {
            let word = client.word();
            assert_eq!(Client::of_word(word), Some(client));
            let with = client.snippet("demo", URL, Some("mcp_s3cret"));
            assert!(
                with.text.contains(URL) && with.text.contains("Bearer mcp_s3cret"),
                "{word}"
            );
            assert_eq!(with.token, None);
            let without = client.snippet("demo", URL, None);
            assert!(
                without.text.contains(URL) && !without.text.contains("mcp_s3cret"),
                "{word}"
            );
            let how = without.token.expect("it says how");
            let named = ["MINIMCP_DEMO_TOKEN", PLACEHOLDER, "asks"];
            let named: Vec<_> = named.into_iter().filter(|it| how.contains(it)).collect();
            assert_eq!(named.len(), 1, "{how}");
            if named[0] != "asks" {
                assert!(without.text.contains(named[0]), "{word}: {}", without.text);
            }
        }
    }

    #[test]
    fn what_is_written_can_be_read_back() {
        for client in Client::ALL {
            for token in [None, Some("mcp_s3cret-0123456789abcdef")] {
                let word = client.word();
                let snippet = client.snippet("demo", URL, token);
                let (_, found) = import(&snippet.text, None).expect(word);
                let draft = found[0].draft.as_ref().expect(word);
                let Run::Remote { url, headers } = &draft.run else {
                    panic!("{}: {draft:?}", client.word());
                };
                assert_eq!(url, URL, "{}", client.word());
                assert_eq!(headers.len(), 1);
                assert!(
                    headers[0].1.starts_with("Bearer {credential."),
                    "{headers:?}"
                );
                let value = draft.credentials[0].value.as_deref().map(String::as_str);
                // A placeholder in capitals is a value like any other.
                assert!(value == token || value == Some(PLACEHOLDER), "{value:?}");
            }
        }
    }
}
