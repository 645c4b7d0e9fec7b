//! What client sessions wish to hear, together and each by itself: log levels and resource subscriptions.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

use super::{
    kept_sessions::Change,
    session::{Session, SessionTable},
};
use crate::{
    supervisor::uses::Uses,
    upstream::{Handshake, Interest, LOG_LEVELS},
};

/// Most resources that one session may subscribe to.
pub const SUBSCRIPTIONS_MAX: usize = 1_000;

impl SessionTable {
    /// The least severe log level that a session asked for.
    #[must_use]
    pub fn most_verbose(&self) -> Option<&'static str> {
        let sessions = self.sessions();
        let sharing = sessions.values().filter(|session| !session.has_member);
        let levels = sharing.filter_map(|session| session.log_level());
        LOG_LEVELS.get(usize::from(levels.min()?)).copied()
    }

    /// What a stateless child must tell; `None` when nobody listens, or it promises nothing.
    #[must_use]
    pub fn interest(&self, handshake: &Handshake) -> Option<Interest> {
        if self.listeners.is_empty() && self.sessions().is_empty() {
            return None;
        }
        Interest::promised(handshake, self.subscribed())
    }

    /// Every resource that somebody wants to hear of.
    #[must_use]
    pub fn subscribed(&self) -> HashSet<String> {
        let mut uris = HashSet::new();
        self.listeners.uris(&mut uris);
        let sessions = self.sessions();
        for session in sessions.values().filter(|session| !session.has_member) {
            uris.extend(session.subscriptions().iter().cloned());
        }
        uris
    }

    /// Lets the supervisor find out whether somebody wants to hear of a resource, which keeps the server awake.
    pub fn tell_of_subscriptions(self: &Arc<Self>, uses: &Uses) {
        let known = Arc::downgrade(self);
        uses.set_subscribed(move || {
            let table = known.upgrade();
            table.is_some_and(|table| !table.subscribed().is_empty())
        });
    }

    /// Remembers the log level of a session; `true` when the child must hear of it, because no other session wants
    /// more.
    #[must_use]
    pub fn set_level(&self, session: &Session, name: &str) -> bool {
        let index = LOG_LEVELS.iter().position(|level| *level == name);
        let Some(level) = index.and_then(|index| u8::try_from(index).ok()) else {
            return true;
        };
        session.log_level.store(level, Ordering::Relaxed);
        self.note(session, Change::Level { level });
        let sessions = self.sessions();
        let mut sharing = sessions.values().filter(|other| !other.has_member);
        session.has_member || sharing.all(|other| level <= other.log_level.load(Ordering::Relaxed))
    }

    /// Remembers a subscription; `false` when the session has too many.
    #[must_use]
    pub fn subscribe(&self, session: &Session, uri: String) -> bool {
        let mut own = session.subscriptions();
        if own.contains(&uri) {
            return true;
        }
        if own.len() >= SUBSCRIPTIONS_MAX {
            return false;
        }
        // Under the lock, so that what is kept is in the order of what happened.
        self.note(
            session,
            Change::Subscribed {
                uri: uri.as_str().into(),
            },
        );
        own.insert(uri)
    }

    /// Forgets a subscription; `true` when nobody else has it, so that the child must hear of it.
    #[must_use]
    pub fn unsubscribe(&self, session: &Session, uri: &str) -> bool {
        let mut own = session.subscriptions();
        if own.remove(uri) {
            self.note(session, Change::Unsubscribed { uri: uri.into() });
        }
        drop(own);
        session.has_member || !self.has_subscriber(uri)
    }

    /// Whether a session or a stream wants to hear of this resource.
    #[must_use]
    pub fn has_subscriber(&self, uri: &str) -> bool {
        self.listeners.subscribe_to(uri)
            || self
                .sessions()
                .values()
                .any(|session| !session.has_member && session.subscriptions().contains(uri))
    }

    fn note(&self, session: &Session, change: Change<'_>) {
        if session.is_kept.load(Ordering::Acquire)
            && let Some(kept) = &self.kept
        {
            kept.note(self.route.id, &session.id(), &change);
        }
    }

    /// Whether there is no session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions().is_empty()
    }
}
