//! What a create request may say of settings and credentials: the check, and the JSON Schema for frontends.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::credential_groups;
use crate::domain::{
    id::CredentialName,
    template::{Delivery, SettingSpec, SettingType, Template},
    violation::{Violation, pointer_token},
};

/// Longest text of a setting in bytes.
pub const SETTING_BYTES_MAX: usize = 4_096;
/// Longest text of a setting that is delivered as a file, in bytes.
pub const SETTING_FILE_BYTES_MAX: usize = 65_536;
/// Most entries of a list.
pub const SETTING_ENTRIES_MAX: usize = 64;

/// What is wrong with one value: a stable word, and one sentence.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ValueFault {
    pub(super) code: &'static str,
    pub(super) message: String,
}

fn fault<T>(code: &'static str, message: impl Into<String>) -> Result<T, ValueFault> {
    Err(ValueFault {
        code,
        message: message.into(),
    })
}

/// Everything that is wrong with the `settings` and `credentials` of a create request, with pointers such as
/// `/settings/depth` and `/credentials/GITHUB_TOKEN`. `credentials` maps a variable to the name of a stored
/// credential; whether that exists is the caller's question to the store.
#[must_use]
pub fn check(
    template: &Template,
    settings: &BTreeMap<String, Value>,
    credentials: &BTreeMap<String, String>,
) -> Vec<Violation> {
    let mut violations = Vec::new();
    check_settings(template, settings, &mut violations);
    check_credentials(template, credentials, &mut violations);
    violations
}

fn check_settings(
    template: &Template,
    settings: &BTreeMap<String, Value>,
    violations: &mut Vec<Violation>,
) {
    for (name, value) in settings {
        let pointer = format!("/settings/{}", pointer_token(name));
        let Some(spec) = template.settings.iter().find(|spec| spec.name == *name) else {
            let names: Vec<&str> = template.settings.iter().map(|s| s.name.as_str()).collect();
            violations.push(Violation::new(
                short(&pointer),
                "unknown",
                format!(
                    "template {} has no such setting; it has {}",
                    template.name,
                    listed(&names)
                ),
            ));
            continue;
        };
        for (entry, fault) in value_faults(spec, value) {
            let pointer =
                entry.map_or_else(|| pointer.clone(), |entry| format!("{pointer}/{entry}"));
            violations.push(Violation::new(pointer, fault.code, fault.message));
        }
    }
    for spec in &template.settings {
        if spec.required && spec.default.is_none() && !settings.contains_key(&spec.name) {
            violations.push(Violation::new(
                format!("/settings/{}", spec.name),
                "required",
                format!("{} must be given", spec.title),
            ));
        }
    }
}

fn check_credentials(
    template: &Template,
    credentials: &BTreeMap<String, String>,
    violations: &mut Vec<Violation>,
) {
    for (variable, name) in credentials {
        let pointer = short(&format!("/credentials/{}", pointer_token(variable)));
        let specs = &template.credentials;
        if !specs.iter().any(|spec| spec.name.as_str() == variable) {
            let names: Vec<&str> = specs.iter().map(|s| s.name.as_str()).collect();
            violations.push(Violation::new(
                pointer.clone(),
                "unknown",
                format!(
                    "template {} takes no such credential; it takes {}",
                    template.name,
                    listed(&names)
                ),
            ));
        }
        // The text may be a secret pasted where a name belongs, so it is not repeated.
        if CredentialName::new(name.as_str()).is_err() {
            violations.push(Violation::new(
                pointer,
                "pattern",
                "must be the name of a stored credential: 1 to 100 of A-Z, a-z, 0-9, '.', '_' and '-', \
                 starting with a letter or digit",
            ));
        }
    }
    violations.extend(credential_groups::violations(template, credentials));
    for spec in &template.credentials {
        if spec.required && !credentials.contains_key(spec.name.as_str()) {
            violations.push(Violation::new(
                format!("/credentials/{}", spec.name),
                "required",
                format!(
                    "{} is needed: store it as a credential, then give its name here",
                    spec.title
                ),
            ));
        }
    }
}

/// Checks one value against its setting; the answer is its first fault.
pub(super) fn check_value(spec: &SettingSpec, value: &Value) -> Result<(), ValueFault> {
    let first = value_faults(spec, value).into_iter().next();
    first.map_or(Ok(()), |(_, fault)| Err(fault))
}

/// Every fault of one value; those of the entries of a list have the entry's number.
fn value_faults(spec: &SettingSpec, value: &Value) -> Vec<(Option<usize>, ValueFault)> {
    let (SettingType::StringList, Value::Array(entries)) = (spec.kind, value) else {
        let fault = check_single(spec, value).err();
        return fault.map(|fault| (None, fault)).into_iter().collect();
    };
    let whole = if entries.len() > SETTING_ENTRIES_MAX {
        let most = format!("must have at most {SETTING_ENTRIES_MAX} entries");
        fault("too-long", most)
    } else if spec.required && entries.is_empty() {
        fault("required", "must have at least one entry")
    } else {
        Ok(())
    };
    if let Err(fault) = whole {
        return vec![(None, fault)];
    }
    let checked = entries.iter().map(|entry| check_entry(spec, entry));
    let numbered = checked.enumerate();
    numbered
        .filter_map(|(index, checked)| Some((Some(index), checked.err()?)))
        .collect()
}

fn check_entry(spec: &SettingSpec, entry: &Value) -> Result<(), ValueFault> {
    let Value::String(text) = entry else {
        return fault("type", "must be a text");
    };
    if text.is_empty() {
        return fault("required", "must not be empty");
    }
    if spec.env.is_some() && text.contains(',') {
        return fault("pattern", "must not have a comma inside");
    }
    check_text(spec, text)?;
    check_allowed(spec, entry)
}

fn check_single(spec: &SettingSpec, value: &Value) -> Result<(), ValueFault> {
    match (spec.kind, value) {
        (SettingType::Integer, value) if value.is_i64() => {}
        (SettingType::Boolean, Value::Bool(_)) => {}
        (SettingType::String, Value::String(text)) => {
            if spec.required && text.is_empty() {
                return fault("required", "must not be empty");
            }
            check_text(spec, text)?;
        }
        (kind, _) => {
            let allowed = match kind {
                SettingType::String => "text",
                SettingType::Integer => "a whole number of at most 64 bits",
                SettingType::Boolean => "true or false",
                SettingType::StringList => "a list of texts",
            };
            return fault("type", format!("must be {allowed}"));
        }
    }
    check_allowed(spec, value)
}

/// Longest text of this setting, in bytes.
fn bytes_max(spec: &SettingSpec) -> usize {
    match spec.delivery {
        Delivery::Env => SETTING_BYTES_MAX,
        Delivery::File => SETTING_FILE_BYTES_MAX,
    }
}

fn check_text(spec: &SettingSpec, text: &str) -> Result<(), ValueFault> {
    let most = bytes_max(spec);
    if text.len() > most {
        return fault("too-long", format!("must be at most {most} bytes"));
    }
    if spec.delivery == Delivery::File {
        let of_text = |letter: char| !letter.is_control() || matches!(letter, '\n' | '\r' | '\t');
        if !text.chars().all(of_text) {
            let message = "must not have control characters but line breaks and tabs";
            return fault("control-character", message);
        }
        return Ok(());
    }
    if text.chars().any(char::is_control) {
        return fault("control-character", "must not have control characters");
    }
    if begins_argument(spec) && text.starts_with('-') {
        return fault(
            "pattern",
            "must not start with '-': the server would take it for an option",
        );
    }
    Ok(())
}

fn check_allowed(spec: &SettingSpec, value: &Value) -> Result<(), ValueFault> {
    if spec.allowed.is_empty() || spec.allowed.contains(value) {
        return Ok(());
    }
    let allowed: Vec<String> = spec.allowed.iter().map(Value::to_string).collect();
    fault("enum", format!("must be one of {}", allowed.join(", ")))
}

/// Whether the value stands at the start of an argument, where a program could read it as an option.
fn begins_argument(spec: &SettingSpec) -> bool {
    spec.arguments.iter().any(|arg| arg.starts_with("{value}"))
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

fn short(pointer: &str) -> String {
    pointer.chars().take(200).collect()
}

/// JSON Schema (2020-12) of the `settings` object of a create request.
#[must_use]
pub fn settings_schema(template: &Template) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for spec in &template.settings {
        let text = json!({"type": "string", "maxLength": bytes_max(spec)});
        let mut property = match spec.kind {
            SettingType::String => text,
            SettingType::Integer => json!({"type": "integer"}),
            SettingType::Boolean => json!({"type": "boolean"}),
            SettingType::StringList => {
                let mut items = text;
                if !spec.allowed.is_empty() {
                    items["enum"] = json!(spec.allowed);
                }
                json!({"type": "array", "maxItems": SETTING_ENTRIES_MAX, "items": items})
            }
        };
        property["title"] = json!(spec.title);
        if let Some(help) = &spec.help {
            property["description"] = json!(help);
        }
        if let Some(env) = &spec.env {
            property["x-env"] = json!(env);
        }
        if let Some(default) = &spec.default {
            property["default"] = default.clone();
        }
        if !spec.allowed.is_empty() && spec.kind != SettingType::StringList {
            property["enum"] = json!(spec.allowed);
        }
        properties.insert(spec.name.clone(), property);
        if spec.required && spec.default.is_none() {
            required.push(spec.name.as_str());
        }
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
        "required": required,
    })
}
