//! Tools for comments.

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
    Figma,
    design::Author,
    server::{SERVICE, file_path, node_id},
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListComments {
    /// The key of the file: in figma.com/design/KEY/… the part KEY.
    #[serde(rename = "fileKey")]
    file_key: String,
}

/// All comments of a file.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Comments {
    comments: Vec<Comment>,
}

/// A comment.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Comment {
    id: String,
    message: String,
    user: Author,
    created_at: String,
    /// When it was resolved, if it was.
    resolved_at: Option<String>,
    /// The comment that it answers, if it is a reply.
    #[serde(default, deserialize_with = "parent")]
    parent_id: Option<String>,
}

/// Figma writes an empty text where there is no parent.
fn parent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|id| !id.is_empty()))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListReactions {
    /// The key of the file: in figma.com/design/KEY/… the part KEY.
    #[serde(rename = "fileKey")]
    file_key: String,
    /// The comment, as list_comments gives it.
    #[serde(rename = "commentId")]
    comment_id: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct React {
    /// The key of the file: in figma.com/design/KEY/… the part KEY.
    #[serde(rename = "fileKey")]
    file_key: String,
    /// The comment, as list_comments gives it.
    #[serde(rename = "commentId")]
    comment_id: String,
    /// The emoji as Figma names it, such as :+1: or :heart:.
    emoji: String,
}

/// Reactions to a comment.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Reactions {
    reactions: Vec<Reaction>,
}

/// A reaction to a comment.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Reaction {
    emoji: String,
    user: Author,
    created_at: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PostComment {
    /// The key of the file: in figma.com/design/KEY/… the part KEY.
    #[serde(rename = "fileKey")]
    file_key: String,
    /// The text.
    message: String,
    /// The comment to reply to.
    #[serde(rename = "commentId")]
    comment_id: Option<String>,
    /// The node to pin the comment to, such as 1234:5678; not for replies.
    #[serde(rename = "nodeId")]
    node_id: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeleteComment {
    /// The key of the file: in figma.com/design/KEY/… the part KEY.
    #[serde(rename = "fileKey")]
    file_key: String,
    /// The comment; it must be the token's user's own.
    #[serde(rename = "commentId")]
    comment_id: String,
}

#[tool_router(router = comment_tools, vis = "pub(crate)")]
impl Figma {
    #[tool(
        description = "Lists the comments of a Figma file.",
        annotations(
            title = "List comments",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn list_comments(
        &self,
        Parameters(args): Parameters<ListComments>,
    ) -> Result<Json<Comments>, String> {
        let call = Call::get(file_path(&args.file_key, "/comments")?).query("as_md", true);
        Ok(Json(self.fetch(call).await?))
    }

    #[tool(
        description = "Posts a comment on a Figma file, or a reply.",
        annotations(
            title = "Post comment",
            read_only_hint = false,
            destructive_hint = false,
            idempotent_hint = false,
            open_world_hint = true
        )
    )]
    async fn post_comment(
        &self,
        Parameters(args): Parameters<PostComment>,
    ) -> Result<Json<Comment>, String> {
        let refuse = |message: &str| Err(String::from(Error::argument(SERVICE, message)));
        if args.message.trim().is_empty() {
            return refuse("message must not be empty");
        }
        let mut body = json!({"message": args.message});
        match (args.comment_id, args.node_id) {
            (Some(_), Some(_)) => {
                return refuse("a reply stands where its comment stands: give commentId or nodeId");
            }
            (Some(comment), None) => body["comment_id"] = json!(comment_id(&comment)?),
            (None, Some(node)) => {
                body["client_meta"] =
                    json!({"node_id": node_id(&node)?, "node_offset": {"x": 0, "y": 0}});
            }
            (None, None) => {}
        }
        let call = Call::new(Method::POST, file_path(&args.file_key, "/comments")?).json(&body);
        Ok(Json(self.fetch(call).await?))
    }

    #[tool(
        description = "Deletes a comment of the token's user from a Figma file.",
        annotations(
            title = "Delete comment",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn delete_comment(
        &self,
        Parameters(args): Parameters<DeleteComment>,
    ) -> Result<String, String> {
        let rest = format!("/comments/{}", comment_id(&args.comment_id)?);
        self.send(Call::new(Method::DELETE, file_path(&args.file_key, &rest)?))
            .await?;
        Ok(format!("deleted the comment {}", args.comment_id))
    }

    #[tool(
        description = "Lists the reactions to a comment of a Figma file.",
        annotations(
            title = "List reactions",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn list_comment_reactions(
        &self,
        Parameters(args): Parameters<ListReactions>,
    ) -> Result<Json<Reactions>, String> {
        let call = Call::get(reactions_path(&args.file_key, &args.comment_id)?);
        Ok(Json(self.fetch(call).await?))
    }

    #[tool(
        description = "Reacts to a comment of a Figma file with an emoji.",
        annotations(
            title = "Add reaction",
            read_only_hint = false,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn add_comment_reaction(
        &self,
        Parameters(args): Parameters<React>,
    ) -> Result<String, String> {
        let call = Call::new(
            Method::POST,
            reactions_path(&args.file_key, &args.comment_id)?,
        )
        .json(&json!({"emoji": emoji(&args.emoji)?}));
        self.send(call).await?;
        Ok(format!("reacted with {}", args.emoji))
    }

    #[tool(
        description = "Takes back a reaction of the token's user to a comment of a Figma file.",
        annotations(
            title = "Delete reaction",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn delete_comment_reaction(
        &self,
        Parameters(args): Parameters<React>,
    ) -> Result<String, String> {
        let call = Call::new(
            Method::DELETE,
            reactions_path(&args.file_key, &args.comment_id)?,
        )
        .query("emoji", emoji(&args.emoji)?);
        self.send(call).await?;
        Ok(format!("took back {}", args.emoji))
    }
}

/// The path of the reactions to a comment.
fn reactions_path(file_key: &str, comment: &str) -> Result<String, Error> {
    file_path(
        file_key,
        &format!("/comments/{}/reactions", comment_id(comment)?),
    )
}

/// An emoji as Figma names it: `:name:`, with an optional tone of skin.
fn emoji(text: &str) -> Result<&str, Error> {
    let good = (3..=100).contains(&text.len())
        && text.starts_with(':')
        && text.ends_with(':')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b":_+-".contains(&b));
    if good {
        Ok(text)
    } else {
        Err(Error::argument(
            SERVICE,
            "emoji must be a name such as :+1: or :heart:",
        ))
    }
}

/// The id of a comment, ready for a path.
fn comment_id(text: &str) -> Result<&str, Error> {
    let id = text.trim();
    let good = (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
    if good {
        Ok(id)
    } else {
        let message = "commentId must be an id as list_comments gives it";
        Err(Error::argument(SERVICE, message))
    }
}
