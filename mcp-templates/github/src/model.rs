//! What GitHub answers, cut down to what a model needs. The same types read the REST API and are shown.

use rmcp::schemars::{self, JsonSchema};
use serde::{Deserialize, Deserializer, Serialize};

#[derive(Deserialize)]
struct Login {
    login: String,
}

fn login<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<Login>::deserialize(deserializer)?.map(|user| user.login))
}

fn logins<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let users = Option::<Vec<Login>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(users.into_iter().map(|user| user.login).collect())
}

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

/// A user.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct User {
    /// The name used in addresses.
    login: String,
    /// The name shown.
    name: Option<String>,
    /// Self-description.
    bio: Option<String>,
    /// Company.
    company: Option<String>,
    /// Place.
    location: Option<String>,
    /// Public address, if shown.
    email: Option<String>,
    /// Public repositories.
    public_repos: Option<u64>,
    /// The profile page.
    html_url: String,
    /// When the account was made.
    created_at: Option<String>,
}

/// A repository.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Repository {
    /// Owner and name.
    full_name: String,
    /// What it is.
    description: Option<String>,
    /// Whether it is private.
    private: bool,
    /// Whether it is a fork.
    fork: bool,
    /// Whether it is read-only by now.
    #[serde(default)]
    archived: bool,
    /// The branch that is used when none is named.
    default_branch: Option<String>,
    /// The main language.
    language: Option<String>,
    /// Stars.
    stargazers_count: Option<u64>,
    /// Open issues and pull requests.
    open_issues_count: Option<u64>,
    /// When something was last pushed.
    pushed_at: Option<String>,
    /// Its page.
    html_url: String,
}

/// A page of a search.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Found<T> {
    /// Hits in all; GitHub gives at most the first 1,000.
    total_count: u64,
    /// Whether GitHub ran out of time before it had looked at everything.
    incomplete_results: bool,
    /// The hits of this page.
    items: Vec<T>,
    /// The number of the next page, if there is one.
    #[serde(skip_deserializing)]
    pub(crate) next_page: Option<u32>,
}

/// A page of a list.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Listed<T> {
    /// The entries.
    pub(crate) items: Vec<T>,
    /// The number of the next page, if there is one.
    pub(crate) next_page: Option<u32>,
}

/// An issue.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Issue {
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
    /// The text, Markdown.
    body: Option<String>,
    /// How many comments there are.
    comments: Option<u64>,
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

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<serde::de::IgnoredAny>::deserialize(deserializer)?.is_some())
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
    /// The file that it is about, for a comment in a review.
    path: Option<String>,
    /// The line that it is about.
    line: Option<u64>,
    html_url: String,
}

/// A label.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Label {
    name: String,
    description: Option<String>,
}

/// A pull request.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct PullRequest {
    number: u64,
    title: String,
    /// open or closed.
    state: String,
    /// Whether it is a draft.
    #[serde(default)]
    draft: bool,
    /// Who opened it.
    #[serde(rename = "author", alias = "user", deserialize_with = "login", default)]
    user: Option<String>,
    /// The text, Markdown.
    body: Option<String>,
    /// Where the change comes from.
    head: Branch,
    /// Where it goes.
    base: Branch,
    /// Whether it can be merged; not known at once, and not in lists.
    mergeable: Option<bool>,
    merged_at: Option<String>,
    created_at: String,
    updated_at: String,
    /// Only for a single one.
    additions: Option<u64>,
    /// Only for a single one.
    deletions: Option<u64>,
    /// Only for a single one.
    changed_files: Option<u64>,
    html_url: String,
}

/// One side of a pull request.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Branch {
    /// OWNER:BRANCH.
    label: Option<String>,
    /// The branch.
    #[serde(rename = "ref")]
    #[schemars(rename = "ref")]
    name: String,
    /// Its commit.
    sha: String,
}

/// A file of a pull request.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct ChangedFile {
    filename: String,
    /// added, removed, modified, renamed, copied, changed or unchanged.
    status: String,
    additions: u64,
    deletions: u64,
    /// The change as a unified diff; absent for binary and very large files.
    patch: Option<String>,
}

/// A review of a pull request.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Review {
    id: u64,
    #[serde(rename = "author", alias = "user", deserialize_with = "login", default)]
    user: Option<String>,
    /// APPROVED, CHANGES_REQUESTED, COMMENTED, DISMISSED or PENDING.
    state: String,
    body: Option<String>,
    submitted_at: Option<String>,
    html_url: String,
}

/// A commit.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Commit {
    sha: String,
    /// What Git knows of it.
    commit: CommitDetail,
    /// The GitHub user who wrote it, if known.
    #[serde(deserialize_with = "login", default)]
    author: Option<String>,
    html_url: String,
}

/// What Git knows of a commit.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct CommitDetail {
    message: String,
    author: Option<Signature>,
}

/// Who, when.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Signature {
    name: Option<String>,
    date: Option<String>,
}

/// A hit of a code search.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct CodeHit {
    /// The file.
    path: String,
    sha: String,
    repository: RepositoryName,
    html_url: String,
}

/// Owner and name of a repository.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct RepositoryName {
    full_name: String,
}
