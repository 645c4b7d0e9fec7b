//! Client sessions of the session era: many share one child.

mod survival;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;

use super::{
    kept_sessions::KeptSessions, listen::Listeners, news::News, ready, replay::Tracks, session_id,
};
use crate::{
    domain::{
        UnixMs,
        id::Generation,
        member::{Resting, Room, room},
    },
    supervisor::{access::Token, route::Route, session_child::SessionChild},
    upstream::{
        Caller, Declared, Downstream, Era, Handshake, Item, Mailbox, Raw, RawObject, SessionKey,
        Upstream, wants_level,
    },
};

use survival::Ended;

/// The log level of a session that set none.
const NO_LEVEL: u8 = u8::MAX;

/// What a client told in `initialize`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientTraits {
    /// Declared `sampling`.
    pub sampling: bool,
    /// Declared `elicitation`.
    pub elicitation: bool,
    /// Declared `roots`.
    pub roots: bool,
}

impl ClientTraits {
    /// Reads the parameters of `initialize`.
    #[must_use]
    pub fn read(params: &RawObject<'_>) -> Self {
        Self::declared(params.get("capabilities").unwrap_or("{}"))
    }

    /// Reads the raw capabilities of a client.
    #[must_use]
    pub fn declared(capabilities: &str) -> Self {
        if capabilities == "{}" {
            return Self::default();
        }
        let capabilities = RawObject::parse(capabilities).unwrap_or_default();
        let has = |name| {
            capabilities
                .get(name)
                .is_some_and(|raw| raw.starts_with('{'))
        };
        Self {
            sampling: has("sampling"),
            elicitation: has("elicitation"),
            roots: has("roots"),
        }
    }
}

/// Who opens a session.
pub struct Client {
    /// What it can be asked.
    pub traits: ClientTraits,
    /// The same in its own words, and its name.
    pub declared: Arc<Declared>,
    /// The revision agreed.
    pub version: &'static str,
}

/// One client session. Bound to one route: its id is worth nothing elsewhere.
pub struct Session {
    /// What the upstream knows it by.
    pub key: SessionKey,
    /// The revision agreed.
    pub version: &'static str,
    id: u128,
    /// How many daemons served it before this one.
    pub epoch: u32,
    /// What opened it; no other token may use it.
    token: Arc<Token>,
    traits: ClientTraits,
    declared: Arc<Declared>,
    used_ms: AtomicI64,
    pub(super) log_level: AtomicU8,
    subscriptions: Mutex<HashSet<String>>,
    /// The next daemon will know of it.
    pub(super) is_kept: AtomicBool,
    stream: Mailbox,
    /// Its event streams, for resuming.
    pub tracks: Tracks,
    streaming: AtomicU32,
    /// It is served by a child of its own, which may still be on its way up.
    pub(super) has_member: bool,
    own: OnceLock<SessionChild>,
}

impl Session {
    /// The child of its own, once it has one.
    #[must_use]
    pub fn own_child(&self) -> Option<&SessionChild> {
        self.own.get()
    }

    /// The connection to the child of its own, once it has one.
    #[must_use]
    pub fn own_upstream(&self) -> Option<&Arc<Upstream>> {
        self.own.get().map(|child| &child.upstream)
    }

    /// Gives it a child of its own, for good; the child's news go to this session alone.
    pub fn set_own(self: &Arc<Self>, child: SessionChild) {
        let heard: Arc<dyn Downstream> = self.clone();
        child.upstream.attach(Arc::downgrade(&heard));
        // Given once, by whoever opened it.
        let _ = self.own.set(child);
    }

    /// Whether it has a call under way, at its own child or at the one that all share.
    #[must_use]
    pub fn is_calling(&self, shared: &Upstream) -> bool {
        self.own_upstream()
            .map_or(shared, |own| own)
            .is_calling(self.key)
    }

    /// Whether it may not give way: it is being opened, is read, or waits for an answer.
    fn is_busy(&self, is_calling: impl Fn(&Self) -> bool) -> bool {
        self.is_streaming() || (self.has_member && self.own.get().is_none()) || is_calling(self)
    }

    /// When it was last used; while it is busy at its own child, that is now.
    #[must_use]
    pub fn last_used(&self, now: UnixMs) -> UnixMs {
        let calls = |session: &Self| {
            let own = session.own_upstream();
            own.is_some_and(|own| own.is_calling(session.key))
        };
        if self.is_busy(calls) {
            self.used_ms.fetch_max(now, Ordering::Relaxed);
        }
        self.used_ms.load(Ordering::Relaxed)
    }

    /// The id as the client sends it.
    #[must_use]
    pub fn id(&self) -> String {
        session_id::write(self.id)
    }

    /// How its calls are marked.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller {
            session: self.key,
            sampling: self.traits.sampling,
            elicitation: self.traits.elicitation,
            roots: self.traits.roots,
            era: Era::Legacy,
            log_level: self.log_level(),
            declared: Some(self.declared.clone()),
        }
    }

    /// The least severe log message that it asked for.
    #[must_use]
    pub fn log_level(&self) -> Option<u8> {
        let level = self.log_level.load(Ordering::Relaxed);
        (level != NO_LEVEL).then_some(level)
    }

    fn wants(&self, news: &News<'_>) -> bool {
        match (&news.updated, &news.level) {
            (Some(Some(uri)), _) => self.subscriptions().contains(uri),
            (Some(None), _) => false,
            (None, Some(level)) => wants_level(self.log_level(), *level),
            (None, None) => true,
        }
    }

    pub(super) fn subscriptions(&self) -> MutexGuard<'_, HashSet<String>> {
        self.subscriptions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody reads its standing stream: it is not idle. An older reader looks whether it is still its turn.
    pub fn begin_standing(&self) {
        self.streaming.fetch_add(1, Ordering::AcqRel);
        self.stream.nudge();
    }

    /// A reader of its standing stream is gone.
    pub fn end_standing(&self) {
        self.streaming.fetch_sub(1, Ordering::AcqRel);
    }

    /// The next message of its standing stream.
    pub fn poll_standing(&self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        self.stream.poll_next(cx)
    }

    fn end(&self) {
        if let Some(child) = self.own.get() {
            child.end();
        }
        self.stream.close();
        self.tracks.clear();
    }

    fn is_streaming(&self) -> bool {
        self.streaming.load(Ordering::Acquire) > 0
    }
}

/// Why there is no new session.
#[derive(Debug, PartialEq, Eq)]
pub enum NoSession {
    /// Every session allowed is in use.
    Full(usize),
    /// Every child allowed that serves one session is in use.
    MembersFull(usize),
    /// The system gave no random number.
    NoRandom,
}

/// The sessions of one route.
pub struct SessionTable {
    pub(super) route: Arc<Route>,
    next_key: AtomicU64,
    sessions: Mutex<HashMap<u128, Arc<Session>>>,
    attached: AtomicU64,
    /// What the child that stands behind now told of itself.
    known: Mutex<Option<Arc<Handshake>>>,
    /// Which lists all clients were told to list again, since this launch.
    pub(super) told: Mutex<(Generation, Vec<&'static str>)>,
    /// Where they outlive this daemon.
    pub(super) kept: Option<Arc<KeptSessions>>,
    ended: Ended,
    /// Streams of stateless clients.
    pub listeners: Listeners,
}

impl SessionTable {
    /// With the sessions that a former daemon left in `kept`, as far as their tokens and children are still there.
    #[must_use]
    pub fn new(route: Arc<Route>, kept: Option<Arc<KeptSessions>>) -> Self {
        let table = Self {
            route,
            next_key: AtomicU64::new(1),
            sessions: Mutex::default(),
            attached: AtomicU64::new(0),
            known: Mutex::default(),
            told: Mutex::default(),
            kept,
            ended: Ended::default(),
            listeners: Listeners::default(),
        };
        table.take_back();
        table
    }

    pub(super) fn sessions(&self) -> MutexGuard<'_, HashMap<u128, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key for a session, or for one call of a client without sessions.
    #[must_use]
    pub fn fresh_key(&self) -> SessionKey {
        SessionKey(self.next_key.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether this launch must still be told of us; `true` once per launch.
    #[must_use]
    pub fn is_new_launch(&self, generation: u64) -> bool {
        self.attached.load(Ordering::Relaxed) != generation
            && self.attached.swap(generation, Ordering::AcqRel) != generation
    }

    /// Remembers what a child told; answers what the one before it had told.
    pub fn set_known(&self, handshake: Arc<Handshake>) -> Option<Arc<Handshake>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.replace(handshake)
    }

    /// Opens a session; `limits`: most sessions, and most of those with a child of their own, if this is one. When
    /// there are too many, the one that rested longest, without a stream and a call of its own, gives way: clients
    /// often leave without a word.
    ///
    /// # Errors
    /// [`NoSession`].
    pub fn open(
        &self,
        client: Client,
        token: &Arc<Token>,
        (sessions_max, members_max): (usize, Option<usize>),
        now: UnixMs,
        is_calling: impl Fn(&Session) -> bool,
    ) -> Result<(Arc<Session>, Option<Arc<Session>>), NoSession> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| NoSession::NoRandom)?;
        let session = Arc::new(Session {
            key: self.fresh_key(),
            version: client.version,
            id: u128::from_ne_bytes(random),
            epoch: 0,
            token: token.clone(),
            traits: client.traits,
            declared: client.declared,
            used_ms: AtomicI64::new(now),
            log_level: AtomicU8::new(NO_LEVEL),
            subscriptions: Mutex::default(),
            is_kept: AtomicBool::new(false),
            stream: Mailbox::default(),
            tracks: Tracks::default(),
            streaming: AtomicU32::new(0),
            has_member: members_max.is_some(),
            own: OnceLock::new(),
        });
        let mut sessions = self.sessions();
        let present = sessions.values().map(|old| Resting {
            key: old.id,
            used_at: old.used_ms.load(Ordering::Relaxed),
            busy: || old.is_busy(&is_calling),
            has_member: old.has_member,
        });
        let evicted = match room(present, sessions_max, members_max) {
            Room::Free => None,
            Room::After(oldest) => sessions.remove(&oldest),
            Room::SessionsFull(most) => return Err(NoSession::Full(most)),
            Room::MembersFull(most) => return Err(NoSession::MembersFull(most)),
        };
        sessions.insert(session.id, session.clone());
        self.count(&sessions);
        Ok((session, evicted))
    }

    pub(super) fn count(&self, sessions: &HashMap<u128, Arc<Session>>) {
        let count = u64::try_from(sessions.len()).unwrap_or(u64::MAX);
        self.route.sessions.store(count, Ordering::Relaxed);
    }

    /// The session with this id, marked as used. One that another token opened is not found.
    #[must_use]
    pub fn find(&self, id: &str, token: &Arc<Token>, now: UnixMs) -> Option<Arc<Session>> {
        let id = session_id::read(id)?;
        let session = self.sessions().get(&id).cloned()?;
        if !Arc::ptr_eq(&session.token, token) {
            return None;
        }
        session.used_ms.store(now, Ordering::Relaxed);
        Some(session)
    }

    /// Ends a session.
    pub fn close(&self, session: &Session) {
        let mut sessions = self.sessions();
        sessions.remove(&session.id);
        self.count(&sessions);
        drop(sessions);
        self.forget_kept(session);
        session.end();
    }

    /// Ends every session, or those that rested since `before`.
    pub fn close_idle(&self, before: Option<UnixMs>) -> Vec<Arc<Session>> {
        self.close_where(|session| {
            before.is_none_or(|before| {
                // One with a child of its own has a limit of its own.
                !session.has_member
                    && !session.is_streaming()
                    && session.used_ms.load(Ordering::Relaxed) < before
            })
        })
    }

    /// Ends the sessions of tokens that are there no more.
    pub fn close_without_token(&self, now: UnixMs) -> Vec<Arc<Session>> {
        let tokens = self.route.tokens.load();
        self.close_where(|session| {
            let token = &session.token;
            let end = token.settings.load().expires_at;
            end.is_some_and(|end| end <= now)
                || !tokens
                    .tokens()
                    .iter()
                    .any(|known| Arc::ptr_eq(known, token))
        })
    }

    fn close_where(&self, goes: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        let mut sessions = self.sessions();
        let gone: Vec<Arc<Session>> = sessions
            .extract_if(|_, session| goes(session))
            .map(|(_, session)| session)
            .collect();
        if sessions.is_empty() {
            sessions.shrink_to_fit();
        }
        self.count(&sessions);
        drop(sessions);
        for session in &gone {
            self.forget_kept(session);
            session.end();
        }
        gone
    }
}

/// What the child that all share tells.
impl Downstream for SessionTable {
    fn renewed(&self) {
        if let Some(upstream) = ready::present(&self.route)
            && let Some(handshake) = upstream.handshake_snapshot()
        {
            ready::renew_wishes(self, &upstream, &handshake);
        }
    }

    fn notification(&self, method: &str, params: Option<Raw<'_>>, message: Bytes) {
        let news = News::read(method, params);
        let updated = news.updated.as_ref().and_then(Option::as_deref);
        if updated.is_some() == news.updated.is_some() {
            self.listeners.tell(news.method, updated, &message);
        }
        for session in self.sessions().values() {
            if !session.has_member && session.wants(&news) {
                session.stream.push(message.clone());
            }
        }
    }
}

/// What the child of this session alone tells.
impl Downstream for Session {
    fn notification(&self, method: &str, params: Option<Raw<'_>>, message: Bytes) {
        if self.wants(&News::read(method, params)) {
            self.stream.push(message);
        }
    }
}
