//! Tools that read one issue and change its sub-issues.

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
    arguments::{Page, paged_repo_arguments, refuse, repo_arguments},
    model::{Comment, Issue, Label},
};

paged_repo_arguments!(IssueRead {
    /// What to read: the issue, its comments, its sub-issues, the issue that it is a sub-issue of, or its labels.
    method: IssueReadMethod,
    /// The issue's number.
    issue_number: u64,
});

/// What to read of an issue.
#[derive(Deserialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
enum IssueReadMethod {
    Get,
    GetComments,
    GetSubIssues,
    GetParent,
    GetLabels,
}

/// One of these, as the method says.
#[derive(Serialize, JsonSchema, Default)]
struct IssueParts {
    issue: Option<Issue>,
    comments: Option<Vec<Comment>>,
    sub_issues: Option<Vec<Issue>>,
    parent: Option<Issue>,
    labels: Option<Vec<Label>>,
    /// Give this as page for the next page of a list; absent: there is none.
    next_page: Option<u32>,
}

repo_arguments!(SubIssueWrite {
    /// What to do: add a sub-issue, take it off, or move it in the order.
    method: SubIssueMethod,
    /// The number of the issue that has or gets the sub-issue.
    issue_number: u64,
    /// The id of the sub-issue; not its number: issue_read tells the id.
    sub_issue_id: u64,
    /// With add: whether it leaves the issue that it belongs to now.
    replace_parent: Option<bool>,
    /// With reprioritize: the id of the sub-issue to come after.
    after_id: Option<u64>,
    /// With reprioritize: the id of the sub-issue to come before.
    before_id: Option<u64>,
});

/// What to do with a sub-issue.
#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
enum SubIssueMethod {
    Add,
    Remove,
    Reprioritize,
}

#[tool_router(router = issue_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Reads an issue, or its comments, sub-issues, parent or labels.")]
    async fn issue_read(
        &self,
        Parameters(args): Parameters<IssueRead>,
    ) -> Result<Json<IssueParts>, String> {
        let at = |rest: &str| {
            let path = args.path(&format!("/issues/{}{rest}", args.issue_number))?;
            Ok::<_, String>(Call::get(path))
        };
        let mut parts = IssueParts::default();
        match args.method {
            IssueReadMethod::Get => parts.issue = Some(self.fetch(at("")?).await?),
            IssueReadMethod::GetComments => {
                let (comments, next) = self.fetch_page(at("/comments")?, args.page()).await?;
                (parts.comments, parts.next_page) = (Some(comments), next);
            }
            IssueReadMethod::GetSubIssues => {
                let (issues, next) = self.fetch_page(at("/sub_issues")?, args.page()).await?;
                (parts.sub_issues, parts.next_page) = (Some(issues), next);
            }
            IssueReadMethod::GetParent => parts.parent = Some(self.fetch(at("/parent")?).await?),
            IssueReadMethod::GetLabels => {
                let page = Page {
                    page: args.page,
                    per_page: args.per_page.or(Some(100)),
                };
                let (labels, next) = self.fetch_page(at("/labels")?, page).await?;
                (parts.labels, parts.next_page) = (Some(labels), next);
            }
        }
        Ok(Json(parts))
    }

    #[tool(
        description = "Adds a sub-issue to an issue, takes it off, or moves it in the order. Answers the issue that has it, or the sub-issue that was taken off."
    )]
    async fn sub_issue_write(
        &self,
        Parameters(args): Parameters<SubIssueWrite>,
    ) -> Result<Json<Issue>, String> {
        let moved = args.after_id.is_some() || args.before_id.is_some();
        if moved != (args.method == SubIssueMethod::Reprioritize)
            || (args.after_id.is_some() && args.before_id.is_some())
        {
            return refuse(
                "reprioritize needs one of after_id and before_id; the other methods take neither",
            );
        }
        if args.replace_parent.is_some() && args.method != SubIssueMethod::Add {
            return refuse("replace_parent is for the method add");
        }
        let mut body = json!({"sub_issue_id": args.sub_issue_id});
        let (method, rest) = match args.method {
            SubIssueMethod::Add => {
                if let Some(replace) = args.replace_parent {
                    body["replace_parent"] = json!(replace);
                }
                (Method::POST, "sub_issues")
            }
            SubIssueMethod::Remove => (Method::DELETE, "sub_issue"),
            SubIssueMethod::Reprioritize => {
                for (key, id) in [("after_id", args.after_id), ("before_id", args.before_id)] {
                    if let Some(id) = id {
                        body[key] = json!(id);
                    }
                }
                (Method::PATCH, "sub_issues/priority")
            }
        };
        let path = args.path(&format!("/issues/{}/{rest}", args.issue_number))?;
        Ok(Json(
            self.fetch(Call::new(method, path).once().json(&body))
                .await?,
        ))
    }
}
