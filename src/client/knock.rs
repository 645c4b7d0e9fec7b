//! Whether somebody answers at an address, asked on a connection of its own each time.

use std::{path::Path, time::Duration};

use http::Method;

use super::{Client, ClientError, builder};

/// Asks one address again and again, without a token.
#[derive(Debug, Clone)]
pub struct Knocker {
    http: reqwest::Client,
    method: Method,
    url: String,
}

impl Client {
    /// At the API (`GET /healthz`).
    ///
    /// # Errors
    /// [`ClientError::Address`] when the HTTP client cannot be made.
    pub fn knocker(&self) -> Result<Knocker, ClientError> {
        let socket = self.target.strip_prefix("unix:").map(Path::new);
        Knocker::new(Method::GET, format!("{}/healthz", self.base), socket)
    }
}

impl Knocker {
    /// At an access URL, with what is answered to anyone (`OPTIONS`).
    ///
    /// # Errors
    /// [`ClientError::Address`] when the HTTP client cannot be made.
    pub fn at_access_url(url: &str) -> Result<Self, ClientError> {
        Self::new(Method::OPTIONS, url.to_owned(), None)
    }

    fn new(method: Method, url: String, socket: Option<&Path>) -> Result<Self, ClientError> {
        let builder = builder(url.starts_with("https:")).pool_max_idle_per_host(0);
        let builder = match socket {
            Some(socket) => builder.unix_socket(socket),
            None => builder,
        };
        let http = builder.build().map_err(|error| ClientError::Address {
            url: url.clone(),
            reason: error.to_string(),
        })?;
        Ok(Self { http, method, url })
    }

    /// One request on a fresh connection: whether it was answered in time, and not by a failure of the server.
    pub async fn knock(&self, limit: Duration) -> bool {
        let request = self.http.request(self.method.clone(), &self.url);
        let answer = request.timeout(limit).send().await;
        answer.is_ok_and(|answer| !answer.status().is_server_error())
    }
}
