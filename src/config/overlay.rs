//! Environment variables over the file: `MINIMCP_SECTION__KEY`.

use toml::{Table, Value};

use super::{Config, ConfigFault};
use crate::domain::budget::Budget;

const PREFIX: &str = "MINIMCP_";
/// Variables that all programs with OpenTelemetry read, and the keys for which they stand.
const OTLP_ADDRESSES: [(&str, &str); 2] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "endpoint"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "url"),
];

/// Every section with every key, the optional ones included, each with some value of its type.
pub(super) fn known_keys() -> std::collections::BTreeMap<String, Table> {
    let mut full = Config::default();
    full.api.unix_socket = Some("x".into());
    full.remote.ca_file = Some("x".into());
    full.sleep.after_default = "1s".parse().ok();
    full.sleep.after_max = "1s".parse().ok();
    full.sleep.freeze_after_default = "1s".parse().ok();
    full.sleep.freeze_after_max = "1s".parse().ok();
    full.sleep.memory_pressure = Some(1);
    full.sleep.memory_floor_bytes = Some(1);
    full.budgets.instances_max = Some(1);
    full.budgets.awake_max = Some(1);
    full.budgets.memory_bytes_max = Some(1);
    let owner = "x".parse().expect("an owner");
    full.budgets.owner.insert(owner, Budget::default());
    full.gateway.public_host = Some("x".to_owned());
    full.gateway.public_url = "https://x".parse().ok();
    full.gateway.token_rate_limit = "1/1s".parse().ok();
    full.gateway.token_concurrency_max = Some(1);
    full.traces.endpoint = Some("x".to_owned());
    full.traces.url = Some("x".to_owned());
    full.traces.headers_file = Some("x".into());
    full.tasks.insert("x".to_owned(), "off".to_owned());
    let table = Table::try_from(&full).expect("a configuration is always valid TOML");
    table
        .into_iter()
        .filter_map(|(section, keys)| match keys {
            Value::Table(keys) => Some((section, keys)),
            _ => None,
        })
        .collect()
}

/// Whether a key may be absent altogether.
pub(super) fn is_optional(section: &str, key: &str) -> bool {
    let defaults = Table::try_from(Config::default()).unwrap_or_default();
    section != "tasks"
        && defaults
            .get(section)
            .and_then(Value::as_table)
            .is_some_and(|keys| !keys.contains_key(key))
}

/// Writes `variables` into `table`. Variables of ours without `__` are no keys (`MINIMCP_TOKEN`, `MINIMCP_LOG`).
pub(super) fn apply(
    table: &mut Table,
    variables: impl IntoIterator<Item = (String, String)>,
    database_url: bool,
    faults: &mut Vec<ConfigFault>,
) {
    let known = known_keys();
    let (mut ours, mut general) = (Vec::new(), Vec::new());
    for (name, text) in variables {
        if name == "DATABASE_URL" && database_url && !text.is_empty() {
            set(table, "database", "url", Value::String(text));
        } else if let Some((_, key)) = OTLP_ADDRESSES.iter().find(|(known, _)| *known == name) {
            if !text.is_empty() {
                general.push((*key, text));
            }
        } else if let Some((section, key)) =
            name.strip_prefix(PREFIX).and_then(|n| n.split_once("__"))
        {
            let section = section.to_ascii_lowercase();
            let key = key.to_ascii_lowercase();
            ours.push((name, section, key, text));
        } else if let Some(meant) = one_underscore(&known, &name) {
            let reason = format!("is no key; did you mean {meant}?");
            faults.push(ConfigFault::new(&name, reason));
        }
    }
    // In the order of the names, so that the outcome never hangs on the order of the environment.
    ours.sort();
    for (name, section, key, text) in ours {
        let Some(keys) = known.get(&section) else {
            let names = known.keys().map(String::as_str);
            faults.push(ConfigFault::unknown(&name, "section", &section, names));
            continue;
        };
        if section == "tasks" {
            set(table, &section, &key.replace('_', "-"), Value::String(text));
        } else if let Some(sample) = keys.get(&key) {
            match typed(sample, &text) {
                Ok(value) => set(table, &section, &key, value),
                Err(reason) => faults.push(ConfigFault::new(&name, reason)),
            }
        } else if section == "database" && key == "url_file" {
            match std::fs::read_to_string(&text) {
                Ok(url) => set(
                    table,
                    "database",
                    "url",
                    Value::String(url.trim().to_owned()),
                ),
                Err(error) => {
                    faults.push(ConfigFault::new(
                        &name,
                        format!("cannot read {text}: {error}"),
                    ));
                }
            }
        } else {
            let names = keys.keys().map(String::as_str);
            faults.push(ConfigFault::unknown(&name, "key", &key, names));
        }
    }
    // Meant for every program of the host: what was said to this one goes before it.
    let traces = table.get("traces").and_then(Value::as_table);
    let own = traces.is_some_and(|keys| keys.contains_key("endpoint") || keys.contains_key("url"));
    if !own {
        for (key, text) in general {
            set(table, "traces", key, Value::String(text));
        }
    }
}

/// The variable that someone meant who wrote `MINIMCP_API_PORT`.
fn one_underscore(known: &std::collections::BTreeMap<String, Table>, name: &str) -> Option<String> {
    let rest = name.strip_prefix(PREFIX)?.to_ascii_lowercase();
    let (section, key) = known.iter().find_map(|(section, keys)| {
        let key = rest.strip_prefix(section.as_str())?.strip_prefix('_')?;
        keys.contains_key(key).then_some((section, key))
    })?;
    Some(format!(
        "{PREFIX}{}__{}",
        section.to_ascii_uppercase(),
        key.to_ascii_uppercase()
    ))
}

fn set(table: &mut Table, section: &str, key: &str, value: Value) {
    let entry = table
        .entry(section)
        .or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(keys) = entry {
        keys.insert(key.to_owned(), value);
    }
}

/// Reads `text` as a value of the type of `sample`.
fn typed(sample: &Value, text: &str) -> Result<Value, String> {
    match sample {
        Value::Integer(_) => text
            .trim()
            .parse()
            .map(Value::Integer)
            .map_err(|_| format!("{text:?} is not a whole number")),
        Value::Float(_) => text
            .trim()
            .parse()
            .map(Value::Float)
            .map_err(|_| format!("{text:?} is not a number")),
        Value::Boolean(_) => match text.trim() {
            "true" | "1" | "yes" => Ok(Value::Boolean(true)),
            "false" | "0" | "no" => Ok(Value::Boolean(false)),
            _ => Err(format!("{text:?} is neither true nor false")),
        },
        Value::Array(_) if text.trim_start().starts_with('[') => {
            let table: Table = format!("x = {text}")
                .parse()
                .map_err(|_| format!("{text:?} is not a TOML array"))?;
            Ok(table.get("x").cloned().unwrap_or(Value::Array(Vec::new())))
        }
        Value::Array(_) => Ok(Value::Array(
            text.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(|part| Value::String(part.to_owned()))
                .collect(),
        )),
        _ => Ok(Value::String(text.to_owned())),
    }
}
