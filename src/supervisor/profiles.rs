//! How many instances run in how much of a sandbox, for the operator's numbers.

use std::collections::BTreeMap;

use super::Supervisor;
use crate::domain::sandbox::Profile;

impl Supervisor {
    /// How many children run under each profile of the sandbox.
    #[must_use]
    pub fn count_by_profile(&self) -> BTreeMap<&'static str, usize> {
        let all = [Profile::Strict, Profile::Relaxed, Profile::Off];
        let mut counts: BTreeMap<_, _> = all.iter().map(|profile| (profile.word(), 0)).collect();
        for (_, handle) in self.context().registry.after(None) {
            let status = handle.status.borrow();
            let word = status.isolation.get("profile");
            // Behind the word may follow why.
            let word = word.and_then(|word| word.split(':').next());
            if let Some(count) = word.and_then(|word| counts.get_mut(word)) {
                *count += 1;
            }
        }
        counts
    }
}
