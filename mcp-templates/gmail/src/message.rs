//! A message as the Gmail API gives it (`format=full`), read into what a model needs. Pure.

use base64::{
    Engine,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use mail_parser::{
    MessageParser, decoders::charsets::map::charset_decoder, decoders::html::html_to_text,
};
use rmcp::schemars::{self, JsonSchema};
use serde::{Deserialize, Serialize};

/// Gmail writes base64url, mostly without padding.
pub(crate) const BASE64_URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Longest text shown, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 256 * 1024;
/// Nested parts are followed to this depth.
const DEPTH_MAX: usize = 16;

/// A message of the API.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApiMessage {
    id: String,
    thread_id: String,
    #[serde(default)]
    label_ids: Vec<String>,
    snippet: Option<String>,
    payload: Option<Part>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    mime_type: Option<String>,
    filename: Option<String>,
    #[serde(default)]
    headers: Vec<Header>,
    body: Option<PartBody>,
    #[serde(default)]
    parts: Vec<Part>,
}

#[derive(Deserialize)]
struct Header {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PartBody {
    attachment_id: Option<String>,
    #[serde(default)]
    size: u64,
    data: Option<String>,
}

/// The head of a message.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    id: String,
    thread_id: String,
    from: Option<String>,
    to: Option<String>,
    subject: Option<String>,
    date: Option<String>,
    /// The first words.
    snippet: Option<String>,
    /// Ids of its labels.
    label_ids: Vec<String>,
}

/// A whole message.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Email {
    id: String,
    thread_id: String,
    from: Option<String>,
    to: Option<String>,
    cc: Option<String>,
    reply_to: Option<String>,
    subject: Option<String>,
    date: Option<String>,
    /// The Message-ID header, for inReplyTo of a reply.
    message_id_header: Option<String>,
    /// Ids of its labels.
    label_ids: Vec<String>,
    /// The text; made from the HTML when there is only that.
    text: String,
    /// Whether the text was cut because it is too long.
    truncated: bool,
    attachments: Vec<Attachment>,
}

/// An attachment, without its content.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attachment {
    /// Its name; empty where the sender gave none.
    filename: String,
    mime_type: String,
    /// Size in bytes.
    size: u64,
}

impl Part {
    fn header(&self, name: &str) -> Option<String> {
        let header = self
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(decoded_words(&header.value))
    }
}

/// A header value, its encoded words (RFC 2047) decoded.
fn decoded_words(value: &str) -> String {
    if !value.contains("=?") {
        return value.to_owned();
    }
    let line: String = value
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    MessageParser::new()
        .parse(format!("Subject: {line}\r\n\r\n").as_bytes())
        .and_then(|message| message.subject().map(str::to_owned))
        .unwrap_or_else(|| value.to_owned())
}

impl ApiMessage {
    /// The head.
    pub(crate) fn summary(self) -> Summary {
        let header = |name: &str| self.payload.as_ref()?.header(name);
        Summary {
            from: header("From"),
            to: header("To"),
            subject: header("Subject"),
            date: header("Date"),
            id: self.id,
            thread_id: self.thread_id,
            snippet: self.snippet,
            label_ids: self.label_ids,
        }
    }

    /// The whole.
    pub(crate) fn email(self) -> Email {
        let mut texts = Texts::default();
        if let Some(part) = &self.payload {
            texts.collect(part, 0);
        }
        let mut text = if texts.plain.trim().is_empty() {
            html_to_text(&texts.html)
        } else {
            texts.plain
        };
        // Mail ends its lines with CRLF, which says nothing to a model.
        text = text.replace("\r\n", "\n");
        let truncated = text.len() > TEXT_BYTES_MAX;
        if truncated {
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        }
        let header = |name: &str| self.payload.as_ref()?.header(name);
        Email {
            from: header("From"),
            to: header("To"),
            cc: header("Cc"),
            reply_to: header("Reply-To"),
            subject: header("Subject"),
            date: header("Date"),
            message_id_header: header("Message-ID"),
            id: self.id,
            thread_id: self.thread_id,
            label_ids: self.label_ids,
            text,
            truncated,
            attachments: texts.attachments,
        }
    }
}

#[derive(Default)]
struct Texts {
    plain: String,
    html: String,
    attachments: Vec<Attachment>,
}

impl Texts {
    fn collect(&mut self, part: &Part, depth: usize) {
        if depth > DEPTH_MAX {
            return;
        }
        let mime_type = part
            .mime_type
            .as_deref()
            .unwrap_or("text/plain")
            .to_ascii_lowercase();
        let filename = part.filename.as_deref().filter(|name| !name.is_empty());
        // What Gmail keeps apart from the message is told as well where it has no name, such as a forwarded mail.
        if let Some(body) = &part.body
            && (filename.is_some() || body.attachment_id.is_some())
        {
            self.attachments.push(Attachment {
                filename: filename.unwrap_or_default().to_owned(),
                mime_type,
                size: body.size,
            });
            return;
        }
        let data = part.body.as_ref().and_then(|body| body.data.as_deref());
        if let Some(bytes) = data.and_then(|data| BASE64_URL.decode(data.trim()).ok()) {
            let text = decoded_text(&bytes, part.header("Content-Type").as_deref());
            let target = match mime_type.as_str() {
                "text/plain" => Some(&mut self.plain),
                "text/html" => Some(&mut self.html),
                _ => None,
            };
            if let Some(target) = target {
                if !target.is_empty() {
                    target.push('\n');
                }
                target.push_str(&text);
            }
        }
        for part in &part.parts {
            self.collect(part, depth + 1);
        }
    }
}

/// The text of a part: UTF-8 where it is that, else by the charset of its Content-Type.
fn decoded_text(bytes: &[u8], content_type: Option<&str>) -> String {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.to_owned();
    }
    let decoder = content_type
        .and_then(|text| {
            text.split(';').skip(1).find_map(|parameter| {
                let (name, value) = parameter.split_once('=')?;
                name.trim()
                    .eq_ignore_ascii_case("charset")
                    .then(|| value.trim().trim_matches('"').to_owned())
            })
        })
        .and_then(|charset| charset_decoder(charset.as_bytes()));
    match decoder {
        Some(decode) => decode(bytes),
        None => String::from_utf8_lossy(bytes).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(payload: Value) -> Email {
        let message = json!({"id": "1", "threadId": "t", "payload": payload});
        let message: ApiMessage = serde_json::from_value(message).expect("the API's shape");
        message.email()
    }

    #[test]
    fn the_plain_text_goes_before_html() {
        let email = read(json!({
            "mimeType": "multipart/mixed",
            "headers": [{"name": "subject", "value": "=?UTF-8?Q?Gr=C3=BC=C3=9Fe?="}],
            "parts": [
                {"mimeType": "multipart/alternative", "parts": [
                    {"mimeType": "text/plain", "body": {"size": 2, "data": "aGk"}},
                    {"mimeType": "text/html", "body": {"size": 9, "data": "PGI-aGk8L2I-"}},
                ]},
                {"mimeType": "application/pdf", "filename": "a.pdf", "body": {"attachmentId": "A", "size": 7}},
            ],
        }));
        assert_eq!(
            (email.text.as_str(), email.subject.as_deref()),
            ("hi", Some("Grüße"))
        );
        assert_eq!(email.attachments.len(), 1);
        assert_eq!(
            (
                email.attachments[0].filename.as_str(),
                email.attachments[0].size
            ),
            ("a.pdf", 7)
        );
    }

    #[test]
    fn html_becomes_text_and_charsets_are_honoured() {
        let html = BASE64_URL.encode("<p>a &amp; b</p>");
        let email = read(json!({"mimeType": "text/html", "body": {"size": 1, "data": html}}));
        assert_eq!(email.text.trim(), "a & b");
        let latin = BASE64_URL.encode(b"gr\xfc\xdfe");
        let email = read(json!({
            "mimeType": "text/plain",
            "headers": [{"name": "Content-Type", "value": "text/plain; charset=\"ISO-8859-1\""}],
            "body": {"size": 5, "data": latin},
        }));
        assert_eq!(email.text, "grüße");
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let data = BASE64_URL.encode("ü".repeat(TEXT_BYTES_MAX));
        let email = read(json!({"mimeType": "text/plain", "body": {"size": 1, "data": data}}));
        assert_eq!((email.text.len(), email.truncated), (TEXT_BYTES_MAX, true));
    }
}
