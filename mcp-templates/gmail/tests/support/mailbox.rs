//! A mailbox with the manners of Gmail: what it stores it gives back as parts, with the ids and omissions of the real
//! one.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mail_parser::{Message, MessageParser, MimeHeaders, PartType};
use serde_json::{Value, json};

/// A mail as it came in.
#[derive(Clone)]
pub struct Mail {
    pub id: String,
    pub thread: String,
    pub labels: Vec<String>,
    pub raw: Vec<u8>,
    /// Lists still show it, but it is not there any more.
    pub gone: bool,
}

#[derive(Default)]
pub struct Mailbox {
    /// Oldest first.
    pub mails: Vec<Mail>,
    /// Draft and message ids.
    pub drafts: Vec<(String, String)>,
    attachments: Vec<(String, Vec<u8>)>,
    last_id: u32,
}

impl Mailbox {
    fn new_id(&mut self) -> u32 {
        self.last_id += 1;
        self.last_id
    }

    /// Stores a mail; `thread` must exist.
    pub fn store(
        &mut self,
        raw: &[u8],
        thread: Option<&str>,
        labels: &[&str],
    ) -> Result<Mail, String> {
        let parsed = MessageParser::new().parse(raw).ok_or("not a message")?;
        if parsed.headers().is_empty() {
            return Err("Recipient address required".to_owned());
        }
        if let Some(thread) = thread
            && !self.mails.iter().any(|mail| mail.thread == thread)
        {
            return Err(format!("Invalid thread_id {thread}"));
        }
        let id = format!("18f{:04x}", self.new_id());
        let mut whole = Vec::new();
        if parsed.from().is_none() {
            whole.extend_from_slice(b"From: Me <me@example.com>\r\n");
        }
        if parsed.message_id().is_none() {
            whole.extend_from_slice(format!("Message-ID: <CA{id}@mail.gmail.com>\r\n").as_bytes());
        }
        whole.extend_from_slice(raw);
        let mail = Mail {
            thread: thread.map_or_else(|| id.clone(), str::to_owned),
            id,
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
            raw: whole,
            gone: false,
        };
        self.mails.push(mail.clone());
        Ok(mail)
    }

    pub fn new_draft_id(&mut self) -> String {
        format!("r{}", self.new_id())
    }

    pub fn mail(&mut self, id: &str) -> Option<&mut Mail> {
        self.mails
            .iter_mut()
            .find(|mail| mail.id == id && !mail.gone)
    }

    pub fn thread(&self, id: &str) -> Vec<Mail> {
        let of_thread = self
            .mails
            .iter()
            .filter(|mail| mail.thread == id && !mail.gone);
        of_thread.cloned().collect()
    }

    pub fn attachment(&self, id: &str) -> Option<&[u8]> {
        let (_, bytes) = self.attachments.iter().find(|(known, _)| known == id)?;
        Some(bytes)
    }

    /// What `query` finds, newest first: `in:LABEL`, `from:WORD`, or words of the subject.
    pub fn search(&self, query: &str, with_trash: bool) -> Vec<Mail> {
        let finds = |mail: &Mail| {
            let has = |label: &str| {
                mail.labels
                    .iter()
                    .any(|known| known.eq_ignore_ascii_case(label))
            };
            let parsed = MessageParser::new().parse(&mail.raw);
            let words = |text: Option<&str>, wanted: &str| {
                text.unwrap_or_default()
                    .to_lowercase()
                    .contains(&wanted.to_lowercase())
            };
            if let Some(label) = query.strip_prefix("in:") {
                return has(label);
            }
            if has("TRASH") && !with_trash {
                return false;
            }
            match query.strip_prefix("from:") {
                Some(from) => {
                    let sender = parsed
                        .as_ref()
                        .and_then(|mail| mail.from())
                        .and_then(|from| from.first());
                    words(sender.and_then(|sender| sender.address()), from)
                }
                None => words(parsed.as_ref().and_then(|mail| mail.subject()), query),
            }
        };
        self.mails
            .iter()
            .rev()
            .filter(|mail| finds(mail))
            .cloned()
            .collect()
    }

    /// The mail as the API gives it.
    pub fn shown(&mut self, mail: &Mail, format: &str, only: &[String]) -> Value {
        let parsed = MessageParser::new()
            .parse(&mail.raw)
            .expect("it was parsed before");
        let snippet = parsed.body_text(0).unwrap_or_default();
        let mut shown = json!({"id": mail.id, "threadId": mail.thread, "labelIds": mail.labels,
            "snippet": snippet.trim().chars().take(60).collect::<String>(), "historyId": "9",
            "internalDate": "1767225600000", "sizeEstimate": mail.raw.len()});
        match format {
            "minimal" => {}
            "metadata" => {
                let mut payload =
                    json!({"mimeType": media_type(&parsed, 0), "headers": headers(&parsed, 0)});
                if !only.is_empty() {
                    let headers = payload["headers"].as_array_mut().expect("a list");
                    headers.retain(|header| {
                        only.iter()
                            .any(|name| header["name"].as_str() == Some(name))
                    });
                }
                shown["payload"] = payload;
            }
            _ => shown["payload"] = self.part(&parsed, 0, ""),
        }
        shown
    }

    fn part(&mut self, mail: &Message<'_>, index: u32, id: &str) -> Value {
        let part = mail.part(index).expect("a part");
        let mut shown = json!({"partId": id, "mimeType": media_type(mail, index),
            "filename": part.attachment_name().unwrap_or_default(), "headers": headers(mail, index)});
        if let PartType::Multipart(children) = &part.body {
            let children: Vec<Value> = children
                .iter()
                .enumerate()
                .map(|(number, child)| {
                    let id = if id.is_empty() {
                        number.to_string()
                    } else {
                        format!("{id}.{number}")
                    };
                    self.part(mail, *child, &id)
                })
                .collect();
            shown["parts"] = json!(children);
            shown["body"] = json!({"size": 0});
            return shown;
        }
        let bytes = match &part.body {
            PartType::Text(text) | PartType::Html(text) => text.as_bytes().to_vec(),
            _ => part.contents().to_vec(),
        };
        let is_text = matches!(part.body, PartType::Text(_) | PartType::Html(_));
        // Files are kept apart, and so are long texts.
        let apart = part.attachment_name().is_some() || !is_text || bytes.len() > 100_000;
        shown["body"] = if apart {
            // Every answer gives new ids.
            let id = format!("ANGj-{}_{}", self.new_id(), "x".repeat(200));
            let body = json!({"attachmentId": id, "size": bytes.len()});
            self.attachments.push((id, bytes));
            body
        } else {
            json!({"size": bytes.len(), "data": URL_SAFE_NO_PAD.encode(&bytes)})
        };
        shown
    }
}

fn media_type(mail: &Message<'_>, index: u32) -> String {
    let content_type = mail.part(index).and_then(|part| part.content_type());
    content_type.map_or_else(
        || "text/plain".to_owned(),
        |kind| format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or("plain")),
    )
}

/// The headers as they stand in the mail, unfolded.
fn headers(mail: &Message<'_>, index: u32) -> Value {
    let part = mail.part(index).expect("a part");
    let shown: Vec<Value> = part
        .headers()
        .iter()
        .map(|header| {
            let raw =
                &mail.raw_message()[header.offset_start() as usize..header.offset_end() as usize];
            json!({"name": header.name(), "value": String::from_utf8_lossy(raw).trim()})
        })
        .collect();
    json!(shown)
}
