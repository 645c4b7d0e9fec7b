//! Clients of both eras at stdio servers of the stateless era, through the real binary.

use std::{collections::VecDeque, time::Duration};

use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{self, Database, Server};

mod limits;
mod sessions;
mod stateless;

pub const SOON: Duration = Duration::from_secs(20);
pub const META: &str = "io.modelcontextprotocol/";

/// A client that shows the wire: of the session era with a session id, else stateless.
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
    session: Option<String>,
    capabilities: Value,
}

impl Client {
    fn new(instance: &Value, capabilities: Value) -> Self {
        let text = |key: &str| {
            instance[key]
                .as_str()
                .expect("as it was created")
                .to_owned()
        };
        Self {
            http: harness::http_client(),
            url: text("access_url"),
            token: text("access_token"),
            session: None,
            capabilities,
        }
    }

    /// A session; gives the result of `initialize` too.
    pub async fn in_session(instance: &Value, capabilities: Value) -> (Self, Value) {
        let mut client = Self::new(instance, capabilities);
        let hello = client.initialize("2025-11-25").await;
        (client, hello)
    }

    /// A session of this revision.
    pub async fn of_revision(instance: &Value, revision: &str) -> Self {
        let mut client = Self::new(instance, json!({}));
        let hello = client.initialize(revision).await;
        assert_eq!(hello["protocolVersion"], revision, "{hello}");
        client
    }

    /// Sends a request as it is.
    pub async fn execute(&self, request: reqwest::Request) -> Response {
        self.http.execute(request).await.expect("an answer")
    }

    async fn initialize(&mut self, revision: &str) -> Value {
        let client = self;
        let params = json!({"protocolVersion": revision, "capabilities": client.capabilities,
            "clientInfo": {"name": "meetings", "version": "9"}});
        let answer = client.request(1, "initialize", params).send().await;
        let answer = answer.expect("an answer");
        let session = &answer.headers()["mcp-session-id"];
        client.session = Some(session.to_str().expect("ASCII").to_owned());
        let answer: Value = answer.json().await.expect("JSON");
        answer["result"].clone()
    }

    pub fn stateless(instance: &Value, capabilities: Value) -> Self {
        Self::new(instance, capabilities)
    }

    /// A stateless one at the API's address.
    pub fn at_path(instance: &Value) -> Self {
        let mut client = Self::new(instance, json!({}));
        let url = instance["path_url"].as_str().expect("it has one");
        client.url = url.to_owned();
        client
    }

    pub fn post(&self, body: &Value) -> RequestBuilder {
        let request = self
            .http
            .post(&self.url)
            .bearer_auth(&self.token)
            .header("Accept", "application/json, text/event-stream")
            .json(body);
        match &self.session {
            Some(session) => request.header("Mcp-Session-Id", session),
            None => request,
        }
    }

    /// One request, with what its era demands.
    pub fn request(&self, id: u32, method: &str, mut params: Value) -> RequestBuilder {
        let is_stateless = self.session.is_none() && method != "initialize";
        if is_stateless {
            if params["_meta"].is_null() {
                params["_meta"] = json!({});
            }
            params["_meta"][format!("{META}protocolVersion")] = json!("2026-07-28");
            params["_meta"][format!("{META}clientCapabilities")] = self.capabilities.clone();
        }
        let name = params.get("name").or(params.get("uri")).cloned();
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let request = self.post(&body);
        if !is_stateless {
            return request;
        }
        let request = request
            .header("MCP-Protocol-Version", "2026-07-28")
            .header("Mcp-Method", method);
        match name.as_ref().and_then(Value::as_str) {
            Some(name) => request.header("Mcp-Name", name),
            None => request,
        }
    }

    pub fn tool(&self, id: u32, name: &str, arguments: Value) -> RequestBuilder {
        self.request(
            id,
            "tools/call",
            json!({"name": name, "arguments": arguments}),
        )
    }

    pub async fn respond(&self, question: &Value, result: Value) {
        let body = json!({"jsonrpc": "2.0", "id": question["id"], "result": result});
        let sent = self.post(&body).send().await.expect("an answer");
        assert_eq!(sent.status(), StatusCode::ACCEPTED);
    }

    pub async fn standing(&self) -> Messages {
        Messages::of(self.get()).await
    }

    /// What follows this event.
    pub async fn resumed(&self, last_id: &str) -> Messages {
        Messages::of(self.get_after(last_id)).await
    }

    /// The request for what follows this event.
    pub fn get_after(&self, last_id: &str) -> RequestBuilder {
        self.get().header("Last-Event-ID", last_id)
    }

    /// Ends its session.
    pub async fn end(&self) -> StatusCode {
        let session = self.session.as_deref().expect("a session");
        let request = self.http.delete(&self.url).bearer_auth(&self.token);
        let sent = request.header("Mcp-Session-Id", session).send().await;
        sent.expect("an answer").status()
    }

    /// From now on it uses none of its present connections.
    pub fn reconnect(&mut self) {
        self.http = harness::http_client();
    }

    /// The same session with another token.
    pub fn with_token_of(mut self, token: &Value) -> Self {
        let text = token["access_token"].as_str().expect("a token");
        self.token = text.to_owned();
        self
    }

    fn get(&self) -> RequestBuilder {
        let session = self.session.as_deref().expect("a session");
        self.http
            .get(&self.url)
            .bearer_auth(&self.token)
            .header("Accept", "text/event-stream")
            .header("Mcp-Session-Id", session)
    }
}

/// The messages of an answer, one by one.
pub struct Messages {
    answer: Response,
    streams: bool,
    text: String,
    ready: VecDeque<Value>,
    /// The id of the last event that had one.
    pub last_id: Option<String>,
}

impl Messages {
    pub async fn of(request: RequestBuilder) -> Self {
        let answer = request.send().await.expect("an answer");
        let kind = answer.headers().get("content-type");
        let streams = kind.is_some_and(|kind| kind == "text/event-stream");
        Self {
            answer,
            streams,
            text: String::new(),
            ready: VecDeque::new(),
            last_id: None,
        }
    }

    /// The next message; `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        while self.ready.is_empty() {
            let chunk = timeout(SOON, self.answer.chunk()).await.expect("in time");
            let Some(chunk) = chunk.expect("the stream lives") else {
                let rest = std::mem::take(&mut self.text);
                return (!self.streams && !rest.is_empty())
                    .then(|| serde_json::from_str(&rest).expect("JSON"));
            };
            self.text += std::str::from_utf8(&chunk).expect("UTF-8");
            while let Some(end) = self.streams.then(|| self.text.find("\n\n")).flatten() {
                let event: String = self.text.drain(..end + 2).collect();
                let id = event.lines().find_map(|line| line.strip_prefix("id: "));
                self.last_id = id.map(str::to_owned).or(self.last_id.take());
                let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                let message = data.and_then(|data| serde_json::from_str(data).ok());
                self.ready.extend(message);
            }
        }
        self.ready.pop_front()
    }

    /// The next message, which must be this request or notification.
    pub async fn expect(&mut self, method: &str) -> Value {
        let message = self.next().await.expect("a message");
        assert_eq!(message["method"], method, "{message}");
        message
    }

    /// The answer, without what comes before it.
    pub async fn answer(mut self) -> Value {
        loop {
            let message = self.next().await.expect("the answer is the last");
            if message.get("method").is_none() {
                return message;
            }
        }
    }

    pub async fn text(self) -> String {
        let answer = self.answer().await;
        let text = answer["result"]["content"][0]["text"].as_str();
        text.unwrap_or_else(|| panic!("no text: {answer}"))
            .to_owned()
    }
}

pub async fn text(request: RequestBuilder) -> String {
    Messages::of(request).await.text().await
}

pub async fn answer(request: RequestBuilder) -> Value {
    Messages::of(request).await.answer().await
}

pub async fn start(template: &str) -> (Server, Value) {
    let server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": template})).await;
    assert_eq!(instance["status"], "running", "{instance:#}");
    (server, instance)
}

/// What can be asked of a person, a model and a folder.
pub fn everything() -> Value {
    json!({"elicitation": {}, "sampling": {}, "roots": {}})
}

/// The fixture tells on stderr what a strict server must not get.
pub async fn no_fault(server: &Server, instance: &Value) {
    let id = instance["id"].as_str().expect("an id");
    let logs = server.get(&format!("/mcps/{id}/logs")).await;
    let items = logs["items"].as_array().expect("a page");
    let faults: Vec<&Value> = items
        .iter()
        .filter(|item| item["stream"] == "stderr")
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Calls a tool until it says this.
pub async fn until(client: &Client, tool: &str, wanted: &str) {
    let said = timeout(SOON, async {
        while text(client.tool(90, tool, json!({}))).await != wanted {}
    });
    said.await
        .unwrap_or_else(|_| panic!("{tool} never said {wanted}"));
}
