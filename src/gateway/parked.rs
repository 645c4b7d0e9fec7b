//! Calls that wait for their stateless client to come back with input, and the sealed state by which it does.
//!
//! The state names a call of this process and nothing else, so its key is made anew with each gateway. It is bound
//! to the instance, the access token and the request: who finds it cannot use it for another call.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aes_gcm::{
    Aes256Gcm, Nonce,
    aead::{Aead, KeyInit, Payload},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use crate::{
    domain::{UnixMs, id::InstanceId},
    upstream::RawObject,
};

/// How long a client may take to come back, in milliseconds.
pub const PARKED_MAX_MS: i64 = 5 * 60 * 1_000;
/// Most calls of one instance that wait so.
const PARKED_MAX: usize = 64;
const NONCE_BYTES: usize = 12;
const TICKET_BYTES: usize = 8;

/// What a state is bound to.
pub type Binding = [u8; 32];

/// Binds to an instance, an access token and a request. The arguments count by value, so that a client may write them
/// differently the second time.
#[must_use]
pub fn binding(
    instance: InstanceId,
    token_hash: &[u8; 32],
    method: &str,
    params: &RawObject<'_>,
) -> Binding {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(bytes);
    };
    part(instance.0.as_bytes());
    part(token_hash);
    part(method.as_bytes());
    for key in ["name", "uri", "arguments"] {
        let value = params.get(key).unwrap_or("");
        match serde_json::from_str::<serde_json::Value>(value) {
            Ok(mut value) => {
                value.sort_all_objects();
                part(value.to_string().as_bytes());
            }
            // Digits that this reader has no room for: the text itself.
            Err(_) => part(value.as_bytes()),
        }
    }
    hash.finalize().into()
}

/// Seals and opens request states.
pub struct StateKey(Aes256Gcm);

impl StateKey {
    /// A new key; `None` when the system has no random numbers.
    #[must_use]
    pub fn random() -> Option<Self> {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(&mut *key).ok()?;
        Aes256Gcm::new_from_slice(&*key).ok().map(Self)
    }

    /// The state for this ticket; `None` when the system has no random numbers.
    #[must_use]
    pub fn seal(&self, binding: &Binding, ticket: u64) -> Option<String> {
        let mut sealed = vec![0; NONCE_BYTES];
        getrandom::fill(&mut sealed).ok()?;
        let nonce: [u8; NONCE_BYTES] = sealed.as_slice().try_into().ok()?;
        let payload = Payload {
            msg: &ticket.to_be_bytes(),
            aad: binding,
        };
        sealed.extend(self.0.encrypt(&Nonce::from(nonce), payload).ok()?);
        Some(BASE64_URL_SAFE_NO_PAD.encode(sealed))
    }

    /// The ticket in a state; `None` when it was changed, or is bound to something else.
    #[must_use]
    pub fn open(&self, binding: &Binding, state: &str) -> Option<u64> {
        let sealed = BASE64_URL_SAFE_NO_PAD.decode(state).ok()?;
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().ok()?;
        let payload = Payload {
            msg: sealed,
            aad: binding,
        };
        let ticket = self.0.decrypt(&Nonce::from(nonce), payload).ok()?;
        let ticket: [u8; TICKET_BYTES] = ticket.as_slice().try_into().ok()?;
        Some(u64::from_be_bytes(ticket))
    }
}

/// The calls of one instance that wait, each with when its time is over.
pub struct ParkingLot<T>(Mutex<Lot<T>>);

struct Lot<T> {
    next_ticket: u64,
    waiting: HashMap<u64, (UnixMs, T)>,
}

impl<T> Default for ParkingLot<T> {
    fn default() -> Self {
        Self(Mutex::new(Lot {
            next_ticket: 1,
            waiting: HashMap::new(),
        }))
    }
}

impl<T> ParkingLot<T> {
    fn lock(&self) -> MutexGuard<'_, Lot<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Parks a call. When there is no room, the one that waited longest is given up and returned with the ticket:
    /// clients often leave without a word.
    pub fn park(&self, call: T, now: UnixMs) -> (u64, Option<T>) {
        let mut lot = self.lock();
        let mut given_up = None;
        if lot.waiting.len() >= PARKED_MAX
            && let Some(oldest) = lot.waiting.keys().min().copied()
        {
            given_up = lot.waiting.remove(&oldest).map(|(_, call)| call);
        }
        let ticket = lot.next_ticket;
        lot.next_ticket += 1;
        lot.waiting.insert(ticket, (now + PARKED_MAX_MS, call));
        (ticket, given_up)
    }

    /// The call of a ticket, once and in time.
    pub fn take(&self, ticket: u64, now: UnixMs) -> Option<T> {
        let (until, call) = self.lock().waiting.remove(&ticket)?;
        (now < until).then_some(call)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Takes out the calls whose time is over.
    pub fn overdue(&self, now: UnixMs) -> Vec<T> {
        let mut lot = self.lock();
        let over = lot.waiting.extract_if(|_, (until, _)| *until <= now);
        over.map(|(_, (_, call))| call).collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn bound(instance: u128, token: u8, params: &str) -> Binding {
        let params = RawObject::parse(params).unwrap();
        let instance = InstanceId(Uuid::from_u128(instance));
        binding(instance, &[token; 32], "tools/call", &params)
    }

    #[test]
    fn a_state_opens_only_where_it_was_sealed() {
        let key = StateKey::random().unwrap();
        let here = bound(
            1,
            1,
            r#"{"name":"a","arguments":{"x":1,"y":{"b":2,"a":3}}}"#,
        );
        let state = key.seal(&here, 7).unwrap();
        assert_eq!(key.open(&here, &state), Some(7));
        let reordered = bound(
            1,
            1,
            r#"{"arguments": {"y":{"a":3,"b":2}, "x":1}, "name":"a","requestState":"s"}"#,
        );
        assert_eq!(key.open(&reordered, &state), Some(7));
        for other in [
            bound(
                2,
                1,
                r#"{"name":"a","arguments":{"x":1,"y":{"b":2,"a":3}}}"#,
            ),
            bound(
                1,
                2,
                r#"{"name":"a","arguments":{"x":1,"y":{"b":2,"a":3}}}"#,
            ),
            bound(
                1,
                1,
                r#"{"name":"b","arguments":{"x":1,"y":{"b":2,"a":3}}}"#,
            ),
            bound(
                1,
                1,
                r#"{"name":"a","arguments":{"x":2,"y":{"b":2,"a":3}}}"#,
            ),
        ] {
            assert_eq!(key.open(&other, &state), None);
        }
        assert_eq!(key.open(&here, &format!("{state}-TAMPERED")), None);
        assert_eq!(key.open(&here, ""), None);
        assert_eq!(StateKey::random().unwrap().open(&here, &state), None);
    }

    #[test]
    fn a_ticket_is_good_once_and_for_a_while() {
        let lot = ParkingLot::default();
        let (one, _) = lot.park("one", 0);
        let (two, _) = lot.park("two", 0);
        assert_eq!(lot.take(one, 1), Some("one"));
        assert_eq!(lot.take(one, 1), None);
        assert_eq!(lot.take(two, PARKED_MAX_MS), None);
        lot.park("three", 0);
        assert_eq!(lot.overdue(PARKED_MAX_MS - 1), Vec::<&str>::new());
        assert_eq!(lot.overdue(PARKED_MAX_MS), ["three"]);
    }

    #[test]
    fn a_full_lot_gives_up_the_oldest() {
        let lot = ParkingLot::default();
        for n in 0..PARKED_MAX {
            assert_eq!(lot.park(n, 0).1, None);
        }
        assert_eq!(lot.park(PARKED_MAX, 0).1, Some(0));
    }
}
