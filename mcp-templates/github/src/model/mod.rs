//! What GitHub answers, cut down to what a model needs. The same types read the API and are shown.

mod commit;
mod issue;
mod pull;
mod run;

use rmcp::schemars::{self, JsonSchema};
use serde::{Deserialize, Deserializer, Serialize};

pub(crate) use commit::{Commit, CommitHit, CommitWithFiles, FileCommit, GitPerson};
pub(crate) use issue::{Comment, Issue, Label};
pub(crate) use pull::{
    ChangedFile, CheckRun, CombinedStatus, PullRequest, Review, ReviewComment, ReviewThread,
};
pub(crate) use run::{Annotation, Artifact, Job, Run, Usage, Workflow};

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

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<serde::de::IgnoredAny>::deserialize(deserializer)?.is_some())
}

/// The name of an object such as a milestone or an issue type, by what it is called there.
fn called<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    struct Called {
        #[serde(alias = "title", alias = "full_name")]
        name: String,
    }
    Ok(Option::<Called>::deserialize(deserializer)?.map(|one| one.name))
}

/// A user with the profile.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct User {
    /// The name used in addresses.
    login: String,
    /// The name shown.
    name: Option<String>,
    /// User, Organization or Bot.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Self-description.
    bio: Option<String>,
    company: Option<String>,
    location: Option<String>,
    /// Public address, if shown.
    email: Option<String>,
    /// Public repositories.
    public_repos: Option<u64>,
    followers: Option<u64>,
    /// The profile page.
    html_url: String,
    created_at: Option<String>,
}

/// A user or an organization in a list.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Account {
    /// The name used in addresses.
    login: String,
    id: u64,
    /// User, Organization or Bot.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// What a collaborator may do: read, triage, write, maintain, admin or a role of the organization.
    role_name: Option<String>,
    html_url: String,
}

/// A repository.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Repository {
    /// Owner and name.
    full_name: String,
    /// What it is.
    description: Option<String>,
    private: bool,
    fork: bool,
    /// Whether it is read-only by now.
    archived: Option<bool>,
    /// The branch that is used when none is named.
    pub(crate) default_branch: Option<String>,
    /// The main language.
    language: Option<String>,
    stargazers_count: Option<u64>,
    /// Open issues and pull requests.
    open_issues_count: Option<u64>,
    /// When something was last pushed.
    pushed_at: Option<String>,
    html_url: String,
    /// Subjects it is about.
    topics: Option<Vec<String>>,
    homepage: Option<String>,
    forks_count: Option<u64>,
    /// In kilobytes.
    size: Option<u64>,
    visibility: Option<String>,
    created_at: Option<String>,
    updated_at: Option<String>,
}

impl Repository {
    /// Leaves out what is seldom needed.
    pub(crate) fn minimal(self) -> Self {
        Self {
            topics: None,
            homepage: None,
            forks_count: None,
            size: None,
            visibility: None,
            created_at: None,
            updated_at: None,
            ..self
        }
    }
}

/// A page of a search.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Found<T> {
    /// Hits in all; GitHub gives at most the first 1,000.
    total_count: u64,
    /// Whether GitHub ran out of time before it had looked at everything.
    incomplete_results: bool,
    /// The hits of this page.
    pub(crate) items: Vec<T>,
    /// Give this as page for the next page; absent: there is none.
    #[serde(skip_deserializing)]
    pub(crate) next_page: Option<u32>,
}

/// A page of a list.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Listed<T> {
    /// The entries.
    pub(crate) items: Vec<T>,
    /// Give this as page for the next page; absent: there is none.
    pub(crate) next_page: Option<u32>,
}

/// What was done, where GitHub answers nothing.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Done {
    /// What was done, in words.
    pub(crate) done: String,
}

/// A hit of a code search.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct CodeHit {
    /// The file.
    path: String,
    /// The blob's hash.
    sha: String,
    /// Owner and name of the repository.
    #[serde(deserialize_with = "full_name")]
    repository: Option<String>,
    html_url: String,
}

fn full_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    struct Named {
        full_name: String,
    }
    Ok(Option::<Named>::deserialize(deserializer)?.map(|one| one.full_name))
}
