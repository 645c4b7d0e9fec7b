//! Tools that send, and how a message gets to Gmail.

use base64::Engine;
use minimcp_rest::{Call, Error, HeaderValue, Method, step};
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
    compose::{Compose, File, NewAttachment, Outgoing},
    mime::BASE64_URL,
    reply::{Forward, Original, Reply},
    scopes::Need,
    server::{SERVICE, mailbox_path, message_path},
};

/// Messages up to this go as base64 within JSON; Gmail takes larger ones only as uploads. In bytes.
const INLINE_BYTES_MAX: usize = 3 << 20;

/// A message after the change.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Written {
    pub(crate) id: String,
    pub(crate) thread_id: String,
    /// Ids of its labels.
    #[serde(default)]
    label_ids: Vec<String>,
    /// The id of the draft, when it was kept as one.
    draft_id: Option<String>,
}

/// A draft of the API.
#[derive(Deserialize)]
pub(crate) struct ApiDraft {
    pub(crate) id: String,
    pub(crate) message: Written,
}

impl From<ApiDraft> for Written {
    fn from(draft: ApiDraft) -> Self {
        Self {
            draft_id: Some(draft.id),
            ..draft.message
        }
    }
}

#[tool_router(router = send_tools, vis = "pub(crate)")]
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
        let outgoing = self.outgoing(args, Need::Send).await?;
        Ok(Json(self.deliver(outgoing, false).await?))
    }

    #[tool(
        description = "Answers an email within its thread, to its sender or to all, at once or as a draft. Ask the \
                       user before you send.",
        annotations(
            title = "Reply to email",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = false,
            open_world_hint = true
        )
    )]
    async fn reply_to_email(
        &self,
        Parameters(args): Parameters<Reply>,
    ) -> Result<Json<Written>, String> {
        let as_draft = args.as_draft;
        let files = self.files(&args.attachments).await?;
        let original = self.original(&args.message_id).await?;
        let me = self.own_address().await?;
        let mut outgoing = args.into_outgoing(&original, &me)?;
        outgoing.files = files;
        Ok(Json(self.deliver(outgoing, as_draft).await?))
    }

    #[tool(
        description = "Forwards an email with its attachments, at once or as a draft. Ask the user before you send.",
        annotations(
            title = "Forward email",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = false,
            open_world_hint = true
        )
    )]
    async fn forward_email(
        &self,
        Parameters(args): Parameters<Forward>,
    ) -> Result<Json<Written>, String> {
        let as_draft = args.as_draft;
        let original = self.original(&args.message_id).await?;
        let mut files = self.files(&args.attachments).await?;
        if args.with_attachments {
            let wanted: Vec<NewAttachment> = original.attachments(&args.message_id);
            files.extend(self.files(&wanted).await?);
        }
        let mut outgoing = args.into_outgoing(&original)?;
        outgoing.files = files;
        Ok(Json(self.deliver(outgoing, as_draft).await?))
    }
}

impl Gmail {
    /// Checks a message and fetches what it attaches from other emails.
    pub(crate) async fn outgoing(
        &self,
        mut compose: Compose,
        need: Need,
    ) -> Result<Outgoing, Error> {
        let attachments = std::mem::take(&mut compose.attachments);
        // What can be refused is refused before anything is fetched.
        for attachment in &attachments {
            attachment.given()?;
        }
        let mut outgoing = compose.into_outgoing()?;
        self.check_consent(need).await?;
        outgoing.files = self.files(&attachments).await?;
        Ok(outgoing)
    }

    /// The files to attach: those given, and those fetched from other emails.
    async fn files(&self, attachments: &[NewAttachment]) -> Result<Vec<File>, Error> {
        let total = u32::try_from(attachments.len()).unwrap_or(u32::MAX);
        let mut files = Vec::new();
        for (done, attachment) in (0..).zip(attachments) {
            if let Some(file) = attachment.given()? {
                files.push(file);
                continue;
            }
            let (Some(message_id), Some(part_id)) = (&attachment.message_id, &attachment.part_id)
            else {
                continue;
            };
            step(done, total, "fetching an attachment");
            let content = self.attachment(message_id, part_id).await?;
            let named = attachment.filename.clone().unwrap_or(content.filename);
            let file = File {
                filename: if named.is_empty() {
                    "attachment".to_owned()
                } else {
                    named.replace(['/', '\\'], "_")
                },
                mime_type: attachment.mime_type.clone().unwrap_or(content.mime_type),
                bytes: content.bytes,
            };
            file.check()?;
            files.push(file);
        }
        Ok(files)
    }

    async fn original(&self, message_id: &str) -> Result<Original, Error> {
        let call = Call::get(message_path(message_id, "")?).query("format", "full");
        Ok(Original::new(self.message(call).await?))
    }

    /// Sends a message, or keeps it as a draft.
    pub(crate) async fn deliver(
        &self,
        outgoing: Outgoing,
        as_draft: bool,
    ) -> Result<Written, Error> {
        if as_draft {
            let call = message_call(Method::POST, "/drafts", outgoing, true)?;
            let draft: ApiDraft = self.fetch(Need::WriteDrafts, call).await?;
            return Ok(draft.into());
        }
        let call = message_call(Method::POST, "/messages/send", outgoing, false)?;
        self.fetch(Need::Send, call).await
    }
}

/// The call that gives Gmail a message: within JSON, or as an upload where it is large.
pub(crate) fn message_call(
    method: Method,
    rest: &str,
    outgoing: Outgoing,
    is_draft: bool,
) -> Result<Call, Error> {
    let (mime, thread_id) = outgoing.into_mime()?;
    let mut message = json!({});
    if let Some(thread) = thread_id {
        message["threadId"] = json!(thread);
    }
    let wrapped = |message: Value| {
        if is_draft {
            json!({"message": message})
        } else {
            message
        }
    };
    if mime.len() <= INLINE_BYTES_MAX {
        message["raw"] = json!(BASE64_URL.encode(mime));
        return Ok(Call::new(method, mailbox_path(rest)).json(&wrapped(message)));
    }
    let boundary = boundary_beside(&mime);
    let content_type = HeaderValue::from_str(&format!("multipart/related; boundary={boundary}"))
        .map_err(|_| Error::argument(SERVICE, "the message cannot be uploaded"))?;
    let head = format!(
        "--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{}\r\n--{boundary}\r\n\
         Content-Type: message/rfc822\r\n\r\n",
        wrapped(message)
    );
    let mut body = head.into_bytes();
    body.extend_from_slice(&mime);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    Ok(Call::new(method, format!("/upload{}", mailbox_path(rest)))
        .query("uploadType", "multipart")
        .bytes(content_type, body))
}

/// A boundary that does not occur in `mime`.
fn boundary_beside(mime: &[u8]) -> String {
    let mut boundary = "minimcp".to_owned();
    while mime
        .windows(boundary.len())
        .any(|window| window == boundary.as_bytes())
    {
        boundary.push_str("-x");
    }
    boundary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_is_never_part_of_what_it_bounds() {
        assert_eq!(boundary_beside(b"hello"), "minimcp");
        let boundary = boundary_beside(b"--minimcp-x-x--");
        assert!(!"--minimcp-x-x--".contains(&boundary), "{boundary}");
    }
}
