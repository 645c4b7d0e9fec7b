//! Attachments: as resources of MCP, and as a tool for clients whose models cannot read resources.

use base64::{Engine, engine::general_purpose::STANDARD};
use minimcp_rest::{Call, Error, Trouble};
use rmcp::{
    handler::server::wrapper::Parameters,
    model::{CallToolResult, ContentBlock, ResourceContents, ResourceTemplate},
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};

use crate::{
    Gmail,
    message::{ApiMessage, Part, PartBody},
    mime::{body_bytes, decoded_text},
    scopes::Need,
    server::{SERVICE, advise, message_path},
};

/// The largest attachment handed out, in bytes; in base64 it still fits the lines of MCP over stdio.
pub(crate) const ATTACHMENT_BYTES_MAX: usize = 10 << 20;

/// An attachment, without its content.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attachment {
    /// Its name; empty where the sender gave none.
    pub(crate) filename: String,
    pub(crate) mime_type: String,
    /// Size in bytes.
    pub(crate) size: u64,
    /// Its place in the message, for download_attachment.
    pub(crate) part_id: String,
    /// The resource that holds its content.
    pub(crate) uri: String,
}

/// An attachment with its content.
pub(crate) struct Content {
    pub(crate) filename: String,
    pub(crate) mime_type: String,
    pub(crate) bytes: Vec<u8>,
    content_type: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Download {
    /// The id of the message, as search_emails gives it.
    message_id: String,
    /// The partId of the attachment, as read_email gives it.
    part_id: String,
}

/// What was downloaded; the content itself stands in the resource beside it.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Downloaded {
    filename: String,
    mime_type: String,
    /// Size in bytes.
    size: usize,
    uri: String,
}

/// The address of an attachment as a resource. Gmail's own ids of attachments change from answer to answer.
pub(crate) fn uri(message_id: &str, part_id: &str) -> String {
    format!("gmail://messages/{message_id}/parts/{part_id}")
}

/// The ids of message and part in such an address.
pub(crate) fn ids(uri: &str) -> Option<(&str, &str)> {
    let (message, part) = uri
        .strip_prefix("gmail://messages/")?
        .split_once("/parts/")?;
    (!message.is_empty() && !message.contains('/') && is_part_id(part)).then_some((message, part))
}

/// The shape of all addresses of attachments.
pub(crate) fn template() -> ResourceTemplate {
    ResourceTemplate::new("gmail://messages/{messageId}/parts/{partId}", "attachment")
        .with_title("Attachment of an email")
        .with_description("The content of an attachment; read_email gives the addresses.")
}

/// Part ids are numbers with dots; the part of a mail that is one attachment as a whole has the empty id.
fn is_part_id(text: &str) -> bool {
    text.len() <= 64 && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

impl Content {
    /// The content as MCP has it: text as text, the rest in base64.
    pub(crate) fn into_resource(self, uri: &str) -> ResourceContents {
        let is_text = self.mime_type.starts_with("text/") || self.mime_type == "application/json";
        let contents = if is_text {
            let text = decoded_text(&self.bytes, self.content_type.as_deref());
            ResourceContents::text(text, uri)
        } else {
            ResourceContents::blob(STANDARD.encode(&self.bytes), uri)
        };
        contents.with_mime_type(self.mime_type)
    }
}

#[tool_router(router = attachment_tools, vis = "pub(crate)")]
impl Gmail {
    #[tool(
        description = "Downloads an attachment of an email, at most 10 MiB: text as text, everything else in base64.",
        output_schema = rmcp::handler::server::tool::schema_for_output::<Downloaded>(),
        annotations(
            title = "Download attachment",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn download_attachment(
        &self,
        Parameters(args): Parameters<Download>,
    ) -> Result<CallToolResult, String> {
        let content = self.attachment(&args.message_id, &args.part_id).await?;
        let uri = uri(&args.message_id, &args.part_id);
        let downloaded = Downloaded {
            filename: content.filename.clone(),
            mime_type: content.mime_type.clone(),
            size: content.bytes.len(),
            uri: uri.clone(),
        };
        let mut result = CallToolResult::structured(
            serde_json::to_value(downloaded).map_err(|error| error.to_string())?,
        );
        result
            .content
            .push(ContentBlock::resource(content.into_resource(&uri)));
        Ok(result)
    }
}

impl Gmail {
    /// Fetches the content of an attachment.
    pub(crate) async fn attachment(
        &self,
        message_id: &str,
        part_id: &str,
    ) -> Result<Content, Error> {
        if !is_part_id(part_id) {
            let message = "partId must be the partId of an attachment as read_email gives it";
            return Err(Error::argument(SERVICE, message));
        }
        let call = Call::get(message_path(message_id, "")?).query("format", "full");
        let message: ApiMessage = self.fetch(Need::Read, call).await?;
        let part = message
            .payload
            .as_ref()
            .and_then(|payload| payload.find(part_id, 0))
            .ok_or_else(|| {
                let message = "The email has no such part: read_email lists its attachments";
                Error::argument(SERVICE, message)
            })?;
        self.content(message_id, part).await
    }

    /// The content of `part`, fetched apart where Gmail keeps it apart.
    async fn content(&self, message_id: &str, part: &Part) -> Result<Content, Error> {
        let too_large = || {
            let mut error = Error::new(SERVICE, Trouble::TooLarge(ATTACHMENT_BYTES_MAX));
            error.advice = advise(&error.failure);
            error
        };
        let malformed = || Error::new(SERVICE, Trouble::Malformed);
        let body = part.body.as_ref().ok_or_else(malformed)?;
        if body.size > ATTACHMENT_BYTES_MAX as u64 {
            return Err(too_large());
        }
        let bytes = match (&body.data, &body.attachment_id) {
            (Some(data), _) => body_bytes(data).ok_or_else(malformed)?,
            (None, Some(id)) => self.attachment_bytes(message_id, id).await?,
            (None, None) => Vec::new(),
        };
        if bytes.len() > ATTACHMENT_BYTES_MAX {
            return Err(too_large());
        }
        Ok(Content {
            filename: part.file_name(),
            mime_type: part.media_type(),
            bytes,
            content_type: part.raw_header("Content-Type").map(str::to_owned),
        })
    }

    /// Fetches what Gmail keeps under `attachment_id`, as an answer of just now gave it.
    pub(crate) async fn attachment_bytes(
        &self,
        message_id: &str,
        attachment_id: &str,
    ) -> Result<Vec<u8>, Error> {
        let rest = format!("/attachments/{}", minimcp_rest::path_segment(attachment_id));
        let call = Call::get(message_path(message_id, &rest)?);
        let body: PartBody = self.fetch(Need::Read, call).await?;
        body.data
            .as_deref()
            .and_then(body_bytes)
            .ok_or_else(|| Error::new(SERVICE, Trouble::Malformed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gives_its_ids_back_and_nothing_else_is_one() {
        assert_eq!(ids(&uri("18f1", "0.1")), Some(("18f1", "0.1")));
        assert_eq!(ids(&uri("18f1", "")), Some(("18f1", "")));
        for bad in [
            "gmail://messages//parts/1",
            "gmail://messages/a/b/parts/1",
            "gmail://messages/a/parts/1/..",
            "gmail://messages/a",
            "file:///etc/passwd",
        ] {
            assert_eq!(ids(bad), None, "{bad}");
        }
    }
}
