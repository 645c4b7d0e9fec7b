//! Which access token opened a session that an HTTP child keeps itself: no other token may use it.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use http::HeaderValue;

use crate::supervisor::access::Token;

/// Most sessions of one instance that are remembered.
const OWNED_MAX: usize = 4_096;

/// The sessions of one instance's child, by a keyed hash of their ids.
#[derive(Default)]
pub struct SessionOwners {
    hasher: RandomState,
    owners: Mutex<HashMap<u64, Weak<Token>>>,
}

impl SessionOwners {
    /// A child opened a session for a client.
    pub fn opened(&self, session: &HeaderValue, token: &Arc<Token>) {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if owners.len() >= OWNED_MAX {
            owners.retain(|_, owner| owner.strong_count() > 0);
        }
        if owners.len() >= OWNED_MAX {
            owners.clear();
        }
        owners.insert(self.hasher.hash_one(session), Arc::downgrade(token));
    }

    /// Whether a session may be used with this token. One that is not known, from before the daemon began or forgotten
    /// as one of too many, belongs to whom uses it first: its id is a secret of the child and its client.
    pub fn lets_in(&self, session: &HeaderValue, token: &Arc<Token>) -> bool {
        let key = self.hasher.hash_one(session);
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        match owners.get(&key) {
            Some(owner) => std::ptr::eq(owner.as_ptr(), Arc::as_ptr(token)),
            None => {
                drop(owners);
                self.opened(session, token);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{access::TokenSettings, id::TokenName};

    #[test]
    fn a_session_belongs_to_the_token_that_opened_it() {
        let token = || Token::new(TokenName::first(), TokenSettings::default(), 0);
        let (one, two) = (token(), token());
        let owners = SessionOwners::default();
        let (a, b) = (HeaderValue::from_static("a"), HeaderValue::from_static("b"));
        owners.opened(&a, &one);
        assert!(owners.lets_in(&a, &one) && !owners.lets_in(&a, &two));
        assert!(owners.lets_in(&b, &two) && !owners.lets_in(&b, &one));
        // Of a token that was revoked it is not taken over by the next.
        drop(one);
        assert!(!owners.lets_in(&a, &two));
        for number in 0..OWNED_MAX + 1 {
            owners.opened(&HeaderValue::from(number), &two);
        }
        let known = owners.owners.lock().expect("not poisoned").len();
        assert!(known <= OWNED_MAX);
    }
}
