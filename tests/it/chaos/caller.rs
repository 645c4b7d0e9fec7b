//! Clients of both eras that call through the access URLs all the time, each call with words of its own.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    api::client,
    model::State,
    world::{Access, World},
};

const SESSION_ERA: &str = "2025-11-25";
const STATELESS: &str = "2026-07-28";

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With a text.
    Text(String),
    /// With an error of the protocol.
    Error(i64),
    /// Refused over HTTP.
    Refused(StatusCode),
    /// The connection was refused, or broke.
    Broken,
    /// Neither came.
    Stuck,
    /// Not an answer to this call; what it was.
    Foreign(String),
}

/// One client, of either era.
pub struct Caller {
    client: reqwest::Client,
    access: Access,
    stateless: bool,
    session: Option<String>,
    next_id: u64,
}

impl Caller {
    /// For one instance.
    pub fn new(access: &Access, stateless: bool) -> Self {
        Self {
            client: client(),
            access: access.clone(),
            stateless,
            session: None,
            next_id: 0,
        }
    }

    /// Calls a tool; begins a session first, where the era has them and there is none.
    pub async fn tool(&mut self, name: &str, arguments: Value) -> Outcome {
        if !self.stateless && self.session.is_none() {
            let greeting = self.begin().await;
            if !matches!(greeting, Outcome::Text(_)) {
                return greeting;
            }
        }
        let mut params = json!({"name": name, "arguments": arguments});
        if self.stateless {
            params["_meta"] = json!({
                "io.modelcontextprotocol/protocolVersion": STATELESS,
                "io.modelcontextprotocol/clientCapabilities": {},
            });
        }
        let outcome = self.request("tools/call", params).await;
        if matches!(outcome, Outcome::Refused(StatusCode::NOT_FOUND)) {
            self.session = None;
        }
        outcome
    }

    /// Ends its session, if it has one. Whether that is heard shows at the next checkpoint.
    pub async fn end(&mut self) {
        if let Some(session) = self.session.take() {
            let request = self.client.delete(&self.access.url);
            let request = request.bearer_auth(&self.access.token);
            let _ = request.header("Mcp-Session-Id", session).send().await;
        }
    }

    async fn begin(&mut self) -> Outcome {
        let params = json!({"protocolVersion": SESSION_ERA, "capabilities": {},
            "clientInfo": {"name": "chaos", "version": "1"}});
        let greeting = self.request("initialize", params).await;
        if matches!(greeting, Outcome::Text(_)) {
            let done = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
            // Whether it is heard shows at the next call.
            let _ = self.send(&done).await;
        }
        greeting
    }

    async fn send(&self, message: &Value) -> Result<reqwest::Response, Outcome> {
        let mut request = self
            .client
            .post(&self.access.url)
            .bearer_auth(&self.access.token)
            .header("Accept", "application/json, text/event-stream")
            .json(message);
        if self.stateless {
            request = request
                .header("MCP-Protocol-Version", STATELESS)
                .header("Mcp-Method", message["method"].as_str().expect("ours"));
            if let Some(name) = message["params"]["name"].as_str() {
                request = request.header("Mcp-Name", name);
            }
        } else if let Some(session) = &self.session {
            request = request
                .header("MCP-Protocol-Version", SESSION_ERA)
                .header("Mcp-Session-Id", session);
        }
        request.send().await.map_err(|error| broken(&error))
    }

    async fn request(&mut self, method: &str, params: Value) -> Outcome {
        self.next_id += 1;
        let id = self.next_id;
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let answer = match self.send(&message).await {
            Ok(answer) => answer,
            Err(outcome) => return outcome,
        };
        let status = answer.status();
        let session = answer.headers().get("mcp-session-id").cloned();
        let body = match answer.text().await {
            Ok(body) => body,
            Err(error) => return broken(&error),
        };
        if method == "initialize" && status.is_success() {
            self.session = session.and_then(|text| Some(text.to_str().ok()?.to_owned()));
        }
        read(status, &body, id)
    }
}

fn broken(error: &reqwest::Error) -> Outcome {
    if error.is_timeout() {
        Outcome::Stuck
    } else {
        Outcome::Broken
    }
}

/// Reads the answer to call `id` from a body of either form.
fn read(status: StatusCode, body: &str, id: u64) -> Outcome {
    let events = body.lines().filter_map(|line| line.strip_prefix("data:"));
    let responses: Vec<Value> = std::iter::once(body)
        .chain(events)
        .filter_map(|text| serde_json::from_str::<Value>(text).ok())
        .filter(|message| message.get("result").is_some() || message.get("error").is_some())
        .collect();
    match responses.as_slice() {
        [one] if one["id"] == id => match one["error"]["code"].as_i64() {
            Some(code) => Outcome::Error(code),
            None => {
                let text = one["result"]["content"][0]["text"].as_str();
                Outcome::Text(text.unwrap_or_default().to_owned())
            }
        },
        // What was refused before anybody looked into the message may name no call.
        [one] if one["id"].is_null() && !status.is_success() => Outcome::Refused(status),
        [] if !status.is_success() => Outcome::Refused(status),
        // The stream ended without an answer: the end of `serve` in the middle.
        [] => Outcome::Broken,
        _ => Outcome::Foreign(body.to_owned()),
    }
}

/// Calls the instance of a slot, whichever it is, until the run is over.
pub async fn call_all_the_time(world: &World, slot: usize, number: usize) {
    let stateless = number % 2 == 1;
    let mut caller: Option<Caller> = None;
    let mut count = 0_u64;
    while let Some(_at_work) = world.turn().await {
        let access = world.state().places[slot].access.clone();
        let Some(access) = access else {
            caller = None;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await; // poll
            continue;
        };
        let present = caller.take().filter(|caller| caller.access == access);
        let mut present = present.unwrap_or_else(|| Caller::new(&access, stateless));
        count += 1;
        let length = 1 + usize::try_from(count % 7).expect("small").pow(4);
        let nonce = format!(
            "slot {slot} caller {number} call {count} {}",
            "x".repeat(length)
        );
        let outcome = present.tool("echo", json!({"text": nonce})).await;
        caller = Some(present);
        let who = format!("call {count} of caller {number} in slot {slot}");
        match &outcome {
            Outcome::Text(text) if *text == nonce => world.count("calls answered"),
            Outcome::Text(text) => world.wrong(format!("{who}: the answer of another: {text}")),
            Outcome::Foreign(body) => world.wrong(format!("{who}: not its answer: {body}")),
            Outcome::Stuck => world.wrong(format!("{who}: no answer")),
            Outcome::Error(code) => world.count(&format!("calls with error {code}")),
            Outcome::Broken => world.count("calls cut off"),
            Outcome::Refused(status) => {
                world.count(&format!("calls refused with {}", status.as_u16()));
                // Still the same instance, and nobody may have deleted it.
                let is_there = {
                    let place = &world.state().places[slot];
                    place.access.as_ref() == Some(&access)
                        && !place.model.possible().contains(&State::Absent)
                };
                let fits = match status.as_u16() {
                    503 | 404 => true,
                    401 | 403 => !is_there,
                    _ => false,
                };
                if !fits {
                    world.wrong(format!("{who}: {status}"));
                }
            }
        }
        if !matches!(outcome, Outcome::Text(_)) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await; // poll
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_the_very_call_is_one() {
        let ok = StatusCode::OK;
        let mine = r#"{"jsonrpc":"2.0","id":3,"result":{"content":[{"type":"text","text":"a"}]}}"#;
        assert_eq!(read(ok, mine, 3), Outcome::Text("a".to_owned()));
        assert!(matches!(read(ok, mine, 4), Outcome::Foreign(_)));
        let stream = format!("id: 1\ndata: {{\"method\":\"x\"}}\n\ndata: {mine}\n\n");
        assert_eq!(read(ok, &stream, 3), Outcome::Text("a".to_owned()));
        let twice = format!("{stream}{stream}");
        assert!(matches!(read(ok, &twice, 3), Outcome::Foreign(_)));
        let failed = r#"{"jsonrpc":"2.0","id":3,"error":{"code":-32603,"message":"x"}}"#;
        assert_eq!(read(ok, failed, 3), Outcome::Error(-32603));
        assert_eq!(read(ok, "", 3), Outcome::Broken);
        let refused = StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(read(refused, "{}", 3), Outcome::Refused(refused));
    }
}
