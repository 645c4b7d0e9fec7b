//! Issues, their comments and labels.

use rmcp::schemars::{self, JsonSchema};
use serde::{Deserialize, Deserializer, Serialize};

use super::{called, is_there, login, logins};

fn label_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    /// Old issues have labels that are plain texts.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Label {
        Name(String),
        Object { name: Option<String> },
    }
    let labels = Option::<Vec<Label>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(labels
        .into_iter()
        .filter_map(|label| match label {
            Label::Name(name) => Some(name),
            Label::Object { name } => name,
        })
        .collect())
}

/// An issue.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Issue {
    /// What sub_issue_write wants; everything else wants the number.
    pub(crate) id: u64,
    number: u64,
    title: String,
    /// open or closed.
    state: String,
    /// Why it was closed.
    state_reason: Option<String>,
    /// Who opened it.
    #[serde(rename = "author", alias = "user", deserialize_with = "login", default)]
    user: Option<String>,
    #[serde(deserialize_with = "label_names", default)]
    labels: Vec<String>,
    #[serde(deserialize_with = "logins", default)]
    assignees: Vec<String>,
    /// The milestone's title.
    #[serde(deserialize_with = "called", default)]
    milestone: Option<String>,
    /// The issue type's name.
    #[serde(rename = "type", deserialize_with = "called", default)]
    kind: Option<String>,
    /// The text, Markdown.
    body: Option<String>,
    /// How many comments there are.
    comments: Option<u64>,
    /// How many sub-issues there are, and how many are done.
    sub_issues_summary: Option<SubIssues>,
    created_at: String,
    updated_at: String,
    closed_at: Option<String>,
    html_url: String,
    /// Whether it is a pull request, which GitHub lists among issues.
    #[serde(
        rename = "is_pull_request",
        alias = "pull_request",
        deserialize_with = "is_there",
        default
    )]
    pub(crate) pull_request: bool,
}

/// How many sub-issues an issue has.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct SubIssues {
    total: u64,
    completed: u64,
}

/// A comment.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Comment {
    id: u64,
    /// Who wrote it.
    #[serde(rename = "author", alias = "user", deserialize_with = "login", default)]
    user: Option<String>,
    /// The text, Markdown.
    body: Option<String>,
    created_at: Option<String>,
    updated_at: Option<String>,
    html_url: String,
}

/// A label.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Label {
    name: String,
    /// Six hexadecimal digits.
    color: Option<String>,
    description: Option<String>,
}
