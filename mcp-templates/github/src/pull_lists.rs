//! Tools that list and search pull requests.

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
    arguments::{Order, paged_arguments, paged_repo_arguments, word},
    issue_lists::{SearchSort, scoped},
    model::{Found, Issue, Listed, PullRequest},
    search::query_call,
};

paged_repo_arguments!(ListPullRequests {
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
});

/// Which pull requests.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
enum PullState {
    Open,
    Closed,
    All,
}

/// What pull requests are sorted by.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "kebab-case")]
enum PullSort {
    Created,
    Updated,
    Popularity,
    LongRunning,
}

paged_arguments!(SearchPullRequests {
    /// The query in GitHub's search syntax, such as `is:open review:required author:octocat`; is:pr is added.
    query: String,
    /// The owner of the only repository to search; with repo.
    owner: Option<String>,
    /// The only repository to search; with owner.
    repo: Option<String>,
    /// What to sort by; absent: best match.
    sort: Option<SearchSort>,
    /// The order, with sort.
    order: Option<Order>,
});

#[tool_router(router = pull_list_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Lists the pull requests of a repository.")]
    async fn list_pull_requests(
        &self,
        Parameters(args): Parameters<ListPullRequests>,
    ) -> Result<Json<Listed<PullRequest>>, String> {
        let page = args.page();
        let call = Call::get(args.path("/pulls")?)
            .query_opt("state", args.state.as_ref().map(word))
            .query_opt("head", args.head)
            .query_opt("base", args.base)
            .query_opt("sort", args.sort.as_ref().map(word))
            .query_opt("direction", args.direction.as_ref().map(word));
        self.list(call, page).await
    }

    #[tool(
        description = "Finds pull requests in all repositories that the token may see, or in one."
    )]
    async fn search_pull_requests(
        &self,
        Parameters(args): Parameters<SearchPullRequests>,
    ) -> Result<Json<Found<Issue>>, String> {
        let query = scoped(
            "pr",
            &args.query,
            args.owner.as_deref(),
            args.repo.as_deref(),
        )?;
        let call = query_call("issues", &query, args.sort.as_ref(), args.order)?;
        self.search(call, args.page()).await
    }
}
