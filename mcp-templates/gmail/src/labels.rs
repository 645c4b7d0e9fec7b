//! Tools for labels.

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
    Gmail,
    drafts::Deleted,
    scopes::Need,
    server::{SERVICE, mailbox_path, thing_path},
};

/// All labels.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Labels {
    #[serde(default)]
    labels: Vec<Label>,
}

/// A label.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Label {
    /// What the tools that change labels take.
    id: String,
    name: String,
    /// system or user.
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Where a label is shown.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
enum InLabelList {
    #[serde(rename = "labelShow")]
    Show,
    #[serde(rename = "labelShowIfUnread")]
    ShowIfUnread,
    #[serde(rename = "labelHide")]
    Hide,
}

/// Whether a label is shown on its messages.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[serde(rename_all = "camelCase")]
enum InMessageList {
    Show,
    Hide,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CreateLabel {
    /// The name; a slash nests it, as in Travel/2026.
    name: String,
    /// Whether it is shown in the list of labels; labelShow when absent.
    label_list_visibility: Option<InLabelList>,
    /// Whether it is shown on messages; show when absent.
    message_list_visibility: Option<InMessageList>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct UpdateLabel {
    /// The id of the label, as list_email_labels gives it.
    label_id: String,
    /// Its new name.
    name: Option<String>,
    /// Whether it is shown in the list of labels.
    label_list_visibility: Option<InLabelList>,
    /// Whether it is shown on messages.
    message_list_visibility: Option<InMessageList>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DeleteLabel {
    /// The id of the label, as list_email_labels gives it.
    label_id: String,
}

fn label_path(id: &str) -> Result<String, Error> {
    thing_path("/labels", "labelId", id, "")
}

fn checked_name(name: &str) -> Result<&str, Error> {
    let name = name.trim();
    let good = (1..=225).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if good {
        Ok(name)
    } else {
        Err(Error::argument(
            SERVICE,
            "name must be 1 to 225 characters on one line",
        ))
    }
}

#[tool_router(router = label_tools, vis = "pub(crate)")]
impl Gmail {
    #[tool(
        description = "Lists the labels of the account, system labels such as INBOX and UNREAD included.",
        annotations(
            title = "List labels",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn list_email_labels(&self) -> Result<Json<Labels>, String> {
        let call = Call::get(mailbox_path("/labels"));
        Ok(Json(self.fetch(Need::ReadLabels, call).await?))
    }

    #[tool(
        description = "Makes a label of the user's own.",
        annotations(
            title = "Create label",
            read_only_hint = false,
            destructive_hint = false,
            idempotent_hint = false,
            open_world_hint = true
        )
    )]
    async fn create_label(
        &self,
        Parameters(args): Parameters<CreateLabel>,
    ) -> Result<Json<Label>, String> {
        let body = json!({
            "name": checked_name(&args.name)?,
            "labelListVisibility": args.label_list_visibility.unwrap_or(InLabelList::Show),
            "messageListVisibility": args.message_list_visibility.unwrap_or(InMessageList::Show),
        });
        let call = Call::new(Method::POST, mailbox_path("/labels")).json(&body);
        Ok(Json(self.fetch(Need::WriteLabels, call).await?))
    }

    #[tool(
        description = "Renames a label, or shows or hides it.",
        annotations(
            title = "Update label",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn update_label(
        &self,
        Parameters(args): Parameters<UpdateLabel>,
    ) -> Result<Json<Label>, String> {
        let mut body = Map::new();
        if let Some(name) = &args.name {
            body.insert("name".to_owned(), json!(checked_name(name)?));
        }
        if let Some(shown) = args.label_list_visibility {
            body.insert("labelListVisibility".to_owned(), json!(shown));
        }
        if let Some(shown) = args.message_list_visibility {
            body.insert("messageListVisibility".to_owned(), json!(shown));
        }
        if body.is_empty() {
            let message = "give name, labelListVisibility or messageListVisibility";
            return Err(Error::argument(SERVICE, message).into());
        }
        let call = Call::new(Method::PATCH, label_path(&args.label_id)?)
            .json(&Value::Object(body))
            .repeatable();
        Ok(Json(self.fetch(Need::WriteLabels, call).await?))
    }

    #[tool(
        description = "Deletes a label; the messages that had it stay.",
        annotations(
            title = "Delete label",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn delete_label(
        &self,
        Parameters(args): Parameters<DeleteLabel>,
    ) -> Result<Json<Deleted>, String> {
        let call = Call::new(Method::DELETE, label_path(&args.label_id)?);
        self.send(Need::WriteLabels, call).await?;
        Ok(Json(Deleted {
            deleted: args.label_id,
        }))
    }
}
