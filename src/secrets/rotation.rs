//! Keys against data: the check at start, re-sealing online, retiring keys that nothing needs any more.

use super::{KeyRing, SecretsError};
use crate::{
    domain::{
        UnixMs,
        id::{CredentialName, OwnerId},
    },
    store::Store,
};

const CHECK_CONTEXT: &[&str] = &["key-check"];
const CHECK_TEXT: &[u8] = b"minimcp knows this text";
/// Credentials read at once while re-sealing.
const STEP_ROWS: u32 = 100;

/// What [`reseal`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResealProgress {
    /// Credentials now sealed by the active key.
    pub resealed: u64,
    /// Credentials that someone changed meanwhile; their new value is sealed by a key of today.
    pub passed: u64,
    /// Credentials that no key of the ring opens; each was logged by name.
    pub unopenable: u64,
}

/// Checks at start that the ring fits the data, and notes a key that is used for the first time. A ring that lacks a
/// key which old credentials need still passes when its active key was used here before: those credentials fail
/// when they are opened, the others work.
///
/// # Errors
/// [`SecretsError::WrongKey`] when the data was sealed by other keys than the ring's.
pub async fn check_keys(ring: &KeyRing, store: &Store, now: UnixMs) -> Result<(), SecretsError> {
    let checks = store.key_checks().await?;
    let known = ring.key_ids();
    let mut fits = checks.is_empty();
    for check in &checks {
        if !known.contains(&check.sealed.key_id) {
            continue;
        }
        let text = ring.open_for(CHECK_CONTEXT, &check.sealed).map_err(|_| {
            SecretsError::WrongKey(format!(
                "the master key {} from {} does not open this database's check text: it is not the key that sealed it, or the database was changed",
                check.sealed.key_id,
                ring.source()
            ))
        })?;
        fits |= text.as_slice() == CHECK_TEXT;
    }
    if !fits {
        let needed: Vec<&str> = checks
            .iter()
            .map(|check| check.sealed.key_id.as_str())
            .collect();
        if ring.take_back() {
            return Err(SecretsError::WrongKey(format!(
                "{} is missing, and this database's credentials were sealed by {}: put it back",
                ring.source(),
                needed.join(" or ")
            )));
        }
        return Err(SecretsError::WrongKey(format!(
            "the master key from {} is not the one that sealed this database's credentials: {} is needed, the ring holds {}",
            ring.source(),
            needed.join(" or "),
            known.join(", ")
        )));
    }
    note_active_key(ring, store, now).await
}

/// Keeps the check text of the active key, unless there is one.
async fn note_active_key(ring: &KeyRing, store: &Store, now: UnixMs) -> Result<(), SecretsError> {
    let sealed = ring.seal_for(CHECK_CONTEXT, CHECK_TEXT)?;
    Ok(store.put_key_check(&sealed, now).await?)
}

/// Seals every credential of another key by the active one, in bounded steps, while everything goes on. Run again
/// after a failure, it goes on with what is left; with nothing to do it costs one query.
///
/// # Errors
/// Those of the store. A credential that cannot be opened is counted and logged, and stops nothing.
pub async fn reseal(
    ring: &KeyRing,
    store: &Store,
    now: UnixMs,
) -> Result<ResealProgress, SecretsError> {
    note_active_key(ring, store, now).await?;
    let active = ring.active_key_id();
    let mut progress = ResealProgress::default();
    let mut after: Option<(OwnerId, CredentialName)> = None;
    loop {
        let place = after.as_ref().map(|(owner, name)| (owner, name));
        let step = store
            .credentials_not_sealed_by(&active, place, STEP_ROWS)
            .await?;
        let Some(last) = step.last() else {
            return Ok(progress);
        };
        after = Some((last.owner.clone(), last.name.clone()));
        for row in step {
            match ring.open(&row.owner, &row.name, &row.sealed) {
                Ok(value) => {
                    let sealed = ring.seal(&row.owner, &row.name, value.as_bytes())?;
                    let done = store
                        .reseal_credential(&row.owner, &row.name, &row.sealed, &sealed)
                        .await?;
                    *(if done {
                        &mut progress.resealed
                    } else {
                        &mut progress.passed
                    }) += 1;
                }
                Err(error) => {
                    progress.unopenable += 1;
                    tracing::error!(%error, owner = %row.owner, credential = %row.name, "cannot re-seal a credential");
                }
            }
        }
    }
}

/// Removes the keys that sealed nothing in the database any more; answers their ids. The active key always stays.
/// Backups of the database made before need the removed keys: keep a copy of the old key file with them.
///
/// # Errors
/// Those of the store; [`SecretsError::ReadOnly`] when the ring is not a file of ours.
pub async fn retire_unused_keys(
    ring: &KeyRing,
    store: &Store,
) -> Result<Vec<String>, SecretsError> {
    let in_use = store.credential_key_ids().await?;
    let removed = ring.retain(&in_use)?;
    for key_id in &removed {
        store.delete_key_check(key_id).await?;
    }
    Ok(removed)
}
