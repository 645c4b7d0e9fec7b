//! Tools that list and search issues, and what issues can have.

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
    arguments::{
        Order, Page, name, not_blank, paged_arguments, refuse, repo_arguments, repo_path, word,
    },
    model::{Found, Issue},
    search::query_call,
};

repo_arguments!(ListIssues {
    /// Which ones; absent: both open and closed.
    state: Option<IssueState>,
    /// Only issues with all these labels.
    #[serde(default)]
    labels: Vec<String>,
    /// What to sort by; absent: creation.
    #[serde(rename = "orderBy")]
    order_by: Option<IssueOrder>,
    /// The order; absent: descending.
    direction: Option<Order>,
    /// Only issues changed after this time, ISO 8601, such as 2026-01-31T00:00:00Z.
    since: Option<String>,
    /// The next_cursor of the page before.
    after: Option<String>,
    /// Entries on a page, 1 to 100; 30 when absent. Pull requests are left out, so a page may be shorter.
    #[serde(rename = "perPage")]
    per_page: Option<u32>,
});

/// Open or closed.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IssueState {
    #[serde(alias = "OPEN")]
    Open,
    #[serde(alias = "CLOSED")]
    Closed,
}

/// What issues are sorted by.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum IssueOrder {
    CreatedAt,
    UpdatedAt,
    Comments,
}

/// A page of issues.
#[derive(Serialize, JsonSchema)]
struct IssuePage {
    /// The issues, without pull requests.
    issues: Vec<Issue>,
    /// Give this as after for the next page; absent: there is none.
    next_cursor: Option<String>,
}

paged_arguments!(SearchIssues {
    /// The query in GitHub's search syntax, such as `is:open label:bug crash`; is:issue is added.
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

/// What hits are sorted by.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SearchSort {
    Comments,
    Reactions,
    #[serde(rename = "reactions-+1")]
    ReactionsPlusOne,
    #[serde(rename = "reactions--1")]
    ReactionsMinusOne,
    ReactionsSmile,
    ReactionsThinkingFace,
    ReactionsHeart,
    ReactionsTada,
    Interactions,
    Created,
    Updated,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OfOwner {
    /// The organization, by its login; with repo, the owner of the repository.
    owner: String,
    /// A repository; absent: all of the organization.
    repo: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FieldsOfOwner {
    /// The organization, by its login.
    owner: String,
    /// A repository of it; its issues have the fields of the organization.
    repo: Option<String>,
}

/// The types that issues can have.
#[derive(Serialize, JsonSchema)]
struct IssueTypes {
    types: Vec<IssueType>,
}

/// A type of issues.
#[derive(Deserialize, Serialize, JsonSchema)]
struct IssueType {
    /// What issue_write wants as type.
    name: String,
    description: Option<String>,
}

/// The fields that issues can have.
#[derive(Serialize, JsonSchema)]
struct IssueFields {
    fields: Vec<IssueField>,
}

/// A field of issues.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct IssueField {
    pub(crate) id: u64,
    /// What issue_write wants as field_name.
    pub(crate) name: String,
    description: Option<String>,
    /// text, number, date or single_select.
    data_type: String,
    /// What a single_select can be.
    options: Option<Vec<FieldOption>>,
}

/// A choice of a field.
#[derive(Deserialize, Serialize, JsonSchema)]
struct FieldOption {
    name: String,
}

#[tool_router(router = issue_list_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Lists the issues of a repository.")]
    async fn list_issues(
        &self,
        Parameters(args): Parameters<ListIssues>,
    ) -> Result<Json<IssuePage>, String> {
        let Ok(page) = args.after.as_deref().map(str::parse).transpose() else {
            return refuse("after must be the next_cursor of an earlier answer");
        };
        let sort = args.order_by.map(|order| match order {
            IssueOrder::CreatedAt => "created",
            IssueOrder::UpdatedAt => "updated",
            IssueOrder::Comments => "comments",
        });
        let state = args
            .state
            .map_or_else(|| "all".to_owned(), |state| word(&state));
        let labels = Some(args.labels.join(",")).filter(|labels| !labels.is_empty());
        let call = Call::get(args.path("/issues")?)
            .query("state", state)
            .query_opt("labels", labels)
            .query_opt("sort", sort)
            .query_opt("direction", args.direction.as_ref().map(word))
            .query_opt("since", args.since);
        let page = Page {
            page,
            per_page: args.per_page,
        };
        let (mut issues, next_page): (Vec<Issue>, _) = self.fetch_page(call, page).await?;
        issues.retain(|issue| !issue.pull_request);
        let next_cursor = next_page.map(|page| page.to_string());
        Ok(Json(IssuePage {
            issues,
            next_cursor,
        }))
    }

    #[tool(description = "Finds issues in all repositories that the token may see, or in one.")]
    async fn search_issues(
        &self,
        Parameters(args): Parameters<SearchIssues>,
    ) -> Result<Json<Found<Issue>>, String> {
        let query = scoped(
            "issue",
            &args.query,
            args.owner.as_deref(),
            args.repo.as_deref(),
        )?;
        let call = query_call("issues", &query, args.sort.as_ref(), args.order)?;
        self.search(call, args.page()).await
    }

    #[tool(
        description = "Lists the types that issues of an organization or of one repository can have."
    )]
    async fn list_issue_types(
        &self,
        Parameters(args): Parameters<OfOwner>,
    ) -> Result<Json<IssueTypes>, String> {
        let path = match &args.repo {
            Some(repo) => repo_path(&args.owner, repo, "/issue-types")?,
            None => format!("/orgs/{}/issue-types", name("owner", &args.owner)?),
        };
        let types = self.fetch(Call::get(path)).await?;
        Ok(Json(IssueTypes { types }))
    }

    #[tool(
        description = "Lists the fields that issues of an organization can have beside title and text."
    )]
    async fn list_issue_fields(
        &self,
        Parameters(args): Parameters<FieldsOfOwner>,
    ) -> Result<Json<IssueFields>, String> {
        if let Some(repo) = &args.repo {
            repo_path(&args.owner, repo, "")?;
        }
        let fields = self.issue_fields(&args.owner).await?;
        Ok(Json(IssueFields { fields }))
    }
}

impl GitHub {
    /// The fields of the issues of an organization.
    pub(crate) async fn issue_fields(&self, owner: &str) -> Result<Vec<IssueField>, String> {
        let path = format!("/orgs/{}/issue-fields", name("owner", owner)?);
        Ok(self.fetch(Call::get(path)).await?)
    }
}

/// A query for issues or pull requests only, and for one repository if both of its names are given.
pub(crate) fn scoped(
    kind: &str,
    query: &str,
    owner: Option<&str>,
    repo: Option<&str>,
) -> Result<String, String> {
    let mut query = not_blank("query", query)?.to_owned();
    let told = [
        "is:issue",
        "is:pr",
        "is:pull-request",
        "type:issue",
        "type:pr",
    ];
    if !query.split_whitespace().any(|word| told.contains(&word)) {
        query.push_str(&format!(" is:{kind}"));
    }
    match (owner, repo) {
        (Some(owner), Some(repo)) => {
            repo_path(owner, repo, "")?;
            query.push_str(&format!(" repo:{owner}/{repo}"));
        }
        (None, None) => {}
        _ => return refuse("owner and repo must be given together, or neither"),
    }
    Ok(query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_scoped_once() {
        let scoped = |query| scoped("issue", query, None, None);
        assert_eq!(scoped("crash").as_deref(), Ok("crash is:issue"));
        assert_eq!(scoped("is:pr crash").as_deref(), Ok("is:pr crash"));
        assert!(scoped(" ").is_err());
        let one = super::scoped("pr", "x", Some("o"), Some("r"));
        assert_eq!(one.as_deref(), Ok("x is:pr repo:o/r"));
        assert!(super::scoped("pr", "x", Some("o"), None).is_err());
        assert!(super::scoped("pr", "x", Some("o"), Some("r is:private")).is_err());
    }
}
