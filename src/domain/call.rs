//! What is kept of a call of a tool, and what is made of many.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    UnixMs,
    id::{Generation, TokenName},
};

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallOutcome {
    /// With a result.
    Ok,
    /// With a result that says that the tool failed.
    ToolError,
    /// With a JSON-RPC error of this code.
    RpcError(i64),
    /// With a question to the client, who comes back with the answer in another call.
    InputRequired,
    /// Its client took it back, or its access token was revoked.
    Cancelled,
    /// Its client went away before the answer.
    Disconnected,
    /// The server died of it, or was not there.
    Failed,
    /// It did not reach the server: the scope or a limit of the access token.
    Refused,
    /// No call: so many calls from this time on have no record, since neither the database nor the spool could take it.
    Lost(i64),
}

impl CallOutcome {
    /// The words of all of them.
    pub const WORDS: [&'static str; 9] = [
        "ok",
        "tool-error",
        "rpc-error",
        "input-required",
        "cancelled",
        "disconnected",
        "failed",
        "refused",
        "lost",
    ];

    /// A stable word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool-error",
            Self::RpcError(_) => "rpc-error",
            Self::InputRequired => "input-required",
            Self::Cancelled => "cancelled",
            Self::Disconnected => "disconnected",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Lost(_) => "lost",
        }
    }

    /// The JSON-RPC code, if there is one; of lost records, their number.
    #[must_use]
    pub fn code(self) -> Option<i64> {
        match self {
            Self::RpcError(code) | Self::Lost(code) => Some(code),
            _ => None,
        }
    }
}

/// One call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    /// The instance's row.
    pub instance_key: i64,
    /// The launch that it went to; 0: none was up.
    pub generation: Generation,
    /// Which access token let it in.
    pub token: TokenName,
    /// The tool, at most 200 characters of its name. Calls of one tool share it.
    pub tool: Arc<str>,
    /// Whether the client is a stateless one.
    pub stateless: bool,
    /// When it came in.
    pub started_at: UnixMs,
    /// How long until its answer, or its end without one, in microseconds.
    pub duration_us: i64,
    /// How it ended.
    pub outcome: CallOutcome,
    /// Size of its message.
    pub request_bytes: i64,
    /// Size of its answer; 0: none.
    pub answer_bytes: i64,
    /// Its arguments as JSON, redacted and cut, when the template asks for them.
    pub arguments: Option<String>,
}

/// A call on its way to the store, which takes each number of a writer once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberedCall {
    /// Who gave the number; each start of the daemon has a writer of its own.
    pub writer: i64,
    /// Rises with every call of the writer, from 1.
    pub number: i64,
    /// The call.
    pub record: CallRecord,
}

/// The value below which this share of `sorted` lies (nearest rank); 0 when there is none.
#[must_use]
pub fn percentile(sorted: &[i64], percent: usize) -> i64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let hundred: Vec<i64> = (1..=100).collect();
        for (percent, expected) in [(50, 50), (95, 95), (99, 99), (100, 100)] {
            assert_eq!(percentile(&hundred, percent), expected);
        }
        assert_eq!(percentile(&[7], 50), 7);
        assert_eq!(percentile(&[1, 2], 50), 1);
        assert_eq!(percentile(&[1, 2, 3], 99), 3);
        assert_eq!(percentile(&[], 99), 0);
    }

    #[test]
    fn every_outcome_has_its_word() {
        use CallOutcome as O;
        let all = [
            O::Ok,
            O::ToolError,
            O::RpcError(1),
            O::InputRequired,
            O::Cancelled,
            O::Disconnected,
            O::Failed,
            O::Refused,
            O::Lost(1),
        ];
        assert_eq!(all.map(O::word), O::WORDS);
    }
}
