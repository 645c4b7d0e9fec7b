//! The tool that reads a pull request in all its parts.

use minimcp_rest::Call;
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    GitHub,
    arguments::{paged_repo_arguments, refuse},
    model::{
        ChangedFile, CheckRun, CombinedStatus, Comment, Commit, PullRequest, Review, ReviewComment,
        ReviewThread,
    },
};

const DIFF_BYTES_MAX: usize = 192 * 1024;

const THREADS: &str = "query($owner: String!, $repo: String!, $number: Int!, $first: Int!, $after: String) {
  repository(owner: $owner, name: $repo) {
    pullRequest(number: $number) {
      reviewThreads(first: $first, after: $after) {
        pageInfo { hasNextPage endCursor }
        nodes {
          id isResolved isOutdated path line
          comments(first: 100) {
            totalCount
            nodes { id: fullDatabaseId user: author { login } body path line original_line: originalLine created_at: createdAt html_url: url }
          }
        }
      }
    }
  }
}";

paged_repo_arguments!(PullRequestRead {
    /// What to read: the pull request, its diff, the status of its last commit, its changed files, commits, threads of review comments, reviews, comments, or the checks of its last commit.
    method: PullReadMethod,
    /// The pull request's number.
    #[serde(rename = "pullNumber")]
    pull_number: u64,
    /// For get_review_comments, in place of page: the next_cursor of the page before.
    after: Option<String>,
});

/// What to read of a pull request.
#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
enum PullReadMethod {
    Get,
    GetDiff,
    GetStatus,
    GetFiles,
    GetCommits,
    GetReviewComments,
    GetReviews,
    GetComments,
    GetCheckRuns,
}

/// One of these, as the method says.
#[derive(Serialize, JsonSchema, Default)]
struct PullRequestParts {
    pull_request: Option<PullRequest>,
    /// A unified diff.
    diff: Option<String>,
    /// Whether the diff was cut because it is too long; get_files gives it in pages.
    diff_truncated: Option<bool>,
    status: Option<CombinedStatus>,
    files: Option<Vec<ChangedFile>>,
    commits: Option<Vec<Commit>>,
    review_threads: Option<Vec<ReviewThread>>,
    reviews: Option<Vec<Review>>,
    comments: Option<Vec<Comment>>,
    check_runs: Option<Vec<CheckRun>>,
    /// Give this as page for the next page; absent: there is none.
    next_page: Option<u32>,
    /// For get_review_comments: give this as after for the next page; absent: there is none.
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct CheckRuns {
    check_runs: Vec<CheckRun>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ThreadsAnswer {
    repository: RepositoryNode,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RepositoryNode {
    pull_request: PullRequestNode,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PullRequestNode {
    review_threads: ThreadConnection,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ThreadConnection {
    page_info: PageInfo,
    nodes: Vec<Option<ThreadNode>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageInfo {
    has_next_page: bool,
    end_cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ThreadNode {
    id: String,
    is_resolved: bool,
    is_outdated: bool,
    path: String,
    line: Option<u64>,
    comments: CommentConnection,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CommentConnection {
    total_count: u64,
    nodes: Vec<Option<ReviewComment>>,
}

impl From<ThreadNode> for ReviewThread {
    fn from(node: ThreadNode) -> Self {
        Self {
            id: node.id,
            is_resolved: node.is_resolved,
            is_outdated: node.is_outdated,
            path: node.path,
            line: node.line,
            comments: node.comments.nodes.into_iter().flatten().collect(),
            total_comments: node.comments.total_count,
        }
    }
}

#[tool_router(router = pull_read_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(
        description = "Reads a pull request: itself, its diff, status, changed files, commits, review threads, reviews, comments or checks."
    )]
    async fn pull_request_read(
        &self,
        Parameters(args): Parameters<PullRequestRead>,
    ) -> Result<Json<PullRequestParts>, String> {
        if args.after.is_some() && args.method != PullReadMethod::GetReviewComments {
            return refuse("after is for the method get_review_comments; the others take page");
        }
        let (number, page) = (args.pull_number, args.page());
        let at =
            |rest: &str| Ok::<_, String>(Call::get(args.path(&format!("/pulls/{number}{rest}"))?));
        let mut parts = PullRequestParts::default();
        match args.method {
            PullReadMethod::Get => parts.pull_request = Some(self.fetch(at("")?).await?),
            PullReadMethod::GetDiff => {
                let call = at("")?.accept("application/vnd.github.diff");
                let answer = self.send(call).await?;
                let mut diff = String::from_utf8_lossy(&answer.body).into_owned();
                parts.diff_truncated = Some(diff.len() > DIFF_BYTES_MAX);
                if diff.len() > DIFF_BYTES_MAX {
                    diff.truncate(diff.floor_char_boundary(DIFF_BYTES_MAX));
                }
                parts.diff = Some(diff);
            }
            PullReadMethod::GetStatus => {
                let pull: PullRequest = self.fetch(at("")?).await?;
                let call = Call::get(args.path(&format!("/commits/{}/status", pull.head.sha))?);
                let (status, next) = self.fetch_page(call, page).await?;
                (parts.status, parts.next_page) = (Some(status), next);
            }
            PullReadMethod::GetFiles => {
                let (files, next) = self.fetch_page(at("/files")?, page).await?;
                (parts.files, parts.next_page) = (Some(files), next);
            }
            PullReadMethod::GetCommits => {
                let (commits, next) = self.fetch_page(at("/commits")?, page).await?;
                (parts.commits, parts.next_page) = (Some(commits), next);
            }
            PullReadMethod::GetReviewComments => {
                let (threads, cursor) = self.review_threads(&args).await?;
                (parts.review_threads, parts.next_cursor) = (Some(threads), cursor);
            }
            PullReadMethod::GetReviews => {
                let (reviews, next) = self.fetch_page(at("/reviews")?, page).await?;
                (parts.reviews, parts.next_page) = (Some(reviews), next);
            }
            PullReadMethod::GetComments => {
                let call = Call::get(args.path(&format!("/issues/{number}/comments"))?);
                let (comments, next) = self.fetch_page(call, page).await?;
                (parts.comments, parts.next_page) = (Some(comments), next);
            }
            PullReadMethod::GetCheckRuns => {
                let pull: PullRequest = self.fetch(at("")?).await?;
                let call = Call::get(args.path(&format!("/commits/{}/check-runs", pull.head.sha))?);
                let (runs, next): (CheckRuns, _) = self.fetch_page(call, page).await?;
                (parts.check_runs, parts.next_page) = (Some(runs.check_runs), next);
            }
        }
        Ok(Json(parts))
    }
}

impl GitHub {
    /// A page of the threads of review comments. Only GraphQL knows threads and whether they are resolved.
    async fn review_threads(
        &self,
        args: &PullRequestRead,
    ) -> Result<(Vec<ReviewThread>, Option<String>), String> {
        args.path("")?;
        let first = args.per_page.unwrap_or(30);
        if args.page.is_some() || !(1..=100).contains(&first) {
            return refuse(
                "get_review_comments takes after in place of page, and perPage 1 to 100",
            );
        }
        let variables = json!({
            "owner": args.owner, "repo": args.repo, "number": args.pull_number, "first": first, "after": args.after,
        });
        let answer: ThreadsAnswer = self.graphql(THREADS, variables).await?;
        let threads = answer.repository.pull_request.review_threads;
        let info = threads.page_info;
        let cursor = info.end_cursor.filter(|_| info.has_next_page);
        Ok((
            threads
                .nodes
                .into_iter()
                .flatten()
                .map(Into::into)
                .collect(),
            cursor,
        ))
    }
}
