//! A stateful fake of the Gmail API, judged by Google's own description.

use axum::http::HeaderMap;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{
    contract::Asked,
    mailbox::{Mail, Mailbox},
    token_endpoint::SharedSignIn,
    upstream::{Answer, Api},
};

/// The description of the Gmail API, cut down.
pub const FIXTURE: &str = include_str!("../fixtures/api.json");

/// The account.
pub struct Google {
    pub sign_in: SharedSignIn,
    pub mailbox: Mailbox,
    pub labels: Vec<Value>,
    pub filters: Vec<Value>,
}

fn refused(status: u16, message: &str, reason: &str) -> Answer {
    (status, Some(refusal(status, message, reason)))
}

/// An error as Google writes it.
pub fn refusal(status: u16, message: &str, reason: &str) -> Value {
    json!({"error": {"code": status, "message": message, "status": "X",
        "errors": [{"message": message, "domain": "global", "reason": reason}]}})
}

fn not_found() -> Answer {
    refused(404, "Requested entity was not found.", "notFound")
}

fn invalid(message: &str) -> Answer {
    refused(400, message, "invalidArgument")
}

fn ids(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

impl Google {
    pub fn new(sign_in: SharedSignIn) -> Self {
        Self {
            sign_in,
            mailbox: Mailbox::default(),
            labels: vec![
                json!({"id": "INBOX", "name": "INBOX", "messageListVisibility": "hide", "type": "system"}),
                json!({"id": "Label_7", "name": "Travel", "type": "user", "color": {"textColor": "#000000"}}),
            ],
            filters: Vec::new(),
        }
    }

    fn page<T>(asked: &Asked, all: Vec<T>) -> (Vec<T>, usize, Option<String>) {
        let size: usize = asked
            .one("maxResults")
            .map_or(100, |text| text.parse().expect("it is judged"));
        let from: usize = asked
            .one("pageToken")
            .map_or(0, |token| token.parse().unwrap_or(0));
        let total = all.len();
        let next = (total > from + size).then(|| (from + size).to_string());
        (all.into_iter().skip(from).take(size).collect(), total, next)
    }

    fn found(&self, asked: &Asked) -> Vec<Mail> {
        let with_trash = asked.one("includeSpamTrash") == Some("true");
        self.mailbox
            .search(asked.one("q").unwrap_or_default(), with_trash)
    }

    fn list(&self, asked: &Asked, name: &str, all: Vec<Value>) -> Answer {
        let (page, total, next) = Self::page(asked, all);
        let mut answer = json!({"resultSizeEstimate": total});
        // Google leaves empty lists out.
        if !page.is_empty() {
            answer[name] = json!(page);
        }
        if let Some(next) = next {
            answer["nextPageToken"] = json!(next);
        }
        (200, Some(answer))
    }

    fn only(asked: &Asked) -> Vec<String> {
        let wanted = asked
            .query
            .iter()
            .filter(|(name, _)| name == "metadataHeaders");
        wanted.map(|(_, value)| value.clone()).collect()
    }

    fn change(&mut self, mails: &[String], add: &[&str], remove: &[&str]) {
        for mail in self
            .mailbox
            .mails
            .iter_mut()
            .filter(|mail| mails.contains(&mail.id))
        {
            mail.labels
                .retain(|label| !remove.contains(&label.as_str()));
            for label in add {
                if !mail.labels.iter().any(|known| known == label) {
                    mail.labels.push((*label).to_owned());
                }
            }
        }
    }

    /// Changes labels as the body says, or as the way to the trash and back does.
    fn changed(&mut self, asked: &Asked, mails: &[String]) -> Result<(), Answer> {
        let (add, remove) = (
            ids(&asked.body["addLabelIds"]),
            ids(&asked.body["removeLabelIds"]),
        );
        let known = |label: &String| {
            label.chars().all(|c| c.is_ascii_uppercase() || c == '_')
                || self.labels.iter().any(|known| known["id"] == **label)
        };
        if let Some(label) = add.iter().chain(&remove).find(|label| !known(label)) {
            return Err(invalid(&format!("Invalid label: {label}")));
        }
        let add: Vec<&str> = add.iter().map(String::as_str).collect();
        let remove: Vec<&str> = remove.iter().map(String::as_str).collect();
        match asked.operation.rsplit('.').next() {
            Some("trash") => self.change(mails, &["TRASH"], &["INBOX"]),
            Some("untrash") => self.change(mails, &[], &["TRASH"]),
            _ => self.change(mails, &add, &remove),
        }
        Ok(())
    }

    /// The mail in the body of a request, stored.
    fn stored(&mut self, asked: &Asked, message: &Value, label: &str) -> Result<Mail, Answer> {
        let raw = match &asked.upload {
            Some(bytes) => bytes.clone(),
            None => URL_SAFE_NO_PAD
                .decode(message["raw"].as_str().unwrap_or_default())
                .map_err(|_| invalid("Invalid value for ByteString"))?,
        };
        self.mailbox
            .store(&raw, message["threadId"].as_str(), &[label])
            .map_err(|message| invalid(&message))
    }

    fn drafts(&mut self, asked: &Asked) -> Answer {
        let id = asked.path.get("id").cloned().unwrap_or_default();
        let place = self
            .mailbox
            .drafts
            .iter()
            .position(|(draft, _)| *draft == id);
        match (asked.operation.rsplit('.').next(), place) {
            (Some("create"), _) => match self.stored(asked, &asked.body["message"], "DRAFT") {
                Ok(mail) => {
                    let draft = self.mailbox.new_draft_id();
                    self.mailbox.drafts.push((draft.clone(), mail.id.clone()));
                    (200, Some(json!({"id": draft, "message": short(&mail)})))
                }
                Err(refused) => refused,
            },
            (Some("list"), _) => {
                let hits = self.mailbox.search("in:DRAFT", false);
                let drafts = self.mailbox.drafts.iter().rev();
                let all = drafts
                    .filter_map(|(draft, id)| {
                        let mail = hits.iter().find(|mail| mail.id == *id)?;
                        Some(json!({"id": draft, "message": {"id": id, "threadId": mail.thread}}))
                    })
                    .collect();
                self.list(asked, "drafts", all)
            }
            (Some("send"), _) => {
                let wanted = asked.body["id"].as_str().unwrap_or_default();
                let Some(place) = self
                    .mailbox
                    .drafts
                    .iter()
                    .position(|(draft, _)| draft == wanted)
                else {
                    return not_found();
                };
                let (_, id) = self.mailbox.drafts.remove(place);
                self.change(std::slice::from_ref(&id), &["SENT"], &["DRAFT"]);
                self.mailbox
                    .mail(&id)
                    .map_or_else(not_found, |mail| (200, Some(short(mail))))
            }
            (_, None) => not_found(),
            (Some("get"), Some(place)) => {
                let id = self.mailbox.drafts[place].1.clone();
                let Some(mail) = self.mailbox.mail(&id).cloned() else {
                    return not_found();
                };
                let shown = self
                    .mailbox
                    .shown(&mail, asked.one("format").unwrap_or("full"), &[]);
                (
                    200,
                    Some(json!({"id": self.mailbox.drafts[place].0, "message": shown})),
                )
            }
            (Some("update"), Some(place)) => {
                match self.stored(asked, &asked.body["message"], "DRAFT") {
                    Ok(mail) => {
                        let old =
                            std::mem::replace(&mut self.mailbox.drafts[place].1, mail.id.clone());
                        self.mailbox.mails.retain(|mail| mail.id != old);
                        (200, Some(json!({"id": id, "message": short(&mail)})))
                    }
                    Err(refused) => refused,
                }
            }
            (_, Some(place)) => {
                let (_, message) = self.mailbox.drafts.remove(place);
                self.mailbox.mails.retain(|mail| mail.id != message);
                (204, None)
            }
        }
    }

    fn labels(&mut self, asked: &Asked) -> Answer {
        let place = |labels: &[Value]| {
            labels
                .iter()
                .position(|label| label["id"] == asked.path["id"])
        };
        match asked.operation.rsplit('.').next() {
            Some("list") => (200, Some(json!({"labels": self.labels}))),
            Some("create") => {
                if self
                    .labels
                    .iter()
                    .any(|label| label["name"] == asked.body["name"])
                {
                    return refused(409, "Label name exists or conflicts", "aborted");
                }
                let mut label = asked.body.clone();
                label["id"] = json!(format!("Label_{}", self.labels.len() + 10));
                label["type"] = json!("user");
                self.labels.push(label.clone());
                (200, Some(label))
            }
            Some("patch") => {
                let Some(place) = place(&self.labels) else {
                    return not_found();
                };
                if self.labels[place]["type"] == "system" {
                    return invalid("Cannot change a system label");
                }
                for (name, value) in asked.body.as_object().expect("an object") {
                    self.labels[place][name] = value.clone();
                }
                (200, Some(self.labels[place].clone()))
            }
            _ => {
                let Some(place) = place(&self.labels) else {
                    return not_found();
                };
                self.labels.remove(place);
                (204, None)
            }
        }
    }

    fn filters(&mut self, asked: &Asked) -> Answer {
        match asked.operation.rsplit('.').next() {
            Some("list") if self.filters.is_empty() => (200, Some(json!({}))),
            Some("list") => (200, Some(json!({"filter": self.filters}))),
            Some("create") => {
                let mut filter = asked.body.clone();
                filter["id"] = json!(format!("ANe1Bm{}", self.filters.len()));
                self.filters.push(filter.clone());
                (200, Some(filter))
            }
            _ => {
                let before = self.filters.len();
                self.filters
                    .retain(|filter| filter["id"] != asked.path["id"]);
                if self.filters.len() == before {
                    not_found()
                } else {
                    (204, None)
                }
            }
        }
    }

    fn messages(&mut self, asked: &Asked) -> Answer {
        let id = asked.path.get("id").cloned().unwrap_or_default();
        match asked.operation.rsplit('.').next() {
            Some("list") => {
                let all = self
                    .found(asked)
                    .iter()
                    .map(|mail| json!({"id": mail.id, "threadId": mail.thread}))
                    .collect();
                self.list(asked, "messages", all)
            }
            Some("send") => match self.stored(asked, &asked.body, "SENT") {
                Ok(mail) => (200, Some(short(&mail))),
                Err(refused) => refused,
            },
            Some("batchModify") => match self.changed(asked, &ids(&asked.body["ids"])) {
                Ok(()) => (204, None),
                Err(refused) => refused,
            },
            Some("get") => {
                let Some(mail) = self.mailbox.mail(&id).cloned() else {
                    return not_found();
                };
                let format = asked.one("format").unwrap_or("full");
                (
                    200,
                    Some(self.mailbox.shown(&mail, format, &Self::only(asked))),
                )
            }
            _ => {
                if self.mailbox.mail(&id).is_none() {
                    return not_found();
                }
                if let Err(refused) = self.changed(asked, std::slice::from_ref(&id)) {
                    return refused;
                }
                self.mailbox
                    .mail(&id)
                    .map_or_else(not_found, |mail| (200, Some(short(mail))))
            }
        }
    }

    fn threads(&mut self, asked: &Asked) -> Answer {
        let id = asked.path.get("id").cloned().unwrap_or_default();
        if asked.operation.ends_with("list") {
            let mut seen: Vec<String> = Vec::new();
            for mail in self.found(asked) {
                if !seen.contains(&mail.thread) {
                    seen.push(mail.thread);
                }
            }
            let all = seen
                .iter()
                .map(|id| json!({"id": id, "snippet": "…", "historyId": "9"}))
                .collect();
            return self.list(asked, "threads", all);
        }
        let mails = self.mailbox.thread(&id);
        if mails.is_empty() {
            return not_found();
        }
        if asked.operation.ends_with("get") {
            let format = asked.one("format").unwrap_or("full");
            let only = Self::only(asked);
            let shown: Vec<Value> = mails
                .iter()
                .map(|mail| self.mailbox.shown(mail, format, &only))
                .collect();
            return (
                200,
                Some(json!({"id": id, "historyId": "9", "messages": shown})),
            );
        }
        let of_thread: Vec<String> = mails.into_iter().map(|mail| mail.id).collect();
        if let Err(refused) = self.changed(asked, &of_thread) {
            return refused;
        }
        let messages: Vec<Value> = self.mailbox.thread(&id).iter().map(short).collect();
        (200, Some(json!({"id": id, "messages": messages})))
    }
}

/// What Gmail answers to a change of a message.
fn short(mail: &Mail) -> Value {
    json!({"id": mail.id, "threadId": mail.thread, "labelIds": mail.labels})
}

impl Api for Google {
    fn admit(&mut self, asked: &Asked, headers: &HeaderMap) -> Result<(), Answer> {
        let sign_in = self.sign_in.lock().expect("whole");
        let wanted = format!("Bearer ya29.SECRET-{}", sign_in.tokens);
        if sign_in.tokens == 0
            || headers
                .get("authorization")
                .is_none_or(|given| *given != wanted)
        {
            let message = "Request had invalid authentication credentials.";
            return Err(refused(401, message, "authError"));
        }
        let granted: Vec<&str> = sign_in.scope.split(' ').collect();
        if !asked
            .scopes
            .iter()
            .any(|scope| granted.contains(&scope.as_str()))
        {
            let mut error = refusal(
                403,
                "Request had insufficient authentication scopes.",
                "insufficientPermissions",
            );
            error["error"]["details"] = json!([{"@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT", "domain": "googleapis.com"}]);
            return Err((403, Some(error)));
        }
        Ok(())
    }

    fn answer(&mut self, asked: &Asked) -> Answer {
        if asked.path["userId"] != "me" {
            return refused(403, "Delegation denied", "forbidden");
        }
        let collection = asked.operation.trim_start_matches("gmail.users.");
        match collection.split('.').next() {
            Some("getProfile") => {
                let count = self.mailbox.mails.len();
                (
                    200,
                    Some(
                        json!({"emailAddress": "me@example.com", "messagesTotal": count, "threadsTotal": count,
                    "historyId": "9"}),
                    ),
                )
            }
            Some("messages") if collection.contains("attachments") => {
                match self.mailbox.attachment(&asked.path["id"]) {
                    Some(bytes) => {
                        let data = URL_SAFE_NO_PAD.encode(bytes);
                        (200, Some(json!({"size": bytes.len(), "data": data})))
                    }
                    None => invalid("Invalid attachment token"),
                }
            }
            Some("messages") => self.messages(asked),
            Some("threads") => self.threads(asked),
            Some("drafts") => self.drafts(asked),
            Some("labels") => self.labels(asked),
            _ => self.filters(asked),
        }
    }

    fn refusal(&self, status: u16, message: &str) -> Value {
        refusal(status, message, "badRequest")
    }
}
