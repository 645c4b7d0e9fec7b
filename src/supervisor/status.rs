//! What goes in and out of the supervisor.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::Seen;
use crate::{
    domain::{
        UnixMs,
        duration::HumanDuration,
        id::{Generation, InstanceId},
        instance::InstanceRecord,
        limits::Limits,
        state::{Health, StatusWord, StopReason},
    },
    runtime::Isolation,
};

/// A create request as it came in; nothing in it is checked yet.
#[derive(Debug, Clone, Default)]
pub struct CreateRequest {
    /// See `wire::CreateInstance`, whose fields these are.
    pub template: String,
    /// The name asked for.
    pub name: Option<String>,
    /// Seconds, or a human text.
    pub ttl: Option<Value>,
    /// Variable to credential name.
    pub credentials: BTreeMap<String, String>,
    /// Settings.
    pub settings: BTreeMap<String, Value>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// How long it may be unused before it is frozen: seconds, or a human text.
    pub freeze_after: Option<Value>,
    /// How long it may be unused before it sleeps: seconds, or a human text.
    pub sleep_after: Option<Value>,
    /// Takes credentials that do not look as their template says.
    pub force: bool,
}

/// Which instances to list.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Only with this status word.
    pub status: Option<StatusWord>,
    /// Only of this template.
    pub template: Option<String>,
    /// Only of this owner.
    pub owner: Option<String>,
}

/// An instance as its actor published it: the record and what lives only in memory.
#[derive(Debug, Clone)]
pub struct InstanceStatus {
    /// The record.
    pub record: InstanceRecord,
    /// The one word.
    pub word: StatusWord,
    /// When the word began.
    pub since: UnixMs,
    /// Why, when there is something to say; redacted. [`Seen::reason`] knows more.
    pub reason: Option<String>,
    /// When something will happen by itself.
    pub next_action_at: Option<UnixMs>,
    /// Health of the present child.
    pub health: Health,
    /// Host pid of the present child.
    pub pid: Option<u32>,
    /// Where its server is, without secrets; `None`: it is a child of ours.
    pub remote: Option<String>,
    /// Layer to state.
    pub isolation: Isolation,
    /// Limits in force.
    pub limits: Limits,
    /// How long it may be unused before it is frozen, where it can be; `None`: for ever.
    pub freeze_after: Option<HumanDuration>,
    /// How long it may be unused before it sleeps; `None`: for ever.
    pub sleep_after: Option<HumanDuration>,
    /// The access URL without its token.
    pub access_url: String,
    /// The same endpoint on the API's address.
    pub path_url: String,
    /// What the server told of itself: (name, version, protocol version, tool names).
    pub server: Option<ServerFacts>,
}

impl InstanceStatus {
    /// What is known of a record whose actor has not published yet.
    pub(super) fn before_birth(record: &InstanceRecord) -> Self {
        Self {
            word: StatusWord::of(&record.state, Health::Unknown),
            since: record.updated_at,
            reason: None,
            next_action_at: None,
            health: Health::Unknown,
            pid: None,
            remote: None,
            isolation: Isolation::default(),
            limits: Limits::default(),
            freeze_after: None,
            sleep_after: None,
            access_url: String::new(),
            path_url: String::new(),
            server: None,
            record: record.clone(),
        }
    }
}

/// Numbers of all instances together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Requests relayed to those that exist now.
    pub requests: u64,
    /// Client sessions open.
    pub sessions: u64,
    /// Children of client sessions.
    pub session_children: u64,
    /// Launches since the daemon started.
    pub launches: u64,
    /// Of these, launches by the restart policy.
    pub restarts: u64,
}

/// What a server told in its handshake; it is shown under these names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerFacts {
    /// `serverInfo.name`.
    pub name: String,
    /// `serverInfo.version`.
    pub version: String,
    /// The revision spoken.
    pub protocol_version: String,
    /// Tool names, in the server's order.
    pub tools: Vec<String>,
}

/// The answer that makes a token: the only time it is shown.
pub struct Granted {
    /// The instance.
    pub status: Seen,
    /// The access token.
    pub access_token: Zeroizing<String>,
    /// The access URL with the token inside.
    pub connect_url: Zeroizing<String>,
}

/// Something that happened, as the event stream tells it.
#[derive(Debug, Clone)]
pub struct InstanceEvent {
    /// The store's number; 0 while the store is away.
    pub id: i64,
    /// The instance.
    pub instance: InstanceId,
    /// Its launch.
    pub generation: Generation,
    /// When.
    pub at: UnixMs,
    /// A stable word.
    pub kind: String,
    /// One sentence.
    pub message: String,
}

/// Why an instance holds still, for people.
pub(super) const FROZEN: &str =
    "nobody used it for a while, so its processes hold still; the next request wakes it";

/// Why an instance is down or on its way there, for people.
pub(super) fn stop_reason_text(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Idle => "nobody used it for a while; the next request wakes it",
        StopReason::Shutdown => "the daemon went down; it starts again with it",
        StopReason::Requested => "someone asked for it",
        StopReason::Expired => "its lease ran out",
        StopReason::Deleted => "someone deleted it",
    }
}
