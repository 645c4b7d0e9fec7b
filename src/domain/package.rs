//! A package of npm or PyPI as the source of a server: exactly one version of it.

use std::{
    borrow::Cow,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Longest name or version in bytes; npm allows 214 for a name.
const PART_BYTES_MAX: usize = 214;

/// Where a package comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Registry {
    /// Packages for Node.
    Npm,
    /// Packages for Python.
    Pypi,
}

impl Registry {
    /// The word before the colon.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Pypi => "pypi",
        }
    }

    /// What stands between name and version.
    fn separator(self) -> &'static str {
        match self {
            Self::Npm => "@",
            Self::Pypi => "==",
        }
    }
}

/// `npm:NAME@VERSION` or `pypi:NAME==VERSION`. Never a range or a tag: the same template runs the same code everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackageSource {
    registry: Registry,
    name: String,
    version: String,
}

/// What is wrong with the text of a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackageError {
    /// It begins with neither word.
    #[error("must be npm:NAME@VERSION or pypi:NAME==VERSION")]
    Shape,
    /// There is no version.
    #[error("must name one version: {0}")]
    NoVersion(&'static str),
    /// A range, a tag, or characters that no version has.
    #[error("{0:?} is not one exact version such as 1.2.3; ranges and tags such as latest are not")]
    Version(String),
    /// Characters that no name has.
    #[error("{0:?} is not the name of a package")]
    Name(String),
}

impl PackageSource {
    /// Where it comes from.
    #[must_use]
    pub fn registry(&self) -> Registry {
        self.registry
    }

    /// Its name there, with scope and extras.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the installer is told: `NAME@VERSION` or `NAME==VERSION`. It begins with a letter, a digit or `@`, so no
    /// installer takes it for an option.
    #[must_use]
    pub fn specifier(&self) -> String {
        let separator = self.registry.separator();
        format!("{}{separator}{}", self.name, self.version)
    }

    /// The name that its program most likely has: that of the package, without scope and extras.
    #[must_use]
    pub fn program(&self) -> &str {
        let name = self.name.rsplit('/').next().unwrap_or(&self.name);
        name.split('[').next().unwrap_or(name)
    }

    /// The folder of its installation below the store of packages. `scripts`: with its install scripts run, which may
    /// make other files.
    #[must_use]
    pub fn folder(&self, store: &Path, scripts: bool) -> PathBuf {
        let name = self.name.replace('/', "+");
        let registry = self.registry.word();
        let suffix = if scripts { "+scripts" } else { "" };
        store.join(format!("{registry}-{name}@{}{suffix}", self.version))
    }

    /// The folder of its programs, inside [`Self::folder`].
    #[must_use]
    pub fn programs(&self, folder: &Path) -> PathBuf {
        match self.registry {
            Registry::Npm => folder.join("node_modules/.bin"),
            Registry::Pypi => folder.join("venv/bin"),
        }
    }
}

impl FromStr for PackageSource {
    type Err = PackageError;

    fn from_str(text: &str) -> Result<Self, PackageError> {
        let (registry, rest) = if let Some(rest) = text.strip_prefix("npm:") {
            (Registry::Npm, rest)
        } else if let Some(rest) = text.strip_prefix("pypi:") {
            (Registry::Pypi, rest)
        } else {
            return Err(PackageError::Shape);
        };
        let separator = registry.separator();
        // The scope of npm begins with the separator.
        let from = usize::from(rest.starts_with('@'));
        let found = rest.get(from..).and_then(|rest| rest.find(separator));
        let Some(at) = found.map(|at| at + from) else {
            return Err(PackageError::NoVersion(match registry {
                Registry::Npm => "npm:NAME@VERSION",
                Registry::Pypi => "pypi:NAME==VERSION",
            }));
        };
        let (name, version) = (&rest[..at], &rest[at + separator.len()..]);
        let (named, exact) = match registry {
            Registry::Npm => (is_npm_name(name), is_npm_version(version)),
            Registry::Pypi => (is_pypi_name(name), is_pypi_version(version)),
        };
        if !named {
            return Err(PackageError::Name(cut(name)));
        }
        if !exact {
            return Err(PackageError::Version(cut(version)));
        }
        Ok(Self {
            registry,
            name: name.to_owned(),
            version: version.to_owned(),
        })
    }
}

impl fmt::Display for PackageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.registry.word(), self.specifier())
    }
}

impl JsonSchema for PackageSource {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "PackageSource".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string"})
    }
}

impl Serialize for PackageSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PackageSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// One part of a name: no dot or dash at its beginning, so neither a path upwards nor an option.
fn is_part(part: &str, more: &str) -> bool {
    let first = |c: char| c.is_ascii_alphanumeric() || c == '_';
    part.starts_with(first)
        && part.len() <= PART_BYTES_MAX
        && part
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}

fn is_npm_name(name: &str) -> bool {
    match name.strip_prefix('@') {
        Some(scoped) => scoped
            .split_once('/')
            .is_some_and(|(scope, name)| is_part(scope, "-._~") && is_part(name, "-._~")),
        None => is_part(name, "-._~"),
    }
}

/// Semantic Versioning 2.0.0, as npm demands it of what it publishes.
fn is_npm_version(version: &str) -> bool {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<&str> = core.split('.').collect();
    let number = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let rest = &version[core.len()..];
    numbers.len() == 3
        && numbers.iter().all(number)
        && version.len() <= PART_BYTES_MAX
        && (rest.is_empty() || rest.len() > 1)
        && rest
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-.+".contains(c))
}

/// A name of the Python packaging specifications, with extras in brackets.
fn is_pypi_name(name: &str) -> bool {
    let (name, extras) = match name.split_once('[') {
        Some((name, extras)) => match extras.strip_suffix(']') {
            Some(extras) => (name, Some(extras)),
            None => return false,
        },
        None => (name, None),
    };
    let extras = extras.map(|extras| extras.split(','));
    is_part(name, "-._") && extras.is_none_or(|mut all| all.all(|extra| is_part(extra, "-._")))
}

/// The characters of PEP 440; no wildcard.
fn is_pypi_version(version: &str) -> bool {
    version.starts_with(|c: char| c.is_ascii_digit()) && is_part(version, "-._+!")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_versions_are_read_and_written_back() {
        for text in [
            "npm:left-pad@1.3.0",
            "npm:@modelcontextprotocol/server-everything@2026.1.26",
            "npm:a@1.0.0-rc.1+build.5",
            "pypi:mcp-server-git==2026.1.14",
            "pypi:mcp[cli,ws]==1.0rc1",
            "pypi:x==1!2.0.post1+local.1",
        ] {
            let source: PackageSource = text.parse().expect(text);
            assert_eq!(source.to_string(), text);
        }
        let source: PackageSource = "npm:@a/b@1.2.3".parse().expect("good");
        assert_eq!(source.specifier(), "@a/b@1.2.3");
        assert_eq!(source.program(), "b");
        let folder = source.folder(Path::new("/p"), false);
        assert_eq!(folder, Path::new("/p/npm-@a+b@1.2.3"));
        assert_eq!(
            source.programs(&folder),
            Path::new("/p/npm-@a+b@1.2.3/node_modules/.bin")
        );
        assert_ne!(source.folder(Path::new("/p"), true), folder);
    }

    #[test]
    fn everything_else_is_refused_in_words() {
        for (text, expected) in [
            ("left-pad@1.3.0", "must be npm:"),
            ("npm:left-pad", "npm:NAME@VERSION"),
            ("npm:@a/b", "npm:NAME@VERSION"),
            ("pypi:x", "pypi:NAME==VERSION"),
            ("pypi:x@1.0", "pypi:NAME==VERSION"),
            ("npm:left-pad@latest", "exact version"),
            ("npm:left-pad@^1.3.0", "exact version"),
            ("npm:left-pad@1.3", "exact version"),
            ("npm:left-pad@1.3.0-", "exact version"),
            ("pypi:x==1.*", "exact version"),
            ("pypi:x==", "exact version"),
            ("npm:../x@1.0.0", "name of a package"),
            ("npm:@a/../b@1.0.0", "name of a package"),
            ("npm:-g@1.0.0", "name of a package"),
            ("npm:@1.0.0@1.0.0", "name of a package"),
            ("npm:https://x/y@1.0.0", "name of a package"),
            ("pypi:x y==1.0", "name of a package"),
            ("pypi:x[==1.0", "name of a package"),
            ("pypi:--index-url==1.0", "name of a package"),
        ] {
            let error = text.parse::<PackageSource>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
