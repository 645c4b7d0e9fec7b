//! An instance as it is asked for and as it is recorded.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    UnixMs,
    duration::HumanDuration,
    exit::ExitRecord,
    id::{CredentialName, EnvName, Generation, InstanceId, InstanceName, OwnerId, TemplateName},
    restart::RestartRow,
    slug::Slug,
    state::{DesiredState, InstanceState},
};

/// What a person chose when creating the instance; never holds a secret.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// Which stored credential feeds which environment variable.
    #[serde(default)]
    pub credentials: BTreeMap<EnvName, CredentialName>,
    /// Settings as checked against the template, defaults not filled in.
    #[serde(default)]
    pub settings: BTreeMap<String, serde_json::Value>,
    /// Free labels for filtering.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How long nobody uses it before it is frozen, zero: it never is; absent: as its template says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_after: Option<HumanDuration>,
    /// How long nobody uses it before it sleeps, zero: it never does; absent: as its template says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep_after: Option<HumanDuration>,
}

/// What a person changes of an instance; what is `None` stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InstanceChange {
    /// Its name.
    pub name: Option<InstanceName>,
    /// Its labels, all of them.
    pub labels: Option<BTreeMap<String, String>>,
    /// How long nobody uses it before it is frozen; `Some(None)`: as its template says.
    pub freeze_after: Option<Option<HumanDuration>>,
    /// How long nobody uses it before it sleeps; `Some(None)`: as its template says.
    pub sleep_after: Option<Option<HumanDuration>>,
}

/// When an instance ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lease {
    /// The TTL last asked for, in milliseconds; `None`: no expiry.
    pub ttl_ms: Option<u64>,
    /// When it expires.
    pub expires_at: Option<UnixMs>,
    /// Once expired: until when it can be restored.
    pub restore_until: Option<UnixMs>,
    /// Whether the warning event of this lease was sent.
    #[serde(default)]
    pub warned: bool,
}

/// An instance as the store keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceRecord {
    /// Its identity.
    pub id: InstanceId,
    /// A small number of the store's own, for the index of the log table.
    pub key: i64,
    /// Who owns it.
    pub owner: OwnerId,
    /// Its name among its owner's.
    pub name: InstanceName,
    /// What it was made from.
    pub template: TemplateName,
    /// What was chosen.
    pub spec: InstanceSpec,
    /// What was asked.
    pub desired: DesiredState,
    /// What it was doing when last written.
    pub state: InstanceState,
    /// The last launch.
    pub generation: Generation,
    /// Its access port, while it holds one.
    pub port: Option<u16>,
    /// Its time to live.
    pub lease: Lease,
    /// Failures in a row.
    pub restart_row: RestartRow,
    /// Launches after its child had ended by itself.
    pub restarts: u64,
    /// Its last end.
    pub last_exit: Option<ExitRecord>,
    /// What the child of `generation` answered to `initialize` and `tools/list`; lets a new daemon adopt it
    /// without a second handshake.
    pub handshake: Option<serde_json::Value>,
    /// When it was created.
    pub created_at: UnixMs,
    /// When the record was last written.
    pub updated_at: UnixMs,
    /// When a client last used it.
    pub last_accessed_at: Option<UnixMs>,
}

impl InstanceRecord {
    /// What it is called among the instances of all owners.
    #[must_use]
    pub fn slug(&self) -> Slug {
        Slug::of(&self.owner, &self.name)
    }
}
