//! What is wrong with a request, one entry for each fault.

use serde::{Deserialize, Serialize};

/// One fault of the caller's input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Where in the request body: a JSON pointer (RFC 6901), such as `/settings/depth`. Without meaning beside
    /// `parameter`.
    pub pointer: String,
    /// Where in the query string: the name of the parameter.
    pub parameter: Option<String>,
    /// A stable word, such as `required`, `unknown`, `out-of-range`, `pattern`.
    pub code: String,
    /// What is wrong and what is allowed, in one sentence. Never holds a secret.
    pub message: String,
}

impl Violation {
    /// A fault of the body; `code` should be one of the documented words.
    pub fn new(pointer: impl Into<String>, code: &str, message: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            parameter: None,
            code: code.to_owned(),
            message: message.into(),
        }
    }

    /// A fault of a parameter of the query string.
    pub fn of_parameter(name: impl Into<String>, code: &str, message: impl Into<String>) -> Self {
        Self {
            parameter: Some(name.into()),
            ..Self::new("", code, message)
        }
    }

    /// Whether this fault is where `other` is, or around it: then the other may be nothing but its consequence.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.parameter == other.parameter
            && other
                .pointer
                .strip_prefix(self.pointer.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Adds what a later check found: where an earlier one found a fault already, the later one judged what is not there.
pub fn add_unless_covered(told: &mut Vec<Violation>, later: impl IntoIterator<Item = Violation>) {
    let before = told.len();
    for violation in later {
        if !told[..before].iter().any(|known| known.covers(&violation)) {
            told.push(violation);
        }
    }
}

/// Escapes one reference token of a JSON pointer (RFC 6901 section 3).
#[must_use]
pub fn pointer_token(raw: &str) -> String {
    raw.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pointer: &str) -> Violation {
        Violation::new(pointer, "type", "x")
    }

    #[test]
    fn a_consequence_is_not_told_but_everything_else_is() {
        let mut told = vec![at("/name"), at("/settings")];
        let later = ["/name", "/names", "/settings/depth", "/ttl", "/ttl", ""];
        add_unless_covered(&mut told, later.map(at));
        let pointers: Vec<_> = told.iter().map(|one| one.pointer.as_str()).collect();
        assert_eq!(
            pointers,
            ["/name", "/settings", "/names", "/ttl", "/ttl", ""]
        );
        let limit = Violation::of_parameter("limit", "type", "x");
        assert!(!at("").covers(&limit) && !limit.covers(&at("")) && limit.covers(&limit));
        assert!(!limit.covers(&Violation::of_parameter("cursor", "type", "x")));
    }
}
