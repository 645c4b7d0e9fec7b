//! Ports, background tasks and readiness on the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The access ports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Ports {
    /// First port of the range.
    pub port_min: u16,
    /// Last port of the range.
    pub port_max: u16,
    /// Ports in use by instances.
    pub leased: Vec<PortLeaseView>,
    /// Ports resting until they can be leased again.
    pub quarantined: Vec<QuarantinedPort>,
    /// How many can be leased now.
    pub free: usize,
}

/// A leased port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PortLeaseView {
    /// The port.
    pub port: u16,
    /// Who holds it.
    pub instance: String,
    /// Since when.
    #[schema(format = DateTime)]
    pub leased_at: String,
}

/// A resting port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QuarantinedPort {
    /// The port.
    pub port: u16,
    /// Until when.
    #[schema(format = DateTime)]
    pub until: String,
}

/// A background task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskStatus {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// Its cron expression (with seconds), or `off`.
    pub schedule: String,
    /// Whether it runs at this moment.
    pub running: bool,
    /// When it last began.
    #[schema(format = DateTime)]
    pub last_started_at: Option<String>,
    /// How long that took.
    pub last_duration_ms: Option<u64>,
    /// What it reported.
    #[schema(value_type = Option<Object>)]
    pub last_result: Option<serde_json::Value>,
    /// Its error, if it failed.
    pub last_error: Option<String>,
    /// Runs since the daemon started.
    pub runs: u64,
    /// Of these, runs that failed.
    #[serde(default)]
    pub failures: u64,
}

/// A master key, without the key. `GET /keys`; `POST /keys/rotate` answers the new one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MasterKey {
    /// Its id, as credentials name it.
    pub id: String,
    /// Whether it seals what is stored from now on.
    pub active: bool,
}

/// `GET /readyz`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether management calls can be served.
    pub ready: bool,
    /// `ok`, or what is wrong, by part: `database`, `keeper`, `records` (rows that cannot be read; the rest is served);
    /// beside a keeper of another unit also what the daemon gave up of its rights: `own-files`, `own-system-calls`.
    pub checks: std::collections::BTreeMap<String, String>,
}
