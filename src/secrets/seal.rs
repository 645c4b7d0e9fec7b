//! AES-256-GCM over one secret, bound to its place by the associated data.

use aes_gcm::{
    Aes256Gcm, Nonce,
    aead::{Aead, KeyInit, Payload},
};
use zeroize::Zeroizing;

use super::SecretsError;
use crate::domain::credential::{NONCE_BYTES, SealedSecret};

/// Bytes of a master key.
pub(super) const KEY_BYTES: usize = 32;

/// A master key; wiped when dropped.
pub(super) type MasterKey = Zeroizing<[u8; KEY_BYTES]>;

/// Seals `plaintext` for the place that `context` names.
///
/// The nonce is 96 random bits. NIST SP 800-38D section 8.3 allows 2^32 sealings under one key; a credential is
/// sealed when a person puts it, so no counter is kept.
pub(super) fn seal(
    key_id: &str,
    key: &MasterKey,
    context: &[&str],
    plaintext: &[u8],
) -> Result<SealedSecret, SecretsError> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(SecretsError::Random)?;
    let payload = Payload {
        msg: plaintext,
        aad: &associated_data(context, key_id),
    };
    let ciphertext = cipher(key)
        .encrypt(&Nonce::from(nonce), payload)
        .map_err(|_| SecretsError::WrongKey("the secret is too large to seal".to_owned()))?;
    Ok(SealedSecret {
        key_id: key_id.to_owned(),
        nonce,
        ciphertext,
    })
}

/// Opens what [`seal`] made for the same place; `None` when anything differs.
pub(super) fn open(
    key: &MasterKey,
    context: &[&str],
    sealed: &SealedSecret,
) -> Option<Zeroizing<Vec<u8>>> {
    let payload = Payload {
        msg: &sealed.ciphertext,
        aad: &associated_data(context, &sealed.key_id),
    };
    cipher(key)
        .decrypt(&Nonce::from(sealed.nonce), payload)
        .ok()
        .map(Zeroizing::new)
}

fn cipher(key: &MasterKey) -> Aes256Gcm {
    Aes256Gcm::new_from_slice(&key[..]).expect("a master key has the length of an AES-256 key")
}

/// Each part with its length before it, so that no two lists of parts give the same bytes.
fn associated_data(context: &[&str], key_id: &str) -> Vec<u8> {
    let mut data = Vec::new();
    for part in context.iter().chain([&key_id]) {
        data.extend_from_slice(&(part.len() as u64).to_be_bytes());
        data.extend_from_slice(part.as_bytes());
    }
    data
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> MasterKey {
        Zeroizing::new([byte; KEY_BYTES])
    }

    #[test]
    fn the_place_cannot_be_moved_by_shifting_letters_between_its_parts() {
        let sealed = seal("k", &key(1), &["ab", "c"], b"value").expect("sealed");
        assert!(open(&key(1), &["a", "bc"], &sealed).is_none());
        assert!(open(&key(1), &["abc"], &sealed).is_none());
        assert!(open(&key(1), &["ab", "c", ""], &sealed).is_none());
        assert!(open(&key(1), &["ab", "c"], &sealed).is_some());
    }

    #[test]
    fn the_same_value_never_looks_the_same() {
        let first = seal("k", &key(1), &["a"], b"value").expect("sealed");
        let second = seal("k", &key(1), &["a"], b"value").expect("sealed");
        assert_ne!(first.nonce, second.nonce);
        assert_ne!(first.ciphertext, second.ciphertext);
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_noticed(
            value in proptest::collection::vec(any::<u8>(), 0..64),
            at in any::<proptest::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let sealed = seal("k", &key(7), &["owner", "name"], &value).expect("sealed");
            let opened = open(&key(7), &["owner", "name"], &sealed).expect("opened");
            prop_assert_eq!(&opened[..], &value[..]);

            let mut changed = sealed.clone();
            let index = at.index(changed.ciphertext.len());
            changed.ciphertext[index] ^= 1 << bit;
            prop_assert!(open(&key(7), &["owner", "name"], &changed).is_none());

            let mut changed = sealed.clone();
            changed.nonce[at.index(NONCE_BYTES)] ^= 1 << bit;
            prop_assert!(open(&key(7), &["owner", "name"], &changed).is_none());

            let mut changed = sealed.clone();
            changed.key_id.push('x');
            prop_assert!(open(&key(7), &["owner", "name"], &changed).is_none());
            prop_assert!(open(&key(8), &["owner", "name"], &sealed).is_none());
        }
    }
}
