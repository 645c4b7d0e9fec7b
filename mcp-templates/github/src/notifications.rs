//! Tools of the toolset notifications.

use minimcp_rest::{Call, Error, Method};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

use crate::{
    GitHub,
    arguments::{paged_arguments, refuse, repo_arguments, repo_path},
    model::{Done, Listed},
};

paged_arguments!(ListNotifications {
    /// Which ones; absent: the unread ones. participating: unread ones of threads that the user takes part in.
    filter: Option<Filter>,
    /// Only those changed after this time, ISO 8601, such as 2026-01-31T00:00:00Z.
    since: Option<String>,
    /// Only those changed before this time, ISO 8601.
    before: Option<String>,
    /// The owner of the only repository; with repo.
    owner: Option<String>,
    /// The only repository; with owner.
    repo: Option<String>,
});

/// Which notifications.
#[derive(Deserialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
enum Filter {
    Default,
    IncludeReadNotifications,
    OnlyParticipating,
}

/// A thread that the user is notified of.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Notification {
    /// What the other tools want as notificationID or threadID.
    id: String,
    /// Owner and name.
    #[serde(deserialize_with = "full_name")]
    repository: String,
    subject: Subject,
    /// Why the user is notified, such as mention, review_requested, assign or subscribed.
    reason: String,
    unread: bool,
    updated_at: String,
    last_read_at: Option<String>,
}

/// What a notification is about.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Subject {
    title: String,
    /// Issue, PullRequest, Release, Commit, Discussion or CheckSuite.
    #[serde(rename = "type")]
    kind: String,
    /// Its address in the API; an issue or pull request has its number at the end.
    url: Option<String>,
}

fn full_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    struct Named {
        full_name: String,
    }
    Ok(Named::deserialize(deserializer)?.full_name)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OneNotification {
    /// The id of the notification.
    #[serde(rename = "notificationID")]
    notification_id: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Dismiss {
    /// The id of the notification.
    #[serde(rename = "threadID")]
    thread_id: String,
    /// What it is to be: read, or done, which takes it out of the list.
    state: DismissState,
}

/// What a notification is to be.
#[derive(Deserialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
enum DismissState {
    Read,
    Done,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MarkAllRead {
    /// Only what was changed before this time, ISO 8601; absent: now.
    #[serde(rename = "lastReadAt")]
    last_read_at: Option<String>,
    /// The owner of the only repository; with repo.
    owner: Option<String>,
    /// The only repository; with owner.
    repo: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ManageThread {
    /// The id of the notification.
    #[serde(rename = "notificationID")]
    notification_id: String,
    /// What to do.
    action: Subscription,
}

repo_arguments!(ManageRepository {
    /// What to do.
    action: Subscription,
});

/// What to do with a subscription: ignore mutes, watch follows, delete goes back to the user's usual settings.
#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
enum Subscription {
    Ignore,
    Watch,
    Delete,
}

#[tool_router(router = notification_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Lists the notifications of the user, the newest first.")]
    async fn list_notifications(
        &self,
        Parameters(args): Parameters<ListNotifications>,
    ) -> Result<Json<Listed<Notification>>, String> {
        let page = args.page();
        let path = of_repository(
            "/notifications",
            args.owner.as_deref(),
            args.repo.as_deref(),
        )?;
        let filter = args.filter.unwrap_or(Filter::Default);
        let call = Call::get(path)
            .query("all", matches!(filter, Filter::IncludeReadNotifications))
            .query("participating", matches!(filter, Filter::OnlyParticipating))
            .query_opt("since", args.since)
            .query_opt("before", args.before);
        self.list(call, page).await
    }

    #[tool(description = "Reads a notification.")]
    async fn get_notification_details(
        &self,
        Parameters(args): Parameters<OneNotification>,
    ) -> Result<Json<Notification>, String> {
        Ok(Json(
            self.fetch(Call::get(thread(&args.notification_id, "")?))
                .await?,
        ))
    }

    #[tool(description = "Marks a notification as read or as done.")]
    async fn dismiss_notification(
        &self,
        Parameters(args): Parameters<Dismiss>,
    ) -> Result<Json<Done>, String> {
        let (method, state) = match args.state {
            DismissState::Read => (Method::PATCH, "read"),
            DismissState::Done => (Method::DELETE, "done"),
        };
        self.send(Call::new(method, thread(&args.thread_id, "")?))
            .await?;
        Ok(Json(Done {
            done: format!("The notification is marked as {state}"),
        }))
    }

    #[tool(
        description = "Marks all notifications of the user, or those of one repository, as read."
    )]
    async fn mark_all_notifications_read(
        &self,
        Parameters(args): Parameters<MarkAllRead>,
    ) -> Result<Json<Done>, String> {
        let path = of_repository(
            "/notifications",
            args.owner.as_deref(),
            args.repo.as_deref(),
        )?;
        let body = match &args.last_read_at {
            Some(time) => json!({"last_read_at": time}),
            None => json!({}),
        };
        self.send(Call::new(Method::PUT, path).json(&body)).await?;
        Ok(Json(Done {
            done: "The notifications are marked as read; with many it takes GitHub a while"
                .to_owned(),
        }))
    }
}

#[tool_router(router = subscription_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(description = "Mutes or follows a thread that the user is notified of.")]
    async fn manage_notification_subscription(
        &self,
        Parameters(args): Parameters<ManageThread>,
    ) -> Result<Json<Done>, String> {
        let path = thread(&args.notification_id, "/subscription")?;
        let call = match args.action {
            Subscription::Delete => Call::new(Method::DELETE, path),
            action => {
                let ignored = action == Subscription::Ignore;
                Call::new(Method::PUT, path).json(&json!({"ignored": ignored}))
            }
        };
        self.subscribe(call, args.action, "thread").await
    }

    #[tool(description = "Mutes or follows a repository.")]
    async fn manage_repository_notification_subscription(
        &self,
        Parameters(args): Parameters<ManageRepository>,
    ) -> Result<Json<Done>, String> {
        let path = args.path("/subscription")?;
        let call = match args.action {
            Subscription::Delete => Call::new(Method::DELETE, path),
            Subscription::Ignore => Call::new(Method::PUT, path).json(&json!({"ignored": true})),
            Subscription::Watch => Call::new(Method::PUT, path).json(&json!({"subscribed": true})),
        };
        self.subscribe(call, args.action, "repository").await
    }
}

impl GitHub {
    async fn subscribe(
        &self,
        call: Call,
        action: Subscription,
        what: &str,
    ) -> Result<Json<Done>, String> {
        self.send(call).await?;
        let state = match action {
            Subscription::Ignore => "muted",
            Subscription::Watch => "followed",
            Subscription::Delete => "as the user's settings say",
        };
        Ok(Json(Done {
            done: format!("The {what} is {state} now"),
        }))
    }
}

/// `path`, or that of one repository if both of its names are given.
fn of_repository(path: &str, owner: Option<&str>, repo: Option<&str>) -> Result<String, String> {
    match (owner, repo) {
        (Some(owner), Some(repo)) => Ok(repo_path(owner, repo, path)?),
        (None, None) => Ok(path.to_owned()),
        _ => refuse("owner and repo must be given together, or neither"),
    }
}

/// The address of `rest` of a thread.
fn thread(id: &str, rest: &str) -> Result<String, Error> {
    match id.parse::<u64>() {
        Ok(id) => Ok(format!("/notifications/threads/{id}{rest}")),
        Err(_) => Err(Error::argument(
            crate::server::SERVICE,
            "the id of a notification is a number, see list_notifications",
        )),
    }
}
