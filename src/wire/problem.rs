//! The error body: RFC 9457 problem details.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `about:blank`, or a page about this code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status.
    pub status: u16,
    /// The same for every problem of this code.
    pub title: String,
    /// This case, in one sentence.
    pub detail: String,
    /// A stable word for programs.
    pub code: String,
    /// Find it again in the daemon's log by this.
    pub request_id: String,
    /// Every fault of the input, for code `validation-failed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<ProblemViolation>,
}

/// One fault of the input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProblemViolation {
    /// JSON pointer into the body (RFC 6901).
    pub pointer: String,
    /// A stable word.
    pub code: String,
    /// What is wrong and what is allowed.
    pub message: String,
}
