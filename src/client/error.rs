//! What can go wrong between a caller and the API, each in one readable sentence.

use http::StatusCode;

use crate::wire::Problem;

/// Why a call did not succeed. Never holds the token or a body that was sent.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address makes no sense.
    #[error("{url:?} is not the address of an API: {reason}")]
    Address {
        /// What was given.
        url: String,
        /// Why not.
        reason: String,
    },
    /// Nobody answers there.
    #[error("no MiniMCP daemon answers at {target}: {reason}")]
    Unreachable {
        /// Where.
        target: String,
        /// The cause in a few words.
        reason: String,
    },
    /// It took too long.
    #[error("the daemon at {target} did not answer in time")]
    TimedOut {
        /// Where.
        target: String,
    },
    /// The connection broke within an answer.
    #[error("the connection to {target} broke: {reason}")]
    Broken {
        /// Where.
        target: String,
        /// The cause in a few words.
        reason: String,
    },
    /// The API said no.
    #[error("{}", sentence(.0))]
    Problem(Box<Problem>),
    /// An answer that is not the API's.
    #[error("the daemon gave {reason}; is this the address of a MiniMCP API?")]
    Strange {
        /// What came.
        reason: String,
    },
}

fn sentence(problem: &Problem) -> String {
    let mut text = if problem.detail.is_empty() {
        problem.title.clone()
    } else {
        problem.detail.clone()
    };
    // The detail of a single fault is that fault.
    if matches!(problem.violations.as_slice(), [one] if one.message == text) {
        return text;
    }
    if problem.violations.len() > 1 {
        text = format!("the request has {} faults:", problem.violations.len());
    }
    for violation in &problem.violations {
        let place = violation.parameter.as_ref().or(violation.pointer.as_ref());
        text.push_str("\n  ");
        text.push_str(match place.map(String::as_str) {
            None | Some("") => "request",
            Some(place) => place,
        });
        text.push_str(": ");
        text.push_str(&violation.message);
    }
    // Only an internal error is looked up in the daemon's log; the others say all there is.
    if problem.code == "internal" && !problem.request_id.is_empty() {
        text.push_str(" (request ");
        text.push_str(&problem.request_id);
        text.push(')');
    }
    text
}

impl ClientError {
    /// The HTTP status, when the API answered with one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Problem(problem) => Some(problem.status),
            _ => None,
        }
    }

    /// The stable word of the API's problem, when there is one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Problem(problem) => Some(&problem.code),
            _ => None,
        }
    }

    /// Whether there was no answer at all.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. })
    }

    pub(super) fn of_answer(status: StatusCode, body: &str) -> Self {
        match serde_json::from_str::<Problem>(body) {
            Ok(problem) => Self::Problem(Box::new(problem)),
            Err(_) => Self::Strange {
                reason: format!("the status {status} without a reason"),
            },
        }
    }

    pub(super) fn lost(target: &str, error: &reqwest::Error) -> Self {
        let target = target.to_owned();
        // The innermost cause is the system's word, such as "Connection refused (os error 111)".
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let text = cause.to_string();
        let reason = match text.find(" (os error") {
            Some(end) => text[..end].to_lowercase(),
            None => text,
        };
        if error.is_connect() {
            Self::Unreachable { target, reason }
        } else if error.is_timeout() {
            Self::TimedOut { target }
        } else {
            Self::Broken { target, reason }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ProblemViolation;

    fn problem(status: u16) -> Problem {
        Problem {
            kind: "about:blank".to_owned(),
            status,
            title: "The request is not valid".to_owned(),
            detail: "2 fields are not valid".to_owned(),
            code: "validation-failed".to_owned(),
            request_id: "req-7".to_owned(),
            violations: Vec::new(),
        }
    }

    #[test]
    fn a_problem_reads_as_a_sentence_with_every_violation() {
        let mut said = problem(422);
        for (pointer, parameter, message) in [
            (Some("/ttl"), None, "10x is not a duration"),
            (Some(""), None, "is too large"),
            (None, Some("limit"), "must be a number"),
        ] {
            said.violations.push(ProblemViolation {
                pointer: pointer.map(str::to_owned),
                parameter: parameter.map(str::to_owned),
                code: "pattern".to_owned(),
                message: message.to_owned(),
            });
        }
        let body = serde_json::to_string(&said).expect("a problem is valid JSON");
        let error = ClientError::of_answer(StatusCode::UNPROCESSABLE_ENTITY, &body);
        assert_eq!(
            error.to_string(),
            "the request has 3 faults:\n  /ttl: 10x is not a duration\n  request: is too large\n  limit: must be a number"
        );
        assert_eq!(error.status(), Some(422));
        assert_eq!(error.code(), Some("validation-failed"));
    }

    #[test]
    fn a_single_fault_is_told_once() {
        let mut said = problem(422);
        said.violations.push(ProblemViolation {
            pointer: Some("/ttl".to_owned()),
            parameter: None,
            code: "pattern".to_owned(),
            message: said.detail.clone(),
        });
        assert_eq!(
            ClientError::Problem(Box::new(said)).to_string(),
            "2 fields are not valid"
        );
    }

    #[test]
    fn a_failure_of_the_daemon_names_the_request() {
        let mut failed = problem(500);
        failed.code = "internal".to_owned();
        let error = ClientError::Problem(Box::new(failed));
        assert_eq!(error.to_string(), "2 fields are not valid (request req-7)");
    }

    #[test]
    fn a_page_of_a_stranger_is_not_repeated() {
        let error = ClientError::of_answer(StatusCode::BAD_GATEWAY, "<html>secret</html>");
        assert_eq!(
            error.to_string(),
            "the daemon gave the status 502 Bad Gateway without a reason; is this the address of a MiniMCP API?"
        );
    }
}
