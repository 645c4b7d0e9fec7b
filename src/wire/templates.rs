//! Templates and credentials on the wire.

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
}

/// `POST /credentials`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutCredential {
    /// What to call it.
    pub name: String,
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
