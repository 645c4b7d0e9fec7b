//! What an instance is called where instances of all owners meet: in paths, on the command line, in messages.

use std::{fmt, str::FromStr, sync::Arc};

use super::id::{DEFAULT_OWNER, InstanceName, InvalidName, OwnerId};

/// The name of an instance, made unique over all owners: `NAME` for the default owner, `OWNER.NAME` for any other. Neither
/// part can hold a dot, so no two instances share one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slug(Arc<str>);

impl Slug {
    /// Of the instance that `owner` calls `name`.
    #[must_use]
    pub fn of(owner: &OwnerId, name: &InstanceName) -> Self {
        Self(match owner.is_default() {
            true => name.as_str().into(),
            false => format!("{owner}.{name}").into(),
        })
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose instance is meant by what somebody wrote: a name is one of the default owner's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Whose.
    pub owner: OwnerId,
    /// What the owner calls it.
    pub name: InstanceName,
}

impl FromStr for Named {
    type Err = InvalidName;

    /// Reads a slug; the default owner may be written out.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (owner, name) = text.split_once('.').unwrap_or((DEFAULT_OWNER, text));
        Ok(Self {
            owner: OwnerId::new(owner)?,
            name: InstanceName::new(name)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(owner: &str, name: &str) -> Named {
        Named {
            owner: OwnerId::new(owner).expect("an owner"),
            name: InstanceName::new(name).expect("a name"),
        }
    }

    #[test]
    fn only_the_default_owner_has_short_ones() {
        for (owner, name, slug) in [
            ("admin", "github", "github"),
            ("ada", "github", "ada.github"),
        ] {
            let whose = named(owner, name);
            assert_eq!(Slug::of(&whose.owner, &whose.name).as_str(), slug);
            assert_eq!(slug.parse(), Ok(whose));
        }
        assert_eq!("admin.github".parse(), Ok(named("admin", "github")));
        for strange in ["", ".", "a.", ".b", "a.b.c", "A.b", "a/b", "a..b"] {
            assert!(strange.parse::<Named>().is_err(), "{strange}");
        }
    }

    proptest! {
        #[test]
        fn no_two_share_one(
            (owner, name) in ("[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", "[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?"),
        ) {
            let whose = named(&owner, &name);
            prop_assert_eq!(Slug::of(&whose.owner, &whose.name).as_str().parse(), Ok(whose));
        }
    }
}
