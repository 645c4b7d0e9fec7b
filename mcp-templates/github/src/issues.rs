//! Tools of the toolset issues.

use minimcp_rest::{Call, Error, Method};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    GitHub,
    model::{Comment, Found, Issue, Label},
    repos::{Order, word},
    server::{SERVICE, paged, repo_path},
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListIssues {
    /// The owner of the repository.
    owner: String,
    /// The repository's name.
    repo: String,
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
    /// Only issues changed after this time, RFC 3339.
    since: Option<String>,
    /// The next_cursor of the page before.
    after: Option<String>,
    /// Entries on a page, 1 to 100; 30 when absent. Pull requests are left out, so a page may be shorter.
    #[serde(rename = "perPage")]
    per_page: Option<u32>,
}

/// Open or closed.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum IssueState {
    #[serde(alias = "OPEN")]
    Open,
    #[serde(alias = "CLOSED")]
    Closed,
}

/// What issues are sorted by.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
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
    /// Give this as `after` for the next page; absent: there is none.
    next_cursor: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct IssueRead {
    /// What to read: the issue itself, its comments or its labels.
    method: IssueReadMethod,
    /// The owner of the repository.
    owner: String,
    /// The repository's name.
    repo: String,
    /// The issue's number.
    issue_number: u64,
    /// The page of comments, from 1.
    page: Option<u32>,
    /// Comments on a page, 1 to 100; 30 when absent.
    #[serde(rename = "perPage")]
    per_page: Option<u32>,
}

/// What to read of an issue.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum IssueReadMethod {
    Get,
    GetComments,
    GetLabels,
}

/// One of these, as the method says.
#[derive(Serialize, JsonSchema, Default)]
struct IssueParts {
    issue: Option<Issue>,
    comments: Option<Vec<Comment>>,
    labels: Option<Vec<Label>>,
    /// The number of the next page of comments, if there is one.
    next_page: Option<u32>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct IssueWrite {
    /// Whether to create an issue or to change one.
    method: IssueWriteMethod,
    /// The owner of the repository.
    owner: String,
    /// The repository's name.
    repo: String,
    /// The issue's number, to change it.
    issue_number: Option<u64>,
    /// The title; needed to create.
    title: Option<String>,
    /// The text, Markdown.
    body: Option<String>,
    /// All labels; replaces those it has.
    labels: Option<Vec<String>>,
    /// Logins of all who are to work on it; replaces those it has.
    assignees: Option<Vec<String>>,
    /// The number of a milestone.
    milestone: Option<u64>,
    /// The new state, to change it.
    state: Option<IssueState>,
    /// Why it changes.
    state_reason: Option<StateReason>,
}

/// What to do with an issue.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum IssueWriteMethod {
    Create,
    Update,
}

/// Why the state of an issue changes.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum StateReason {
    Completed,
    NotPlanned,
    Duplicate,
    Reopened,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AddComment {
    /// The owner of the repository.
    owner: String,
    /// The repository's name.
    repo: String,
    /// The number of the issue or pull request.
    issue_number: u64,
    /// The text, Markdown.
    body: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SearchIssues {
    /// The query in GitHub's search syntax, such as `is:issue is:open repo:owner/name crash`.
    query: String,
    /// What to sort by; absent: best match.
    sort: Option<SearchSort>,
    /// The order, with sort.
    order: Option<Order>,
    /// The page, from 1.
    page: Option<u32>,
    /// Hits on a page, 1 to 100; 30 when absent.
    #[serde(rename = "perPage")]
    per_page: Option<u32>,
}

/// What hits are sorted by.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum SearchSort {
    Comments,
    Reactions,
    Created,
    Updated,
}

#[tool_router(router = issue_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(
        description = "Lists the issues of a repository.",
        annotations(
            title = "List issues",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn list_issues(
        &self,
        Parameters(args): Parameters<ListIssues>,
    ) -> Result<Json<IssuePage>, String> {
        let after = args.after.as_deref().map(str::parse).transpose();
        let page =
            after.map_err(|_| "after must be the next_cursor of an earlier answer".to_owned())?;
        let sort = args.order_by.map(|order| match order {
            IssueOrder::CreatedAt => "created",
            IssueOrder::UpdatedAt => "updated",
            IssueOrder::Comments => "comments",
        });
        let state = args
            .state
            .map_or_else(|| "all".to_owned(), |state| word(&state));
        let labels = Some(args.labels.join(",")).filter(|labels| !labels.is_empty());
        let call = Call::get(repo_path(&args.owner, &args.repo, "/issues")?)
            .query("state", state)
            .query_opt("labels", labels)
            .query_opt("sort", sort)
            .query_opt("direction", args.direction.as_ref().map(word))
            .query_opt("since", args.since);
        let call = paged(call, page, args.per_page)?;
        let (mut issues, next_page): (Vec<Issue>, _) = self.fetch_page(call).await?;
        issues.retain(|issue| !issue.pull_request);
        let next_cursor = next_page.map(|page| page.to_string());
        Ok(Json(IssuePage {
            issues,
            next_cursor,
        }))
    }

    #[tool(
        description = "Reads an issue, its comments or its labels.",
        annotations(
            title = "Read issue",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn issue_read(
        &self,
        Parameters(args): Parameters<IssueRead>,
    ) -> Result<Json<IssueParts>, String> {
        let path = |rest: &str| {
            let rest = format!("/issues/{}{rest}", args.issue_number);
            repo_path(&args.owner, &args.repo, &rest)
        };
        let mut parts = IssueParts::default();
        match args.method {
            IssueReadMethod::Get => parts.issue = Some(self.fetch(Call::get(path("")?)).await?),
            IssueReadMethod::GetComments => {
                let call = paged(Call::get(path("/comments")?), args.page, args.per_page)?;
                let (comments, next_page) = self.fetch_page(call).await?;
                parts.comments = Some(comments);
                parts.next_page = next_page;
            }
            IssueReadMethod::GetLabels => {
                let call = Call::get(path("/labels")?).query("per_page", 100);
                parts.labels = Some(self.fetch(call).await?);
            }
        }
        Ok(Json(parts))
    }

    #[tool(
        description = "Creates an issue, or changes one: its title, text, labels, assignees, milestone or state.",
        annotations(
            title = "Write issue",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = false,
            open_world_hint = true
        )
    )]
    async fn issue_write(
        &self,
        Parameters(args): Parameters<IssueWrite>,
    ) -> Result<Json<Issue>, String> {
        let refuse = |message: &str| Err(String::from(Error::argument(SERVICE, message)));
        let mut body = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        };
        let has_title = args
            .title
            .as_deref()
            .is_some_and(|title| !title.trim().is_empty());
        put("title", args.title.map(Value::from));
        put("body", args.body.map(Value::from));
        put("labels", args.labels.map(Value::from));
        put("assignees", args.assignees.map(Value::from));
        put("milestone", args.milestone.map(Value::from));
        put("state", args.state.map(|state| json!(state)));
        put(
            "state_reason",
            args.state_reason.map(|reason| json!(reason)),
        );
        let call = match (args.method, args.issue_number) {
            (IssueWriteMethod::Create, Some(_)) => {
                return refuse("issue_number is for the method update");
            }
            (IssueWriteMethod::Create, None) if !has_title => {
                return refuse("title is needed to create an issue");
            }
            (IssueWriteMethod::Create, None)
                if body.contains_key("state") || body.contains_key("state_reason") =>
            {
                return refuse(
                    "a new issue is always open: state and state_reason are for the method update",
                );
            }
            (IssueWriteMethod::Create, None) => {
                Call::new(Method::POST, repo_path(&args.owner, &args.repo, "/issues")?)
            }
            (IssueWriteMethod::Update, None) => {
                return refuse("issue_number is needed to change an issue");
            }
            (IssueWriteMethod::Update, Some(_)) if body.is_empty() => {
                return refuse("there is nothing to change");
            }
            (IssueWriteMethod::Update, Some(number)) => {
                let path = repo_path(&args.owner, &args.repo, &format!("/issues/{number}"))?;
                Call::new(Method::PATCH, path)
            }
        };
        Ok(Json(self.fetch(call.json(&body)).await?))
    }

    #[tool(
        description = "Adds a comment to an issue or a pull request.",
        annotations(
            title = "Add comment",
            read_only_hint = false,
            destructive_hint = false,
            idempotent_hint = false,
            open_world_hint = true
        )
    )]
    async fn add_issue_comment(
        &self,
        Parameters(args): Parameters<AddComment>,
    ) -> Result<Json<Comment>, String> {
        if args.body.trim().is_empty() {
            return Err(Error::argument(SERVICE, "body must not be empty").into());
        }
        let path = repo_path(
            &args.owner,
            &args.repo,
            &format!("/issues/{}/comments", args.issue_number),
        )?;
        let call = Call::new(Method::POST, path).json(&json!({"body": args.body}));
        Ok(Json(self.fetch(call).await?))
    }

    #[tool(
        description = "Finds issues and pull requests in all repositories that the token may see.",
        annotations(
            title = "Search issues",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn search_issues(
        &self,
        Parameters(args): Parameters<SearchIssues>,
    ) -> Result<Json<Found<Issue>>, String> {
        let call = Call::get("/search/issues")
            .query("q", args.query)
            .query_opt("sort", args.sort.as_ref().map(word))
            .query_opt("order", args.order.as_ref().map(word));
        self.search(call, args.page, args.per_page).await
    }
}
