//! Pull requests, their reviews and checks.

use rmcp::schemars::{self, JsonSchema};
use serde::{Deserialize, Deserializer, Serialize};

use super::{login, logins};

/// A pull request.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct PullRequest {
    number: u64,
    title: String,
    /// open or closed.
    state: String,
    #[serde(default)]
    draft: bool,
    /// Who opened it.
    #[serde(rename = "author", alias = "user", deserialize_with = "login", default)]
    user: Option<String>,
    /// The text, Markdown.
    body: Option<String>,
    /// Where the change comes from.
    pub(crate) head: Branch,
    /// Where it goes.
    base: Branch,
    /// Who was asked to review and has not yet.
    #[serde(deserialize_with = "logins", default)]
    requested_reviewers: Vec<String>,
    /// Whether it can be merged; not known at once, and not in lists.
    mergeable: Option<bool>,
    /// Why it can or cannot be merged: clean, dirty, blocked, behind, unstable, draft or unknown.
    mergeable_state: Option<String>,
    merged_at: Option<String>,
    created_at: String,
    updated_at: String,
    /// Not in lists.
    additions: Option<u64>,
    /// Not in lists.
    deletions: Option<u64>,
    /// Not in lists.
    changed_files: Option<u64>,
    html_url: String,
    /// What GraphQL calls it; not shown.
    #[serde(default, skip_serializing)]
    pub(crate) node_id: String,
}

impl PullRequest {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn draft(&self) -> bool {
        self.draft
    }
}

/// One side of a pull request.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Branch {
    /// OWNER:BRANCH.
    label: Option<String>,
    /// The branch.
    #[serde(rename = "ref")]
    name: String,
    /// Its commit.
    pub(crate) sha: String,
}

/// A file of a pull request or a commit.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct ChangedFile {
    filename: String,
    /// added, removed, modified, renamed, copied, changed or unchanged.
    status: String,
    /// Its name before, if it was renamed.
    previous_filename: Option<String>,
    additions: u64,
    deletions: u64,
    /// The change as a unified diff; absent for binary and very large files.
    pub(crate) patch: Option<String>,
}

/// A review of a pull request.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Review {
    pub(crate) id: u64,
    #[serde(rename = "author", alias = "user", deserialize_with = "login", default)]
    user: Option<String>,
    /// APPROVED, CHANGES_REQUESTED, COMMENTED, DISMISSED or PENDING.
    pub(crate) state: String,
    body: Option<String>,
    submitted_at: Option<String>,
    html_url: String,
    /// What GraphQL calls it; not shown.
    #[serde(default, skip_serializing)]
    pub(crate) node_id: String,
}

/// GraphQL writes large numbers as texts.
fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    Ok(
        Option::<Either>::deserialize(deserializer)?.and_then(|id| match id {
            Either::Number(id) => Some(id),
            Either::Text(id) => id.parse().ok(),
        }),
    )
}

/// A comment in a review.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct ReviewComment {
    /// What add_reply_to_pull_request_comment wants as commentId.
    #[serde(deserialize_with = "number_or_text", default)]
    id: Option<u64>,
    /// Who wrote it.
    #[serde(rename = "author", alias = "user", deserialize_with = "login", default)]
    user: Option<String>,
    /// The text, Markdown.
    body: String,
    /// The file.
    path: Option<String>,
    /// The line; absent when the code has changed since.
    line: Option<u64>,
    /// The line when it was written.
    original_line: Option<u64>,
    created_at: Option<String>,
    html_url: Option<String>,
}

/// A thread of comments at one place of a pull request.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ReviewThread {
    /// What pull_request_review_write wants as threadId.
    pub(crate) id: String,
    pub(crate) is_resolved: bool,
    /// Whether the code has changed since.
    pub(crate) is_outdated: bool,
    /// The file.
    pub(crate) path: String,
    /// The line; absent when the code has changed since.
    pub(crate) line: Option<u64>,
    /// Its comments, at most 100.
    pub(crate) comments: Vec<ReviewComment>,
    /// How many comments it has in all.
    pub(crate) total_comments: u64,
}

/// The statuses of a commit, put together.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct CombinedStatus {
    /// success, pending or failure.
    state: String,
    sha: String,
    total_count: u64,
    statuses: Vec<Status>,
}

/// One status of a commit.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Status {
    /// Who tells it.
    context: String,
    /// success, pending, failure or error.
    state: String,
    description: Option<String>,
    target_url: Option<String>,
}

/// A check that ran on a commit.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct CheckRun {
    id: u64,
    name: String,
    /// queued, in_progress or completed.
    status: String,
    /// success, failure, neutral, cancelled, skipped, timed_out or action_required; absent until it is completed.
    conclusion: Option<String>,
    started_at: Option<String>,
    completed_at: Option<String>,
    /// What it found.
    output: Option<CheckOutput>,
    html_url: Option<String>,
}

/// What a check found.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct CheckOutput {
    title: Option<String>,
    summary: Option<String>,
    /// Notes at single lines; actions_list lists them.
    annotations_count: Option<u64>,
}
