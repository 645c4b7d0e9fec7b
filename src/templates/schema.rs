//! The keys of `template.toml` and what each may hold: finds every structural fault at once, where serde would
//! stop at the first.

use toml::{Table, Value};

use super::broker::{HEADER_FORMAT, HEADER_NAME, HEADER_TEXT, UPSTREAM};
use super::credentials::PATTERN;
use super::forms::{
    ENV_NAME, Form, HOST_RULE, HTTP_PATH, ICON_FILE, MODULE_FOLDER, PACKAGE, SETTING_NAME,
    TEMPLATE_NAME, WEB_ADDRESS,
};
use crate::domain::{duration::HumanDuration, egress::RULES_MAX, sandbox::Layer};

/// One key of a section.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    /// For a key that must be given: a valid value in TOML, put in its place when it is missing or wrong, so that
    /// the rest of the manifest can still be read and its faults told too.
    pub(super) required: Option<&'static str>,
}

/// What a key may hold.
pub(super) enum Shape {
    /// Text of 1 to this many bytes; line breaks and tabs are the only control characters.
    Text(usize),
    /// One of these words.
    Word(&'static [&'static str]),
    /// Text of this form.
    Name(&'static Form),
    /// A duration; `true`: zero is allowed.
    Duration(bool),
    /// A whole number from, to.
    Whole(i64, i64),
    /// `true` or `false`.
    Flag,
    /// A list of at most 256 texts.
    Texts,
    /// A list of at most [`RULES_MAX`] texts of this form.
    Names(&'static Form),
    /// A list of 2 to 16 groups, each of 1 to 16 texts of this form.
    Groups(&'static Form),
    /// A list of these words.
    Words(&'static [&'static str]),
    /// A table of at most 64 environment variables to text.
    Variables,
    /// A table of whatever JSON can hold.
    Arguments,
    /// A table of at most 64 HTTP headers to text.
    Headers,
    /// Text, whole number, boolean or list of texts.
    Scalar,
    /// A list of at most 256 of those, lists excepted.
    Scalars,
    /// A table with these keys.
    Section(&'static [Key]),
    /// At most 64 tables with these keys.
    Sections(&'static [Key]),
}

/// What is wrong at one key: (path of the key, what is allowed).
pub(super) type Found = Vec<(String, String)>;

pub(super) const MAX_DURATION_MS: u64 = 3_650 * 24 * 3_600_000;

const fn key(name: &'static str, shape: Shape) -> Key {
    Key {
        name,
        shape,
        required: None,
    }
}

const fn required(name: &'static str, shape: Shape, stand_in: &'static str) -> Key {
    Key {
        name,
        shape,
        required: Some(stand_in),
    }
}

/// The whole manifest.
pub(super) const MANIFEST: &[Key] = &[
    required("schema", Shape::Whole(1, 1), "1"),
    required("name", Shape::Name(&TEMPLATE_NAME), "'x'"),
    required("title", Shape::Text(100), "'x'"),
    required("description", Shape::Text(1_000), "'x'"),
    key("homepage", Shape::Name(&WEB_ADDRESS)),
    key("icon", Shape::Name(&ICON_FILE)),
    required("server", Shape::Section(SERVER), "{ transport = 'stdio' }"),
    key("credentials_one_of", Shape::Groups(&ENV_NAME)),
    key("credential", Shape::Sections(CREDENTIAL)),
    key("oauth", Shape::Section(OAUTH)),
    key("check", Shape::Section(CHECK)),
    key("setting", Shape::Sections(SETTING)),
    key("environment", Shape::Variables),
    key("limits", Shape::Section(LIMITS)),
    key("sandbox", Shape::Section(SANDBOX)),
    key("health", Shape::Section(HEALTH)),
    key("restart", Shape::Section(RESTART)),
    key("lease", Shape::Section(LEASE)),
    key("sleep", Shape::Section(SLEEP)),
    key("stop", Shape::Section(STOP)),
    key("calls", Shape::Section(CALLS)),
];

const CHECK: &[Key] = &[
    required("tool", Shape::Text(128), "'x'"),
    key("arguments", Shape::Arguments),
];

const CALLS: &[Key] = &[key("record_arguments", Shape::Flag)];

const SERVER: &[Key] = &[
    required(
        "transport",
        Shape::Word(&["stdio", "http", "remote"]),
        "'stdio'",
    ),
    key("builtin", Shape::Text(40)),
    key("command", Shape::Texts),
    key("package", Shape::Name(&PACKAGE)),
    key("package_additions", Shape::Names(&PACKAGE)),
    key("package_additions_into", Shape::Name(&MODULE_FOLDER)),
    key("package_scripts", Shape::Flag),
    key("install", Shape::Text(500)),
    key("url", Shape::Text(2_000)),
    key("headers", Shape::Headers),
    key("port_env", Shape::Name(&ENV_NAME)),
    key("path", Shape::Name(&HTTP_PATH)),
    key("era", Shape::Word(&["auto", "session", "stateless"])),
    key(
        "unclaimed_requests",
        Shape::Word(&["refuse", "newest-call"]),
    ),
    key("sessions", Shape::Word(&["shared", "per-session"])),
    key("session_children_max", Shape::Whole(1, 1_000)),
    key("session_idle", Shape::Duration(false)),
    key("capability_cache", Shape::Flag),
];

const CREDENTIAL: &[Key] = &[
    required("name", Shape::Name(&ENV_NAME), "'X'"),
    required("title", Shape::Text(100), "'x'"),
    key("help", Shape::Text(4_000)),
    key("required", Shape::Flag),
    key("delivery", Shape::Word(&["env", "file"])),
    key("pattern", Shape::Name(&PATTERN)),
    key("pattern_help", Shape::Text(200)),
    key("broker", Shape::Section(BROKER)),
];

const BROKER: &[Key] = &[
    required("base_url_variable", Shape::Name(&ENV_NAME), "'X'"),
    required("upstream", Shape::Names(&UPSTREAM), "['https://x.x']"),
    key("header", Shape::Name(&HEADER_NAME)),
    key("format", Shape::Name(&HEADER_FORMAT)),
    key("placeholder", Shape::Name(&HEADER_TEXT)),
];

const OAUTH: &[Key] = &[
    required("token_url_variable", Shape::Name(&ENV_NAME), "'X'"),
    required("token_upstream", Shape::Names(&UPSTREAM), "['https://x.x']"),
    required("base_url_variable", Shape::Name(&ENV_NAME), "'Y'"),
    required("upstream", Shape::Names(&UPSTREAM), "['https://x.x']"),
    key("refresh_token", Shape::Name(&ENV_NAME)),
    key("client_secret", Shape::Name(&ENV_NAME)),
    key("json", Shape::Name(&ENV_NAME)),
    key("header", Shape::Name(&HEADER_NAME)),
    key("format", Shape::Name(&HEADER_FORMAT)),
    key("placeholder", Shape::Name(&HEADER_TEXT)),
];

const SETTING: &[Key] = &[
    required("name", Shape::Name(&SETTING_NAME), "'x'"),
    required("title", Shape::Text(100), "'x'"),
    key("help", Shape::Text(4_000)),
    required(
        "type",
        Shape::Word(&["string", "integer", "boolean", "string-list"]),
        "'string'",
    ),
    key("default", Shape::Scalar),
    key("required", Shape::Flag),
    key("grants", Shape::Word(&["read", "write", "host"])),
    key("enum", Shape::Scalars),
    key("delivery", Shape::Word(&["env", "file"])),
    key("env", Shape::Name(&ENV_NAME)),
    key("arguments", Shape::Texts),
];

const LIMITS: &[Key] = &[
    key("max_processes", Shape::Whole(1, 1 << 22)),
    key("max_open_files", Shape::Whole(16, 1 << 20)),
    key("max_file_size_bytes", Shape::Whole(1, i64::MAX)),
    key("max_address_space_bytes", Shape::Whole(1 << 20, i64::MAX)),
    key("max_memory_bytes", Shape::Whole(4 << 20, i64::MAX)),
    key("memory_high_bytes", Shape::Whole(4 << 20, i64::MAX)),
    key("max_cpu_percent", Shape::Whole(1, 100_000)),
    key("cpu_weight", Shape::Whole(1, 10_000)),
    key("io_weight", Shape::Whole(1, 10_000)),
    key("max_disk_bytes", Shape::Whole(4_096, i64::MAX)),
];

const SANDBOX: &[Key] = &[
    key("profile", Shape::Word(&["strict", "relaxed", "off"])),
    key("read", Shape::Texts),
    key("write", Shape::Texts),
    key(
        "network",
        Shape::Word(&["none", "allow-list", "learn", "open"]),
    ),
    key("hosts", Shape::Names(&HOST_RULE)),
    key("require", Shape::Words(&LAYERS)),
    key("tmp_size_bytes", Shape::Whole(1 << 20, 1 << 40)),
];

/// What `sandbox.require` may name.
const LAYERS: [&str; Layer::ALL.len()] = {
    let mut words = [""; Layer::ALL.len()];
    let mut index = 0;
    while index < words.len() {
        words[index] = Layer::ALL[index].word();
        index += 1;
    }
    words
};

const HEALTH: &[Key] = &[
    key("start_timeout", Shape::Duration(false)),
    key("interval", Shape::Duration(false)),
    key("timeout", Shape::Duration(false)),
    key("failure_threshold", Shape::Whole(1, 1_000)),
];

const RESTART: &[Key] = &[
    key("policy", Shape::Word(&["never", "on-failure", "always"])),
    key("backoff_initial", Shape::Duration(false)),
    key("backoff_max", Shape::Duration(false)),
    key("stable_after", Shape::Duration(false)),
    key("burst", Shape::Whole(1, 1_000)),
];

const LEASE: &[Key] = &[
    key("ttl_default", Shape::Duration(false)),
    key("ttl_max", Shape::Duration(false)),
    key("restore_window", Shape::Duration(true)),
    key("warn_before", Shape::Duration(true)),
];

const SLEEP: &[Key] = &[
    key("after", Shape::Duration(true)),
    key("freeze_after", Shape::Duration(true)),
];

const STOP: &[Key] = &[
    key("eof_grace", Shape::Duration(true)),
    key("term_grace", Shape::Duration(true)),
];

/// Finds what is wrong with `table`, and repairs it in place: what is unknown or wrong goes, what is required and
/// missing gets a stand-in. Afterwards the table can be deserialized, unless it is not used because of `found`.
pub(super) fn examine(table: &mut Table, keys: &[Key], path: &str, found: &mut Found) {
    let unknown: Vec<String> = table
        .keys()
        .filter(|name| keys.iter().all(|key| key.name != name.as_str()))
        .cloned()
        .collect();
    for name in unknown {
        table.remove(&name);
        let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
        let short: String = name.chars().take(80).collect();
        found.push((
            join(path, &short),
            format!("unknown key; the keys here are {}", names.join(", ")),
        ));
    }
    for key in keys {
        let at = join(path, key.name);
        let kept = match table.get_mut(key.name) {
            None => {
                if key.required.is_some() {
                    found.push((at, format!("is missing: {}", key.shape.allowed())));
                }
                false
            }
            Some(value) => key.shape.examine(value, &at, found),
        };
        if !kept {
            table.remove(key.name);
            if let Some(stand_in) = key.required {
                table.insert(key.name.to_owned(), stand_in_value(stand_in));
            }
        }
    }
}

fn stand_in_value(text: &'static str) -> Value {
    toml::from_str::<Table>(&format!("v = {text}"))
        .ok()
        .and_then(|mut table| table.remove("v"))
        .expect("the stand-ins of this file are valid TOML")
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

impl Shape {
    pub(super) fn allowed(&self) -> String {
        match self {
            Self::Text(max) => format!("text of 1 to {max} bytes"),
            Self::Word(words) => format!("one of {}", words.join(", ")),
            Self::Name(form) => format!("text: {}", form.allowed),
            Self::Names(form) => format!("a list of at most {RULES_MAX} texts: {}", form.allowed),
            Self::Duration(true) => "a duration such as 30s, 5m, 2h or 0".to_owned(),
            Self::Duration(false) => {
                "a duration above zero and up to 3650d, such as 30s, 5m, 2h".to_owned()
            }
            Self::Whole(min, max) if min == max => format!("the number {min}"),
            Self::Whole(min, i64::MAX) => format!("a whole number, at least {min}"),
            Self::Whole(min, max) => format!("a whole number from {min} to {max}"),
            Self::Flag => "true or false".to_owned(),
            Self::Texts => "a list of at most 256 texts".to_owned(),
            Self::Groups(_) => "a list of 2 to 16 lists, each of 1 to 16 texts".to_owned(),
            Self::Words(words) => format!("a list of {}", words.join(", ")),
            Self::Variables => {
                "a table of at most 64 environment variables, each with text".to_owned()
            }
            Self::Arguments => "a table without dates and times".to_owned(),
            Self::Headers => "a table of at most 64 HTTP headers, each with text".to_owned(),
            Self::Scalar => "text, a whole number, true or false, or a list of texts".to_owned(),
            Self::Scalars => "a list of 1 to 256 texts or whole numbers".to_owned(),
            Self::Section(_) => "a table".to_owned(),
            Self::Sections(_) => "at most 64 tables, written as [[…]]".to_owned(),
        }
    }

    /// Whether the value can stay; what is wrong goes to `found`.
    fn examine(&self, value: &mut Value, at: &str, found: &mut Found) -> bool {
        match (self, &mut *value) {
            (Self::Section(keys), Value::Table(table)) => {
                examine(table, keys, at, found);
                return true;
            }
            (Self::Sections(keys), Value::Array(entries)) if entries.len() <= 64 => {
                let mut good = true;
                for (index, entry) in entries.iter_mut().enumerate() {
                    let at = format!("{at}[{index}]");
                    if let Value::Table(table) = entry {
                        examine(table, keys, &at, found);
                    } else {
                        found.push((at, "must be a table".to_owned()));
                        good = false;
                    }
                }
                return good;
            }
            (Self::Variables, Value::Table(table)) if table.len() <= 64 => {
                for (name, value) in table.iter() {
                    if let Err(allowed) = (ENV_NAME.check)(name) {
                        found.push((at.to_owned(), allowed));
                        return false;
                    }
                    if !value.as_str().is_some_and(|text| is_text(text, 0, 8_192)) {
                        found.push((
                            join(at, name),
                            "must be text of at most 8192 bytes".to_owned(),
                        ));
                        return false;
                    }
                }
                return true;
            }
            (Self::Headers, Value::Table(table)) if table.len() <= 64 => {
                let text =
                    |value: &Value| value.as_str().is_some_and(|text| is_text(text, 1, 8_192));
                let wrong = table.iter().filter(|(_, value)| !text(value));
                let wrong: Vec<String> = wrong.map(|(name, _)| name.clone()).collect();
                for name in wrong {
                    // The others stay: what they use of credentials and settings is used.
                    table.remove(&name);
                    let name: String = name.chars().take(80).collect();
                    let allowed = "must be text of 1 to 8192 bytes".to_owned();
                    found.push((join(at, &name), allowed));
                }
                return true;
            }
            (Self::Name(form), Value::String(text)) => {
                return match (form.check)(text) {
                    Ok(()) => true,
                    Err(allowed) => {
                        found.push((at.to_owned(), allowed));
                        false
                    }
                };
            }
            (Self::Names(form), Value::Array(entries)) if entries.len() <= RULES_MAX => {
                let texts = entries.iter().map(Value::as_str);
                let fault = |text: Option<&str>| match text {
                    Some(text) => (form.check)(text).err(),
                    None => Some("must be text".to_owned()),
                };
                let faults = texts
                    .enumerate()
                    .filter_map(|(index, text)| Some((format!("{at}[{index}]"), fault(text)?)));
                let before = found.len();
                found.extend(faults);
                return found.len() == before;
            }
            _ => {}
        }
        let good = match (self, &*value) {
            (Self::Text(max), Value::String(text)) => {
                is_text(text, 1, *max) && !text.trim().is_empty()
            }
            (Self::Word(words), Value::String(text)) => words.contains(&text.as_str()),
            (Self::Duration(zero), value) => {
                duration_ms(value).is_some_and(|ms| (*zero || ms > 0) && ms <= MAX_DURATION_MS)
            }
            (Self::Whole(min, max), Value::Integer(number)) => (*min..=*max).contains(number),
            (Self::Flag, Value::Boolean(_)) => true,
            (Self::Texts, Value::Array(entries)) => {
                entries.len() <= 256
                    && entries
                        .iter()
                        .all(|e| e.as_str().is_some_and(|text| is_text(text, 0, 8_192)))
            }
            (Self::Groups(form), Value::Array(groups)) => {
                let is_name =
                    |name: &Value| name.as_str().is_some_and(|name| (form.check)(name).is_ok());
                (2..=16).contains(&groups.len())
                    && groups.iter().all(|group| {
                        group.as_array().is_some_and(|names| {
                            (1..=16).contains(&names.len()) && names.iter().all(is_name)
                        })
                    })
            }
            (Self::Arguments, Value::Table(table)) => table.values().all(is_json),
            (Self::Words(words), Value::Array(entries)) => entries
                .iter()
                .all(|entry| entry.as_str().is_some_and(|word| words.contains(&word))),
            (Self::Scalar, Value::Array(entries)) => entries.iter().all(Value::is_str),
            (Self::Scalar, value) => value.is_str() || value.is_integer() || value.is_bool(),
            (Self::Scalars, Value::Array(entries)) => {
                (1..=256).contains(&entries.len())
                    && entries.iter().all(|e| e.is_str() || e.is_integer())
            }
            _ => false,
        };
        if !good {
            found.push((at.to_owned(), format!("must be {}", self.allowed())));
        }
        good
    }
}

/// Whether JSON can hold it.
fn is_json(value: &Value) -> bool {
    match value {
        Value::Datetime(_) => false,
        Value::Float(number) => number.is_finite(),
        Value::Array(entries) => entries.iter().all(is_json),
        Value::Table(table) => table.values().all(is_json),
        Value::String(_) | Value::Integer(_) | Value::Boolean(_) => true,
    }
}

fn is_text(text: &str, min: usize, max: usize) -> bool {
    (min..=max).contains(&text.len())
        && !text
            .chars()
            .any(|c| c.is_control() && !matches!(c, '\n' | '\t'))
}

fn duration_ms(value: &Value) -> Option<u64> {
    match value {
        Value::Integer(secs) => u64::try_from(*secs).ok()?.checked_mul(1_000),
        Value::String(text) => text.parse::<HumanDuration>().ok().map(HumanDuration::ms),
        _ => None,
    }
}
