//! `server.yaml` of Docker's catalogue: what it says of secrets, settings and hosts is kept; the image itself is not run
//! here, so a package has to take its place.

use serde_json::Value;

use super::{
    draft::{Credential, Draft, Run, Setting, shown},
    variables::{self, Inputs},
};
use crate::domain::{
    egress::HostRule,
    id::EnvName,
    template::{Grant, SettingType},
};

/// Translates one server of the catalogue.
///
/// # Errors
/// Why it cannot run here: one sentence.
pub(super) fn server(name: &str, entry: &Value) -> Result<Draft, String> {
    let mut draft = match (entry["remote"]["url"].as_str(), entry["image"].as_str()) {
        (Some(_), _) => {
            let remote = &entry["remote"];
            let transport = remote["transport_type"].as_str();
            let converted = serde_json::json!({
                "url": remote["url"], "type": transport, "headers": remote["headers"],
            });
            super::clients::entry(name, &converted, &Inputs::default())?
        }
        (None, Some(image)) => Draft::new(
            name,
            Run::Container {
                image: shown(image),
                arguments: Vec::new(),
            },
        ),
        (None, None) => return Err("names neither an image nor a remote address".to_owned()),
    };
    draft.title(entry["about"]["title"].as_str());
    draft.description(entry["about"]["description"].as_str());
    draft.homepage(entry["source"]["project"].as_str());
    run(&mut draft, &entry["run"])?;
    config(&mut draft, &entry["config"]);
    for provider in entry["oauth"].as_array().into_iter().flatten() {
        let provider = provider["provider"].as_str().unwrap_or("somebody");
        draft.note(format!(
            "it signs in with OAuth at {}: get a token and give it as a credential",
            shown(provider)
        ));
    }
    const KNOWN: [&str; 11] = [
        "name", "image", "type", "meta", "about", "source", "run", "config", "remote", "oauth",
        "tools",
    ];
    for (key, value) in entry.as_object().into_iter().flatten() {
        if !KNOWN.contains(&key.as_str()) {
            draft.keep(key, value);
        }
    }
    Ok(draft)
}

fn run(draft: &mut Draft, run: &Value) -> Result<(), String> {
    for (name, value) in run["env"].as_object().into_iter().flatten() {
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        // `$OTHER` and `{{parameter}}` are put together by the catalogue's own launcher.
        let referred = text.contains('$') || text.contains("{{");
        if referred {
            draft.note(format!(
                "the value of {name} is put together from others: give it in one piece",
                name = shown(name)
            ));
        }
        variables::one(
            draft,
            name,
            Some(text).filter(|_| !referred),
            &Inputs::default(),
        );
    }
    for host in run["allowHosts"].as_array().into_iter().flatten() {
        let rule = host.as_str().and_then(|host| host.parse::<HostRule>().ok());
        match rule {
            Some(rule) => draft.host(Some(rule)),
            None => draft.note("one of its allowHosts is no host and port, and is left out"),
        }
    }
    let mut words = Vec::new();
    for word in run["command"].as_array().into_iter().flatten() {
        let word = word
            .as_str()
            .ok_or("an argument of its command is no text")?;
        if word.contains("{{") {
            draft.note(
                "an argument that is put together from parameters is left out: add it as a setting",
            );
        } else {
            words.push(word.to_owned());
        }
    }
    let fixed = super::arguments::translate(draft, None, words, &Inputs::default())?;
    if let Run::Container { arguments, .. } = &mut draft.run {
        *arguments = fixed;
    }
    if run["volumes"]
        .as_array()
        .is_some_and(|volumes| !volumes.is_empty())
    {
        draft.note("its volumes are left out; sandbox.read and sandbox.write name paths here");
    }
    Ok(())
}

fn config(draft: &mut Draft, config: &Value) {
    for secret in config["secrets"].as_array().into_iter().flatten() {
        let name = secret["env"].as_str().unwrap_or_default();
        let Ok(env) = EnvName::new(name) else {
            draft.note("one of its secrets names no variable and is left out");
            continue;
        };
        let help = secret["description"].as_str().map(str::to_owned);
        let example = secret["example"]
            .as_str()
            .filter(|example| !variables::is_placeholder(example))
            .map(|example| format!("Such as {example}."));
        // A variable of the same name that was put together from this secret is the secret itself.
        draft
            .settings
            .retain(|setting| setting.env.as_ref() != Some(&env));
        draft.credential(Credential {
            title: name.to_owned(),
            name: env,
            help: help.or(example),
            required: secret["required"].as_bool().unwrap_or(false),
            value: None,
        });
    }
    for variable in config["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().unwrap_or_default();
        let value = variable["value"].as_str().map(str::to_owned);
        let value = value.filter(|value| !value.contains("{{"));
        if value.is_some() {
            variables::one(draft, name, value, &Inputs::default());
            continue;
        }
        let Ok(env) = EnvName::new(name) else {
            draft.note("one of its variables has a name that none can have and is left out");
            continue;
        };
        if draft.has_variable(name) {
            draft.note(format!("{name} is set twice; the first is used"));
            continue;
        }
        if super::secret::names_one(name) {
            variables::one(draft, name, None, &Inputs::default());
            continue;
        }
        let example = variable["example"].as_str();
        let opens =
            example.is_some_and(|example| example.starts_with("http")) || name.ends_with("_URL");
        draft.setting(Setting {
            name: name.to_owned(),
            title: name.to_owned(),
            help: example.map(|example| format!("Such as {example}.")),
            kind: SettingType::String,
            default: None,
            required: false,
            allowed: Vec::new(),
            grants: opens.then_some(Grant::Host),
            env: Some(env),
            arguments: Vec::new(),
        });
    }
}
