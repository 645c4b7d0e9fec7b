//! Access tokens with their scopes and limits, and the hashes of their secrets; a secret itself never comes in here.

use sqlx::{query, query_scalar};

use super::{
    CorruptRow, Store, StoreError,
    damaged::each,
    row::{JsonText, to_column},
};
use crate::domain::{
    UnixMs,
    access::{DEFAULT_TOKEN, RateLimit, TOKENS_MAX, TokenSettings},
    duration::HumanDuration,
    id::{InstanceId, TokenName},
};

const TABLE: &str = "access_tokens";

/// Most secrets of one token that are valid at the same time; the oldest go first.
pub const SECRETS_MAX: i64 = 8;

/// One access token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its name.
    pub name: TokenName,
    /// What it may do, and how long.
    pub settings: TokenSettings,
    /// When it was made.
    pub created_at: UnixMs,
    /// When it was last used.
    pub last_used_at: Option<UnixMs>,
    /// Its secrets, oldest first; the last one without an end is the present one.
    pub secrets: Vec<SecretRow>,
}

/// A secret of a token, by its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRow {
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// When it was made.
    pub created_at: UnixMs,
    /// Until when it is valid; `None`: the present one, which ends with its token.
    pub expires_at: Option<UnixMs>,
}

/// What a new token starts with.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Its name.
    pub name: TokenName,
    /// What it may do, and how long.
    pub settings: TokenSettings,
    /// SHA-256 of its secret.
    pub hash: [u8; 32],
    /// The time of creation.
    pub now: UnixMs,
}

/// Takes the row's lock, which both dialects spell alike: of two changes at once the second sees the first.
const LOCK_INSTANCE: &str =
    "UPDATE instances SET updated_at = updated_at WHERE id = $1 RETURNING instance_key";
const INSERT_TOKEN: &str = "INSERT INTO access_tokens \
     (instance_key, name, scope, created_at, expires_at, rate_requests, rate_per_ms, concurrency_max) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
/// The first token of an instance.
pub(super) const INSERT_DEFAULT: &str = "INSERT INTO access_tokens (instance_key, name, scope, created_at) \
     VALUES ($1, $2, $3, $4) ON CONFLICT (instance_key, name) DO NOTHING";
pub(super) const INSERT_SECRET: &str = "INSERT INTO access_token_secrets (hash, instance_key, name, created_at) VALUES ($1, $2, $3, $4)";

row! {
    struct TokenColumns {
        id: String,
        name: String,
        scope: JsonText,
        created_at: i64,
        expires_at: Option<i64>,
        last_used_at: Option<i64>,
        rate_requests: Option<i64>,
        rate_per_ms: Option<i64>,
        concurrency_max: Option<i64>,
        hash: Vec<u8>,
        secret_created_at: i64,
        secret_expires_at: Option<i64>,
    }
}

impl TokenColumns {
    /// The token with this one secret; `None` when the row is damaged.
    fn read(&self) -> Option<(InstanceId, TokenRow)> {
        let rate_limit = match (self.rate_requests, self.rate_per_ms) {
            (None, None) => None,
            (Some(requests), Some(per_ms)) => Some(RateLimit {
                requests: u32::try_from(requests).ok()?,
                per: HumanDuration::from_ms(u64::try_from(per_ms).ok()?),
            }),
            _ => return None,
        };
        let concurrency_max = match self.concurrency_max {
            None => None,
            Some(most) => Some(u32::try_from(most).ok()?),
        };
        let row = TokenRow {
            name: TokenName::new(self.name.as_str()).ok()?,
            settings: TokenSettings {
                scope: self.scope.read()?,
                expires_at: self.expires_at,
                rate_limit,
                concurrency_max,
            },
            created_at: self.created_at,
            last_used_at: self.last_used_at,
            secrets: vec![SecretRow {
                hash: <[u8; 32]>::try_from(self.hash.as_slice()).ok()?,
                created_at: self.secret_created_at,
                expires_at: self.secret_expires_at,
            }],
        };
        Some((self.id.parse().ok()?, row))
    }
}

/// Scope, end and limits as columns.
struct Settings {
    scope: JsonText,
    expires_at: Option<i64>,
    rate_requests: Option<i64>,
    rate_per_ms: Option<i64>,
    concurrency_max: Option<i64>,
}

impl Settings {
    fn of(settings: &TokenSettings) -> Result<Self, StoreError> {
        let rate = settings.rate_limit;
        Ok(Self {
            scope: JsonText::of(&settings.scope)?,
            expires_at: settings.expires_at,
            rate_requests: rate.map(|rate| rate.requests.into()),
            rate_per_ms: rate.map(|rate| to_column(rate.per.ms())),
            concurrency_max: settings.concurrency_max.map(i64::from),
        })
    }
}

impl Store {
    /// Every token of every instance, expired ones included. A damaged row is passed over and named
    /// ([`Store::damaged_rows`]): it opens nothing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn access_tokens(&self) -> Result<Vec<(InstanceId, TokenRow)>, StoreError> {
        let (rows, mut corrupt): (Vec<TokenColumns>, _) = reading!(self, |db| {
            let rows = query(
                "SELECT i.id, t.name, t.scope, t.created_at, t.expires_at, t.last_used_at, t.rate_requests, \
                 t.rate_per_ms, t.concurrency_max, s.hash, s.created_at AS secret_created_at, \
                 s.expires_at AS secret_expires_at \
                 FROM access_token_secrets s \
                 JOIN access_tokens t ON t.instance_key = s.instance_key AND t.name = s.name \
                 JOIN instances i ON i.instance_key = t.instance_key \
                 ORDER BY t.instance_key, t.created_at, t.name, s.created_at",
            )
            .fetch_all(db)
            .await?;
            each(&rows, TABLE, "id")
        });
        let mut tokens: Vec<(InstanceId, TokenRow)> = Vec::new();
        for row in rows {
            let Some((id, mut token)) = row.read() else {
                corrupt.push(CorruptRow {
                    table: TABLE,
                    column: "(content)",
                    id: format!("{}/{}", row.id, row.name),
                });
                continue;
            };
            match tokens.last_mut() {
                Some((last, known)) if *last == id && known.name == token.name => {
                    known.secrets.append(&mut token.secrets);
                }
                _ => tokens.push((id, token)),
            }
        }
        self.damaged.note(TABLE, corrupt);
        Ok(tokens)
    }

    /// Adds a token.
    ///
    /// # Errors
    /// `NotFound` when there is no such instance, `Conflict("token-name")` when it has a token of this name,
    /// `Conflict("token")` when the hash exists, `Conflict("tokens-max")` when the instance has [`TOKENS_MAX`] tokens.
    pub async fn create_token(&self, id: InstanceId, new: &NewToken) -> Result<(), StoreError> {
        let settings = Settings::of(&new.settings)?;
        in_transaction!(self, |tx| {
            let key: i64 = query_scalar(LOCK_INSTANCE)
                .bind(id.to_string())
                .fetch_optional(&mut *tx)
                .await?
                .ok_or(StoreError::NotFound)?;
            query(INSERT_TOKEN)
                .bind(key)
                .bind(new.name.as_str())
                .bind(&settings.scope)
                .bind(new.now)
                .bind(settings.expires_at)
                .bind(settings.rate_requests)
                .bind(settings.rate_per_ms)
                .bind(settings.concurrency_max)
                .execute(&mut *tx)
                .await?;
            let count: i64 =
                query_scalar("SELECT COUNT(*) FROM access_tokens WHERE instance_key = $1")
                    .bind(key)
                    .fetch_one(&mut *tx)
                    .await?;
            if usize::try_from(count).is_ok_and(|count| count > TOKENS_MAX) {
                return Err(StoreError::Conflict("tokens-max"));
            }
            query(INSERT_SECRET)
                .bind(&new.hash[..])
                .bind(key)
                .bind(new.name.as_str())
                .bind(new.now)
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }

    /// Writes what a token may do from now on.
    ///
    /// # Errors
    /// `NotFound` when there is no such token.
    pub async fn change_token(
        &self,
        id: InstanceId,
        name: &TokenName,
        settings: &TokenSettings,
    ) -> Result<(), StoreError> {
        let settings = Settings::of(settings)?;
        let changed = writing!(self, |db| {
            query(
                "UPDATE access_tokens SET scope = $3, expires_at = $4, rate_requests = $5, rate_per_ms = $6, \
                 concurrency_max = $7 \
                 WHERE name = $2 AND instance_key = (SELECT instance_key FROM instances WHERE id = $1)",
            )
            .bind(id.to_string())
            .bind(name.as_str())
            .bind(&settings.scope)
            .bind(settings.expires_at)
            .bind(settings.rate_requests)
            .bind(settings.rate_per_ms)
            .bind(settings.concurrency_max)
            .execute(db)
            .await?
            .rows_affected()
        });
        if changed == 0 {
            return Err(StoreError::NotFound);
        }
        Ok(())
    }

    /// Removes a token with its secrets.
    ///
    /// # Errors
    /// `NotFound` when there is no such token.
    pub async fn delete_token(&self, id: InstanceId, name: &TokenName) -> Result<(), StoreError> {
        let gone = writing!(self, |db| {
            query(
                "DELETE FROM access_tokens \
                 WHERE name = $2 AND instance_key = (SELECT instance_key FROM instances WHERE id = $1)",
            )
            .bind(id.to_string())
            .bind(name.as_str())
            .execute(db)
            .await?
            .rows_affected()
        });
        if gone == 0 {
            return Err(StoreError::NotFound);
        }
        Ok(())
    }

    /// Makes `new_hash` the token's secret. The ones before it end at once, or with `old_valid_until` at that time
    /// (a time already set and earlier stays). At most [`SECRETS_MAX`] stay valid together. The token `default` is
    /// made when it is not there, without any limit.
    ///
    /// # Errors
    /// `NotFound` when there is no such instance or token, `Conflict("token")` when the hash exists.
    pub async fn replace_token(
        &self,
        id: InstanceId,
        name: &TokenName,
        new_hash: [u8; 32],
        old_valid_until: Option<UnixMs>,
        now: UnixMs,
    ) -> Result<(), StoreError> {
        let old_valid_until = old_valid_until.unwrap_or(now);
        let all = JsonText::of(&TokenSettings::default().scope)?;
        in_transaction!(self, |tx| {
            let key: i64 = query_scalar(LOCK_INSTANCE)
                .bind(id.to_string())
                .fetch_optional(&mut *tx)
                .await?
                .ok_or(StoreError::NotFound)?;
            if name.as_str() == DEFAULT_TOKEN {
                query(INSERT_DEFAULT)
                    .bind(key)
                    .bind(name.as_str())
                    .bind(&all)
                    .bind(now)
                    .execute(&mut *tx)
                    .await?;
            }
            query(
                "UPDATE access_token_secrets SET expires_at = $3 \
                 WHERE instance_key = $1 AND name = $2 AND (expires_at IS NULL OR expires_at > $3)",
            )
            .bind(key)
            .bind(name.as_str())
            .bind(old_valid_until)
            .execute(&mut *tx)
            .await?;
            query(
                "DELETE FROM access_token_secrets WHERE instance_key = $1 AND name = $2 AND expires_at <= $3",
            )
            .bind(key)
            .bind(name.as_str())
            .bind(now)
            .execute(&mut *tx)
            .await?;
            query(
                "DELETE FROM access_token_secrets WHERE instance_key = $1 AND name = $2 AND hash NOT IN \
                 (SELECT hash FROM access_token_secrets WHERE instance_key = $1 AND name = $2 \
                  ORDER BY created_at DESC LIMIT $3)",
            )
            .bind(key)
            .bind(name.as_str())
            .bind(SECRETS_MAX - 1)
            .execute(&mut *tx)
            .await?;
            // Without its token the secret has no parent, which is `NotFound`.
            query(INSERT_SECRET)
                .bind(&new_hash[..])
                .bind(key)
                .bind(name.as_str())
                .bind(now)
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }

    /// Notes when tokens were last used, in one transaction; an older time than the row's changes nothing, and a token
    /// that is gone is passed over.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn touch_tokens(
        &self,
        used: &[(InstanceId, TokenName, UnixMs)],
    ) -> Result<(), StoreError> {
        if used.is_empty() {
            return Ok(());
        }
        match &self.pool {
            super::pool::Pool::Sqlite { writer, .. } => in_time!(self, {
                let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
                for (id, name, at) in used {
                    query(
                        "UPDATE access_tokens SET last_used_at = $3 \
                         WHERE name = $2 AND instance_key = (SELECT instance_key FROM instances WHERE id = $1) \
                         AND (last_used_at IS NULL OR last_used_at < $3)",
                    )
                    .bind(id.to_string())
                    .bind(name.as_str())
                    .bind(at)
                    .execute(&mut *tx)
                    .await?;
                }
                tx.commit().await?;
            }),
            super::pool::Pool::Postgres { pool, .. } => in_time!(self, {
                let ids: Vec<String> = used.iter().map(|(id, _, _)| id.to_string()).collect();
                let names: Vec<&str> = used.iter().map(|(_, name, _)| name.as_str()).collect();
                let times: Vec<i64> = used.iter().map(|(_, _, at)| *at).collect();
                query(
                    "UPDATE access_tokens t SET last_used_at = GREATEST(t.last_used_at, u.at) \
                     FROM (SELECT i.instance_key, u.name, MAX(u.at) AS at \
                           FROM UNNEST($1, $2, $3) AS u (id, name, at) JOIN instances i ON i.id = u.id \
                           GROUP BY i.instance_key, u.name) u \
                     WHERE t.instance_key = u.instance_key AND t.name = u.name",
                )
                .bind(ids)
                .bind(names)
                .bind(times)
                .execute(pool)
                .await?;
            }),
        }
        Ok(())
    }
}
