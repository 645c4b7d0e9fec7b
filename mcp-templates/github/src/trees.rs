//! The tool of the toolset git.

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
    arguments::{repo_arguments, some_segments},
};

const ENTRIES_MAX: usize = 1_000;

repo_arguments!(GetTree {
    /// A tree, commit, branch or tag; absent: the default branch.
    tree_sha: Option<String>,
    /// Whether to list what lies in folders too.
    #[serde(default)]
    recursive: bool,
    /// Only entries whose path begins so, such as `src/`.
    path_filter: Option<String>,
});

#[derive(Deserialize)]
struct TreeAnswer {
    sha: String,
    tree: Vec<Entry>,
    #[serde(default)]
    truncated: bool,
}

/// A tree of files.
#[derive(Serialize, JsonSchema)]
struct Tree {
    sha: String,
    /// Its files and folders, at most 1,000.
    entries: Vec<Entry>,
    /// Whether there are more; path_filter or the sha of a folder narrows it.
    truncated: bool,
}

/// A file or a folder.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Entry {
    path: String,
    /// blob for a file, tree for a folder, commit for a submodule.
    #[serde(rename = "type")]
    kind: String,
    sha: String,
    /// In bytes, for a file.
    size: Option<u64>,
}

#[tool_router(router = tree_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Lists the files and folders of a repository, all at once if recursive.")]
    async fn get_repository_tree(
        &self,
        Parameters(args): Parameters<GetTree>,
    ) -> Result<Json<Tree>, String> {
        let from = match &args.tree_sha {
            Some(from) => from.clone(),
            None => self.default_branch(args.path("")?).await?,
        };
        let path = args.path(&format!("/git/trees{}", some_segments("tree_sha", &from)?))?;
        let call = Call::get(path).query_opt("recursive", args.recursive.then_some(1));
        let TreeAnswer {
            sha,
            mut tree,
            truncated,
        } = self.fetch(call).await?;
        if let Some(prefix) = &args.path_filter {
            tree.retain(|entry| entry.path.starts_with(prefix.trim_start_matches('/')));
        }
        let truncated = truncated || tree.len() > ENTRIES_MAX;
        tree.truncate(ENTRIES_MAX);
        Ok(Json(Tree {
            sha,
            entries: tree,
            truncated,
        }))
    }
}
