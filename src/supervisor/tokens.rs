//! Making, changing, rotating and revoking access tokens: the handle's side and the actor's.

use std::sync::{Arc, atomic::Ordering};

use super::{
    Granted, Seen, Supervisor, SupervisorError,
    access::{Secret, Token, TokenSet},
    actor::Actor,
    command::Verb,
    route::AccessEvent,
};
use crate::{
    domain::{
        UnixMs,
        access::{DEFAULT_TOKEN, TOKENS_MAX, TokenPatch, TokenSettings},
        duration::HumanDuration,
        id::{InstanceId, TokenName},
        principal::Principal,
    },
    secrets::{self, AccessToken},
    store::{NewToken, StoreError},
};

type Outcome<T> = Result<T, SupervisorError>;

/// An access token as it is now, without its secret.
#[derive(Debug, Clone)]
pub struct TokenStatus {
    /// Its name.
    pub name: TokenName,
    /// What it may do.
    pub settings: TokenSettings,
    /// When it was made.
    pub created_at: UnixMs,
    /// When its present secret was made.
    pub rotated_at: UnixMs,
    /// Until when the latest secret before that one is valid, if it is.
    pub overlap_until: Option<UnixMs>,
    /// When it was last used.
    pub last_used_at: Option<UnixMs>,
    /// Tells its secret from others, and gives nothing away.
    pub fingerprint: String,
}

/// A change that the actor makes.
#[derive(Debug)]
pub(super) enum TokenChange {
    /// Another token.
    Create(Box<NewToken>),
    /// Other settings.
    Patch(TokenName, Box<TokenPatch>),
    /// Another secret: its hash, and until when the old one counts.
    Rotate(TokenName, [u8; 32], Option<UnixMs>),
    /// No token any more.
    Revoke(TokenName),
}

impl Supervisor {
    fn token_set(&self, id: InstanceId) -> Outcome<Arc<TokenSet>> {
        Ok(self.actor(id)?.route.tokens.load_full())
    }

    /// Every access token of an instance, oldest first.
    ///
    /// # Errors
    /// When there is no such instance.
    pub fn tokens(&self, _who: &Principal, id: InstanceId) -> Outcome<Vec<TokenStatus>> {
        let set = self.token_set(id)?;
        let now = self.context().clock.now();
        Ok(set
            .tokens()
            .iter()
            .map(|token| status_of(&set, token, now))
            .collect())
    }

    /// One access token.
    ///
    /// # Errors
    /// When there is no such instance or token.
    pub fn token(&self, _who: &Principal, id: InstanceId, name: &str) -> Outcome<TokenStatus> {
        let set = self.token_set(id)?;
        let now = self.context().clock.now();
        TokenName::new(name)
            .ok()
            .and_then(|name| Some(status_of(&set, set.named(&name)?, now)))
            .ok_or_else(|| unknown(name))
    }

    /// A new access token.
    ///
    /// # Errors
    /// When there is no such instance, the name is taken, there are too many, or the store is away.
    pub async fn create_token(
        &self,
        who: &Principal,
        id: InstanceId,
        name: TokenName,
        settings: TokenSettings,
    ) -> Outcome<(TokenStatus, Granted)> {
        let secret = generate()?;
        let new = NewToken {
            name: name.clone(),
            settings,
            hash: secret.hash(),
            now: self.context().clock.now(),
        };
        let change = TokenChange::Create(Box::new(new));
        let status = self.command(id, Verb::Token(change)).await?;
        let token = self.token(who, id, name.as_str())?;
        Ok((token, self.granted(status, secret)))
    }

    /// Other settings for an access token.
    ///
    /// # Errors
    /// When there is no such instance or token, or the store is away.
    pub async fn patch_token(
        &self,
        who: &Principal,
        id: InstanceId,
        name: &str,
        patch: TokenPatch,
    ) -> Outcome<TokenStatus> {
        let known = self.token(who, id, name)?.name;
        let change = TokenChange::Patch(known, Box::new(patch));
        self.command(id, Verb::Token(change)).await?;
        self.token(who, id, name)
    }

    /// A new secret for an access token; the old one stays valid for `overlap`.
    ///
    /// # Errors
    /// When there is no such instance or token, its time is up, or the store is away.
    pub async fn rotate_token(
        &self,
        who: &Principal,
        id: InstanceId,
        name: &str,
        overlap: HumanDuration,
    ) -> Outcome<(TokenStatus, Granted)> {
        let known = self.token(who, id, name)?.name;
        let granted = self.rotate(id, known, overlap).await?;
        Ok((self.token(who, id, name)?, granted))
    }

    /// A new secret for the access token `default`, which is made when it is not there.
    ///
    /// # Errors
    /// When there is no such instance, its time is up, or the store is away.
    pub async fn rotate_access_token(
        &self,
        _who: &Principal,
        id: InstanceId,
        overlap: HumanDuration,
    ) -> Outcome<Granted> {
        self.rotate(id, TokenName::first(), overlap).await
    }

    async fn rotate(
        &self,
        id: InstanceId,
        name: TokenName,
        overlap: HumanDuration,
    ) -> Outcome<Granted> {
        let secret = generate()?;
        let overlap_ms = i64::try_from(overlap.ms()).unwrap_or(i64::MAX);
        let now = self.context().clock.now();
        let old_until = (overlap_ms > 0).then(|| now.saturating_add(overlap_ms));
        let change = TokenChange::Rotate(name, secret.hash(), old_until);
        let status = self.command(id, Verb::Token(change)).await?;
        Ok(self.granted(status, secret))
    }

    /// Ends an access token with everything that it opened.
    ///
    /// # Errors
    /// When there is no such instance or token, or the store is away.
    pub async fn revoke_token(&self, who: &Principal, id: InstanceId, name: &str) -> Outcome<()> {
        let known = self.token(who, id, name)?.name;
        let change = TokenChange::Revoke(known);
        self.command(id, Verb::Token(change)).await.map(drop)
    }

    fn granted(&self, status: Seen, secret: AccessToken) -> Granted {
        Granted {
            connect_url: self
                .context()
                .connect_url(status.record.port, secret.expose()),
            access_token: secret.into_text(),
            status,
        }
    }

    /// Writes when tokens were last used, as far as it is newer than what was written; answers how many.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn write_token_uses(&self) -> Result<usize, StoreError> {
        let (mut rows, mut used) = (Vec::new(), Vec::new());
        for (id, handle) in self.context().registry.after(None) {
            for token in handle.route.tokens.load().tokens() {
                let at = token.last_used_ms.load(Ordering::Relaxed);
                if at > token.written_ms.load(Ordering::Relaxed) {
                    rows.push((id, token.name.clone(), at));
                    used.push((token.clone(), at));
                }
            }
        }
        self.context().store.touch_tokens(&rows).await?;
        for (token, at) in &used {
            token.written_ms.store(*at, Ordering::Relaxed);
        }
        Ok(used.len())
    }
}

fn generate() -> Outcome<AccessToken> {
    AccessToken::generate().map_err(|error| SupervisorError::Internal(error.to_string()))
}

fn unknown(name: &str) -> SupervisorError {
    SupervisorError::NoToken(name.chars().take(80).collect())
}

fn status_of(set: &TokenSet, token: &Arc<Token>, now: UnixMs) -> TokenStatus {
    let present = |secret: &&Secret| secret.overlap_until.is_none();
    let secret = set.secrets_of(token).find(present);
    let last_used = token.last_used_ms.load(Ordering::Relaxed);
    TokenStatus {
        name: token.name.clone(),
        settings: TokenSettings::clone(&token.settings.load()),
        created_at: token.created_at,
        rotated_at: secret.map_or(token.created_at, |secret| secret.created_at),
        overlap_until: set
            .secrets_of(token)
            .filter_map(|secret| secret.overlap_until)
            .filter(|until| *until > now)
            .max(),
        last_used_at: (last_used > 0).then_some(last_used),
        fingerprint: secret.map_or_else(String::new, |secret| secrets::fingerprint(&secret.hash)),
    }
}

impl Actor {
    pub(super) async fn change_tokens(&mut self, change: TokenChange) -> Outcome<()> {
        let set = TokenSet::clone(&self.route.tokens.load());
        let find = |name: &TokenName| {
            set.named(name)
                .cloned()
                .ok_or_else(|| unknown(name.as_str()))
        };
        let store = &self.context.store;
        let id = self.record.id;
        let (set, kind, text) = match change {
            TokenChange::Create(new) => {
                if set.named(&new.name).is_some() {
                    return Err(SupervisorError::TokenNameTaken(new.name.to_string()));
                }
                if set.tokens().len() >= TOKENS_MAX {
                    return Err(SupervisorError::TokensExhausted(TOKENS_MAX));
                }
                match store.create_token(id, &new).await {
                    Err(StoreError::Conflict("token-name")) => {
                        // A row that an attempt left behind whose end was not heard: nobody ever got its secret.
                        store.delete_token(id, &new.name).await?;
                        store.create_token(id, &new).await?;
                    }
                    other => other?,
                }
                let text = format!("the access token {} was made", new.name);
                let token = Token::new(new.name, new.settings, new.now);
                (set.with(token, new.hash), "access-token-created", text)
            }
            TokenChange::Patch(name, patch) => {
                let token = find(&name)?;
                let settings = patch.applied_to(&token.settings.load());
                store.change_token(id, &name, &settings).await?;
                token.settings.store(Arc::new(settings));
                set.told(&token);
                let text = format!("the access token {name} was changed");
                (set, "access-token-changed", text)
            }
            TokenChange::Rotate(name, hash, old_until) => {
                let now = self.context.clock.now();
                let known = set.named(&name).cloned();
                let end = known
                    .as_ref()
                    .and_then(|token| token.settings.load().expires_at);
                if end.is_some_and(|end| end <= now) {
                    return Err(SupervisorError::TokenExpired(name.to_string()));
                }
                store
                    .replace_token(id, &name, hash, old_until, now)
                    .await
                    .map_err(|error| match error {
                        StoreError::NotFound => unknown(name.as_str()),
                        other => other.into(),
                    })?;
                let text = if name.as_str() == DEFAULT_TOKEN {
                    "a new access token was made".to_owned()
                } else {
                    format!("the access token {name} has a new secret")
                };
                let set = match known {
                    Some(token) => set.rotated(&token, hash, old_until, now),
                    None => set.with(Token::new(name, TokenSettings::default(), now), hash),
                };
                (set, "access-token-rotated", text)
            }
            TokenChange::Revoke(name) => {
                let token = find(&name)?;
                match store.delete_token(id, &name).await {
                    Ok(()) | Err(StoreError::NotFound) => {}
                    Err(error) => return Err(error.into()),
                }
                let text = format!("the access token {name} was revoked");
                (set.without(&token), "access-token-revoked", text)
            }
        };
        self.route.tokens.store(Arc::new(set));
        self.note(kind, text);
        // A full inbox only delays the end of sessions that nobody can use any more.
        let _ = self
            .context
            .access
            .try_send(AccessEvent::TokensChanged { id });
        Ok(())
    }
}
