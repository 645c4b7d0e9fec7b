//! Tools that search repositories, code and commits.

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
    arguments::{Order, not_blank, paged_arguments, word},
    model::{CodeHit, CommitHit, Found, Repository},
};

paged_arguments!(SearchRepositories {
    /// The query in GitHub's search syntax, such as `mcp in:name language:rust stars:>100`.
    query: String,
    /// What to sort by; absent: best match.
    sort: Option<RepositorySort>,
    /// The order, with sort.
    order: Option<Order>,
    /// Whether to leave out what is seldom needed; absent: it is left out.
    minimal_output: Option<bool>,
});

/// What repositories are sorted by.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "kebab-case")]
enum RepositorySort {
    Stars,
    Forks,
    HelpWantedIssues,
    Updated,
}

paged_arguments!(SearchCode {
    /// The query, such as `fn main repo:owner/name`; all words must be there. Qualifiers: repo:, org:, user:, language:, path:, filename:, extension:.
    query: String,
    /// What to sort by: indexed is the only one; absent: best match.
    sort: Option<CodeSort>,
    /// The order, with sort.
    order: Option<Order>,
});

/// What code is sorted by.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
enum CodeSort {
    Indexed,
}

paged_arguments!(SearchCommits {
    /// The query over messages, such as `fix panic repo:owner/name author:octocat committer-date:>2026-01-01`.
    query: String,
    /// What to sort by; absent: best match.
    sort: Option<CommitSort>,
    /// The order, with sort.
    order: Option<Order>,
});

/// What commits are sorted by.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "kebab-case")]
enum CommitSort {
    AuthorDate,
    CommitterDate,
}

#[tool_router(router = repo_search_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Finds repositories by name, description, language, stars and more.")]
    async fn search_repositories(
        &self,
        Parameters(args): Parameters<SearchRepositories>,
    ) -> Result<Json<Found<Repository>>, String> {
        let call = query_call("repositories", &args.query, args.sort.as_ref(), args.order)?;
        let mut found = self.search::<Repository>(call, args.page()).await?;
        if args.minimal_output != Some(false) {
            let items = std::mem::take(&mut found.0.items);
            found.0.items = items.into_iter().map(Repository::minimal).collect();
        }
        Ok(found)
    }

    #[tool(description = "Finds code in the default branches of repositories.")]
    async fn search_code(
        &self,
        Parameters(args): Parameters<SearchCode>,
    ) -> Result<Json<Found<CodeHit>>, String> {
        let call = query_call("code", &args.query, args.sort.as_ref(), args.order)?;
        self.search(call, args.page()).await
    }

    #[tool(
        description = "Finds commits by their messages, in default branches. Name a repo:, org: or user: in the query."
    )]
    async fn search_commits(
        &self,
        Parameters(args): Parameters<SearchCommits>,
    ) -> Result<Json<Found<CommitHit>>, String> {
        let call = query_call("commits", &args.query, args.sort.as_ref(), args.order)?;
        self.search(call, args.page()).await
    }
}

/// A search of `what`.
pub(crate) fn query_call<S: Serialize>(
    what: &str,
    query: &str,
    sort: Option<&S>,
    order: Option<Order>,
) -> Result<Call, String> {
    Ok(Call::get(format!("/search/{what}"))
        .query("q", not_blank("query", query)?)
        .query_opt("sort", sort.map(word))
        .query_opt("order", order.as_ref().map(word)))
}
