//! A client on raw JSON lines: what a real client sends and sees, without an SDK in between. Shared by the tests of
//! the template crates.

use rmcp::{RoleServer, Service, ServiceExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf};

/// One session with a server in this process.
pub struct Session {
    lines: tokio::io::Lines<BufReader<ReadHalf<DuplexStream>>>,
    write: WriteHalf<DuplexStream>,
    last_id: u64,
    /// Notifications that came while waiting for answers.
    pub notifications: Vec<Value>,
}

impl Session {
    /// Starts `server` and shakes hands as a client of the revision 2025-11-25.
    pub async fn start<S: Service<RoleServer>>(server: S) -> Self {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            if let Ok(running) = server.serve(theirs).await {
                let _ended = running.waiting().await;
            }
        });
        let (read, write) = tokio::io::split(ours);
        let mut session = Self {
            lines: BufReader::new(read).lines(),
            write,
            last_id: 0,
            notifications: Vec::new(),
        };
        let hello = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        });
        let answer = session.request("initialize", hello).await;
        assert!(
            answer["result"]["serverInfo"]["name"].is_string(),
            "{answer}"
        );
        session.notify("notifications/initialized", json!({})).await;
        session
    }

    /// Sends a notification.
    pub async fn notify(&mut self, method: &str, params: Value) {
        self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params}))
            .await;
    }

    /// Sends a request without waiting; the answer is its id.
    pub async fn begin(&mut self, method: &str, params: Value) -> u64 {
        self.last_id += 1;
        let id = self.last_id;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
            .await;
        id
    }

    /// Sends a request and waits for its whole answer.
    pub async fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.begin(method, params).await;
        loop {
            let message = self.next().await;
            if message["id"] == id {
                return message;
            }
            self.notifications.push(message);
        }
    }

    /// The next message.
    pub async fn next(&mut self) -> Value {
        let line = self
            .lines
            .next_line()
            .await
            .expect("readable")
            .expect("the server lives");
        serde_json::from_str(&line).expect("JSON")
    }

    /// Calls a tool; the answer is (whether it is an error, its text, its structured content).
    pub async fn call(&mut self, tool: &str, arguments: Value) -> (bool, String, Value) {
        let params = json!({"name": tool, "arguments": arguments});
        let answer = self.request("tools/call", params).await;
        if let Some(message) = answer["error"]["message"].as_str() {
            return (true, message.to_owned(), Value::Null);
        }
        let result = &answer["result"];
        let text = result["content"][0]["text"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        (
            result["isError"] == true,
            text,
            result["structuredContent"].clone(),
        )
    }

    /// A good tool call's structured content.
    pub async fn good(&mut self, tool: &str, arguments: Value) -> Value {
        let (is_error, text, structured) = self.call(tool, arguments).await;
        assert!(!is_error, "{tool}: {text}");
        structured
    }

    /// A failed tool call's text.
    pub async fn bad(&mut self, tool: &str, arguments: Value) -> String {
        let (is_error, text, _) = self.call(tool, arguments).await;
        assert!(is_error, "{tool} should have failed: {text}");
        text
    }

    /// Every tool by name; asserts what every tool owes: description, annotations, a closed object of arguments.
    pub async fn tools(&mut self) -> std::collections::BTreeMap<String, Value> {
        let answer = self.request("tools/list", json!({})).await;
        let list = answer["result"]["tools"]
            .as_array()
            .expect("a list")
            .clone();
        list.into_iter()
            .map(|tool| {
                let name = tool["name"].as_str().expect("a name").to_owned();
                assert!(
                    tool["description"].as_str().is_some_and(|d| d.len() > 15),
                    "{name}"
                );
                for hint in [
                    "readOnlyHint",
                    "destructiveHint",
                    "idempotentHint",
                    "openWorldHint",
                ] {
                    assert!(tool["annotations"][hint].is_boolean(), "{name}: {hint}");
                }
                for schema in ["inputSchema", "outputSchema"] {
                    standard_formats(&tool[schema], &name);
                }
                let schema = &tool["inputSchema"];
                assert_eq!(schema["type"], "object", "{name}");
                for (argument, spec) in schema["properties"].as_object().into_iter().flatten() {
                    let told = spec["description"].is_string() || spec["$ref"].is_string();
                    assert!(told, "{name}.{argument} has no description");
                }
                (name, tool)
            })
            .collect()
    }

    async fn send(&mut self, message: &Value) {
        let line = format!("{message}\n");
        self.write
            .write_all(line.as_bytes())
            .await
            .expect("the server reads");
    }
}

/// Asserts that a schema names no format but those of JSON Schema: strict clients warn of others.
fn standard_formats(value: &Value, tool: &str) {
    const STANDARD: [&str; 6] = ["date", "date-time", "email", "time", "uri", "uuid"];
    if let Some(format) = value["format"].as_str() {
        assert!(STANDARD.contains(&format), "{tool}: format {format}");
    }
    match value {
        Value::Object(object) => object
            .values()
            .for_each(|value| standard_formats(value, tool)),
        Value::Array(items) => items.iter().for_each(|value| standard_formats(value, tool)),
        _ => {}
    }
}
