//! Templates and credentials on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TemplateSummary {
    /// Its name.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// What the server does.
    pub description: String,
    /// Its pictures, as SEP-973 of MCP writes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub icons: Vec<TemplateIcon>,
    /// stdio, http or remote.
    pub transport: String,
    /// Whether an instance can be created now.
    pub available: bool,
    /// Why not, with the install hint.
    pub unavailable_reason: Option<String>,
    /// The package that brings its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<TemplatePackage>,
    /// Groups of credentials, of which one must be given whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials_one_of: Vec<Vec<String>>,
    /// The tool by which its credentials are checked; absent: they cannot be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// The secrets it takes.
    pub credentials: Vec<TemplateCredential>,
    /// JSON Schema of `settings`.
    #[schema(value_type = Object)]
    pub settings_schema: serde_json::Value,
    /// TTL when none is asked for, such as `1h`.
    pub ttl_default: Option<String>,
    /// Longest TTL.
    pub ttl_max: String,
}

/// A picture of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplateIcon {
    /// Its path under the API's address; it takes the token as every path does.
    pub src: String,
    /// `image/svg+xml` or `image/png`.
    #[serde(rename = "mimeType")]
    pub mime_type: String,
    /// `any`, or width and height such as `48x48`.
    pub sizes: Vec<String>,
}

/// The package that brings a template's program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplatePackage {
    /// `npm:NAME@VERSION` or `pypi:NAME==VERSION`.
    pub source: String,
    /// `missing` (installed at the first start), `installing`, `installed`, `failed`, or `not-needed`: the program is
    /// on the search path by itself.
    pub state: String,
    /// Why the last installation failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A secret that a template takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TemplateCredential {
    /// The environment variable.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// Where to get one.
    pub help: Option<String>,
    /// Whether it must be given.
    pub required: bool,
    /// `env`: the variable holds the value; `file`: the path of a file with it.
    #[serde(default = "as_variable")]
    pub delivery: String,
    /// A regular expression for the whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// What the pattern says, in words that go on from "must".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern_help: Option<String>,
}

fn as_variable() -> String {
    "env".to_owned()
}

/// `POST /templates/{name}/check`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckCredentials {
    /// Whose credentials; absent: of `admin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Environment variable to name of a stored credential.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<String, String>,
    /// Settings of the template.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub settings: BTreeMap<String, serde_json::Value>,
}

/// What a check of credentials showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CredentialCheck {
    /// `accepted`, `refused`, or `not-tried`: the service was not asked, or its answer tells nothing of them.
    pub outcome: String,
    /// The tool that was called.
    pub tool: String,
    /// In a sentence, without the secrets.
    pub message: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// `POST /credentials`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutCredential {
    /// What to call it.
    pub name: String,
    /// Whose it is; absent: of `admin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The secret; never given back.
    pub value: String,
}

impl std::fmt::Debug for PutCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PutCredential")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// `PUT /credentials/{name}`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaceCredential {
    /// The name in the path again, or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whose it is; absent: of `admin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The secret; never given back.
    pub value: String,
}

impl std::fmt::Debug for ReplaceCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplaceCredential")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A stored credential, without its value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Credential {
    /// Its name.
    pub name: String,
    /// Its owner.
    pub owner: String,
    /// The key that seals it.
    pub key_id: String,
    /// When it was first put.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// When its value last changed.
    #[schema(format = DateTime)]
    pub updated_at: String,
}
