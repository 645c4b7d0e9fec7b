//! The template manifest (`mcp-templates/NAME/template.toml`): what may be run, and how.
//!
//! This file holds the shape and its defaults; [`crate::domain::instance`] checks a request against it,
//! `templates/` reads the files.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    broker::BrokerSpec,
    duration::HumanDuration,
    id::{EnvName, TemplateName},
    limits::Limits,
    oauth::OauthSpec,
    package::PackageSource,
    restart::RestartSpec,
    sandbox::{Access, SandboxSpec},
    sleep::SleepSpec,
};

/// The manifest format that this build reads (`schema = 1`).
pub const MANIFEST_SCHEMA: u32 = 1;

/// One template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The manifest format: 1.
    pub schema: u32,
    /// Equal to the folder's name.
    pub name: TemplateName,
    /// What people call it.
    pub title: String,
    /// One or two sentences: what the server does.
    pub description: String,
    /// Where to read more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub homepage: Option<String>,
    /// Its picture: an SVG or PNG file beside the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icon: Option<String>,
    /// What runs and how to talk to it.
    pub server: ServerSpec,
    /// Ways to sign in: of these groups of credentials one must be given whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials_one_of: Vec<Vec<EnvName>>,
    /// Secrets it takes, by environment variable.
    #[serde(default, rename = "credential")]
    pub credentials: Vec<CredentialSpec>,
    /// An OAuth sign-in whose client secret, refresh token and access tokens stay outside of the sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth: Option<OauthSpec>,
    /// A call by which the credentials are checked (`minimcp credential check`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckSpec>,
    /// Settings it takes, none of them secret.
    #[serde(default, rename = "setting")]
    pub settings: Vec<SettingSpec>,
    /// Environment variables that are always set.
    #[serde(default)]
    pub environment: BTreeMap<EnvName, String>,
    /// Limits of one instance.
    #[serde(default)]
    pub limits: Limits,
    /// What it may reach.
    #[serde(default)]
    pub sandbox: SandboxSpec,
    /// Readiness and liveness.
    #[serde(default)]
    pub health: HealthSpec,
    /// What happens when it ends by itself.
    #[serde(default)]
    pub restart: RestartSpec,
    /// How long an instance lives.
    #[serde(default)]
    pub lease: LeaseSpec,
    /// When an instance that nobody uses is stopped until the next request.
    #[serde(default)]
    pub sleep: SleepSpec,
    /// How it is stopped.
    #[serde(default)]
    pub stop: StopSpec,
    /// What is kept of its calls.
    #[serde(default)]
    pub calls: CallsSpec,
}

impl Template {
    /// Whether the credential of this variable is delivered as a file.
    #[must_use]
    pub fn delivers_as_file(&self, variable: &str) -> bool {
        self.credentials.iter().any(|credential| {
            credential.name.as_str() == variable && credential.delivery == Delivery::File
        })
    }
}

/// A call of a tool that changes nothing and that the service answers to valid credentials only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckSpec {
    /// The name of the tool.
    pub tool: String,
    /// Its arguments.
    #[serde(default)]
    pub arguments: serde_json::Map<String, serde_json::Value>,
}

/// What is kept of calls of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CallsSpec {
    /// Whether the arguments are kept too, redacted and cut.
    pub record_arguments: bool,
}

/// What runs and how to talk to it. Exactly one of `builtin`, `command` and `url` is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerSpec {
    /// How MCP is spoken with it.
    pub transport: Transport,
    /// A server inside our own binary (`minimcp mcp NAME`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builtin: Option<String>,
    /// Program and arguments. The program is looked up in `runtime.search_path`, or an absolute path.
    /// `{data}` stands for the instance's own folder, `{port}` for the private port of an HTTP server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// The package that brings the program, where it is not on `runtime.search_path` by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<PackageSource>,
    /// Packages of npm that code of the package loads from a folder of its own; left out where there is no npm.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub package_additions: Vec<PackageSource>,
    /// That folder, below the modules of the package: it gets a `node_modules`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package_additions_into: Option<String>,
    /// Whether the install scripts of the package are run.
    #[serde(default)]
    pub package_scripts: bool,
    /// How to install the program, shown when it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install: Option<String>,
    /// Remote only: where the server is. `{setting.NAME}` and `{credential.NAME}` stand for values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Remote only: sent with every request, with the same placeholders; one whose values are not given is not sent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// HTTP only: the variable that tells the server its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_env: Option<EnvName>,
    /// HTTP only: the path of its MCP endpoint.
    #[serde(default = "default_http_path")]
    pub path: String,
    /// Which era of MCP is spoken with it.
    #[serde(default)]
    pub era: EraPolicy,
    /// What happens to its requests that could belong to several clients.
    #[serde(default)]
    pub unclaimed_requests: UnclaimedRequests,
    /// Whether client sessions share one child.
    #[serde(default)]
    pub sessions: Sessions,
    /// Per-session only: most children of client sessions at the same time; absent: [`SESSION_CHILDREN_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_children_max: Option<u32>,
    /// Per-session only: how long an unused session, and with it its child, is kept; absent: `gateway.session_idle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_idle: Option<HumanDuration>,
    /// Shared stdio servers only: whether what it said of itself, and its lists, are answered in its place while it sleeps
    /// or starts. `false`: they may change while it is not there, and a client that asks starts it.
    #[serde(default = "yes")]
    pub capability_cache: bool,
}

/// Most children of client sessions when the template does not say.
pub const SESSION_CHILDREN_MAX: u32 = 16;

/// Whether the client sessions of an instance share one child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Sessions {
    /// One child serves all.
    #[default]
    Shared,
    /// Each session has a child of its own beside the main child, for servers that keep state per connection.
    PerSession,
}

impl ServerSpec {
    /// Whether what it offers is kept and answered in its place. Over HTTP servers answer for themselves, and so does each
    /// child of a session.
    #[must_use]
    pub fn caches_capabilities(&self) -> bool {
        self.capability_cache
            && self.transport == Transport::Stdio
            && self.sessions == Sessions::Shared
    }

    /// How many children client sessions may have; `None`: they share one.
    #[must_use]
    pub fn members_max(&self) -> Option<usize> {
        let max = self.session_children_max.unwrap_or(SESSION_CHILDREN_MAX);
        match self.sessions {
            Sessions::Shared => None,
            Sessions::PerSession => Some(usize::try_from(max).unwrap_or(usize::MAX)),
        }
    }
}

fn default_http_path() -> String {
    "/mcp".to_owned()
}

/// How MCP is spoken with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// JSON-RPC lines over stdin and stdout.
    Stdio,
    /// MCP Streamable HTTP on a private loopback port.
    Http,
    /// MCP Streamable HTTP at a server elsewhere, which is none of our processes.
    Remote,
}

impl Transport {
    /// Its word in manifests and in the API.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Stdio => "stdio",
            Self::Http => "http",
            Self::Remote => "remote",
        }
    }
}

/// Which era of MCP is spoken with a server. The era of a stdio process is decided by the first request that it gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EraPolicy {
    /// The session era first; the stateless one when the server refuses it, or is silent.
    #[default]
    Auto,
    /// 2024-11-05 to 2025-11-25 only: `initialize` must succeed.
    Session,
    /// 2026-07-28 only, at once: for a server that ends when it gets `initialize`.
    Stateless,
}

/// What happens to a request of a server that names no call, while calls of several clients are under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UnclaimedRequests {
    /// It is answered with an error: a question must not reach the wrong person.
    #[default]
    Refuse,
    /// The client of the newest call gets it: for a server whose clients all belong to one person.
    NewestCall,
}

/// A secret that a server takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialSpec {
    /// The environment variable that delivers it.
    pub name: EnvName,
    /// What the variable holds.
    #[serde(default)]
    pub delivery: Delivery,
    /// What people call it.
    pub title: String,
    /// Where to get one, step by step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Whether an instance needs it.
    #[serde(default = "yes")]
    pub required: bool,
    /// A regular expression for the whole value; a request that gives another one is refused, unless it insists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// What the pattern says, in words that go on from "must": `begin with ntn_`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern_help: Option<String>,
    /// Its value stays outside of the sandbox, where it is added to requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<BrokerSpec>,
}

/// What the variable of a credential or a setting holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// The value.
    #[default]
    Env,
    /// The path of a file with the value, which lies in memory and is for this server's processes alone.
    File,
}

impl Delivery {
    /// Its word in manifests and in the API.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::File => "file",
        }
    }
}

/// A setting that a server takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SettingSpec {
    /// The key in `settings` of a create request: a-z, 0-9 and '_'.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// What it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// What it holds.
    #[serde(rename = "type")]
    pub kind: SettingType,
    /// Used when the request does not give it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<serde_json::Value>,
    /// Whether a request must give it (when there is no default).
    #[serde(default)]
    pub required: bool,
    /// Its value is a path of the host, or a list of them, that the server then reads or writes, or an address that it
    /// then reaches; given as far as the operator's ceiling goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grants: Option<Grant>,
    /// The values allowed, where not every one is.
    #[serde(default, rename = "enum", skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<serde_json::Value>,
    /// Whether the variable, and `{value}` in arguments, is the value or the path of a file with it.
    #[serde(default)]
    pub delivery: Delivery,
    /// Delivered as this variable (a list joined by commas, a boolean as `true` or `false`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<EnvName>,
    /// Delivered as arguments: `{value}` is replaced; once for each entry of a list; a boolean adds the
    /// arguments when true. Appended to the command in the order of the manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
}

/// What the value of a setting opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Grant {
    /// A path, to be read.
    Read,
    /// A path, to be written as well.
    Write,
    /// A web address, or `host:port`, to be reached.
    Host,
}

impl Grant {
    /// What a path is opened for; `None`: it is no path.
    #[must_use]
    pub fn access(self) -> Option<Access> {
        match self {
            Self::Read => Some(Access::Read),
            Self::Write => Some(Access::Write),
            Self::Host => None,
        }
    }
}

/// What a setting holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SettingType {
    /// Text, at most 4,096 bytes, no control characters.
    String,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// Up to 64 texts.
    StringList,
}

/// Readiness and liveness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthSpec {
    /// From launch until the MCP handshake and the tool list must be done.
    pub start_timeout: HumanDuration,
    /// Between two liveness probes.
    pub interval: HumanDuration,
    /// How long one probe may take.
    pub timeout: HumanDuration,
    /// So many failures in a row make it unhealthy, and restart it.
    pub failure_threshold: u32,
}

impl Default for HealthSpec {
    fn default() -> Self {
        Self {
            start_timeout: HumanDuration::from_secs(60),
            interval: HumanDuration::from_secs(30),
            timeout: HumanDuration::from_secs(5),
            failure_threshold: 3,
        }
    }
}

/// How long an instance lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LeaseSpec {
    /// The TTL when a request gives none; absent: no expiry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_default: Option<HumanDuration>,
    /// The longest TTL that a request may ask for.
    pub ttl_max: HumanDuration,
    /// How long an expired instance can be restored before it is purged.
    pub restore_window: HumanDuration,
    /// How long before the expiry the warning event comes.
    pub warn_before: HumanDuration,
}

impl Default for LeaseSpec {
    fn default() -> Self {
        Self {
            ttl_default: None,
            ttl_max: HumanDuration::from_secs(30 * 24 * 3_600),
            restore_window: HumanDuration::from_secs(7 * 24 * 3_600),
            warn_before: HumanDuration::from_secs(300),
        }
    }
}

/// How an instance is stopped: close stdin, wait, SIGTERM, wait, kill the tree (MCP, stdio shutdown).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StopSpec {
    /// From closing stdin to SIGTERM.
    pub eof_grace: HumanDuration,
    /// From SIGTERM to killing the tree.
    pub term_grace: HumanDuration,
}

impl Default for StopSpec {
    fn default() -> Self {
        Self {
            eof_grace: HumanDuration::from_secs(2),
            term_grace: HumanDuration::from_secs(3),
        }
    }
}

fn yes() -> bool {
    true
}
