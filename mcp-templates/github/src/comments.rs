//! Tools on the comments of issues and pull requests.

use minimcp_rest::{Call, Method};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    GitHub,
    arguments::{Reaction, not_blank, refuse, repo_arguments},
    model::Comment,
};

repo_arguments!(AddComment {
    /// The number of the issue or pull request.
    issue_number: u64,
    /// The text, Markdown; needed unless reaction is given.
    body: Option<String>,
    /// An emoji reaction to add; needed unless body is given.
    reaction: Option<Reaction>,
    /// The id of the comment to react to; absent: the issue or pull request itself. Not with body.
    comment_id: Option<u64>,
});

repo_arguments!(UpdateComment {
    /// The id of the comment of an issue or pull request; not of one in a review.
    comment_id: u64,
    /// The new text, Markdown.
    body: String,
});

/// What was added.
#[derive(Serialize, JsonSchema, Default)]
struct Added {
    comment: Option<Comment>,
    reaction: Option<AddedReaction>,
}

/// A reaction.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct AddedReaction {
    id: u64,
    /// +1, -1, laugh, confused, heart, hooray, rocket or eyes.
    content: String,
}

#[tool_router(router = comment_tools, vis = "pub(crate)")]
impl GitHub {
    #[tool(
        description = "Adds a comment to an issue or a pull request, or a reaction to it or to one of its comments."
    )]
    async fn add_issue_comment(
        &self,
        Parameters(args): Parameters<AddComment>,
    ) -> Result<Json<Added>, String> {
        let mut added = Added::default();
        let thread = format!("/issues/{}", args.issue_number);
        if args.body.is_none() && args.reaction.is_none() {
            return refuse("body or reaction is needed");
        }
        if args.comment_id.is_some() && args.body.is_some() {
            return refuse("comment_id is for a reaction; leave body out");
        }
        if let Some(body) = &args.body {
            let body = json!({"body": not_blank("body", body)?});
            let call = Call::new(Method::POST, args.path(&format!("{thread}/comments"))?);
            added.comment = Some(self.fetch(call.json(&body)).await?);
        }
        if let Some(reaction) = args.reaction {
            let rest = match args.comment_id {
                Some(id) => format!("/issues/comments/{id}/reactions"),
                None => format!("{thread}/reactions"),
            };
            added.reaction = Some(self.react(args.path(&rest)?, reaction).await?);
        }
        Ok(Json(added))
    }

    #[tool(description = "Changes the text of a comment of an issue or a pull request.")]
    async fn update_issue_comment(
        &self,
        Parameters(args): Parameters<UpdateComment>,
    ) -> Result<Json<Comment>, String> {
        let path = args.path(&format!("/issues/comments/{}", args.comment_id))?;
        let body = json!({"body": not_blank("body", &args.body)?});
        Ok(Json(
            self.fetch(Call::new(Method::PATCH, path).json(&body))
                .await?,
        ))
    }
}

impl GitHub {
    /// Adds a reaction at `path`; a second time it is the same one.
    pub(crate) async fn react(
        &self,
        path: String,
        reaction: Reaction,
    ) -> Result<AddedReaction, String> {
        let call = Call::new(Method::POST, path).json(&json!({"content": reaction}));
        Ok(self.fetch(call).await?)
    }
}
