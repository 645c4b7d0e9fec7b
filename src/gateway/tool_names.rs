//! Names of tools as the records of their calls share them: a name is copied once, not with every call.

use std::sync::{Arc, Mutex, PoisonError};

/// So many names are remembered of one instance.
const PLACES: usize = 8;

/// The names that were called last, each in the one place that it can have.
#[derive(Debug, Default)]
pub(super) struct ToolNames([Mutex<Option<Arc<str>>>; PLACES]);

impl ToolNames {
    /// The name, copied only if another was in its place.
    pub(super) fn shared(&self, name: &str) -> Arc<str> {
        let last = name.bytes().last().unwrap_or_default();
        let place = (name.len() ^ usize::from(last)) % PLACES;
        let mut known = self.0[place].lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some(known) if **known == *name => known.clone(),
            _ => known.insert(name.into()).clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_copied_once_and_gives_way_to_another() {
        let names = ToolNames::default();
        let one = names.shared("echo");
        assert!(Arc::ptr_eq(&one, &names.shared("echo")));
        assert_eq!(&*names.shared(""), "");
        for number in 0..100 {
            let name = format!("tool-{number}");
            assert_eq!(*names.shared(&name), *name);
        }
        assert_eq!(&*names.shared("echo"), "echo");
    }
}
