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
    /// Every fault of body and query string, for the codes `validation-failed` and `invalid-query`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<ProblemViolation>,
}

/// One fault of the input; `pointer` or `parameter` says where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProblemViolation {
    /// Where in the body: a JSON pointer (RFC 6901).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub pointer: Option<String>,
    /// Where in the query string: the name of the parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub parameter: Option<String>,
    /// A stable word.
    pub code: String,
    /// What is wrong and what is allowed.
    pub message: String,
}
