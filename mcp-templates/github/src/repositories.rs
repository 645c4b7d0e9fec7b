//! Tools on repositories as a whole: create, fork, delete, and who may use them.

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
    arguments::{name, not_blank, paged_repo_arguments, repo_arguments, word},
    model::{Account, Done, Listed, Repository},
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateRepository {
    /// Its name, without an owner.
    name: String,
    /// What it is.
    description: Option<String>,
    /// The organization that is to own it; absent: the user whose token it is.
    organization: Option<String>,
    /// Whether it is private; absent: it is.
    private: Option<bool>,
    /// Whether it starts with a README, and so with a branch.
    #[serde(rename = "autoInit", default)]
    auto_init: bool,
}

repo_arguments!(ForkRepository {
    /// The organization that is to own the fork; absent: the user whose token it is.
    organization: Option<String>,
});

repo_arguments!(DeleteRepository {});

paged_repo_arguments!(ListCollaborators {
    /// Which ones: outside (not members of the organization), direct (with permissions of their own) or all; absent: all.
    affiliation: Option<Affiliation>,
});

/// How someone belongs to a repository.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
enum Affiliation {
    Outside,
    Direct,
    All,
}

#[tool_router(router = repository_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Creates a repository of the user or of an organization.")]
    async fn create_repository(
        &self,
        Parameters(args): Parameters<CreateRepository>,
    ) -> Result<Json<Repository>, String> {
        let path = match &args.organization {
            Some(organization) => format!("/orgs/{}/repos", name("organization", organization)?),
            None => "/user/repos".to_owned(),
        };
        let mut body = json!({
            "name": not_blank("name", &args.name)?,
            "private": args.private.unwrap_or(true),
            "auto_init": args.auto_init,
        });
        if let Some(description) = args.description {
            body["description"] = json!(description);
        }
        Ok(Json(
            self.fetch(Call::new(Method::POST, path).json(&body))
                .await?,
        ))
    }

    #[tool(
        description = "Forks a repository. GitHub copies its content later; that can take minutes."
    )]
    async fn fork_repository(
        &self,
        Parameters(args): Parameters<ForkRepository>,
    ) -> Result<Json<Repository>, String> {
        let body = match &args.organization {
            Some(organization) => json!({"organization": name("organization", organization)?}),
            None => json!({}),
        };
        let call = Call::new(Method::POST, args.path("/forks")?).json(&body);
        Ok(Json(self.fetch(call).await?))
    }

    #[tool(
        description = "Deletes a repository with all that is in it, for good. Ask the user before."
    )]
    async fn delete_repository(
        &self,
        Parameters(args): Parameters<DeleteRepository>,
    ) -> Result<Json<Done>, String> {
        self.send(Call::new(Method::DELETE, args.path("")?).once())
            .await?;
        let done = format!("{}/{} is deleted", args.owner, args.repo);
        Ok(Json(Done { done }))
    }

    #[tool(description = "Lists who may use a repository, and in which role.")]
    async fn list_repository_collaborators(
        &self,
        Parameters(args): Parameters<ListCollaborators>,
    ) -> Result<Json<Listed<Account>>, String> {
        let call = Call::get(args.path("/collaborators")?)
            .query_opt("affiliation", args.affiliation.as_ref().map(word));
        self.list(call, args.page()).await
    }
}
