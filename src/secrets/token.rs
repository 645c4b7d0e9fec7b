//! Tokens: 32 random bytes behind a prefix that secret scanners can find. Only hashes are kept, except the
//! administrator's, which lies in a private file for the local CLI.

use std::path::Path;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    SecretsError,
    file::{self, Privacy},
};

const ACCESS_PREFIX: &str = "mmcp_";
const ADMIN_PREFIX: &str = "mmcp_admin_";
const RANDOM_BYTES: usize = 32;
/// Lengths of an administrator token that an operator wrote into the file.
const ADMIN_CHARS: std::ops::RangeInclusive<usize> = 32..=256;

/// SHA-256 of a token's text. A token has 256 random bits, so a plain hash is enough: there is nothing to guess.
#[must_use]
pub fn hash_token(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Eight hexadecimal digits that tell one token from another, made of its hash. They open nothing and lead nowhere.
#[must_use]
pub fn fingerprint(hash: &[u8; 32]) -> String {
    let digest = Sha256::new()
        .chain_update(b"minimcp access token fingerprint\n")
        .chain_update(hash)
        .finalize();
    digest[..4].iter().fold(String::new(), |mut text, byte| {
        text.push_str(&format!("{byte:02x}"));
        text
    })
}

/// Whether `token` is the one with this hash; takes the same time whatever differs.
#[must_use]
pub fn verify_token(token: &str, hash: &[u8; 32]) -> bool {
    hash_token(token).ct_eq(hash).into()
}

/// The secret of an access URL: `mmcp_` and 43 characters of base64url. Shown once, when it is made.
pub struct AccessToken(Zeroizing<String>);

impl AccessToken {
    /// A new token.
    ///
    /// # Errors
    /// [`SecretsError::Random`].
    pub fn generate() -> Result<Self, SecretsError> {
        random_token(ACCESS_PREFIX).map(Self)
    }

    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The text, to be handed on.
    #[must_use]
    pub fn into_text(self) -> Zeroizing<String> {
        self.0
    }

    /// What the store keeps of it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        hash_token(&self.0)
    }

    /// Whether it is the token with this hash, in constant time.
    #[must_use]
    pub fn verify(&self, hash: &[u8; 32]) -> bool {
        verify_token(&self.0, hash)
    }
}

/// The administrator's token, as its hash.
#[derive(Clone)]
pub struct AdminToken {
    hash: [u8; 32],
}

impl AdminToken {
    /// Reads the token file, or makes it (mode 0600) with a new token of the form `mmcp_admin_…`.
    /// An operator may write one of their own there: one line of 32 to 256 visible ASCII characters.
    ///
    /// # Errors
    /// [`SecretsError::File`], one sentence: unreadable, readable by others, malformed.
    pub fn load_or_create(path: &Path) -> Result<Self, SecretsError> {
        let text = match file::read(path, Privacy::OwnerOnly)? {
            Some(text) => text,
            None => {
                let mut line = random_token(ADMIN_PREFIX)?;
                line.push('\n');
                file::create(path, line.as_bytes())?;
                // Read back what is there: another process may have been first.
                file::read(path, Privacy::OwnerOnly)?.ok_or_else(|| {
                    SecretsError::File(format!(
                        "{} went away while it was being made",
                        path.display()
                    ))
                })?
            }
        };
        let token = text.trim();
        if !ADMIN_CHARS.contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(SecretsError::File(format!(
                "{} does not hold an administrator token: one line of 32 to 256 visible characters is \
                 expected; without the file a new token is made at the next start",
                path.display()
            )));
        }
        Ok(Self {
            hash: hash_token(token),
        })
    }

    /// Whether `token` is the administrator's, in constant time.
    #[must_use]
    pub fn verify(&self, token: &str) -> bool {
        verify_token(token, &self.hash)
    }
}

fn random_token(prefix: &str) -> Result<Zeroizing<String>, SecretsError> {
    let mut bytes = Zeroizing::new([0; RANDOM_BYTES]);
    getrandom::fill(&mut bytes[..]).map_err(SecretsError::Random)?;
    // Enough room from the start: a buffer that grows leaves copies behind.
    let mut token = Zeroizing::new(String::with_capacity(64));
    token.push_str(prefix);
    URL_SAFE_NO_PAD.encode_string(&bytes[..], &mut token);
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_token_is_long_random_and_fits_its_hash_alone() {
        let token = AccessToken::generate().expect("a token");
        let other = AccessToken::generate().expect("a token");
        let body = token.expose().strip_prefix("mmcp_").expect("the prefix");
        assert_eq!(body.len(), 43);
        assert_eq!(URL_SAFE_NO_PAD.decode(body).expect("base64url").len(), 32);
        assert!(token.verify(&token.hash()));
        assert!(!token.verify(&other.hash()));
        assert!(!verify_token("", &token.hash()));
        let text = token.into_text();
        assert!(!verify_token(&text[..text.len() - 1], &hash_token(&text)));
    }

    #[test]
    fn the_administrator_token_is_made_once_and_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin-token");
        let made = AdminToken::load_or_create(&path).expect("made");
        let text = fs::read_to_string(&path).expect("readable");
        assert!(
            text.starts_with("mmcp_admin_") && text.ends_with('\n'),
            "a whole line"
        );
        assert!(made.verify(text.trim()));
        assert!(!made.verify("mmcp_admin_"));
        let found = AdminToken::load_or_create(&path).expect("found");
        assert!(
            found.verify(text.trim()),
            "the second start finds the same token"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("mode set");
        assert!(
            AdminToken::load_or_create(&path).is_err(),
            "readable by others"
        );
    }

    #[test]
    fn a_token_of_the_operator_must_be_long_and_visible() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text, good) in [
            ("short", "tiny".to_owned(), false),
            ("empty", String::new(), false),
            ("lines", format!("{0}\n{0}", "x".repeat(40)), false),
            ("giant", "x".repeat(300), false),
            (
                "own",
                format!("{}\n", "correct-horse-battery-staple-2026"),
                true,
            ),
        ] {
            let path = folder.path().join(name);
            file::create(&path, text.as_bytes()).expect("made");
            assert_eq!(AdminToken::load_or_create(&path).is_ok(), good, "{name}");
        }
    }
}
