//! GitHub Actions: workflows, runs, jobs and artifacts.

use rmcp::schemars::{self, JsonSchema};
use serde::{Deserialize, Serialize};

use super::login;

/// A workflow.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Workflow {
    id: u64,
    name: String,
    /// Its file; the last part of it can be given in place of the id.
    path: String,
    /// active, disabled_manually, disabled_inactivity or deleted.
    state: String,
    html_url: String,
}

/// A run of a workflow.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Run {
    id: u64,
    /// The workflow's name.
    name: Option<String>,
    display_title: Option<String>,
    run_number: u64,
    run_attempt: Option<u64>,
    /// What started it, such as push.
    event: String,
    /// queued, in_progress, completed, waiting, requested or pending.
    status: Option<String>,
    /// success, failure, cancelled, timed_out, skipped, neutral, action_required or stale; absent until it is completed.
    conclusion: Option<String>,
    workflow_id: u64,
    check_suite_id: Option<u64>,
    head_branch: Option<String>,
    head_sha: String,
    /// Who started it.
    #[serde(deserialize_with = "login", default)]
    actor: Option<String>,
    created_at: String,
    updated_at: String,
    html_url: String,
}

/// A job of a run.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Job {
    pub(crate) id: u64,
    run_id: u64,
    pub(crate) name: String,
    /// queued, in_progress, completed, waiting, requested or pending.
    status: String,
    /// success, failure, cancelled, timed_out, skipped, neutral or action_required; absent until it is completed.
    pub(crate) conclusion: Option<String>,
    started_at: Option<String>,
    completed_at: Option<String>,
    /// Labels of the runner.
    #[serde(default)]
    labels: Vec<String>,
    runner_name: Option<String>,
    #[serde(default)]
    steps: Vec<Step>,
    html_url: Option<String>,
}

/// A step of a job.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Step {
    number: u64,
    name: String,
    status: String,
    conclusion: Option<String>,
}

/// A file that a run left.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Artifact {
    id: u64,
    name: String,
    size_in_bytes: u64,
    /// Whether it is gone.
    expired: bool,
    created_at: Option<String>,
    expires_at: Option<String>,
}

/// How long a run took on billed runners.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Usage {
    /// The whole, in milliseconds.
    run_duration_ms: Option<u64>,
    /// By the system of the runners.
    #[serde(default)]
    billable: std::collections::BTreeMap<String, Billable>,
}

/// Billed time.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Billable {
    /// In milliseconds.
    total_ms: u64,
    jobs: u64,
}

/// A note of a check at a place of the code.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Annotation {
    path: String,
    start_line: u64,
    end_line: u64,
    /// notice, warning or failure.
    annotation_level: Option<String>,
    title: Option<String>,
    message: Option<String>,
}
