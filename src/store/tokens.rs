//! Hashes of access tokens; a token itself never comes in here.

use sqlx::{query, query_as, query_scalar};

use super::{Store, StoreError};
use crate::domain::{UnixMs, id::InstanceId};

/// Most tokens of one instance that are valid at the same time; the oldest go first.
pub const TOKENS_MAX: i64 = 8;

/// A token by its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    /// Until when it is valid; `None`: the present token, without end.
    pub expires_at: Option<UnixMs>,
}

/// Takes the row's lock, which both dialects spell alike: of two replacements at once the second sees the first.
const LOCK_INSTANCE: &str =
    "UPDATE instances SET updated_at = updated_at WHERE id = $1 RETURNING instance_key";
pub(super) const INSERT_TOKEN: &str =
    "INSERT INTO access_tokens (hash, instance_key, created_at) VALUES ($1, $2, $3)";

row! {
    struct TokenColumns {
        hash: Vec<u8>,
        id: String,
        expires_at: Option<i64>,
    }
}

impl Store {
    /// Every token of every instance, expired ones included. A damaged row is logged and passed over.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn access_tokens(&self) -> Result<Vec<(InstanceId, TokenRow)>, StoreError> {
        let rows: Vec<TokenColumns> = reading!(self, |db| {
            query_as(
                "SELECT t.hash, i.id, t.expires_at FROM access_tokens t \
                 JOIN instances i ON i.instance_key = t.instance_key ORDER BY t.instance_key, t.created_at",
            )
            .fetch_all(db)
            .await?
        });
        let read = |row: TokenColumns| {
            let id = row.id.parse::<InstanceId>().ok();
            let hash = <[u8; 32]>::try_from(row.hash).ok();
            if id.is_none() || hash.is_none() {
                tracing::error!(
                    table = "access_tokens",
                    id = row.id,
                    "passed over a damaged row"
                );
            }
            let expires_at = row.expires_at;
            id.zip(hash)
                .map(|(id, hash)| (id, TokenRow { hash, expires_at }))
        };
        Ok(rows.into_iter().filter_map(read).collect())
    }

    /// Makes `new_hash` the instance's token. The ones before it end at once, or with `old_valid_until` at that time
    /// (a time already set and earlier stays). At most [`TOKENS_MAX`] stay valid together.
    ///
    /// # Errors
    /// `NotFound` when there is no such instance, `Conflict("token")` when the hash exists.
    pub async fn replace_token(
        &self,
        id: InstanceId,
        new_hash: [u8; 32],
        old_valid_until: Option<UnixMs>,
        now: UnixMs,
    ) -> Result<(), StoreError> {
        let old_valid_until = old_valid_until.unwrap_or(now);
        in_transaction!(self, |tx| {
            let key: i64 = query_scalar(LOCK_INSTANCE)
                .bind(id.to_string())
                .fetch_optional(&mut *tx)
                .await?
                .ok_or(StoreError::NotFound)?;
            query(
                "UPDATE access_tokens SET expires_at = $2 \
                 WHERE instance_key = $1 AND (expires_at IS NULL OR expires_at > $2)",
            )
            .bind(key)
            .bind(old_valid_until)
            .execute(&mut *tx)
            .await?;
            query("DELETE FROM access_tokens WHERE instance_key = $1 AND expires_at <= $2")
                .bind(key)
                .bind(now)
                .execute(&mut *tx)
                .await?;
            query(
                "DELETE FROM access_tokens WHERE instance_key = $1 AND hash NOT IN \
                 (SELECT hash FROM access_tokens WHERE instance_key = $1 ORDER BY created_at DESC LIMIT $2)",
            )
            .bind(key)
            .bind(TOKENS_MAX - 1)
            .execute(&mut *tx)
            .await?;
            query(INSERT_TOKEN)
                .bind(&new_hash[..])
                .bind(key)
                .bind(now)
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }
}
