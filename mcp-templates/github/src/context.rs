//! Tools of the toolset context: who the token's user is, and that user's teams.

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
    arguments::{Page, name, paged_arguments},
    model::{Account, Listed, User},
};

const TEAMS_OF: &str = "query($user: String!) {
  user(login: $user) {
    organizations(first: 100) {
      nodes { login teams(first: 100, userLogins: [$user]) { nodes { name slug description } } }
    }
  }
}";

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetTeams {
    /// The login of a user; absent: the one whose token it is.
    user: Option<String>,
}

paged_arguments!(GetTeamMembers {
    /// The organization of the team, by its login.
    org: String,
    /// The team, by its slug: its name in lower case with hyphens.
    team_slug: String,
});

/// The teams of a user.
#[derive(Serialize, JsonSchema)]
struct Teams {
    teams: Vec<Team>,
}

/// A team.
#[derive(Serialize, JsonSchema)]
struct Team {
    /// The login of its organization.
    org: String,
    /// What get_team_members wants as team_slug.
    slug: String,
    name: String,
    description: Option<String>,
}

#[derive(Deserialize)]
struct OwnTeam {
    slug: String,
    name: String,
    description: Option<String>,
    organization: Org,
}

#[derive(Deserialize)]
struct Org {
    login: String,
}

#[derive(Deserialize)]
struct TeamsAnswer {
    user: UserNode,
}

#[derive(Deserialize)]
struct UserNode {
    organizations: Nodes<OrgNode>,
}

#[derive(Deserialize)]
struct Nodes<T> {
    /// What the token may not see is null.
    nodes: Vec<Option<T>>,
}

#[derive(Deserialize)]
struct OrgNode {
    login: String,
    teams: Nodes<TeamNode>,
}

#[derive(Deserialize)]
struct TeamNode {
    name: String,
    slug: String,
    description: Option<String>,
}

#[tool_router(router = context_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "The user whose token this server uses.")]
    async fn get_me(&self) -> Result<Json<User>, String> {
        Ok(Json(self.fetch(Call::get("/user")).await?))
    }

    #[tool(description = "The teams of a user in all organizations that the token may see.")]
    async fn get_teams(
        &self,
        Parameters(args): Parameters<GetTeams>,
    ) -> Result<Json<Teams>, String> {
        let Some(user) = args.user else {
            let page = Page {
                page: None,
                per_page: Some(100),
            };
            let (teams, _): (Vec<OwnTeam>, _) =
                self.fetch_page(Call::get("/user/teams"), page).await?;
            let teams = teams.into_iter().map(|team| Team {
                org: team.organization.login,
                slug: team.slug,
                name: team.name,
                description: team.description,
            });
            return Ok(Json(Teams {
                teams: teams.collect(),
            }));
        };
        let user = name("user", &user)?;
        let answer: TeamsAnswer = self.graphql(TEAMS_OF, json!({"user": user})).await?;
        let mut teams = Vec::new();
        for org in answer.user.organizations.nodes.into_iter().flatten() {
            teams.extend(org.teams.nodes.into_iter().flatten().map(|team| Team {
                org: org.login.clone(),
                slug: team.slug,
                name: team.name,
                description: team.description,
            }));
        }
        Ok(Json(Teams { teams }))
    }

    #[tool(description = "The members of a team of an organization.")]
    async fn get_team_members(
        &self,
        Parameters(args): Parameters<GetTeamMembers>,
    ) -> Result<Json<Listed<Account>>, String> {
        let (org, team) = (name("org", &args.org)?, name("team_slug", &args.team_slug)?);
        let call = Call::get(format!("/orgs/{org}/teams/{team}/members"));
        self.list(call, args.page()).await
    }
}
