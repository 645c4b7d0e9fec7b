//! `subscriptions/listen`: what a child tells everybody, for stateless clients that asked for it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use crate::upstream::{
    Envelope, Era, Handshake, INTERNAL_ERROR, INVALID_PARAMS, Interest, Item, Mailbox, NEWS_KINDS,
    RawObject, Upstream, quote, result_message, splice,
};

use super::{
    Gateway, Message, Place, Reply, body::EventStream, ready, reply, session::SessionTable,
    session_wishes::SUBSCRIPTIONS_MAX,
};

/// Most such streams of one instance.
const LISTENERS_MAX: usize = 256;
const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// What one client wants to hear.
#[derive(Debug, Default, PartialEq, Eq)]
struct Filter {
    /// By the place in [`NEWS_KINDS`].
    kinds: [bool; NEWS_KINDS.len()],
    uris: HashSet<String>,
    /// It names something that we do not know, such as what an extension defines.
    is_strange: bool,
}

impl Filter {
    /// What is wanted of what the server promises.
    fn read(params: &str, handshake: &Handshake) -> Result<Self, String> {
        let params = RawObject::parse(params).map_err(|error| error.to_string())?;
        let wanted: Value = params
            .get("notifications")
            .and_then(|raw| serde_json::from_str(raw).ok())
            .filter(Value::is_object)
            .ok_or("subscriptions/listen needs the object params.notifications.")?;
        let known = |member: &String| {
            member == "resourceSubscriptions"
                || NEWS_KINDS.iter().any(|(known, ..)| known == member)
        };
        let mut filter = Self {
            is_strange: !wanted
                .as_object()
                .is_some_and(|wanted| wanted.keys().all(known)),
            ..Self::default()
        };
        for (has, (member, capability, _)) in filter.kinds.iter_mut().zip(NEWS_KINDS) {
            *has = wanted[member] == true && handshake.promises(capability, "listChanged");
        }
        if let Some(uris) = wanted.get("resourceSubscriptions") {
            let uris: Vec<String> = serde_json::from_value(uris.clone()).map_err(
                |_| "params.notifications.resourceSubscriptions must be a list of texts.",
            )?;
            if uris.len() > SUBSCRIPTIONS_MAX {
                return Err(format!(
                    "params.notifications.resourceSubscriptions has more than {SUBSCRIPTIONS_MAX} entries."
                ));
            }
            if handshake.promises("resources", "subscribe") {
                filter.uris = uris.into_iter().collect();
            }
        }
        Ok(filter)
    }

    /// What of it a server serves that grants this much.
    fn within(&self, granted: &Interest) -> Interest {
        let mut within = Interest::default();
        for (index, kind) in within.kinds.iter_mut().enumerate() {
            *kind = self.kinds[index] && granted.kinds[index];
        }
        within.uris = self
            .uris
            .iter()
            .filter(|uri| granted.uris.contains(*uri))
            .cloned()
            .collect();
        within
    }

    fn all(&self) -> Interest {
        Interest {
            kinds: self.kinds,
            uris: self.uris.iter().cloned().collect(),
        }
    }

    fn wants(&self, method: &str, updated: Option<&str>) -> bool {
        if let Some(uri) = updated {
            return self.uris.contains(uri);
        }
        let mut kinds = self.kinds.iter().zip(NEWS_KINDS);
        kinds.any(|(has, (_, _, news))| *has && news == method)
    }
}

/// One open stream.
struct Listener {
    /// The raw id of its request, which every message carries.
    tag: Box<str>,
    filter: Filter,
    stream: Mailbox,
}

impl Listener {
    /// The final result, after which the stream ends.
    fn end(&self) {
        let tag = &self.tag;
        let result =
            format!("{{\"resultType\":\"complete\",\"_meta\":{{\"{META_SUBSCRIPTION}\":{tag}}}}}");
        self.stream.answer(result_message(tag, &result));
    }

    fn tagged(&self, message: &[u8]) -> Option<Bytes> {
        let envelope = Envelope::parse(message).ok()?;
        let raw = envelope.params.map_or("{}", |params| params.get());
        let mut params = RawObject::parse(raw).ok()?;
        let meta = params.get("_meta").unwrap_or("{}").to_owned();
        let mut meta = RawObject::parse(&meta).ok()?;
        meta.set(META_SUBSCRIPTION, &*self.tag);
        params.set("_meta", meta.to_json());
        let params = params.to_json();
        Some(match envelope.params {
            Some(raw) => splice(message, &mut [(raw, &params)]).into(),
            None => {
                let method = quote(envelope.method());
                format!("{{\"jsonrpc\":\"2.0\",\"method\":{method},\"params\":{params}}}").into()
            }
        })
    }
}

/// The open streams of one instance.
#[derive(Default)]
pub struct Listeners(Mutex<(u64, HashMap<u64, Arc<Listener>>)>);

impl Listeners {
    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<u64, Arc<Listener>>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, tag: &str, filter: Filter) -> Option<(u64, Arc<Listener>)> {
        let mut open = self.lock();
        if open.1.len() >= LISTENERS_MAX {
            return None;
        }
        open.0 += 1;
        let number = open.0;
        let listener = Arc::new(Listener {
            tag: tag.into(),
            filter,
            stream: Mailbox::default(),
        });
        open.1.insert(number, listener.clone());
        Some((number, listener))
    }

    /// Hands a notification to those who asked for it; `updated`: the resource that it is about.
    pub fn tell(&self, method: &str, updated: Option<&str>, message: &[u8]) {
        for listener in self.lock().1.values() {
            if listener.filter.wants(method, updated)
                && let Some(tagged) = listener.tagged(message)
            {
                listener.stream.push(tagged);
            }
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().1.is_empty()
    }

    /// Whether a stream wants to hear of this resource.
    #[must_use]
    pub fn subscribe_to(&self, uri: &str) -> bool {
        let open = self.lock();
        open.1
            .values()
            .any(|listener| listener.filter.uris.contains(uri))
    }

    /// Every resource that a stream wants to hear of.
    pub fn uris(&self, into: &mut HashSet<String>) {
        for listener in self.lock().1.values() {
            into.extend(listener.filter.uris.iter().cloned());
        }
    }

    /// Ends every stream in order.
    pub fn end_all(&self) {
        for (_, listener) in self.lock().1.drain() {
            listener.end();
        }
    }
}

/// The stream of one listener; dropping it ends the subscription.
pub struct ListenStream {
    number: u64,
    listener: Arc<Listener>,
    place: Arc<Place>,
}

impl ListenStream {
    /// Lets the final result follow what waits.
    pub fn end(&self) {
        self.listener.end();
    }

    /// The next message; `None` after the final result.
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        self.listener.stream.poll_next(cx)
    }
}

impl Drop for ListenStream {
    fn drop(&mut self) {
        let table: &SessionTable = &self.place.table;
        table.listeners.lock().1.remove(&self.number);
        let Some(upstream) = ready::present(&self.place.route) else {
            return;
        };
        if upstream.era() == Era::Modern {
            return self.place.renew_news(&upstream);
        }
        for uri in &self.listener.filter.uris {
            if !table.has_subscriber(uri) {
                upstream.ask_aside("resources/unsubscribe", &json!({"uri": uri}));
            }
        }
    }
}

impl Gateway {
    /// Answers `subscriptions/listen` with a stream of its own, whatever the child speaks: it outlives the child. Without
    /// a connection it is granted what only we can tell meanwhile: that a list changed.
    pub(super) async fn listen(
        &self,
        place: &Arc<Place>,
        message: &Message<'_>,
        upstream: Option<&Upstream>,
        handshake: &Handshake,
    ) -> Listening {
        let id = message.id;
        let refused = |status, code, text: &str| {
            Listening::Answered(Box::new(reply::error(status, id, code, text)))
        };
        let params = message.envelope.params.map_or("{}", |params| params.get());
        let filter = match Filter::read(params, handshake) {
            Ok(filter) => filter,
            Err(text) => return refused(StatusCode::BAD_REQUEST, INVALID_PARAMS, &text),
        };
        let is_stateless = handshake.era == Era::Modern;
        let needs_child = upstream.is_none() && !filter.uris.is_empty();
        if needs_child || (is_stateless && filter.is_strange) {
            return Listening::OfTheChild;
        }
        if let Some(upstream) = upstream.filter(|_| !is_stateless) {
            upstream.hear_standing();
            let fresh = filter.uris.iter();
            for uri in fresh.filter(|uri| !place.table.has_subscriber(uri)) {
                upstream.ask_aside("resources/subscribe", &json!({"uri": uri}));
            }
        }
        let Some((number, listener)) = place.table.listeners.open(id, filter) else {
            let text = format!(
                "This instance has {LISTENERS_MAX} such streams, the most that it may have."
            );
            return refused(StatusCode::SERVICE_UNAVAILABLE, INTERNAL_ERROR, &text);
        };
        // From here on, leaving without an answer ends it.
        let stream = ListenStream {
            number,
            listener,
            place: place.clone(),
        };
        let filter = &stream.listener.filter;
        let granted = if let Some(upstream) = upstream.filter(|_| is_stateless) {
            place.renew_news(upstream);
            match upstream.heard().await {
                Ok(granted) => filter.within(&granted),
                Err(error) => {
                    let body = reply::upstream_message(id, &error);
                    return Listening::Answered(Box::new(reply::json(StatusCode::OK, body)));
                }
            }
        } else {
            filter.all()
        };
        let granted = granted.to_json();
        let acknowledged = format!(
            "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/subscriptions/acknowledged\",\"params\":{{\"_meta\":{{\"{META_SUBSCRIPTION}\":{id}}},\"notifications\":{granted}}}}}"
        );
        let events = EventStream::of_listener(stream, Item::Message(acknowledged.into()));
        Listening::Answered(Box::new(reply::events(events)))
    }
}

/// What becomes of `subscriptions/listen`.
pub enum Listening {
    /// This is the answer, mostly a stream.
    Answered(Box<Reply>),
    /// It asks for what only the child knows: it goes there as it is.
    OfTheChild,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::task::Waker;

    use super::*;

    fn handshake() -> Handshake {
        let raw = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"prompts":{},"resources":{"subscribe":true}}}"#;
        Handshake::read(Era::Legacy, raw).unwrap()
    }

    #[test]
    fn only_what_the_server_promises_is_granted() {
        let asked = r#"{"notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":false,"resourceSubscriptions":["a:b"]}}"#;
        let filter = Filter::read(asked, &handshake()).unwrap();
        assert_eq!(
            filter.all().to_json(),
            json!({"toolsListChanged": true, "resourceSubscriptions": ["a:b"]})
        );
        assert!(filter.wants("notifications/tools/list_changed", None));
        assert!(!filter.wants("notifications/prompts/list_changed", None));
        assert!(filter.wants("notifications/resources/updated", Some("a:b")));
        assert!(!filter.wants("notifications/resources/updated", Some("a:c")));
        assert!(Filter::read("{}", &handshake()).is_err());
        let wrong = r#"{"notifications":{"resourceSubscriptions":[5]}}"#;
        assert!(Filter::read(wrong, &handshake()).is_err());
    }

    #[test]
    fn news_carry_the_id_of_their_stream_and_the_end_is_told() {
        let listeners = Listeners::default();
        let asked = r#"{"notifications":{"toolsListChanged":true}}"#;
        let filter = Filter::read(asked, &handshake()).unwrap();
        let (_, listener) = listeners.open("\"s\"", filter).unwrap();
        let method = "notifications/tools/list_changed";
        let bare = format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#);
        listeners.tell(method, None, bare.as_bytes());
        let full = format!(r#"{{"method":"{method}","jsonrpc":"2.0","params":{{"n":1.0}}}}"#);
        listeners.tell(method, None, full.as_bytes());
        listeners.tell("notifications/other", None, full.as_bytes());
        listeners.end_all();
        let next = || {
            let mut cx = Context::from_waker(Waker::noop());
            match listener.stream.poll_next(&mut cx) {
                Poll::Ready(Some(Item::Message(text) | Item::Answer(text))) => {
                    String::from_utf8(text.to_vec()).unwrap()
                }
                other => panic!("{other:?}"),
            }
        };
        let meta = r#""_meta":{"io.modelcontextprotocol/subscriptionId":"s"}"#;
        let expected = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{{meta}}}}}"#);
        assert_eq!(next(), expected);
        let expected =
            format!(r#"{{"method":"{method}","jsonrpc":"2.0","params":{{"n":1.0,{meta}}}}}"#);
        assert_eq!(next(), expected);
        let expected =
            format!(r#"{{"jsonrpc":"2.0","id":"s","result":{{"resultType":"complete",{meta}}}}}"#);
        assert_eq!(next(), expected);
    }
}
