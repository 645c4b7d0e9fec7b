//! Typed configuration: `config.toml`, overlaid by `MINIMCP_SECTION__KEY` variables, checked as a whole.

mod check;
mod load;
mod overlay;
mod packages;
mod public;
mod redact;
mod remote;
mod sandbox;
#[cfg(test)]
mod tests;
mod traces;

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::domain::{
    access::RateLimit, budget::Budgets, duration::HumanDuration, id::TemplateName,
    sleep::SleepPolicy,
};

pub use check::ConfigFault;
pub use load::{ConfigError, ConfigSource, DEFAULT_FILE, environment};
pub use packages::PackagesConfig;
pub use public::{PublicUrl, TrustedProxy};
pub use remote::RemoteConfig;
pub use sandbox::SandboxConfig;
pub use traces::TracesConfig;

/// The whole configuration. `config.toml` at the top of the repository documents every key with its default,
/// and a test asserts that it reads equal to `Config::default()`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The management API.
    pub api: ApiConfig,
    /// Access URLs.
    pub gateway: GatewayConfig,
    /// Where everything is kept.
    pub database: DatabaseConfig,
    /// How instances run.
    pub runtime: RuntimeConfig,
    /// When instances that nobody uses are stopped until the next request.
    pub sleep: SleepPolicy,
    /// What each owner may have at most.
    pub budgets: Budgets,
    /// The most that instances may reach.
    pub sandbox: SandboxConfig,
    /// Servers elsewhere.
    pub remote: RemoteConfig,
    /// Packages that templates name as their source.
    pub packages: PackagesConfig,
    /// Log capture and retention.
    pub logs: LogsConfig,
    /// Call records and their retention.
    pub calls: CallsConfig,
    /// Traces.
    pub traces: TracesConfig,
    /// Master keys.
    pub secrets: SecretsConfig,
    /// Background tasks, by name: a cron expression with seconds, or `"off"`.
    pub tasks: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Self {
        let schedule = |(task, schedule): (&str, &str)| (task.to_owned(), schedule.to_owned());
        Self {
            api: ApiConfig::default(),
            gateway: GatewayConfig::default(),
            database: DatabaseConfig::default(),
            runtime: RuntimeConfig::default(),
            sleep: SleepPolicy::default(),
            budgets: Budgets::default(),
            sandbox: SandboxConfig::default(),
            remote: RemoteConfig::default(),
            packages: PackagesConfig::default(),
            logs: LogsConfig::default(),
            calls: CallsConfig::default(),
            traces: TracesConfig::default(),
            secrets: SecretsConfig::default(),
            tasks: DEFAULT_SCHEDULES.map(schedule).into(),
        }
    }
}

/// Every background task and its schedule.
const DEFAULT_SCHEDULES: [(&str, &str); 11] = [
    ("access-times", "*/30 * * * * *"),
    ("call-retention", "0 5/10 * * * *"),
    ("collect-packages", "0 25 * * * *"),
    ("disk-use", "*/30 * * * * *"),
    ("give-back-memory", "25 * * * * *"),
    ("history-retention", "0 40 3 * * *"),
    ("log-retention", "0 */10 * * * *"),
    ("memory-pressure", "*/5 * * * * *"),
    ("port-quarantine-sweep", "*/30 * * * * *"),
    ("reconcile", "15 * * * * *"),
    ("reseal-credentials", "0 15 * * * *"),
];

/// The management API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// Address to listen on.
    pub address: IpAddr,
    /// Port to listen on; 0 picks a free one.
    pub port: u16,
    /// A unix socket beside it, mode 0600, for the local CLI; empty: none.
    pub unix_socket: Option<PathBuf>,
    /// The file with the administrator token (mode 0600), made on first start.
    pub admin_token_file: PathBuf,
    /// Origins allowed by CORS.
    pub cors_origins: Vec<String>,
    /// Largest request body in bytes.
    pub body_limit_bytes: usize,
    /// How long one request may take, event streams and log follows excepted.
    pub request_timeout: HumanDuration,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            address: IpAddr::from([127, 0, 0, 1]),
            port: 7420,
            unix_socket: None,
            admin_token_file: "data/admin-token".into(),
            cors_origins: Vec::new(),
            body_limit_bytes: 1 << 20,
            request_timeout: HumanDuration::from_secs(60),
        }
    }
}

/// Access URLs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// Address that the access ports listen on.
    pub address: IpAddr,
    /// Host name written into access URLs; absent: the address.
    pub public_host: Option<String>,
    /// Where the outside finds the API port, when a reverse proxy stands before it: the beginning of `path_url`.
    pub public_url: Option<PublicUrl>,
    /// Peers whose `X-Forwarded-*` and `Forwarded` headers are believed; from anyone else they are ignored.
    pub trusted_proxies: Vec<TrustedProxy>,
    /// Whether server cards, and the catalogue of them all, are shown without an access token.
    pub public_server_cards: bool,
    /// Whether clients that speak only the transport of 2024-11-05 are served (`/sse`, `/messages`).
    pub http_sse: bool,
    /// `Host` header values accepted beside the address and `localhost` (DNS rebinding guard).
    pub allowed_hosts: Vec<String>,
    /// `Origin` header values accepted; requests without Origin always pass this check.
    pub allowed_origins: Vec<String>,
    /// Largest request body in bytes.
    pub body_limit_bytes: usize,
    /// Longest JSON-RPC line from a child in bytes.
    pub line_limit_bytes: usize,
    /// How long a request waits for an instance that is starting.
    pub wake_budget: HumanDuration,
    /// How long a call may go without any sign of life (progress included).
    pub call_timeout: HumanDuration,
    /// How long an unused client session is kept.
    pub session_idle: HumanDuration,
    /// How long calls under way may take to end when the daemon goes and leaves its instances running.
    pub drain_timeout: HumanDuration,
    /// Most client sessions of one instance.
    pub sessions_max: usize,
    /// How often an access token without a rate of its own may be used; absent: as often as it likes.
    pub token_rate_limit: Option<RateLimit>,
    /// How many calls at the same time an access token without a limit of its own may have; absent: any number.
    pub token_concurrency_max: Option<u32>,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            address: IpAddr::from([127, 0, 0, 1]),
            public_host: None,
            public_url: None,
            trusted_proxies: Vec::new(),
            public_server_cards: false,
            http_sse: true,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            body_limit_bytes: 8 << 20,
            line_limit_bytes: 16 << 20,
            wake_budget: HumanDuration::from_secs(30),
            call_timeout: HumanDuration::from_secs(300),
            session_idle: HumanDuration::from_secs(2 * 3_600),
            drain_timeout: HumanDuration::from_secs(20),
            sessions_max: 256,
            token_rate_limit: None,
            token_concurrency_max: None,
        }
    }
}

/// Where everything is kept.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseConfig {
    /// `sqlite:PATH` or `postgres://…`. A password is never shown.
    pub url: String,
    /// Most connections (PostgreSQL; from three on, one of them is for log lines), or readers (SQLite).
    pub connections_max: u32,
    /// How long a statement may wait for a connection.
    pub acquire_timeout: HumanDuration,
    /// How long a statement may take, the wait for a connection included, before the caller hears that the database is
    /// away.
    pub statement_timeout: HumanDuration,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            url: "sqlite:data/minimcp.db".to_owned(),
            connections_max: 8,
            acquire_timeout: HumanDuration::from_secs(5),
            statement_timeout: HumanDuration::from_secs(10),
        }
    }
}

impl std::fmt::Debug for DatabaseConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = self.url.split(':').next().unwrap_or("");
        f.debug_struct("DatabaseConfig")
            .field("url", &format_args!("{kind}:…"))
            .field("connections_max", &self.connections_max)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .finish()
    }
}

/// How instances run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuntimeConfig {
    /// Where `NAME/template.toml` folders lie, beside those inside the binary; a later folder wins over an earlier one.
    pub template_dirs: Vec<PathBuf>,
    /// Where imported templates are written, `NAME/template.toml` each; made when the first one is.
    pub imports_dir: PathBuf,
    /// Each instance gets a folder of its own in here.
    pub instance_dir: PathBuf,
    /// The keeper's socket. With systemd the keeper is a unit of its own; else `serve` starts one.
    pub keeper_socket: PathBuf,
    /// Whether `serve` starts a keeper when none answers at `keeper_socket`.
    pub keeper_spawn: bool,
    /// Whether a keeper that `serve` started lives on when `serve` is killed, so that the next one adopts its
    /// instances.
    pub keeper_linger: bool,
    /// First access port.
    pub port_min: u16,
    /// Last access port.
    pub port_max: u16,
    /// How long a freed port rests before it is leased again.
    pub port_quarantine: HumanDuration,
    /// Where programs of templates are looked up; also the `PATH` of instances.
    pub search_path: Vec<PathBuf>,
    /// Most instances that are not deleted.
    pub instances_max: usize,
    /// Most launches at the same time; how many really go on follows from how busy the host is.
    pub launches_max: usize,
    /// Of which templates children are started ahead, and how many of each.
    pub warm_spares: BTreeMap<TemplateName, usize>,
    /// Most of these at the same time.
    pub warm_spares_max: usize,
    /// Whether instances live on when `serve` ends (an upgrade), or end with it.
    pub leave_instances_running: bool,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            template_dirs: Vec::new(),
            imports_dir: "data/templates".into(),
            instance_dir: "data/instances".into(),
            keeper_socket: "data/keeper.sock".into(),
            keeper_spawn: true,
            keeper_linger: true,
            port_min: 3001,
            port_max: 3999,
            port_quarantine: HumanDuration::from_secs(60),
            search_path: ["/usr/local/bin", "/usr/bin", "/bin"]
                .map(PathBuf::from)
                .to_vec(),
            instances_max: 900,
            launches_max: 16,
            warm_spares: BTreeMap::new(),
            warm_spares_max: 8,
            leave_instances_running: false,
        }
    }
}

/// Log capture and retention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogsConfig {
    /// Longest line in bytes; the rest goes into a line of its own, marked as continued.
    pub line_limit_bytes: usize,
    /// Bytes queued in memory for the writer, all instances together.
    pub queue_bytes: usize,
    /// How many lines one instance may write in how long; past it they are dropped and counted.
    pub rate_limit_per_instance: Option<RateLimit>,
    /// Rows in one transaction at most.
    pub batch_rows: usize,
    /// A row waits at most so long for its batch; not at all behind one that is just written.
    pub batch_delay: HumanDuration,
    /// Folder of the spool used while the database is away.
    pub spool_dir: PathBuf,
    /// Size of the spool in bytes; past it the newest lines are dropped and counted.
    pub spool_bytes: u64,
    /// Rows older than this are deleted.
    pub retention: HumanDuration,
    /// Most rows kept for one instance.
    pub retention_rows_per_instance: u64,
    /// Most bytes kept for one instance: its lines, and [`LOG_ROW_BYTES`] for each.
    pub retention_bytes_per_instance: u64,
    /// Most bytes kept for all together, counted alike; those that have the most lose their oldest first.
    pub retention_bytes_total: u64,
}

/// What a row of the log costs the database beside its text, its places in the indices included: about so many bytes.
pub const LOG_ROW_BYTES: u64 = 64;

impl Default for LogsConfig {
    fn default() -> Self {
        Self {
            line_limit_bytes: 64 << 10,
            queue_bytes: 16 << 20,
            rate_limit_per_instance: Some(RateLimit {
                requests: 100_000,
                per: HumanDuration::from_secs(10),
            }),
            batch_rows: 5_000,
            batch_delay: HumanDuration::from_ms(100),
            spool_dir: "data/spool".into(),
            spool_bytes: 256 << 20,
            retention: HumanDuration::from_secs(14 * 24 * 3_600),
            retention_rows_per_instance: 1_000_000,
            retention_bytes_per_instance: 512 << 20,
            retention_bytes_total: 8 << 30,
        }
    }
}

/// Call records and their retention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallsConfig {
    /// Whether calls of tools are recorded.
    pub enabled: bool,
    /// Records that wait in memory at most, for the database or the spool; past that the newest are dropped and counted.
    pub queue_rows: usize,
    /// A record waits at most so long for others to be written along.
    pub batch_delay: HumanDuration,
    /// Folder of the spool used while the database is away.
    pub spool_dir: PathBuf,
    /// Size of the spool in bytes; past it the newest records are dropped and counted.
    pub spool_bytes: u64,
    /// Most bytes of a call's arguments that are kept, for templates that ask for them.
    pub arguments_bytes: usize,
    /// Records older than this are deleted.
    pub retention: HumanDuration,
    /// Most records kept for one instance.
    pub retention_rows_per_instance: u64,
}

impl Default for CallsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            queue_rows: 20_000,
            batch_delay: HumanDuration::from_ms(200),
            spool_dir: "data/call-spool".into(),
            spool_bytes: 64 << 20,
            arguments_bytes: 4 << 10,
            retention: HumanDuration::from_secs(30 * 24 * 3_600),
            retention_rows_per_instance: 100_000,
        }
    }
}

/// Master keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecretsConfig {
    /// The key ring file (mode 0600), made on first start. `MINIMCP_MASTER_KEY` (base64, 32 bytes) or the systemd
    /// credential `minimcp-master-key` go before it.
    pub key_file: PathBuf,
}

impl Default for SecretsConfig {
    fn default() -> Self {
        Self {
            key_file: "data/master-key".into(),
        }
    }
}
