//! Tools on the branches and tags of a repository.

use minimcp_rest::{Call, Method};
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
    arguments::{not_blank, paged_repo_arguments, repo_arguments, some_segments},
    model::{GitPerson, Listed, Repository},
};

paged_repo_arguments!(ListBranches {});
paged_repo_arguments!(ListTags {});

repo_arguments!(CreateBranch {
    /// The name of the new branch.
    branch: String,
    /// The branch it starts from; absent: the default branch.
    from_branch: Option<String>,
});

repo_arguments!(GetTag {
    /// The tag, such as v1.2.0.
    tag: String,
});

/// A branch or a tag in a list.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Named {
    name: String,
    /// Its commit.
    commit: Target,
    /// Whether rules guard a branch.
    protected: Option<bool>,
}

/// What a reference points at.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Target {
    pub(crate) sha: String,
    /// commit, or tag for an annotated tag.
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// A reference of Git.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Reference {
    /// Its whole name, such as refs/heads/main.
    #[serde(rename = "ref")]
    name: String,
    /// What it points at.
    pub(crate) object: Target,
}

/// A tag.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Tag {
    tag: String,
    /// What it points at.
    object: Target,
    /// The message of an annotated tag.
    message: Option<String>,
    /// Who made an annotated tag, when.
    tagger: Option<GitPerson>,
}

#[tool_router(router = branch_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Lists the branches of a repository.")]
    async fn list_branches(
        &self,
        Parameters(args): Parameters<ListBranches>,
    ) -> Result<Json<Listed<Named>>, String> {
        self.list(Call::get(args.path("/branches")?), args.page())
            .await
    }

    #[tool(description = "Creates a branch.")]
    async fn create_branch(
        &self,
        Parameters(args): Parameters<CreateBranch>,
    ) -> Result<Json<Reference>, String> {
        let branch = not_blank("branch", &args.branch)?;
        let from = match &args.from_branch {
            Some(from) => from.clone(),
            None => self.default_branch(args.path("")?).await?,
        };
        let from = args.path(&format!(
            "/git/ref/heads{}",
            some_segments("from_branch", &from)?
        ))?;
        let start: Reference = self.fetch(Call::get(from)).await?;
        let body = json!({"ref": format!("refs/heads/{branch}"), "sha": start.object.sha});
        let call = Call::new(Method::POST, args.path("/git/refs")?).json(&body);
        Ok(Json(self.fetch(call).await?))
    }

    #[tool(description = "Lists the tags of a repository.")]
    async fn list_tags(
        &self,
        Parameters(args): Parameters<ListTags>,
    ) -> Result<Json<Listed<Named>>, String> {
        self.list(Call::get(args.path("/tags")?), args.page()).await
    }

    #[tool(description = "Reads a tag: its commit and, for an annotated tag, its message.")]
    async fn get_tag(&self, Parameters(args): Parameters<GetTag>) -> Result<Json<Tag>, String> {
        let path = args.path(&format!(
            "/git/ref/tags{}",
            some_segments("tag", &args.tag)?
        ))?;
        let reference: Reference = self.fetch(Call::get(path)).await?;
        if reference.object.kind.as_deref() != Some("tag") {
            return Ok(Json(Tag {
                tag: args.tag,
                object: reference.object,
                message: None,
                tagger: None,
            }));
        }
        let path = args.path(&format!("/git/tags/{}", reference.object.sha))?;
        Ok(Json(self.fetch(Call::get(path)).await?))
    }
}

impl GitHub {
    /// The default branch of the repository at `path`.
    pub(crate) async fn default_branch(&self, path: String) -> Result<String, String> {
        let repository: Repository = self.fetch(Call::get(path)).await?;
        let missing = "the repository has no default branch: it is empty".to_owned();
        repository.default_branch.ok_or(missing)
    }
}
