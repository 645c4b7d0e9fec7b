//! The management API for those who expect it to be away at any time.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::model::Ending;
use crate::harness::{self, Server};

/// Longer than every limit of the daemon: what takes longer is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(75);

/// The API of one daemon, whichever process it is at the moment.
#[derive(Clone)]
pub struct Api {
    client: reqwest::Client,
    base: String,
    token: String,
}

/// An answer, or none.
#[derive(Debug)]
pub enum Reply {
    /// The status and the JSON.
    Answer(StatusCode, Value),
    /// The connection was refused, or broke.
    Broken,
    /// Neither came.
    Stuck,
}

impl Api {
    /// Of a daemon that is up now.
    pub fn of(server: &Server) -> Self {
        Self {
            client: client(),
            base: format!("{}/api/v1", server.url()),
            token: server.admin_token(),
        }
    }

    /// Whether it answers anything at all, soon, whatever the database does.
    pub async fn answers_within(&self, patience: Duration) -> bool {
        let root = self.base.trim_end_matches("/api/v1");
        let asked = self.client.get(format!("{root}/healthz")).send();
        matches!(tokio::time::timeout(patience, asked).await, Ok(Ok(_)))
    }

    /// One request; `key` is an `Idempotency-Key`.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        key: Option<&str>,
    ) -> Reply {
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return broken(&error),
        };
        let status = answer.status();
        match answer.text().await {
            Ok(text) if text.is_empty() => Reply::Answer(status, Value::Null),
            Ok(text) => match serde_json::from_str(&text) {
                Ok(json) => Reply::Answer(status, json),
                // A body that ends too early has no length that is right, so this is a violation.
                Err(error) => Reply::Answer(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    Value::String(format!("{error}: {text}")),
                ),
            },
            Err(error) => broken(&error),
        }
    }

    /// One request without a body.
    pub async fn get(&self, path: &str) -> Reply {
        self.ask(Method::GET, path, None, None).await
    }
}

/// A client that keeps no connection: each request meets the process that is there now.
pub fn client() -> reqwest::Client {
    let _ = harness::http_client();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(STUCK_AFTER)
        .build()
        .expect("a client without options can be made")
}

fn broken(error: &reqwest::Error) -> Reply {
    if error.is_timeout() {
        Reply::Stuck
    } else {
        Reply::Broken
    }
}

impl Reply {
    /// How a request ended, for the model.
    pub fn ending(&self) -> Ending {
        match self {
            Self::Answer(status, _) if status.is_success() => Ending::Done,
            Self::Answer(status, body) => {
                let code = body["code"]
                    .as_str()
                    .map_or_else(|| body.to_string(), str::to_owned);
                Ending::Refused(status.as_u16(), code)
            }
            Self::Broken => Ending::Broken,
            Self::Stuck => Ending::Stuck,
        }
    }

    /// The JSON of a success.
    pub fn success(self) -> Option<Value> {
        match self {
            Self::Answer(status, body) if status.is_success() => Some(body),
            _ => None,
        }
    }
}
