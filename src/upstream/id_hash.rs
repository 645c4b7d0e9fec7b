//! A hasher for keys that we gave out ourselves, one after the other: nobody can choose them to collide.

use std::hash::{BuildHasherDefault, Hasher};

/// For maps whose keys are ids of ours.
pub type ByOurId = BuildHasherDefault<IdHasher>;

/// Hashes one integer by a multiplication (Fibonacci hashing): neighbours land far apart.
#[derive(Debug, Default, Clone, Copy)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_ne_bytes(word));
        }
    }

    fn write_u64(&mut self, id: u64) {
        // 2^64 divided by the golden ratio. A map takes its bits from both ends of the hash.
        let mixed = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn hash(id: u64) -> u64 {
        let mut hasher = IdHasher::default();
        hasher.write_u64(id);
        hasher.finish()
    }

    #[test]
    fn ids_in_a_row_do_not_share_a_place() {
        let from = 1_790_000_000_000_000;
        // The low bits choose the place, the highest seven are compared in it.
        let places: HashSet<u64> = (from..from + 1_024).map(|id| hash(id) & 0x7ff).collect();
        assert!(places.len() > 600, "{}", places.len());
        let tags: HashSet<u64> = (from..from + 1_024).map(|id| hash(id) >> 57).collect();
        assert_eq!(tags.len(), 128);
    }
}
