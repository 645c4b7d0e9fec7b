//! Answers kept for `Idempotency-Key`, so that a repeated request is answered and not done twice.

use sqlx::{query, query_as};

use super::{Store, StoreError};
use crate::domain::{UnixMs, id::OwnerId};

/// The answer to a request that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyRow {
    /// SHA-256 of the request, to tell a repetition from another request under the same key.
    pub request_hash: [u8; 32],
    /// The HTTP status.
    pub status: u16,
    /// The body as the caller of the store gave it: sealed when it holds a secret.
    pub body: Vec<u8>,
    /// When it was kept.
    pub created_at: UnixMs,
}

row! {
    struct AnswerColumns {
        request_hash: Vec<u8>,
        status: i32,
        body: Vec<u8>,
        created_at: i64,
    }
}

impl Store {
    /// The answer kept for an owner's key.
    ///
    /// # Errors
    /// `Corrupt` when the row cannot be read back.
    pub async fn idempotency_get(
        &self,
        owner: &OwnerId,
        key: &str,
    ) -> Result<Option<IdempotencyRow>, StoreError> {
        let row: Option<AnswerColumns> = reading!(self, |db| {
            query_as(
                "SELECT request_hash, status, body, created_at FROM idempotency_keys \
                 WHERE owner = $1 AND key = $2",
            )
            .bind(owner.as_str())
            .bind(key)
            .fetch_optional(db)
            .await?
        });
        let Some(row) = row else { return Ok(None) };
        let damaged = |column| StoreError::corrupt("idempotency_keys", column, key);
        Ok(Some(IdempotencyRow {
            request_hash: row
                .request_hash
                .try_into()
                .map_err(|_| damaged("request_hash"))?,
            status: u16::try_from(row.status).map_err(|_| damaged("status"))?,
            body: row.body,
            created_at: row.created_at,
        }))
    }

    /// Keeps an answer. `key` must hold no NUL character.
    ///
    /// # Errors
    /// `Conflict("idempotency-key")` when there is one for this key: the first stays.
    pub async fn idempotency_put(
        &self,
        owner: &OwnerId,
        key: &str,
        request_hash: [u8; 32],
        status: u16,
        body: &[u8],
        now: UnixMs,
    ) -> Result<(), StoreError> {
        writing!(self, |db| {
            query(
                "INSERT INTO idempotency_keys (owner, key, request_hash, status, body, created_at) \
                 VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .bind(owner.as_str())
            .bind(key)
            .bind(&request_hash[..])
            .bind(i32::from(status))
            .bind(body)
            .bind(now)
            .execute(db)
            .await?;
        });
        Ok(())
    }

    /// Forgets the answers kept before `before`; answers how many.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn idempotency_purge(&self, before: UnixMs) -> Result<u64, StoreError> {
        Ok(writing!(self, |db| {
            query("DELETE FROM idempotency_keys WHERE created_at < $1")
                .bind(before)
                .execute(db)
                .await?
                .rows_affected()
        }))
    }
}
