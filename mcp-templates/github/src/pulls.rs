//! Tools of the toolset pull_requests.

use minimcp_rest::Call;
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};

use crate::{
    GitHub,
    model::{ChangedFile, Comment, Listed, PullRequest, Review},
    repos::{Order, word},
    server::{paged, repo_path},
};

const DIFF_BYTES_MAX: usize = 512 * 1024;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListPullRequests {
    /// The owner of the repository.
    owner: String,
    /// The repository's name.
    repo: String,
    /// Which ones; absent: open.
    state: Option<PullState>,
    /// Only from this branch, as OWNER:BRANCH.
    head: Option<String>,
    /// Only into this branch.
    base: Option<String>,
    /// What to sort by; absent: creation.
    sort: Option<PullSort>,
    /// The order; absent: descending when sorted by creation.
    direction: Option<Order>,
    /// The page, from 1.
    page: Option<u32>,
    /// Entries on a page, 1 to 100; 30 when absent.
    #[serde(rename = "perPage")]
    per_page: Option<u32>,
}

/// Which pull requests.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum PullState {
    Open,
    Closed,
    All,
}

/// What pull requests are sorted by.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum PullSort {
    Created,
    Updated,
    Popularity,
    LongRunning,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PullRequestRead {
    /// What to read: the pull request, its diff, changed files, comments, review comments or reviews.
    method: PullReadMethod,
    /// The owner of the repository.
    owner: String,
    /// The repository's name.
    repo: String,
    /// The pull request's number.
    #[serde(rename = "pullNumber")]
    pull_number: u64,
    /// The page of a list, from 1.
    page: Option<u32>,
    /// Entries on a page, 1 to 100; 30 when absent.
    #[serde(rename = "perPage")]
    per_page: Option<u32>,
}

/// What to read of a pull request.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum PullReadMethod {
    Get,
    GetDiff,
    GetFiles,
    GetComments,
    GetReviewComments,
    GetReviews,
}

/// One of these, as the method says.
#[derive(Serialize, JsonSchema, Default)]
struct PullRequestParts {
    pull_request: Option<PullRequest>,
    /// A unified diff.
    diff: Option<String>,
    /// Whether the diff was cut because it is too long; get_files gives it in pages.
    diff_truncated: Option<bool>,
    files: Option<Vec<ChangedFile>>,
    comments: Option<Vec<Comment>>,
    reviews: Option<Vec<Review>>,
    /// The number of the next page, if there is one.
    next_page: Option<u32>,
}

#[tool_router(router = pull_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(
        description = "Lists the pull requests of a repository.",
        annotations(
            title = "List pull requests",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn list_pull_requests(
        &self,
        Parameters(args): Parameters<ListPullRequests>,
    ) -> Result<Json<Listed<PullRequest>>, String> {
        let call = Call::get(repo_path(&args.owner, &args.repo, "/pulls")?)
            .query_opt("state", args.state.as_ref().map(word))
            .query_opt("head", args.head)
            .query_opt("base", args.base)
            .query_opt("sort", args.sort.as_ref().map(word))
            .query_opt("direction", args.direction.as_ref().map(word));
        self.list(call, args.page, args.per_page).await
    }

    #[tool(
        description = "Reads a pull request: itself, its diff, changed files, comments, review comments or reviews.",
        annotations(
            title = "Read pull request",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn pull_request_read(
        &self,
        Parameters(args): Parameters<PullRequestRead>,
    ) -> Result<Json<PullRequestParts>, String> {
        let number = args.pull_number;
        let path = |rest: &str| repo_path(&args.owner, &args.repo, rest);
        let list = |rest: &str| -> Result<Call, String> {
            Ok(paged(Call::get(path(rest)?), args.page, args.per_page)?)
        };
        let mut parts = PullRequestParts::default();
        match args.method {
            PullReadMethod::Get => {
                let call = Call::get(path(&format!("/pulls/{number}"))?);
                parts.pull_request = Some(self.fetch(call).await?);
            }
            PullReadMethod::GetDiff => {
                let call = Call::get(path(&format!("/pulls/{number}"))?)
                    .accept("application/vnd.github.diff");
                let answer = self.send(call).await?;
                let mut diff = String::from_utf8_lossy(&answer.body).into_owned();
                parts.diff_truncated = Some(diff.len() > DIFF_BYTES_MAX);
                if diff.len() > DIFF_BYTES_MAX {
                    diff.truncate(diff.floor_char_boundary(DIFF_BYTES_MAX));
                }
                parts.diff = Some(diff);
            }
            PullReadMethod::GetFiles => {
                let (files, next) = self
                    .fetch_page(list(&format!("/pulls/{number}/files"))?)
                    .await?;
                (parts.files, parts.next_page) = (Some(files), next);
            }
            PullReadMethod::GetComments => {
                let (comments, next) = self
                    .fetch_page(list(&format!("/issues/{number}/comments"))?)
                    .await?;
                (parts.comments, parts.next_page) = (Some(comments), next);
            }
            PullReadMethod::GetReviewComments => {
                let (comments, next) = self
                    .fetch_page(list(&format!("/pulls/{number}/comments"))?)
                    .await?;
                (parts.comments, parts.next_page) = (Some(comments), next);
            }
            PullReadMethod::GetReviews => {
                let (reviews, next) = self
                    .fetch_page(list(&format!("/pulls/{number}/reviews"))?)
                    .await?;
                (parts.reviews, parts.next_page) = (Some(reviews), next);
            }
        }
        Ok(Json(parts))
    }
}
