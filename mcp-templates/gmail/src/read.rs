//! Tools that read.

use futures_util::{StreamExt, TryStreamExt, future, stream};
use minimcp_rest::{Call, Error, Trouble};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};

use crate::{
    Gmail,
    message::{ApiMessage, Email, Summary},
    server::{SERVICE, mailbox_path, message_path},
};

/// Heads are fetched so many at a time, well below Gmail's limit for one user.
const FETCHES_AT_ONCE: usize = 5;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Search {
    /// The query in Gmail's search syntax, such as `from:ann is:unread newer_than:7d`.
    query: String,
    /// How many, 1 to 50; 10 when absent.
    max_results: Option<u32>,
    /// The nextPageToken of the page before.
    page_token: Option<String>,
}

/// A page of messages.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Found {
    emails: Vec<Summary>,
    /// Give this as pageToken for the next page; absent: there is none.
    next_page_token: Option<String>,
    /// About how many there are in all.
    result_size_estimate: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListAnswer {
    #[serde(default)]
    messages: Vec<MessageId>,
    next_page_token: Option<String>,
    result_size_estimate: Option<u64>,
}

#[derive(Deserialize)]
struct MessageId {
    id: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Read {
    /// The id of the message, as search_emails gives it.
    message_id: String,
}

/// All labels.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Labels {
    #[serde(default)]
    labels: Vec<Label>,
}

/// A label.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Label {
    /// What modify_email takes.
    id: String,
    name: String,
    /// system or user.
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[tool_router(router = read_tools, vis = "pub(crate)")]
impl Gmail {
    #[tool(
        description = "Finds emails with Gmail's search syntax, newest first, and gives their heads.",
        annotations(
            title = "Search emails",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn search_emails(
        &self,
        Parameters(args): Parameters<Search>,
    ) -> Result<Json<Found>, String> {
        let max_results = args.max_results.unwrap_or(10);
        if !(1..=50).contains(&max_results) {
            return Err(Error::argument(SERVICE, "maxResults must be 1 to 50").into());
        }
        let call = Call::get(mailbox_path("/messages"))
            .query("q", args.query)
            .query("maxResults", max_results)
            .query_opt("pageToken", args.page_token);
        let list: ListAnswer = self.fetch(call).await?;
        let emails = stream::iter(list.messages)
            .map(|message| self.head(message.id))
            .buffered(FETCHES_AT_ONCE)
            .try_filter_map(future::ok)
            .try_collect()
            .await?;
        Ok(Json(Found {
            emails,
            next_page_token: list.next_page_token,
            result_size_estimate: list.result_size_estimate,
        }))
    }

    #[tool(
        description = "Reads an email: its head, its text and the names of its attachments.",
        annotations(
            title = "Read email",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn read_email(&self, Parameters(args): Parameters<Read>) -> Result<Json<Email>, String> {
        let call = Call::get(message_path(&args.message_id, "")?).query("format", "full");
        let message: ApiMessage = self.fetch(call).await?;
        Ok(Json(message.email()))
    }

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
        Ok(Json(self.fetch(Call::get(mailbox_path("/labels"))).await?))
    }
}

impl Gmail {
    /// The head of a message; `None` when it was deleted after it was found.
    async fn head(&self, id: String) -> Result<Option<Summary>, Error> {
        let mut call = Call::get(message_path(&id, "")?).query("format", "metadata");
        for header in ["From", "To", "Subject", "Date"] {
            call = call.query("metadataHeaders", header);
        }
        match self.fetch::<ApiMessage>(call).await {
            Ok(message) => Ok(Some(message.summary())),
            Err(error) if error.failure.trouble == Trouble::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
