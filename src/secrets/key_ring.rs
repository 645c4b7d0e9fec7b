//! The master keys: the first one seals, all of them open.
//!
//! A key's id is a fingerprint of the key, so an id in a record names one key for ever, and a damaged key file shows.
//! The file has one key in a line, `ID BASE64`, the sealing one first; `#` begins a comment.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    SecretsError,
    file::{self, Privacy},
    seal::{self, KEY_BYTES, MasterKey},
};
use crate::domain::{
    credential::SealedSecret,
    id::{CredentialName, OwnerId},
};

/// Most keys in a ring; a rotation past it needs unused ones retired first.
const KEYS_MAX: usize = 32;
/// The systemd credential that holds the keys (systemd.exec(5), `LoadCredential=`).
const CREDENTIAL: &str = "minimcp-master-key";
const FILE_HEADER: &str = "# MiniMCP master keys, one in a line: ID BASE64. The first one seals, the others only open.\n\
    # Whoever has this file and the database reads every stored credential; without it they are lost.\n";

/// Where the keys came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The variable `MINIMCP_MASTER_KEY`.
    Environment,
    /// A systemd credential.
    SystemdCredential(PathBuf),
    /// The key ring file.
    File(PathBuf),
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Environment => f.write_str("MINIMCP_MASTER_KEY"),
            Self::SystemdCredential(path) => write!(f, "the systemd credential {}", path.display()),
            Self::File(path) => write!(f, "the key file {}", path.display()),
        }
    }
}

struct NamedKey {
    id: String,
    key: MasterKey,
}

/// The master keys; cheap to clone, all clones see a rotation at once.
#[derive(Clone)]
pub struct KeyRing {
    source: KeySource,
    /// Never empty; the first one seals.
    keys: Arc<ArcSwap<Vec<Arc<NamedKey>>>>,
    /// Held while the file is rewritten.
    writing: Arc<Mutex<()>>,
    /// The file was made by this very load.
    made: bool,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRing")
            .field("source", &self.source)
            .field("key_ids", &self.key_ids())
            .finish()
    }
}

impl KeyRing {
    /// Takes the keys from the first of: `from_environment` (the value of `MINIMCP_MASTER_KEY`), the file
    /// `minimcp-master-key` in `credentials_directory`, `file`. Makes `file` with a new key when it is needed and
    /// not there. The first two hold a bare base64 key of 32 bytes, or lines like the file.
    ///
    /// # Errors
    /// [`SecretsError::File`], one sentence: unreadable, readable by others, or malformed.
    pub fn load(
        file: &Path,
        from_environment: Option<&str>,
        credentials_directory: Option<&Path>,
    ) -> Result<Self, SecretsError> {
        if let Some(text) = from_environment {
            return Self::from_text(KeySource::Environment, text);
        }
        if let Some(path) = credentials_directory.map(|folder| folder.join(CREDENTIAL))
            && let Some(text) = file::read(&path, Privacy::SystemdCredential)?
        {
            return Self::from_text(KeySource::SystemdCredential(path), &text);
        }
        let source = KeySource::File(file.to_owned());
        if let Some(text) = file::read(file, Privacy::OwnerOnly)? {
            return Self::from_text(source, &text);
        }
        file::create(file, file_text(&[new_key()?]).as_bytes())?;
        // Read back what is there: another process may have been first.
        let text = file::read(file, Privacy::OwnerOnly)?.ok_or_else(|| {
            SecretsError::File(format!("{source} went away while it was being made"))
        })?;
        let ring = Self::from_text(source, &text)?;
        Ok(Self { made: true, ..ring })
    }

    /// Removes the file that this load made, because nothing can be opened with it: left there, it would look like a
    /// key worth keeping. Answers whether it was one.
    pub(super) fn take_back(&self) -> bool {
        match &self.source {
            KeySource::File(path) if self.made => std::fs::remove_file(path).is_ok(),
            _ => false,
        }
    }

    fn from_text(source: KeySource, text: &str) -> Result<Self, SecretsError> {
        let keys = parse(text).map_err(|fault| SecretsError::File(format!("{source} {fault}")))?;
        Ok(Self {
            source,
            keys: Arc::new(ArcSwap::from_pointee(keys)),
            writing: Arc::default(),
            made: false,
        })
    }

    /// Where the keys came from.
    #[must_use]
    pub fn source(&self) -> &KeySource {
        &self.source
    }

    /// The id of the key that seals.
    #[must_use]
    pub fn active_key_id(&self) -> String {
        self.keys
            .load()
            .first()
            .map(|key| key.id.clone())
            .unwrap_or_default()
    }

    /// The ids of all keys, the one that seals first.
    #[must_use]
    pub fn key_ids(&self) -> Vec<String> {
        self.keys.load().iter().map(|key| key.id.clone()).collect()
    }

    /// Seals a credential's value for its owner and name.
    ///
    /// # Errors
    /// [`SecretsError::Random`] when the system gives no random bytes.
    pub fn seal(
        &self,
        owner: &OwnerId,
        name: &CredentialName,
        value: &[u8],
    ) -> Result<SealedSecret, SecretsError> {
        self.seal_for(&[owner.as_str(), name.as_str()], value)
    }

    /// Opens a credential's value.
    ///
    /// # Errors
    /// [`SecretsError::UnknownKey`], [`SecretsError::Unopenable`] when it was changed or sealed for another owner or
    /// name, [`SecretsError::NotText`].
    pub fn open(
        &self,
        owner: &OwnerId,
        name: &CredentialName,
        sealed: &SealedSecret,
    ) -> Result<Zeroizing<String>, SecretsError> {
        let mut bytes = self.open_for(&[owner.as_str(), name.as_str()], sealed)?;
        match String::from_utf8(std::mem::take(&mut *bytes)) {
            Ok(text) => Ok(Zeroizing::new(text)),
            Err(error) => {
                drop(Zeroizing::new(error.into_bytes()));
                Err(SecretsError::NotText(format!("{owner}/{name}")))
            }
        }
    }

    /// Seals anything else for the place that `context` names. A context of two parts is a credential's: others take
    /// one part, or three and more.
    ///
    /// # Errors
    /// [`SecretsError::Random`] when the system gives no random bytes.
    pub fn seal_for(&self, context: &[&str], value: &[u8]) -> Result<SealedSecret, SecretsError> {
        let keys = self.keys.load();
        let active = keys
            .first()
            .ok_or_else(|| SecretsError::UnknownKey(String::new()))?;
        seal::seal(&active.id, &active.key, context, value)
    }

    /// Opens what [`KeyRing::seal_for`] made for the same context.
    ///
    /// # Errors
    /// [`SecretsError::UnknownKey`], [`SecretsError::Unopenable`].
    pub fn open_for(
        &self,
        context: &[&str],
        sealed: &SealedSecret,
    ) -> Result<Zeroizing<Vec<u8>>, SecretsError> {
        let keys = self.keys.load();
        let named = keys
            .iter()
            .find(|key| key.id == sealed.key_id)
            .ok_or_else(|| SecretsError::UnknownKey(sealed.key_id.clone()))?;
        seal::open(&named.key, context, sealed)
            .ok_or_else(|| SecretsError::Unopenable(context.join("/")))
    }

    /// Adds a new key, which seals from now on, and answers its id. What other keys sealed stays readable; see
    /// [`super::reseal`].
    ///
    /// # Errors
    /// [`SecretsError::ReadOnly`] when the keys do not come from a file of ours, or the ring is full;
    /// [`SecretsError::File`] when the file cannot be replaced, and the ring is as before.
    pub fn rotate(&self) -> Result<String, SecretsError> {
        let added = Arc::new(new_key()?);
        let id = added.id.clone();
        self.rewrite(|keys| {
            if keys.len() >= KEYS_MAX {
                return Err(SecretsError::ReadOnly(format!(
                    "the key ring holds {KEYS_MAX} keys, the most it can: remove the unused ones first with `minimcp key retire`"
                )));
            }
            Ok(std::iter::once(added).chain(keys.iter().cloned()).collect())
        })?;
        Ok(id)
    }

    /// Removes the keys that `in_use` does not name, except the one that seals; answers the ids removed.
    ///
    /// # Errors
    /// As [`KeyRing::rotate`].
    pub(super) fn retain(&self, in_use: &[String]) -> Result<Vec<String>, SecretsError> {
        let kept = |place: usize, key: &NamedKey| place == 0 || in_use.contains(&key.id);
        let mut removed = Vec::new();
        self.rewrite(|keys| {
            let unused = keys
                .iter()
                .enumerate()
                .filter(|(place, key)| !kept(*place, key));
            removed = unused.map(|(_, key)| key.id.clone()).collect();
            let rest = keys
                .iter()
                .enumerate()
                .filter(|(place, key)| kept(*place, key));
            Ok(rest.map(|(_, key)| Arc::clone(key)).collect())
        })?;
        Ok(removed)
    }

    /// Replaces the file first and the keys in memory after, so that nothing is ever sealed by a key that a crash
    /// would lose.
    fn rewrite(
        &self,
        change: impl FnOnce(&[Arc<NamedKey>]) -> Result<Vec<Arc<NamedKey>>, SecretsError>,
    ) -> Result<(), SecretsError> {
        let KeySource::File(path) = &self.source else {
            return Err(SecretsError::ReadOnly(format!(
                "the keys come from {}: put the new key as the first line there, keep the old ones below it, and restart",
                self.source
            )));
        };
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = change(&self.keys.load())?;
        file::replace(path, file_text(&keys).as_bytes())?;
        self.keys.store(Arc::new(keys));
        Ok(())
    }
}

fn new_key() -> Result<NamedKey, SecretsError> {
    let mut key: MasterKey = Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(&mut key[..]).map_err(SecretsError::Random)?;
    Ok(NamedKey {
        id: fingerprint(&key),
        key,
    })
}

/// 64 bits of a hash tell keys apart and tell nothing about a random key.
fn fingerprint(key: &MasterKey) -> String {
    let digest = Sha256::new()
        .chain_update(b"minimcp master key id\0")
        .chain_update(&key[..])
        .finalize();
    let mut id = String::from("k-");
    for byte in &digest[..8] {
        write!(id, "{byte:02x}").expect("a String takes any text");
    }
    id
}

fn file_text<K: std::borrow::Borrow<NamedKey>>(keys: &[K]) -> Zeroizing<String> {
    // Enough room from the start: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(FILE_HEADER.len() + keys.len() * 80));
    text.push_str(FILE_HEADER);
    for named in keys {
        let named = named.borrow();
        let encoded = Zeroizing::new(STANDARD.encode(&named.key[..]));
        text.push_str(&named.id);
        text.push(' ');
        text.push_str(&encoded);
        text.push('\n');
    }
    text
}

/// Reads keys; the fault is the end of a sentence that begins with the source, and never quotes the text.
fn parse(text: &str) -> Result<Vec<Arc<NamedKey>>, String> {
    let mut keys: Vec<Arc<NamedKey>> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        let words: Vec<&str> = line.split_whitespace().collect();
        let (id, encoded) = match words[..] {
            [encoded] => (None, encoded),
            [id, encoded] => (Some(id), encoded),
            _ => {
                return Err(format!(
                    "is malformed in line {number}: ID BASE64 is expected"
                ));
            }
        };
        let key = decode(encoded).ok_or_else(|| {
            format!("is malformed in line {number}: a key is 32 bytes in base64 (44 characters)")
        })?;
        let fingerprint = fingerprint(&key);
        if id.is_some_and(|id| id != fingerprint) {
            return Err(format!(
                "is damaged in line {number}: the key does not fit its id"
            ));
        }
        if keys.iter().any(|key| key.id == fingerprint) {
            return Err(format!("names a key twice, in line {number}"));
        }
        keys.push(Arc::new(NamedKey {
            id: fingerprint,
            key,
        }));
    }
    match keys.len() {
        0 => Err("holds no key".to_owned()),
        1..=KEYS_MAX => Ok(keys),
        more => Err(format!("holds {more} keys, more than {KEYS_MAX}")),
    }
}

fn decode(encoded: &str) -> Option<MasterKey> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES + 2]);
    let written = STANDARD.decode_slice(encoded, &mut bytes[..]).ok()?;
    if written != KEY_BYTES {
        return None;
    }
    let mut key: MasterKey = Zeroizing::new([0; KEY_BYTES]);
    key.copy_from_slice(&bytes[..KEY_BYTES]);
    Some(key)
}

#[cfg(test)]
#[path = "key_ring_tests.rs"]
mod tests;
