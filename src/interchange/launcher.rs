//! The commands by which clients start servers: what `npx`, `uvx` and their like fetch at every start becomes a package
//! that is installed once; a container is known by its image.

use super::draft::{Run, Wanted, shown};
use crate::domain::package::{PackageSource, Registry};

/// A command, understood.
#[derive(Debug, PartialEq)]
pub(super) struct Command {
    pub(super) run: Run,
    /// Variables that the command line itself sets; the value is `None` where only the name is passed on.
    pub(super) variables: Vec<(String, Option<String>)>,
    pub(super) notes: Vec<String>,
}

impl Command {
    fn of(run: Run) -> Self {
        Self {
            run,
            variables: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// Understands a command.
///
/// # Errors
/// Why it cannot run here: one sentence.
pub(super) fn understand(program: &str, arguments: &[String]) -> Result<Command, String> {
    let program = program.trim();
    let lower = program.to_ascii_lowercase();
    let base = lower.rsplit(['/', '\\']).next().unwrap_or_default();
    let base = [".cmd", ".exe", ".bat", ".ps1"]
        .iter()
        .find_map(|end| base.strip_suffix(end))
        .unwrap_or(base);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match (base, words.as_slice()) {
        ("", _) => Err("its command is empty".to_owned()),
        ("cmd", [switch, rest @ ..]) if switch.eq_ignore_ascii_case("/c") => nested(rest),
        ("env", rest) => with_variables(rest),
        ("npx" | "bunx" | "pnpx", rest) => node(base, rest),
        ("bun", ["x", rest @ ..]) => node("bunx", rest),
        ("npm", ["exec" | "x", rest @ ..]) => node("npm exec", rest),
        ("pnpm", ["dlx", rest @ ..]) => node("pnpm dlx", rest),
        ("yarn", ["dlx", rest @ ..]) => node("yarn dlx", rest),
        ("uvx", rest) => python("uvx", rest),
        ("uv", ["tool", "run", rest @ ..]) => python("uv tool run", rest),
        ("pipx", ["run", rest @ ..]) => python("pipx run", rest),
        ("uv", _) => Err(
            "uv run makes an environment at each start, which a server here cannot: install the project for \
             everyone and name its program"
                .to_owned(),
        ),
        ("docker" | "podman" | "nerdctl", ["run", rest @ ..]) => container(rest),
        ("sh" | "bash" | "zsh" | "dash" | "powershell" | "pwsh" | "cmd", [switch, ..])
            if switch.starts_with(['-', '/']) =>
        {
            Err("its command is a line for a shell; write the program and its arguments instead".to_owned())
        }
        _ => plain(program, arguments),
    }
}

fn nested(rest: &[&str]) -> Result<Command, String> {
    match rest {
        [program, arguments @ ..] => {
            let arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
            understand(program, &arguments)
        }
        [] => Err("its command is empty".to_owned()),
    }
}

/// `env NAME=VALUE … program arguments`.
fn with_variables(rest: &[&str]) -> Result<Command, String> {
    let count = rest.iter().take_while(|word| word.contains('=')).count();
    if rest.first().is_some_and(|word| word.starts_with('-')) {
        return Err("its command uses an option of env; write the program itself".to_owned());
    }
    let mut command = nested(&rest[count..])?;
    let set = rest[..count].iter().filter_map(|word| word.split_once('='));
    let set = set.map(|(name, value)| (name.to_owned(), Some(value.to_owned())));
    command.variables.splice(0..0, set);
    Ok(command)
}

fn plain(program: &str, arguments: &[String]) -> Result<Command, String> {
    let is_absolute = program.starts_with('/');
    if (program.contains('/') && !is_absolute) || program.contains('\\') || program.starts_with('~')
    {
        return Err(format!(
            "its program {:?} is no plain name and no absolute path of this machine",
            shown(program)
        ));
    }
    let mut command = vec![program.to_owned()];
    command.extend(arguments.iter().cloned());
    Ok(Command::of(Run::Command(command)))
}

/// The options before the first plain word, each with its value where it takes one.
struct Options<'a> {
    given: Vec<(&'a str, Option<&'a str>)>,
    /// The first plain word and what follows it.
    rest: &'a [&'a str],
}

fn options<'a>(words: &'a [&'a str], valued: &[&str]) -> Options<'a> {
    let (mut given, mut at) = (Vec::new(), 0);
    while let Some(word) = words.get(at).filter(|word| word.starts_with('-')) {
        at += 1;
        if *word == "--" {
            break;
        }
        match word.split_once('=') {
            Some((option, value)) => given.push((option, Some(value))),
            None if valued.contains(word) => {
                given.push((*word, words.get(at).copied()));
                at += 1;
            }
            None => given.push((*word, None)),
        }
    }
    Options {
        given,
        rest: words.get(at..).unwrap_or_default(),
    }
}

fn left_out(launcher: &str, option: &str) -> String {
    format!(
        "the option {} of {launcher} is left out: packages are installed by this daemon",
        shown(option)
    )
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

const NPX_VALUED: [&str; 9] = [
    "-p",
    "--package",
    "-c",
    "--call",
    "--registry",
    "--prefix",
    "--cache",
    "--userconfig",
    "-w",
];

fn node(launcher: &str, words: &[&str]) -> Result<Command, String> {
    let options = options(words, &NPX_VALUED);
    let (mut package, mut notes) = (None, Vec::new());
    for (option, value) in &options.given {
        match (*option, value) {
            ("-y" | "--yes" | "-q" | "--quiet" | "--silent" | "-s" | "--bun" | "--no", _) => {}
            ("-p" | "--package", Some(value)) if package.is_none() => package = Some(*value),
            ("-p" | "--package", _) => {
                return Err(format!(
                    "{launcher} is told of more than one package, of which a template has one"
                ));
            }
            ("-c" | "--call", _) => {
                return Err(format!(
                    "{launcher} is given a line for a shell; write the program instead"
                ));
            }
            (option, _) => notes.push(left_out(launcher, option)),
        }
    }
    let nothing = || format!("{launcher} is told of no package");
    let (spec, program, arguments) = match (package, options.rest) {
        (Some(spec), [program, arguments @ ..]) => (spec, Some((*program).to_owned()), arguments),
        (Some(spec), []) => (spec, None, [].as_slice()),
        (None, [spec, arguments @ ..]) => (*spec, None, arguments),
        (None, []) => return Err(nothing()),
    };
    // What follows the package may begin with the separator as well.
    let arguments = match arguments {
        ["--", rest @ ..] if package.is_none() && launcher.contains(' ') => rest,
        arguments => arguments,
    };
    let (name, version) = npm(spec)?;
    Ok(Command {
        notes,
        ..Command::of(Run::Package {
            registry: Registry::Npm,
            name,
            version,
            program,
            arguments: owned(arguments),
        })
    })
}

/// Name and version of `NAME`, `NAME@VERSION`, `@SCOPE/NAME@RANGE`.
pub(super) fn npm(spec: &str) -> Result<(String, Wanted), String> {
    let spec = spec.strip_prefix("npm:").unwrap_or(spec);
    let from = usize::from(spec.starts_with('@'));
    let at = spec
        .get(from..)
        .and_then(|rest| rest.find('@'))
        .map(|at| at + from);
    let (name, version) = match at {
        Some(at) => (&spec[..at], &spec[at + 1..]),
        None => (spec, ""),
    };
    if format!("npm:{name}@0.0.0")
        .parse::<PackageSource>()
        .is_err()
    {
        return Err(format!(
            "{:?} is not a package of the npm registry",
            shown(spec)
        ));
    }
    let exact = format!("npm:{name}@{version}")
        .parse::<PackageSource>()
        .is_ok();
    let version = match version {
        version if exact => Wanted::Exact(version.to_owned()),
        "" => Wanted::Newest("latest".to_owned()),
        version => Wanted::Newest(version.to_owned()),
    };
    Ok((name.to_owned(), version))
}

const UVX_VALUED: [&str; 13] = [
    "--from",
    "--with",
    "-w",
    "--python",
    "-p",
    "--index-url",
    "-i",
    "--index",
    "--extra-index-url",
    "--default-index",
    "--spec",
    "--pip-args",
    "--directory",
];

fn python(launcher: &str, words: &[&str]) -> Result<Command, String> {
    let options = options(words, &UVX_VALUED);
    let (mut from, mut notes) = (None, Vec::new());
    for (option, value) in &options.given {
        match (*option, value) {
            ("--from" | "--spec", Some(value)) => from = Some(*value),
            ("-q" | "--quiet" | "--no-progress" | "--isolated" | "--offline", _) => {}
            ("--with" | "-w", value) => {
                return Err(format!(
                    "{launcher} installs {} beside the package, and a template has one package",
                    shown(value.unwrap_or("something"))
                ));
            }
            (option, _) => notes.push(left_out(launcher, option)),
        }
    }
    let [program, arguments @ ..] = options.rest else {
        return Err(format!("{launcher} is told of no package"));
    };
    let (name, version) = pypi(from.unwrap_or(program))?;
    let program = match from {
        Some(_) => (*program).to_owned(),
        None => name.split('[').next().unwrap_or(&name).to_owned(),
    };
    Ok(Command {
        notes,
        ..Command::of(Run::Package {
            registry: Registry::Pypi,
            name,
            version,
            program: Some(program),
            arguments: owned(arguments),
        })
    })
}

/// Name and version of `NAME`, `NAME==VERSION`, `NAME@VERSION`, `NAME[EXTRA]>=VERSION`.
pub(super) fn pypi(spec: &str) -> Result<(String, Wanted), String> {
    let spec = spec.strip_prefix("pypi:").unwrap_or(spec).trim();
    let end = spec
        .find(['=', '<', '>', '!', '~', '@', ';', ' '])
        .unwrap_or(spec.len());
    let (name, version) = (spec[..end].trim(), spec[end..].trim());
    if format!("pypi:{name}==0").parse::<PackageSource>().is_err() {
        return Err(format!("{:?} is not a package of PyPI", shown(spec)));
    }
    let number = version
        .strip_prefix("==")
        .or_else(|| version.strip_prefix('@'))
        .map(str::trim);
    let exact = number
        .filter(|number| *number != "latest")
        .filter(|number| {
            format!("pypi:{name}=={number}")
                .parse::<PackageSource>()
                .is_ok()
        });
    let version = match (exact, version) {
        (Some(number), _) => Wanted::Exact(number.to_owned()),
        (None, "" | "@latest") => Wanted::Newest(String::new()),
        (None, range) if range.starts_with('@') || range.contains(';') => {
            return Err(format!("{:?} names no version of PyPI", shown(spec)));
        }
        (None, range) => Wanted::Newest(range.to_owned()),
    };
    Ok((name.to_owned(), version))
}

const DOCKER_VALUED: [&str; 22] = [
    "-e",
    "--env",
    "-v",
    "--volume",
    "--mount",
    "--name",
    "--network",
    "--net",
    "-p",
    "--publish",
    "--platform",
    "--env-file",
    "-w",
    "--workdir",
    "-u",
    "--user",
    "--entrypoint",
    "--add-host",
    "-m",
    "--memory",
    "-l",
    "--label",
];

fn container(words: &[&str]) -> Result<Command, String> {
    let options = options(words, &DOCKER_VALUED);
    let [image, arguments @ ..] = options.rest else {
        return Err("its container names no image".to_owned());
    };
    let mut command = Command::of(Run::Container {
        image: shown(image),
        arguments: owned(arguments),
    });
    for (option, value) in options.given {
        match (option, value) {
            ("-e" | "--env", Some(variable)) => {
                let (name, value) = match variable.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (variable, None),
                };
                command.variables.push((name.to_owned(), value));
            }
            ("-v" | "--volume" | "--mount", _) => command
                .notes
                .push("a folder that its container was given is left out; sandbox.write names folders here".to_owned()),
            _ => {}
        }
    }
    Ok(command)
}
