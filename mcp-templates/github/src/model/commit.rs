//! Commits.

use rmcp::schemars::{self, JsonSchema};
use serde::{Deserialize, Serialize};

use super::{ChangedFile, full_name, login};

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
    author: Option<GitPerson>,
}

/// Who, when.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct GitPerson {
    name: Option<String>,
    email: Option<String>,
    date: Option<String>,
}

/// A hit of a commit search.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct CommitHit {
    sha: String,
    /// What Git knows of it.
    commit: CommitDetail,
    /// The GitHub user who wrote it, if known.
    #[serde(deserialize_with = "login", default)]
    author: Option<String>,
    /// Owner and name of the repository.
    #[serde(deserialize_with = "full_name")]
    repository: Option<String>,
    html_url: String,
}

/// A commit with what it changed.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct CommitWithFiles {
    sha: String,
    /// What Git knows of it.
    commit: CommitDetail,
    /// The GitHub user who wrote it, if known.
    #[serde(deserialize_with = "login", default)]
    author: Option<String>,
    html_url: String,
    /// The commits before it.
    #[serde(default)]
    parents: Vec<Parent>,
    /// Lines in all; absent with detail none.
    pub(crate) stats: Option<Stats>,
    /// The changed files of this page; absent with detail none.
    pub(crate) files: Option<Vec<ChangedFile>>,
    /// Give this as page for more files; absent: there are none.
    #[serde(skip_deserializing)]
    pub(crate) next_page: Option<u32>,
}

/// A commit before.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Parent {
    sha: String,
}

/// Lines that a commit added and took away.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Stats {
    additions: u64,
    deletions: u64,
    total: u64,
}

/// The commit that a written or deleted file made.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct FileCommit {
    /// The file as it is now; absent when it was deleted.
    content: Option<WrittenFile>,
    /// The commit.
    commit: MadeCommit,
}

/// A file that was written.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct WrittenFile {
    path: String,
    /// The blob's hash, needed to change the file again.
    sha: String,
    html_url: Option<String>,
}

/// A commit that was made.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct MadeCommit {
    sha: String,
    message: Option<String>,
    html_url: Option<String>,
}
