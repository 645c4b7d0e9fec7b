//! Tools of the toolset actions that read: workflows, runs, jobs, artifacts and checks.

use minimcp_rest::{Call, path_segment};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};

use crate::{
    GitHub,
    arguments::{paged_repo_arguments, refuse, repo_arguments, some_segments, word},
    model::{Annotation, Artifact, CheckRun, Job, Run, Usage, Workflow},
};

paged_repo_arguments!(ActionsList {
    /// What to list.
    method: ListMethod,
    /// For list_workflow_runs: a workflow, by its id or file name; absent: the runs of all. For list_workflow_jobs and list_workflow_run_artifacts: the run's id. For list_check_runs: a check suite's id, or give ref. For list_check_run_annotations: the check run's id.
    resource_id: Option<String>,
    /// For list_check_runs: a commit, branch or tag.
    #[serde(rename = "ref")]
    git_ref: Option<String>,
    /// For list_workflow_runs: which ones.
    workflow_runs_filter: Option<RunsFilter>,
    /// For list_workflow_jobs: which ones.
    workflow_jobs_filter: Option<JobsFilter>,
    /// For list_check_runs: which ones.
    check_runs_filter: Option<ChecksFilter>,
});

/// What to list.
#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
#[expect(
    clippy::enum_variant_names,
    reason = "they are the words of GitHub's own server"
)]
enum ListMethod {
    ListWorkflows,
    ListWorkflowRuns,
    ListWorkflowJobs,
    ListWorkflowRunArtifacts,
    ListCheckRuns,
    ListCheckRunAnnotations,
}

/// Which runs.
#[derive(Deserialize, JsonSchema, Default)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
struct RunsFilter {
    /// The login of who started them.
    actor: Option<String>,
    /// The branch.
    branch: Option<String>,
    /// What started them, such as push or pull_request.
    event: Option<String>,
    /// Their status or conclusion, such as in_progress, completed or failure.
    status: Option<RunStatus>,
}

/// The status or conclusion of a run.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
enum RunStatus {
    Completed,
    ActionRequired,
    Cancelled,
    Failure,
    Neutral,
    Skipped,
    Stale,
    Success,
    TimedOut,
    InProgress,
    Queued,
    Requested,
    Waiting,
    Pending,
}

/// Which jobs.
#[derive(Deserialize, JsonSchema, Default)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
struct JobsFilter {
    /// Those of the latest attempt, or of all; absent: latest.
    filter: Option<Attempts>,
}

/// Which attempts.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
enum Attempts {
    Latest,
    All,
}

/// Which checks.
#[derive(Deserialize, JsonSchema, Default)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
struct ChecksFilter {
    /// The check's exact name.
    check_name: Option<String>,
    /// The check's status.
    status: Option<CheckStatus>,
    /// Those of the latest attempt, or of all; absent: latest.
    filter: Option<Attempts>,
    /// The id of the GitHub App that made them; with ref only.
    app_id: Option<u64>,
}

/// The status of a check.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
enum CheckStatus {
    Queued,
    InProgress,
    Completed,
}

/// One of these, as the method says.
#[derive(Serialize, Deserialize, JsonSchema, Default)]
struct ActionsPage {
    /// How many there are in all.
    total_count: Option<u64>,
    workflows: Option<Vec<Workflow>>,
    workflow_runs: Option<Vec<Run>>,
    jobs: Option<Vec<Job>>,
    artifacts: Option<Vec<Artifact>>,
    check_runs: Option<Vec<CheckRun>>,
    #[serde(skip_deserializing)]
    annotations: Option<Vec<Annotation>>,
    /// Give this as page for the next page; absent: there is none.
    #[serde(skip_deserializing)]
    next_page: Option<u32>,
}

repo_arguments!(ActionsGet {
    /// What to get: a workflow, a run, a job, the download address of an artifact, the usage of a run, the download address of a run's logs, or a check run.
    method: GetMethod,
    /// The id of the thing; for get_workflow also its file name, such as ci.yaml.
    resource_id: String,
});

/// What to get.
#[derive(Deserialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
enum GetMethod {
    GetWorkflow,
    GetWorkflowRun,
    GetWorkflowJob,
    DownloadWorkflowRunArtifact,
    GetWorkflowRunUsage,
    GetWorkflowRunLogsUrl,
    GetCheckRun,
}

/// One of these, as the method says.
#[derive(Serialize, JsonSchema, Default)]
struct ActionsThing {
    workflow: Option<Workflow>,
    workflow_run: Option<Run>,
    job: Option<Job>,
    usage: Option<Usage>,
    check_run: Option<CheckRun>,
    /// An address that anyone who has it can download a ZIP file from, for about a minute; it needs no token.
    download_url: Option<String>,
}

#[tool_router(router = actions_read_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(
        description = "Lists workflows of GitHub Actions, their runs, jobs, artifacts, or checks and their annotations."
    )]
    async fn actions_list(
        &self,
        Parameters(args): Parameters<ActionsList>,
    ) -> Result<Json<ActionsPage>, String> {
        let call = list_call(&args)?;
        Ok(Json(match args.method {
            ListMethod::ListCheckRunAnnotations => {
                let (annotations, next_page) = self.fetch_page(call, args.page()).await?;
                ActionsPage {
                    annotations: Some(annotations),
                    next_page,
                    ..ActionsPage::default()
                }
            }
            _ => {
                let (listed, next_page) = self.fetch_page::<ActionsPage>(call, args.page()).await?;
                ActionsPage {
                    next_page,
                    ..listed
                }
            }
        }))
    }

    #[tool(
        description = "Gets a workflow of GitHub Actions, a run, its usage, a job, a check, or the download address of logs or of an artifact."
    )]
    async fn actions_get(
        &self,
        Parameters(args): Parameters<ActionsGet>,
    ) -> Result<Json<ActionsThing>, String> {
        let id = match args.method {
            GetMethod::GetWorkflow => path_segment(&args.resource_id),
            _ => number(&args.resource_id)?,
        };
        let at = |path: String| Ok::<_, String>(Call::get(args.path(&path)?));
        let mut thing = ActionsThing::default();
        match args.method {
            GetMethod::GetWorkflow => {
                thing.workflow = Some(self.fetch(at(format!("/actions/workflows/{id}"))?).await?);
            }
            GetMethod::GetWorkflowRun => {
                thing.workflow_run = Some(self.fetch(at(format!("/actions/runs/{id}"))?).await?);
            }
            GetMethod::GetWorkflowJob => {
                thing.job = Some(self.fetch(at(format!("/actions/jobs/{id}"))?).await?);
            }
            GetMethod::GetWorkflowRunUsage => {
                thing.usage = Some(
                    self.fetch(at(format!("/actions/runs/{id}/timing"))?)
                        .await?,
                );
            }
            GetMethod::GetCheckRun => {
                thing.check_run = Some(self.fetch(at(format!("/check-runs/{id}"))?).await?);
            }
            GetMethod::DownloadWorkflowRunArtifact => {
                let call = at(format!("/actions/artifacts/{id}/zip"))?;
                thing.download_url = Some(self.location(call).await?);
            }
            GetMethod::GetWorkflowRunLogsUrl => {
                let call = at(format!("/actions/runs/{id}/logs"))?;
                thing.download_url = Some(self.location(call).await?);
            }
        }
        Ok(Json(thing))
    }
}

/// The call of a list; the arguments that do not belong to its method are refused.
fn list_call(args: &ActionsList) -> Result<Call, String> {
    let method = args.method;
    for (given, of, what) in [
        (
            args.workflow_runs_filter.is_some(),
            ListMethod::ListWorkflowRuns,
            "workflow_runs_filter is for list_workflow_runs",
        ),
        (
            args.workflow_jobs_filter.is_some(),
            ListMethod::ListWorkflowJobs,
            "workflow_jobs_filter is for list_workflow_jobs",
        ),
        (
            args.check_runs_filter.is_some(),
            ListMethod::ListCheckRuns,
            "check_runs_filter is for list_check_runs",
        ),
        (
            args.git_ref.is_some(),
            ListMethod::ListCheckRuns,
            "ref is for list_check_runs",
        ),
    ] {
        if given && method != of {
            return refuse(what);
        }
    }
    let Some(id) = &args.resource_id else {
        return match method {
            ListMethod::ListWorkflows => Ok(Call::get(args.path("/actions/workflows")?)),
            ListMethod::ListWorkflowRuns => runs_call(args, "/actions/runs"),
            ListMethod::ListCheckRuns if args.git_ref.is_some() => checks_call(args),
            ListMethod::ListCheckRuns => {
                refuse("ref or resource_id, a check suite's id, is needed")
            }
            _ => refuse("resource_id is needed for this method"),
        };
    };
    match method {
        ListMethod::ListWorkflows => refuse("list_workflows takes no resource_id"),
        ListMethod::ListWorkflowRuns => runs_call(
            args,
            &format!("/actions/workflows/{}/runs", path_segment(id)),
        ),
        ListMethod::ListWorkflowJobs => {
            let filter = args
                .workflow_jobs_filter
                .as_ref()
                .and_then(|filter| filter.filter);
            let path = format!("/actions/runs/{}/jobs", number(id)?);
            Ok(Call::get(args.path(&path)?).query_opt("filter", filter.as_ref().map(word)))
        }
        ListMethod::ListWorkflowRunArtifacts => Ok(Call::get(
            args.path(&format!("/actions/runs/{}/artifacts", number(id)?))?,
        )),
        ListMethod::ListCheckRuns => checks_call(args),
        ListMethod::ListCheckRunAnnotations => Ok(Call::get(
            args.path(&format!("/check-runs/{}/annotations", number(id)?))?,
        )),
    }
}

fn runs_call(args: &ActionsList, rest: &str) -> Result<Call, String> {
    let none = RunsFilter::default();
    let filter = args.workflow_runs_filter.as_ref().unwrap_or(&none);
    Ok(Call::get(args.path(rest)?)
        .query_opt("actor", filter.actor.as_ref())
        .query_opt("branch", filter.branch.as_ref())
        .query_opt("event", filter.event.as_ref())
        .query_opt("status", filter.status.as_ref().map(word)))
}

fn checks_call(args: &ActionsList) -> Result<Call, String> {
    let none = ChecksFilter::default();
    let filter = args.check_runs_filter.as_ref().unwrap_or(&none);
    let path = match (&args.git_ref, &args.resource_id) {
        (Some(git_ref), None) => format!("/commits{}/check-runs", some_segments("ref", git_ref)?),
        (None, Some(suite)) if filter.app_id.is_none() => {
            format!("/check-suites/{}/check-runs", number(suite)?)
        }
        (None, Some(_)) => return refuse("app_id goes with ref only"),
        _ => return refuse("give one of ref and resource_id"),
    };
    Ok(Call::get(args.path(&path)?)
        .query_opt("check_name", filter.check_name.as_ref())
        .query_opt("status", filter.status.as_ref().map(word))
        .query_opt("filter", filter.filter.as_ref().map(word))
        .query_opt("app_id", filter.app_id))
}

/// An id, which is a number written as text.
fn number(id: &str) -> Result<String, String> {
    match id.trim().parse::<u64>() {
        Ok(number) => Ok(number.to_string()),
        Err(_) => refuse("resource_id must be a number here"),
    }
}
