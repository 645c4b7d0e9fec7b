//! The environment of a server: secrets become credentials, everything else settings whose default is what the file
//! holds.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{
    draft::{Credential, Draft, Setting, shown},
    reference::{self, Reference},
    secret,
};
use crate::domain::{
    egress::HostRule,
    id::EnvName,
    template::{Grant, SettingType},
};

/// Longest text of a setting in bytes.
const SETTING_BYTES: usize = 4_096;

/// Longest value of a variable in bytes, as credentials have it.
const VALUE_BYTES: usize = 64 << 10;

/// What an editor asks a person for (`inputs` of VS Code).
#[derive(Debug, Default)]
pub(super) struct Inputs(BTreeMap<String, Input>);

/// One question of an editor.
#[derive(Debug, Default)]
pub(super) struct Input {
    pub(super) description: Option<String>,
    pub(super) choices: Vec<Value>,
    password: bool,
    default: Option<String>,
}

impl Inputs {
    /// Reads a list of inputs; what has no id is none.
    pub(super) fn read(list: Option<&Value>) -> Self {
        let mut inputs = BTreeMap::new();
        for entry in list.and_then(Value::as_array).into_iter().flatten() {
            let Some(id) = entry["id"].as_str() else {
                continue;
            };
            let text = |name: &str| entry[name].as_str().map(str::to_owned);
            let choice = |choice: &Value| match choice {
                Value::String(_) => Some(choice.clone()),
                // `{"label": …, "value": …}`
                choice => choice
                    .get("value")
                    .filter(|value| value.is_string())
                    .cloned(),
            };
            let choices = entry["options"].as_array().into_iter().flatten();
            let input = Input {
                description: text("description"),
                choices: choices.filter_map(choice).collect(),
                password: entry["password"].as_bool().unwrap_or(false),
                default: text("default"),
            };
            inputs.insert(id.to_owned(), input);
        }
        Self(inputs)
    }

    pub(super) fn get(&self, id: &str) -> Option<&Input> {
        self.0.get(id)
    }

    pub(super) fn is_secret(&self, id: &str) -> bool {
        self.get(id).is_some_and(|input| input.password) || secret::names_one(id)
    }

    pub(super) fn default_of(&self, id: &str) -> Option<String> {
        let default = self.get(id).and_then(|input| input.default.clone());
        default.filter(|default| !default.is_empty() && !secret::is_one(default))
    }
}

/// Puts the variables of a server into `draft`.
pub(super) fn translate(draft: &mut Draft, variables: &Map<String, Value>, inputs: &Inputs) {
    for (name, value) in variables {
        let text = match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
            Value::Null => None,
            Value::Array(_) | Value::Object(_) => {
                draft.keep(&format!("env.{name}"), value);
                continue;
            }
        };
        one(draft, name, text, inputs);
    }
}

/// One variable; without a value it is named only.
pub(super) fn one(draft: &mut Draft, name: &str, value: Option<String>, inputs: &Inputs) {
    let value = value.map(Zeroizing::new);
    let Ok(variable) = EnvName::new(name) else {
        draft.note(format!(
            "{:?} cannot name a variable and is left out",
            shown(name)
        ));
        return;
    };
    if name.starts_with("LD_") || matches!(name, "PATH" | "HOME") {
        draft.note(format!("{name} is left out: it decides how programs run"));
        return;
    }
    if draft.has_variable(name) {
        draft.note(format!("{name} is set twice; the first is used"));
        return;
    }
    let mut known = value.filter(|value| !value.is_empty() && !value.contains('\0'));
    if known.as_ref().is_some_and(|text| text.len() > VALUE_BYTES) {
        draft.note(format!(
            "the value of {name} is longer than {VALUE_BYTES} bytes, which no variable holds, and is left out"
        ));
        known = None;
    }
    let references = known
        .as_deref()
        .map_or_else(Vec::new, |text| reference::all(text));
    let whole = known.as_deref().and_then(|text| reference::whole(text));
    let (mut asked, mut is_secret) = (None, secret::names_one(name));
    for reference in &references {
        match reference {
            Reference::Input(id) => {
                is_secret |= inputs.is_secret(id);
                asked = inputs.get(id);
            }
            Reference::Variable(of, _) => is_secret |= secret::names_one(of),
            Reference::Client(word) => draft.note(format!(
                "the value of {name} holds ${{{word}}}, which only the client knows: give it when an instance is made"
            )),
        }
    }
    if !references.is_empty() {
        known = match whole {
            Some(Reference::Variable(_, Some(default))) => Some(Zeroizing::new(default)),
            Some(Reference::Input(id)) => inputs.default_of(&id).map(Zeroizing::new),
            Some(Reference::Variable(_, None)) => {
                draft.note(format!(
                    "the value of {name} lies in the client's environment, not in the file"
                ));
                None
            }
            _ => {
                draft.note(format!(
                    "the value of {name} is put together from others: give it in one piece"
                ));
                None
            }
        };
    }
    let known = known.filter(|text| !is_placeholder(text));
    let unfit = |text: &str| text.len() > SETTING_BYTES || text.chars().any(char::is_control);
    is_secret |= known
        .as_deref()
        .is_some_and(|text| secret::is_one(text) || unfit(text));
    let help = asked.and_then(|input| input.description.clone());
    if is_secret {
        // Of an address with a password in it the host is none of the secret.
        draft.host(known.as_deref().and_then(|text| host_of(text)));
        draft.credential(Credential {
            title: name.to_owned(),
            name: variable,
            help,
            required: true,
            value: known,
        });
        return;
    }
    let grants = known.as_deref().and_then(|text| grant_of(name, text));
    if grants.is_none() {
        draft.host(known.as_deref().and_then(|text| host_of(text)));
    }
    draft.setting(Setting {
        name: name.to_owned(),
        title: name.to_owned(),
        help,
        kind: SettingType::String,
        required: known.is_none(),
        default: known.map(|text| Value::String((*text).clone())),
        allowed: asked.map_or_else(Vec::new, |input| input.choices.clone()),
        grants,
        env: Some(variable),
        arguments: Vec::new(),
    });
}

/// What the value of a setting opens: the host of a web address; a path, where the name says that it is one.
fn grant_of(name: &str, text: &str) -> Option<Grant> {
    let names = ["PATH", "FILE", "DIR", "DIRECTORY", "FOLDER", "ROOT"];
    let words = name.to_ascii_uppercase();
    let mut words = words.split('_');
    if ["http://", "https://", "ws://", "wss://"]
        .iter()
        .any(|it| text.starts_with(it))
    {
        return host_of(text).map(|_| Grant::Host);
    }
    let is_path = text.starts_with('/') && !text.contains(':') && !text.contains("..");
    (is_path && words.any(|word| names.contains(&word))).then_some(Grant::Write)
}

/// The host and port of an address, where there is one.
pub(super) fn host_of(text: &str) -> Option<HostRule> {
    let (scheme, rest) = text.split_once("://")?;
    let usual = match scheme.to_ascii_lowercase().as_str() {
        "https" | "wss" => 443,
        "http" | "ws" => 80,
        "postgres" | "postgresql" => 5_432,
        "mysql" | "mariadb" => 3_306,
        "mongodb" => 27_017,
        "redis" | "rediss" => 6_379,
        "amqp" | "amqps" => 5_672,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let has_port = host.rsplit_once(':').is_some_and(|(name, port)| {
        (!name.contains(':') || name.ends_with(']')) && port.bytes().all(|b| b.is_ascii_digit())
    });
    let rule = if has_port {
        host.to_owned()
    } else {
        format!("{host}:{usual}")
    };
    rule.parse::<HostRule>()
        .ok()
        .filter(|_| !host.contains('*'))
}

/// What an example writes where a person puts a value of theirs.
pub(super) fn is_placeholder(text: &str) -> bool {
    let lower = text.trim().to_ascii_lowercase();
    let inside = lower.strip_prefix("bearer ").unwrap_or(&lower);
    let brackets = (inside.starts_with('<') && inside.ends_with('>'))
        || (inside.starts_with('[') && inside.ends_with(']') && !inside.contains('"'));
    let words = [
        "your-",
        "your_",
        "yourapi",
        "yourtoken",
        "your api",
        "your token",
        "replace",
        "changeme",
        "xxxx",
        "****",
    ];
    let dots = inside.ends_with("...") || inside.ends_with('…');
    brackets || dots || words.iter().any(|word| inside.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_addresses() {
        for (text, host) in [
            ("https://api.example.com/v1", Some("api.example.com:443")),
            ("http://10.0.0.5:8080", Some("10.0.0.5:8080")),
            (
                "postgres://me:pw@db.example.com/x",
                Some("db.example.com:5432"),
            ),
            ("redis://[::1]:7000", Some("[::1]:7000")),
            ("https://*.example.com", None),
            ("file:///etc/passwd", None),
            ("plain", None),
            ("https://", None),
        ] {
            assert_eq!(
                host_of(text).map(|it| it.to_string()).as_deref(),
                host,
                "{text}"
            );
        }
    }

    #[test]
    fn examples_are_no_values() {
        for text in [
            "YOUR_API_KEY",
            "<token>",
            "your-token-here",
            "ghp_xxxxxxxx",
            "sk-...",
            "ntn_****",
        ] {
            assert!(is_placeholder(text), "{text}");
        }
        for text in [
            "ghp_0123456789abcdef",
            "info",
            "https://example.com",
            "[\"a\"]",
        ] {
            assert!(!is_placeholder(text), "{text}");
        }
    }
}
