//! What is under way between one child and its clients: calls to it, and its own requests to clients.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    completion::Completion, failure::Failure, handshake::Era, id_hash::ByOurId, mailbox::Mailbox,
    news::News, rounds::Crossing, translate::Declared,
};
use crate::domain::template::UnclaimedRequests;

/// Most calls under way at one child.
pub const CALLS_MAX: usize = 1_024;
/// Most requests of a child that wait for a client.
pub const ASKED_MAX: usize = 256;

/// Identifies one client session towards an upstream; 0 is the daemon itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(pub u64);

impl SessionKey {
    /// The daemon's own calls: handshake and probes.
    pub const DAEMON: Self = Self(0);
}

/// Who calls, and what it can be asked in return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its session; a client without sessions gets a fresh key per call.
    pub session: SessionKey,
    /// It declared `sampling`.
    pub sampling: bool,
    /// It declared `elicitation`.
    pub elicitation: bool,
    /// It declared `roots`.
    pub roots: bool,
    /// What it speaks; a stateless client cannot be sent requests.
    pub era: Era,
    /// The least severe log message it wants, as an index into [`LOG_LEVELS`]; `None`: it did not say.
    pub log_level: Option<u8>,
    /// What it told of itself in `initialize`, which a stateless server must hear with every request.
    pub declared: Option<Arc<Declared>>,
}

impl Caller {
    /// A caller that declared nothing.
    #[must_use]
    pub fn plain(session: SessionKey) -> Self {
        Self {
            session,
            sampling: false,
            elicitation: false,
            roots: false,
            era: Era::Legacy,
            log_level: None,
            declared: None,
        }
    }

    /// Whether the server may ask this of it. A stateless client is asked by an input-required result, which knows
    /// three kinds of request only.
    #[must_use]
    pub fn can_answer(&self, method: &str) -> bool {
        match method {
            "sampling/createMessage" => self.sampling,
            "elicitation/create" => self.elicitation,
            "roots/list" => self.roots,
            _ => self.era == Era::Legacy,
        }
    }

    /// Whether it wants a log message of this level; a level we do not know passes.
    #[must_use]
    pub fn wants_level(&self, level: Option<u8>) -> bool {
        wants_level(self.log_level, level)
    }
}

/// Whether a log message of this level passes; one whose level is not known does, and to whom said nothing all do.
#[must_use]
pub fn wants_level(least: Option<u8>, level: Option<u8>) -> bool {
    match (least, level) {
        (Some(least), Some(level)) => level >= least,
        _ => true,
    }
}

/// Log levels of MCP (RFC 5424), least severe first.
pub const LOG_LEVELS: [&str; 8] = [
    "debug",
    "info",
    "notice",
    "warning",
    "error",
    "critical",
    "alert",
    "emergency",
];

/// One call under way.
pub struct InFlight {
    /// Who called.
    pub caller: Caller,
    /// The client's own id, raw JSON.
    pub client_id: Box<str>,
    /// The client's own progress token, raw JSON.
    pub progress_token: Option<Box<str>>,
    /// Where answers and notifications of this call go.
    pub mailbox: Arc<Mailbox>,
    /// The last sign of life.
    pub touched: Instant,
    /// Its client was told to come back with input: the server waits for that and does nothing.
    pub parked: bool,
    /// The server asked for this capability, which the client did not declare.
    pub lacking: Option<&'static str>,
    /// What it takes to bring a call of a session-era client to its end at a stateless server.
    pub crossing: Option<Box<Crossing>>,
    /// What completes the answer of a session-era server for a stateless client.
    pub completion: Option<Completion>,
    /// It has no time limit: a subscription of a stateless client.
    pub endless: bool,
}

/// Where a question to a client comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A request of the child, with this id.
    Child(Box<str>),
    /// The input-required result of this call, by this key.
    Round(u64, Box<str>),
}

/// A question that waits for a client's response.
pub(super) struct Asked {
    pub(super) origin: Origin,
    session: SessionKey,
    mailbox: Arc<Mailbox>,
}

impl Asked {
    /// Whether it is a question of an input-required result, to the reader of this mailbox.
    pub(super) fn is_of_round_in(&self, mailbox: &Arc<Mailbox>) -> bool {
        matches!(self.origin, Origin::Round(..)) && Arc::ptr_eq(&self.mailbox, mailbox)
    }
}

/// To whom something belongs that names no call.
pub enum Home<'a> {
    /// No call is under way.
    Nobody,
    /// Every call under way is of one session: its newest call.
    Only(u64, &'a InFlight),
    /// Several sessions have calls under way.
    Ambiguous,
}

/// The two tables, and the end of it all.
pub struct Table {
    pub(super) next_id: u64,
    pub(super) calls: HashMap<u64, InFlight, ByOurId>,
    pub(super) asked: BTreeMap<u64, Asked>,
    /// What the child tells of changes; for a stateless one.
    pub(super) news: News,
    unclaimed: UnclaimedRequests,
    failure: Option<Arc<Failure>>,
    /// When a call of a client ended last.
    last_ended: Option<Instant>,
}

/// Why a call was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The child is gone.
    Failed(Arc<Failure>),
    /// [`CALLS_MAX`] calls are under way.
    Full,
}

impl Table {
    /// An empty table whose ids start at `first_id`, which must be larger than any id of a former daemon.
    #[must_use]
    pub fn new(first_id: u64, unclaimed: UnclaimedRequests) -> Self {
        Self {
            next_id: first_id,
            calls: HashMap::default(),
            asked: BTreeMap::new(),
            news: News::default(),
            unclaimed,
            failure: None,
            last_ended: None,
        }
    }

    /// Takes a call in; answers the id towards the child.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn begin(&mut self, call: InFlight) -> Result<u64, Refused> {
        if let Some(failure) = &self.failure {
            return Err(Refused::Failed(failure.clone()));
        }
        if self.calls.len() >= CALLS_MAX {
            return Err(Refused::Full);
        }
        let id = self.next_id;
        self.next_id += 1;
        self.calls.insert(id, call);
        Ok(id)
    }

    /// Takes out the calls without a sign of life since `before`; the waiting ones and the abandoned ones alike.
    pub fn overdue(&mut self, before: Instant) -> Vec<(u64, InFlight)> {
        self.calls
            .extract_if(|_, call| !call.endless && call.touched <= before)
            .collect()
    }

    /// Takes a call out.
    pub fn end(&mut self, id: u64) -> Option<InFlight> {
        let call = self.calls.remove(&id);
        if call
            .as_ref()
            .is_some_and(|call| call.caller.session != SessionKey::DAEMON)
        {
            self.last_ended = Some(Instant::now());
        }
        // A burst must not hold its memory for the rest of an instance's life.
        if self.calls.is_empty() && self.calls.capacity() > 64 {
            self.calls.shrink_to(16);
        }
        call
    }

    /// Lets every caller look at the clock.
    pub fn nudge_all(&self) {
        for call in self.calls.values() {
            call.mailbox.nudge();
        }
    }

    /// The call with this id, marked as alive.
    pub fn touch(&mut self, id: u64, now: Instant) -> Option<&InFlight> {
        let call = self.calls.get_mut(&id)?;
        call.touched = now;
        Some(call)
    }

    /// The id towards the child of a client's call.
    #[must_use]
    pub fn find(&self, session: SessionKey, client_id: &str) -> Option<u64> {
        self.calls
            .iter()
            .find(|(_, call)| call.caller.session == session && *call.client_id == *client_id)
            .map(|(id, _)| *id)
    }

    /// How many calls of clients are under way.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// How many calls of clients are under way, without those of the daemon itself.
    #[must_use]
    pub fn client_calls(&self) -> usize {
        let sessions = self.calls.values().map(|call| call.caller.session);
        sessions.filter(|one| *one != SessionKey::DAEMON).count()
    }

    /// When a call of a client ended last; `None`: none did yet.
    #[must_use]
    pub fn last_ended(&self) -> Option<Instant> {
        self.last_ended
    }

    /// Whether a session has a call under way.
    #[must_use]
    pub fn is_calling(&self, session: SessionKey) -> bool {
        self.calls
            .values()
            .any(|call| call.caller.session == session)
    }

    /// To whom a request of the child belongs. A parked call is at rest until its client answers, so another one
    /// goes before it. Among several clients the template's policy decides.
    #[must_use]
    pub fn home_of_request(&self, method: &str) -> Home<'_> {
        let found = match self.home_among(|call| !call.parked) {
            Home::Nobody => self.home(),
            found => found,
        };
        match (found, self.unclaimed) {
            (Home::Ambiguous, UnclaimedRequests::NewestCall) => {
                let newest = self
                    .calls
                    .iter()
                    .filter(|(_, call)| !call.parked && call.caller.can_answer(method))
                    .max_by_key(|(id, _)| **id);
                newest.map_or(Home::Ambiguous, |(id, call)| Home::Only(*id, call))
            }
            (found, _) => found,
        }
    }

    /// To whom a message of the child belongs that came with this call.
    #[must_use]
    pub fn home_of(&self, id: u64) -> Home<'_> {
        match self.calls.get(&id) {
            Some(call) => Home::Only(id, call),
            None => Home::Nobody,
        }
    }

    /// Whether a call, or a subscription of ours, waits for its answer.
    #[must_use]
    pub fn is_under_way(&self, id: u64) -> bool {
        self.calls.contains_key(&id) || self.news.has(id)
    }

    /// To whom a message of the child belongs that names no call.
    #[must_use]
    pub fn home(&self) -> Home<'_> {
        self.home_among(|_| true)
    }

    fn home_among(&self, counts: impl Fn(&InFlight) -> bool) -> Home<'_> {
        let mut newest: Option<(u64, &InFlight)> = None;
        for (id, call) in &self.calls {
            if call.caller.session == SessionKey::DAEMON || !counts(call) {
                continue;
            }
            match newest {
                Some((_, known)) if known.caller.session != call.caller.session => {
                    return Home::Ambiguous;
                }
                Some((known_id, _)) if known_id > *id => {}
                _ => newest = Some((*id, call)),
            }
        }
        newest.map_or(Home::Nobody, |(id, call)| Home::Only(id, call))
    }

    /// Remembers what the client of a call would have had to declare.
    pub fn lacks(&mut self, id: u64, capability: &'static str) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.lacking = Some(capability);
        }
    }

    /// Parks a call, or lets it go on.
    pub fn park(&mut self, id: u64, parked: bool) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.parked = parked;
        }
    }

    /// Gives a call the progress token of its client's next try.
    pub fn set_progress_token(&mut self, id: u64, token: Option<Box<str>>) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.progress_token = token;
        }
    }

    /// The child's own id of a request that waits for this session.
    #[must_use]
    pub fn asked_by(&self, session: SessionKey, id: u64) -> Option<&str> {
        match self.asked.get(&id)? {
            Asked {
                origin: Origin::Child(child_id),
                session: asked,
                ..
            } if *asked == session => Some(child_id),
            _ => None,
        }
    }

    /// Remembers a question; answers the id that the client will see.
    ///
    /// # Errors
    /// The origin back, when too many wait already.
    pub fn ask(
        &mut self,
        origin: Origin,
        session: SessionKey,
        mailbox: Arc<Mailbox>,
    ) -> Result<u64, Origin> {
        if self.asked.len() >= ASKED_MAX {
            return Err(origin);
        }
        let id = self.next_id;
        self.next_id += 1;
        self.asked.insert(
            id,
            Asked {
                origin,
                session,
                mailbox,
            },
        );
        Ok(id)
    }

    /// Where the question came from that this session answers; once only.
    pub fn answered(&mut self, session: SessionKey, id: u64) -> Option<Origin> {
        if self.asked.get(&id)?.session != session {
            return None;
        }
        self.asked.remove(&id).map(|asked| asked.origin)
    }

    /// The child takes its request back: the id that the client knows, and where to tell it.
    pub fn taken_back(&mut self, child_id: &str) -> Option<(u64, Arc<Mailbox>)> {
        let id = *self
            .asked
            .iter()
            .find(|(_, asked)| matches!(&asked.origin, Origin::Child(id) if **id == *child_id))?
            .0;
        self.asked.remove(&id).map(|asked| (id, asked.mailbox))
    }

    /// Drops what waits for a session that ended; answers where it came from.
    pub fn forget_session(&mut self, session: SessionKey) -> Vec<Origin> {
        let gone: Vec<u64> = self
            .asked
            .iter()
            .filter(|(_, asked)| asked.session == session)
            .map(|(id, _)| *id)
            .collect();
        gone.into_iter()
            .filter_map(|id| self.asked.remove(&id))
            .map(|asked| asked.origin)
            .collect()
    }

    /// Ends the calls of a session that ended; answers the ids that the child is still at work for.
    pub fn end_calls_of(&mut self, session: SessionKey) -> Vec<u64> {
        let of_session = |call: &InFlight| call.caller.session == session;
        let own = self.calls.iter().filter(|(_, call)| of_session(call));
        let own: Vec<u64> = own.map(|(id, _)| *id).collect();
        own.into_iter()
            .filter(|id| {
                let Some(call) = self.end(*id) else {
                    return false;
                };
                call.mailbox.close();
                !self.forget_round(&call)
            })
            .collect()
    }

    /// Answers everything with `failure`, and everything later too. The first failure stays.
    pub fn fail_all(&mut self, failure: Arc<Failure>) {
        for (_, call) in self.calls.drain() {
            call.mailbox.answer(failure.answer(&call.client_id));
        }
        self.asked.clear();
        self.failure.get_or_insert(failure);
        self.news.nudge();
    }

    /// Why nothing can be called any more.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<Failure>> {
        self.failure.clone()
    }

    /// Answers a call without its child; `false` when it is not under way any more.
    pub fn answer_now(&mut self, id: u64, answer: impl FnOnce(&str) -> Bytes) -> bool {
        let Some(call) = self.end(id) else {
            return false;
        };
        call.mailbox.answer(answer(&call.client_id));
        true
    }
}
