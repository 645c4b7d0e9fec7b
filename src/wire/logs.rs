//! Log lines on the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schemas::StreamSchema;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Rises within the instance; the cursor of pages and `Last-Event-ID` of follows.
    pub id: i64,
    /// When it was read (RFC 3339).
    #[schema(format = DateTime)]
    pub at: String,
    /// Which launch wrote it.
    pub generation: u64,
    /// The number of the child that wrote it, where that serves one client session; absent: the main child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_child: Option<u32>,
    /// stdout, stderr or system (a word of the daemon's own).
    #[schema(value_type = StreamSchema)]
    pub stream: String,
    /// The text, redacted.
    pub line: String,
    /// The line was longer than the limit and goes on in the next entry.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continued: bool,
}
