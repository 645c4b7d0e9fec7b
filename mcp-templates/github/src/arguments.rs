//! Arguments that many tools share, and the addresses made of them.

use minimcp_rest::{Call, Error, path_segment};
use rmcp::schemars::{self, JsonSchema};
use serde::{Deserialize, Serialize};

use crate::server::SERVICE;

/// Arguments of a tool on one repository: its owner, its name and the fields given. The derives are those of
/// every arguments' type; serde's flatten cannot be used, for it does not go with refused unknown fields.
macro_rules! repo_arguments {
    ($name:ident { $($fields:tt)* }) => {
        #[derive(serde::Deserialize, rmcp::schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct $name {
            /// The owner of the repository: a user or an organization.
            owner: String,
            /// The repository's name, without its owner.
            repo: String,
            $($fields)*
        }

        impl $name {
            /// The address of `rest` below the repository.
            fn path(&self, rest: &str) -> Result<String, minimcp_rest::Error> {
                crate::arguments::repo_path(&self.owner, &self.repo, rest)
            }
        }
    };
}

/// Arguments of a tool whose answer comes in pages.
macro_rules! paged_arguments {
    ($name:ident { $($fields:tt)* }) => {
        #[derive(serde::Deserialize, rmcp::schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct $name {
            $($fields)*
            /// The page, from 1; the answer's next_page says what comes next.
            page: Option<u32>,
            /// Entries on a page, 1 to 100; 30 when absent.
            #[serde(rename = "perPage")]
            per_page: Option<u32>,
        }

        impl $name {
            fn page(&self) -> crate::arguments::Page {
                crate::arguments::Page { page: self.page, per_page: self.per_page }
            }
        }
    };
}

/// Both: a tool on one repository whose answer comes in pages.
macro_rules! paged_repo_arguments {
    ($name:ident { $($fields:tt)* }) => {
        crate::arguments::paged_arguments!($name {
            /// The owner of the repository: a user or an organization.
            owner: String,
            /// The repository's name, without its owner.
            repo: String,
            $($fields)*
        });

        impl $name {
            /// The address of `rest` below the repository.
            fn path(&self, rest: &str) -> Result<String, minimcp_rest::Error> {
                crate::arguments::repo_path(&self.owner, &self.repo, rest)
            }
        }
    };
}

pub(crate) use {paged_arguments, paged_repo_arguments, repo_arguments};

/// Which page of a list.
#[derive(Clone, Copy, Default)]
pub(crate) struct Page {
    pub(crate) page: Option<u32>,
    pub(crate) per_page: Option<u32>,
}

impl Page {
    /// `call` for this page: the first when none is named, with 30 entries when no number is.
    pub(crate) fn of(self, call: Call) -> Result<Call, Error> {
        let (page, per_page) = (self.page.unwrap_or(1), self.per_page.unwrap_or(30));
        if page == 0 || !(1..=100).contains(&per_page) {
            let message = "page must be at least 1, and perPage 1 to 100";
            return Err(Error::argument(SERVICE, message));
        }
        Ok(call.query("page", page).query("per_page", per_page))
    }
}

/// The order.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    #[serde(alias = "ASC")]
    Asc,
    #[serde(alias = "DESC")]
    Desc,
}

/// An emoji reaction.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reaction {
    #[serde(rename = "+1")]
    PlusOne,
    #[serde(rename = "-1")]
    MinusOne,
    Laugh,
    Confused,
    Heart,
    Hooray,
    Rocket,
    Eyes,
}

/// The word that a unit variant is written as.
pub(crate) fn word(value: &impl Serialize) -> String {
    let json = serde_json::to_value(value).unwrap_or_default();
    json.as_str().unwrap_or_default().to_owned()
}

/// An error of the arguments.
pub(crate) fn refuse<T>(message: impl Into<String>) -> Result<T, String> {
    Err(Error::argument(SERVICE, message).into())
}

fn is_name(text: &str) -> bool {
    let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=100).contains(&text.len()) && text.bytes().all(letters) && !matches!(text, "." | "..")
}

/// A name of a user, an organization or a team, fit to be part of an address; `what` says which.
pub(crate) fn name<'a>(what: &str, text: &'a str) -> Result<&'a str, Error> {
    if is_name(text) {
        return Ok(text);
    }
    let message = format!("{what} must be a name of letters, digits and hyphens, such as octocat");
    Err(Error::argument(SERVICE, message))
}

/// `/repos/OWNER/REPO` and then `rest`.
pub(crate) fn repo_path(owner: &str, repo: &str, rest: &str) -> Result<String, Error> {
    if !is_name(owner) || !is_name(repo) {
        let message = "owner and repo must be the two names apart, such as owner octocat and repo hello-world";
        return Err(Error::argument(SERVICE, message));
    }
    Ok(format!("/repos/{owner}/{repo}{rest}"))
}

/// The path of a file or a ref as part of an address, each segment encoded, with a slash in front; empty for none.
pub(crate) fn segments(what: &str, path: &str) -> Result<String, Error> {
    let mut encoded = String::new();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        if matches!(segment, "." | "..") {
            let message = format!("{what} must not have the segments . and ..");
            return Err(Error::argument(SERVICE, message));
        }
        encoded.push('/');
        encoded.push_str(&path_segment(segment));
    }
    Ok(encoded)
}

/// As [`segments`], but not empty.
pub(crate) fn some_segments(what: &str, path: &str) -> Result<String, Error> {
    let encoded = segments(what, path)?;
    if encoded.is_empty() {
        return Err(Error::argument(
            SERVICE,
            format!("{what} must not be empty"),
        ));
    }
    Ok(encoded)
}

/// A text that must say something.
pub(crate) fn not_blank<'a>(what: &str, text: &'a str) -> Result<&'a str, Error> {
    if text.trim().is_empty() {
        return Err(Error::argument(
            SERVICE,
            format!("{what} must not be empty"),
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_made_of_names_and_paths_only() {
        assert_eq!(
            repo_path("o", "r.x", "/issues").as_deref(),
            Ok("/repos/o/r.x/issues")
        );
        for (owner, repo) in [("o/r", "r"), ("..", "r"), ("", "r"), ("o", "a b")] {
            assert!(repo_path(owner, repo, "").is_err(), "{owner} {repo}");
        }
        assert_eq!(segments("path", "/a b//c#d").as_deref(), Ok("/a%20b/c%23d"));
        assert_eq!(segments("path", "/").as_deref(), Ok(""));
        assert!(segments("path", "a/../b").is_err());
        assert!(some_segments("ref", "/").is_err());
    }

    #[test]
    fn pages_are_bounded() {
        for (page, per_page) in [(Some(0), None), (None, Some(0)), (None, Some(101))] {
            assert!(Page { page, per_page }.of(Call::get("/x")).is_err());
        }
    }
}
