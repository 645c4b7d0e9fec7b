//! Which file it is, and the servers in it.

use serde_json::{Map, Value};
use zeroize::Zeroize;

use super::{
    clients, docker,
    draft::{Draft, Found, Run, shown},
    launcher, server_json,
    variables::Inputs,
};
use crate::domain::package::Registry;

/// Largest file in bytes.
pub const TEXT_BYTES_MAX: usize = 512 << 10;

/// Most servers of one file.
pub const SERVERS_MAX: usize = 64;

/// The file of a client or of a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `mcpServers` of Claude Desktop, Claude Code, Cursor, Windsurf, Gemini and others (JSON).
    McpServers,
    /// `servers` and `inputs` of VS Code (`mcp.json`, JSON with comments).
    VsCode,
    /// `[mcp_servers.NAME]` of Codex (TOML).
    Codex,
    /// `server.json` of the official registry, or a page of its API (JSON).
    ServerJson,
    /// `server.yaml` of Docker's catalogue (YAML).
    Docker,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::McpServers,
        Self::VsCode,
        Self::Codex,
        Self::ServerJson,
        Self::Docker,
    ];

    /// Its word in requests and on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::McpServers => "mcp-servers",
            Self::VsCode => "vscode",
            Self::Codex => "codex",
            Self::ServerJson => "server-json",
            Self::Docker => "docker",
        }
    }

    /// What people call the file.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::McpServers => "mcpServers of an MCP client",
            Self::VsCode => "mcp.json of VS Code",
            Self::Codex => "config.toml of Codex",
            Self::ServerJson => "server.json of a registry",
            Self::Docker => "server.yaml of Docker's catalogue",
        }
    }

    /// The format of this word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.word() == word)
    }
}

/// Why a text holds no servers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Too large.
    #[error("is larger than {TEXT_BYTES_MAX} bytes")]
    TooLarge,
    /// Not even one of the languages; where it stops to be JSON, by line and column, and no word of it.
    #[error(
        "is neither JSON, TOML nor YAML; as JSON it ends to be right at line {line}, column {column}"
    )]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// It is something else.
    #[error(
        "holds no servers: it has neither mcpServers (Claude, Cursor, Windsurf, Gemini), servers (VS Code), mcp_servers \
         (Codex), packages or remotes (server.json) nor image or remote (server.yaml)"
    )]
    NoServers,
    /// It is not what was asked for.
    #[error("is no {}", .0.title())]
    OtherFormat(Format),
    /// Too many.
    #[error("holds {0} servers; at most {SERVERS_MAX} are taken at once")]
    TooMany(usize),
}

/// A parsed text, whose words go with it: they may be secrets.
struct Parsed(Value);

impl Drop for Parsed {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(entries) => entries.iter_mut().for_each(wipe),
        Value::Object(entries) => entries.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The servers of a file, by their names; `format`: what it must be, else it is found out.
///
/// # Errors
/// [`ReadError`]; none of its texts holds a word of the file.
pub fn import(text: &str, format: Option<Format>) -> Result<(Format, Vec<Found>), ReadError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(ReadError::TooLarge);
    }
    let parsed = Parsed(parse(text)?);
    let found = find(&parsed.0);
    let (found_format, servers) = match (found, format) {
        (Some(found), None) => found,
        (Some(found), Some(wanted)) if found.0 == wanted => found,
        (_, Some(wanted)) => return Err(ReadError::OtherFormat(wanted)),
        (None, None) => return Err(ReadError::NoServers),
    };
    if servers.is_empty() {
        return Err(ReadError::NoServers);
    }
    if servers.len() > SERVERS_MAX {
        return Err(ReadError::TooMany(servers.len()));
    }
    let inputs = parsed
        .0
        .get("inputs")
        .or_else(|| parsed.0["mcp"].get("inputs"));
    let inputs = Inputs::read(inputs);
    let servers = servers.into_iter().map(|(name, entry)| Found {
        server: shown(&name),
        draft: match found_format {
            Format::McpServers | Format::VsCode | Format::Codex => {
                clients::entry(&name, entry, &inputs)
            }
            Format::ServerJson => server_json::server(&name, entry),
            Format::Docker => docker::server(&name, entry),
        },
    });
    Ok((found_format, servers.collect()))
}

fn parse(text: &str) -> Result<Value, ReadError> {
    let options = jsonc_parser::ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let text = text.trim_start_matches('\u{feff}');
    if let Ok(value @ Value::Object(_)) =
        jsonc_parser::parse_to_serde_value::<Value>(text, &options)
    {
        return Ok(value);
    }
    if let Ok(table) = toml::from_str::<toml::Table>(text)
        && !table.is_empty()
    {
        return serde_json::to_value(table).map_err(|_| ReadError::NoServers);
    }
    // A text in braces is JSON with a fault, not YAML in its own style.
    if !text.trim_start().starts_with(['{', '['])
        && let Ok(value @ Value::Object(_)) = yaml_serde::from_str::<Value>(text)
    {
        return Ok(value);
    }
    let fault = serde_json::from_str::<Value>(text).err();
    Err(ReadError::Syntax {
        line: fault.as_ref().map_or(1, serde_json::Error::line).max(1),
        column: fault.as_ref().map_or(1, serde_json::Error::column).max(1),
    })
}

type Servers<'a> = Vec<(String, &'a Value)>;

/// What the file is, and its servers.
fn find(root: &Value) -> Option<(Format, Servers<'_>)> {
    if let Some(servers) = root["mcpServers"].as_object() {
        let mut all: Servers = named(servers);
        // ~/.claude.json keeps those of each project too.
        for project in root["projects"]
            .as_object()
            .into_iter()
            .flat_map(Map::values)
        {
            for (name, entry) in project["mcpServers"].as_object().into_iter().flatten() {
                if !all.iter().any(|(_, known)| *known == entry) {
                    all.push((name.clone(), entry));
                }
            }
        }
        return Some((Format::McpServers, all));
    }
    if let Some(servers) = root["mcp_servers"].as_object() {
        return Some((Format::Codex, named(servers)));
    }
    if let Some(servers) = root["servers"]
        .as_object()
        .or_else(|| root["mcp"]["servers"].as_object())
    {
        return Some((Format::VsCode, named(servers)));
    }
    if let Some(page) = root["servers"].as_array() {
        let entries = page
            .iter()
            .map(|entry| entry.get("server").unwrap_or(entry));
        return Some((Format::ServerJson, entries.map(of_registry).collect()));
    }
    let of_wrapped = root.get("server").filter(|server| is_of_registry(server));
    if let Some(server) = of_wrapped.or_else(|| Some(root).filter(|root| is_of_registry(root))) {
        return Some((Format::ServerJson, vec![of_registry(server)]));
    }
    if root["name"].is_string() && (root["image"].is_string() || root["remote"].is_object()) {
        let name = root["name"].as_str().unwrap_or_default().to_owned();
        return Some((Format::Docker, vec![(name, root)]));
    }
    let is_entry = |entry: &Value| {
        ["command", "url", "serverUrl", "httpUrl"]
            .iter()
            .any(|key| entry[key].is_string())
    };
    if is_entry(root) {
        let name = root["name"].as_str().unwrap_or("server").to_owned();
        return Some((Format::McpServers, vec![(name, root)]));
    }
    let entries = root.as_object()?;
    (!entries.is_empty() && entries.values().all(is_entry))
        .then(|| (Format::McpServers, named(entries)))
}

fn named(servers: &Map<String, Value>) -> Servers<'_> {
    servers
        .iter()
        .map(|(name, entry)| (name.clone(), entry))
        .collect()
}

fn is_of_registry(root: &Value) -> bool {
    root["name"].is_string() && (root["packages"].is_array() || root["remotes"].is_array())
}

/// A registry's name is `reverse.dns/name`.
fn of_registry(entry: &Value) -> (String, &Value) {
    let name = entry["name"].as_str().unwrap_or("server");
    (name.rsplit('/').next().unwrap_or(name).to_owned(), entry)
}

impl Draft {
    /// Puts a package in the place of what the file runs, with the same arguments: for a container above all.
    ///
    /// # Errors
    /// What is wrong with the text: `npm:NAME`, `npm:NAME@VERSION`, `pypi:NAME` and `pypi:NAME==VERSION` are right.
    pub fn run_package(&mut self, text: &str) -> Result<(), String> {
        let (registry, (name, version)) = match text.split_once(':') {
            Some(("npm", spec)) => (Registry::Npm, launcher::npm(spec)?),
            Some(("pypi", spec)) => (Registry::Pypi, launcher::pypi(spec)?),
            _ => {
                return Err(
                    "must be npm:NAME, npm:NAME@VERSION, pypi:NAME or pypi:NAME==VERSION"
                        .to_owned(),
                );
            }
        };
        let arguments = match &self.run {
            Run::Container { arguments, .. } | Run::Package { arguments, .. } => arguments.clone(),
            Run::Command(command) => command.iter().skip(1).cloned().collect(),
            Run::Remote { .. } => {
                return Err("is at an address elsewhere: no package can take its place".to_owned());
            }
        };
        let program = match registry {
            Registry::Npm => None,
            Registry::Pypi => Some(name.split('[').next().unwrap_or(&name).to_owned()),
        };
        self.run = Run::Package {
            registry,
            name,
            version,
            program,
            arguments,
        };
        Ok(())
    }
}
