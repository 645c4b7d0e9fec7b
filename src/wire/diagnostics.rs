//! What a daemon tells about itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ProcessFacts;

/// The state of the daemon, for people who look for a fault; it holds no secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Diagnostics {
    /// Of the daemon.
    pub version: String,
    /// Its process; a daemon from before there were upgrades in place does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessFacts>,
    /// Whether the processes of instances can be frozen here: `on` or `off`, and by what, or why not. Absent: no keeper
    /// answers, or it is one from before there was this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freezer: Option<String>,
    /// Whether the memory of those can be taken back here, in the same words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaim: Option<String>,
    /// The database.
    pub database: DatabaseFacts,
    /// The pipeline of log lines.
    pub logs: LogPipelineFacts,
    /// What waits on disk for the database.
    pub spools: Vec<SpoolFacts>,
}

/// What the database is, and how large.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseFacts {
    /// `sqlite` or `postgres`.
    pub kind: String,
    /// Why it told nothing; then the rest is absent.
    pub error: Option<String>,
    /// The version of the server, or of the library.
    pub version: Option<String>,
    /// The number of the last migration.
    pub schema: Option<i64>,
    /// Bytes on disk.
    pub bytes: Option<i64>,
    /// Rows of instances.
    pub instances: Option<i64>,
    /// Lines of the log.
    pub log_lines: Option<i64>,
    /// The bytes of their text.
    pub log_text_bytes: Option<i64>,
    /// What the log counts for its bound: its text, and some bytes for each line.
    pub log_bytes: Option<u64>,
    /// Most of that (`logs.retention_bytes_total`); past it the oldest lines go.
    pub log_bytes_max: u64,
}

/// How full a spool is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SpoolFacts {
    /// Of what: `logs` or `calls`.
    pub name: String,
    /// Bytes that wait in it.
    pub bytes: u64,
    /// Most bytes; past it what is newest is lost and counted.
    pub bytes_max: u64,
}

/// Log lines since the start of the daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogPipelineFacts {
    /// Lines captured.
    pub lines: u64,
    /// Of these, written to the database.
    pub stored: u64,
    /// Of these, gone through the spool.
    pub spooled: u64,
    /// Of these, lost.
    pub dropped: u64,
    /// Bytes that wait in memory.
    pub queue_bytes: usize,
    /// Bytes that wait on disk.
    pub spool_bytes: u64,
    /// Whether the last write to the database succeeded.
    pub store_available: bool,
}
