//! Answers in place of a server that sleeps or starts: what it said of itself, and its lists, from the database; and
//! streams of news, which are ours in any case. Nothing is launched or awaited for them.
//!
//! A server that answers is always asked itself. What a token may see of a list is decided as for the server's own
//! answer: by the lens that the reply goes through.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, request::Parts};

use crate::{
    domain::{
        capability::ListKind,
        id::{Generation, InstanceId},
        state::StatusWord,
    },
    supervisor::route::RouteState,
    upstream::{Envelope, Era, Kind, Upstream, result_message},
};

use super::{
    Accepts, Gateway, Message, Place, Reply, SESSION_HEADER,
    listen::Listening,
    reply, scope,
    session::{Session, SessionTable},
    session_era::{one_answer, open_session_of},
    stateless,
};

/// What is answered without the server.
pub enum InPlace {
    /// A session began, with this answer.
    Opened(Arc<Session>, Bytes),
    /// This answer.
    Answer(Bytes),
    /// Nothing is to be said.
    Taken,
    /// A stream of news.
    Stream(Box<Reply>),
    /// The request is not as it must be.
    Refused(Box<Reply>),
}

/// What can be answered without the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Initialize,
    Discovery,
    List(ListKind),
    /// To be told when a list changes.
    Listen,
    /// Whether we live.
    Ping,
    /// What no server needs to hear.
    Notice,
    /// What a server needs to hear that has calls under way.
    NoticeOfCall,
}

/// Why the server does not answer itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absence {
    /// Or frozen.
    Asleep,
    Starting,
}

impl Asked {
    /// The words by which answers from the cache are counted.
    pub const METHODS: [&'static str; METHODS_COUNT] = [
        "initialize",
        "server/discover",
        ListKind::ALL[0].method(),
        ListKind::ALL[1].method(),
        ListKind::ALL[2].method(),
        ListKind::ALL[3].method(),
    ];

    fn read(
        kind: Kind,
        envelope: &Envelope<'_>,
        stateless: bool,
        in_session: bool,
    ) -> Option<Self> {
        let method = envelope.method();
        // A cursor is the server's own, of another list perhaps.
        let whole = |kind| {
            let is_whole = envelope.params.is_none()
                || envelope
                    .parameters()
                    .is_ok_and(|params| params.0.iter().all(|(key, _)| key == "_meta"));
            is_whole.then_some(Self::List(kind))
        };
        let list = || ListKind::of_method(method).and_then(whole);
        match (kind, method) {
            (Kind::Request, "server/discover") if stateless => Some(Self::Discovery),
            (Kind::Request, "subscriptions/listen") if stateless => Some(Self::Listen),
            (Kind::Request, _) if stateless => list(),
            (Kind::Request, "initialize") => Some(Self::Initialize),
            (Kind::Request, "ping") if in_session => Some(Self::Ping),
            (Kind::Request, _) if in_session => list(),
            (Kind::Notification, method) if in_session => match method {
                "notifications/initialized" | "notifications/roots/list_changed" => {
                    Some(Self::Notice)
                }
                "notifications/cancelled" | "notifications/progress" => Some(Self::NoticeOfCall),
                _ => None,
            },
            _ => None,
        }
    }

    /// Its place in [`Self::METHODS`].
    fn place(self) -> Option<usize> {
        match self {
            Self::Initialize => Some(0),
            Self::Discovery => Some(1),
            Self::List(kind) => Some(2 + kind.place()),
            Self::Listen | Self::Ping | Self::Notice | Self::NoticeOfCall => None,
        }
    }

    /// Whether it can be answered during such an absence, without anything that the server ever said; `None`: it takes
    /// what the server said.
    fn by_ourselves(self, absence: Absence) -> Option<bool> {
        match self {
            Self::Initialize | Self::Discovery | Self::List(_) | Self::Listen => None,
            Self::Notice => Some(true),
            // While it starts, a call may wait that was begun already.
            Self::Ping | Self::NoticeOfCall => Some(absence == Absence::Asleep),
        }
    }
}

/// The words by which answers from the cache are counted.
pub const METHODS: [&str; METHODS_COUNT] = Asked::METHODS;

/// How many words these are: a plain number, since a length that calls functions is a cycle for an optimizing compiler.
pub const METHODS_COUNT: usize = 6;

fn absence(state: &RouteState) -> Option<Absence> {
    match state {
        RouteState::Frozen { .. }
        | RouteState::Down {
            word: StatusWord::Asleep,
            ..
        } => Some(Absence::Asleep),
        RouteState::Starting => Some(Absence::Starting),
        RouteState::Ready { .. } | RouteState::Down { .. } | RouteState::Gone => None,
    }
}

impl Gateway {
    /// The connection for a request, if there is one at this moment: to the child of its session's own, else to the one
    /// that all share.
    pub(super) fn ready_at_once(
        &self,
        place: &Place,
        session: Option<&Session>,
    ) -> Option<Arc<Upstream>> {
        if let Some(own) = session.and_then(|session| session.own_upstream()) {
            return Some(own.clone());
        }
        match &*place.route.state.borrow() {
            RouteState::Ready {
                upstream,
                generation,
            } => {
                place.attach(upstream, *generation);
                Some(upstream.clone())
            }
            _ => None,
        }
    }

    /// Answers in place of the server that shares this route, if it is not there and this can be answered. `parts`: of
    /// the request, where its headers tell something.
    pub(super) async fn in_place(
        &self,
        place: &Arc<Place>,
        parts: Option<&Parts>,
        message: &Message<'_>,
        stateless: bool,
        session: Option<&Arc<Session>>,
    ) -> Option<InPlace> {
        let absence = absence(&place.route.state.borrow())?;
        let (id, envelope) = (message.id, message.envelope);
        let asked = Asked::read(message.kind, envelope, stateless, session.is_some())?;
        let by_ourselves = asked.by_ourselves(absence);
        let its_own = session.is_some_and(|session| session.has_member);
        if by_ourselves == Some(false) || its_own {
            return None;
        }
        if by_ourselves.is_none() && (!place.route.recall.may() || place.serves_members()) {
            return None;
        }
        if let Err(refused) = scope::check_form(message.secret, id, message.source, envelope) {
            return Some(InPlace::Refused(refused));
        }
        if let Some(parts) = parts {
            if stateless {
                if let Err(refusal) = stateless::check(&parts.headers, envelope) {
                    return Some(InPlace::Refused(Box::new(refusal.reply(id))));
                }
            } else if asked != Asked::Initialize
                && let Err(refused) =
                    open_session_of(place, parts, (id, message.secret), session.cloned())
            {
                return Some(InPlace::Refused(refused));
            }
        }
        let list = match asked {
            Asked::Ping => return Some(InPlace::Answer(result_message(id, "{}"))),
            Asked::Notice | Asked::NoticeOfCall => return Some(InPlace::Taken),
            Asked::List(kind) => Some(kind),
            Asked::Initialize | Asked::Discovery | Asked::Listen => None,
        };
        let recalled = place.route.recall.ask(list).await?;
        let handshake = &recalled.handshake;
        let answered = match asked {
            Asked::Initialize => match self.enter_session(place, message, handshake, None).await {
                Ok((session, answer)) => InPlace::Opened(session, answer),
                Err(refused) => InPlace::Refused(refused),
            },
            Asked::Discovery => {
                let result = handshake.recalled_discovery(recalled.age_ms);
                InPlace::Answer(result_message(id, &result))
            }
            Asked::Listen => match Box::pin(self.listen(place, message, None, handshake)).await {
                Listening::Answered(answer) if answer.status().is_success() => {
                    InPlace::Stream(answer)
                }
                Listening::Answered(refused) => InPlace::Refused(refused),
                Listening::OfTheChild => return None,
            },
            _ => {
                let era = if stateless { Era::Modern } else { Era::Legacy };
                let list = recalled.list.as_deref()?;
                let result = handshake.recalled_list(list, era, recalled.age_ms);
                InPlace::Answer(result_message(id, &result))
            }
        };
        if let Some(method) = asked.place()
            && !matches!(answered, InPlace::Refused(_))
        {
            self.measures.recalled(method);
        }
        Some(answered)
    }

    /// As a reply over HTTP.
    pub(super) fn reply_in_place(place: &Place, parts: &Parts, answered: InPlace) -> Reply {
        match answered {
            InPlace::Opened(session, answer) => opened(place, &session, answer),
            InPlace::Answer(answer) => {
                one_answer(answer, StatusCode::OK, Accepts::read(&parts.headers))
            }
            InPlace::Taken => reply::empty(StatusCode::ACCEPTED),
            InPlace::Stream(reply) | InPlace::Refused(reply) => *reply,
        }
    }

    /// A launch brought other lists than were answered before it: the clients must list again.
    pub(super) fn tell_lists_changed(
        &self,
        id: InstanceId,
        launch: Generation,
        news: &[&'static str],
    ) {
        let Some(place) = self.places().get(&id).cloned() else {
            return;
        };
        if let RouteState::Ready {
            upstream,
            generation,
        } = &*place.route.state.borrow()
        {
            place.attach(upstream, *generation);
        }
        for method in news {
            place.table.tell_once(launch, method);
        }
    }
}

/// The answer to `initialize` with its new session, which outlives this daemon.
pub fn opened(place: &Place, session: &Session, answer: Bytes) -> Reply {
    place.table.keep(session);
    let mut answer = reply::json(StatusCode::OK, answer);
    if let Ok(value) = HeaderValue::from_str(&session.id()) {
        answer.headers_mut().insert(&SESSION_HEADER, value);
    }
    answer
}

impl Place {
    fn serves_members(&self) -> bool {
        self.route.members.load().is_some()
    }
}

impl SessionTable {
    /// Tells all clients that a list differs from what they were told before this launch, once for each launch.
    pub(super) fn tell_once(&self, launch: Generation, method: &'static str) {
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.0 != launch {
                *told = (launch, Vec::new());
            }
            if told.1.contains(&method) {
                return;
            }
            told.1.push(method);
        }
        let message = format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{method}\"}}");
        crate::upstream::Downstream::notification(self, method, None, message.into());
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn asked(text: &str, stateless: bool, in_session: bool) -> Option<Asked> {
        let envelope = Envelope::parse(text.as_bytes()).unwrap();
        Asked::read(envelope.kind().unwrap(), &envelope, stateless, in_session)
    }

    #[test]
    fn only_what_the_server_said_before_is_answered_for_it() {
        let list = r#"{"jsonrpc":"2.0","id":1,"method":"prompts/list"}"#;
        let prompts = Some(Asked::List(ListKind::Prompts));
        assert_eq!(asked(list, true, false), prompts);
        assert_eq!(asked(list, false, true), prompts);
        assert_eq!(asked(list, false, false), None);
        for (params, found) in [
            ("{}", prompts),
            (r#"{"_meta":{"progressToken":1}}"#, prompts),
            (r#"{"cursor":"2"}"#, None),
            ("[]", None),
        ] {
            let text =
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"prompts/list","params":{params}}}"#);
            assert_eq!(asked(&text, false, true), found, "{params}");
        }
        let request = |method: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#);
        for (method, without, within, stateless) in [
            (
                "initialize",
                Some(Asked::Initialize),
                Some(Asked::Initialize),
                None,
            ),
            ("ping", None, Some(Asked::Ping), None),
            ("server/discover", None, None, Some(Asked::Discovery)),
            ("tools/call", None, None, None),
            ("logging/setLevel", None, None, None),
            ("subscriptions/listen", None, None, Some(Asked::Listen)),
        ] {
            let text = request(method);
            assert_eq!(asked(&text, false, false), without, "{method}");
            assert_eq!(asked(&text, false, true), within, "{method}");
            assert_eq!(asked(&text, true, false), stateless, "{method}");
        }
        let notice = |method: &str| format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#);
        for (method, found) in [
            ("notifications/initialized", Some(Asked::Notice)),
            ("notifications/cancelled", Some(Asked::NoticeOfCall)),
            ("notifications/other", None),
        ] {
            assert_eq!(asked(&notice(method), false, true), found, "{method}");
            assert_eq!(asked(&notice(method), false, false), None, "{method}");
        }
    }

    #[test]
    fn what_a_waiting_call_needs_is_kept_for_the_server_that_starts() {
        for asked in [Asked::Ping, Asked::NoticeOfCall] {
            assert_eq!(asked.by_ourselves(Absence::Starting), Some(false));
            assert_eq!(asked.by_ourselves(Absence::Asleep), Some(true));
        }
        assert_eq!(Asked::Notice.by_ourselves(Absence::Starting), Some(true));
        assert_eq!(Asked::Initialize.by_ourselves(Absence::Asleep), None);
    }

    #[test]
    fn every_answer_is_counted_by_its_method() {
        let lists = ListKind::ALL.map(Asked::List);
        for asked in [Asked::Initialize, Asked::Discovery]
            .into_iter()
            .chain(lists)
        {
            let method = METHODS[asked.place().unwrap()];
            let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#);
            let stateless = asked == Asked::Discovery;
            assert_eq!(super::tests::asked(&text, stateless, true), Some(asked));
        }
    }
}
