//! A message as the Gmail API gives it, read into what a model needs. Pure.

use rmcp::schemars::{self, JsonSchema};
use serde::{Deserialize, Serialize};

use crate::{
    attachment::{Attachment, uri},
    mime::{body_bytes, decoded_text, decoded_words, file_name, html_as_text},
};

/// Longest text shown of one message, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 256 * 1024;
/// Nested parts are followed to this depth.
const DEPTH_MAX: usize = 32;

/// A message of the API.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApiMessage {
    pub(crate) id: String,
    pub(crate) thread_id: String,
    #[serde(default)]
    label_ids: Vec<String>,
    snippet: Option<String>,
    pub(crate) payload: Option<Part>,
}

/// A part of a message (MIME), or the whole of it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Part {
    #[serde(default)]
    pub(crate) part_id: String,
    mime_type: Option<String>,
    filename: Option<String>,
    #[serde(default)]
    headers: Vec<Header>,
    pub(crate) body: Option<PartBody>,
    #[serde(default)]
    parts: Vec<Part>,
}

#[derive(Deserialize)]
struct Header {
    name: String,
    value: String,
}

/// The content of a part, or where it lies.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PartBody {
    pub(crate) attachment_id: Option<String>,
    #[serde(default)]
    pub(crate) size: u64,
    pub(crate) data: Option<String>,
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
    pub(crate) id: String,
    pub(crate) thread_id: String,
    pub(crate) from: Option<String>,
    pub(crate) to: Option<String>,
    pub(crate) cc: Option<String>,
    pub(crate) reply_to: Option<String>,
    pub(crate) subject: Option<String>,
    pub(crate) date: Option<String>,
    /// The Message-ID header, for inReplyTo of a reply.
    pub(crate) message_id_header: Option<String>,
    /// Ids of its labels.
    label_ids: Vec<String>,
    /// The text; made from the HTML when there is only that.
    pub(crate) text: String,
    /// Whether the text was cut because it is too long.
    truncated: bool,
    pub(crate) attachments: Vec<Attachment>,
}

impl Part {
    /// The value of a header as it came; names do not tell case apart.
    pub(crate) fn raw_header(&self, name: &str) -> Option<&str> {
        let header = self
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(&header.value)
    }

    /// The value of a header on one line, decoded.
    fn header(&self, name: &str) -> Option<String> {
        self.raw_header(name).map(decoded_words)
    }

    /// The media type, lower case, without parameters.
    pub(crate) fn media_type(&self) -> String {
        let declared = self.mime_type.as_deref().unwrap_or("text/plain");
        let bare = declared.split(';').next().unwrap_or_default().trim();
        bare.to_ascii_lowercase()
    }

    /// The name of the file that the part holds; empty where the sender gave none.
    pub(crate) fn file_name(&self) -> String {
        file_name(
            self.filename.as_deref(),
            self.raw_header("Content-Disposition"),
            self.raw_header("Content-Type"),
        )
    }

    /// Whether the part is a file beside the text, rather than the text itself.
    fn is_attachment(&self) -> bool {
        let declared = self.raw_header("Content-Disposition").is_some_and(|value| {
            value
                .trim_start()
                .to_ascii_lowercase()
                .starts_with("attachment")
        });
        let body = self.body.as_ref();
        let apart = body.is_some_and(|body| body.attachment_id.is_some());
        let has_data = body.is_some_and(|body| body.data.is_some() || body.size > 0);
        // A long text is kept apart as well, but has no name.
        let text = matches!(self.media_type().as_str(), "text/plain" | "text/html");
        declared || (apart && !text) || ((apart || has_data) && !self.file_name().is_empty())
    }

    /// The part with this id, within this one.
    pub(crate) fn find(&self, part_id: &str, depth: usize) -> Option<&Self> {
        if self.part_id == part_id {
            return Some(self);
        }
        if depth > DEPTH_MAX {
            return None;
        }
        self.parts
            .iter()
            .find_map(|part| part.find(part_id, depth + 1))
    }

    /// The ids of the attachments under which long texts lie, that are the message's text and not files.
    pub(crate) fn texts_kept_apart(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        self.collect_texts_kept_apart(&mut found, 0);
        found
    }

    fn collect_texts_kept_apart(&self, found: &mut Vec<(String, String)>, depth: usize) {
        if depth > DEPTH_MAX || self.is_attachment() {
            return;
        }
        let body = self.body.as_ref();
        if let Some(id) = body
            .filter(|body| body.data.is_none())
            .and_then(|body| body.attachment_id.clone())
        {
            found.push((self.part_id.clone(), id));
        }
        for part in &self.parts {
            part.collect_texts_kept_apart(found, depth + 1);
        }
    }

    /// Puts the data of a text that was fetched apart where it belongs.
    pub(crate) fn put_data(&mut self, part_id: &str, data: &str) {
        if self.part_id == part_id {
            if let Some(body) = &mut self.body {
                body.data = Some(data.to_owned());
            }
            return;
        }
        for part in &mut self.parts {
            part.put_data(part_id, data);
        }
    }
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
            texts.collect(part, &self.id, 0);
        }
        let mut text = if texts.plain.trim().is_empty() {
            html_as_text(&texts.html)
        } else {
            // Mail ends its lines with CRLF, which says nothing to a model.
            texts.plain.replace("\r\n", "\n")
        };
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
    fn collect(&mut self, part: &Part, message_id: &str, depth: usize) {
        if depth > DEPTH_MAX {
            return;
        }
        let media_type = part.media_type();
        if part.is_attachment() {
            self.attachments.push(Attachment {
                filename: part.file_name(),
                size: part.body.as_ref().map_or(0, |body| body.size),
                uri: uri(message_id, &part.part_id),
                part_id: part.part_id.clone(),
                mime_type: media_type,
            });
            // A mail within the mail: its own files are reached by reading the attachment.
            return;
        }
        let data = part.body.as_ref().and_then(|body| body.data.as_deref());
        if let Some(bytes) = data.and_then(body_bytes) {
            let target = match media_type.as_str() {
                "text/plain" => Some(&mut self.plain),
                "text/html" => Some(&mut self.html),
                _ => None,
            };
            if let Some(target) = target {
                if !target.is_empty() {
                    target.push('\n');
                }
                target.push_str(&decoded_text(&bytes, part.raw_header("Content-Type")));
            }
        }
        if media_type == "multipart/alternative" {
            self.collect_alternatives(&part.parts, message_id, depth);
        } else {
            for part in &part.parts {
                self.collect(part, message_id, depth + 1);
            }
        }
    }

    /// Of alternatives (RFC 2046 section 5.1.4) only one is read: HTML must not stand below its own plain text.
    fn collect_alternatives(&mut self, parts: &[Part], message_id: &str, depth: usize) {
        let mut both = Self::default();
        for part in parts {
            both.collect(part, message_id, depth + 1);
        }
        self.attachments.append(&mut both.attachments);
        let (plain, html) = (both.plain, both.html);
        let chosen = if plain.trim().is_empty() && !html.is_empty() {
            html_as_text(&html)
        } else {
            plain
        };
        if !self.plain.is_empty() && !chosen.is_empty() {
            self.plain.push('\n');
        }
        self.plain.push_str(&chosen);
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use serde_json::{Value, json};

    use super::*;
    use crate::mime::BASE64_URL;

    fn read(payload: Value) -> Email {
        let message = json!({"id": "1", "threadId": "t", "payload": payload});
        let message: ApiMessage = serde_json::from_value(message).expect("the API's shape");
        message.email()
    }

    fn text_part(content_type: &str, bytes: &[u8]) -> Value {
        let bare = content_type.split(';').next();
        json!({"partId": "0", "mimeType": bare, "filename": "",
               "headers": [{"name": "Content-Type", "value": content_type}],
               "body": {"size": bytes.len(), "data": BASE64_URL.encode(bytes)}})
    }

    #[test]
    fn charsets_are_honoured() {
        for (content_type, bytes, expected) in [
            (
                "text/plain; charset=\"ISO-8859-1\"",
                &b"gr\xfc\xdfe"[..],
                "grüße",
            ),
            (
                "text/plain; charset=windows-1252",
                b"\x93q\x94 \x80",
                "“q” €",
            ),
            (
                "text/plain; charset=windows-1251",
                b"\xcf\xf0\xe8\xe2\xe5\xf2",
                "Привет",
            ),
            ("text/plain; charset=windows-1250", b"\x9e\xe1ba", "žába"),
            (
                "text/plain; charset=koi8-r",
                b"\xf0\xd2\xc9\xd7\xc5\xd4",
                "Привет",
            ),
            (
                "text/plain; format=flowed; charset=ISO-2022-JP",
                b"\x1b$B$3$s$K$A$O\x1b(B!",
                "こんにちは!",
            ),
            (
                "text/plain; charset=Shift_JIS",
                b"\x83e\x83X\x83g",
                "テスト",
            ),
            ("text/plain; charset=EUC-KR", b"\xc7\xd1\xb1\xdb", "한글"),
            ("text/plain; charset=gb2312", b"\xc4\xe3\xba\xc3", "你好"),
            ("text/plain; charset=big5", b"\xa7A\xa6n", "你好"),
            // Gmail has made it UTF-8 already, and left the head as it was.
            (
                "text/plain; charset=ISO-2022-JP",
                "こんにちは".as_bytes(),
                "こんにちは",
            ),
            ("text/plain; charset=unheard-of", b"a\xff", "a\u{fffd}"),
            ("text/plain", "\u{feff}bom".as_bytes(), "bom"),
        ] {
            assert_eq!(
                read(text_part(content_type, bytes)).text,
                expected,
                "{content_type}"
            );
        }
    }

    #[test]
    fn of_alternatives_one_is_read_and_mixed_parts_all() {
        let alternative = |plain: &str, html: &str| {
            json!({"partId": "0", "mimeType": "multipart/alternative", "body": {"size": 0}, "parts": [
                text_part("text/plain", plain.as_bytes()), text_part("text/html", html.as_bytes())]})
        };
        let email = read(
            json!({"mimeType": "multipart/mixed", "body": {"size": 0}, "parts": [
                {"mimeType": "multipart/related", "body": {"size": 0}, "parts": [
                    alternative("plain", "<b>rich</b>"),
                    {"partId": "0.1", "mimeType": "image/png", "filename": "logo.png",
                     "body": {"attachmentId": "A", "size": 7}},
                ]},
                text_part("text/plain", b"footer of the list"),
            ]}),
        );
        assert_eq!(email.text, "plain\nfooter of the list");
        assert_eq!(email.attachments.len(), 1);
        let email = read(alternative(
            " \r\n",
            "<p>only &amp; rich</p><ul><li>one</li></ul>",
        ));
        assert!(
            email.text.starts_with("only & rich") && email.text.contains("one"),
            "{}",
            email.text
        );
    }

    #[test]
    fn names_of_files_are_read_in_every_spelling() {
        for (filename, headers, expected) in [
            ("plan.pdf", json!([]), "plan.pdf"),
            ("=?UTF-8?Q?Gr=C3=BC=C3=9Fe.pdf?=", json!([]), "Grüße.pdf"),
            (
                "",
                json!([{"name": "Content-Disposition",
                        "value": "attachment; filename*=UTF-8''%e2%82%ac%20rates.pdf"}]),
                "€ rates.pdf",
            ),
            (
                "",
                json!([{"name": "Content-Disposition", "value":
                    "attachment;\r\n filename*0*=iso-8859-1''Gr%FC;\r\n filename*1*=%DFe;\r\n filename*2=.txt"}]),
                "Grüße.txt",
            ),
            (
                "",
                json!([{"name": "Content-Type", "value": "application/pdf; name=\"=?ISO-8859-1?Q?Gr=FC=DFe.pdf?=\""}]),
                "Grüße.pdf",
            ),
            ("a\r\nb.txt", json!([]), "a b.txt"),
        ] {
            let email = read(
                json!({"partId": "", "mimeType": "application/pdf", "filename": filename,
                "headers": headers, "body": {"attachmentId": "A", "size": 7}}),
            );
            assert_eq!(email.attachments[0].filename, expected);
        }
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let email = read(text_part(
            "text/plain",
            "ü".repeat(TEXT_BYTES_MAX).as_bytes(),
        ));
        assert_eq!((email.text.len(), email.truncated), (TEXT_BYTES_MAX, true));
    }

    #[test]
    fn nesting_without_end_ends() {
        let mut part = text_part("text/plain", b"deep");
        for _ in 0..60 {
            part = json!({"mimeType": "multipart/mixed", "parts": [part]});
        }
        assert_eq!(read(part).text, "");
    }
}
