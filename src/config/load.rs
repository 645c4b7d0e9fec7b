//! From a file and the environment to a checked [`Config`].

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Config, ConfigFault, overlay};

/// Read when no file is named; it may be absent.
pub const DEFAULT_FILE: &str = "/etc/minimcp/config.toml";

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {reason}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: std::io::Error,
    },
    /// The file is not TOML; the text names line and column.
    #[error("{} is not valid TOML: {reason}", .path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        reason: String,
    },
    /// Every fault that was found.
    #[error("the configuration has {}:{}", counted(.0.len()), listed(.0))]
    Faulty(Vec<ConfigFault>),
}

fn counted(faults: usize) -> String {
    match faults {
        1 => "a fault".to_owned(),
        n => format!("{n} faults"),
    }
}

fn listed(faults: &[ConfigFault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}

/// Where a configuration comes from; later layers win: `base`, the file, `DATABASE_URL`, `MINIMCP_SECTION__KEY`.
pub struct ConfigSource<'a> {
    /// What holds where nothing else is said.
    pub base: Config,
    /// The file that must exist; `None`: [`DEFAULT_FILE`] if it exists.
    pub file: Option<&'a Path>,
    /// Whether a file and `DATABASE_URL` count at all. The quickstart says no: it must not take over the database
    /// of some other project, or the service's.
    pub shared_sources: bool,
}

/// The variables of this process that are text; no key of ours has a name or value that is not.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

impl Config {
    /// Loads `file` (or [`DEFAULT_FILE`] if it exists), overlays `variables`, checks the whole.
    ///
    /// `variables` is the environment. `MINIMCP_SECTION__KEY` sets a key (a list is comma-separated or a TOML array;
    /// in `tasks`, `_` stands for `-`), `DATABASE_URL` sets `database.url`, and `MINIMCP_DATABASE__URL_FILE` names a
    /// file that holds it.
    ///
    /// # Errors
    /// [`ConfigError`], with every fault at once.
    pub fn load(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let source = ConfigSource {
            base: Self::default(),
            file,
            shared_sources: true,
        };
        source.load(variables)
    }

    /// Reads a configuration from TOML text, checks the whole. `path` is for messages only.
    ///
    /// # Errors
    /// [`ConfigError`], with every fault at once.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        finish(&Self::default(), parse(text, path)?, Vec::new())
    }
}

impl ConfigSource<'_> {
    /// See [`Config::load`].
    ///
    /// # Errors
    /// [`ConfigError`], with every fault at once.
    pub fn load(
        self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        let mut table = Table::new();
        if self.shared_sources {
            let path = self.file.unwrap_or(Path::new(DEFAULT_FILE));
            match std::fs::read_to_string(path) {
                Ok(text) => table = parse(&text, path)?,
                Err(error)
                    if self.file.is_none() && error.kind() == std::io::ErrorKind::NotFound => {}
                Err(reason) => {
                    return Err(ConfigError::Unreadable {
                        path: path.to_owned(),
                        reason,
                    });
                }
            }
        }
        let mut faults = Vec::new();
        overlay::apply(&mut table, variables, self.shared_sources, &mut faults);
        finish(&self.base, table, faults)
    }
}

fn parse(text: &str, path: &Path) -> Result<Table, ConfigError> {
    text.parse::<Table>().map_err(|error| ConfigError::NotToml {
        path: path.to_owned(),
        reason: error.to_string().trim_end().to_owned(),
    })
}

/// Takes key after key over into a copy of `base`, so that one wrong value hides no other.
fn finish(
    base: &Config,
    table: Table,
    mut faults: Vec<ConfigFault>,
) -> Result<Config, ConfigError> {
    let mut config = base.clone();
    let known = overlay::known_keys();
    for (section, keys) in table {
        let Some(known_section) = known.get(&section) else {
            let names = known.keys().map(String::as_str);
            faults.push(ConfigFault::unknown(&section, "section", &section, names));
            continue;
        };
        let Value::Table(keys) = keys else {
            faults.push(ConfigFault::new(
                &section,
                format!("is a section: write [{section}] and its keys below"),
            ));
            continue;
        };
        for (key, value) in keys {
            let place = format!("{section}.{key}");
            if section != "tasks" && !known_section.contains_key(&key) {
                let names = known_section.keys().map(String::as_str);
                faults.push(ConfigFault::unknown(&place, "key", &key, names));
                continue;
            }
            match with_key(&config, &section, &key, value) {
                Ok(next) => config = next,
                Err(reason) => faults.push(ConfigFault::new(&place, reason)),
            }
        }
    }
    config.check(&mut faults);
    if faults.is_empty() {
        Ok(config)
    } else {
        Err(ConfigError::Faulty(faults))
    }
}

/// `config` with one key replaced; the error is the reason only, since the caller knows the place.
fn with_key(config: &Config, section: &str, key: &str, value: Value) -> Result<Config, String> {
    // An empty text stands for "none" where a value is optional: an environment variable cannot say it otherwise.
    let emptied = value.as_str() == Some("");
    let mut table = Table::try_from(config).map_err(|error| error.to_string())?;
    let keys = table
        .entry(section)
        .or_insert_with(|| Value::Table(Table::new()))
        .as_table_mut()
        .ok_or("is not a section")?;
    if emptied && overlay::is_optional(section, key) {
        keys.remove(key);
    } else {
        keys.insert(key.to_owned(), value);
    }
    table.try_into::<Config>().map_err(|error| {
        let text = error.message().trim().to_owned();
        text.lines().next().unwrap_or_default().to_owned()
    })
}
