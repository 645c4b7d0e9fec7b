//! What is wrong with a request, one entry for each fault.

use serde::{Deserialize, Serialize};

/// One fault of the caller's input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Where: a JSON pointer (RFC 6901) into the request body, such as `/settings/depth`.
    pub pointer: String,
    /// A stable word, such as `required`, `unknown`, `out-of-range`, `pattern`.
    pub code: String,
    /// What is wrong and what is allowed, in one sentence. Never holds a secret.
    pub message: String,
}

impl Violation {
    /// Makes a violation; `code` should be one of the documented words.
    pub fn new(pointer: impl Into<String>, code: &str, message: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            code: code.to_owned(),
            message: message.into(),
        }
    }
}

/// Escapes one reference token of a JSON pointer (RFC 6901 section 3).
#[must_use]
pub fn pointer_token(raw: &str) -> String {
    raw.replace('~', "~0").replace('/', "~1")
}
