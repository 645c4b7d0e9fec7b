//! Replies and forwards: to whom, under which subject, in which thread (RFC 5322 section 3.6.4). Pure.

use minimcp_rest::Error;
use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;

use crate::{
    compose::{Compose, NewAttachment, Outgoing, Person},
    message::{ApiMessage, Email},
    mime::{message_ids, people},
};

/// A long thread keeps its first and its last ids.
const REFERENCES_MAX: usize = 40;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Reply {
    /// The id of the email to answer, as search_emails gives it.
    pub(crate) message_id: String,
    /// The text of the answer.
    body: String,
    /// The same as HTML, for readers that show it.
    html_body: Option<String>,
    /// Whether everybody who received the email is answered, not only its sender.
    #[serde(default)]
    reply_all: bool,
    /// Whether the email is quoted below the answer; not together with htmlBody.
    #[serde(default)]
    quote: bool,
    /// Whether it is kept as a draft instead of sent.
    #[serde(default)]
    pub(crate) as_draft: bool,
    /// Files to attach.
    #[serde(default)]
    pub(crate) attachments: Vec<NewAttachment>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Forward {
    /// The id of the email to forward, as search_emails gives it.
    pub(crate) message_id: String,
    /// Who receives it: addresses such as `ann@example.com` or `Ann <ann@example.com>`.
    to: Vec<String>,
    /// Who receives a copy.
    #[serde(default)]
    cc: Vec<String>,
    /// Who receives a copy unseen.
    #[serde(default)]
    bcc: Vec<String>,
    /// A text of your own above the email.
    #[serde(default)]
    body: String,
    /// Whether its attachments go along; absent: they do.
    #[serde(default = "yes")]
    pub(crate) with_attachments: bool,
    /// Whether it is kept as a draft instead of sent.
    #[serde(default)]
    pub(crate) as_draft: bool,
    /// More files to attach.
    #[serde(default)]
    pub(crate) attachments: Vec<NewAttachment>,
}

fn yes() -> bool {
    true
}

/// The email that is answered or forwarded.
pub(crate) struct Original {
    email: Email,
    references: Vec<String>,
    message_id: Option<String>,
}

impl Original {
    pub(crate) fn new(message: ApiMessage) -> Self {
        let ids = |name: &str| {
            let value = message.payload.as_ref()?.raw_header(name)?;
            Some(message_ids(value))
        };
        // Without References the one id of In-Reply-To stands for them.
        let references = ids("References").filter(|ids| !ids.is_empty());
        let references = references.or_else(|| ids("In-Reply-To").filter(|ids| ids.len() == 1));
        let message_id = ids("Message-ID").and_then(|ids| ids.into_iter().next());
        Self {
            references: references.unwrap_or_default(),
            message_id,
            email: message.email(),
        }
    }

    /// Its attachments, as attachments of a new message.
    pub(crate) fn attachments(&self, message_id: &str) -> Vec<NewAttachment> {
        self.email
            .attachments
            .iter()
            .map(|attachment| NewAttachment {
                filename: None,
                mime_type: None,
                content: None,
                text: None,
                message_id: Some(message_id.to_owned()),
                part_id: Some(attachment.part_id.clone()),
            })
            .collect()
    }

    /// The ids that an answer refers to, oldest first.
    fn thread(&self) -> Vec<String> {
        let mut ids = self.references.clone();
        ids.extend(self.message_id.clone());
        if ids.len() > REFERENCES_MAX {
            ids.drain(1..=ids.len() - REFERENCES_MAX);
        }
        ids
    }

    fn subject(&self, prefix: &str, known: &[&str]) -> String {
        let subject = self.email.subject.as_deref().unwrap_or_default().trim();
        let lower = subject.to_lowercase();
        let cut = &subject[..subject.floor_char_boundary(900)];
        if known.iter().any(|known| lower.starts_with(known)) {
            cut.to_owned()
        } else {
            format!("{prefix} {cut}").trim_end().to_owned()
        }
    }
}

impl Reply {
    /// The answer to `original` of the account with the address `me`.
    pub(crate) fn into_outgoing(self, original: &Original, me: &str) -> Result<Outgoing, Error> {
        let email = &original.email;
        let is_me = |person: &Person| person.1.eq_ignore_ascii_case(me);
        let of = |value: &Option<String>| value.as_deref().map(people).unwrap_or_default();
        let sender = of(&email.from);
        let mut to = of(&email.reply_to);
        if to.is_empty() {
            to = sender.clone();
        }
        // An answer to one's own mail goes on to those it was for.
        if sender.iter().any(is_me) || to.iter().all(is_me) {
            to = of(&email.to);
        }
        let mut cc = Vec::new();
        if self.reply_all {
            cc = of(&email.to);
            cc.extend(of(&email.cc));
            cc.retain(|person| !is_me(person));
            without_doubles(&mut cc, &to);
        }
        let first = to.clone();
        to.retain(|person| !is_me(person));
        if to.is_empty() {
            to = first;
        }
        let mut text = self.body;
        if self.quote && self.html_body.is_none() {
            text.push_str(&quoted(email));
        }
        let outgoing = Outgoing {
            to,
            cc,
            subject: original.subject("Re:", &["re:", "aw:", "sv:", "antw:"]),
            text,
            html: self.html_body,
            references: original.thread(),
            in_reply_to: original.message_id.clone(),
            thread_id: Some(email.thread_id.clone()),
            ..Outgoing::default()
        };
        outgoing.check()?;
        Ok(outgoing)
    }
}

impl Forward {
    /// The forwarded `original`, its files aside.
    pub(crate) fn into_outgoing(self, original: &Original) -> Result<Outgoing, Error> {
        let email = &original.email;
        let line = |name: &str, value: &Option<String>| {
            let value = value.as_deref()?;
            Some(format!("{name}: {value}\n"))
        };
        let mut text = self.body;
        if !text.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str("---------- Forwarded message ---------\n");
        for (name, value) in [
            ("From", &email.from),
            ("Date", &email.date),
            ("Subject", &email.subject),
            ("To", &email.to),
            ("Cc", &email.cc),
        ] {
            text.extend(line(name, value));
        }
        text.push('\n');
        text.push_str(&email.text);
        let mut outgoing = Compose::addressed(self.to, self.cc, self.bcc).into_outgoing()?;
        outgoing.subject = original.subject("Fwd:", &["fwd:", "fw:", "wg:"]);
        outgoing.text = text;
        outgoing.references = original.thread();
        outgoing.check()?;
        Ok(outgoing)
    }
}

/// Everybody once, and nobody who is among `others`.
fn without_doubles(people: &mut Vec<Person>, others: &[Person]) {
    let mut seen: Vec<String> = others
        .iter()
        .map(|(_, address)| address.to_lowercase())
        .collect();
    people.retain(|(_, address)| {
        let address = address.to_lowercase();
        let is_new = !seen.contains(&address);
        seen.push(address);
        is_new
    });
}

/// The email as mailers quote it.
fn quoted(email: &Email) -> String {
    let date = email.date.as_deref().unwrap_or("an unknown day");
    let from = email.from.as_deref().unwrap_or("somebody");
    let mut text = format!("\n\nOn {date}, {from} wrote:\n");
    for line in email.text.lines() {
        text.push_str(if line.starts_with('>') { ">" } else { "> " });
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn original(headers: &[(&str, &str)]) -> Original {
        let headers: Vec<Value> = headers
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        let message = json!({"id": "m", "threadId": "t", "payload": {
            "partId": "", "mimeType": "text/plain", "headers": headers, "body": {"size": 2, "data": "aGk"}}});
        Original::new(serde_json::from_value(message).expect("the API's shape"))
    }

    fn reply(original: &Original, arguments: Value) -> Outgoing {
        let mut all = json!({"messageId": "m", "body": "b"});
        for (name, value) in arguments.as_object().expect("an object") {
            all[name] = value.clone();
        }
        let reply: Reply = serde_json::from_value(all).expect("the tool's shape");
        reply
            .into_outgoing(original, "Me@example.com")
            .expect("a good reply")
    }

    fn plain(people: &[Person]) -> Vec<&str> {
        people.iter().map(|(_, address)| address.as_str()).collect()
    }

    #[test]
    fn a_reply_goes_to_whom_it_should() {
        let mail = original(&[
            ("From", "Ann <ann@x>"),
            ("To", "me@example.com, Bob <bob@x>, ann@x"),
            ("Cc", "cyd@x, BOB@x"),
            ("Subject", "Plan"),
            ("Message-Id", "<2@x>"),
            ("References", "<0@x>\r\n <1@x>"),
        ]);
        let one = reply(&mail, json!({}));
        assert_eq!((plain(&one.to), plain(&one.cc)), (vec!["ann@x"], vec![]));
        assert_eq!(
            (one.subject.as_str(), one.thread_id.as_deref()),
            ("Re: Plan", Some("t"))
        );
        assert_eq!(one.references, ["0@x", "1@x", "2@x"]);
        assert_eq!(one.in_reply_to.as_deref(), Some("2@x"));
        let all = reply(&mail, json!({"replyAll": true, "quote": true}));
        assert_eq!(
            (plain(&all.to), plain(&all.cc)),
            (vec!["ann@x"], vec!["bob@x", "cyd@x"])
        );
        assert_eq!(
            all.text,
            "b\n\nOn an unknown day, Ann <ann@x> wrote:\n> hi\n"
        );
        let list = original(&[
            ("From", "ann@x"),
            ("Reply-To", "list@x"),
            ("Subject", "RE: Plan"),
        ]);
        let answer = reply(&list, json!({}));
        assert_eq!(
            (plain(&answer.to), answer.subject.as_str()),
            (vec!["list@x"], "RE: Plan")
        );
        let own = original(&[("From", "me@example.com"), ("To", "bob@x")]);
        assert_eq!(plain(&reply(&own, json!({})).to), ["bob@x"]);
        assert_eq!(reply(&own, json!({})).subject, "Re:");
    }

    #[test]
    fn a_hostile_original_cannot_write_headers() {
        let mail = original(&[
            ("From", "=?utf-8?Q?Ann=0D=0ABcc:_x@y?= <ann@x>"),
            ("Subject", "=?utf-8?Q?a=0D=0ABcc:_x@y?="),
            ("Message-ID", "<1@x>\r\nBcc: x@y"),
            ("References", &"<a@b> ".repeat(500)),
        ]);
        let (mime, _) = reply(&mail, json!({})).into_mime().expect("it is defused");
        let parsed = mail_parser::MessageParser::new()
            .parse(&mime)
            .expect("MIME");
        assert!(parsed.bcc().is_none());
        let ids = parsed.references().as_text_list().map_or(0, <[_]>::len);
        assert_eq!(ids, REFERENCES_MAX);
    }

    #[test]
    fn a_forward_tells_where_it_comes_from() {
        let mail = original(&[
            ("From", "Ann <ann@x>"),
            ("To", "me@example.com"),
            ("Subject", "Plan"),
        ]);
        let forward = json!({"messageId": "m", "to": ["bob@x"], "body": "See below."});
        let forward: Forward = serde_json::from_value(forward).expect("the tool's shape");
        assert!(forward.with_attachments);
        let outgoing = forward.into_outgoing(&mail).expect("a good forward");
        assert_eq!(
            (plain(&outgoing.to), outgoing.subject.as_str()),
            (vec!["bob@x"], "Fwd: Plan")
        );
        assert_eq!(
            outgoing.text,
            "See below.\n\n---------- Forwarded message ---------\nFrom: Ann <ann@x>\nSubject: Plan\n\
             To: me@example.com\n\nhi"
        );
    }
}
