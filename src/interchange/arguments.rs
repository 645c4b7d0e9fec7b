//! The arguments of a command: what is fixed stays in the command; a path becomes a setting, what an editor asks for
//! too; a secret becomes a variable, because every process of a machine may read arguments.

use serde_json::Value;

use super::{
    draft::{Credential, Draft, Setting},
    reference::{self, Reference},
    secret,
    variables::{Inputs, host_of, is_placeholder},
};
use crate::domain::{
    id::EnvName,
    template::{Grant, SettingType},
};

/// Longest argument in bytes, as a manifest allows it.
const ARGUMENT_BYTES: usize = 8_192;

/// What the arguments of a program that runs a file of its own begin with.
const INTERPRETERS: [&str; 8] = [
    "node", "python", "python3", "deno", "bun", "ruby", "perl", "java",
];

/// Puts the arguments of `program` into `draft`; the answer is those that stay in the command.
///
/// # Errors
/// Why they cannot be translated: one sentence, without their values.
pub(super) fn translate(
    draft: &mut Draft,
    program: Option<&str>,
    arguments: Vec<String>,
    inputs: &Inputs,
) -> Result<Vec<String>, String> {
    let base = program.and_then(|program| program.rsplit('/').next());
    let mut runs_a_file = base.is_some_and(|base| INTERPRETERS.contains(&base));
    let mut kept: Vec<String> = Vec::new();
    let mut file = None;
    let mut words = arguments.into_iter().enumerate().peekable();
    while let Some((index, word)) = words.next() {
        fit(&word, index)?;
        let pair = match word.split_once('=') {
            Some((option, value)) if option.starts_with('-') => {
                Some((option.to_owned(), value.to_owned(), true))
            }
            _ if word.starts_with('-') && word.len() > 1 => words
                .peek()
                .filter(|(_, next)| !next.starts_with('-') || secret::is_one(next))
                .map(|(_, next)| (word.clone(), next.clone(), false)),
            _ => None,
        };
        if let Some((option, value, joined)) = pair {
            match option_value(draft, index, &option, &value, joined, inputs)? {
                Kept::Whole => {
                    if !joined {
                        let next = words.next().map(|(_, next)| next);
                        kept.push(word);
                        let next = next.unwrap_or_default();
                        fit(&next, index + 1)?;
                        look_at(draft, &next);
                        kept.push(next);
                        continue;
                    }
                    look_at(draft, &value);
                    kept.push(word);
                }
                Kept::Nothing => {
                    if !joined {
                        words.next();
                    }
                }
                Kept::First => kept.push(word),
            }
            continue;
        }
        if runs_a_file && !word.starts_with('-') {
            // The file that an interpreter runs: the daemon finds what it needs.
            runs_a_file = false;
            refuse_client_words(&word, index)?;
            file = Some(word.clone());
            kept.push(word);
            continue;
        }
        if secret::is_one(&word) && !is_placeholder(&word) {
            return Err(told(index, None));
        }
        match reference::all(&word).as_slice() {
            [] => kept.push(word),
            [one] => referred(draft, index, None, &word, one, true, inputs)?,
            _ => return Err(several(index)),
        }
    }
    paths_at_the_end(draft, &mut kept, program.is_some());
    let plain = |word: &&String| !word.starts_with('-') && Some(*word) != file.as_ref();
    for word in kept.iter().filter(plain) {
        look_at(draft, word);
    }
    Ok(kept)
}

enum Kept {
    /// Option and value stay.
    Whole,
    /// Neither does.
    Nothing,
    /// The option stays and what follows it is looked at by itself.
    First,
}

fn fit(word: &str, index: usize) -> Result<(), String> {
    let at = index + 1;
    if ["{data}", "{port}", "{value}"]
        .iter()
        .any(|it| word.contains(it))
    {
        return Err(format!(
            "its argument {at} holds a word in braces that has a meaning of its own here"
        ));
    }
    if word.len() > ARGUMENT_BYTES
        || word
            .chars()
            .any(|c| c.is_control() && c != '\n' && c != '\t')
    {
        return Err(format!(
            "its argument {at} is longer than {ARGUMENT_BYTES} bytes or holds control characters"
        ));
    }
    Ok(())
}

fn told(index: usize, option: Option<&str>) -> String {
    let option = option.map_or_else(String::new, |option| {
        format!(" ({})", super::draft::shown(option))
    });
    format!(
        "its argument {}{option} holds a secret, and a secret is never an argument here, where every process could read \
         it: give it in env, as a variable that the server reads",
        index + 1
    )
}

fn several(index: usize) -> String {
    format!(
        "its argument {} is made of several references; write it in one piece",
        index + 1
    )
}

fn refuse_client_words(word: &str, index: usize) -> Result<(), String> {
    match reference::all(word).first() {
        None => Ok(()),
        Some(Reference::Client(name)) => Err(format!(
            "its argument {} holds ${{{name}}}, which only the client knows: write what it stands for",
            index + 1
        )),
        Some(_) => Err(format!(
            "its argument {} names a file by a reference: write the path itself",
            index + 1
        )),
    }
}

/// `--option=value`, or `--option value`.
fn option_value(
    draft: &mut Draft,
    index: usize,
    option: &str,
    value: &str,
    joined: bool,
    inputs: &Inputs,
) -> Result<Kept, String> {
    let references = reference::all(value);
    let asked = match references.as_slice() {
        [Reference::Input(id)] => inputs.is_secret(id),
        _ => false,
    };
    let named = secret::names_one(option) && !value.is_empty();
    if named || asked || secret::is_one(value) {
        let variable = variable_of(option).filter(|_| named);
        let Some(variable) = variable else {
            return Err(told(index, Some(option)));
        };
        let known = references.is_empty() && !is_placeholder(value);
        draft.note(format!(
            "it was given {option} as an argument; here it gets the variable {variable} instead: see that it reads that one"
        ));
        draft.credential(Credential {
            title: variable.to_string(),
            name: variable,
            help: None,
            required: true,
            value: known.then(|| value.to_owned().into()),
        });
        return Ok(Kept::Nothing);
    }
    match references.as_slice() {
        [] if joined || value.starts_with('/') || host_of(value).is_some() => Ok(Kept::Whole),
        // It may be a switch, and the value a word of its own.
        [] => Ok(Kept::First),
        [one] => {
            referred(draft, index, Some(option), value, one, joined, inputs)?;
            Ok(Kept::Nothing)
        }
        _ => Err(several(index)),
    }
}

/// A value with one reference in it becomes a setting.
fn referred(
    draft: &mut Draft,
    index: usize,
    option: Option<&str>,
    value: &str,
    one: &Reference,
    joined: bool,
    inputs: &Inputs,
) -> Result<(), String> {
    let (name, default) = match one {
        Reference::Client(_) => return refuse_client_words(value, index),
        Reference::Variable(name, default) => (name, default.clone()),
        Reference::Input(id) if inputs.is_secret(id) => return Err(told(index, option)),
        Reference::Input(id) => (id, inputs.default_of(id)),
    };
    if secret::names_one(name) {
        return Err(told(index, option));
    }
    let around = match value.split_once("${") {
        Some((before, rest)) => {
            let after = rest.split_once('}').map_or("", |(_, after)| after);
            format!("{before}{{value}}{after}")
        }
        None => "{value}".to_owned(),
    };
    let arguments = match option {
        Some(option) if joined => vec![format!("{option}={around}")],
        Some(option) => vec![option.to_owned(), around],
        None => vec![around],
    };
    draft.note(format!(
        "its argument {} is the setting {name}, which stands after the others",
        index + 1
    ));
    let input = match one {
        Reference::Input(id) => inputs.get(id),
        _ => None,
    };
    draft.setting(Setting {
        name: name.clone(),
        title: name.clone(),
        help: input.and_then(|input| input.description.clone()),
        kind: SettingType::String,
        required: default.is_none(),
        default: default.map(Value::String),
        allowed: input.map_or_else(Vec::new, |input| input.choices.clone()),
        grants: None,
        env: None,
        arguments,
    });
    Ok(())
}

/// The variable that an option would be: `--api-key` gives `API_KEY`.
fn variable_of(option: &str) -> Option<EnvName> {
    let name: String = option
        .trim_start_matches('-')
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect();
    EnvName::new(name).ok()
}

/// What a fixed argument needs: the host of an address, the path that it names.
fn look_at(draft: &mut Draft, value: &str) {
    draft.host(host_of(value));
    let value = value
        .split_once('=')
        .filter(|(name, _)| name.starts_with('-'))
        .map_or(value, |it| it.1);
    if value.starts_with('/') && is_path(value) && !draft.write.iter().any(|path| path == value) {
        draft.write.push(value.to_owned());
        draft.note(format!(
            "it may write {value}, as far as sandbox.allow_write in config.toml reaches"
        ));
    }
}

fn is_path(text: &str) -> bool {
    text.len() > 1 && !text.contains("..") && !text.contains('\n') && text.len() <= 4_096
}

/// Paths that end the command are what people choose: a setting.
fn paths_at_the_end(draft: &mut Draft, kept: &mut Vec<String>, is_command: bool) {
    let mut from = kept.len();
    while from > usize::from(is_command)
        && kept[from - 1].starts_with('/')
        && is_path(&kept[from - 1])
    {
        from -= 1;
    }
    // The value of the option before them is none of them.
    if from > 0 && kept[from - 1].starts_with('-') && !kept[from - 1].contains('=') {
        from += 1;
    }
    let paths: Vec<String> = kept.drain(from.min(kept.len())..).collect();
    if paths.is_empty() {
        return;
    }
    draft.note("the paths at the end of its arguments are the setting paths");
    draft.setting(Setting {
        name: "paths".to_owned(),
        title: "Paths".to_owned(),
        help: Some(
            "Absolute paths of this machine that the server is given and may write.".to_owned(),
        ),
        kind: SettingType::StringList,
        default: Some(paths.into()),
        required: false,
        allowed: Vec::new(),
        grants: Some(Grant::Write),
        env: None,
        arguments: vec!["{value}".to_owned()],
    });
}
