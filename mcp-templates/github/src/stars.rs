//! Tools of the toolset stargazers.

use minimcp_rest::{Call, Method};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};

use crate::{
    GitHub,
    arguments::{Order, name, paged_arguments, repo_arguments, word},
    model::{Done, Listed, Repository},
};

paged_arguments!(ListStarred {
    /// The login of a user; absent: the one whose token it is.
    username: Option<String>,
    /// What to sort by: when it was starred, or when it was last pushed to; absent: created.
    sort: Option<StarSort>,
    /// The order; absent: descending.
    direction: Option<Order>,
});

/// What starred repositories are sorted by.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
enum StarSort {
    Created,
    Updated,
}

repo_arguments!(Star {});

#[tool_router(router = star_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Lists the repositories that a user has starred.")]
    async fn list_starred_repositories(
        &self,
        Parameters(args): Parameters<ListStarred>,
    ) -> Result<Json<Listed<Repository>>, String> {
        let path = match &args.username {
            Some(username) => format!("/users/{}/starred", name("username", username)?),
            None => "/user/starred".to_owned(),
        };
        let call = Call::get(path)
            .query_opt("sort", args.sort.as_ref().map(word))
            .query_opt("direction", args.direction.as_ref().map(word));
        let mut listed = self.list::<Repository>(call, args.page()).await?;
        let items = std::mem::take(&mut listed.0.items);
        listed.0.items = items.into_iter().map(Repository::minimal).collect();
        Ok(listed)
    }

    #[tool(description = "Stars a repository.")]
    async fn star_repository(
        &self,
        Parameters(args): Parameters<Star>,
    ) -> Result<Json<Done>, String> {
        self.star(Method::PUT, &args, "starred").await
    }

    #[tool(description = "Takes the star from a repository.")]
    async fn unstar_repository(
        &self,
        Parameters(args): Parameters<Star>,
    ) -> Result<Json<Done>, String> {
        self.star(Method::DELETE, &args, "no longer starred").await
    }
}

impl GitHub {
    async fn star(&self, method: Method, args: &Star, state: &str) -> Result<Json<Done>, String> {
        let path = args.path("")?.replacen("/repos", "/user/starred", 1);
        self.send(Call::new(method, path)).await?;
        let done = format!("{}/{} is {state}", args.owner, args.repo);
        Ok(Json(Done { done }))
    }
}
