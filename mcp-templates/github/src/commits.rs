//! Tools on the commits of a repository.

use minimcp_rest::Call;
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::Deserialize;

use crate::{
    GitHub,
    arguments::{paged_repo_arguments, some_segments},
    model::{Commit, CommitWithFiles, Listed},
};

paged_repo_arguments!(ListCommits {
    /// The branch, tag or commit to start from; absent: the default branch.
    sha: Option<String>,
    /// Only commits that touch this file or folder.
    path: Option<String>,
    /// Only commits of this author: a login or an email address.
    author: Option<String>,
    /// Only commits after this time, ISO 8601, such as 2026-01-31T00:00:00Z.
    since: Option<String>,
    /// Only commits before this time, ISO 8601.
    until: Option<String>,
});

paged_repo_arguments!(GetCommit {
    /// A commit, branch or tag.
    sha: String,
    /// How much to tell of the changed files; absent: stats. full_patch can be very long.
    #[serde(default)]
    detail: Detail,
});

/// How much to tell of changed files.
#[derive(Deserialize, JsonSchema, Default, Clone, Copy, PartialEq, Eq)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
enum Detail {
    None,
    #[default]
    Stats,
    FullPatch,
}

#[tool_router(router = commit_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Lists commits of a repository, newest first.")]
    async fn list_commits(
        &self,
        Parameters(args): Parameters<ListCommits>,
    ) -> Result<Json<Listed<Commit>>, String> {
        let page = args.page();
        let call = Call::get(args.path("/commits")?)
            .query_opt("sha", args.sha)
            .query_opt("path", args.path)
            .query_opt("author", args.author)
            .query_opt("since", args.since.map(whole_time))
            .query_opt("until", args.until.map(whole_time));
        self.list(call, page).await
    }

    #[tool(description = "Reads a commit, with the files that it changed.")]
    async fn get_commit(
        &self,
        Parameters(args): Parameters<GetCommit>,
    ) -> Result<Json<CommitWithFiles>, String> {
        let path = args.path(&format!("/commits{}", some_segments("sha", &args.sha)?))?;
        let (mut commit, next_page): (CommitWithFiles, _) =
            self.fetch_page(Call::get(path), args.page()).await?;
        commit.next_page = next_page;
        match args.detail {
            Detail::None => (commit.stats, commit.files, commit.next_page) = (None, None, None),
            Detail::Stats => {
                for file in commit.files.iter_mut().flatten() {
                    file.patch = None;
                }
            }
            Detail::FullPatch => {}
        }
        Ok(Json(commit))
    }
}

/// GitHub wants a time; a date alone means its first moment.
fn whole_time(text: String) -> String {
    if text.len() == 10 {
        return format!("{text}T00:00:00Z");
    }
    text
}
