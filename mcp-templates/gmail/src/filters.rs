//! Tools for filters: what Gmail does with new mail by itself.

use minimcp_rest::{Call, Error, Method};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Gmail,
    drafts::Deleted,
    scopes::Need,
    server::{SERVICE, mailbox_path, thing_path},
};

/// All filters.
#[derive(Serialize, JsonSchema)]
struct Filters {
    filters: Vec<Filter>,
}

#[derive(Deserialize)]
struct ListAnswer {
    // Google leaves an empty list out.
    #[serde(default)]
    filter: Vec<Filter>,
}

/// A filter.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Filter {
    id: String,
    #[serde(default)]
    criteria: Criteria,
    #[serde(default)]
    action: Action,
}

/// What mail a filter is for: all that is given must hold.
#[derive(Deserialize, Serialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
struct Criteria {
    /// Its sender: a part of name or address.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// Its recipient: a part of name or address, in To, Cc or Bcc.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// Words in its subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    /// What finds it, in Gmail's search syntax.
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<String>,
    /// What must not find it, in Gmail's search syntax.
    #[serde(skip_serializing_if = "Option::is_none")]
    negated_query: Option<String>,
    /// Whether it has an attachment.
    #[serde(skip_serializing_if = "Option::is_none")]
    has_attachment: Option<bool>,
}

/// What a filter does.
#[derive(Deserialize, Serialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
struct Action {
    /// Ids of labels to add, such as STARRED or TRASH; see list_email_labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    add_label_ids: Vec<String>,
    /// Ids of labels to remove: INBOX archives it, UNREAD marks it read, SPAM keeps it out of spam.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    remove_label_ids: Vec<String>,
    /// The address it is forwarded to; only shown, filters made here forward nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    forward: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CreateFilter {
    /// Sender: a part of name or address.
    from: Option<String>,
    /// Recipient: a part of name or address, in To, Cc or Bcc.
    to: Option<String>,
    /// Words in the subject.
    subject: Option<String>,
    /// What finds the mail, in Gmail's search syntax.
    query: Option<String>,
    /// What must not find the mail, in Gmail's search syntax.
    negated_query: Option<String>,
    /// Whether the mail has an attachment.
    has_attachment: Option<bool>,
    /// Ids of labels to add, such as STARRED or TRASH; see list_email_labels.
    #[serde(default)]
    add_label_ids: Vec<String>,
    /// Ids of labels to remove: INBOX archives it, UNREAD marks it read, SPAM keeps it out of spam.
    #[serde(default)]
    remove_label_ids: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DeleteFilter {
    /// The id of the filter, as list_filters gives it.
    filter_id: String,
}

impl CreateFilter {
    /// The API's filter.
    fn into_api(self) -> Result<Value, Error> {
        let refuse = |message: &str| Err(Error::argument(SERVICE, message));
        let criteria = Criteria {
            from: self.from,
            to: self.to,
            subject: self.subject,
            query: self.query,
            negated_query: self.negated_query,
            has_attachment: self.has_attachment,
        };
        let texts = [
            &criteria.from,
            &criteria.to,
            &criteria.subject,
            &criteria.query,
            &criteria.negated_query,
        ];
        let mut given = texts.into_iter().flatten();
        if given
            .clone()
            .any(|text| text.trim().is_empty() || text.len() > 1_500)
        {
            return refuse("what a filter looks for must be 1 to 1500 bytes");
        }
        if given.next().is_none() && criteria.has_attachment.is_none() {
            return refuse(
                "a filter for all mail is not made here: give from, to, subject, query, negatedQuery or hasAttachment",
            );
        }
        let labels = self.add_label_ids.len() + self.remove_label_ids.len();
        if !(1..=20).contains(&labels) {
            return refuse("give 1 to 20 labels to add or to remove");
        }
        let action = Action {
            add_label_ids: self.add_label_ids,
            remove_label_ids: self.remove_label_ids,
            forward: None,
        };
        Ok(json!({"criteria": criteria, "action": action}))
    }
}

#[tool_router(router = filter_tools, vis = "pub(crate)")]
impl Gmail {
    #[tool(
        description = "Lists the filters of the account: what Gmail does with new mail by itself.",
        annotations(
            title = "List filters",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn list_filters(&self) -> Result<Json<Filters>, String> {
        let call = Call::get(mailbox_path("/settings/filters"));
        let answer: ListAnswer = self.fetch(Need::ReadSettings, call).await?;
        Ok(Json(Filters {
            filters: answer.filter,
        }))
    }

    #[tool(
        description = "Makes a filter that labels, archives or trashes new mail. It never forwards.",
        annotations(
            title = "Create filter",
            read_only_hint = false,
            destructive_hint = false,
            idempotent_hint = false,
            open_world_hint = true
        )
    )]
    async fn create_filter(
        &self,
        Parameters(args): Parameters<CreateFilter>,
    ) -> Result<Json<Filter>, String> {
        let call =
            Call::new(Method::POST, mailbox_path("/settings/filters")).json(&args.into_api()?);
        Ok(Json(self.fetch(Need::WriteSettings, call).await?))
    }

    #[tool(
        description = "Deletes a filter; mail it has already labelled stays as it is.",
        annotations(
            title = "Delete filter",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn delete_filter(
        &self,
        Parameters(args): Parameters<DeleteFilter>,
    ) -> Result<Json<Deleted>, String> {
        let path = thing_path("/settings/filters", "filterId", &args.filter_id, "")?;
        self.send(Need::WriteSettings, Call::new(Method::DELETE, path))
            .await?;
        Ok(Json(Deleted {
            deleted: args.filter_id,
        }))
    }
}
