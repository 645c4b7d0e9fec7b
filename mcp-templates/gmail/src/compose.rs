//! A new message as MIME. Pure but for the date and the boundary that the builder makes.

use base64::Engine;
use mail_builder::MessageBuilder;
use minimcp_rest::Error;
use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{message::BASE64_URL, server::SERVICE};

/// Gmail's limit of a message is 35 MiB; texts beyond this are surely a mistake.
const BODY_BYTES_MAX: usize = 5 << 20;
const RECIPIENTS_MAX: usize = 100;

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
    /// The thread it belongs to, for a reply; the subject must then be that of the thread.
    thread_id: Option<String>,
    /// The messageIdHeader of the message it replies to.
    in_reply_to: Option<String>,
}

impl Compose {
    /// The API's message: `raw` and, for a reply, `threadId`.
    pub(crate) fn into_api(self) -> Result<Value, Error> {
        let refuse = |message: &str| Err(Error::argument(SERVICE, message));
        let recipients = self.to.len() + self.cc.len() + self.bcc.len();
        if self.to.is_empty() || recipients > RECIPIENTS_MAX {
            return refuse("to must hold an address, and to, cc and bcc at most 100 together");
        }
        if self.subject.chars().any(char::is_control) || self.subject.len() > 1_000 {
            return refuse("subject must be one line of at most 1000 bytes");
        }
        if self.body.len() + self.html_body.as_ref().map_or(0, String::len) > BODY_BYTES_MAX {
            return refuse("body and htmlBody must be at most 5 MiB together");
        }
        let mut message = MessageBuilder::new()
            .to(addresses(&self.to)?)
            .subject(self.subject)
            .text_body(self.body);
        if !self.cc.is_empty() {
            message = message.cc(addresses(&self.cc)?);
        }
        if !self.bcc.is_empty() {
            message = message.bcc(addresses(&self.bcc)?);
        }
        if let Some(html) = self.html_body {
            message = message.html_body(html);
        }
        if let Some(id) = self.in_reply_to {
            let id = id
                .trim()
                .trim_start_matches('<')
                .trim_end_matches('>')
                .to_owned();
            let good = (3..=900).contains(&id.len())
                && id.contains('@')
                && id
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>'));
            if !good {
                return refuse("inReplyTo must be a messageIdHeader as read_email gives it");
            }
            message = message.in_reply_to(id.clone()).references(id);
        }
        let mime = message
            .write_to_vec()
            .map_err(|_| Error::argument(SERVICE, "the message cannot be written as MIME"))?;
        let mut api = json!({"raw": BASE64_URL.encode(mime)});
        if let Some(thread) = self.thread_id {
            api["threadId"] = json!(thread);
        }
        Ok(api)
    }
}

/// Addresses as the builder takes them: (name, address).
fn addresses(texts: &[String]) -> Result<Vec<(String, String)>, Error> {
    texts
        .iter()
        .map(|text| {
            address(text).ok_or_else(|| {
                let message = "each recipient must be an address such as ann@example.com or Ann <ann@example.com>";
                Error::argument(SERVICE, message)
            })
        })
        .collect()
}

fn address(text: &str) -> Option<(String, String)> {
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
        && !address.contains(['<', '>', ',', ';', '"', ' ', '(', ')']);
    good.then(|| (name, address.to_owned()))
}

#[cfg(test)]
mod tests {
    use mail_parser::MessageParser;

    use super::*;

    fn compose(arguments: Value) -> Result<Value, Error> {
        serde_json::from_value::<Compose>(arguments)
            .expect("the tool's shape")
            .into_api()
    }

    #[test]
    fn a_message_reads_back_as_it_was_meant() {
        let api = compose(json!({
            "to": ["Änn Bee <ann@example.com>", "bob@example.com"], "cc": ["c@example.com"],
            "bcc": ["d@example.com"], "subject": "Grüße", "body": "hällo\n.\nend", "htmlBody": "<b>hi</b>",
            "threadId": "t1", "inReplyTo": "<id1@example.com>",
        }))
        .expect("a good message");
        assert_eq!(api["threadId"], "t1");
        let raw = BASE64_URL
            .decode(api["raw"].as_str().expect("text"))
            .expect("base64url");
        let mail = MessageParser::new().parse(&raw).expect("MIME");
        assert_eq!(mail.subject(), Some("Grüße"));
        assert_eq!(
            mail.body_text(0)
                .map(|text| text.replace("\r\n", "\n"))
                .as_deref()
                .map(str::trim_end),
            Some("hällo\n.\nend")
        );
        assert_eq!(
            mail.body_html(0).as_deref().map(str::trim_end),
            Some("<b>hi</b>")
        );
        let to = mail.to().and_then(|to| to.first()).expect("a recipient");
        assert_eq!(
            (to.name(), to.address()),
            (Some("Änn Bee"), Some("ann@example.com"))
        );
        assert_eq!(mail.in_reply_to().as_text(), Some("id1@example.com"));
        assert_eq!(
            mail.bcc()
                .and_then(|bcc| bcc.first())
                .and_then(|bcc| bcc.address()),
            Some("d@example.com")
        );
    }

    #[test]
    fn no_header_can_be_smuggled_in() {
        for arguments in [
            json!({"to": [], "subject": "s", "body": "b"}),
            json!({"to": ["a@b\r\nBcc: x@y"], "subject": "s", "body": "b"}),
            json!({"to": ["a@b, c@d"], "subject": "s", "body": "b"}),
            json!({"to": ["nobody"], "subject": "s", "body": "b"}),
            json!({"to": ["a@b"], "subject": "s\r\nBcc: x@y", "body": "b"}),
            json!({"to": ["a@b"], "subject": "s", "body": "b", "inReplyTo": "a@b>\r\nBcc: x@y"}),
            json!({"to": vec!["a@b"; 101], "subject": "s", "body": "b"}),
        ] {
            assert!(compose(arguments.clone()).is_err(), "{arguments}");
        }
    }
}
