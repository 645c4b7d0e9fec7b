//! Tools that write.

use minimcp_rest::{Call, Error, Method};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    Gmail,
    compose::Compose,
    server::{SERVICE, mailbox_path, message_path},
};

/// A message after the change.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Written {
    id: String,
    thread_id: String,
    /// Ids of its labels.
    #[serde(default)]
    label_ids: Vec<String>,
}

/// A draft.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Draft {
    /// The id of the draft.
    id: String,
    message: Written,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Modify {
    /// The id of the message, as search_emails gives it.
    message_id: String,
    /// Ids of labels to add, such as STARRED; see list_email_labels.
    #[serde(default)]
    add_label_ids: Vec<String>,
    /// Ids of labels to remove, such as UNREAD, or INBOX to archive it.
    #[serde(default)]
    remove_label_ids: Vec<String>,
}

#[tool_router(router = write_tools, vis = "pub(crate)")]
impl Gmail {
    #[tool(
        description = "Sends an email from the account, at once. Ask the user before you send.",
        annotations(
            title = "Send email",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = false,
            open_world_hint = true
        )
    )]
    async fn send_email(
        &self,
        Parameters(args): Parameters<Compose>,
    ) -> Result<Json<Written>, String> {
        let call = Call::new(Method::POST, mailbox_path("/messages/send")).json(&args.into_api()?);
        Ok(Json(self.fetch(call).await?))
    }

    #[tool(
        description = "Keeps an email as a draft, for the user to look at and send.",
        annotations(
            title = "Draft email",
            read_only_hint = false,
            destructive_hint = false,
            idempotent_hint = false,
            open_world_hint = true
        )
    )]
    async fn draft_email(
        &self,
        Parameters(args): Parameters<Compose>,
    ) -> Result<Json<Draft>, String> {
        let body = json!({"message": args.into_api()?});
        let call = Call::new(Method::POST, mailbox_path("/drafts")).json(&body);
        Ok(Json(self.fetch(call).await?))
    }

    #[tool(
        description = "Adds labels to an email and removes labels from it: marks it read, stars it, archives it.",
        annotations(
            title = "Modify email",
            read_only_hint = false,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn modify_email(
        &self,
        Parameters(args): Parameters<Modify>,
    ) -> Result<Json<Written>, String> {
        let count = args.add_label_ids.len() + args.remove_label_ids.len();
        if count == 0 || args.add_label_ids.len() > 100 || args.remove_label_ids.len() > 100 {
            return Err(
                Error::argument(SERVICE, "give 1 to 100 labels to add or to remove").into(),
            );
        }
        let body =
            json!({"addLabelIds": args.add_label_ids, "removeLabelIds": args.remove_label_ids});
        let call = Call::new(Method::POST, message_path(&args.message_id, "/modify")?).json(&body);
        Ok(Json(self.fetch(call).await?))
    }
}
