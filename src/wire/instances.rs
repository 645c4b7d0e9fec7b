//! Instances on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schemas::{DesiredSchema, DurationSchema, HealthSchema, StatusSchema};

/// `POST /mcps`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateInstance {
    /// The template to run.
    pub template: String,
    /// In whose name; absent: `admin`. It gets credentials of this owner only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// A name of one's own; absent: one is made from the template's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Time to live: seconds or a text such as `30m`; absent: the template's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DurationSchema>, example = "2h")]
    pub ttl: Option<serde_json::Value>,
    /// Environment variable to name of a stored credential.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<String, String>,
    /// Settings of the template.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub settings: BTreeMap<String, serde_json::Value>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How long nobody uses it before it is frozen, with all that its processes have in memory, where the host can do so:
    /// as `sleep_after`; at most `sleep.freeze_after_max` of the configuration, and without effect if not before it sleeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DurationSchema>, example = "1m")]
    pub freeze_after: Option<serde_json::Value>,
    /// How long nobody uses it before it sleeps: seconds or a text such as `15m`; `0s`: it never does; absent: as its
    /// template says. At most `sleep.after_max` of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DurationSchema>, example = "15m")]
    pub sleep_after: Option<serde_json::Value>,
    /// Takes credentials that do not look as their template says (`pattern`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// `PATCH /mcps/{id}`: what is absent stays.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchInstance {
    /// A new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// New labels, replacing all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub labels: Option<BTreeMap<String, String>>,
    /// How long nobody uses it before it is frozen, as when it was created; `null`: as its template says.
    #[serde(
        default,
        deserialize_with = "super::tokens::given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<DurationSchema>, example = "1m")]
    pub freeze_after: Option<serde_json::Value>,
    /// How long nobody uses it before it sleeps, as when it was created; `null`: as its template says.
    #[serde(
        default,
        deserialize_with = "super::tokens::given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<DurationSchema>, example = "15m")]
    pub sleep_after: Option<serde_json::Value>,
}

/// `POST /mcps/{id}/extend` and `/restore`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TtlRequest {
    /// Counted from now: seconds or a text such as `30m`. Absent: as it was last asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DurationSchema>, example = "2h")]
    pub ttl: Option<serde_json::Value>,
}

/// `POST /mcps/{id}/access-token`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateAccessToken {
    /// How long the old token stays valid; absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DurationSchema>, example = "5m")]
    pub overlap: Option<serde_json::Value>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// Its identity (UUID).
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its owner.
    pub owner: String,
    /// What it is called where instances of all owners meet, as in the paths of this API and in `path_url`: its name, and
    /// before it the owner and a dot where that is another than `admin`.
    #[serde(default)]
    pub slug: String,
    /// Its template.
    pub template: String,
    /// pending, starting, running, unhealthy, frozen, backing-off, stopping, stopped, asleep, expired or failed.
    #[schema(value_type = StatusSchema)]
    pub status: String,
    /// When the status began (RFC 3339).
    #[schema(format = DateTime)]
    pub since: String,
    /// Why it is so, in one sentence, when there is something to say.
    pub reason: Option<String>,
    /// When something will happen by itself (the next launch, a kill), if so.
    #[schema(format = DateTime)]
    pub next_action_at: Option<String>,
    /// unknown, healthy or unhealthy.
    #[schema(value_type = HealthSchema)]
    pub health: String,
    /// What was asked: running or stopped.
    #[schema(value_type = DesiredSchema)]
    pub desired: String,
    /// Launches so far.
    pub generation: u64,
    /// The access port.
    pub port: Option<u16>,
    /// The process id of the child on the host.
    pub pid: Option<u32>,
    /// Where its server is (without secrets) when that is no process here: then there is no pid, and no isolation.
    #[serde(default)]
    pub remote: Option<String>,
    /// The children of its client sessions, where each session has one of its own.
    #[serde(default)]
    pub session_children: Vec<SessionChild>,
    /// The access URL; it needs the access token as `Authorization: Bearer`.
    pub access_url: String,
    /// The same endpoint on the API's address (or `gateway.public_url`); it changes with the name, and takes the same
    /// access token.
    #[serde(default)]
    pub path_url: String,
    /// The secret of the access URL; only in the answer that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    /// The access URL with the token inside, for clients that cannot send a header; only beside `access_token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_url: Option<String>,
    /// When it was created.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// When its lease ends.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
    /// Once expired: until when it can be restored.
    #[schema(format = DateTime)]
    pub restore_until: Option<String>,
    /// When a client last used it.
    #[schema(format = DateTime)]
    pub last_accessed_at: Option<String>,
    /// How long nobody uses it before it is frozen, as it is in force where the host can do so; `null`: it never is.
    #[serde(default)]
    pub freeze_after: Option<String>,
    /// How long nobody uses it before it sleeps, as it is in force; `null`: it never does.
    #[serde(default)]
    pub sleep_after: Option<String>,
    /// Launches after its server ended by itself; what was asked for (start, restart, restore) is not counted.
    pub restarts: u64,
    /// How its last child ended.
    pub last_exit: Option<LastExit>,
    /// Name and version the server told in its handshake, and its tools' names.
    pub server: Option<ServerFacts>,
    /// What isolation really holds for the present child: layer to state, such as `pid_namespace: enforced`.
    pub isolation: BTreeMap<String, String>,
    /// What it may reach, reached and was refused, where its network is an allow-list or learns one.
    #[serde(default)]
    pub egress: Option<Egress>,
    /// The system calls that it was refused, where they are counted.
    #[serde(default)]
    pub denials: Option<Denials>,
    /// Its limits.
    #[schema(value_type = Object)]
    pub limits: serde_json::Value,
    /// Variable to credential name; never a value.
    pub credentials: BTreeMap<String, String>,
    /// Its settings.
    #[schema(value_type = Object)]
    pub settings: BTreeMap<String, serde_json::Value>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What a list with `view=summary` holds of an instance: the fields of the same names of [`Instance`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstanceSummary {
    /// Its identity (UUID).
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its owner.
    pub owner: String,
    /// What it is called where instances of all owners meet.
    pub slug: String,
    /// Its template.
    pub template: String,
    /// pending, starting, running, unhealthy, frozen, backing-off, stopping, stopped, asleep, expired or failed.
    #[schema(value_type = StatusSchema)]
    pub status: String,
    /// When the status began (RFC 3339).
    #[schema(format = DateTime)]
    pub since: String,
    /// Why it is so, in one sentence, when there is something to say.
    pub reason: Option<String>,
    /// When something will happen by itself (the next launch, a kill), if so.
    #[schema(format = DateTime)]
    pub next_action_at: Option<String>,
    /// unknown, healthy or unhealthy.
    #[schema(value_type = HealthSchema)]
    pub health: String,
    /// What was asked: running or stopped.
    #[schema(value_type = DesiredSchema)]
    pub desired: String,
    /// The access port.
    pub port: Option<u16>,
    /// The process id of the child on the host.
    pub pid: Option<u32>,
    /// The access URL; it needs the access token as `Authorization: Bearer`.
    pub access_url: String,
    /// The same endpoint on the API's address (or `gateway.public_url`).
    pub path_url: String,
    /// When it was created.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// When its lease ends.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
    /// When a client last used it.
    #[schema(format = DateTime)]
    pub last_accessed_at: Option<String>,
    /// Launches after its server ended by itself.
    pub restarts: u64,
}

impl Instance {
    /// Its slug; its name where the daemon is too old to tell it.
    #[must_use]
    pub fn called(&self) -> &str {
        match self.slug.is_empty() {
            true => &self.name,
            false => &self.slug,
        }
    }
}

/// System calls that an instance was refused by its filter. What Landlock refuses is not told by the kernel before 6.15,
/// and what is not there (files, processes, hosts) is refused to nobody.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Denials {
    /// All of them.
    pub total: u64,
    /// The last time (RFC 3339).
    #[schema(format = DateTime)]
    pub last_at: Option<String>,
    /// By kind, the most frequent first; at most 64 of one child, further ones are in `total` only.
    pub calls: Vec<DeniedCall>,
}

/// One kind of system call that an instance was refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeniedCall {
    /// Its name, such as `ptrace`; of one with many uses, such as `socket`, only some are refused.
    pub call: String,
    /// How often.
    pub count: u64,
    /// The last time (RFC 3339).
    #[schema(format = DateTime)]
    pub last_at: String,
}

/// What of the network an instance may reach, reached and was refused since the daemon started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Egress {
    /// The hosts it may reach, such as `api.example.com:443`.
    pub hosts: Vec<String>,
    /// Whether every public host is let through, to find out which it needs: those in `reached_hosts`.
    pub learns: bool,
    /// Its credentials whose values stay outside of the sandbox, where they are added to its requests.
    #[serde(default)]
    pub held_keys: Vec<HeldKey>,
    /// Questions for names and connections that were refused.
    pub refused: u64,
    /// The last time (RFC 3339).
    #[schema(format = DateTime)]
    pub last_refused_at: Option<String>,
    /// By host; at most 64, the first ones.
    pub refused_hosts: Vec<EgressHost>,
    /// Hosts that were reached; at most 64, the first ones.
    pub reached_hosts: Vec<EgressHost>,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
}

/// A key that an instance uses and does not hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeldKey {
    /// The variable of the credential, which holds a placeholder.
    pub variable: String,
    /// The service that the key is added for: scheme, host and port.
    pub upstream: String,
}

/// One host that an instance reached, or was refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EgressHost {
    /// `host:port`, or the host alone where its name was asked for and refused.
    pub host: String,
    /// Why it was refused the last time.
    pub reason: Option<String>,
    /// How often.
    pub count: u64,
    /// The last time (RFC 3339).
    #[schema(format = DateTime)]
    pub last_at: String,
}

/// A child that serves one client session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SessionChild {
    /// Its number, as log lines and events name it.
    pub number: u32,
    /// The process id on the host, once it was launched.
    pub pid: Option<u32>,
}

/// What the server told of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServerFacts {
    /// `serverInfo.name`.
    pub name: String,
    /// `serverInfo.version`.
    pub version: String,
    /// The MCP revision spoken with it.
    pub protocol_version: String,
    /// The names of its tools.
    pub tools: Vec<String>,
}

/// How the last child ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LastExit {
    /// Which launch.
    pub generation: u64,
    /// When.
    #[schema(format = DateTime)]
    pub at: String,
    /// In words, such as `exited with code 3`.
    pub cause: String,
    /// The exit code, if it exited.
    pub code: Option<i32>,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
    /// Whether memory ended it.
    pub out_of_memory: bool,
    /// CPU time in milliseconds.
    pub cpu_ms: u64,
    /// Largest resident set in KiB.
    pub max_rss_kib: u64,
    /// The last redacted lines of its stderr.
    pub last_stderr: Vec<String>,
}

/// What a running instance uses now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// Resident memory of its processes in KiB.
    pub rss_kib: u64,
    /// CPU time of its processes so far in milliseconds.
    pub cpu_ms: u64,
    /// Its processes, the init included.
    pub processes: u32,
    /// Client sessions open.
    pub sessions: u64,
    /// Children that serve one client session each; memory and CPU time count them.
    #[serde(default)]
    pub session_children: u64,
    /// Requests under way now, over pipes and HTTP alike: at the main child and at those of single sessions.
    #[serde(default)]
    pub calls_in_flight: u64,
    /// Requests that were not answered in time: by the main child since it was launched, and by those children of
    /// single sessions that live.
    #[serde(default)]
    pub calls_overdue: u64,
    /// MCP requests relayed since the daemon started.
    pub requests: u64,
    /// Log lines stored since the daemon started.
    pub log_lines: u64,
    /// Calls of its tools in the last while.
    pub calls: super::CallStats,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// Give this as `cursor` for the next page; absent: there is none.
    pub next_cursor: Option<String>,
}

/// Something that happened to an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstanceEvent {
    /// Rises with time; the cursor of lists and `Last-Event-ID` of streams.
    pub id: i64,
    /// The instance.
    pub instance: String,
    /// Which launch it belongs to.
    pub generation: u64,
    /// When.
    #[schema(format = DateTime)]
    pub at: String,
    /// A stable word such as `created`, `running`, `exited`, `lease-warning`.
    pub kind: String,
    /// What happened, in one sentence.
    pub message: String,
}

/// One message of the event stream over a WebSocket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum EventMessage {
    /// Something happened.
    Event(InstanceEvent),
    /// Something was missed.
    Gap(EventGap),
}

/// Events that a listener missed because it was too slow, and that cannot be told any more: it had seen no `id` yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventGap {
    /// So many, of all instances.
    pub missed: u64,
}
