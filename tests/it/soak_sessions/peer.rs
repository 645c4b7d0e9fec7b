//! A client of either era that believes nothing: it checks every message of every stream that it reads.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use crate::harness;

const SESSION_ERA: &str = "2025-11-25";
const STATELESS: &str = "2026-07-28";
/// How long any answer may take: far more than the longest call, so what takes longer is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// One call: what it asks for, and what its answer must be.
#[derive(Debug, Clone)]
pub struct Ask {
    pub nonce: String,
    pub steps: u64,
    pub step_ms: u64,
    pub bytes: usize,
}

/// How a call ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With its own nonce.
    Answered,
    /// With an error that the server's end explains.
    Failed,
    /// Without an answer, as a cancelled call does.
    NoAnswer,
    /// The session is gone, or no server is there.
    Refused(StatusCode),
}

/// How a stream is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    Eager,
    /// With a pause after each chunk.
    Slow,
    /// Goes away after the first message.
    Leaves,
}

pub struct Peer {
    client: reqwest::Client,
    url: String,
    token: String,
    /// `None` for a stateless client.
    session: Option<String>,
    pub stateless: bool,
    next_id: u64,
}

impl Peer {
    pub fn new(instance: &Value, stateless: bool) -> Self {
        let text = |key: &str| instance[key].as_str().expect("as made").to_owned();
        Self {
            client: harness::http_client(),
            url: text("access_url"),
            token: text("access_token"),
            session: None,
            stateless,
            next_id: 0,
        }
    }

    fn with_headers(&self, request: RequestBuilder) -> RequestBuilder {
        let request = request
            .bearer_auth(&self.token)
            .header("Accept", "application/json, text/event-stream");
        match &self.session {
            Some(session) => request
                .header("Mcp-Session-Id", session)
                .header("MCP-Protocol-Version", SESSION_ERA),
            None => request,
        }
    }

    async fn send(&self, message: &Value) -> Response {
        let mut request = self.with_headers(self.client.post(&self.url)).json(message);
        if self.stateless {
            request = request
                .header("MCP-Protocol-Version", STATELESS)
                .header("Mcp-Method", message["method"].as_str().expect("ours"));
            if let Some(name) = message["params"]["name"].as_str() {
                request = request.header("Mcp-Name", name);
            }
        }
        let answer = tokio::time::timeout(STUCK_AFTER, request.send()).await;
        answer
            .unwrap_or_else(|_| panic!("no head of an answer: {message}"))
            .unwrap_or_else(|error| panic!("{message}: {error}"))
    }

    /// Ids are the same in all sessions, on purpose: small numbers and texts.
    fn fresh_id(&mut self) -> Value {
        self.next_id += 1;
        match self.next_id % 3 {
            0 => json!(format!("{}", self.next_id)),
            _ => json!(self.next_id),
        }
    }

    /// Begins a session, where the era has them; `false` while no server is there.
    pub async fn connect(&mut self) -> bool {
        if self.stateless {
            return true;
        }
        self.session = None;
        self.next_id = 0;
        let params = json!({"protocolVersion": SESSION_ERA, "capabilities": {},
            "clientInfo": {"name": "soak", "version": "1"}});
        let id = self.fresh_id();
        let message = json!({"jsonrpc": "2.0", "id": id, "method": "initialize", "params": params});
        let answer = self.send(&message).await;
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            return false;
        }
        assert_eq!(answer.status(), StatusCode::OK);
        let session = answer.headers().get("mcp-session-id").expect("a session");
        self.session = Some(session.to_str().expect("visible ASCII").to_owned());
        let done = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        self.notify(&done).await;
        true
    }

    async fn notify(&self, message: &Value) {
        let status = self.send(message).await.status();
        let expected = [
            StatusCode::ACCEPTED,
            StatusCode::NOT_FOUND,
            StatusCode::SERVICE_UNAVAILABLE,
        ];
        assert!(expected.contains(&status), "{message}: {status}");
    }

    /// Ends the session.
    pub async fn close(&mut self) {
        if self.session.is_some() {
            let request = self.with_headers(self.client.delete(&self.url));
            let status = request.send().await.expect("it answers").status();
            assert!(
                status == StatusCode::NO_CONTENT || status == StatusCode::NOT_FOUND,
                "{status}"
            );
            self.session = None;
        }
    }

    /// The standing stream; `None` when the session is gone.
    pub async fn listen(&self) -> Option<Response> {
        let request = self.with_headers(self.client.get(&self.url));
        let answer = request.send().await.expect("it answers");
        (answer.status() == StatusCode::OK).then_some(answer)
    }

    fn message(id: &Value, ask: &Ask, stateless: bool) -> Value {
        let arguments = json!({"nonce": ask.nonce, "steps": ask.steps, "step_ms": ask.step_ms,
            "bytes": ask.bytes});
        // The same token in all sessions, on purpose.
        let mut meta = json!({"progressToken": 1});
        if stateless {
            meta["io.modelcontextprotocol/protocolVersion"] = json!(STATELESS);
            meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
        }
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": {"name": "nonce", "arguments": arguments, "_meta": meta}})
    }

    /// One call from its request to the end of its stream.
    pub async fn call(&mut self, ask: &Ask, reading: Reading) -> (Outcome, Option<String>) {
        let id = self.fresh_id();
        let answer = self.send(&Self::message(&id, ask, self.stateless)).await;
        read(answer, &id, ask, reading).await
    }

    /// Two calls at a time; the second one is cancelled in the way of the era.
    pub async fn call_and_cancel(&mut self, keep: &Ask, cancel: &Ask) -> [Outcome; 2] {
        let ids = [self.fresh_id(), self.fresh_id()];
        let [kept, cancelled] = [(&ids[0], keep), (&ids[1], cancel)].map(|(id, ask)| async {
            let answer = self.send(&Self::message(id, ask, self.stateless)).await;
            let reading = match self.stateless && ask.nonce == cancel.nonce {
                true => Reading::Leaves,
                false => Reading::Eager,
            };
            read(answer, id, ask, reading).await.0
        });
        let notice = async {
            if !self.stateless {
                pause(cancel.step_ms).await;
                self.notify(
                    &json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
                    "params": {"requestId": ids[1]}}),
                )
                .await;
            }
        };
        let (kept, cancelled, ()) = tokio::join!(kept, cancelled, notice);
        [kept, cancelled]
    }

    /// Takes a broken stream up where it ended, and reads it to the answer.
    pub async fn resume(&mut self, ask: &Ask, last_event_id: &str) -> Outcome {
        let request = self.with_headers(self.client.get(&self.url));
        let request = request.header("Last-Event-ID", last_event_id);
        let answer = request.send().await.expect("it answers");
        let id = match self.next_id % 3 {
            0 => json!(format!("{}", self.next_id)),
            _ => json!(self.next_id),
        };
        read(answer, &id, ask, Reading::Eager).await.0
    }
}

/// Reads an answer of either form to its end, and checks that all of it belongs to this call. Gives the last event
/// id too.
async fn read(
    mut answer: Response,
    id: &Value,
    ask: &Ask,
    reading: Reading,
) -> (Outcome, Option<String>) {
    let status = answer.status();
    let mut body = Vec::new();
    let (mut outcome, mut last_event_id) = (Outcome::NoAnswer, None);
    let streams = answer
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    loop {
        let chunk = tokio::time::timeout(STUCK_AFTER, answer.chunk()).await;
        let chunk = chunk
            .unwrap_or_else(|_| panic!("stuck: {id} {ask:?}"))
            .unwrap_or_else(|error| panic!("{id} {ask:?}: {error}"));
        let Some(chunk) = chunk else { break };
        body.extend_from_slice(&chunk);
        while let Some(end) = streams.then(|| end_of_event(&body)).flatten() {
            let event: Vec<u8> = body.drain(..end + 2).collect();
            let event = String::from_utf8(event).expect("events are text");
            for line in event.lines() {
                if let Some(id) = line.strip_prefix("id:") {
                    last_event_id = Some(id.trim().to_owned());
                } else if let Some(data) = line.strip_prefix("data:")
                    && !data.trim().is_empty()
                {
                    assert_eq!(outcome, Outcome::NoAnswer, "after its answer: {data}");
                    outcome = check(data, id, ask);
                    if reading == Reading::Leaves {
                        return (outcome, last_event_id);
                    }
                }
            }
        }
        if reading == Reading::Slow {
            pause(30).await;
        }
    }
    if streams {
        return (outcome, last_event_id);
    }
    let outcome = match status {
        StatusCode::OK => {
            let text = String::from_utf8(body).expect("JSON is text");
            check(&text, id, ask)
        }
        StatusCode::ACCEPTED => Outcome::NoAnswer,
        StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_REQUEST => {
            Outcome::Refused(status)
        }
        _ => panic!(
            "{status} to {id} {ask:?}: {}",
            String::from_utf8_lossy(&body)
        ),
    };
    (outcome, last_event_id)
}

/// What the client does meanwhile; nothing depends on its length.
async fn pause(length_ms: u64) {
    let mut ticks = tokio::time::interval(Duration::from_millis(length_ms));
    ticks.tick().await;
    ticks.tick().await;
}

fn end_of_event(body: &[u8]) -> Option<usize> {
    body.windows(2).position(|pair| pair == b"\n\n")
}

/// One message: it must belong to this call, whatever it is.
fn check(text: &str, id: &Value, ask: &Ask) -> Outcome {
    let message: Value =
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    if message["method"] == "notifications/progress" {
        assert_eq!(message["params"]["message"], ask.nonce, "not ours: {text}");
        assert_eq!(message["params"]["progressToken"], 1, "{text}");
        return Outcome::NoAnswer;
    }
    assert_eq!(&message["id"], id, "not ours: {text}");
    if let Some(error) = message.get("error") {
        // Only the end of the server may cost a call its answer.
        assert_eq!(error["code"], -32_603, "{text}");
        return Outcome::Failed;
    }
    let given = message["result"]["content"][0]["text"].as_str();
    let given = given.unwrap_or_else(|| panic!("no text: {text}"));
    let (nonce, rest) = given
        .split_at_checked(ask.nonce.len())
        .unwrap_or((given, ""));
    assert_eq!(nonce, ask.nonce, "the answer of another call");
    assert_eq!(rest.len(), ask.bytes, "{nonce}");
    Outcome::Answered
}

#[test]
#[should_panic(expected = "the answer of another call")]
fn the_answer_of_another_call_is_noticed() {
    let ask = Ask {
        nonce: "mine".to_owned(),
        steps: 0,
        step_ms: 0,
        bytes: 0,
    };
    let text = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"hers"}]}}"#;
    check(text, &json!(1), &ask);
}
