//! Tools that find and read threads.

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
    read::{FETCHES_AT_ONCE, HEAD, Search},
    scopes::Need,
    server::thing_path,
};

/// Most messages of one thread that are shown with their texts at once.
const MESSAGES_MAX: usize = 20;

/// A page of threads.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Found {
    threads: Vec<ThreadHead>,
    /// Give this as pageToken for the next page; absent: there is none.
    next_page_token: Option<String>,
    /// About how many there are in all.
    result_size_estimate: Option<u64>,
}

/// The head of a thread.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ThreadHead {
    thread_id: String,
    /// How many messages it holds.
    messages: usize,
    /// Its first message.
    first: Option<Summary>,
    /// Its last message, if it holds several.
    last: Option<Summary>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListAnswer {
    #[serde(default)]
    threads: Vec<ThreadId>,
    next_page_token: Option<String>,
    result_size_estimate: Option<u64>,
}

#[derive(Deserialize)]
struct ThreadId {
    id: String,
}

#[derive(Deserialize)]
struct ThreadAnswer {
    id: String,
    #[serde(default)]
    messages: Vec<ApiMessage>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct GetThread {
    /// The id of the thread, as search_threads gives it.
    thread_id: String,
    /// How many of its older messages to leave out: for threads of more than 20.
    #[serde(default)]
    skip: usize,
}

/// A thread, oldest message first.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Thread {
    thread_id: String,
    /// How many messages it holds in all.
    total: usize,
    messages: Vec<Email>,
    /// Give this as skip for the messages that follow; absent: there are none.
    next_skip: Option<usize>,
}

#[tool_router(router = thread_tools, vis = "pub(crate)")]
impl Gmail {
    #[tool(
        description = "Finds threads with Gmail's search syntax, newest first, with the heads of their first and last \
                       messages.",
        annotations(
            title = "Search threads",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn search_threads(
        &self,
        Parameters(args): Parameters<Search>,
    ) -> Result<Json<Found>, String> {
        let list: ListAnswer = self.fetch(Need::Read, args.call("/threads")?).await?;
        let threads = stream::iter(list.threads)
            .map(|thread| self.thread_head(thread.id))
            .buffered(FETCHES_AT_ONCE)
            .try_filter_map(future::ok)
            .try_collect()
            .await?;
        Ok(Json(Found {
            threads,
            next_page_token: list.next_page_token,
            result_size_estimate: list.result_size_estimate,
        }))
    }

    #[tool(
        description = "Reads a thread: its messages with their texts, oldest first, 20 at a time.",
        annotations(
            title = "Get thread",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn get_thread(
        &self,
        Parameters(args): Parameters<GetThread>,
    ) -> Result<Json<Thread>, String> {
        let call = Call::get(thread_path(&args.thread_id, "")?).query("format", "full");
        let thread: ThreadAnswer = self.fetch(Need::Read, call).await?;
        let total = thread.messages.len();
        let mut messages = Vec::new();
        for mut message in thread
            .messages
            .into_iter()
            .skip(args.skip)
            .take(MESSAGES_MAX)
        {
            self.complete(&mut message).await?;
            messages.push(message.email());
        }
        let next = args.skip.saturating_add(messages.len());
        Ok(Json(Thread {
            thread_id: thread.id,
            total,
            messages,
            next_skip: (next < total).then_some(next),
        }))
    }
}

/// The path of a thread.
pub(crate) fn thread_path(id: &str, rest: &str) -> Result<String, Error> {
    thing_path("/threads", "threadId", id, rest)
}

impl Gmail {
    /// The head of a thread; `None` when it was deleted after it was found.
    async fn thread_head(&self, id: String) -> Result<Option<ThreadHead>, Error> {
        let mut call = Call::get(thread_path(&id, "")?).query("format", "metadata");
        for header in HEAD {
            call = call.query("metadataHeaders", header);
        }
        match self.fetch::<ThreadAnswer>(Need::Read, call).await {
            Ok(mut thread) => {
                let messages = thread.messages.len();
                let last = if messages > 1 {
                    thread.messages.pop()
                } else {
                    None
                };
                let first = thread.messages.into_iter().next();
                Ok(Some(ThreadHead {
                    thread_id: thread.id,
                    messages,
                    first: first.map(ApiMessage::summary),
                    last: last.map(ApiMessage::summary),
                }))
            }
            Err(error) if error.failure.trouble == Trouble::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
