//! Tools of the toolset actions that start, cancel and rerun, and the logs of jobs.

use minimcp_rest::{Call, Error, Method, Trouble, path_segment, step};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    GitHub,
    arguments::{Page, not_blank, refuse, repo_arguments},
    model::{Done, Job},
    server::SERVICE,
};

const LINES_DEFAULT: usize = 500;
const LINES_MAX: usize = 5_000;
/// Of all logs of an answer together, in bytes.
const LOG_BYTES_MAX: usize = 128 * 1024;
/// Logs of an answer; further failed jobs are named only.
const JOBS_MAX: usize = 10;

repo_arguments!(RunTrigger {
    /// What to do: start a workflow, run a run again as a whole or its failed jobs, cancel a run, or delete its logs.
    method: TriggerMethod,
    /// For run_workflow: the workflow, by its id or file name, such as ci.yaml.
    workflow_id: Option<String>,
    /// For run_workflow: the branch or tag.
    #[serde(rename = "ref")]
    git_ref: Option<String>,
    /// For run_workflow: the inputs that the workflow takes, by name.
    inputs: Option<Map<String, Value>>,
    /// For all other methods: the run's id.
    run_id: Option<u64>,
});

/// What to do with a workflow or a run.
#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
enum TriggerMethod {
    RunWorkflow,
    RerunWorkflowRun,
    RerunFailedJobs,
    CancelWorkflowRun,
    DeleteWorkflowRunLogs,
}

repo_arguments!(GetJobLogs {
    /// The job's id, for the log of one job.
    job_id: Option<u64>,
    /// The run's id; with failed_only.
    run_id: Option<u64>,
    /// Whether to get the logs of all failed jobs of the run.
    #[serde(default)]
    failed_only: bool,
    /// Whether to answer the log itself; absent or false: an address to download it from.
    #[serde(default)]
    return_content: bool,
    /// How many lines of the end of each log, 1 to 5,000; absent: 500.
    tail_lines: Option<usize>,
});

/// Logs of jobs.
#[derive(Serialize, JsonSchema)]
struct JobLogs {
    logs: Vec<JobLog>,
    /// How many jobs of the run failed, with failed_only.
    failed_jobs: Option<usize>,
}

/// The log of a job.
#[derive(Serialize, JsonSchema)]
struct JobLog {
    job_id: u64,
    /// The job's name, where it is known.
    job_name: Option<String>,
    /// The end of the log.
    content: Option<String>,
    /// The size of the whole log in bytes.
    total_bytes: Option<u64>,
    /// An address that anyone who has it can download the log from, for about a minute; it needs no token.
    download_url: Option<String>,
    /// Why there is no log of this job.
    error: Option<String>,
}

#[derive(Deserialize)]
struct Jobs {
    jobs: Vec<Job>,
}

#[tool_router(router = actions_write_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(
        description = "Starts a workflow of GitHub Actions, runs a run or its failed jobs again, cancels a run, or deletes its logs."
    )]
    async fn actions_run_trigger(
        &self,
        Parameters(args): Parameters<RunTrigger>,
    ) -> Result<Json<Done>, String> {
        let starts = args.method == TriggerMethod::RunWorkflow;
        let for_start =
            args.workflow_id.is_some() || args.git_ref.is_some() || args.inputs.is_some();
        if starts == args.run_id.is_some() || (for_start && !starts) {
            return refuse(
                "run_workflow takes workflow_id, ref and inputs; the other methods take run_id alone",
            );
        }
        let run = |rest: &str| {
            args.path(&format!(
                "/actions/runs/{}{rest}",
                args.run_id.unwrap_or_default()
            ))
        };
        let post = |path: String| Call::new(Method::POST, path);
        let (call, done) = match args.method {
            TriggerMethod::RunWorkflow => {
                let (Some(workflow), Some(git_ref)) = (&args.workflow_id, &args.git_ref) else {
                    return refuse("run_workflow needs workflow_id and ref");
                };
                let workflow = path_segment(not_blank("workflow_id", workflow)?);
                let mut body = json!({"ref": not_blank("ref", git_ref)?});
                if let Some(inputs) = &args.inputs {
                    body["inputs"] = json!(inputs);
                }
                let path = args.path(&format!("/actions/workflows/{workflow}/dispatches"))?;
                (
                    post(path).json(&body),
                    "The workflow is started; actions_list shows its run in a few seconds",
                )
            }
            TriggerMethod::RerunWorkflowRun => (post(run("/rerun")?), "The run starts again"),
            TriggerMethod::RerunFailedJobs => (
                post(run("/rerun-failed-jobs")?),
                "The failed jobs start again",
            ),
            TriggerMethod::CancelWorkflowRun => {
                (post(run("/cancel")?), "The run is being cancelled")
            }
            TriggerMethod::DeleteWorkflowRunLogs => (
                Call::new(Method::DELETE, run("/logs")?),
                "The logs are deleted",
            ),
        };
        self.send(call).await?;
        Ok(Json(Done {
            done: done.to_owned(),
        }))
    }
}

#[tool_router(router = log_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(
        description = "Gets the end of the log of a job of GitHub Actions, or of all failed jobs of a run, or where to download it."
    )]
    async fn get_job_logs(
        &self,
        Parameters(args): Parameters<GetJobLogs>,
    ) -> Result<Json<JobLogs>, String> {
        let lines = args.tail_lines.unwrap_or(LINES_DEFAULT);
        if !(1..=LINES_MAX).contains(&lines) {
            return refuse(format!("tail_lines must be 1 to {LINES_MAX}"));
        }
        let (jobs, failed_jobs) = match (args.job_id, args.run_id, args.failed_only) {
            (Some(id), _, false) => (vec![(id, None)], None),
            (None, Some(run), true) => {
                let path = args.path(&format!("/actions/runs/{run}/jobs"))?;
                let page = Page {
                    page: None,
                    per_page: Some(100),
                };
                let (Jobs { mut jobs }, _) = self.fetch_page(Call::get(path), page).await?;
                jobs.retain(|job| job.conclusion.as_deref() == Some("failure"));
                let failed = jobs.len();
                (
                    jobs.into_iter()
                        .map(|job| (job.id, Some(job.name)))
                        .collect(),
                    Some(failed),
                )
            }
            _ => return refuse("give job_id alone, or run_id with failed_only true"),
        };
        let keep = LOG_BYTES_MAX / jobs.len().clamp(1, JOBS_MAX);
        let total = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
        let mut logs = Vec::new();
        for (index, (job_id, job_name)) in jobs.into_iter().enumerate() {
            let done = u32::try_from(index).unwrap_or(u32::MAX);
            step(done, total, format!("reading the log of job {job_id}"));
            let mut log = JobLog {
                job_id,
                job_name,
                content: None,
                total_bytes: None,
                download_url: None,
                error: None,
            };
            let path = args.path(&format!("/actions/jobs/{job_id}/logs"))?;
            if index >= JOBS_MAX {
                log.error = Some("Not read, for there are many; ask for it by job_id".to_owned());
            } else {
                match self
                    .read_log(&mut log, path, args.return_content.then_some((lines, keep)))
                    .await
                {
                    Err(error) if failed_jobs.is_none() => return Err(error.into()),
                    Err(error) => log.error = Some(error.to_string()),
                    Ok(()) => {}
                }
            }
            logs.push(log);
        }
        Ok(Json(JobLogs { logs, failed_jobs }))
    }
}

impl GitHub {
    /// Where GitHub sends the reader of a log or an artifact: another host, by an address that is signed for it alone.
    pub(crate) async fn location(&self, call: Call) -> Result<String, Error> {
        let answer = self.send(call.redirect_is_answer()).await?;
        let location = answer.header("location").map(str::to_owned);
        location.ok_or_else(|| Error::new(SERVICE, Trouble::Malformed))
    }

    async fn read_log(
        &self,
        log: &mut JobLog,
        path: String,
        content: Option<(usize, usize)>,
    ) -> Result<(), Error> {
        let location = self.location(Call::get(path)).await?;
        let Some((lines, keep_bytes)) = content else {
            log.download_url = Some(location);
            return Ok(());
        };
        let tail = self.client()?.download_tail(&location, keep_bytes).await?;
        let text = String::from_utf8_lossy(&tail.bytes);
        log.content = Some(last_lines(&text, lines).to_owned());
        log.total_bytes = Some(tail.total_bytes);
        Ok(())
    }
}

/// The last `lines` lines.
fn last_lines(text: &str, lines: usize) -> &str {
    let text = text.trim_end_matches('\n');
    let start = text.rmatch_indices('\n').nth(lines - 1);
    start.map_or(text, |(index, _)| &text[index + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a\nb", 5), "a\nb");
        assert_eq!(last_lines("", 1), "");
    }
}
