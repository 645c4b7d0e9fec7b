//! What of client sessions the next daemon finds, and what is taken back of those of a former one.
//!
//! A session with a child of its own goes on with this very child, which the keeper held meanwhile, or not at all.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, Ordering},
    },
};

use super::{ClientTraits, NO_LEVEL, Session, SessionTable};
use crate::{
    domain::{UnixMs, id::Generation},
    gateway::{
        kept_sessions::{Change, KeptMember, KeptSession},
        now_ms,
        replay::Tracks,
        session_id,
    },
    supervisor::{
        access::{Token, TokenSet},
        session_child::SessionChild,
    },
    upstream::{Declared, Handshake, LEGACY_VERSIONS, Mailbox, SessionKey},
};

/// So many sessions that ended with their child are remembered.
const ENDED_MAX: usize = 64;

/// Children that a former daemon left, or how they ended, by launch and number.
type Left = BTreeMap<(Generation, u32), Result<SessionChild, String>>;

/// Why the latest sessions ended that did so with their child: whoever asks for one is told.
#[derive(Default)]
pub(super) struct Ended(Mutex<VecDeque<(u128, Weak<Token>, String)>>);

impl Ended {
    fn book(&self) -> MutexGuard<'_, VecDeque<(u128, Weak<Token>, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, id: u128, token: &Arc<Token>, cause: String) {
        let mut book = self.book();
        if book.len() >= ENDED_MAX {
            book.pop_front();
        }
        book.push_back((id, Arc::downgrade(token), cause));
    }
}

impl Session {
    /// One that a former daemon opened, rested since `now`; its child is still to be given.
    fn taken_back(
        kept: &KeptSession,
        id: u128,
        key: SessionKey,
        token: &Arc<Token>,
        now: UnixMs,
    ) -> Option<Arc<Self>> {
        let version = LEGACY_VERSIONS
            .iter()
            .find(|known| **known == kept.version)?;
        Some(Arc::new(Self {
            key,
            version,
            id,
            epoch: kept.epoch,
            token: token.clone(),
            traits: ClientTraits::declared(&kept.capabilities),
            declared: Declared::kept(&kept.capabilities, kept.client.as_deref()),
            used_ms: AtomicI64::new(now),
            log_level: AtomicU8::new(kept.log_level.unwrap_or(NO_LEVEL)),
            subscriptions: Mutex::new(kept.subscriptions.clone()),
            is_kept: AtomicBool::new(true),
            stream: Mailbox::default(),
            tracks: Tracks::default(),
            streaming: AtomicU32::new(0),
            has_member: kept.member.is_some(),
            own: OnceLock::new(),
        }))
    }

    /// What a later daemon needs to know of it, as it is when it has just been opened; `None`: its child is not there.
    fn to_keep(&self) -> Option<KeptSession> {
        let member = match (self.has_member, self.own.get()) {
            (false, _) => None,
            (true, own) => {
                let child = own?;
                let handshake = child.upstream.handshake_snapshot()?;
                Some(KeptMember {
                    number: child.number,
                    generation: child.generation,
                    era: handshake.era,
                    told: handshake.without_instructions(),
                })
            }
        };
        let (capabilities, client) = self.declared.raw();
        Some(KeptSession {
            id: self.id(),
            epoch: self.epoch,
            token: self.token.name.to_string(),
            token_created_at: self.token.created_at,
            version: self.version.to_owned(),
            capabilities: capabilities.to_owned(),
            client: client.map(str::to_owned),
            log_level: self.log_level(),
            subscriptions: HashSet::new(),
            member,
        })
    }
}

impl SessionTable {
    /// Lets a session outlive this daemon.
    pub fn keep(&self, session: &Session) {
        if let Some(kept) = &self.kept
            && let Some(opened) = session.to_keep()
        {
            let done = kept.note(self.route.id, &session.id(), &opened.opened());
            session.is_kept.store(done, Ordering::Release);
        }
    }

    /// A session is over, for the next daemon too.
    pub(super) fn forget_kept(&self, session: &Session) {
        if session.is_kept.swap(false, Ordering::AcqRel)
            && let Some(kept) = &self.kept
        {
            kept.note(self.route.id, &session.id(), &Change::Closed);
        }
    }

    /// Sessions that are kept go on with their children under the next daemon, whatever ends here.
    pub fn let_go(&self) {
        for session in self.sessions().values() {
            if session.is_kept.load(Ordering::Acquire)
                && let Some(child) = session.own.get()
            {
                child.let_go();
            }
        }
    }

    /// Takes back the sessions that a former daemon left, as far as their tokens and their children are still there.
    /// Children that no session claims end.
    pub(super) fn take_back(&self) {
        let left = self.route.left.take().into_iter();
        let mut left: Left = left
            .map(|member| ((member.generation, member.number), member.child))
            .collect();
        let Some(kept) = &self.kept else { return };
        let tokens = self.route.tokens.load();
        let mut sessions = self.sessions();
        for former in kept.take(self.route.id) {
            match self.take_back_one(&former, &tokens, &mut left) {
                Some(session) => drop(sessions.insert(session.id, session)),
                None => drop(kept.note(self.route.id, &former.id, &Change::Closed)),
            }
        }
        self.count(&sessions);
    }

    fn take_back_one(
        &self,
        former: &KeptSession,
        tokens: &TokenSet,
        left: &mut Left,
    ) -> Option<Arc<Session>> {
        let token = tokens.tokens().iter().find(|token| former.is_of(token))?;
        let id = session_id::read(&former.id)?;
        let session = Session::taken_back(former, id, self.fresh_key(), token, now_ms())?;
        if let Some(member) = &former.member {
            let child = left.remove(&(member.generation, member.number));
            let child = child.unwrap_or_else(|| Err("it is gone with the former daemon".into()));
            let child = child.and_then(|child| {
                child
                    .upstream
                    .adopt(Handshake::read(member.era, &member.told)?);
                Ok(child)
            });
            match child {
                Ok(child) => {
                    child.claim();
                    session.set_own(child);
                }
                Err(cause) => {
                    self.ended.note(id, token, cause);
                    return None;
                }
            }
        }
        Some(session)
    }

    /// Ends a session whose child is over.
    pub fn close_with_child(&self, session: &Session) {
        let failure = session.own_upstream().and_then(|own| own.failure());
        if let Some(failure) = failure {
            self.ended
                .note(session.id, &session.token, failure.cause.clone());
        }
        self.close(session);
    }

    /// How the child of a session ended with which that session ended, as far as it is remembered.
    #[must_use]
    pub fn why_ended(&self, id: &str, token: &Arc<Token>) -> Option<String> {
        let id = session_id::read(id)?;
        let book = self.ended.book();
        let mut of_it = book.iter().rev();
        let found = of_it
            .find(|(ended, of, _)| *ended == id && std::ptr::eq(of.as_ptr(), Arc::as_ptr(token)));
        found.map(|(_, _, cause)| cause.clone())
    }
}
