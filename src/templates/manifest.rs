//! Reads one `template.toml` and tells every fault in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use super::{
    broker, credential_groups, credentials, oauth, parameters, remote,
    schema::{self, Found},
};
use crate::{
    domain::{
        package::Registry,
        sandbox::{Layer, Profile, is_plain},
        template::{
            Delivery, EraPolicy, Grant, Sessions, SettingSpec, SettingType, Template, Transport,
        },
    },
    mcp_servers,
};

/// One thing that is wrong with a manifest, or with the folder it lies in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {key}: {message}", file.display())]
pub struct Fault {
    /// The file, or the folder when that cannot be read.
    pub file: PathBuf,
    /// The key as a dotted path such as `setting[0].default`; `line N` for a fault of the TOML syntax.
    pub key: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// Largest manifest in bytes.
pub const MANIFEST_BYTES_MAX: u64 = 256 * 1024;

/// Reads the manifest `text` of the folder named `folder`; `file` is what faults name.
///
/// # Errors
/// Every fault, in the order of the manifest's keys; never an empty list.
pub fn read(text: &str, folder: &str, file: &Path) -> Result<Template, Vec<Fault>> {
    let mut found = Found::new();
    let template = read_table(text, &mut found).inspect(|template| {
        let mut check = Check {
            template,
            structural: found.clone(),
            found: &mut found,
        };
        check.all(folder);
    });
    match template {
        Some(template) if found.is_empty() => Ok(template),
        _ => Err(found
            .into_iter()
            .map(|(key, message)| Fault {
                file: file.to_owned(),
                key,
                message,
            })
            .collect()),
    }
}

/// The manifest with stand-ins for what is faulty, so that the rest can be checked as well.
fn read_table(text: &str, found: &mut Found) -> Option<Template> {
    let (_, mut errors) = DeTable::parse_recoverable(text);
    errors.sort_by_key(|error| error.span().map(|span| span.start));
    found.extend(errors.iter().map(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        (format!("line {line}"), error.message().to_owned())
    }));
    if !errors.is_empty() {
        return None;
    }
    let mut table = match toml::from_str::<toml::Table>(text) {
        Ok(table) => table,
        Err(error) => {
            found.push(("manifest".to_owned(), error.message().to_owned()));
            return None;
        }
    };
    schema::examine(&mut table, schema::MANIFEST, "", found);
    match table.try_into::<Template>() {
        Ok(template) => Some(template),
        Err(error) => {
            found.push(("manifest".to_owned(), error.message().to_owned()));
            None
        }
    }
}

/// The rules that concern meaning, or several keys.
struct Check<'a> {
    template: &'a Template,
    structural: Found,
    found: &'a mut Found,
}

impl Check<'_> {
    /// Reports unless one of `keys` is a stand-in already reported.
    fn report(&mut self, keys: &[&str], message: impl Into<String>) {
        let faulty = |key: &str| {
            self.structural.iter().any(|(at, _)| {
                key == at
                    || key
                        .strip_prefix(at.as_str())
                        .is_some_and(|rest| rest.starts_with(['.', '[']))
                    // One entry of a list stands in for the whole list.
                    || at
                        .strip_prefix(key)
                        .and_then(|rest| rest.strip_prefix('[')?.strip_suffix(']'))
                        .is_some_and(|index| index.bytes().all(|byte| byte.is_ascii_digit()))
            })
        };
        if !keys.iter().any(|key| faulty(key)) {
            self.found.push((keys[0].to_owned(), message.into()));
        }
    }

    fn all(&mut self, folder: &str) {
        let template = self.template;
        if template.name.as_str() != folder {
            self.report(
                &["name"],
                format!("must equal the folder's name, {folder:?}"),
            );
        }
        self.server();
        for (key, message) in credential_groups::faults(template) {
            self.report(&[&key, "credential"], message);
        }
        self.variables();
        self.sandbox();
        let faults = broker::faults(template).into_iter();
        let faults = faults.chain(oauth::faults(template));
        for (keys, message) in faults.chain(credentials::faults(template)) {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            self.report(&keys, message);
        }
        self.limits();
        let mut names = BTreeSet::new();
        for (index, setting) in template.settings.iter().enumerate() {
            if !names.insert(setting.name.as_str()) {
                self.report(
                    &[&format!("setting[{index}].name")],
                    format!("a setting named {:?} comes earlier", setting.name),
                );
            }
            self.setting(setting, &format!("setting[{index}]"));
        }
        if let Some(ttl_default) = template.lease.ttl_default
            && ttl_default > template.lease.ttl_max
        {
            let message = format!("must be at most ttl_max, {}", template.lease.ttl_max);
            self.report(&["lease.ttl_default", "lease.ttl_max"], message);
        }
        if template.restart.backoff_initial > template.restart.backoff_max {
            let message = format!(
                "must be at most backoff_max, {}",
                template.restart.backoff_max
            );
            self.report(&["restart.backoff_initial", "restart.backoff_max"], message);
        }
    }

    fn server(&mut self) {
        let server = &self.template.server;
        if server.transport == Transport::Remote {
            for (keys, message) in remote::faults(self.template) {
                let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                self.report(&keys, message);
            }
            return self.sessions();
        }
        for (key, is_given) in [
            ("server.url", server.url.is_some()),
            ("server.headers", !server.headers.is_empty()),
        ] {
            if is_given {
                self.report(
                    &[key, "server.transport"],
                    "goes with transport = \"remote\"",
                );
            }
        }
        match (&server.builtin, server.command.as_slice()) {
            (None, []) => self.report(
                &["server", "server.builtin", "server.command"],
                "needs either builtin or command",
            ),
            (Some(_), [_, ..]) => self.report(
                &["server.command", "server.builtin"],
                "must not be given beside builtin: exactly one of the two",
            ),
            (Some(name), []) => {
                if !mcp_servers::NAMES.contains(&name.as_str()) {
                    let names = mcp_servers::NAMES.join(", ");
                    self.report(
                        &["server.builtin"],
                        format!("must be one of the servers in this binary: {names}"),
                    );
                }
                if server.transport == Transport::Http {
                    self.report(
                        &["server.transport", "server.builtin"],
                        "built-in servers speak stdio",
                    );
                }
            }
            (None, [program, ..]) => {
                if program.is_empty()
                    || program.contains(['{', '\n'])
                    || (program.contains('/') && !program.starts_with('/'))
                {
                    self.report(
                        &["server.command"],
                        "must start with a program: a plain name, or an absolute path, without placeholders",
                    );
                }
            }
        }
        if server.package.is_some() && server.builtin.is_some() {
            self.report(
                &["server.package", "server.builtin"],
                "is for a command: a built-in server is in this binary",
            );
        }
        if server.package.is_none() && !server.package_additions.is_empty() {
            self.report(
                &["server.package_additions", "server.package"],
                "goes with package",
            );
        }
        if server.package_additions.is_empty() != server.package_additions_into.is_none() {
            let keys = ["server.package_additions", "server.package_additions_into"];
            let message = "goes with package_additions_into: what is laid, and where";
            self.report(&keys, message);
        }
        let mut additions = server.package_additions.iter();
        if additions.any(|source| source.registry() != Registry::Npm) {
            let message = "must be packages of npm: those lie beside the code that loads them";
            self.report(&["server.package_additions"], message);
        }
        if server.package.is_none() && server.package_scripts {
            self.report(
                &["server.package_scripts", "server.package"],
                "goes with package",
            );
        }
        if server.package.is_some()
            && let Some(program) = server.command.first()
            && program.starts_with('/')
        {
            self.report(
                &["server.command", "server.package"],
                "must start with the plain name of a program of the package",
            );
        }
        if server.command.iter().any(|arg| arg.contains("{value}")) {
            self.report(
                &["server.command"],
                "{value} belongs into the arguments of a setting; the placeholders here are {data} and {port}",
            );
        }
        let mentions_port = server.command.iter().any(|arg| arg.contains("{port}"))
            || self
                .template
                .environment
                .values()
                .any(|v| v.contains("{port}"));
        let tells_port = mentions_port || server.port_env.is_some();
        match server.transport {
            Transport::Http if !tells_port && server.builtin.is_none() => self.report(
                &["server.port_env", "server.transport", "server.command", "environment"],
                "an http server must be told its port: by port_env, or by {port} in command or environment",
            ),
            Transport::Stdio if tells_port => {
                let key = if server.port_env.is_some() {
                    "server.port_env"
                } else {
                    "server.command"
                };
                self.report(
                    &[key, "server.transport"],
                    "a stdio server has no port: port_env and {port} are for transport http",
                );
            }
            _ => {}
        }
        self.sessions();
    }

    fn sessions(&mut self) {
        let server = &self.template.server;
        match (server.sessions, server.transport) {
            (Sessions::PerSession, Transport::Http | Transport::Remote) => self.report(
                &["server.sessions", "server.transport"],
                "per-session is for stdio servers: one that speaks HTTP keeps the sessions of its clients itself",
            ),
            (Sessions::PerSession, Transport::Stdio) => {
                if server.era == EraPolicy::Stateless {
                    self.report(
                        &["server.sessions", "server.era"],
                        "per-session is for servers that keep state per connection, which a stateless one does not",
                    );
                }
            }
            (Sessions::Shared, _) => {
                for (key, is_given) in [
                    ("server.session_children_max", server.session_children_max.is_some()),
                    ("server.session_idle", server.session_idle.is_some()),
                ] {
                    if is_given {
                        self.report(&[key, "server.sessions"], "goes with sessions = \"per-session\"");
                    }
                }
            }
        }
    }

    fn limits(&mut self) {
        let limits = &self.template.limits;
        if limits.memory_high_bytes > limits.max_memory_bytes && limits.max_memory_bytes.is_some() {
            self.report(
                &["limits.memory_high_bytes", "limits.max_memory_bytes"],
                "the first is above the second, which 2 GiB stand for where it is not given",
            );
        }
    }

    fn sandbox(&mut self) {
        let template = self.template;
        let sandbox = &template.sandbox;
        for (key, list) in [
            ("sandbox.read", &sandbox.read),
            ("sandbox.write", &sandbox.write),
        ] {
            for path in list.iter().filter(|path| !is_plain(path)) {
                let message = format!(
                    "{:?} is not an absolute path without \"..\"",
                    path.display()
                );
                self.report(&[key], message);
            }
        }
        if !sandbox.network.is_gated() && !sandbox.hosts.is_empty() {
            let message = format!(
                "goes with network = \"allow-list\" or \"learn\", not with \"{}\"",
                sandbox.network.word()
            );
            self.report(&["sandbox.hosts", "sandbox.network"], message);
        }
        if sandbox.profile == Profile::Off {
            let never = [
                Layer::PrivateRoot,
                Layer::NoCapabilities,
                Layer::SystemCalls,
                Layer::Landlock,
            ];
            for layer in sandbox.require.iter().filter(|layer| never.contains(layer)) {
                let message = format!("the profile off never has the layer {}", layer.word());
                self.report(&["sandbox.require", "sandbox.profile"], message);
            }
        }
    }

    /// Every variable is set by one key only, and none that decides how programs are found or loaded.
    fn variables(&mut self) {
        let template = self.template;
        let mut uses: Vec<(String, &str)> = template
            .environment
            .keys()
            .map(|name| (format!("environment.{name}"), name.as_str()))
            .collect();
        for (index, credential) in template.credentials.iter().enumerate() {
            uses.push((
                format!("credential[{index}].name"),
                credential.name.as_str(),
            ));
        }
        for (index, setting) in template.settings.iter().enumerate() {
            if let Some(env) = &setting.env {
                uses.push((format!("setting[{index}].env"), env.as_str()));
            }
        }
        if let Some(env) = &template.server.port_env {
            uses.push(("server.port_env".to_owned(), env.as_str()));
        }
        let mut first: BTreeMap<&str, String> = BTreeMap::new();
        for (key, name) in uses {
            let from_request = !key.starts_with("environment.");
            if from_request && (name.starts_with("LD_") || matches!(name, "PATH" | "HOME")) {
                let message =
                    format!("{name} decides how programs run and is not for requests to set");
                self.report(&[&key], message);
            }
            if let Some(earlier) = first.get(name) {
                let message = format!("the variable {name} is set by {earlier} already");
                self.report(&[&key], message);
            } else {
                first.insert(name, key);
            }
        }
    }

    fn setting_as_file(&mut self, setting: &SettingSpec, key: &dyn Fn(&str) -> String) {
        let at = key("delivery");
        if setting.kind != SettingType::String {
            let message = "\"file\" is for a string, which is what the file holds";
            self.report(&[&at, &key("type")], message);
        }
        if setting.env.is_none() {
            let message =
                "\"file\" needs env: the file has the name of the variable, which holds its path";
            self.report(&[&at, &key("env")], message);
        }
        if setting.grants.is_some() {
            let message =
                "\"file\" is for a text that the server reads, grants for one that opens something";
            self.report(&[&at, &key("grants")], message);
        }
        if self.template.server.transport == Transport::Remote {
            let message =
                "\"file\" is for a process of ours: a server elsewhere reads no file of this host";
            self.report(&[&at, "server.transport"], message);
        }
    }

    fn setting(&mut self, setting: &SettingSpec, at: &str) {
        let key = |name: &str| format!("{at}.{name}");
        let kind_key = key("type");
        let only_opens = setting.grants == Some(Grant::Host);
        let is_remote = self.template.server.transport == Transport::Remote;
        if setting.env.is_none() && setting.arguments.is_empty() && !only_opens && !is_remote {
            self.report(
                &[at, &key("env"), &key("arguments")],
                "needs env or arguments, else the server never sees it",
            );
        }
        if setting.delivery == Delivery::File {
            self.setting_as_file(setting, &key);
        }
        let takes_value = setting.arguments.iter().any(|arg| arg.contains("{value}"));
        if setting.kind == SettingType::Boolean {
            if takes_value {
                self.report(
                    &[&key("arguments"), &kind_key],
                    "a boolean adds its arguments as they are, without {value}",
                );
            }
            if !setting.allowed.is_empty() {
                self.report(&[&key("enum"), &kind_key], "is not for a boolean");
            }
        } else if !setting.arguments.is_empty() && !takes_value {
            self.report(
                &[&key("arguments"), &kind_key],
                "must contain {value}, else the setting is lost",
            );
        }
        let names_paths = matches!(setting.kind, SettingType::String | SettingType::StringList);
        if setting.grants.is_some() && !names_paths {
            self.report(
                &[&key("grants"), &kind_key],
                "is for a string or a string-list, which then holds paths or addresses",
            );
        }
        // A list's enum holds what its entries may be.
        let single = SettingSpec {
            allowed: Vec::new(),
            kind: match setting.kind {
                SettingType::StringList => SettingType::String,
                kind => kind,
            },
            ..setting.clone()
        };
        for value in &setting.allowed {
            if let Err(fault) = parameters::check_value(&single, value) {
                let message = format!("{value}: {}", fault.message);
                self.report(&[&key("enum"), &kind_key], message);
            }
        }
        if let Some(default) = &setting.default
            && let Err(fault) = parameters::check_value(setting, default)
        {
            self.report(&[&key("default"), &kind_key, &key("enum")], fault.message);
        }
    }
}
