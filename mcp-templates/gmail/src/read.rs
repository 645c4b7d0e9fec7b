//! Tools that find and read single emails.

use base64::Engine;
use futures_util::{StreamExt, TryStreamExt, future, stream};
use minimcp_rest::{Call, Error, Trouble, step};
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
    mime::BASE64_URL,
    scopes::Need,
    server::{SERVICE, mailbox_path, message_path},
};

/// Heads are fetched so many at a time, well below Gmail's limit for one user.
pub(crate) const FETCHES_AT_ONCE: usize = 5;
/// The headers of a head.
pub(crate) const HEAD: [&str; 4] = ["From", "To", "Subject", "Date"];

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Search {
    /// The query in Gmail's search syntax, such as `from:ann is:unread newer_than:7d`.
    pub(crate) query: String,
    /// How many, 1 to 50; 10 when absent.
    pub(crate) max_results: Option<u32>,
    /// The nextPageToken of the page before.
    pub(crate) page_token: Option<String>,
    /// Whether spam and trash are searched as well.
    #[serde(default)]
    pub(crate) include_spam_trash: bool,
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

/// The account.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Profile {
    /// Its address.
    email_address: String,
    /// How many messages it holds.
    messages_total: Option<u64>,
    /// How many threads it holds.
    threads_total: Option<u64>,
}

/// The size of a page.
pub(crate) fn page_size(asked: Option<u32>) -> Result<u32, Error> {
    let size = asked.unwrap_or(10);
    if (1..=50).contains(&size) {
        Ok(size)
    } else {
        Err(Error::argument(SERVICE, "maxResults must be 1 to 50"))
    }
}

#[tool_router(router = read_tools, vis = "pub(crate)")]
impl Gmail {
    #[tool(
        description = "The address of the account, and how much mail it holds.",
        annotations(
            title = "Get profile",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn get_profile(&self) -> Result<Json<Profile>, String> {
        Ok(Json(self.profile().await?))
    }

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
        let call = args.call("/messages")?;
        let list: ListAnswer = self.fetch(Need::Read, call).await?;
        let total = u32::try_from(list.messages.len()).unwrap_or(u32::MAX);
        let emails = stream::iter(list.messages)
            .map(|message| self.head(message.id))
            .buffered(FETCHES_AT_ONCE)
            .enumerate()
            .map(|(index, head)| {
                let done = u32::try_from(index + 1).unwrap_or(u32::MAX);
                step(done, total, "fetching the heads");
                head
            })
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
        description = "Reads an email: its head, its text and what is attached to it.",
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
        Ok(Json(self.message(call).await?.email()))
    }
}

impl Search {
    /// The call that lists `collection`.
    pub(crate) fn call(self, collection: &str) -> Result<Call, Error> {
        let all = self.include_spam_trash.then_some(true);
        Ok(Call::get(mailbox_path(collection))
            .query("q", self.query)
            .query("maxResults", page_size(self.max_results)?)
            .query_opt("includeSpamTrash", all)
            .query_opt("pageToken", self.page_token))
    }
}

impl Gmail {
    /// The head of a message; `None` when it was deleted after it was found.
    async fn head(&self, id: String) -> Result<Option<Summary>, Error> {
        let mut call = Call::get(message_path(&id, "")?).query("format", "metadata");
        for header in HEAD {
            call = call.query("metadataHeaders", header);
        }
        match self.fetch::<ApiMessage>(Need::Read, call).await {
            Ok(message) => Ok(Some(message.summary())),
            Err(error) if error.failure.trouble == Trouble::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A whole message, with the texts that Gmail keeps apart because they are long.
    pub(crate) async fn message(&self, call: Call) -> Result<ApiMessage, Error> {
        let mut message: ApiMessage = self.fetch(Need::Read, call).await?;
        self.complete(&mut message).await?;
        Ok(message)
    }

    /// Fetches the texts of a message that Gmail keeps apart.
    pub(crate) async fn complete(&self, message: &mut ApiMessage) -> Result<(), Error> {
        let id = message.id.clone();
        if let Some(payload) = &mut message.payload {
            for (part_id, attachment_id) in payload.texts_kept_apart() {
                let bytes = self.attachment_bytes(&id, &attachment_id).await?;
                payload.put_data(&part_id, &BASE64_URL.encode(bytes));
            }
        }
        Ok(())
    }

    /// The address of the account.
    pub(crate) async fn own_address(&self) -> Result<String, Error> {
        Ok(self.profile().await?.email_address)
    }

    async fn profile(&self) -> Result<Profile, Error> {
        self.fetch(Need::Profile, Call::get(mailbox_path("/profile")))
            .await
    }
}
