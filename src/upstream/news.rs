//! What a stateless child tells of changes: one `subscriptions/listen` at the child stands for all its clients.
//!
//! When what the clients want changes, a second one is opened, and the first ends when the child has acknowledged the
//! second: nothing is missed in between. [`News`] decides and does nothing else.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    Upstream, UpstreamError,
    failure::METHOD_NOT_FOUND,
    handshake::Handshake,
    message::{Envelope, RawObject, unquote},
    translate::own_meta,
    wire::Wire,
};

/// The kinds of news of a server: the member of the filter that asks for it, the capability that promises it, and the
/// notification.
pub const NEWS_KINDS: [(&str, &str, &str); 3] = [
    (
        "toolsListChanged",
        "tools",
        "notifications/tools/list_changed",
    ),
    (
        "promptsListChanged",
        "prompts",
        "notifications/prompts/list_changed",
    ),
    (
        "resourcesListChanged",
        "resources",
        "notifications/resources/list_changed",
    ),
];

/// How long a child may take to acknowledge.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(10);
/// A subscription that the child ended after less than this is not begun again by itself.
const LASTED: Duration = Duration::from_secs(10);

/// What is wanted, or granted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interest {
    /// By the place in [`NEWS_KINDS`].
    pub kinds: [bool; NEWS_KINDS.len()],
    /// The resources whose updates are told.
    pub uris: BTreeSet<String>,
}

impl Interest {
    /// Everything that a server promises, with these resources if it has subscriptions; `None` when that is nothing.
    #[must_use]
    pub fn promised(handshake: &Handshake, uris: impl IntoIterator<Item = String>) -> Option<Self> {
        let kinds =
            NEWS_KINDS.map(|(_, capability, _)| handshake.promises(capability, "listChanged"));
        let subscribes = handshake.promises("resources", "subscribe");
        let uris = uris.into_iter().filter(|_| subscribes).collect();
        let interest = Self { kinds, uris };
        (interest != Self::default()).then_some(interest)
    }

    /// The filter of `subscriptions/listen`, or of its acknowledgement.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut filter = serde_json::Map::new();
        for (has, (member, _, _)) in self.kinds.iter().zip(NEWS_KINDS) {
            if *has {
                filter.insert(member.to_owned(), json!(true));
            }
        }
        if !self.uris.is_empty() {
            filter.insert("resourceSubscriptions".to_owned(), json!(self.uris));
        }
        filter.into()
    }

    fn read(filter: &str) -> Self {
        let filter: Value = serde_json::from_str(filter).unwrap_or_default();
        let uris = filter["resourceSubscriptions"].as_array();
        Self {
            kinds: NEWS_KINDS.map(|(member, _, _)| filter[member] == true),
            uris: uris
                .into_iter()
                .flatten()
                .filter_map(|uri| uri.as_str().map(str::to_owned))
                .collect(),
        }
    }
}

struct Subscription {
    id: u64,
    asked: Interest,
    granted: Interest,
    since: Instant,
}

/// The subscription of one life of a child.
pub struct News {
    wanted: Option<Interest>,
    current: Option<Subscription>,
    coming: Option<Subscription>,
    /// What the child did not grant, and why; `None` inside: whatever is asked.
    refused: Option<(Option<Interest>, String)>,
    changed: watch::Sender<()>,
}

impl Default for News {
    fn default() -> Self {
        Self {
            wanted: None,
            current: None,
            coming: None,
            refused: None,
            changed: watch::Sender::new(()),
        }
    }
}

impl News {
    fn is_refused(&self, wanted: &Interest) -> bool {
        self.refused
            .as_ref()
            .is_some_and(|(refused, _)| refused.as_ref().is_none_or(|refused| refused == wanted))
    }

    fn is_settled(&self) -> bool {
        let Some(wanted) = &self.wanted else {
            return true;
        };
        let has = self.current.as_ref().map(|current| &current.asked);
        self.coming.is_none() && (has == Some(wanted) || self.is_refused(wanted))
    }

    /// What must be sent now; `next_id` gives the id of a new request.
    fn step(&mut self, next_id: &mut u64) -> Vec<String> {
        if self.coming.is_some() {
            // One at a time: what changes meanwhile is asked for after the acknowledgement.
            return Vec::new();
        }
        let Some(wanted) = &self.wanted else {
            let ended = self.current.take();
            return ended.map(|old| cancel(old.id)).into_iter().collect();
        };
        let has = self.current.as_ref().map(|current| &current.asked);
        if has == Some(wanted) || self.is_refused(wanted) {
            return Vec::new();
        }
        let id = *next_id;
        *next_id += 1;
        let request = json!({"jsonrpc": "2.0", "id": id, "method": "subscriptions/listen",
            "params": {"notifications": wanted.to_json(), "_meta": own_meta()}});
        self.coming = Some(Subscription {
            id,
            asked: wanted.clone(),
            granted: Interest::default(),
            since: Instant::now(),
        });
        vec![request.to_string()]
    }

    fn acknowledged(&mut self, mark: &str, filter: &str, next_id: &mut u64) -> Vec<String> {
        let Some(mut coming) = self.coming.take_if(|coming| is_mark(mark, coming.id)) else {
            return Vec::new();
        };
        coming.granted = Interest::read(filter);
        self.refused = None;
        let old = self.current.replace(coming);
        let mut lines: Vec<String> = old.map(|old| cancel(old.id)).into_iter().collect();
        lines.extend(self.step(next_id));
        lines
    }

    fn ended(&mut self, id: u64, answer: &Envelope<'_>, next_id: &mut u64) -> Option<Vec<String>> {
        if let Some(coming) = self.coming.take_if(|coming| coming.id == id) {
            let error = answer.error.map_or("{}", |error| error.get());
            let error = RawObject::parse(error).unwrap_or_default();
            let never = error.get("code") == Some(METHOD_NOT_FOUND.to_string().as_str());
            let text = error.get("message").and_then(unquote);
            let text = text.unwrap_or_else(|| "it ended the subscription at once".to_owned());
            let text = text.chars().take(500).collect();
            self.refused = Some(((!never).then_some(coming.asked), text));
        } else if let Some(current) = self.current.take_if(|current| current.id == id) {
            if current.since.elapsed() < LASTED {
                let text = "it ended the subscription soon".to_owned();
                self.refused = Some((Some(current.asked), text));
            }
        } else {
            return None;
        }
        Some(self.step(next_id))
    }

    /// Whether this is the id of a subscription of ours.
    #[must_use]
    pub fn has(&self, id: u64) -> bool {
        [&self.current, &self.coming]
            .into_iter()
            .flatten()
            .any(|subscription| subscription.id == id)
    }

    /// Gives up on a subscription that was not acknowledged in time, and on every later one.
    fn give_up(&mut self, now: Instant) -> Vec<String> {
        let late = |coming: &mut Subscription| now - coming.since >= ACKNOWLEDGED_WITHIN;
        let Some(coming) = self.coming.take_if(late) else {
            return Vec::new();
        };
        self.refused = Some((None, "it acknowledges no subscription".to_owned()));
        vec![cancel(coming.id)]
    }

    fn hears(&self, mark: &str) -> bool {
        [&self.current, &self.coming]
            .into_iter()
            .flatten()
            .any(|subscription| is_mark(mark, subscription.id))
    }

    /// Lets everybody who waits look again.
    pub fn nudge(&self) {
        self.changed.send_replace(());
    }
}

/// Whether a raw mark is this id; a server may have made a text of the number.
fn is_mark(mark: &str, id: u64) -> bool {
    mark.trim_matches('"').parse() == Ok(id)
}

fn cancel(id: u64) -> String {
    json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
        "params": {"requestId": id, "reason": "replaced, or not needed any more"}})
    .to_string()
}

fn send_all(wire: &Wire, lines: Vec<String>) {
    for line in lines {
        // A child that does not read will not tell news either.
        let _ = wire.send(line.into());
    }
}

/// The child acknowledged a subscription; `false` when it is none of ours.
pub fn acknowledged(wire: &Wire, mark: &str, params: Option<&str>) -> bool {
    let params = params.and_then(|raw| RawObject::parse(raw).ok());
    let params = params.unwrap_or_default();
    let filter = params.get("notifications").unwrap_or("{}");
    let lines = {
        let table = &mut *wire.table();
        if !table.news.hears(mark) {
            return false;
        }
        let lines = table.news.acknowledged(mark, filter, &mut table.next_id);
        table.news.nudge();
        lines
    };
    send_all(wire, lines);
    true
}

/// The child ended a subscription of ours, if the id is that of one.
pub fn ended(wire: &Wire, id: u64, answer: &Envelope<'_>) {
    let lines = {
        let table = &mut *wire.table();
        let lines = table.news.ended(id, answer, &mut table.next_id);
        table.news.nudge();
        lines
    };
    send_all(wire, lines.unwrap_or_default());
}

/// Whether a notification with this mark is news of a subscription of ours.
pub fn hears(wire: &Wire, mark: &str) -> bool {
    wire.table().news.hears(mark)
}

impl Upstream {
    /// From now on a stateless child must tell this; `None`: nothing.
    pub fn hear(&self, wanted: Option<Interest>) {
        let wire = &self.wire;
        let lines = {
            let table = &mut *wire.table();
            if table.failure().is_some() {
                return;
            }
            table.news.wanted = wanted;
            let lines = table.news.step(&mut table.next_id);
            table.news.nudge();
            lines
        };
        send_all(wire, lines);
    }

    /// What a stateless child has granted of what it must tell, once that is settled.
    ///
    /// # Errors
    /// When it refused, did not acknowledge within ten seconds, or is gone.
    pub async fn heard(&self) -> Result<Interest, UpstreamError> {
        let wire = &self.wire;
        let mut changed = wire.table().news.changed.subscribe();
        let settled = async {
            loop {
                {
                    let table = wire.table();
                    if let Some(failure) = table.failure() {
                        return Err(UpstreamError::Failed(failure));
                    }
                    let news = &table.news;
                    if news.is_settled() {
                        return match (&news.wanted, &news.current, &news.refused) {
                            (Some(wanted), _, Some((_, text))) if news.is_refused(wanted) => {
                                let text = format!("it refused to tell news: {text}");
                                Err(UpstreamError::Protocol(text))
                            }
                            (_, Some(current), _) => Ok(current.granted.clone()),
                            _ => Ok(Interest::default()),
                        };
                    }
                }
                if changed.changed().await.is_err() {
                    return Err(UpstreamError::Protocol("the connection ended".to_owned()));
                }
            }
        };
        if let Ok(settled) = timeout(ACKNOWLEDGED_WITHIN, settled).await {
            return settled;
        }
        // Whoever comes next must not wait as long.
        let lines = {
            let mut table = wire.table();
            let lines = table.news.give_up(Instant::now());
            table.news.nudge();
            lines
        };
        send_all(wire, lines);
        Err(UpstreamError::Timeout {
            method: "subscriptions/listen".to_owned(),
            waited_ms: u64::try_from(ACKNOWLEDGED_WITHIN.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interest(uris: &[&str]) -> Interest {
        Interest {
            kinds: [true, false, false],
            uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
        }
    }

    fn want(news: &mut News, id: &mut u64, wanted: Option<Interest>) -> Vec<String> {
        news.wanted = wanted;
        news.step(id)
    }

    #[test]
    fn a_wider_subscription_replaces_the_old_one_after_its_acknowledgement() {
        let (mut news, mut id) = (News::default(), 5);
        let sent = want(&mut news, &mut id, Some(interest(&[])));
        assert!(sent[0].contains("\"id\":5"), "{sent:?}");
        // Two changes before the acknowledgement are asked for at once after it.
        assert!(want(&mut news, &mut id, Some(interest(&["a"]))).is_empty());
        assert!(want(&mut news, &mut id, Some(interest(&["a", "b"]))).is_empty());
        assert!(!news.is_settled());
        let granted = r#"{"toolsListChanged":true}"#;
        let sent = news.acknowledged("5", granted, &mut id);
        assert_eq!(sent.len(), 1, "{sent:?}");
        assert!(sent[0].contains(r#"["a","b"]"#), "{sent:?}");
        assert!(news.hears("5") && news.hears("\"6\"") && !news.hears("7"));
        let sent = news.acknowledged("6", granted, &mut id);
        assert!(sent[0].contains("cancelled") && sent[0].contains("\"requestId\":5"));
        assert!(news.is_settled() && !news.hears("5"));
        assert_eq!(
            news.current.as_ref().map(|current| current.granted.clone()),
            Some(interest(&[]))
        );
        let sent = want(&mut news, &mut id, None);
        assert!(sent[0].contains("\"requestId\":6"), "{sent:?}");
        assert!(news.is_settled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_acknowledges_nothing_is_waited_for_once() {
        let (mut news, mut id) = (News::default(), 5);
        want(&mut news, &mut id, Some(interest(&[])));
        assert!(news.give_up(Instant::now()).is_empty(), "not yet");
        tokio::time::advance(ACKNOWLEDGED_WITHIN).await;
        let sent = news.give_up(Instant::now());
        assert!(sent[0].contains("\"requestId\":5"), "{sent:?}");
        assert!(want(&mut news, &mut id, Some(interest(&["a"]))).is_empty());
        assert!(news.is_settled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_not_asked_again_and_an_end_after_a_while_is() {
        let (mut news, mut id) = (News::default(), 5);
        let error = |code: i64| {
            format!(r#"{{"jsonrpc":"2.0","id":5,"error":{{"code":{code},"message":"no"}}}}"#)
        };
        let end = |news: &mut News, which: u64, text: &str, id: &mut u64| {
            let answer = Envelope::parse(text.as_bytes()).expect("a message");
            news.ended(which, &answer, id)
        };
        want(&mut news, &mut id, Some(interest(&["a"])));
        assert_eq!(end(&mut news, 9, &error(-1), &mut id), None);
        assert_eq!(end(&mut news, 5, &error(-1), &mut id), Some(Vec::new()));
        assert!(news.is_settled());
        let sent = want(&mut news, &mut id, Some(interest(&["b"])));
        assert_eq!(sent.len(), 1, "another wish may be granted");
        news.acknowledged("6", "{}", &mut id);
        let over = r#"{"jsonrpc":"2.0","id":6,"result":{}}"#;
        tokio::time::advance(LASTED).await;
        let sent = end(&mut news, 6, over, &mut id).expect("ours");
        assert!(sent[0].contains("\"id\":7"), "begun again: {sent:?}");
        news.acknowledged("7", "{}", &mut id);
        assert_eq!(end(&mut news, 7, over, &mut id), Some(Vec::new()));
        want(&mut news, &mut id, Some(interest(&["c"])));
        end(&mut news, 8, &error(-32_601), &mut id);
        let sent = want(&mut news, &mut id, Some(interest(&["d"])));
        assert!(sent.is_empty(), "it has no subscriptions at all: {sent:?}");
    }
}
