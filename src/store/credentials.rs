//! Sealed credentials, and the known texts that tell a wrong master key.

use sqlx::{query, query_as, query_scalar};

use super::{CorruptRow, Store, StoreError, damaged::each};
use crate::domain::{
    UnixMs,
    credential::SealedSecret,
    id::{CredentialName, OwnerId},
};

const TABLE: &str = "credentials";

/// A credential with its sealed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRow {
    /// Who owns it.
    pub owner: OwnerId,
    /// Its name.
    pub name: CredentialName,
    /// The sealed value.
    pub sealed: SealedSecret,
    /// When it was first put.
    pub created_at: UnixMs,
    /// When its value was last put.
    pub updated_at: UnixMs,
}

/// A credential without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialEntry {
    /// Who owns it.
    pub owner: OwnerId,
    /// Its name.
    pub name: CredentialName,
    /// Which master key sealed it.
    pub key_id: String,
    /// When it was first put.
    pub created_at: UnixMs,
    /// When its value was last put.
    pub updated_at: UnixMs,
}

/// A known text sealed by a master key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyCheckRow {
    /// The sealed text; its key id says which key.
    pub sealed: SealedSecret,
    /// When the key was first used with this database.
    pub created_at: UnixMs,
}

row! {
    struct SealedColumns {
        owner: String,
        name: String,
        key_id: String,
        nonce: Vec<u8>,
        ciphertext: Vec<u8>,
        created_at: i64,
        updated_at: i64,
    }
}

row! {
    struct EntryColumns {
        owner: String,
        name: String,
        key_id: String,
        created_at: i64,
        updated_at: i64,
    }
}

row! {
    struct CheckColumns {
        key_id: String,
        nonce: Vec<u8>,
        ciphertext: Vec<u8>,
        created_at: i64,
    }
}

impl EntryColumns {
    /// Or which column is damaged.
    fn read(self) -> Result<CredentialEntry, &'static str> {
        Ok(CredentialEntry {
            owner: OwnerId::new(self.owner).map_err(|_| "owner")?,
            name: CredentialName::new(self.name).map_err(|_| "name")?,
            key_id: self.key_id,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

impl SealedColumns {
    fn read(self) -> Result<CredentialRow, StoreError> {
        let id = format!("{}/{}", self.owner, self.name);
        let damaged = |column| StoreError::corrupt(TABLE, column, &id);
        Ok(CredentialRow {
            owner: OwnerId::new(self.owner).map_err(|_| damaged("owner"))?,
            name: CredentialName::new(self.name).map_err(|_| damaged("name"))?,
            sealed: SealedSecret {
                key_id: self.key_id,
                nonce: self.nonce.try_into().map_err(|_| damaged("nonce"))?,
                ciphertext: self.ciphertext,
            },
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

/// Keeps what can be read; the rest is logged.
fn readable<T>(row: Result<T, StoreError>) -> Option<T> {
    row.inspect_err(|error| tracing::error!(%error, "passed over a damaged row"))
        .ok()
}

impl Store {
    /// Keeps a credential, in place of the one of this name if there is one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn put_credential(
        &self,
        owner: &OwnerId,
        name: &CredentialName,
        sealed: &SealedSecret,
        now: UnixMs,
    ) -> Result<(), StoreError> {
        writing!(self, |db| {
            query(
                "INSERT INTO credentials (owner, name, key_id, nonce, ciphertext, created_at, updated_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $6) \
                 ON CONFLICT (owner, name) DO UPDATE SET key_id = excluded.key_id, nonce = excluded.nonce, \
                 ciphertext = excluded.ciphertext, updated_at = excluded.updated_at",
            )
            .bind(owner.as_str())
            .bind(name.as_str())
            .bind(&sealed.key_id)
            .bind(&sealed.nonce[..])
            .bind(&sealed.ciphertext)
            .bind(now)
            .execute(db)
            .await?;
        });
        Ok(())
    }

    /// One credential.
    ///
    /// # Errors
    /// `Corrupt` when its row cannot be read back.
    pub async fn credential(
        &self,
        owner: &OwnerId,
        name: &CredentialName,
    ) -> Result<Option<CredentialRow>, StoreError> {
        let row: Option<SealedColumns> = reading!(self, |db| {
            query_as(
                "SELECT owner, name, key_id, nonce, ciphertext, created_at, updated_at FROM credentials \
                 WHERE owner = $1 AND name = $2",
            )
            .bind(owner.as_str())
            .bind(name.as_str())
            .fetch_optional(db)
            .await?
        });
        row.map(SealedColumns::read).transpose()
    }

    /// The credentials of one owner or of all, by owner and name, without their values. A damaged row is passed over;
    /// where all are read it is named ([`Store::damaged_rows`]).
    ///
    /// # Errors
    /// Those of the database.
    pub async fn credentials(
        &self,
        owner: Option<&OwnerId>,
    ) -> Result<Vec<CredentialEntry>, StoreError> {
        let (rows, mut corrupt): (Vec<EntryColumns>, _) = reading!(self, |db| {
            let rows = query(
                "SELECT owner, name, key_id, created_at, updated_at FROM credentials \
                 WHERE $1 IS NULL OR owner = $1 ORDER BY owner, name",
            )
            .bind(owner.map(OwnerId::as_str))
            .fetch_all(db)
            .await?;
            each(&rows, TABLE, "name")
        });
        let mut entries = Vec::with_capacity(rows.len());
        for row in rows {
            let id = format!("{}/{}", row.owner, row.name);
            match row.read() {
                Ok(entry) => entries.push(entry),
                Err(column) => corrupt.push(CorruptRow {
                    table: TABLE,
                    column,
                    id,
                }),
            }
        }
        if owner.is_none() {
            self.damaged.note(TABLE, corrupt);
        }
        Ok(entries)
    }

    /// Removes a credential; answers whether there was one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_credential(
        &self,
        owner: &OwnerId,
        name: &CredentialName,
    ) -> Result<bool, StoreError> {
        let gone = writing!(self, |db| {
            query("DELETE FROM credentials WHERE owner = $1 AND name = $2")
                .bind(owner.as_str())
                .bind(name.as_str())
                .execute(db)
                .await?
                .rows_affected()
        });
        Ok(gone > 0)
    }

    /// Up to `limit` credentials that another key than `key_id` sealed, by owner and name, behind the place `after`:
    /// one that cannot be opened must not stop the walk.
    ///
    /// # Errors
    /// Those of the database; a damaged row is logged and passed over.
    pub async fn credentials_not_sealed_by(
        &self,
        key_id: &str,
        after: Option<(&OwnerId, &CredentialName)>,
        limit: u32,
    ) -> Result<Vec<CredentialRow>, StoreError> {
        let (owner, name) = after.map_or(("", ""), |(owner, name)| (owner.as_str(), name.as_str()));
        let (rows, _): (Vec<SealedColumns>, _) = reading!(self, |db| {
            let rows = query(
                "SELECT owner, name, key_id, nonce, ciphertext, created_at, updated_at FROM credentials \
                 WHERE key_id <> $1 AND (owner > $2 OR (owner = $2 AND name > $3)) \
                 ORDER BY owner, name LIMIT $4",
            )
            .bind(key_id)
            .bind(owner)
            .bind(name)
            .bind(i64::from(limit))
            .fetch_all(db)
            .await?;
            each(&rows, TABLE, "name")
        });
        Ok(rows
            .into_iter()
            .map(SealedColumns::read)
            .filter_map(readable)
            .collect())
    }

    /// Puts `new` in the place of `old`, unless someone put another value in between; answers whether it did.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn reseal_credential(
        &self,
        owner: &OwnerId,
        name: &CredentialName,
        old: &SealedSecret,
        new: &SealedSecret,
    ) -> Result<bool, StoreError> {
        let changed = writing!(self, |db| {
            query(
                "UPDATE credentials SET key_id = $3, nonce = $4, ciphertext = $5 \
                 WHERE owner = $1 AND name = $2 AND key_id = $6 AND nonce = $7 AND ciphertext = $8",
            )
            .bind(owner.as_str())
            .bind(name.as_str())
            .bind(&new.key_id)
            .bind(&new.nonce[..])
            .bind(&new.ciphertext)
            .bind(&old.key_id)
            .bind(&old.nonce[..])
            .bind(&old.ciphertext)
            .execute(db)
            .await?
            .rows_affected()
        });
        Ok(changed > 0)
    }

    /// The keys that sealed at least one credential.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn credential_key_ids(&self) -> Result<Vec<String>, StoreError> {
        Ok(reading!(self, |db| {
            query_scalar("SELECT DISTINCT key_id FROM credentials ORDER BY key_id")
                .fetch_all(db)
                .await?
        }))
    }

    /// The known texts, one for each key that was used with this database.
    ///
    /// # Errors
    /// `Corrupt` when one cannot be read back.
    pub async fn key_checks(&self) -> Result<Vec<KeyCheckRow>, StoreError> {
        let rows: Vec<CheckColumns> = reading!(self, |db| {
            query_as("SELECT key_id, nonce, ciphertext, created_at FROM key_checks ORDER BY created_at, key_id")
                .fetch_all(db)
                .await?
        });
        let read = |row: CheckColumns| {
            let nonce = row
                .nonce
                .try_into()
                .map_err(|_| StoreError::corrupt("key_checks", "nonce", &row.key_id))?;
            Ok(KeyCheckRow {
                sealed: SealedSecret {
                    key_id: row.key_id,
                    nonce,
                    ciphertext: row.ciphertext,
                },
                created_at: row.created_at,
            })
        };
        rows.into_iter().map(read).collect()
    }

    /// Keeps a key's known text; the first one stays.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn put_key_check(
        &self,
        sealed: &SealedSecret,
        now: UnixMs,
    ) -> Result<(), StoreError> {
        writing!(self, |db| {
            query(
                "INSERT INTO key_checks (key_id, nonce, ciphertext, created_at) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (key_id) DO NOTHING",
            )
            .bind(&sealed.key_id)
            .bind(&sealed.nonce[..])
            .bind(&sealed.ciphertext)
            .bind(now)
            .execute(db)
            .await?;
        });
        Ok(())
    }

    /// Forgets a retired key's known text.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_key_check(&self, key_id: &str) -> Result<(), StoreError> {
        writing!(self, |db| {
            query("DELETE FROM key_checks WHERE key_id = $1")
                .bind(key_id)
                .execute(db)
                .await?;
        });
        Ok(())
    }
}
