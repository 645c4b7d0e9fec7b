//! One entry of a client's file: `mcpServers` of Claude, Cursor, Windsurf, Gemini and others, `servers` of VS Code,
//! `mcp_servers` of Codex. They differ in a few keys only, so one reader takes them all.

use serde_json::{Map, Value};

use super::{
    arguments,
    draft::{Credential, Draft, Run, shown},
    launcher,
    reference::{self, Reference},
    secret,
    variables::{self, Inputs, is_placeholder},
};
use crate::domain::{duration::HumanDuration, id::EnvName};

/// Keys that are understood, whether they leave something behind or not.
const KNOWN: [&str; 24] = [
    "command",
    "args",
    "env",
    "env_vars",
    "url",
    "serverUrl",
    "httpUrl",
    "headers",
    "http_headers",
    "env_http_headers",
    "bearer_token_env_var",
    "type",
    "transport",
    "disabled",
    "enabled",
    "name",
    "title",
    "description",
    "startup_timeout_sec",
    "startup_timeout_ms",
    "envFile",
    "cwd",
    "gallery",
    "version",
];

/// Translates one entry.
///
/// # Errors
/// Why it cannot run here: one sentence.
pub(super) fn entry(server: &str, entry: &Value, inputs: &Inputs) -> Result<Draft, String> {
    let Some(entry) = entry.as_object() else {
        return Err("is not a table of keys".to_owned());
    };
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    let url = ["url", "serverUrl", "httpUrl"].into_iter().find_map(text);
    let mut draft = match (text("command"), url) {
        (Some(command), None) => local(server, command, entry, inputs)?,
        (None, Some(url)) => remote(server, url, entry, inputs)?,
        (Some(_), Some(_)) => {
            return Err("has both a command and a URL; a server has one of them".to_owned());
        }
        (None, None) => return Err("has neither a command nor a URL".to_owned()),
    };
    draft.title(text("title"));
    draft.description(text("description"));
    let is = |name: &str| entry.get(name).and_then(Value::as_bool);
    draft.disabled = is("disabled") == Some(true) || is("enabled") == Some(false);
    if draft.disabled {
        draft.note("it is switched off in the file: it becomes a template, and is not started");
    }
    let secs = entry
        .get("startup_timeout_sec")
        .and_then(Value::as_f64)
        .map(|secs| secs * 1_000.0);
    let ms = secs.or_else(|| entry.get("startup_timeout_ms").and_then(Value::as_f64));
    if let Some(ms) = ms.filter(|ms| (1.0..86_400_000.0).contains(ms)) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked above"
        )]
        let ms = ms as u64;
        draft.start_timeout = Some(HumanDuration::from_ms(ms));
    }
    for (key, value) in entry {
        match key.as_str() {
            "cwd" if value.is_string() => draft.note(
                "its working folder (cwd) is left out: an instance works in a folder of its own",
            ),
            "envFile" => draft
                .note("variables of its envFile are not read: give them when an instance is made"),
            key if KNOWN.contains(&key) => {}
            key => draft.keep(key, value),
        }
    }
    Ok(draft)
}

fn local(
    server: &str,
    command: &str,
    entry: &Map<String, Value>,
    inputs: &Inputs,
) -> Result<Draft, String> {
    let mut arguments = Vec::new();
    match entry.get("args") {
        None | Some(Value::Null) => {}
        Some(Value::Array(list)) => {
            for (index, word) in list.iter().enumerate() {
                match word {
                    Value::String(word) => arguments.push(word.clone()),
                    Value::Number(_) | Value::Bool(_) => arguments.push(word.to_string()),
                    _ => return Err(format!("its argument {} is no text", index + 1)),
                }
            }
        }
        Some(_) => return Err("its args are no list of texts".to_owned()),
    }
    // A whole line in `command`, as some people write it.
    let mut program = command.trim().to_owned();
    if arguments.is_empty() && program.contains(' ') && !program.contains(['"', '\'', '\\']) {
        let mut words = program.split_whitespace().map(str::to_owned);
        let first = words.next().unwrap_or_default();
        arguments = words.collect();
        program = first;
    }
    let understood = launcher::understand(&program, &arguments)?;
    let run = understood.run;
    if let Run::Package {
        name, arguments, ..
    } = &run
        && name == "mcp-remote"
    {
        return bridged(server, arguments, entry, inputs);
    }
    let (program, words) = match &run {
        Run::Package { arguments, .. } | Run::Container { arguments, .. } => {
            (None, arguments.clone())
        }
        Run::Command(command) => (command.first().cloned(), command[1..].to_vec()),
        Run::Remote { .. } => (None, Vec::new()),
    };
    let mut draft = Draft::new(server, run);
    for note in understood.notes {
        draft.note(note);
    }
    let fixed = arguments::translate(&mut draft, program.as_deref(), words, inputs)?;
    match &mut draft.run {
        Run::Package { arguments, .. } | Run::Container { arguments, .. } => *arguments = fixed,
        Run::Command(command) => {
            command.truncate(1);
            command.extend(fixed);
        }
        Run::Remote { .. } => {}
    }
    environment(&mut draft, entry, inputs)?;
    for (name, value) in understood.variables {
        // `-e NAME` passes on what env sets.
        if value.is_some() || !draft.has_variable(&name) {
            variables::one(&mut draft, &name, value, inputs);
        }
    }
    Ok(draft)
}

fn environment(
    draft: &mut Draft,
    entry: &Map<String, Value>,
    inputs: &Inputs,
) -> Result<(), String> {
    match entry.get("env") {
        None | Some(Value::Null) => {}
        Some(Value::Object(variables)) => variables::translate(draft, variables, inputs),
        Some(_) => return Err("its env is no table of variables".to_owned()),
    }
    for name in entry
        .get("env_vars")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let name = name.as_str().or_else(|| name["name"].as_str());
        if let Some(name) = name.filter(|name| !draft.has_variable(name)) {
            variables::one(draft, name, None, inputs);
        }
    }
    Ok(())
}

/// `mcp-remote URL --header "Name: value"`: a URL behind a bridge, which is not needed here.
fn bridged(
    server: &str,
    words: &[String],
    entry: &Map<String, Value>,
    inputs: &Inputs,
) -> Result<Draft, String> {
    let url = words.iter().find(|word| word.contains("://"));
    let url = url.ok_or_else(|| "mcp-remote is told of no address".to_owned())?;
    let mut headers = Map::new();
    let mut words_left = words.iter().filter(|word| *word != url);
    let mut notes = Vec::new();
    let variables = entry.get("env").and_then(Value::as_object);
    while let Some(word) = words_left.next() {
        if word != "--header" {
            notes.push(format!(
                "the option {} of mcp-remote is left out",
                shown(word)
            ));
            continue;
        }
        let header = words_left.next().and_then(|header| header.split_once(':'));
        let (name, value) = header.ok_or("a header of mcp-remote has no name")?;
        // Its value often lies in env, because of a fault with spaces.
        let value = match reference::whole(value.trim()) {
            Some(Reference::Variable(name, _)) => variables
                .and_then(|variables| variables.get(&name))
                .cloned()
                .unwrap_or_else(|| Value::String(value.trim().to_owned())),
            _ => Value::String(value.trim().to_owned()),
        };
        headers.insert(name.trim().to_owned(), value);
    }
    let mut draft = with_headers(server, url, &headers, inputs)?;
    for note in notes {
        draft.note(note);
    }
    Ok(draft)
}

fn remote(
    server: &str,
    url: &str,
    entry: &Map<String, Value>,
    inputs: &Inputs,
) -> Result<Draft, String> {
    let transport = ["type", "transport"]
        .into_iter()
        .find_map(|key| entry.get(key)?.as_str());
    if transport.is_some_and(|transport| transport.eq_ignore_ascii_case("sse")) {
        return Err("speaks HTTP+SSE, which was replaced by Streamable HTTP in 2025: ask its operator for that address".to_owned());
    }
    let mut headers = Map::new();
    for key in ["headers", "http_headers"] {
        match entry.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Object(more)) => headers.extend(more.clone()),
            Some(_) => return Err(format!("its {key} are no table of texts")),
        }
    }
    for (name, variable) in entry
        .get("env_http_headers")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if let Some(variable) = variable.as_str() {
            headers.insert(name.clone(), Value::String(format!("${{{variable}}}")));
        }
    }
    if let Some(variable) = entry.get("bearer_token_env_var").and_then(Value::as_str) {
        headers.insert(
            "Authorization".to_owned(),
            Value::String(format!("Bearer ${{{variable}}}")),
        );
    }
    with_headers(server, url, &headers, inputs)
}

/// Headers of the connection itself.
const OURS: [&str; 8] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "host",
    "origin",
    "transfer-encoding",
];

/// Longest address in bytes.
const URL_BYTES: usize = 2_000;

fn with_headers(
    server: &str,
    url: &str,
    headers: &Map<String, Value>,
    inputs: &Inputs,
) -> Result<Draft, String> {
    let url = url.trim();
    let good = (url.starts_with("https://") || url.starts_with("http://"))
        && url.len() <= URL_BYTES
        && !url.chars().any(|c| c.is_control() || c.is_whitespace());
    if !good {
        return Err("its URL is no address that begins with https:// or http://".to_owned());
    }
    if !reference::all(url).is_empty() {
        return Err("its URL is put together from variables: write it in one piece".to_owned());
    }
    if secret::is_one(url) {
        return Err("its URL holds a secret, and a URL is written into the template: give the secret as a header".to_owned());
    }
    let mut draft = Draft::new(
        server,
        Run::Remote {
            url: url.to_owned(),
            headers: Vec::new(),
        },
    );
    if url
        .split(['?', '#'])
        .next()
        .is_some_and(|path| path.ends_with("/sse"))
    {
        draft.note("its address ends in /sse: should it speak HTTP+SSE only, its operator's address for Streamable HTTP is needed");
    }
    let mut sent = Vec::new();
    for (name, value) in headers {
        let good = !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
        if !good {
            return Err("a header has a name that no header can have".to_owned());
        }
        let Some(text) = value.as_str() else {
            return Err(format!("its header {} is no text", shown(name)));
        };
        let lower = name.to_ascii_lowercase();
        if lower.starts_with("mcp-") || OURS.contains(&lower.as_str()) {
            draft.note(format!(
                "its header {} is left out: every connection sets it anew",
                shown(name)
            ));
            continue;
        }
        sent.push((name.clone(), header(&mut draft, name, text, inputs)));
    }
    if let Run::Remote { headers, .. } = &mut draft.run {
        *headers = sent;
    }
    Ok(draft)
}

/// The value of a header as the manifest holds it.
fn header(draft: &mut Draft, name: &str, text: &str, inputs: &Inputs) -> String {
    let references = reference::all(text);
    let asks = references
        .iter()
        .any(|it| matches!(it, Reference::Input(_) | Reference::Variable(..)));
    if !asks && !secret::names_one(name) && !secret::is_one(text) {
        return text.to_owned();
    }
    let (scheme, rest) = match text.split_once(' ') {
        Some((scheme, rest)) if scheme.chars().all(|c| c.is_ascii_alphabetic()) => {
            (format!("{scheme} "), rest.trim())
        }
        _ => (String::new(), text.trim()),
    };
    let referred = reference::whole(rest);
    let variable = match &referred {
        Some(Reference::Variable(name, _)) => Some(name.clone()),
        Some(Reference::Input(id)) => Some(id.clone()),
        _ => None,
    };
    // `CONTEXT7_API_KEY` says whose it is, `Authorization` does not.
    let says_whose = (name.to_ascii_lowercase()).starts_with(draft.name.as_str());
    let of_header = || match says_whose {
        true => name.to_owned(),
        false => format!("{}_{name}", draft.name),
    };
    let variable = variable.unwrap_or_else(of_header);
    let variable: String = variable
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect();
    let variable = EnvName::new(variable.clone())
        .or_else(|_| EnvName::new(format!("HEADER_{variable}")))
        .unwrap_or_else(|_| EnvName::new("HEADER").expect("letters only"));
    let help = match &referred {
        Some(Reference::Input(id)) => inputs.get(id).and_then(|input| input.description.clone()),
        _ => None,
    };
    let known =
        references.is_empty() && referred.is_none() && !rest.is_empty() && !is_placeholder(rest);
    if !draft.has_variable(variable.as_str()) {
        draft.credential(Credential {
            title: format!("{} (header {})", variable, shown(name)),
            name: variable.clone(),
            help,
            required: true,
            value: known.then(|| rest.to_owned().into()),
        });
    }
    format!("{scheme}{{credential.{variable}}}")
}
