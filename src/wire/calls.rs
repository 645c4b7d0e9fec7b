//! Call records.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schemas::{EraSchema, OutcomeSchema};

/// One call of a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CallEntry {
    /// Rises with every call.
    pub id: i64,
    /// When it came in.
    #[schema(format = DateTime)]
    pub started_at: String,
    /// The launch that it went to; 0: none was up.
    pub generation: u64,
    /// Which access token let it in.
    pub token: String,
    /// The tool.
    pub tool: String,
    /// What its client speaks: `session` or `stateless`.
    #[schema(value_type = EraSchema)]
    pub era: String,
    /// How long until its end, in microseconds.
    pub duration_us: i64,
    /// ok, tool-error, rpc-error, input-required, cancelled, disconnected, failed or refused; or `lost`: no call, but
    /// so many calls from this time on that have no record.
    #[schema(value_type = OutcomeSchema)]
    pub outcome: String,
    /// The JSON-RPC code of an rpc-error; how many are lost.
    pub code: Option<i64>,
    /// Size of its message.
    pub request_bytes: i64,
    /// Size of its answer; 0: none.
    pub answer_bytes: i64,
    /// Its arguments as JSON text, redacted and perhaps cut, when the template keeps them.
    pub arguments: Option<String>,
}

/// Calls of the last while, counted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct CallStats {
    /// How long the while is, such as `1h`.
    pub window: String,
    /// Whether these are all calls of the while; `false`: only the newest 10000 were looked at, or records were lost.
    pub complete: bool,
    /// All tools together.
    #[serde(flatten)]
    pub total: CallNumbers,
    /// By tool, the one with the most calls first; at most 100.
    pub tools: Vec<ToolStats>,
}

/// Numbers of some calls.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct CallNumbers {
    /// Calls.
    pub count: u64,
    /// Of those, with another outcome than ok and input-required.
    pub errors: u64,
    /// Half of them took so many microseconds at most.
    pub p50_us: i64,
    /// 95 of 100 took so many at most.
    pub p95_us: i64,
    /// 99 of 100 took so many at most.
    pub p99_us: i64,
}

/// Numbers of one tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ToolStats {
    /// The tool.
    pub tool: String,
    /// Its numbers.
    #[serde(flatten)]
    pub numbers: CallNumbers,
}
