//! How a command ends when it did not succeed: one sentence and an exit code.

use std::process::ExitCode;

use crate::{client::ClientError, config::ConfigError};

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line or the configuration makes no sense: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The API refused, or cannot be reached.
    #[error("{sentence}")]
    Api {
        /// In words for people.
        sentence: String,
        /// 1, 3 or 4.
        code: u8,
        /// The API's problem document, as it came.
        problem: Option<String>,
    },
    /// Anything else: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// The reader of our output went away: no failure of ours, and nobody reads a sentence.
    #[error("the reader of the output went away")]
    OutputClosed,
}

impl Failure {
    /// What `--json` prints of it: what the API answered.
    pub(crate) fn json(&self) -> Option<&str> {
        match self {
            Self::Api { problem, .. } => problem.as_deref(),
            _ => None,
        }
    }

    /// The exit code, as `--help` documents them.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Api { code, .. } => ExitCode::from(*code),
            Self::Failed(_) => ExitCode::FAILURE,
            Self::OutputClosed => ExitCode::SUCCESS,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let (hint, code) = match &error {
            _ if error.is_unreachable() => (
                "; start it with `minimcp quickstart` or `minimcp serve`, or name it with --api-url",
                3,
            ),
            ClientError::Address { .. } => ("", 2),
            ClientError::Problem(_) if matches!(error.status(), Some(401 | 403)) => {
                ("; give the token with --token-file or MINIMCP_TOKEN", 4)
            }
            _ => ("", 1),
        };
        let problem = match &error {
            ClientError::Problem(problem) => serde_json::to_string(problem).ok(),
            _ => None,
        };
        Self::Api {
            sentence: format!("{error}{hint}"),
            code,
            problem,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(without_os_codes(&format!("{error:#}")))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::Failed(without_os_codes(&error.to_string()))
        }
    }
}

/// The system's words say it; its numbers are for programs.
fn without_os_codes(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once(')').map_or("", |(_, rest)| rest));
    }
    plain
}
