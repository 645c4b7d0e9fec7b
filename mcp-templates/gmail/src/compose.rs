//! A message as MIME, from what a tool is told. Pure but for the date and the boundaries that the builder makes.

use base64::{
    Engine,
    alphabet::STANDARD as STANDARD_ALPHABET,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use mail_builder::{MessageBuilder, headers::message_id::MessageId};
use minimcp_rest::Error;
use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;

use crate::{mime::is_message_id, server::SERVICE};

/// Texts beyond this are surely a mistake, in bytes.
const BODY_BYTES_MAX: usize = 5 << 20;
/// Gmail's own limit of a message, in bytes.
const MIME_BYTES_MAX: usize = 36_700_160;
const RECIPIENTS_MAX: usize = 100;
const ATTACHMENTS_MAX: usize = 50;
const SUBJECT_BYTES_MAX: usize = 1_000;

/// Base64 as models write it: with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD_ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A message to send or to keep as a draft.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Compose {
    /// Who receives it: addresses such as `ann@example.com` or `Ann <ann@example.com>`.
    to: Vec<String>,
    /// The subject.
    subject: String,
    /// The text.
    body: String,
    /// The same as HTML, for readers that show it.
    html_body: Option<String>,
    /// Who receives a copy.
    #[serde(default)]
    cc: Vec<String>,
    /// Who receives a copy unseen.
    #[serde(default)]
    bcc: Vec<String>,
    /// Where answers shall go, if not to the account itself.
    #[serde(default)]
    reply_to: Vec<String>,
    /// The thread it belongs to; the subject must then be that of the thread. reply_to_email does this by itself.
    thread_id: Option<String>,
    /// The messageIdHeader of the message it replies to.
    in_reply_to: Option<String>,
    /// Files to attach.
    #[serde(default)]
    pub(crate) attachments: Vec<NewAttachment>,
}

/// A file to attach: exactly one of content, text and messageId with partId.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct NewAttachment {
    /// The name that the reader sees; for an attachment of another email its own name when absent.
    pub(crate) filename: Option<String>,
    /// The media type, such as application/pdf; found out from what it is when absent.
    pub(crate) mime_type: Option<String>,
    /// The content in base64.
    pub(crate) content: Option<String>,
    /// The content as text.
    pub(crate) text: Option<String>,
    /// The email that holds the file already, as search_emails gives it.
    pub(crate) message_id: Option<String>,
    /// The partId of the file in that email, as read_email gives it.
    pub(crate) part_id: Option<String>,
}

/// A file, ready to be attached.
pub(crate) struct File {
    pub(crate) filename: String,
    pub(crate) mime_type: String,
    pub(crate) bytes: Vec<u8>,
}

/// A person: name, which may be empty, and address.
pub(crate) type Person = (String, String);

/// A message before it is written as MIME.
#[derive(Default)]
pub(crate) struct Outgoing {
    pub(crate) to: Vec<Person>,
    pub(crate) cc: Vec<Person>,
    pub(crate) bcc: Vec<Person>,
    pub(crate) reply_to: Vec<Person>,
    pub(crate) subject: String,
    pub(crate) text: String,
    pub(crate) html: Option<String>,
    /// Message ids without brackets, oldest first.
    pub(crate) references: Vec<String>,
    pub(crate) in_reply_to: Option<String>,
    pub(crate) thread_id: Option<String>,
    pub(crate) files: Vec<File>,
}

fn refuse<T>(message: impl Into<String>) -> Result<T, Error> {
    Err(Error::argument(SERVICE, message))
}

impl Compose {
    /// A message to these people, still empty.
    pub(crate) fn addressed(to: Vec<String>, cc: Vec<String>, bcc: Vec<String>) -> Self {
        Self {
            to,
            cc,
            bcc,
            subject: String::new(),
            body: String::new(),
            html_body: None,
            reply_to: Vec::new(),
            thread_id: None,
            in_reply_to: None,
            attachments: Vec::new(),
        }
    }

    /// Checks everything but the attachments, which may have to be fetched first.
    pub(crate) fn into_outgoing(self) -> Result<Outgoing, Error> {
        let mut outgoing = Outgoing {
            to: addresses(&self.to)?,
            cc: addresses(&self.cc)?,
            bcc: addresses(&self.bcc)?,
            reply_to: addresses(&self.reply_to)?,
            subject: self.subject,
            text: self.body,
            html: self.html_body,
            thread_id: self.thread_id,
            ..Outgoing::default()
        };
        if let Some(id) = self.in_reply_to {
            let id = id.trim().trim_start_matches('<').trim_end_matches('>');
            if !is_message_id(id) {
                return refuse("inReplyTo must be a messageIdHeader as read_email gives it");
            }
            outgoing.references = vec![id.to_owned()];
            outgoing.in_reply_to = Some(id.to_owned());
        }
        outgoing.check()?;
        Ok(outgoing)
    }
}

impl NewAttachment {
    /// The file, if its content is given here; `None` when it has to be fetched from another email.
    pub(crate) fn given(&self) -> Result<Option<File>, Error> {
        let sources = [
            self.content.is_some(),
            self.text.is_some(),
            self.message_id.is_some(),
        ];
        if sources.iter().filter(|given| **given).count() != 1
            || self.message_id.is_some() != self.part_id.is_some()
        {
            return refuse(
                "an attachment needs exactly one of content, text, and messageId with partId",
            );
        }
        let (bytes, usual_type) = match (&self.content, &self.text) {
            (Some(content), _) => {
                let bare: String = content.split_whitespace().collect();
                let Ok(bytes) = BASE64.decode(bare) else {
                    return refuse("content of an attachment must be base64 (RFC 4648 section 4)");
                };
                (bytes, "application/octet-stream")
            }
            (None, Some(text)) => (text.clone().into_bytes(), "text/plain"),
            (None, None) => return Ok(None),
        };
        let Some(filename) = self.filename.clone() else {
            return refuse("an attachment needs a filename");
        };
        let mime_type = self
            .mime_type
            .clone()
            .unwrap_or_else(|| usual_type.to_owned());
        let file = File {
            filename,
            mime_type,
            bytes,
        };
        file.check()?;
        Ok(Some(file))
    }
}

impl File {
    /// Whether name and type may stand in a header.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let name = self.filename.as_str();
        if !(1..=255).contains(&name.len())
            || name
                .chars()
                .any(|c| c.is_control() || matches!(c, '/' | '\\'))
        {
            return refuse("filename must be a name of 1 to 255 bytes without slashes");
        }
        let token = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
        };
        let good = self.mime_type.len() <= 127
            && self
                .mime_type
                .split_once('/')
                .is_some_and(|(kind, subtype)| {
                    token(kind) && token(subtype) && kind != "multipart"
                });
        if good {
            Ok(())
        } else {
            refuse("mimeType must be a media type such as application/pdf, without parameters")
        }
    }
}

impl Outgoing {
    /// Whether it may be sent, its files aside.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let recipients = self.to.len() + self.cc.len() + self.bcc.len();
        if recipients == 0 || recipients > RECIPIENTS_MAX {
            return refuse("to, cc and bcc must hold 1 to 100 addresses together");
        }
        if self.subject.chars().any(char::is_control) || self.subject.len() > SUBJECT_BYTES_MAX {
            return refuse("subject must be one line of at most 1000 bytes");
        }
        if self.text.len() + self.html.as_ref().map_or(0, String::len) > BODY_BYTES_MAX {
            return refuse("body and htmlBody must be at most 5 MiB together");
        }
        Ok(())
    }

    /// The message as MIME, and the thread it belongs to. Gmail adds From and Message-ID.
    pub(crate) fn into_mime(self) -> Result<(Vec<u8>, Option<String>), Error> {
        self.check()?;
        if self.files.len() > ATTACHMENTS_MAX {
            return refuse("there must be at most 50 attachments");
        }
        let mut message = MessageBuilder::new()
            .subject(self.subject)
            .text_body(self.text);
        if !self.to.is_empty() {
            message = message.to(self.to);
        }
        if !self.cc.is_empty() {
            message = message.cc(self.cc);
        }
        if !self.bcc.is_empty() {
            message = message.bcc(self.bcc);
        }
        if !self.reply_to.is_empty() {
            message = message.reply_to(self.reply_to);
        }
        if let Some(html) = self.html {
            message = message.html_body(html);
        }
        if let Some(id) = self.in_reply_to {
            message = message.in_reply_to(id);
        }
        if !self.references.is_empty() {
            message = message.references(MessageId::new_list(self.references.into_iter()));
        }
        for file in self.files {
            message = message.attachment(file.mime_type, file.filename, file.bytes);
        }
        let mime = message
            .write_to_vec()
            .map_err(|_| Error::argument(SERVICE, "the message cannot be written as MIME"))?;
        if mime.len() > MIME_BYTES_MAX {
            return refuse(
                "the message with its attachments is larger than the 35 MiB that Gmail takes",
            );
        }
        Ok((without_message_id(mime), self.thread_id))
    }
}

/// The builder always makes a Message-ID, of this machine's name; Gmail makes a better one where there is none.
fn without_message_id(mut mime: Vec<u8>) -> Vec<u8> {
    let mut start = 0;
    while let Some(length) = mime[start..].windows(2).position(|pair| pair == b"\r\n") {
        let end = start + length + 2;
        if length == 0 {
            break;
        }
        if mime[start..end].starts_with(b"Message-ID:") {
            mime.drain(start..end);
            break;
        }
        start = end;
    }
    mime
}

/// Addresses as the builder takes them.
fn addresses(texts: &[String]) -> Result<Vec<Person>, Error> {
    texts
        .iter()
        .map(|text| {
            address(text).ok_or_else(|| {
                let message =
                    "each recipient must be an address such as ann@example.com or Ann <ann@example.com>";
                Error::argument(SERVICE, message)
            })
        })
        .collect()
}

fn address(text: &str) -> Option<Person> {
    if text.chars().any(char::is_control) {
        return None;
    }
    let (name, address) = match text
        .trim()
        .strip_suffix('>')
        .and_then(|text| text.rsplit_once('<'))
    {
        Some((name, address)) => (name.trim().trim_matches('"').to_owned(), address.trim()),
        None => (String::new(), text.trim()),
    };
    let (local, domain) = address.rsplit_once('@')?;
    let good = !local.is_empty()
        && !domain.is_empty()
        && address.len() <= 320
        && name.len() <= 300
        && !local.contains('@')
        && !address.contains(['<', '>', ',', ';', '"', ' ', '(', ')']);
    good.then(|| (name, address.to_owned()))
}

#[cfg(test)]
#[path = "compose_tests.rs"]
mod tests;
