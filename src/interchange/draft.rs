//! A server as it is translated from a file: what becomes a template, before its package is looked up.

use serde_json::Value;
use zeroize::Zeroizing;

use crate::domain::{
    duration::HumanDuration,
    egress::HostRule,
    id::{EnvName, TemplateName},
    package::Registry,
    template::{Grant, SettingType},
};

/// One server of a file.
#[derive(Debug)]
pub struct Found {
    /// What the file calls it.
    pub server: String,
    /// Its translation, or why there is none: one sentence.
    pub draft: Result<Draft, String>,
}

/// A server, translated.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// The name that the template gets where it is free.
    pub name: TemplateName,
    /// What people call it.
    pub title: String,
    /// What it does.
    pub description: String,
    /// Where to read more.
    pub homepage: Option<String>,
    /// What runs.
    pub run: Run,
    /// Its secrets.
    pub credentials: Vec<Credential>,
    /// What else may be chosen.
    pub settings: Vec<Setting>,
    /// Variables that are always the same.
    pub environment: Vec<(EnvName, String)>,
    /// Hosts that it reaches.
    pub hosts: Vec<HostRule>,
    /// Paths of the host that it writes.
    pub write: Vec<String>,
    /// How long its start may take.
    pub start_timeout: Option<HumanDuration>,
    /// Whether the file has it switched off.
    pub disabled: bool,
    /// What the file says of it that has no place in a template: a key, and its value as JSON where that is no secret.
    pub kept: Vec<(String, Option<String>)>,
    /// What a person should know, one sentence each.
    pub notes: Vec<String>,
}

/// What runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Run {
    /// A program of a package.
    Package {
        /// Where it comes from.
        registry: Registry,
        /// Its name there.
        name: String,
        /// Which version.
        version: Wanted,
        /// The program; `None`: the one that the registry names for the package.
        program: Option<String>,
        /// The program's arguments.
        arguments: Vec<String>,
    },
    /// A program of this host, with its arguments.
    Command(Vec<String>),
    /// A container image, which is not run here: a package can take its place.
    Container {
        /// The image.
        image: String,
        /// What the image is given.
        arguments: Vec<String>,
    },
    /// A server elsewhere.
    Remote {
        /// Where it is.
        url: String,
        /// The headers that it is sent: each a name and a value, in which `{credential.NAME}` stands for a
        /// credential.
        headers: Vec<(String, String)>,
    },
}

/// Which version of a package is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// This one.
    Exact(String),
    /// The newest that fits, in the registry's own words (`latest`, `^1.2`, `>=2`); empty: the newest.
    Newest(String),
}

/// A secret that a server takes.
#[derive(Clone, PartialEq)]
pub struct Credential {
    /// The variable that delivers it.
    pub name: EnvName,
    /// What people call it.
    pub title: String,
    /// Where to get one.
    pub help: Option<String>,
    /// Whether the server needs it.
    pub required: bool,
    /// What the file holds; `None`: it names the secret only.
    pub value: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential")
            .field("name", &self.name)
            .field("has_value", &self.value.is_some())
            .finish_non_exhaustive()
    }
}

/// A setting that a server takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Its key.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// What it does.
    pub help: Option<String>,
    /// What it holds.
    pub kind: SettingType,
    /// What the file holds, or the default that it names.
    pub default: Option<Value>,
    /// Whether it must be given.
    pub required: bool,
    /// The values allowed.
    pub allowed: Vec<Value>,
    /// What its value opens.
    pub grants: Option<Grant>,
    /// The variable that delivers it.
    pub env: Option<EnvName>,
    /// The arguments that deliver it.
    pub arguments: Vec<String>,
}

/// Longest title in bytes, as a manifest allows it.
const TITLE_BYTES: usize = 100;
/// Longest description in bytes.
const DESCRIPTION_BYTES: usize = 1_000;
/// Longest help in bytes.
const HELP_BYTES: usize = 4_000;
/// Most notes that are told of one server.
const NOTES_MAX: usize = 40;
/// Most keys that are kept of one server.
const KEPT_MAX: usize = 40;

impl Draft {
    /// A draft of what runs, with nothing else.
    pub(super) fn new(server: &str, run: Run) -> Self {
        let shown = shown(server);
        Self {
            name: template_name(server),
            title: text(&shown, TITLE_BYTES).unwrap_or_else(|| "Imported server".to_owned()),
            description: text(
                &format!("The MCP server {shown}, imported."),
                DESCRIPTION_BYTES,
            )
            .unwrap_or_else(|| "An imported MCP server.".to_owned()),
            homepage: None,
            run,
            credentials: Vec::new(),
            settings: Vec::new(),
            environment: Vec::new(),
            hosts: Vec::new(),
            write: Vec::new(),
            start_timeout: None,
            disabled: false,
            kept: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(super) fn title(&mut self, title: Option<&str>) {
        if let Some(title) = title.and_then(|title| text(title, TITLE_BYTES)) {
            self.title = title;
        }
    }

    pub(super) fn description(&mut self, description: Option<&str>) {
        if let Some(description) = description.and_then(|it| text(it, DESCRIPTION_BYTES)) {
            self.description = description;
        }
    }

    pub(super) fn homepage(&mut self, address: Option<&str>) {
        let good = |address: &&str| {
            address.len() <= 500
                && (address.starts_with("https://") || address.starts_with("http://"))
                && !address.contains('@')
                && !address.chars().any(|c| c.is_control() || c.is_whitespace())
        };
        if let Some(address) = address.filter(good) {
            self.homepage = Some(address.to_owned());
        }
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if self.notes.len() < NOTES_MAX && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Keeps a key that has no place in a template, and tells of it.
    pub(super) fn keep(&mut self, key: &str, value: &Value) {
        let key = shown(key);
        if self.kept.len() < KEPT_MAX {
            let value = (!super::secret::holds_one(&key, value)).then(|| one_line(value));
            self.kept.push((key.clone(), value));
        }
        self.note(format!(
            "{key} has no place in a template; it is kept as a comment"
        ));
    }

    pub(super) fn host(&mut self, rule: Option<HostRule>) {
        if let Some(rule) = rule
            && !self.hosts.contains(&rule)
            && self.hosts.len() < crate::domain::egress::RULES_MAX
        {
            self.hosts.push(rule);
        }
    }

    /// Whether a variable is set already.
    pub(super) fn has_variable(&self, name: &str) -> bool {
        self.credentials.iter().any(|it| it.name.as_str() == name)
            || self.environment.iter().any(|(it, _)| it.as_str() == name)
            || (self.settings.iter())
                .any(|it| it.env.as_ref().is_some_and(|it| it.as_str() == name))
    }

    /// Adds a setting under a name that is free.
    pub(super) fn setting(&mut self, mut setting: Setting) {
        let wanted = setting_name(&setting.name);
        let mut name = wanted.clone();
        let mut number = 2;
        while self.settings.iter().any(|it| it.name == name) {
            name = format!("{}_{number}", wanted.chars().take(60).collect::<String>());
            number += 1;
        }
        setting.name = name;
        setting.title = text(&setting.title, TITLE_BYTES).unwrap_or_else(|| setting.name.clone());
        setting.help = setting.help.and_then(|help| text(&help, HELP_BYTES));
        self.settings.push(setting);
    }

    /// Adds a secret, unless its variable is taken.
    pub(super) fn credential(&mut self, mut credential: Credential) {
        if self.has_variable(credential.name.as_str()) {
            let name = &credential.name;
            self.note(format!("{name} is set twice; the first is used"));
            return;
        }
        credential.title =
            text(&credential.title, TITLE_BYTES).unwrap_or_else(|| credential.name.to_string());
        credential.help = credential.help.and_then(|help| text(&help, HELP_BYTES));
        self.credentials.push(credential);
    }
}

/// A text of a file as it may stand in a sentence of ours: one line, and short.
pub(super) fn shown(text: &str) -> String {
    let plain: String = text.chars().filter(|c| !c.is_control()).take(60).collect();
    plain.trim().to_owned()
}

/// A text as a manifest takes it; `None` where nothing is left.
pub(super) fn text(text: &str, bytes_max: usize) -> Option<String> {
    let mut kept = String::new();
    for c in text
        .trim()
        .chars()
        .filter(|c| *c == '\n' || !c.is_control())
    {
        if kept.len() + c.len_utf8() > bytes_max {
            break;
        }
        kept.push(c);
    }
    let kept = kept.trim();
    (!kept.is_empty()).then(|| kept.to_owned())
}

/// JSON on one line, as it may stand in a comment.
fn one_line(value: &Value) -> String {
    let text = value.to_string();
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}

/// The nearest name that a template may have.
pub(super) fn template_name(text: &str) -> TemplateName {
    let mut name = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        let c = if c.is_ascii_alphanumeric() { c } else { '-' };
        if c != '-' || !(name.is_empty() || name.ends_with('-')) {
            name.push(c);
        }
        if name.len() == 36 {
            break;
        }
    }
    let name = name.trim_matches('-');
    let name = if name.is_empty() { "server" } else { name };
    TemplateName::new(name).expect("1 to 36 of a-z, 0-9 and '-', not at either end")
}

/// The nearest name that a setting may have.
pub(super) fn setting_name(text: &str) -> String {
    let mut name = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        let c = if c.is_ascii_alphanumeric() { c } else { '_' };
        if c != '_' || !(name.is_empty() || name.ends_with('_')) {
            name.push(c);
        }
    }
    let name = name.trim_matches('_');
    match name.chars().next() {
        None => "value".to_owned(),
        Some(first) if first.is_ascii_digit() => {
            format!("setting_{}", name.chars().take(50).collect::<String>())
        }
        Some(_) => name
            .chars()
            .take(60)
            .collect::<String>()
            .trim_end_matches('_')
            .to_owned(),
    }
}
