//! Tools on the reviews of pull requests.

use minimcp_rest::{Call, Method};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    GitHub,
    arguments::{Page, Reaction, not_blank, refuse, repo_arguments},
    comments::AddedReaction,
    model::{Done, Review, ReviewComment},
};

const PAGES_MAX: u32 = 10;

const ADD_THREAD: &str = "mutation($input: AddPullRequestReviewThreadInput!) {
  addPullRequestReviewThread(input: $input) { thread { id path line } }
}";
const RESOLVE: &str = "mutation($id: ID!) {
  resolveReviewThread(input: {threadId: $id}) { thread { id isResolved } }
}";
const UNRESOLVE: &str = "mutation($id: ID!) {
  unresolveReviewThread(input: {threadId: $id}) { thread { id isResolved } }
}";

repo_arguments!(ReviewWrite {
    /// What to do: create a review (pending unless event is given), submit or delete the pending one, resolve a thread or open it again.
    method: ReviewMethod,
    /// The pull request's number.
    #[serde(rename = "pullNumber")]
    pull_number: u64,
    /// The text, Markdown; GitHub wants one with REQUEST_CHANGES and COMMENT.
    body: Option<String>,
    /// What the review says; to create without it: the review stays pending, so that comments can be added before it is submitted.
    event: Option<ReviewEvent>,
    /// To create: the commit that is reviewed; absent: the last one.
    #[serde(rename = "commitID")]
    commit_id: Option<String>,
    /// For resolve_thread and unresolve_thread: the id that pull_request_read tells with get_review_comments.
    #[serde(rename = "threadId")]
    thread_id: Option<String>,
});

/// What to do with a review.
#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
enum ReviewMethod {
    Create,
    SubmitPending,
    DeletePending,
    ResolveThread,
    UnresolveThread,
}

/// What a review says.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum ReviewEvent {
    Approve,
    RequestChanges,
    Comment,
}

/// What became of a review or a thread.
#[derive(Serialize, JsonSchema, Default)]
struct WrittenReview {
    /// The review as it is, or was before it was deleted.
    review: Option<Review>,
    /// What was done, in words.
    done: String,
}

repo_arguments!(AddReviewComment {
    /// The pull request's number.
    #[serde(rename = "pullNumber")]
    pull_number: u64,
    /// The file.
    path: String,
    /// The text, Markdown.
    body: String,
    /// Whether it is about a line or the whole file.
    #[serde(rename = "subjectType")]
    subject_type: SubjectType,
    /// The line; the last one, if it is about several. Needed for a line.
    line: Option<u64>,
    /// The state of the code that the line is counted in: LEFT before, RIGHT after the change; absent: RIGHT.
    side: Option<Side>,
    /// The first line, if it is about several.
    #[serde(rename = "startLine")]
    start_line: Option<u64>,
    /// The state of the code that startLine is counted in.
    #[serde(rename = "startSide")]
    start_side: Option<Side>,
});

/// What a comment is about.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[schemars(inline)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum SubjectType {
    #[serde(alias = "file")]
    File,
    #[serde(alias = "line")]
    Line,
}

/// The code before or after a change.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Side {
    Left,
    Right,
}

repo_arguments!(AddReply {
    /// The pull request's number; needed with body.
    #[serde(rename = "pullNumber")]
    pull_number: Option<u64>,
    /// The id of the review comment, a number; not that of its thread.
    #[serde(rename = "commentId")]
    comment_id: u64,
    /// The text, Markdown; needed unless reaction is given.
    body: Option<String>,
    /// An emoji reaction to add; needed unless body is given.
    reaction: Option<Reaction>,
});

/// What was added.
#[derive(Serialize, JsonSchema, Default)]
struct Replied {
    comment: Option<ReviewComment>,
    reaction: Option<AddedReaction>,
}

#[tool_router(router = review_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(
        description = "Creates a review of a pull request, submits or deletes the pending one, or resolves a thread of comments."
    )]
    async fn pull_request_review_write(
        &self,
        Parameters(args): Parameters<ReviewWrite>,
    ) -> Result<Json<WrittenReview>, String> {
        let threads = matches!(
            args.method,
            ReviewMethod::ResolveThread | ReviewMethod::UnresolveThread
        );
        if threads != args.thread_id.is_some() {
            return refuse("threadId is for resolve_thread and unresolve_thread, which need it");
        }
        let reviews = args.path(&format!("/pulls/{}/reviews", args.pull_number))?;
        let mut body = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(key.to_owned(), value);
            }
        };
        put("body", args.body.as_ref().map(|text| json!(text)));
        put("event", args.event.map(|event| json!(event)));
        let (call, done) = match args.method {
            ReviewMethod::Create => {
                put("commit_id", args.commit_id.as_ref().map(|sha| json!(sha)));
                let done = match args.event {
                    Some(_) => "The review is submitted",
                    None => {
                        "The review is pending: add comments, then submit it with submit_pending"
                    }
                };
                (Call::new(Method::POST, reviews).json(&body), done)
            }
            ReviewMethod::SubmitPending if args.event.is_none() => {
                return refuse("event is needed to submit a review");
            }
            ReviewMethod::SubmitPending => {
                let pending = self.pending_review(&reviews).await?.id;
                let call = Call::new(Method::POST, format!("{reviews}/{pending}/events"));
                (call.json(&body), "The review is submitted")
            }
            ReviewMethod::DeletePending => {
                let pending = self.pending_review(&reviews).await?.id;
                let call = Call::new(Method::DELETE, format!("{reviews}/{pending}")).once();
                (call, "The pending review and its comments are deleted")
            }
            ReviewMethod::ResolveThread | ReviewMethod::UnresolveThread => {
                let (document, done) = match args.method {
                    ReviewMethod::ResolveThread => (RESOLVE, "The thread is resolved"),
                    _ => (UNRESOLVE, "The thread is open again"),
                };
                self.graphql::<Value>(document, json!({"id": args.thread_id}))
                    .await?;
                return Ok(Json(WrittenReview {
                    review: None,
                    done: done.to_owned(),
                }));
            }
        };
        let review = Some(self.fetch(call).await?);
        Ok(Json(WrittenReview {
            review,
            done: done.to_owned(),
        }))
    }

    #[tool(
        description = "Adds a comment at a line or a file to the pending review of this user. Create that with pull_request_review_write."
    )]
    async fn add_comment_to_pending_review(
        &self,
        Parameters(args): Parameters<AddReviewComment>,
    ) -> Result<Json<Done>, String> {
        if (args.subject_type == SubjectType::Line) != args.line.is_some() {
            return refuse("line is for the subjectType LINE, which needs it");
        }
        let reviews = args.path(&format!("/pulls/{}/reviews", args.pull_number))?;
        let pending = self.pending_review(&reviews).await?;
        // Only GraphQL adds to a review that is there.
        let mut input = json!({
            "pullRequestReviewId": pending.node_id,
            "path": not_blank("path", &args.path)?,
            "body": not_blank("body", &args.body)?,
            "subjectType": args.subject_type,
        });
        for (key, value) in [
            ("line", json!(args.line)),
            ("side", json!(args.side)),
            ("startLine", json!(args.start_line)),
            ("startSide", json!(args.start_side)),
        ] {
            if !value.is_null() {
                input[key] = value;
            }
        }
        self.graphql::<Value>(ADD_THREAD, json!({"input": input}))
            .await?;
        let done = "The comment is in the pending review; submit it with pull_request_review_write"
            .to_owned();
        Ok(Json(Done { done }))
    }

    #[tool(description = "Replies to a comment of a review, or adds a reaction to it.")]
    async fn add_reply_to_pull_request_comment(
        &self,
        Parameters(args): Parameters<AddReply>,
    ) -> Result<Json<Replied>, String> {
        let mut replied = Replied::default();
        let id = args.comment_id;
        match (&args.body, args.pull_number) {
            (Some(body), Some(number)) => {
                let path = args.path(&format!("/pulls/{number}/comments/{id}/replies"))?;
                let body = json!({"body": not_blank("body", body)?});
                let call = Call::new(Method::POST, path).json(&body);
                replied.comment = Some(self.fetch(call).await?);
            }
            (Some(_), None) => return refuse("pullNumber is needed with body"),
            (None, _) if args.reaction.is_none() => return refuse("body or reaction is needed"),
            (None, _) => {}
        }
        if let Some(reaction) = args.reaction {
            let path = args.path(&format!("/pulls/comments/{id}/reactions"))?;
            replied.reaction = Some(self.react(path, reaction).await?);
        }
        Ok(Json(replied))
    }
}

impl GitHub {
    /// The review that is pending: GitHub shows it to its author alone, and there is at most one. Reviews come oldest
    /// first, so it is sought to the end.
    async fn pending_review(&self, reviews: &str) -> Result<Review, String> {
        let mut number = 1;
        loop {
            let page = Page {
                page: Some(number),
                per_page: Some(100),
            };
            let (found, next): (Vec<Review>, _) = self.fetch_page(Call::get(reviews), page).await?;
            if let Some(review) = found.into_iter().find(|review| review.state == "PENDING") {
                return Ok(review);
            }
            match next.filter(|next| *next > number && *next <= PAGES_MAX) {
                Some(next) => number = next,
                None => {
                    return Err("There is no pending review of this user: create one with the method create of \
                                pull_request_review_write, without event"
                        .to_owned());
                }
            }
        }
    }
}
