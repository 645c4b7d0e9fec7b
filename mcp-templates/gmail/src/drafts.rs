//! Tools for drafts.

use futures_util::{StreamExt, TryStreamExt, future, stream};
use minimcp_rest::{Call, Error, Method, Trouble};
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
    message::{ApiMessage, Summary},
    read::{FETCHES_AT_ONCE, page_size},
    scopes::Need,
    send::{ApiDraft, Written, message_call},
    server::{mailbox_path, thing_path},
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListDrafts {
    /// Only drafts that this finds, in Gmail's search syntax.
    query: Option<String>,
    /// How many, 1 to 50; 10 when absent.
    max_results: Option<u32>,
    /// The nextPageToken of the page before.
    page_token: Option<String>,
}

/// A page of drafts.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Drafts {
    drafts: Vec<Draft>,
    /// Give this as pageToken for the next page; absent: there is none.
    next_page_token: Option<String>,
}

/// A draft.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Draft {
    draft_id: String,
    /// Its head; read_email with its id reads the whole.
    email: Summary,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListAnswer {
    #[serde(default)]
    drafts: Vec<DraftId>,
    next_page_token: Option<String>,
}

#[derive(Deserialize)]
struct DraftId {
    id: String,
}

#[derive(Deserialize)]
struct DraftAnswer {
    message: ApiMessage,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct UpdateDraft {
    /// The id of the draft, as list_drafts gives it.
    draft_id: String,
    /// What it shall be; it takes the place of all that the draft held.
    email: Compose,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct OneDraft {
    /// The id of the draft, as list_drafts gives it.
    draft_id: String,
}

/// What was deleted.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Deleted {
    /// The id that was deleted.
    pub(crate) deleted: String,
}

fn draft_path(id: &str) -> Result<String, Error> {
    thing_path("/drafts", "draftId", id, "")
}

#[tool_router(router = draft_tools, vis = "pub(crate)")]
impl Gmail {
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
    ) -> Result<Json<Written>, String> {
        let outgoing = self.outgoing(args, Need::WriteDrafts).await?;
        Ok(Json(self.deliver(outgoing, true).await?))
    }

    #[tool(
        description = "Lists drafts, newest first, with their heads.",
        annotations(
            title = "List drafts",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn list_drafts(
        &self,
        Parameters(args): Parameters<ListDrafts>,
    ) -> Result<Json<Drafts>, String> {
        let call = Call::get(mailbox_path("/drafts"))
            .query("maxResults", page_size(args.max_results)?)
            .query_opt("q", args.query)
            .query_opt("pageToken", args.page_token);
        let list: ListAnswer = self.fetch(Need::ReadDrafts, call).await?;
        let drafts = stream::iter(list.drafts)
            .map(|draft| self.draft_head(draft.id))
            .buffered(FETCHES_AT_ONCE)
            .try_filter_map(future::ok)
            .try_collect()
            .await?;
        Ok(Json(Drafts {
            drafts,
            next_page_token: list.next_page_token,
        }))
    }

    #[tool(
        description = "Writes a draft anew: recipients, subject, text and attachments.",
        annotations(
            title = "Update draft",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn update_draft(
        &self,
        Parameters(args): Parameters<UpdateDraft>,
    ) -> Result<Json<Written>, String> {
        draft_path(&args.draft_id)?;
        let outgoing = self.outgoing(args.email, Need::WriteDrafts).await?;
        let rest = format!("/drafts/{}", args.draft_id);
        let call = message_call(Method::PUT, &rest, outgoing, true)?;
        let draft: ApiDraft = self.fetch(Need::WriteDrafts, call).await?;
        Ok(Json(draft.into()))
    }

    #[tool(
        description = "Sends a draft as it is, at once. Ask the user before you send.",
        annotations(
            title = "Send draft",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = false,
            open_world_hint = true
        )
    )]
    async fn send_draft(
        &self,
        Parameters(args): Parameters<OneDraft>,
    ) -> Result<Json<Written>, String> {
        draft_path(&args.draft_id)?;
        let call = Call::new(Method::POST, mailbox_path("/drafts/send"))
            .json(&json!({"id": args.draft_id}));
        Ok(Json(self.fetch(Need::WriteDrafts, call).await?))
    }

    #[tool(
        description = "Deletes a draft for good; it does not go to the trash.",
        annotations(
            title = "Delete draft",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn delete_draft(
        &self,
        Parameters(args): Parameters<OneDraft>,
    ) -> Result<Json<Deleted>, String> {
        let call = Call::new(Method::DELETE, draft_path(&args.draft_id)?);
        self.send(Need::WriteDrafts, call).await?;
        Ok(Json(Deleted {
            deleted: args.draft_id,
        }))
    }
}

impl Gmail {
    /// The head of a draft; `None` when it was sent or deleted after it was listed.
    async fn draft_head(&self, id: String) -> Result<Option<Draft>, Error> {
        let call = Call::get(draft_path(&id)?).query("format", "metadata");
        match self.fetch::<DraftAnswer>(Need::ReadDrafts, call).await {
            Ok(draft) => Ok(Some(Draft {
                draft_id: id,
                email: draft.message.summary(),
            })),
            Err(error) if error.failure.trouble == Trouble::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
