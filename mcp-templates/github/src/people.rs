//! Tools of the toolsets users and orgs.

use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};

use crate::{
    GitHub,
    arguments::{Order, not_blank, paged_arguments},
    model::{Account, Found},
    search::query_call,
};

paged_arguments!(SearchPeople {
    /// The query in GitHub's search syntax, such as `location:seattle followers:>100`.
    query: String,
    /// What to sort by; absent: best match.
    sort: Option<PeopleSort>,
    /// The order, with sort.
    order: Option<Order>,
});

/// What users and organizations are sorted by.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
enum PeopleSort {
    Followers,
    Repositories,
    Joined,
}

#[tool_router(router = user_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Finds users by name, place, followers and more.")]
    async fn search_users(
        &self,
        Parameters(args): Parameters<SearchPeople>,
    ) -> Result<Json<Found<Account>>, String> {
        self.search_people(args, "user").await
    }
}

#[tool_router(router = org_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Finds organizations by name, place, repositories and more.")]
    async fn search_orgs(
        &self,
        Parameters(args): Parameters<SearchPeople>,
    ) -> Result<Json<Found<Account>>, String> {
        self.search_people(args, "org").await
    }
}

impl GitHub {
    /// Both are one search of GitHub, told apart by a qualifier.
    async fn search_people(
        &self,
        args: SearchPeople,
        kind: &str,
    ) -> Result<Json<Found<Account>>, String> {
        let query = not_blank("query", &args.query)?;
        let query = match query.contains("type:") {
            true => query.to_owned(),
            false => format!("{query} type:{kind}"),
        };
        let call = query_call("users", &query, args.sort.as_ref(), args.order)?;
        self.search(call, args.page()).await
    }
}
