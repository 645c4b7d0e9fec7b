//! What is under way between one child and its clients: calls to it, and its own requests to clients.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{failure::Failure, handshake::Era, mailbox::Mailbox};

/// Most calls under way at one child.
pub const CALLS_MAX: usize = 1_024;
/// Most requests of a child that wait for a client.
const ASKED_MAX: usize = 256;

/// Identifies one client session towards an upstream; 0 is the daemon itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(pub u64);

impl SessionKey {
    /// The daemon's own calls: handshake and probes.
    pub const DAEMON: Self = Self(0);
}

/// Who calls, and what it can be asked in return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
        match (self.log_level, level) {
            (Some(least), Some(level)) => level >= least,
            _ => true,
        }
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
}

/// A request of the child that waits for a client's response.
struct Asked {
    child_id: Box<str>,
    session: SessionKey,
    mailbox: Arc<Mailbox>,
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
    next_id: u64,
    calls: HashMap<u64, InFlight>,
    asked: BTreeMap<u64, Asked>,
    failure: Option<Arc<Failure>>,
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
    pub fn new(first_id: u64) -> Self {
        Self {
            next_id: first_id,
            calls: HashMap::new(),
            asked: BTreeMap::new(),
            failure: None,
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
            .extract_if(|_, call| call.touched <= before)
            .collect()
    }

    /// Takes a call out.
    pub fn end(&mut self, id: u64) -> Option<InFlight> {
        let call = self.calls.remove(&id);
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

    /// Whether a session has a call under way.
    #[must_use]
    pub fn is_calling(&self, session: SessionKey) -> bool {
        self.calls
            .values()
            .any(|call| call.caller.session == session)
    }

    /// To whom a request of the child belongs. A parked call is at rest until its client answers, so another one
    /// goes before it.
    #[must_use]
    pub fn home_of_request(&self) -> Home<'_> {
        match self.home_among(|call| !call.parked) {
            Home::Nobody => self.home(),
            found => found,
        }
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
        let asked = self.asked.get(&id)?;
        (asked.session == session).then_some(&*asked.child_id)
    }

    /// Remembers a request of the child; answers the id that the client will see.
    ///
    /// # Errors
    /// The child's id back, when too many wait already.
    pub fn ask(
        &mut self,
        child_id: Box<str>,
        session: SessionKey,
        mailbox: Arc<Mailbox>,
    ) -> Result<u64, Box<str>> {
        if self.asked.len() >= ASKED_MAX {
            return Err(child_id);
        }
        let id = self.next_id;
        self.next_id += 1;
        self.asked.insert(
            id,
            Asked {
                child_id,
                session,
                mailbox,
            },
        );
        Ok(id)
    }

    /// The child's id of the request that this session answers; once only.
    pub fn answered(&mut self, session: SessionKey, id: u64) -> Option<Box<str>> {
        if self.asked.get(&id)?.session != session {
            return None;
        }
        self.asked.remove(&id).map(|asked| asked.child_id)
    }

    /// The child takes its request back: the id that the client knows, and where to tell it.
    pub fn taken_back(&mut self, child_id: &str) -> Option<(u64, Arc<Mailbox>)> {
        let id = *self
            .asked
            .iter()
            .find(|(_, asked)| *asked.child_id == *child_id)?
            .0;
        self.asked.remove(&id).map(|asked| (id, asked.mailbox))
    }

    /// Drops what waits for a session that ended; answers the child's ids, so that it can be told.
    pub fn forget_session(&mut self, session: SessionKey) -> Vec<Box<str>> {
        let gone: Vec<u64> = self
            .asked
            .iter()
            .filter(|(_, asked)| asked.session == session)
            .map(|(id, _)| *id)
            .collect();
        gone.into_iter()
            .filter_map(|id| self.asked.remove(&id))
            .map(|asked| asked.child_id)
            .collect()
    }

    /// Answers everything with `failure`, and everything later too. The first failure stays.
    pub fn fail_all(&mut self, failure: Arc<Failure>) {
        for (_, call) in self.calls.drain() {
            call.mailbox.answer(failure.answer(&call.client_id));
        }
        self.asked.clear();
        self.failure.get_or_insert(failure);
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn call(session: u64, id: &str) -> InFlight {
        InFlight {
            caller: Caller::plain(SessionKey(session)),
            client_id: id.into(),
            progress_token: None,
            mailbox: Arc::default(),
            touched: Instant::now(),
            parked: false,
            lacking: None,
        }
    }

    #[test]
    fn equal_ids_of_two_sessions_stay_apart() {
        let mut table = Table::new(10);
        let a = table.begin(call(1, "1")).unwrap();
        let b = table.begin(call(2, "1")).unwrap();
        assert_ne!(a, b);
        assert_eq!(table.find(SessionKey(2), "1"), Some(b));
        assert_eq!(table.find(SessionKey(2), "\"1\""), None);
        assert_eq!(table.end(a).unwrap().caller.session, SessionKey(1));
        assert!(table.end(a).is_none());
    }

    #[test]
    fn a_message_without_a_call_goes_home_only_when_that_is_certain() {
        let mut table = Table::new(0);
        table.begin(call(0, "probe")).unwrap();
        assert!(matches!(table.home(), Home::Nobody));
        let a = table.begin(call(1, "1")).unwrap();
        table.begin(call(1, "2")).unwrap();
        assert!(matches!(table.home(), Home::Only(_, call) if *call.client_id == *"2"));
        table.begin(call(2, "1")).unwrap();
        assert!(matches!(table.home(), Home::Ambiguous));
        table.end(a);
        assert!(matches!(table.home(), Home::Ambiguous));
        for call in table.calls.values_mut() {
            call.parked = call.caller.session == SessionKey(1);
        }
        assert!(matches!(table.home(), Home::Ambiguous));
        assert!(
            matches!(table.home_of_request(), Home::Only(_, call) if call.caller.session == SessionKey(2))
        );
    }

    #[test]
    fn only_the_asked_session_can_answer_and_only_once() {
        let mut table = Table::new(5);
        let id = table
            .ask("\"c\"".into(), SessionKey(1), Arc::default())
            .unwrap();
        assert_eq!(table.answered(SessionKey(2), id), None);
        assert_eq!(table.answered(SessionKey(1), id).as_deref(), Some("\"c\""));
        assert_eq!(table.answered(SessionKey(1), id), None);
    }

    #[test]
    fn the_tables_are_bounded() {
        let mut table = Table::new(0);
        for n in 0..CALLS_MAX {
            table.begin(call(1, &n.to_string())).unwrap();
        }
        assert_eq!(table.begin(call(1, "x")), Err(Refused::Full));
        let before = Instant::now();
        assert_eq!(table.overdue(before).len(), CALLS_MAX);
        assert!(table.begin(call(1, "x")).is_ok());
        for n in 0..ASKED_MAX {
            table
                .ask(n.to_string().into(), SessionKey(1), Arc::default())
                .unwrap();
        }
        assert!(
            table
                .ask("x".into(), SessionKey(1), Arc::default())
                .is_err()
        );
        assert_eq!(table.forget_session(SessionKey(1)).len(), ASKED_MAX);
    }

    #[test]
    fn a_failure_ends_everything_now_and_later() {
        let mut table = Table::new(0);
        let one = call(1, "9");
        let mailbox = one.mailbox.clone();
        table.begin(one).unwrap();
        let failure = Arc::new(Failure::new("gone", crate::domain::id::Generation(1)));
        table.fail_all(failure.clone());
        assert_eq!(table.begin(call(1, "1")), Err(Refused::Failed(failure)));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let answer = mailbox.poll_next(&mut cx);
        assert!(format!("{answer:?}").contains("gone"), "{answer:?}");
    }
}
