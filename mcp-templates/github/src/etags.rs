//! Answers kept with their entity tags: GitHub does not count a conditional call whose answer has not changed.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

const ANSWERS_MAX: usize = 128;
/// Of all bodies together.
const BYTES_MAX: usize = 2 << 20;
/// Of one body; a larger one is not kept.
const BODY_BYTES_MAX: usize = 256 << 10;

/// An answer that may still hold.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) tag: String,
    pub(crate) body: Vec<u8>,
    /// The Link header, which a 304 may lack.
    pub(crate) link: Option<String>,
}

/// Answers by what was asked, the one used last at the end; the oldest go first.
#[derive(Default)]
pub(crate) struct Etags(Mutex<VecDeque<(String, Known)>>);

impl Etags {
    /// The answer to `key`, if one is kept.
    pub(crate) fn get(&self, key: &str) -> Option<Known> {
        let mut answers = self.answers();
        let index = answers.iter().position(|(known, _)| known == key)?;
        let entry = answers.remove(index)?;
        let known = entry.1.clone();
        answers.push_back(entry);
        Some(known)
    }

    /// Keeps an answer, in place of an older one to the same.
    pub(crate) fn put(&self, key: String, known: Known) {
        let mut answers = self.answers();
        answers.retain(|(other, _)| *other != key);
        if known.body.len() > BODY_BYTES_MAX {
            return;
        }
        answers.push_back((key, known));
        let bytes = |answers: &VecDeque<(String, Known)>| -> usize {
            answers
                .iter()
                .map(|(key, known)| key.len() + known.body.len())
                .sum()
        };
        while answers.len() > ANSWERS_MAX || bytes(&answers) > BYTES_MAX {
            answers.pop_front();
        }
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, VecDeque<(String, Known)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(bytes: usize) -> Known {
        Known {
            tag: "t".to_owned(),
            body: vec![0; bytes],
            link: None,
        }
    }

    #[test]
    fn the_answers_used_longest_ago_make_room() {
        let etags = Etags::default();
        for index in 0..ANSWERS_MAX {
            etags.put(index.to_string(), known(1));
        }
        assert!(etags.get("0").is_some());
        etags.put("new".to_owned(), known(1));
        assert!(etags.get("0").is_some() && etags.get("1").is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let etags = Etags::default();
        for index in 0..20 {
            etags.put(index.to_string(), known(BODY_BYTES_MAX));
        }
        let kept = (0..20).filter(|index| etags.get(&index.to_string()).is_some());
        assert!(kept.count() < BYTES_MAX / BODY_BYTES_MAX + 1);
        etags.put("19".to_owned(), known(BODY_BYTES_MAX + 1));
        assert!(etags.get("19").is_none(), "an answer grown too large goes");
    }
}
