//! A stored secret in its sealed form; the only form in which it leaves `secrets/`.

/// Bytes of an AES-GCM nonce.
pub const NONCE_BYTES: usize = 12;

/// A secret sealed with AES-256-GCM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// Which master key sealed it.
    pub key_id: String,
    /// The nonce, fresh for each sealing.
    pub nonce: [u8; NONCE_BYTES],
    /// Ciphertext and tag.
    pub ciphertext: Vec<u8>,
}
