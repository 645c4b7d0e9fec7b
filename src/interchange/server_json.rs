//! `server.json` of the official registry (schema 2025-12-11, and the snake case of older ones): packages, arguments,
//! variables, remotes.

use serde_json::{Map, Value, json};

use super::{
    draft::{Credential, Draft, Run, Setting, Wanted, shown},
    launcher, secret,
    variables::{self, Inputs},
};
use crate::domain::{
    id::EnvName,
    package::Registry,
    template::{Grant, SettingType},
};

/// Translates one server of a registry.
///
/// # Errors
/// Why it cannot run here: one sentence.
pub(super) fn server(name: &str, entry: &Value) -> Result<Draft, String> {
    let (mut draft, used) = match package(entry) {
        Some(package) => (of_package(name, entry, package)?, Some(package)),
        None => match list(entry, "remotes").next() {
            Some(remote) => (of_remote(name, remote)?, None),
            None => return Err(nothing_to_run(entry)),
        },
    };
    draft.title(get(entry, "title").and_then(Value::as_str));
    draft.description(entry["description"].as_str());
    let website = get(entry, "websiteUrl").and_then(Value::as_str);
    draft.homepage(website.or_else(|| entry["repository"]["url"].as_str()));
    for other in list(entry, "packages").filter(|other| Some(*other) != used) {
        let kind = get(other, "registryType")
            .and_then(Value::as_str)
            .unwrap_or("unknown");
        let what = other["identifier"].as_str().unwrap_or_default();
        draft.note(format!("it also comes as {} {}", shown(kind), shown(what)));
    }
    if used.is_some() && list(entry, "remotes").next().is_some() {
        draft.note("it is also offered at an address elsewhere (remotes)");
    }
    const KNOWN: [&str; 14] = [
        "$schema",
        "name",
        "title",
        "description",
        "version",
        "websiteUrl",
        "website_url",
        "repository",
        "packages",
        "remotes",
        "status",
        "version_detail",
        "versionDetail",
        "_meta",
    ];
    if entry["status"] == "deprecated" {
        draft.note("its registry calls it deprecated");
    }
    for (key, value) in entry.as_object().into_iter().flatten() {
        if !KNOWN.contains(&key.as_str()) {
            draft.keep(key, value);
        }
    }
    Ok(draft)
}

/// A key in camel case, or in the snake case of the older schemas.
fn get<'a>(entry: &'a Value, key: &str) -> Option<&'a Value> {
    let mut snake = String::new();
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    entry.get(key).or_else(|| entry.get(&snake))
}

fn list<'a>(entry: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    get(entry, key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn registry(package: &Value) -> Option<Registry> {
    match get(package, "registryType")
        .or_else(|| package.get("registry_name"))?
        .as_str()?
    {
        "npm" => Some(Registry::Npm),
        "pypi" => Some(Registry::Pypi),
        _ => None,
    }
}

fn speaks_stdio(package: &Value) -> bool {
    package["transport"]["type"]
        .as_str()
        .is_none_or(|it| it == "stdio")
}

/// The package that runs here: one of npm or PyPI, over stdio where there is a choice.
fn package(entry: &Value) -> Option<&Value> {
    let fit = |package: &&Value| registry(package).is_some();
    let mut packages = list(entry, "packages").filter(fit);
    let first = packages.next()?;
    let stdio = std::iter::once(first)
        .chain(packages)
        .find(|package| speaks_stdio(package));
    Some(stdio.unwrap_or(first))
}

fn nothing_to_run(entry: &Value) -> String {
    let kinds: Vec<String> = list(entry, "packages")
        .filter_map(|package| get(package, "registryType")?.as_str())
        .map(shown)
        .collect();
    if kinds.is_empty() {
        return "has neither packages nor remotes".to_owned();
    }
    format!(
        "comes as {} only; here run packages of npm and pypi, and servers at an address: name one with package",
        kinds.join(", ")
    )
}

fn of_package(name: &str, entry: &Value, package: &Value) -> Result<Draft, String> {
    let registry = registry(package).ok_or_else(|| nothing_to_run(entry))?;
    let identifier = package["identifier"]
        .as_str()
        .or_else(|| package["name"].as_str());
    let identifier = identifier.ok_or_else(|| "its package has no identifier".to_owned())?;
    let version = package["version"]
        .as_str()
        .or_else(|| entry["version"].as_str());
    let separator = if registry == Registry::Npm { "@" } else { "==" };
    let spec = match version {
        Some(version) => format!("{identifier}{separator}{version}"),
        None => identifier.to_owned(),
    };
    let (package_name, version) = match registry {
        Registry::Npm => launcher::npm(&spec)?,
        Registry::Pypi => launcher::pypi(&spec)?,
    };
    if let Wanted::Newest(_) = version
        && get(package, "version").is_some_and(|version| version.as_str() != Some("latest"))
    {
        return Err(format!(
            "its version {:?} is not one exact version",
            shown(&spec)
        ));
    }
    if !speaks_stdio(package) {
        return Err(format!(
            "its package speaks {} on a port of its own choice; a template for it is written by hand, with transport = \"http\"",
            shown(package["transport"]["type"].as_str().unwrap_or("http"))
        ));
    }
    let program = match registry {
        Registry::Npm => None,
        Registry::Pypi => Some(
            package_name
                .split('[')
                .next()
                .unwrap_or(&package_name)
                .to_owned(),
        ),
    };
    let mut draft = Draft::new(
        name,
        Run::Package {
            registry,
            name: package_name,
            version,
            program,
            arguments: Vec::new(),
        },
    );
    for argument in list(package, "runtimeArguments") {
        let word = argument["value"]
            .as_str()
            .or_else(|| argument["name"].as_str());
        if !word.is_some_and(|word| matches!(word, "-y" | "--yes")) {
            draft.note(format!(
                "an argument for its launcher ({}) is left out: packages are installed by this daemon",
                shown(word.unwrap_or("unnamed"))
            ));
        }
    }
    let mut fixed = Vec::new();
    for argument in list(package, "packageArguments") {
        self::argument(&mut draft, argument, &mut fixed)?;
    }
    if let Run::Package { arguments, .. } = &mut draft.run {
        *arguments = fixed;
    }
    for variable in list(package, "environmentVariables") {
        self::variable(&mut draft, variable);
    }
    const KNOWN: [&str; 16] = [
        "registryType",
        "registry_type",
        "registry_name",
        "registryBaseUrl",
        "registry_base_url",
        "identifier",
        "name",
        "version",
        "runtimeHint",
        "runtime_hint",
        "transport",
        "fileSha256",
        "runtimeArguments",
        "packageArguments",
        "environmentVariables",
        "file_sha256",
    ];
    for (key, value) in package.as_object().into_iter().flatten() {
        let older = [
            "runtime_arguments",
            "package_arguments",
            "environment_variables",
        ];
        if !KNOWN.contains(&key.as_str()) && !older.contains(&key.as_str()) {
            draft.keep(&format!("packages.{key}"), value);
        }
    }
    Ok(draft)
}

fn flag(input: &Value, key: &str) -> bool {
    get(input, key).and_then(Value::as_bool).unwrap_or(false)
}

/// What an input holds, by its format and choices; `None` for its default where that does not fit.
fn typed(input: &Value, repeated: bool) -> (SettingType, Option<Value>, Vec<Value>) {
    let text = input["default"].as_str().map(str::to_owned);
    let text = text.or_else(|| Some(input["default"].to_string()).filter(|it| it != "null"));
    let choices: Vec<Value> = list(input, "choices")
        .filter(|it| it.is_string())
        .cloned()
        .collect();
    if repeated {
        return (
            SettingType::StringList,
            text.map(|text| json!([text])),
            choices,
        );
    }
    let format = input["format"].as_str();
    match format.filter(|_| choices.is_empty()) {
        Some("boolean") => {
            let default = text.and_then(|text| text.parse::<bool>().ok());
            (SettingType::Boolean, default.map(Value::Bool), Vec::new())
        }
        Some("number")
            if text
                .as_deref()
                .is_none_or(|text| text.parse::<i64>().is_ok()) =>
        {
            let default = text.and_then(|text| text.parse::<i64>().ok());
            (SettingType::Integer, default.map(Value::from), Vec::new())
        }
        _ => (
            SettingType::String,
            text.filter(|text| !text.is_empty()).map(Value::String),
            choices,
        ),
    }
}

/// One argument of the program: fixed, or a setting.
fn argument(draft: &mut Draft, argument: &Value, fixed: &mut Vec<String>) -> Result<(), String> {
    let option = argument["name"]
        .as_str()
        .filter(|_| argument["type"] != "positional");
    let at = fixed.len() + draft.settings.len() + 1;
    let hint = get(argument, "valueHint").and_then(Value::as_str);
    let shown_name = option
        .or(hint)
        .map_or_else(|| format!("argument_{at}"), shown);
    let value = argument["value"].as_str();
    if flag(argument, "isSecret") || value.is_some_and(secret::is_one) {
        let name = option
            .or(hint)
            .unwrap_or_default()
            .trim_start_matches('-')
            .replace('-', "_");
        let name = EnvName::new(name.to_ascii_uppercase()).map_err(|_| {
            format!("its argument {shown_name} is a secret, and a secret is never an argument here")
        })?;
        draft.note(format!(
            "its argument {shown_name} is a secret; here it gets the variable {name} instead: see that it reads that one"
        ));
        draft.credential(Credential {
            title: name.to_string(),
            name,
            help: argument["description"].as_str().map(str::to_owned),
            required: flag(argument, "isRequired"),
            value: None,
        });
        return Ok(());
    }
    let none = Map::new();
    let parts = argument["variables"].as_object().unwrap_or(&none);
    let (input, around) = match (value, parts.iter().next()) {
        (Some(value), None) => {
            if value.contains("{data}") || value.contains("{port}") || value.contains("{value}") {
                return Err(format!(
                    "its argument {shown_name} holds a word in braces that has a meaning of its own here"
                ));
            }
            fixed.push(match option {
                Some(option) => format!("{option}={value}"),
                None => value.to_owned(),
            });
            return Ok(());
        }
        (Some(value), Some((name, input))) if parts.len() == 1 => {
            if flag(input, "isSecret") {
                return Err(format!(
                    "its argument {shown_name} holds a secret, and a secret is never an argument here"
                ));
            }
            (input, value.replace(&format!("{{{name}}}"), "{value}"))
        }
        (Some(_), Some(_)) => {
            return Err(format!(
                "its argument {shown_name} is put together from several values: write it by hand"
            ));
        }
        (None, _) => (argument, "{value}".to_owned()),
    };
    let repeated = flag(argument, "isRepeated");
    let (kind, default, allowed) = typed(input, repeated);
    let arguments = match option {
        Some(option) if kind == SettingType::Boolean => vec![option.to_owned()],
        Some(option) => vec![format!("{option}={around}")],
        None => vec![around],
    };
    let text = |key: &str| input[key].as_str().or_else(|| argument[key].as_str());
    draft.setting(Setting {
        name: shown_name.trim_start_matches('-').to_owned(),
        title: shown_name,
        help: text("description").map(str::to_owned),
        kind,
        required: flag(input, "isRequired") && default.is_none(),
        default,
        allowed,
        grants: grant(text("format"), kind),
        env: None,
        arguments,
    });
    Ok(())
}

fn grant(format: Option<&str>, kind: SettingType) -> Option<Grant> {
    let holds_text = matches!(kind, SettingType::String | SettingType::StringList);
    (format == Some("filepath") && holds_text).then_some(Grant::Write)
}

/// One variable: a credential where the registry says that it is secret.
fn variable(draft: &mut Draft, variable: &Value) {
    let name = variable["name"].as_str().unwrap_or_default();
    let help = variable["description"].as_str().map(str::to_owned);
    let fixed = variable["value"]
        .as_str()
        .filter(|_| variable.get("variables").is_none());
    if let Some(value) = fixed {
        variables::one(draft, name, Some(value.to_owned()), &Inputs::default());
        return;
    }
    let is_plain = get(variable, "isSecret").and_then(Value::as_bool) == Some(false);
    let is_secret = flag(variable, "isSecret") || (secret::names_one(name) && !is_plain);
    let Some(env) = EnvName::new(name)
        .ok()
        .filter(|_| !name.starts_with("LD_") && !matches!(name, "PATH" | "HOME"))
    else {
        draft.note(format!(
            "the variable {:?} is left out: it is none that may be set",
            shown(name)
        ));
        return;
    };
    if is_secret {
        draft.credential(Credential {
            title: name.to_owned(),
            name: env,
            help,
            required: flag(variable, "isRequired"),
            value: None,
        });
        return;
    }
    if draft.has_variable(name) {
        draft.note(format!("{name} is set twice; the first is used"));
        return;
    }
    let (kind, default, allowed) = typed(variable, false);
    let address = default
        .as_ref()
        .and_then(Value::as_str)
        .and_then(variables::host_of);
    let is_address = address.is_some()
        && default
            .as_ref()
            .and_then(Value::as_str)
            .is_some_and(|text| text.starts_with("http"));
    if !is_address {
        draft.host(address);
    }
    let asks_address =
        matches!(variable["format"].as_str(), Some("uri" | "url")) || name.ends_with("_URL");
    let grants = match kind {
        SettingType::String if is_address || (asks_address && default.is_none()) => {
            Some(Grant::Host)
        }
        kind => grant(variable["format"].as_str(), kind),
    };
    draft.setting(Setting {
        name: name.to_owned(),
        title: name.to_owned(),
        help,
        kind,
        required: flag(variable, "isRequired") && default.is_none(),
        default,
        allowed,
        grants,
        env: Some(env),
        arguments: Vec::new(),
    });
}

fn of_remote(name: &str, remote: &Value) -> Result<Draft, String> {
    let transport = remote["type"]
        .as_str()
        .or_else(|| remote["transport_type"].as_str());
    let mut headers = Map::new();
    let mut needed = Vec::new();
    for header in list(remote, "headers") {
        let Some(header_name) = header["name"].as_str() else {
            continue;
        };
        let value = header["value"].as_str().map_or_else(
            || {
                if flag(header, "isSecret") {
                    String::new()
                } else {
                    header["default"].as_str().unwrap_or_default().to_owned()
                }
            },
            |value| braces_as_references(value, header),
        );
        if value.is_empty() && !flag(header, "isSecret") && !secret::names_one(header_name) {
            needed.push(shown(header_name));
            continue;
        }
        headers.insert(header_name.to_owned(), Value::String(value));
    }
    let entry = json!({"url": remote["url"], "type": transport, "headers": headers});
    let mut draft = super::clients::entry(name, &entry, &Inputs::default())?;
    for header in needed {
        draft.note(format!(
            "its header {header} has no value in the file and is left out"
        ));
    }
    Ok(draft)
}

/// `Bearer {token}` with `token` among the header's variables is `Bearer ${token}` elsewhere.
fn braces_as_references(value: &str, header: &Value) -> String {
    let mut value = value.to_owned();
    for (name, _) in header["variables"].as_object().into_iter().flatten() {
        value = value.replace(&format!("{{{name}}}"), &format!("${{{name}}}"));
    }
    value
}
