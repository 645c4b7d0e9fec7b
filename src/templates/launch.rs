//! From a template and what a person chose to the command that is launched. Pure.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::parameters;
use crate::domain::{
    egress::HostRule,
    file_argument::FileArgument,
    instance::InstanceSpec,
    package::{PackageSource, Registry},
    sandbox::{Access, Sandbox},
    template::{Delivery, Grant, SettingSpec, SettingType, Template},
};

/// The launch command of an instance, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The program as an absolute path, then its arguments. No shell ever reads them.
    pub argv: Vec<String>,
    /// The whole environment but the credentials, which the supervisor adds.
    pub env: BTreeMap<String, String>,
    /// What it reads from files: the variable that will hold the path, and the content.
    pub files: BTreeMap<String, String>,
    /// Where in `argv` the path of such a file goes.
    pub file_arguments: Vec<FileArgument>,
    /// The instance's own folder.
    pub cwd: PathBuf,
    /// What it may reach.
    pub sandbox: Sandbox,
}

/// Why there is no launch command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// No template of this name is loaded.
    #[error("there is no template {0}")]
    UnknownTemplate(String),
    /// The template's program is not installed; the text tells how to.
    #[error("{0}")]
    Unavailable(String),
    /// A stored setting does not fit the template as it is now.
    #[error("the setting {name} does not fit template {template}: {message}")]
    Setting {
        /// The template.
        template: String,
        /// The setting.
        name: String,
        /// What is wrong and what is allowed.
        message: String,
    },
    /// An HTTP server without a private port.
    #[error("template {0} is an http server and needs a private port")]
    PortMissing(String),
    /// The operator's ceiling does not allow what the template or a setting asks for.
    #[error("{0}")]
    Denied(String),
    /// The URL or a header of a server elsewhere cannot be made.
    #[error("{0}")]
    Remote(String),
    /// A path that is not UTF-8 cannot be handed to programs portably.
    #[error("the path {} is not UTF-8", .0.display())]
    PathEncoding(PathBuf),
}

/// The launch command. `program` is the absolute path of the template's program, for a built-in server that of
/// this binary; `data_dir` is the instance's own folder, absolute; `port` is the private port of an HTTP server.
///
/// # Errors
/// [`ResolveError`] when a stored setting does not fit the template, an HTTP server has no port, or a path is
/// not UTF-8.
pub fn resolve(
    template: &Template,
    program: &Path,
    spec: &InstanceSpec,
    data_dir: &Path,
    port: Option<u16>,
) -> Result<Resolved, ResolveError> {
    let utf8 = |path: &Path| {
        path.to_str()
            .map(str::to_owned)
            .ok_or_else(|| ResolveError::PathEncoding(path.to_owned()))
    };
    let data = utf8(data_dir)?;
    let port_text = port.map(|port| port.to_string());
    let names = Placeholders {
        data: &data,
        port: port_text.as_deref(),
        template,
    };

    let mut argv = vec![utf8(program)?];
    match &template.server.builtin {
        Some(name) => argv.extend(["mcp".to_owned(), name.clone()]),
        None => {
            for argument in template.server.command.iter().skip(1) {
                argv.push(names.fill(argument, None)?);
            }
        }
    }
    let mut env = BTreeMap::from([
        ("HOME".to_owned(), data.clone()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ]);
    if runs_on_node(template) {
        env.insert(
            "NODE_COMPILE_CACHE".to_owned(),
            format!("{data}/{NODE_CODE_DIR}"),
        );
    }
    for (name, value) in &template.environment {
        env.insert(name.as_str().to_owned(), names.fill(value, None)?);
    }
    if let Some(name) = &template.server.port_env {
        env.insert(name.as_str().to_owned(), names.port()?.to_owned());
    }
    let (mut files, mut file_arguments) = (BTreeMap::new(), Vec::new());
    for setting in &template.settings {
        let Some(value) = spec
            .settings
            .get(&setting.name)
            .or(setting.default.as_ref())
        else {
            if setting.required {
                return Err(names.unfit(setting, "it is missing"));
            }
            continue;
        };
        // The template may have changed since the instance was made, so its values are checked at each launch.
        parameters::check_value(setting, value)
            .map_err(|fault| names.unfit(setting, &fault.message))?;
        if let (Delivery::File, Some(name), Value::String(text)) =
            (setting.delivery, &setting.env, value)
        {
            files.insert(name.to_string(), text.clone());
            for argument in &setting.arguments {
                file_arguments.extend(names.places(argument, argv.len(), name.as_str())?);
                argv.push(names.fill(argument, Some(""))?);
            }
            continue;
        }
        for text in argument_values(setting, value) {
            for argument in &setting.arguments {
                argv.push(names.fill(argument, Some(&text))?);
            }
        }
        if let Some(name) = &setting.env {
            env.insert(name.as_str().to_owned(), variable_value(value));
        }
    }
    if let Some(name) = spec.settings.keys().find(|name| {
        let known = |setting: &SettingSpec| setting.name == **name;
        !template.settings.iter().any(known)
    }) {
        return Err(ResolveError::Setting {
            template: template.name.to_string(),
            name: name.clone(),
            message: "the template has no such setting".to_owned(),
        });
    }
    Ok(Resolved {
        argv,
        env,
        files,
        file_arguments,
        cwd: data_dir.to_owned(),
        sandbox: Sandbox::default(),
    })
}

/// Where Node 22.1 and later keep the code that they compiled, below the instance's own folder: nobody else may write
/// there, so that what one server left is never another one's code. Node names its files by user and version besides.
const NODE_CODE_DIR: &str = ".cache/node-compile-cache";

/// Whether the program is Node, or a package of npm, whose programs are scripts for it.
fn runs_on_node(template: &Template) -> bool {
    let server = &template.server;
    let is_npm = |source: &PackageSource| source.registry() == Registry::Npm;
    let program = server.command.first().map(Path::new);
    server.package.as_ref().is_some_and(is_npm)
        || program.and_then(Path::file_name) == Some("node".as_ref())
}

/// A text among the settings: which setting, and which entry of it where that is a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) setting: &'a str,
    pub(super) entry: Option<usize>,
}

/// The paths that settings grant, each with its place.
pub(super) fn grants<'a>(
    template: &'a Template,
    settings: &'a BTreeMap<String, Value>,
) -> impl Iterator<Item = (At<'a>, PathBuf, Access)> {
    granting(template, settings).filter_map(|(at, grant, text)| {
        let access = grant.access()?;
        Some((at, PathBuf::from(text), access))
    })
}

/// The hosts that settings open, or why a value names none, each with its place.
pub(super) fn hosts<'a>(
    template: &'a Template,
    settings: &'a BTreeMap<String, Value>,
) -> impl Iterator<Item = (At<'a>, Result<HostRule, String>)> {
    let opening = granting(template, settings).filter(|(_, grant, _)| *grant == Grant::Host);
    opening.map(|(at, _, text)| (at, host_of(&text)))
}

/// Every text of a setting that grants something.
fn granting<'a>(
    template: &'a Template,
    settings: &'a BTreeMap<String, Value>,
) -> impl Iterator<Item = (At<'a>, Grant, String)> {
    template.settings.iter().flat_map(|setting| {
        let value = settings.get(&setting.name).or(setting.default.as_ref());
        let is_list = value.is_some_and(Value::is_array);
        let texts = match (setting.grants, value) {
            (Some(grant), Some(value)) => argument_values(setting, value)
                .into_iter()
                .map(|text| (grant, text))
                .collect(),
            _ => Vec::new(),
        };
        let name = setting.name.as_str();
        texts
            .into_iter()
            .enumerate()
            .map(move |(index, (grant, text))| {
                let at = At {
                    setting: name,
                    entry: is_list.then_some(index),
                };
                (at, grant, text)
            })
    })
}

/// The host and port of a web address, or a rule as it is; a name alone means `https`.
pub(super) fn host_of(text: &str) -> Result<HostRule, String> {
    let Some((scheme, _)) = text.split_once("://") else {
        let with_port = text.parse::<HostRule>();
        return with_port
            .or_else(|fault| format!("{text}:443").parse().map_err(|_| fault))
            .map_err(|fault| fault.to_string());
    };
    let usual = match scheme.to_ascii_lowercase().as_str() {
        "https" | "wss" => Some(443),
        "http" | "ws" => Some(80),
        _ => None,
    };
    let address: http::Uri = text
        .parse()
        .map_err(|_| "is not a web address".to_owned())?;
    let host = address.host().filter(|host| !host.contains('*'));
    let host = host.ok_or("names no host")?;
    let port = address.port_u16().or(usual);
    let port = port.ok_or("must be an http or https address, or name its port")?;
    format!("{host}:{port}")
        .parse()
        .map_err(|fault: crate::domain::egress::RuleFault| fault.to_string())
}

/// The texts for which the arguments of a setting are added once each.
fn argument_values(setting: &SettingSpec, value: &Value) -> Vec<String> {
    match value {
        Value::Array(entries) => entries.iter().map(plain).collect(),
        Value::Bool(false) if setting.kind == SettingType::Boolean => Vec::new(),
        value => vec![plain(value)],
    }
}

fn variable_value(value: &Value) -> String {
    match value {
        Value::Array(entries) => entries.iter().map(plain).collect::<Vec<_>>().join(","),
        value => plain(value),
    }
}

pub(super) fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

struct Placeholders<'a> {
    data: &'a str,
    port: Option<&'a str>,
    template: &'a Template,
}

impl Placeholders<'_> {
    fn port(&self) -> Result<&str, ResolveError> {
        self.port
            .ok_or_else(|| ResolveError::PortMissing(self.template.name.to_string()))
    }

    fn unfit(&self, setting: &SettingSpec, message: &str) -> ResolveError {
        ResolveError::Setting {
            template: self.template.name.to_string(),
            name: setting.name.clone(),
            message: message.to_owned(),
        }
    }

    /// Where `{value}` stands in an argument, which gets this index, once it is filled without a value.
    fn places(
        &self,
        argument: &str,
        index: usize,
        file: &str,
    ) -> Result<Vec<FileArgument>, ResolveError> {
        let before = argument.match_indices("{value}");
        let places = before.map(|(end, _)| {
            let at = self.fill(&argument[..end], Some(""))?.len();
            Ok(FileArgument {
                index,
                at,
                file: file.to_owned(),
            })
        });
        places.collect()
    }

    /// Replaces the placeholders of `text` in one pass: what comes from a person is never read as a placeholder.
    fn fill(&self, text: &str, value: Option<&str>) -> Result<String, ResolveError> {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            filled.push_str(&rest[..open]);
            rest = &rest[open..];
            let (name, with) = if rest.starts_with("{data}") {
                ("{data}", self.data)
            } else if rest.starts_with("{port}") {
                ("{port}", self.port()?)
            } else if let Some(value) = value.filter(|_| rest.starts_with("{value}")) {
                ("{value}", value)
            } else {
                ("{", "{")
            };
            filled.push_str(with);
            rest = &rest[name.len()..];
        }
        filled.push_str(rest);
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_opens_its_host_and_nothing_else() {
        for (text, rule) in [
            ("https://api.example.com", "api.example.com:443"),
            (
                "https://ghe.example.com:8443/api/v3?x=1",
                "ghe.example.com:8443",
            ),
            ("HTTP://Api.Example.com/", "api.example.com:80"),
            (
                "https://user:secret@api.example.com/",
                "api.example.com:443",
            ),
            ("http://127.0.0.1:9000", "127.0.0.1:9000"),
            ("http://[::1]:9000/x", "[::1]:9000"),
            ("redis://me@db.example.com:6379/0", "db.example.com:6379"),
            ("api.example.com", "api.example.com:443"),
            ("*.example.com:8443", "*.example.com:8443"),
            ("*:443", "*:443"),
        ] {
            let opened = host_of(text).expect(text);
            assert_eq!(opened.to_string(), rule, "{text}");
        }
        for text in [
            "",
            "ftp://example.com",
            "https://",
            "https://*.example.com",
            "https://a b/",
            "/etc/passwd",
        ] {
            assert!(host_of(text).is_err(), "{text}");
        }
    }
}
