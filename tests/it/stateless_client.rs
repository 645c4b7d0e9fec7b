//! A small client of the stateless revision (2026-07-28) that shows everything.

use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use crate::harness;

/// The revision that it speaks.
pub const REVISION: &str = "2026-07-28";

/// Where it sends its requests, and what it can be asked.
pub struct Stateless {
    client: reqwest::Client,
    url: String,
    token: String,
    /// Its capabilities.
    pub capabilities: Value,
    /// The log level that its requests ask for.
    pub log_level: Option<&'static str>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// Messages before the response.
    pub before: Vec<Value>,
    /// The response.
    pub response: Value,
}

impl Answer {
    /// The first text of a tool's result.
    pub fn text(&self) -> &str {
        let text = self.response["result"]["content"][0]["text"].as_str();
        text.unwrap_or_else(|| panic!("no text: {self:?}"))
    }
}

impl Stateless {
    /// For an instance as the API gave it at its creation.
    pub fn new(instance: &Value) -> Self {
        let text = |key: &str| {
            instance[key]
                .as_str()
                .expect("as it was created")
                .to_owned()
        };
        Self {
            client: harness::http_client(),
            url: text("access_url"),
            token: text("access_token"),
            capabilities: json!({}),
            log_level: None,
        }
    }

    /// One request, ready to be sent. `params` may have a `_meta` of its own.
    pub fn prepare(&self, method: &str, mut params: Value) -> RequestBuilder {
        let meta = "io.modelcontextprotocol";
        params["_meta"][format!("{meta}/protocolVersion")] = REVISION.into();
        params["_meta"][format!("{meta}/clientCapabilities")] = self.capabilities.clone();
        if let Some(level) = self.log_level {
            params["_meta"][format!("{meta}/logLevel")] = level.into();
        }
        let name = params["name"].as_str().or(params["uri"].as_str());
        let mut request = self
            .client
            .post(&self.url)
            .bearer_auth(&self.token)
            .header("Accept", "application/json, text/event-stream")
            .header("MCP-Protocol-Version", REVISION)
            .header("Mcp-Method", method);
        if let Some(name) = name {
            request = request.header("Mcp-Name", name);
        }
        request.json(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
    }

    /// Sends one request; the response is not read.
    pub async fn begin(&self, method: &str, params: Value) -> Response {
        let sent = self.prepare(method, params).send().await;
        sent.expect("the access URL answers")
    }

    /// One request and its answer.
    pub async fn request(&self, method: &str, params: Value) -> Answer {
        let response = self.begin(method, params).await;
        let status = response.status();
        let body = response.text().await.expect("the body comes");
        let mut messages = match serde_json::from_str::<Value>(&body) {
            Ok(message) => vec![message],
            Err(_) => events(&body),
        };
        let response = messages
            .pop()
            .unwrap_or_else(|| panic!("no message: {status} {body:?}"));
        assert_eq!(response["id"], 1, "{status} {body}");
        Answer {
            status,
            before: messages,
            response,
        }
    }

    /// Calls a tool.
    pub async fn tool(&self, name: &str, arguments: Value) -> Answer {
        let params = json!({"name": name, "arguments": arguments});
        self.request("tools/call", params).await
    }
}

/// The messages in a stream of events.
pub fn events(stream: &str) -> Vec<Value> {
    stream
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .filter_map(|data| serde_json::from_str(data).ok())
        .collect()
}
