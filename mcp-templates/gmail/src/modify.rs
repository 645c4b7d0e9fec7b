//! Tools that label, archive and trash emails and threads.

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
    scopes::Need,
    send::Written,
    server::{SERVICE, mailbox_path, message_path},
    threads::thread_path,
};

/// Gmail's limit of one batch.
const BATCH_MAX: usize = 1_000;

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

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ModifyThread {
    /// The id of the thread, as search_threads gives it.
    thread_id: String,
    /// Ids of labels to add to all its messages, such as STARRED; see list_email_labels.
    #[serde(default)]
    add_label_ids: Vec<String>,
    /// Ids of labels to remove from all its messages, such as UNREAD, or INBOX to archive it.
    #[serde(default)]
    remove_label_ids: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct BatchModify {
    /// The ids of the messages, 1 to 1,000.
    message_ids: Vec<String>,
    /// Ids of labels to add, such as STARRED; see list_email_labels.
    #[serde(default)]
    add_label_ids: Vec<String>,
    /// Ids of labels to remove, such as UNREAD, or INBOX to archive them.
    #[serde(default)]
    remove_label_ids: Vec<String>,
}

/// How many messages were changed.
#[derive(Serialize, JsonSchema)]
struct Modified {
    /// How many messages were changed.
    modified: usize,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct OneMessage {
    /// The id of the message, as search_emails gives it.
    message_id: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct OneThread {
    /// The id of the thread, as search_threads gives it.
    thread_id: String,
}

/// A thread after the change.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ChangedThread {
    thread_id: String,
    /// Its messages.
    messages: Vec<Written>,
}

#[derive(Deserialize)]
struct ThreadAnswer {
    id: String,
    #[serde(default)]
    messages: Vec<Written>,
}

impl From<ThreadAnswer> for ChangedThread {
    fn from(answer: ThreadAnswer) -> Self {
        Self {
            thread_id: answer.id,
            messages: answer.messages,
        }
    }
}

/// The body of a change of labels.
fn change(add: Vec<String>, remove: Vec<String>) -> Result<Value, Error> {
    if add.len() + remove.len() == 0 || add.len() > 100 || remove.len() > 100 {
        return Err(Error::argument(
            SERVICE,
            "give 1 to 100 labels to add or to remove",
        ));
    }
    if let Some(id) = add.iter().find(|id| remove.contains(id)) {
        let message = format!("the label {id:?} cannot be both added and removed");
        return Err(Error::argument(SERVICE, message));
    }
    Ok(json!({"addLabelIds": add, "removeLabelIds": remove}))
}

/// Changes of labels and the way to the trash and back say what shall be, so they may be sent twice.
fn post(path: String) -> Call {
    Call::new(Method::POST, path).repeatable()
}

#[tool_router(router = modify_tools, vis = "pub(crate)")]
impl Gmail {
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
        let body = change(args.add_label_ids, args.remove_label_ids)?;
        let call = post(message_path(&args.message_id, "/modify")?).json(&body);
        Ok(Json(self.fetch(Need::Modify, call).await?))
    }

    #[tool(
        description = "Adds labels to all messages of a thread and removes labels from them.",
        annotations(
            title = "Modify thread",
            read_only_hint = false,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn modify_thread(
        &self,
        Parameters(args): Parameters<ModifyThread>,
    ) -> Result<Json<ChangedThread>, String> {
        let body = change(args.add_label_ids, args.remove_label_ids)?;
        let call = post(thread_path(&args.thread_id, "/modify")?).json(&body);
        let thread: ThreadAnswer = self.fetch(Need::Modify, call).await?;
        Ok(Json(thread.into()))
    }

    #[tool(
        description = "Adds labels to up to 1,000 emails at once and removes labels from them.",
        annotations(
            title = "Modify many emails",
            read_only_hint = false,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn batch_modify_emails(
        &self,
        Parameters(args): Parameters<BatchModify>,
    ) -> Result<Json<Modified>, String> {
        if !(1..=BATCH_MAX).contains(&args.message_ids.len()) {
            return Err(Error::argument(SERVICE, "messageIds must hold 1 to 1000 ids").into());
        }
        for id in &args.message_ids {
            message_path(id, "")?;
        }
        let mut body = change(args.add_label_ids, args.remove_label_ids)?;
        body["ids"] = json!(args.message_ids);
        let call = post(mailbox_path("/messages/batchModify")).json(&body);
        self.send(Need::Modify, call).await?;
        Ok(Json(Modified {
            modified: args.message_ids.len(),
        }))
    }

    #[tool(
        description = "Moves an email to the trash, where Gmail deletes it after 30 days.",
        annotations(
            title = "Trash email",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn trash_email(
        &self,
        Parameters(args): Parameters<OneMessage>,
    ) -> Result<Json<Written>, String> {
        let call = post(message_path(&args.message_id, "/trash")?);
        Ok(Json(self.fetch(Need::Modify, call).await?))
    }

    #[tool(
        description = "Takes an email out of the trash.",
        annotations(
            title = "Untrash email",
            read_only_hint = false,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn untrash_email(
        &self,
        Parameters(args): Parameters<OneMessage>,
    ) -> Result<Json<Written>, String> {
        let call = post(message_path(&args.message_id, "/untrash")?);
        Ok(Json(self.fetch(Need::Modify, call).await?))
    }

    #[tool(
        description = "Moves a thread with all its messages to the trash, where Gmail deletes it after 30 days.",
        annotations(
            title = "Trash thread",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn trash_thread(
        &self,
        Parameters(args): Parameters<OneThread>,
    ) -> Result<Json<ChangedThread>, String> {
        let call = post(thread_path(&args.thread_id, "/trash")?);
        let thread: ThreadAnswer = self.fetch(Need::Modify, call).await?;
        Ok(Json(thread.into()))
    }

    #[tool(
        description = "Takes a thread with all its messages out of the trash.",
        annotations(
            title = "Untrash thread",
            read_only_hint = false,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn untrash_thread(
        &self,
        Parameters(args): Parameters<OneThread>,
    ) -> Result<Json<ChangedThread>, String> {
        let call = post(thread_path(&args.thread_id, "/untrash")?);
        let thread: ThreadAnswer = self.fetch(Need::Modify, call).await?;
        Ok(Json(thread.into()))
    }
}
