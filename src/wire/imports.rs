//! Imports and client configurations on the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Instance;

/// `POST /imports`.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportRequest {
    /// The file's text; it may hold secrets, and none of them is written, logged or answered.
    pub text: String,
    /// `mcp-servers`, `vscode`, `codex`, `server-json` or `docker`; absent: it is found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Only these servers of the file; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers: Option<Vec<String>>,
    /// What the template is called, where one server is imported; absent: as in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The package to run in the place of what the file names, where one server is imported: `npm:NAME@VERSION` or
    /// `pypi:NAME==VERSION`; without a version the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// Hosts that the servers may reach beside those that were found out, such as `api.example.com:443`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    /// Whether nothing is made: the answer says what would be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Whether the secrets of the file are stored as credentials and an instance of each server is made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub start: bool,
    /// Whose the credentials and instances are; absent: of `admin`. Templates belong to nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

impl std::fmt::Debug for ImportRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImportRequest")
            .field("format", &self.format)
            .field("dry_run", &self.dry_run)
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}

/// What an import made, or would make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Import {
    /// What the file is, as in the request.
    pub format: String,
    /// Whether nothing was made.
    pub dry_run: bool,
    /// Each server of the file.
    pub servers: Vec<ImportedServer>,
}

/// One server of an imported file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImportedServer {
    /// What the file calls it.
    pub server: String,
    /// `created`, `unchanged` (the very same template was there), `would-create`, or `refused`.
    pub outcome: String,
    /// Why it was refused, or why no instance was made of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The template's manifest (TOML).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// The secrets that it takes.
    pub credentials: Vec<ImportedCredential>,
    /// What a person should know: what was left out, guessed or kept as a comment.
    pub notes: Vec<String>,
    /// The instance that was made, with its access token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
}

/// A secret that an imported server takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImportedCredential {
    /// The environment variable.
    pub variable: String,
    /// Whether it must be given.
    pub required: bool,
    /// Whether the file holds its value.
    pub in_file: bool,
    /// The stored credential that the instance was bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

/// What an MCP client keeps of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClientConfig {
    /// The client's word, such as `claude-code`.
    pub client: String,
    /// What people call it.
    pub title: String,
    /// The file that it belongs into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// `json` or `toml`.
    pub language: String,
    /// What to paste, merged with what the file holds already. It never holds the access token.
    pub text: String,
    /// A command that does the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// How the access token gets in: by a variable, by a question of the client, or in the place of `ACCESS_TOKEN`.
    pub token: String,
}
