//! The lists by which a server tells what it offers, and how two of them differ.

use std::{collections::BTreeMap, fmt};

/// One of the lists that a server may have (MCP: tools, prompts, resources).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListKind {
    /// `tools/list`.
    Tools,
    /// `prompts/list`.
    Prompts,
    /// `resources/list`.
    Resources,
    /// `resources/templates/list`.
    ResourceTemplates,
}

impl ListKind {
    /// All of them, in the order in which they are kept.
    pub const ALL: [Self; 4] = [
        Self::Tools,
        Self::Prompts,
        Self::Resources,
        Self::ResourceTemplates,
    ];

    /// The list that this request asks for.
    #[must_use]
    pub fn of_method(method: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.method() == method)
    }

    /// Its place in [`Self::ALL`].
    #[must_use]
    pub fn place(self) -> usize {
        self as usize
    }

    /// The request that asks for it.
    #[must_use]
    pub const fn method(self) -> &'static str {
        match self {
            Self::Tools => "tools/list",
            Self::Prompts => "prompts/list",
            Self::Resources => "resources/list",
            Self::ResourceTemplates => "resources/templates/list",
        }
    }

    /// The capability of a server that has it.
    #[must_use]
    pub fn capability(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources | Self::ResourceTemplates => "resources",
        }
    }

    /// The member of the result that holds its entries.
    #[must_use]
    pub fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::ResourceTemplates => "resourceTemplates",
        }
    }

    /// The member of an entry by which it is known.
    #[must_use]
    pub fn identity(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::ResourceTemplates => "uriTemplate",
        }
    }

    /// The notification that tells of its change.
    #[must_use]
    pub fn news(self) -> &'static str {
        match self {
            Self::Tools => "notifications/tools/list_changed",
            Self::Prompts => "notifications/prompts/list_changed",
            Self::Resources | Self::ResourceTemplates => "notifications/resources/list_changed",
        }
    }

    /// What people call it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::ResourceTemplates => "resource templates",
        }
    }
}

/// One entry of a list: by what it is known, and what the server said of it, in its own words.
pub type ListEntry<'a> = (String, &'a str);

/// How a list differs from what was heard of it before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListChange {
    /// Which list.
    pub kind: ListKind,
    /// New entries, by name.
    pub added: Vec<String>,
    /// Entries that are gone.
    pub removed: Vec<String>,
    /// Entries of which something else is said.
    pub changed: Vec<String>,
}

/// Most names that a change tells of each sort.
const NAMED_MAX: usize = 10;
/// Most characters of each.
const NAME_CHARS_MAX: usize = 80;

impl ListChange {
    /// How `now` differs from `before`; `None`: in nothing but perhaps the order.
    #[must_use]
    pub fn between(
        kind: ListKind,
        before: &[ListEntry<'_>],
        now: &[ListEntry<'_>],
    ) -> Option<Self> {
        // Of entries of one name the last counts, on both sides.
        let by_name = |entries: &[ListEntry<'_>]| -> BTreeMap<String, String> {
            let entries = entries.iter();
            entries
                .map(|(name, raw)| (name.clone(), (*raw).to_owned()))
                .collect()
        };
        let (before, now) = (by_name(before), by_name(now));
        let missing_in = |all: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
            let names = all.keys().filter(|name| !other.contains_key(*name));
            names.cloned().collect::<Vec<_>>()
        };
        let differs =
            |(name, raw): &(&String, &String)| before.get(*name).is_some_and(|known| known != *raw);
        let changed = now.iter().filter(differs).map(|(name, _)| name.clone());
        let change = Self {
            kind,
            added: missing_in(&now, &before),
            removed: missing_in(&before, &now),
            changed: changed.collect(),
        };
        let is_none =
            change.added.is_empty() && change.removed.is_empty() && change.changed.is_empty();
        (!is_none).then_some(change)
    }
}

impl fmt::Display for ListChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.title())?;
        let sorts = [
            ("added", &self.added),
            ("removed", &self.removed),
            ("changed", &self.changed),
        ];
        let mut between = ": ";
        for (word, names) in sorts.into_iter().filter(|(_, names)| !names.is_empty()) {
            write!(f, "{between}{word} ")?;
            between = "; ";
            for (index, name) in names.iter().take(NAMED_MAX).enumerate() {
                let comma = if index > 0 { ", " } else { "" };
                let mut name: String = name.chars().take(NAME_CHARS_MAX).collect();
                name.retain(|letter| !letter.is_control());
                write!(f, "{comma}{name}")?;
            }
            if let Some(more @ 1..) = names.len().checked_sub(NAMED_MAX) {
                write!(f, " and {more} more")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries<'a>(pairs: &[(&str, &'a str)]) -> Vec<ListEntry<'a>> {
        pairs
            .iter()
            .map(|(name, raw)| ((*name).to_owned(), *raw))
            .collect()
    }

    #[test]
    fn a_change_names_what_differs_and_no_more_than_fits() {
        let before = entries(&[("a", "1"), ("b", "1.0"), ("c", "{}")]);
        let now = entries(&[("d", "1"), ("c", "{}"), ("b", "1.00")]);
        let change = ListChange::between(ListKind::Tools, &before, &now).expect("it differs");
        assert_eq!(change.to_string(), "tools: added d; removed a; changed b");
        let turned: Vec<_> = before.iter().rev().cloned().collect();
        assert_eq!(ListChange::between(ListKind::Tools, &before, &turned), None);
        let many: Vec<_> = (0..13).map(|n| (format!("t{n:02}\n"), "{}")).collect();
        let change = ListChange::between(ListKind::ResourceTemplates, &[], &many);
        let text = change.expect("it differs").to_string();
        assert!(
            text.starts_with("resource templates: added t00, t01"),
            "{text}"
        );
        assert!(text.ends_with("t09 and 3 more"), "{text}");
    }

    #[test]
    fn every_list_is_found_by_its_request() {
        for kind in ListKind::ALL {
            assert_eq!(ListKind::of_method(kind.method()), Some(kind));
            assert_eq!(ListKind::ALL[kind.place()], kind);
        }
        assert_eq!(ListKind::of_method("tools/call"), None);
    }

    proptest! {
        #[test]
        fn there_is_no_change_exactly_when_the_entries_are_the_same(
            before in proptest::collection::btree_map("[a-d]", "[0-2]", 0..4),
            now in proptest::collection::btree_map("[a-d]", "[0-2]", 0..4),
        ) {
            let list = |map: &BTreeMap<String, String>| -> Vec<(String, String)> {
                map.iter().map(|(name, raw)| (name.clone(), raw.clone())).collect()
            };
            let (old, new) = (list(&before), list(&now));
            let old: Vec<ListEntry<'_>> = old.iter().map(|(n, r)| (n.clone(), r.as_str())).collect();
            let new: Vec<ListEntry<'_>> = new.iter().map(|(n, r)| (n.clone(), r.as_str())).collect();
            match ListChange::between(ListKind::Prompts, &old, &new) {
                None => prop_assert_eq!(&before, &now),
                Some(change) => {
                    prop_assert_ne!(&before, &now);
                    for name in &change.added {
                        prop_assert!(now.contains_key(name) && !before.contains_key(name));
                    }
                    for name in &change.removed {
                        prop_assert!(before.contains_key(name) && !now.contains_key(name));
                    }
                    for name in &change.changed {
                        prop_assert!(before[name] != now[name]);
                    }
                }
            }
        }
    }
}
