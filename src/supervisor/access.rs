//! The access tokens of one instance, in memory: who opens its route, with which scope and limits. Changed by the
//! instance's actor alone, read by the gateway on every request.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicI64, AtomicU32, Ordering},
};

use arc_swap::ArcSwap;
use subtle::{Choice, ConstantTimeEq};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    clock::Clock,
    domain::{
        UnixMs,
        access::{RateLimit, TokenBucket, TokenSettings},
        id::TokenName,
    },
    store::{SECRETS_MAX, TokenRow},
};

/// A token: its name, what it may do, and what it did. One for the whole life of the token, rotations included.
#[derive(Debug)]
pub struct Token {
    /// Its name.
    pub name: TokenName,
    /// When it was made.
    pub created_at: UnixMs,
    /// What it may do.
    pub settings: ArcSwap<TokenSettings>,
    /// When it was last used, unix milliseconds; 0: never.
    pub last_used_ms: AtomicI64,
    /// The last use that the store knows of.
    pub(super) written_ms: AtomicI64,
    bucket: Mutex<TokenBucket>,
    bucket_since: Instant,
    calls: Arc<AtomicU32>,
}

impl Token {
    /// A token as it was made.
    #[must_use]
    pub fn new(name: TokenName, settings: TokenSettings, created_at: UnixMs) -> Arc<Self> {
        Self::used(name, settings, created_at, 0)
    }

    fn used(
        name: TokenName,
        settings: TokenSettings,
        created_at: UnixMs,
        last_used_ms: UnixMs,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            created_at,
            settings: ArcSwap::from_pointee(settings),
            last_used_ms: AtomicI64::new(last_used_ms),
            written_ms: AtomicI64::new(last_used_ms),
            bucket: Mutex::default(),
            bucket_since: Instant::now(),
            calls: Arc::default(),
        })
    }

    /// Takes `count` requests out of its rate, which is `otherwise` when it has none of its own.
    ///
    /// # Errors
    /// The rate, and after how many seconds there will be room.
    pub fn take(&self, count: u32, otherwise: Option<RateLimit>) -> Result<(), (RateLimit, u64)> {
        let Some(limit) = self.settings.load().rate_limit.or(otherwise) else {
            return Ok(());
        };
        let now_ns = u64::try_from(self.bucket_since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket
            .take(limit, count, now_ns)
            .map_err(|wait_ns| (limit, wait_ns.div_ceil(1_000_000_000)))
    }

    /// Begins `count` calls, which end when the answer is dropped. `None` of the permit: there is no limit.
    ///
    /// # Errors
    /// The limit, when so many calls are under way.
    pub fn begin(&self, count: u32, otherwise: Option<u32>) -> Result<Option<CallPermit>, u32> {
        let most = self.settings.load().concurrency_max.or(otherwise);
        let Some(most) = most.filter(|_| count > 0) else {
            return Ok(None);
        };
        let begun = self
            .calls
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |calls| {
                // A batch larger than the limit passes when nothing else is under way.
                let after = calls.saturating_add(count);
                (after <= most || calls == 0).then_some(after)
            });
        match begun {
            Ok(_) => Ok(Some(CallPermit {
                calls: self.calls.clone(),
                count,
            })),
            Err(_) => Err(most),
        }
    }
}

/// Calls under way of a token with a limit of concurrency; dropping it ends them.
#[derive(Debug)]
pub struct CallPermit {
    calls: Arc<AtomicU32>,
    count: u32,
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.calls.fetch_sub(self.count, Ordering::AcqRel);
    }
}

/// Until when a secret opens anything; [`UnixMs::MAX`]: without end, [`UnixMs::MIN`]: it was revoked. Whoever let a
/// client in watches it, so that the end of a secret is the end of what it opened.
#[derive(Debug, Clone)]
pub struct Validity(Arc<watch::Sender<UnixMs>>);

impl Validity {
    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self, now: UnixMs) -> bool {
        *self.0.borrow() <= now
    }

    /// Resolves when it is over.
    pub async fn over(self) {
        let mut until = self.0.subscribe();
        loop {
            let at = *until.borrow_and_update();
            if at <= Clock::System.now() {
                return;
            }
            // The sender is held here: this never fails. A time far off is looked at again in between.
            tokio::select! {
                _ = until.changed() => {}
                () = sleep_until(Clock::System.next_look(at)) => {}
            }
        }
    }
}

/// One secret of a token.
#[derive(Debug, Clone)]
pub struct Secret {
    /// The token.
    pub token: Arc<Token>,
    /// SHA-256 of the secret's text; the secret itself is kept nowhere.
    pub hash: [u8; 32],
    /// When it was made.
    pub created_at: UnixMs,
    /// Until when it is valid beside a newer one; `None`: it is the present one.
    pub overlap_until: Option<UnixMs>,
    /// Until when it opens anything, all things considered.
    pub validity: Validity,
}

impl Secret {
    fn new(token: &Arc<Token>, hash: [u8; 32], created_at: UnixMs) -> Self {
        let end = token.settings.load().expires_at.unwrap_or(UnixMs::MAX);
        Self {
            token: token.clone(),
            hash,
            created_at,
            overlap_until: None,
            validity: Validity(Arc::new(watch::Sender::new(end))),
        }
    }

    fn tell(&self) {
        let end = self.token.settings.load().expires_at;
        let until = [end, self.overlap_until].into_iter().flatten().min();
        let until = until.unwrap_or(UnixMs::MAX);
        self.validity
            .0
            .send_if_modified(|known| std::mem::replace(known, until) != until);
    }

    fn revoke(&self) {
        self.validity.0.send_replace(UnixMs::MIN);
    }
}

/// The tokens of one instance.
#[derive(Debug, Clone, Default)]
pub struct TokenSet {
    tokens: Vec<Arc<Token>>,
    /// By hash.
    secrets: Vec<Secret>,
}

impl TokenSet {
    /// As the store has them.
    #[must_use]
    pub fn restored(rows: Vec<TokenRow>) -> Self {
        let mut set = Self::default();
        for row in rows {
            let last_used = row.last_used_at.unwrap_or(0);
            let token = Token::used(row.name, row.settings, row.created_at, last_used);
            for known in row.secrets {
                let mut secret = Secret::new(&token, known.hash, known.created_at);
                secret.overlap_until = known.expires_at;
                secret.tell();
                set.secrets.push(secret);
            }
            set.tokens.push(token);
        }
        set.sort();
        set
    }

    /// A set with this token alone.
    #[must_use]
    pub fn of_one(token: Arc<Token>, hash: [u8; 32]) -> Self {
        Self::default().with(token, hash)
    }

    fn sort(&mut self) {
        self.secrets.sort_unstable_by_key(|secret| secret.hash);
        // Most instances have one and never another.
        self.secrets.shrink_to_fit();
        self.tokens.shrink_to_fit();
    }

    /// The secret with this hash, if it is valid.
    ///
    /// It is found by the first bytes of the hash and then compared in constant time. Where the search ends tells
    /// nothing that helps: nobody can choose a text whose hash is near to a given one.
    #[must_use]
    pub fn opens(&self, hash: &[u8; 32], now: UnixMs) -> Option<&Secret> {
        let near = |secret: &Secret| secret.hash[..8].cmp(&hash[..8]);
        let from = self.secrets.partition_point(|secret| near(secret).is_lt());
        self.secrets[from..]
            .iter()
            .take_while(|secret| near(secret).is_eq())
            .find(|secret| is_same(&secret.hash, hash))
            .filter(|secret| !secret.validity.is_over(now))
    }

    /// Every token, oldest first.
    #[must_use]
    pub fn tokens(&self) -> &[Arc<Token>] {
        &self.tokens
    }

    /// The token of this name.
    #[must_use]
    pub fn named(&self, name: &TokenName) -> Option<&Arc<Token>> {
        self.tokens.iter().find(|token| token.name == *name)
    }

    /// The secrets of a token, in no order.
    pub fn secrets_of(&self, token: &Arc<Token>) -> impl Iterator<Item = &Secret> {
        self.secrets
            .iter()
            .filter(|secret| Arc::ptr_eq(&secret.token, token))
    }

    /// The set with one more token.
    #[must_use]
    pub fn with(mut self, token: Arc<Token>, hash: [u8; 32]) -> Self {
        self.secrets
            .push(Secret::new(&token, hash, token.created_at));
        self.tokens.push(token);
        self.sort();
        self
    }

    /// The set without a token; what its secrets opened ends.
    #[must_use]
    pub fn without(mut self, token: &Arc<Token>) -> Self {
        self.tokens.retain(|known| !Arc::ptr_eq(known, token));
        self.secrets.retain(|secret| {
            let stays = !Arc::ptr_eq(&secret.token, token);
            if !stays {
                secret.revoke();
            }
            stays
        });
        self
    }

    /// The set with another secret of a token. Those before it are valid until `old_until`, or end now.
    #[must_use]
    pub fn rotated(
        mut self,
        token: &Arc<Token>,
        hash: [u8; 32],
        old_until: Option<UnixMs>,
        now: UnixMs,
    ) -> Self {
        self.secrets.retain_mut(|secret| {
            if !Arc::ptr_eq(&secret.token, token) {
                return true;
            }
            let until = match (old_until, secret.overlap_until) {
                (Some(until), Some(earlier)) => until.min(earlier),
                (Some(until), None) => until,
                (None, _) => now,
            };
            secret.overlap_until = Some(until);
            if until <= now {
                secret.revoke();
                return false;
            }
            secret.tell();
            true
        });
        self.secrets.push(Secret::new(token, hash, now));
        self.trim(token);
        self.sort();
        self
    }

    /// As the store does: of too many secrets of a token the oldest go.
    fn trim(&mut self, token: &Arc<Token>) {
        let most = usize::try_from(SECRETS_MAX).unwrap_or(usize::MAX);
        while self.secrets_of(token).count() > most {
            let oldest = self
                .secrets_of(token)
                .filter(|secret| secret.overlap_until.is_some())
                .min_by_key(|secret| secret.created_at)
                .map(|secret| secret.hash);
            let Some(oldest) = oldest else { return };
            self.secrets.retain(|secret| {
                let stays = secret.hash != oldest;
                if !stays {
                    secret.revoke();
                }
                stays
            });
        }
    }

    /// Tells the secrets of a token that its settings changed.
    pub fn told(&self, token: &Arc<Token>) {
        for secret in self.secrets_of(token) {
            secret.tell();
        }
    }
}

/// Compares in constant time, eight bytes at once: one by one took as long as the rest of the search.
fn is_same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let words = one.as_chunks().0.iter().zip(other.as_chunks().0);
    words
        .fold(Choice::from(1), |same, (one, other)| {
            same & u64::from_ne_bytes(*one).ct_eq(&u64::from_ne_bytes(*other))
        })
        .into()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_itself_and_no_other() {
        let hash = std::array::from_fn(|place| u8::try_from(place).unwrap());
        assert!(is_same(&hash, &hash));
        for place in 0..32 {
            let mut other = hash;
            other[place] ^= 0x80;
            assert!(!is_same(&hash, &other), "{place}");
        }
    }

    fn token(name: &str, settings: TokenSettings) -> Arc<Token> {
        Token::new(TokenName::new(name).unwrap(), settings, 1)
    }

    #[test]
    fn a_secret_opens_as_long_as_it_is_valid() {
        let one = token("one", TokenSettings::default());
        let until = TokenSettings {
            expires_at: Some(50),
            ..TokenSettings::default()
        };
        let two = token("two", until);
        // The same beginning: found together, told apart by the rest.
        let (mut a, mut b) = ([7; 32], [7; 32]);
        (a[31], b[31]) = (1, 2);
        let set = TokenSet::of_one(one.clone(), a).with(two.clone(), b);
        assert_eq!(set.opens(&a, 90).unwrap().token.name, one.name);
        assert_eq!(set.opens(&b, 49).unwrap().token.name, two.name);
        assert!(set.opens(&b, 50).is_none());
        assert!(set.opens(&[7; 32], 1).is_none());
        assert!(set.opens(&[0; 32], 1).is_none() && set.opens(&[255; 32], 1).is_none());
    }

    #[test]
    fn a_rotation_overlaps_and_a_revocation_ends_at_once() {
        let one = token("one", TokenSettings::default());
        let set = TokenSet::of_one(one.clone(), [1; 32]);
        let old = set.opens(&[1; 32], 5).unwrap().validity.clone();
        let set = set.rotated(&one, [2; 32], Some(100), 10);
        assert!(set.opens(&[1; 32], 99).is_some() && set.opens(&[1; 32], 100).is_none());
        let set = set.rotated(&one, [3; 32], Some(500), 20);
        assert!(set.opens(&[1; 32], 100).is_none(), "an earlier end stays");
        assert!(set.opens(&[2; 32], 499).is_some());
        assert!(!old.is_over(99));
        let set = set.rotated(&one, [4; 32], None, 30);
        assert!(old.is_over(UnixMs::MIN), "it was revoked");
        assert_eq!(set.secrets_of(&one).count(), 1);
        let last = set.opens(&[4; 32], 30).unwrap().validity.clone();
        let set = set.without(&one);
        assert!(last.is_over(0) && set.opens(&[4; 32], 30).is_none() && set.tokens().is_empty());
    }

    #[tokio::test]
    async fn who_watches_a_secret_hears_of_its_end() {
        let one = token("one", TokenSettings::default());
        let set = TokenSet::of_one(one.clone(), [1; 32]);
        let validity = set.opens(&[1; 32], 5).unwrap().validity.clone();
        let watching = tokio::spawn(validity.over());
        one.settings.store(Arc::new(TokenSettings {
            expires_at: Some(1),
            ..TokenSettings::default()
        }));
        set.told(&one);
        watching.await.unwrap();
    }

    #[test]
    fn calls_at_the_same_time_are_counted() {
        let one = token("one", TokenSettings::default());
        assert!(one.begin(5, None).unwrap().is_none());
        let first = one.begin(1, Some(2)).unwrap();
        let second = one.begin(1, Some(2)).unwrap();
        assert_eq!(one.begin(1, Some(2)).unwrap_err(), 2);
        drop(first);
        assert_eq!(one.begin(2, Some(2)).unwrap_err(), 2);
        drop(second);
        drop(one.begin(9, Some(2)).unwrap());
        assert!(one.begin(2, Some(2)).unwrap().is_some());
    }

    #[test]
    fn a_rate_says_when_to_come_back() {
        let settings = TokenSettings {
            rate_limit: Some("1/1h".parse().unwrap()),
            ..TokenSettings::default()
        };
        let one = token("one", settings);
        assert_eq!(one.take(1, None), Ok(()));
        let (limit, seconds) = one.take(1, None).unwrap_err();
        assert_eq!(limit.to_string(), "1/1h");
        assert!((3_590..=3_600).contains(&seconds), "{seconds}");
    }
}
