//! MCP clients of the tests: a small one of our own that shows everything, and the official SDKs as programs.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::{fixtures, harness, source};

/// How long a client program may take on a busy machine.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// One client session of the handshake era.
pub struct Mcp {
    client: reqwest::Client,
    url: String,
    token: String,
    session: Option<String>,
    next_id: u64,
}

impl Mcp {
    /// Makes the handshake with an instance as the API gave it at its creation.
    pub async fn connect(instance: &Value) -> Self {
        let text = |key: &str| {
            let value = instance[key].as_str();
            value
                .unwrap_or_else(|| panic!("no {key}: {instance:#}"))
                .to_owned()
        };
        let mut mcp = Self {
            client: harness::http_client(),
            url: text("access_url"),
            token: text("access_token"),
            session: None,
            next_id: 0,
        };
        let greeting = mcp
            .request(
                "initialize",
                json!({
                    "protocolVersion": "2025-11-25",
                    "capabilities": {},
                    "clientInfo": {"name": "it", "version": "1"}
                }),
            )
            .await;
        assert!(greeting.is_ok(), "{greeting:?}");
        let done = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(mcp.send(&done).await.status(), StatusCode::ACCEPTED);
        mcp
    }

    /// Sends one message as it is.
    pub async fn send(&self, message: &Value) -> Response {
        let mut request = self
            .client
            .post(&self.url)
            .bearer_auth(&self.token)
            .header("Accept", "application/json, text/event-stream")
            .json(message);
        if let Some(session) = &self.session {
            request = request
                .header("Mcp-Session-Id", session)
                .header("MCP-Protocol-Version", "2025-11-25");
        }
        request.send().await.expect("the access URL answers")
    }

    /// Ends the session; the status of the answer.
    pub async fn end(&self) -> StatusCode {
        let session = self.session.as_deref().expect("it is connected");
        let request = self.client.delete(&self.url).bearer_auth(&self.token);
        let answer = request.header("Mcp-Session-Id", session).send().await;
        answer.expect("the access URL answers").status()
    }

    /// Opens the standing stream of the session; it ends when the answer is dropped.
    pub async fn stream(&self) -> Response {
        let session = self.session.as_deref().expect("it is connected");
        let request = self.client.get(&self.url).bearer_auth(&self.token);
        let request = request.header("Mcp-Session-Id", session);
        let answer = request.header("Accept", "text/event-stream").send().await;
        let answer = answer.expect("the access URL answers");
        assert_eq!(answer.status(), StatusCode::OK);
        answer
    }

    /// One request: its result, or its JSON-RPC error (an HTTP error without one as `{"status", "body"}`).
    pub async fn request(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.next_id += 1;
        let id = self.next_id;
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let answer = self.send(&message).await;
        let status = answer.status();
        if let Some(session) = answer.headers().get("mcp-session-id") {
            let session = session.to_str().expect("session ids are visible ASCII");
            self.session = Some(session.to_owned());
        }
        let body = answer.text().await.expect("the body comes");
        let response = response_in(&body, id)
            .ok_or_else(|| json!({"status": status.as_u16(), "body": body}))?;
        match response.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(response["result"].clone()),
        }
    }

    /// The names of all tools.
    pub async fn tools(&mut self) -> Vec<String> {
        let list = self.request("tools/list", json!({})).await;
        let list = list.expect("the tools are listed");
        let tools = list["tools"].as_array().expect("tools are a list");
        tools
            .iter()
            .map(|tool| tool["name"].as_str().expect("a tool has a name").to_owned())
            .collect()
    }

    /// Calls a tool and gives its first text.
    pub async fn tool(&mut self, name: &str, arguments: Value) -> Result<String, Value> {
        let params = json!({"name": name, "arguments": arguments});
        let result = self.request("tools/call", params).await?;
        let text = result["content"][0]["text"].as_str();
        Ok(text
            .unwrap_or_else(|| panic!("no text: {result}"))
            .to_owned())
    }
}

/// The response with this id in a JSON body or in an event stream.
fn response_in(body: &str, id: u64) -> Option<Value> {
    let lines = body.lines().filter_map(|line| line.strip_prefix("data:"));
    std::iter::once(body)
        .chain(lines)
        .filter_map(|text| serde_json::from_str::<Value>(text).ok())
        .find(|message| message["id"] == id)
}

/// The official SDKs, old and new, and how they negotiate.
pub const SDKS: &[&str] = &[
    "typescript-1",
    "typescript-2 legacy",
    "typescript-2 auto",
    "python-1",
    "python-2 legacy",
    "python-2 auto",
];

/// Lets an SDK list the tools and call one; gives its report, or `None` when the SDKs are not installed.
pub async fn sdk(name: &str, instance: &Value, tool: &str, arguments: &Value) -> Option<Value> {
    let report = try_sdk(name, instance, tool, arguments).await?;
    Some(report.unwrap_or_else(|errors| panic!("{name}: {errors}")))
}

/// The same for a call that may be refused: the report, or what the program says about the error it was given.
pub async fn try_sdk(
    name: &str,
    instance: &Value,
    tool: &str,
    arguments: &Value,
) -> Option<Result<Value, String>> {
    let deps = fixtures::deps()?;
    let (sdk, mode) = name.split_once(' ').unwrap_or((name, ""));
    let (language, major) = sdk.split_once('-').expect("an entry of SDKS");
    let (program, script) = if language == "typescript" {
        ("node".into(), deps.join(format!("node/sdk{major}.mjs")))
    } else {
        let script = format!("tests/clients/python/sdk{major}.py");
        let python = deps.join(format!("python-sdk{major}/bin/python"));
        (python, source::root().join(script))
    };
    let text = |key: &str| {
        instance[key]
            .as_str()
            .expect("as it was created")
            .to_owned()
    };
    let mut command = tokio::process::Command::new::<std::path::PathBuf>(program);
    command
        .arg(script)
        .args([text("access_url"), text("access_token"), tool.to_owned()])
        .arg(arguments.to_string())
        .args((!mode.is_empty()).then_some(mode));
    let done = run(name, command).await;
    if !done.status.success() {
        return Some(Err(String::from_utf8_lossy(&done.stderr).into_owned()));
    }
    let output = String::from_utf8_lossy(&done.stdout);
    let line = output.lines().last().unwrap_or_default();
    let report = serde_json::from_str(line);
    Some(Ok(
        report.unwrap_or_else(|error| panic!("{name}: {error}: {output}"))
    ))
}

/// Runs a client program to its end.
pub async fn run(name: &str, mut command: tokio::process::Command) -> Output {
    command.stdin(Stdio::null()).kill_on_drop(true);
    tokio::time::timeout(CLIENT_TIMEOUT, command.output())
        .await
        .unwrap_or_else(|_| panic!("{name} did not end"))
        .unwrap_or_else(|error| panic!("{name} did not start: {error}"))
}

#[test]
fn a_response_is_found_in_both_kinds_of_body() {
    let plain = r#"{"jsonrpc":"2.0","id":3,"result":{}}"#;
    assert!(response_in(plain, 3).is_some());
    assert!(response_in(plain, 4).is_none());
    let stream =
        format!("id: 1\ndata: \n\ndata: {{\"method\":\"x\"}}\n\nevent: message\ndata: {plain}\n\n");
    assert!(response_in(&stream, 3).is_some());
}
