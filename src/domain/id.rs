//! Names and numbers that identify things; each is checked once, where it enters.

use std::{fmt, str::FromStr, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {allowed}")]
pub struct InvalidName {
    what: &'static str,
    value: String,
    allowed: &'static str,
}

/// Identifies one instance for its whole life, restore included. UUID version 7 (RFC 9562).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(pub Uuid);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for InstanceId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self).map_err(|_| InvalidName {
            what: "instance id",
            value: text.chars().take(80).collect(),
            allowed: "a UUID is expected",
        })
    }
}

/// Counts the launches of an instance; events of an older generation are ignored.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of the next launch.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $allowed:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and takes it over.
            ///
            /// # Errors
            /// [`InvalidName`] that says what is allowed.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                let check: fn(&str) -> bool = $check;
                if check(&text) {
                    Ok(Self(text.into()))
                } else {
                    let value = text.chars().take(80).collect();
                    Err(InvalidName { what: $what, value, allowed: $allowed })
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.as_str().to_owned()
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }
    };
}

fn is_label(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

name_type!(
    /// The folder name of a template.
    TemplateName,
    "template name",
    "1 to 40 of a-z, 0-9 and '-', not at either end",
    |text| is_label(text, 40)
);

name_type!(
    /// What a person calls an instance; unique among the owner's instances that are not deleted.
    /// It stands in paths too, with the owner where that is not the default one ([`super::slug`]), hence the narrow
    /// alphabet.
    InstanceName,
    "name",
    "1 to 63 of a-z, 0-9 and '-', not at either end",
    |text| is_label(text, 63)
);

name_type!(
    /// Who owns instances and credentials.
    OwnerId,
    "owner",
    "1 to 64 of a-z, 0-9 and '-', not at either end",
    |text| is_label(text, 64)
);

/// In whose name the administrator acts, who names no other owner.
pub const DEFAULT_OWNER: &str = "admin";

impl OwnerId {
    /// Whether it is [`DEFAULT_OWNER`].
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.as_str() == DEFAULT_OWNER
    }
}

name_type!(
    /// What an owner calls a stored secret.
    CredentialName,
    "credential name",
    "1 to 100 of A-Z, a-z, 0-9, '.', '_' and '-', starting with a letter or digit",
    |text| (1..=100).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && text.as_bytes()[0].is_ascii_alphanumeric()
);

name_type!(
    /// What an access token of an instance is called; unique among that instance's tokens.
    TokenName,
    "token name",
    "1 to 63 of a-z, 0-9 and '-', not at either end",
    |text| is_label(text, 63)
);

impl TokenName {
    /// The name of the token that a new instance gets.
    #[must_use]
    pub fn first() -> Self {
        Self(super::access::DEFAULT_TOKEN.into())
    }

    /// The name as text that is not copied.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

name_type!(
    /// The name of an environment variable, as POSIX allows it (environ(7)).
    EnvName,
    "environment variable name",
    "1 to 128 of A-Z, a-z, 0-9 and '_', not starting with a digit",
    |text| (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !text.as_bytes()[0].is_ascii_digit()
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_narrow() {
        for good in ["a", "a-1", "0", &"x".repeat(63)] {
            assert!(InstanceName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a_b",
            "a/b",
            "..",
            "a\n",
            &"x".repeat(64),
        ] {
            assert!(InstanceName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn environment_names_follow_posix() {
        assert!(EnvName::new("GITHUB_TOKEN").is_ok());
        for bad in ["", "1A", "A=B", "A-B", "A\0"] {
            assert!(EnvName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_never_repeats_a_long_text() {
        let error = OwnerId::new("Z".repeat(10_000))
            .expect_err("capital letters")
            .to_string();
        assert!(error.len() < 300, "{error}");
    }
}
