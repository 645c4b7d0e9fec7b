//! Why a server cannot answer, and how that is told to an MCP client.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::domain::{exit::ExitStatus, id::Generation};

use super::{UpstreamError, message::quote};

/// JSON-RPC: the text is not JSON.
pub const PARSE_ERROR: i64 = -32_700;
/// JSON-RPC: not a valid request.
pub const INVALID_REQUEST: i64 = -32_600;
/// JSON-RPC: no such method.
pub const METHOD_NOT_FOUND: i64 = -32_601;
/// JSON-RPC: wrong parameters.
pub const INVALID_PARAMS: i64 = -32_602;
/// MCP 2026-07-28: the request needs a capability that the client did not declare.
pub const MISSING_CAPABILITY: i64 = -32_021;
/// JSON-RPC: the server, or what runs it, failed.
pub const INTERNAL_ERROR: i64 = -32_603;

/// The end of one life of a child, as its clients are told it. Holds nothing secret: the lines are redacted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One sentence.
    pub cause: String,
    /// How the process ended, when it did.
    pub status: Option<ExitStatus>,
    /// Which launch.
    pub generation: Generation,
    /// The last redacted lines of its stderr, oldest first.
    pub last_stderr: Vec<String>,
}

impl Failure {
    /// A failure without an exit status: the daemon stops the server, or lost it.
    #[must_use]
    pub fn new(cause: impl Into<String>, generation: Generation) -> Self {
        Self {
            cause: cause.into(),
            status: None,
            generation,
            last_stderr: Vec::new(),
        }
    }

    /// The `data` member of the JSON-RPC error.
    #[must_use]
    pub fn data(&self) -> Value {
        let mut data = json!({
            "cause": self.cause,
            "generation": self.generation.0,
            "last_stderr": self.last_stderr,
        });
        match &self.status {
            Some(ExitStatus::Exited { code }) => data["exit_code"] = json!(code),
            Some(ExitStatus::Signaled { signal }) => data["signal"] = json!(signal),
            Some(ExitStatus::OutOfMemory) => data["out_of_memory"] = json!(true),
            Some(
                ExitStatus::NotStarted { .. }
                | ExitStatus::KeeperLost
                | ExitStatus::Disconnected { .. },
            )
            | None => {}
        }
        data
    }

    /// The JSON-RPC error for a call that this failure ended.
    #[must_use]
    pub fn answer(&self, id: &str) -> Bytes {
        let message = format!("The MCP server behind this URL failed: {}", self.cause);
        error_message(id, INTERNAL_ERROR, &message, Some(&self.data()))
    }
}

impl UpstreamError {
    /// The JSON-RPC error for a call that this ended; `id` is raw JSON.
    #[must_use]
    pub fn answer(&self, id: &str) -> Bytes {
        match self {
            Self::Failed(failure) => failure.answer(id),
            other => {
                let text = format!("The MCP server behind this URL failed: {other}");
                error_message(id, INTERNAL_ERROR, &text, None)
            }
        }
    }
}

/// A JSON-RPC error response; `id` is raw JSON (`null` when the request's id is unknown).
#[must_use]
pub fn error_message(id: &str, code: i64, message: &str, data: Option<&Value>) -> Bytes {
    let data = data.map_or_else(String::new, |data| format!(",\"data\":{data}"));
    let message = quote(message);
    format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":{code},\"message\":{message}{data}}}}}"
    )
    .into()
}

/// A JSON-RPC response with this raw result.
#[must_use]
pub fn result_message(id: &str, result: &str) -> Bytes {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}").into()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn an_answer_tells_the_cause() {
        let failure = Failure {
            cause: "it exited with code 3".into(),
            status: Some(ExitStatus::Exited { code: 3 }),
            generation: Generation(7),
            last_stderr: vec!["say \"why\"".into()],
        };
        let answer: Value = serde_json::from_slice(&failure.answer("\"a\"")).unwrap();
        assert_eq!(answer["id"], "a");
        assert_eq!(answer["error"]["code"], INTERNAL_ERROR);
        assert_eq!(answer["error"]["data"]["exit_code"], 3);
        assert_eq!(answer["error"]["data"]["generation"], 7);
        assert_eq!(answer["error"]["data"]["last_stderr"][0], "say \"why\"");
        assert!(
            answer["error"]["message"]
                .as_str()
                .unwrap()
                .contains("code 3")
        );
    }
}
