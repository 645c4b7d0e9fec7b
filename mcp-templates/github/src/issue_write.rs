//! The tool that creates and changes issues.

use minimcp_rest::{Call, Method};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    GitHub,
    arguments::{refuse, repo_arguments, repo_path},
    issue_lists::{IssueField, IssueState},
    model::Issue,
};

repo_arguments!(IssueWrite {
    /// Whether to create an issue or to change one.
    method: IssueWriteMethod,
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
    /// The issue type's name, see list_issue_types; null takes it off.
    #[serde(rename = "type", default, deserialize_with = "given")]
    kind: Option<Option<String>>,
    /// Fields to set, see list_issue_fields.
    issue_fields: Option<Vec<FieldValue>>,
    /// The new state, to change it.
    state: Option<IssueState>,
    /// Why the state changes.
    state_reason: Option<StateReason>,
    /// With the reason duplicate: the number of the issue that it repeats, in the same repository.
    duplicate_of: Option<u64>,
    /// To create: the number of the issue that it is to be a sub-issue of.
    parent_issue_number: Option<u64>,
    /// The owner of the parent's repository, where it is another one; with parent_repo.
    parent_owner: Option<String>,
    /// The parent's repository, where it is another one; with parent_owner.
    parent_repo: Option<String>,
});

/// What to do with an issue.
#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
enum IssueWriteMethod {
    Create,
    Update,
}

/// Why the state of an issue changes.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
enum StateReason {
    Completed,
    NotPlanned,
    Duplicate,
    Reopened,
}

/// A field of an issue and what it is to be.
#[derive(Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
struct FieldValue {
    /// The field's name.
    field_name: String,
    /// A text, a number, or a date as YYYY-MM-DD.
    value: Option<Value>,
    /// The choice of a single_select field, by its name.
    field_option_name: Option<String>,
}

/// Tells null from absent.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct Id {
    id: u64,
}

#[tool_router(router = issue_write_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(
        description = "Creates an issue, or changes one: its title, text, labels, assignees, milestone, type, fields or state."
    )]
    async fn issue_write(
        &self,
        Parameters(args): Parameters<IssueWrite>,
    ) -> Result<Json<Issue>, String> {
        let mut body = check(&args)?;
        if let Some(wanted) = &args.issue_fields {
            let known = self.issue_fields(&args.owner).await?;
            body.insert(
                "issue_field_values".to_owned(),
                field_values(wanted, &known)?,
            );
        }
        if let Some(number) = args.duplicate_of {
            let path = args.path(&format!("/issues/{number}"))?;
            let Id { id } = self.fetch(Call::get(path)).await?;
            body.insert("duplicate_issue_id".to_owned(), json!(id));
        }
        let call = match args.issue_number {
            None => Call::new(Method::POST, args.path("/issues")?),
            Some(number) => Call::new(Method::PATCH, args.path(&format!("/issues/{number}"))?),
        };
        let issue: Issue = self.fetch(call.json(&body)).await?;
        if let Some(parent) = args.parent_issue_number {
            let owner = args.parent_owner.as_ref().unwrap_or(&args.owner);
            let repo = args.parent_repo.as_ref().unwrap_or(&args.repo);
            let path = repo_path(owner, repo, &format!("/issues/{parent}/sub_issues"))?;
            let call = Call::new(Method::POST, path).json(&json!({"sub_issue_id": issue.id}));
            self.send(call).await.map_err(|error| {
                format!("Issue {} was created, but not as a sub-issue; use sub_issue_write for that. {error}", issue.id)
            })?;
        }
        Ok(Json(issue))
    }
}

/// The body to send, if the arguments go with each other.
fn check(args: &IssueWrite) -> Result<Map<String, Value>, String> {
    let mut body = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    put("title", args.title.as_ref().map(|title| json!(title)));
    put("body", args.body.as_ref().map(|text| json!(text)));
    put("labels", args.labels.as_ref().map(|labels| json!(labels)));
    put(
        "assignees",
        args.assignees.as_ref().map(|assignees| json!(assignees)),
    );
    put("milestone", args.milestone.map(Value::from));
    put("type", args.kind.as_ref().map(|kind| json!(kind)));
    put("state", args.state.map(|state| json!(state)));
    put(
        "state_reason",
        args.state_reason.map(|reason| json!(reason)),
    );
    if args.parent_owner.is_some() != args.parent_repo.is_some()
        || (args.parent_owner.is_some() && args.parent_issue_number.is_none())
    {
        return refuse("parent_owner and parent_repo are given together, with parent_issue_number");
    }
    if args.duplicate_of.is_some() != (args.state_reason == Some(StateReason::Duplicate)) {
        return refuse("duplicate_of and the state_reason duplicate are given together");
    }
    match (args.method, args.issue_number) {
        (IssueWriteMethod::Create, Some(_)) => refuse("issue_number is for the method update"),
        (IssueWriteMethod::Create, None)
            if args
                .title
                .as_ref()
                .is_none_or(|title| title.trim().is_empty()) =>
        {
            refuse("title is needed to create an issue")
        }
        (IssueWriteMethod::Create, None) if args.state.is_some() || args.state_reason.is_some() => {
            refuse("a new issue is always open: state and state_reason are for the method update")
        }
        (IssueWriteMethod::Create, None) if args.kind == Some(None) => {
            refuse("a new issue has no type to take off: leave type out")
        }
        (IssueWriteMethod::Update, None) => refuse("issue_number is needed to change an issue"),
        (IssueWriteMethod::Update, Some(_)) if args.parent_issue_number.is_some() => {
            refuse("parent_issue_number is for the method create; sub_issue_write changes it later")
        }
        (IssueWriteMethod::Update, Some(_)) if body.is_empty() && args.issue_fields.is_none() => {
            refuse("there is nothing to change")
        }
        _ => Ok(body),
    }
}

/// The values by the ids of their fields.
fn field_values(wanted: &[FieldValue], known: &[IssueField]) -> Result<Value, String> {
    let mut values = Vec::new();
    for field in wanted {
        let Some(found) = known
            .iter()
            .find(|known| known.name.eq_ignore_ascii_case(&field.field_name))
        else {
            let names: Vec<&str> = known.iter().map(|known| known.name.as_str()).collect();
            return refuse(format!(
                "there is no field {}; there are: {}",
                field.field_name,
                names.join(", ")
            ));
        };
        let value = match (&field.value, &field.field_option_name) {
            (Some(value @ (Value::String(_) | Value::Number(_))), None) => value.clone(),
            (None, Some(option)) => json!(option),
            _ => {
                return refuse(
                    "each of issue_fields needs a value, a text or a number, or a field_option_name",
                );
            }
        };
        values.push(json!({"field_id": found.id, "value": value}));
    }
    Ok(Value::Array(values))
}
