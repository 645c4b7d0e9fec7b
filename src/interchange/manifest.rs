//! Writes the template of a translated server.

use std::fmt::Write as _;

use serde_json::Value;

use super::draft::{Draft, Run, Setting, Wanted};
use crate::domain::{
    package::{PackageSource, Registry},
    template::{Grant, SettingType},
};

/// What a registry says of the version of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The exact version.
    pub version: String,
    /// The programs in it, as far as the registry names them.
    pub programs: Vec<String>,
}

/// Why a draft is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestRefused {
    /// A container image without a package in its place.
    #[error(
        "it is the container image {0}, and containers are not run here: name the package that brings the same server, \
         npm:NAME@VERSION or pypi:NAME==VERSION"
    )]
    Container(String),
    /// Nobody knows which version.
    #[error("the version of {0} is not known")]
    NoVersion(String),
    /// What was found out is no package and version.
    #[error("{0} {1}")]
    Package(String, String),
    /// More than a manifest holds.
    #[error("it takes more than 64 {0}, which a template cannot")]
    TooMany(&'static str),
    /// A secret of the file stands in what would be written.
    #[error(
        "a secret of it stands a second time where it would be written in plain: in an argument, an address or a setting"
    )]
    Leak,
}

/// Shorter values are words that stand anywhere by chance.
const LEAK_BYTES_MIN: usize = 4;

impl Draft {
    /// The text of its `template.toml` under the name `name`; `release`: what the registry says of its package;
    /// `origin`: where it comes from, in a few words.
    ///
    /// # Errors
    /// [`ManifestRefused`].
    pub fn manifest(
        &self,
        name: &str,
        release: Option<&Release>,
        origin: &str,
    ) -> Result<String, ManifestRefused> {
        if self.settings.len() > 64 {
            return Err(ManifestRefused::TooMany("settings"));
        }
        if self.credentials.len() > 64 || self.environment.len() > 64 {
            return Err(ManifestRefused::TooMany("variables"));
        }
        let mut text = self.head(name, origin);
        self.server(&mut text, release)?;
        for credential in &self.credentials {
            text.push_str("\n[[credential]]\n");
            line(&mut text, "name", credential.name.as_str());
            line(&mut text, "title", &credential.title);
            if let Some(help) = &credential.help {
                line(&mut text, "help", help);
            }
            if !credential.required {
                text.push_str("required = false\n");
            }
        }
        for setting in &self.settings {
            self::setting(&mut text, setting);
        }
        if !self.environment.is_empty() {
            text.push_str("\n[environment]\n");
            for (name, value) in &self.environment {
                line(&mut text, name.as_str(), value);
            }
        }
        if !matches!(self.run, Run::Remote { .. }) {
            self.sandbox(&mut text);
        }
        if let Some(timeout) = self.start_timeout {
            text.push_str("\n[health]\n");
            line(&mut text, "start_timeout", &timeout.to_string());
        }
        self.leaks_nothing(&text)?;
        Ok(text)
    }

    fn head(&self, name: &str, origin: &str) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "# Imported from {}. It is yours to change.",
            comment(origin)
        );
        if !self.kept.is_empty() {
            text.push_str("# What has no place in a template:\n");
        }
        for (key, value) in &self.kept {
            let value = value.as_deref().unwrap_or("(left out: it may be a secret)");
            let _ = writeln!(text, "#   {}: {}", comment(key), comment(value));
        }
        text.push_str("schema = 1\n");
        line(&mut text, "name", name);
        line(&mut text, "title", &self.title);
        line(&mut text, "description", &self.description);
        if let Some(homepage) = &self.homepage {
            line(&mut text, "homepage", homepage);
        }
        text
    }

    fn server(&self, text: &mut String, release: Option<&Release>) -> Result<(), ManifestRefused> {
        text.push_str("\n[server]\n");
        match &self.run {
            Run::Remote { url, headers } => {
                line(text, "transport", "remote");
                line(text, "url", url);
                if !headers.is_empty() {
                    text.push_str("\n[server.headers]\n");
                }
                for (name, value) in headers {
                    let _ = writeln!(text, "{} = {}", toml(name), toml(value));
                }
            }
            Run::Container { image, .. } => return Err(ManifestRefused::Container(image.clone())),
            Run::Command(command) => {
                line(text, "transport", "stdio");
                list(text, "command", command);
            }
            Run::Package {
                registry,
                name,
                version,
                program,
                arguments,
            } => {
                let version = match (version, release) {
                    (_, Some(release)) => &release.version,
                    (Wanted::Exact(version), None) => version,
                    (Wanted::Newest(_), None) => {
                        return Err(ManifestRefused::NoVersion(name.clone()));
                    }
                };
                let separator = match registry {
                    Registry::Npm => "@",
                    Registry::Pypi => "==",
                };
                let source = format!("{}:{name}{separator}{version}", registry.word());
                let package: PackageSource =
                    source
                        .parse()
                        .map_err(|error: crate::domain::package::PackageError| {
                            ManifestRefused::Package(source.clone(), error.to_string())
                        })?;
                let program = program
                    .clone()
                    .unwrap_or_else(|| program_of(&package, release));
                line(text, "transport", "stdio");
                let mut command = vec![program];
                command.extend(arguments.iter().cloned());
                list(text, "command", &command);
                line(text, "package", &source);
            }
        }
        Ok(())
    }

    fn sandbox(&self, text: &mut String) {
        text.push_str("\n[sandbox]\n");
        if self.hosts.is_empty()
            && !self
                .settings
                .iter()
                .any(|it| it.grants == Some(Grant::Host))
        {
            text.push_str("# Without hosts it has no network: name them, or find them with network = \"learn\".\n");
        }
        let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
        list(text, "hosts", &hosts);
        if !self.write.is_empty() {
            list(text, "write", &self.write);
        }
    }

    /// Whatever the translation did: no secret of the file may be in the text.
    fn leaks_nothing(&self, text: &str) -> Result<(), ManifestRefused> {
        let told =
            |it: &str| text.contains(it) || text.contains(toml(it).trim_matches(['"', '\'']));
        let leak = self.credentials.iter().any(|credential| {
            let value = credential.value.as_deref();
            value.is_some_and(|value| value.len() >= LEAK_BYTES_MIN && told(value))
        });
        if leak {
            Err(ManifestRefused::Leak)
        } else {
            Ok(())
        }
    }
}

/// As `npx` chooses it: the only program of the package, else the one with the package's name.
fn program_of(package: &PackageSource, release: Option<&Release>) -> String {
    let programs = release.map_or(&[][..], |release| &release.programs);
    let guess = package.program();
    match programs {
        [only] => only.clone(),
        programs if programs.iter().any(|program| program == guess) => guess.to_owned(),
        [first, ..] => first.clone(),
        [] => guess.to_owned(),
    }
}

fn setting(text: &mut String, setting: &Setting) {
    text.push_str("\n[[setting]]\n");
    line(text, "name", &setting.name);
    line(text, "title", &setting.title);
    if let Some(help) = &setting.help {
        line(text, "help", help);
    }
    line(
        text,
        "type",
        match setting.kind {
            SettingType::String => "string",
            SettingType::Integer => "integer",
            SettingType::Boolean => "boolean",
            SettingType::StringList => "string-list",
        },
    );
    if let Some(default) = &setting.default {
        let _ = writeln!(text, "default = {}", value(default));
    }
    if setting.required {
        text.push_str("required = true\n");
    }
    if !setting.allowed.is_empty() {
        let _ = writeln!(
            text,
            "enum = {}",
            value(&Value::from(setting.allowed.clone()))
        );
    }
    if let Some(grants) = setting.grants {
        let grants = match grants {
            Grant::Read => "read",
            Grant::Write => "write",
            Grant::Host => "host",
        };
        line(text, "grants", grants);
    }
    if let Some(env) = &setting.env {
        line(text, "env", env.as_str());
    }
    if !setting.arguments.is_empty() {
        list(text, "arguments", &setting.arguments);
    }
}

fn line(text: &mut String, key: &str, value: &str) {
    let _ = writeln!(text, "{key} = {}", toml(value));
}

fn list(text: &mut String, key: &str, values: &[String]) {
    let values: Vec<String> = values.iter().map(|value| toml(value)).collect();
    let _ = writeln!(text, "{key} = [{}]", values.join(", "));
}

/// A text as TOML writes it.
fn toml(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A value of JSON as TOML writes it; settings hold no objects.
fn value(value: &Value) -> String {
    match value {
        Value::String(text) => toml(text),
        Value::Array(entries) => {
            let entries: Vec<String> = entries.iter().map(self::value).collect();
            format!("[{}]", entries.join(", "))
        }
        other => other.to_string(),
    }
}

/// A text as it may stand in a comment: TOML allows no control characters there.
fn comment(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}
