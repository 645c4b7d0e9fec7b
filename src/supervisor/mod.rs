//! The imperative shell: one actor per instance, and the handle through which everyone speaks with them.

pub mod route;

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::sync::broadcast;
use zeroize::Zeroizing;

use crate::domain::{
    UnixMs,
    duration::HumanDuration,
    id::{Generation, InstanceId},
    instance::InstanceRecord,
    principal::Principal,
    state::{Health, StatusWord},
    template::Limits,
    violation::Violation,
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

/// An instance as it is now: the record and what lives only in memory.
#[derive(Debug, Clone)]
pub struct InstanceStatus {
    /// The record.
    pub record: InstanceRecord,
    /// The one word.
    pub word: StatusWord,
    /// When the word began.
    pub since: UnixMs,
    /// Why, when there is something to say; redacted.
    pub reason: Option<String>,
    /// When something will happen by itself.
    pub next_action_at: Option<UnixMs>,
    /// Health of the present child.
    pub health: Health,
    /// Host pid of the present child.
    pub pid: Option<u32>,
    /// Layer to state.
    pub isolation: BTreeMap<String, String>,
    /// Limits in force.
    pub limits: Limits,
    /// The access URL without its token.
    pub access_url: String,
    /// What the server told of itself: (name, version, protocol version, tool names).
    pub server: Option<ServerFacts>,
}

/// What a server told in its handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    pub status: InstanceStatus,
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

/// Why the supervisor refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The request is not valid: every fault.
    #[error("the request is not valid")]
    Invalid(Vec<Violation>),
    /// No such instance.
    #[error("there is no instance {0}")]
    NotFound(String),
    /// The name belongs to another instance of this owner.
    #[error("the name {0:?} is taken by another of your instances")]
    NameTaken(String),
    /// The template's program is missing.
    #[error("template {name} is not available here: {reason}")]
    TemplateUnavailable {
        /// The template.
        name: String,
        /// Why, with the install hint.
        reason: String,
    },
    /// The verb does not fit the state.
    #[error("cannot {verb} an instance that is {status}: {allowed}")]
    WrongState {
        /// What was asked.
        verb: &'static str,
        /// What it is.
        status: StatusWord,
        /// What would be possible.
        allowed: &'static str,
    },
    /// Every port of the range is leased, resting or taken by strangers.
    #[error(
        "no access port is free: {leased} of {min} to {max} are leased, {quarantined} rest, {foreign} are taken by other programs"
    )]
    PortsExhausted {
        /// First port.
        min: u16,
        /// Last port.
        max: u16,
        /// Held by instances.
        leased: usize,
        /// In quarantine.
        quarantined: usize,
        /// Taken by strangers.
        foreign: usize,
    },
    /// `runtime.instances_max` is reached.
    #[error("there are already {0} instances, the most that this host allows")]
    InstancesExhausted(usize),
    /// Too many commands wait for this instance.
    #[error("the instance is busy; try again")]
    Busy,
    /// The daemon goes down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// The database is away.
    #[error("the database is away: {0}")]
    Unavailable(String),
    /// A failure of our own; the text is for the log, not for the caller.
    #[error("internal: {0}")]
    Internal(String),
}

/// The handle; cheap to clone.
#[derive(Clone)]
pub struct Supervisor {
    events: broadcast::Sender<InstanceEvent>,
}

type Outcome<T> = Result<T, SupervisorError>;

#[expect(clippy::unused_async, reason = "interface first; bodies follow")]
impl Supervisor {
    /// Records, leases a port, starts.
    pub async fn create(&self, _who: &Principal, _request: CreateRequest) -> Outcome<Granted> {
        Err(SupervisorError::ShuttingDown)
    }
    /// One instance, from memory.
    pub fn get(&self, _who: &Principal, _id: InstanceId) -> Outcome<InstanceStatus> {
        Err(SupervisorError::ShuttingDown)
    }
    /// Resolves an id or a name.
    pub fn resolve(&self, _who: &Principal, _id_or_name: &str) -> Outcome<InstanceId> {
        Err(SupervisorError::ShuttingDown)
    }
    /// A page, by id; the second value is the cursor of the next page.
    pub fn list(
        &self,
        _who: &Principal,
        _filter: &ListFilter,
        _after: Option<InstanceId>,
        _limit: usize,
    ) -> (Vec<InstanceStatus>, Option<InstanceId>) {
        (Vec::new(), None)
    }
    /// Should run.
    pub async fn start(&self, _who: &Principal, _id: InstanceId) -> Outcome<InstanceStatus> {
        Err(SupervisorError::ShuttingDown)
    }
    /// Should not run.
    pub async fn stop(&self, _who: &Principal, _id: InstanceId) -> Outcome<InstanceStatus> {
        Err(SupervisorError::ShuttingDown)
    }
    /// Stop, then start.
    pub async fn restart(&self, _who: &Principal, _id: InstanceId) -> Outcome<InstanceStatus> {
        Err(SupervisorError::ShuttingDown)
    }
    /// Stops, gives the port back, removes it.
    pub async fn delete(&self, _who: &Principal, _id: InstanceId) -> Outcome<()> {
        Err(SupervisorError::ShuttingDown)
    }
    /// A new deadline, counted from now; `None`: the TTL last asked for.
    pub async fn extend(
        &self,
        _who: &Principal,
        _id: InstanceId,
        _ttl: Option<HumanDuration>,
    ) -> Outcome<InstanceStatus> {
        Err(SupervisorError::ShuttingDown)
    }
    /// Brings an expired instance back: same id, URL and token.
    pub async fn restore(
        &self,
        _who: &Principal,
        _id: InstanceId,
        _ttl: Option<HumanDuration>,
    ) -> Outcome<InstanceStatus> {
        Err(SupervisorError::ShuttingDown)
    }
    /// Renames, relabels.
    pub async fn patch(
        &self,
        _who: &Principal,
        _id: InstanceId,
        _name: Option<String>,
        _labels: Option<BTreeMap<String, String>>,
    ) -> Outcome<InstanceStatus> {
        Err(SupervisorError::ShuttingDown)
    }
    /// A new access token; the old one stays valid for `overlap`.
    pub async fn rotate_access_token(
        &self,
        _who: &Principal,
        _id: InstanceId,
        _overlap: HumanDuration,
    ) -> Outcome<Granted> {
        Err(SupervisorError::ShuttingDown)
    }
    /// Waits until it runs, failed, or `timeout` is over; answers what it is then.
    pub async fn wait_settled(
        &self,
        _who: &Principal,
        _id: InstanceId,
        _timeout: HumanDuration,
    ) -> Outcome<InstanceStatus> {
        Err(SupervisorError::ShuttingDown)
    }
    /// What it uses now.
    pub async fn stats(&self, _who: &Principal, _id: InstanceId) -> Outcome<crate::wire::Stats> {
        Err(SupervisorError::ShuttingDown)
    }
    /// The access ports.
    pub fn ports(&self) -> crate::wire::Ports {
        crate::wire::Ports {
            port_min: 0,
            port_max: 0,
            leased: Vec::new(),
            quarantined: Vec::new(),
            free: 0,
        }
    }
    /// Everything that happens from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<InstanceEvent> {
        self.events.subscribe()
    }
}
