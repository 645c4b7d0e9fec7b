//! What isolation really holds for a child, in words that children have in common and that are kept once for all of them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// The layer whose words tell the user of a child, who is of one instance alone.
const IDENTITY: &str = "identity";

/// Layer to state, of one child; cheap to clone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Isolation {
    common: Arc<SharedStates>,
    identity: Option<Arc<str>>,
}

/// The states of all layers but that of the user.
#[derive(Default, PartialEq, Eq)]
struct SharedStates {
    states: BTreeMap<String, String>,
    members: String,
}

impl SharedStates {
    fn of(states: BTreeMap<String, String>) -> Self {
        let object = serde_json::to_string(&states).unwrap_or_default();
        let members = object
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'));
        Self {
            members: members.unwrap_or_default().to_owned(),
            states,
        }
    }
}

impl Isolation {
    /// The state of one layer.
    #[must_use]
    pub fn get(&self, layer: &str) -> Option<&str> {
        match layer {
            IDENTITY => self.identity.as_deref(),
            _ => self.common.states.get(layer).map(String::as_str),
        }
    }

    /// All states but that of the user, as the members of a JSON object without its braces: a list of a thousand
    /// instances writes them a thousand times.
    #[must_use]
    pub fn common_members(&self) -> &str {
        &self.common.members
    }

    /// The layer that [`Self::common_members`] leaves out, with its state.
    #[must_use]
    pub fn own_member(&self) -> Option<(&'static str, &str)> {
        Some((IDENTITY, self.identity.as_deref()?))
    }
}

impl fmt::Debug for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = self.own_member();
        let common = self.common.states.iter();
        let common = common.map(|(layer, state)| (layer.as_str(), state.as_str()));
        f.debug_map().entries(common.chain(own)).finish()
    }
}

impl From<BTreeMap<String, String>> for Isolation {
    fn from(mut states: BTreeMap<String, String>) -> Self {
        Self {
            identity: states.remove(IDENTITY).map(Arc::from),
            common: Arc::new(SharedStates::of(states)),
        }
    }
}

/// What living children have in common.
#[derive(Default)]
pub(super) struct Isolations(Mutex<Vec<Weak<SharedStates>>>);

impl Isolations {
    /// The same, sharing what an earlier child that still lives has in common with it.
    pub(super) fn shared(&self, mut states: BTreeMap<String, String>) -> Isolation {
        let identity = states.remove(IDENTITY).map(Arc::from);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|common| common.strong_count() > 0);
        let there = known.iter().filter_map(Weak::upgrade);
        let common = there.into_iter().find(|common| common.states == states);
        let common = common.unwrap_or_else(|| {
            let common = Arc::new(SharedStates::of(states));
            known.push(Arc::downgrade(&common));
            common
        });
        Isolation { common, identity }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(user: u32, landlock: &str) -> BTreeMap<String, String> {
        [
            ("identity", format!("user {user}, of this instance alone")),
            ("landlock", landlock.to_owned()),
            ("profile", "strict: because \"so\"".to_owned()),
        ]
        .map(|(layer, state)| (layer.to_owned(), state))
        .into()
    }

    #[test]
    fn children_share_what_they_have_in_common_for_as_long_as_one_lives() {
        let isolations = Isolations::default();
        let (one, two) = (
            isolations.shared(states(1, "on")),
            isolations.shared(states(2, "on")),
        );
        assert!(Arc::ptr_eq(&one.common, &two.common));
        assert_ne!(one, two, "each has its own user");
        assert_eq!(one, Isolation::from(states(1, "on")));
        assert_eq!(two.get("identity"), Some("user 2, of this instance alone"));
        assert_eq!(two.get("landlock"), Some("on"));
        assert_eq!(two.get("seccomp"), None);
        let other = isolations.shared(states(3, "off: the kernel has none"));
        assert!(!Arc::ptr_eq(&one.common, &other.common));
        assert_eq!(other.get("landlock"), Some("off: the kernel has none"));
        drop((one, two, other));
        isolations.shared(states(4, "on"));
        let known = isolations.0.lock().expect("not poisoned");
        assert_eq!(known.len(), 1, "what nobody has any more is forgotten");
    }

    #[test]
    fn the_members_are_those_of_the_object() {
        for states in [states(7, "on"), BTreeMap::new()] {
            let isolation = Isolation::from(states.clone());
            let mut object = format!("{{{}}}", isolation.common_members());
            if let Some((layer, state)) = isolation.own_member() {
                object.truncate(object.len() - 1);
                object.push_str(&format!(",{layer:?}:{state:?}}}"));
            }
            let read: BTreeMap<String, String> = serde_json::from_str(&object).expect("JSON");
            assert_eq!(read, states);
        }
    }
}
