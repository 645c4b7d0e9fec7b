//! Clients that speak only HTTP+SSE, the transport of revision 2024-11-05.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    harness::{Database, Server, http_client},
    mcp,
    path_gateway::{at, text},
};

/// One client with its stream.
pub struct Old {
    http: Client,
    base: String,
    token: Option<String>,
    stream: Response,
    buffer: String,
    /// Where its messages go.
    endpoint: String,
}

fn authorized(request: RequestBuilder, token: Option<&str>) -> RequestBuilder {
    match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    }
}

impl Old {
    /// Opens a stream at `base` + `path`; the endpoint that it names must begin with `expected`.
    pub async fn open(base: &str, path: &str, token: Option<&str>, expected: &str) -> Self {
        let http = http_client();
        let request = authorized(http.get(format!("{base}{path}")), token);
        let stream = request.header("Accept", "text/event-stream").send().await;
        let stream = stream.expect("an answer");
        assert_eq!(stream.status(), StatusCode::OK, "{base}{path}");
        assert_eq!(stream.headers()["content-type"], "text/event-stream");
        assert_eq!(stream.headers()["x-accel-buffering"], "no");
        let mut old = Self {
            http,
            base: base.to_owned(),
            token: token.map(str::to_owned),
            stream,
            buffer: String::new(),
            endpoint: String::new(),
        };
        let (kind, endpoint) = old.event().await.expect("the first event");
        assert_eq!(kind, "endpoint");
        let session = endpoint.strip_prefix(expected).expect(&endpoint);
        assert_eq!(session.len(), 32, "{endpoint}");
        old.endpoint = endpoint;
        old
    }

    /// The next event, its kind and its data; `None` when the stream has ended.
    pub async fn event(&mut self) -> Option<(String, String)> {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let field = |name: &str| {
                    let found = event.lines().find_map(|line| line.strip_prefix(name));
                    found.map(|value| value.trim().to_owned())
                };
                let found = field("event:").zip(field("data:"));
                self.buffer = rest.to_owned();
                // A comment that keeps it alive.
                let Some(found) = found else { continue };
                return Some(found);
            }
            match self.stream.chunk().await {
                Ok(Some(chunk)) => self.buffer.push_str(&String::from_utf8_lossy(&chunk)),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    fn post(&self, message: &Value) -> RequestBuilder {
        let request = self.http.post(format!("{}{}", self.base, self.endpoint));
        authorized(request, self.token.as_deref()).json(message)
    }

    /// Status and body of the answer to a post, whatever it is.
    pub async fn posted(&self, message: &Value) -> (StatusCode, String) {
        let answer = self.post(message).send().await.expect("an answer");
        (answer.status(), answer.text().await.expect("a body"))
    }

    pub async fn send(&self, message: &Value) {
        let answer = self.post(message).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        assert_eq!(answer.text().await.expect("a body"), "");
    }

    /// The next message that satisfies the condition.
    pub async fn message(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (kind, data) = self.event().await.expect("the stream goes on");
            assert_eq!(kind, "message");
            let message: Value = serde_json::from_str(&data).expect("JSON");
            if wanted(&message) {
                return message;
            }
        }
    }

    pub async fn request(&mut self, id: u64, method: &str, params: Value) -> Value {
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.send(&message).await;
        self.message(|message| message["id"] == id && message.get("method").is_none())
            .await
    }

    /// Makes the handshake, with sampling.
    pub async fn greet(&mut self) -> Value {
        let hello = json!({"protocolVersion": "2024-11-05", "capabilities": {"sampling": {}}, "clientInfo": {
            "name": "it", "version": "1"}});
        let answer = self.request(1, "initialize", hello).await;
        let done = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        self.send(&done).await;
        answer
    }
}

async fn until_sessions(server: &Server, name: &str, wanted: u64) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let stats = server.get(&format!("/mcps/{name}/stats")).await;
        if stats["sessions"] == wanted {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{stats}");
        tokio::time::sleep(Duration::from_millis(10)).await; // poll
    }
}

#[tokio::test]
async fn a_client_of_2024_is_answered_on_its_stream_wherever_it_comes_in() {
    let mut server = Server::start(Database::Sqlite).await;
    let instance = server
        .create(json!({"template": "demo", "name": "old"}))
        .await;
    let token = text(&instance, "access_token");
    let port = text(&instance, "access_url").replace("/mcp", "");
    let inside = format!("/{token}/sse");
    let (api, below) = (server.url(), format!("/i/old/{token}"));
    for (base, path, token, expected) in [
        (
            &port,
            "/sse",
            Some(token),
            "/messages?sessionId=".to_owned(),
        ),
        (
            &port,
            &inside,
            None,
            format!("/{token}/messages?sessionId="),
        ),
        (
            &api,
            "/i/old/sse",
            Some(token),
            "/i/old/messages?sessionId=".to_owned(),
        ),
        (
            &api,
            &format!("{below}/sse"),
            None,
            format!("{below}/messages?sessionId="),
        ),
    ] {
        let mut old = Old::open(base, path, token, &expected).await;
        let early = old.request(9, "tools/list", json!({})).await;
        assert_eq!(early["error"]["code"], -32600, "{early}");
        let hello = old.greet().await;
        assert_eq!(hello["result"]["protocolVersion"], "2024-11-05", "{hello}");
        let list = old.request(2, "tools/list", json!({})).await;
        assert!(
            list["result"]["tools"].to_string().contains("echo"),
            "{list}"
        );
        assert_eq!(old.request(3, "ping", json!({})).await["result"], json!({}));
        let again = old
            .request(4, "initialize", json!({"protocolVersion": "2024-11-05"}))
            .await;
        assert_eq!(again["error"]["code"], -32600, "{again}");
        // Two at a time: each answer has its own id, and progress comes before its answer.
        let sleep = json!({"jsonrpc": "2.0", "id": "s", "method": "tools/call", "params": {"name": "sleep",
            "arguments": {"seconds": 1, "steps": 2}, "_meta": {"progressToken": 7}}});
        old.send(&sleep).await;
        let echo = json!({"name": "echo", "arguments": {"text": "quick"}});
        let quick = old.request(5, "tools/call", echo).await;
        assert_eq!(quick["result"]["content"][0]["text"], "quick", "{quick}");
        let progress = old
            .message(|message| message["method"] == "notifications/progress")
            .await;
        assert_eq!(progress["params"]["progressToken"], 7, "{progress}");
        let slept = old.message(|message| message["id"] == "s").await;
        assert_eq!(
            slept["result"]["content"][0]["text"], "slept 1 s",
            "{slept}"
        );
        until_sessions(&server, "old", 1).await;
        drop(old);
        until_sessions(&server, "old", 0).await;
    }
    // A stream that stands open does not hold up the end of the daemon.
    let mut old = Old::open(
        &api,
        "/i/old/sse",
        Some(token),
        "/i/old/messages?sessionId=",
    )
    .await;
    old.greet().await;
    assert_eq!(server.stop(), Some(0));
    assert_eq!(old.event().await, None);
    assert!(
        !server.log().contains("still under way"),
        "{}",
        server.log()
    );
}

#[tokio::test]
async fn a_crash_is_told_on_the_stream_which_goes_on_with_the_next_child() {
    let server = Server::start(Database::Sqlite).await;
    let instance = server
        .create(json!({"template": "demo", "name": "old"}))
        .await;
    let port = text(&instance, "access_url").replace("/mcp", "");
    let token = text(&instance, "access_token");
    let mut old = Old::open(&port, "/sse", Some(token), "/messages?sessionId=").await;
    old.greet().await;
    let crash = json!({"name": "crash", "arguments": {"code": 3}});
    let answer = old.request(2, "tools/call", crash).await;
    assert!(
        answer["error"]["message"].to_string().contains('3'),
        "{answer}"
    );
    // It waits for the next child, as on every other way in.
    let echo = json!({"name": "echo", "arguments": {"text": "again"}});
    let answer = old.request(3, "tools/call", echo).await;
    assert_eq!(answer["result"]["content"][0]["text"], "again", "{answer}");
    server.delete("old").await;
    assert_eq!(old.event().await, None);
}

#[tokio::test]
async fn strangers_and_strange_requests_are_refused() {
    let server = Server::start_with(Database::Sqlite, |config| {
        config.gateway.sessions_max = 2;
    })
    .await;
    let instance = server
        .create(json!({"template": "demo", "name": "old"}))
        .await;
    let other = server
        .create(json!({"template": "demo", "name": "other"}))
        .await;
    let port = text(&instance, "access_url").replace("/mcp", "");
    let first = text(&instance, "access_token").to_owned();
    let made = server
        .post("/mcps/old/access-tokens", json!({"name": "second"}))
        .await;
    let second = text(&made, "access_token");
    let mut old = Old::open(&port, "/sse", Some(&first), "/messages?sessionId=").await;
    old.greet().await;
    let (http, ping) = (
        http_client(),
        json!({"jsonrpc": "2.0", "id": 7, "method": "ping"}),
    );
    let status = async |request: RequestBuilder| {
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.expect("JSON-RPC");
        assert!(body["error"]["message"].is_string(), "{body}");
        status
    };
    let sse = || http.get(format!("{port}/sse"));
    let messages = |query: &str| http.post(format!("{port}/messages{query}")).json(&ping);
    let own = old.endpoint.replace("/messages", "");
    assert_eq!(status(sse()).await, 401);
    assert_eq!(
        status(sse().bearer_auth(text(&other, "access_token"))).await,
        401
    );
    assert_eq!(status(messages(&own)).await, 401, "a session is no key");
    // The session belongs to the token that opened it, whichever else opens the instance.
    assert_eq!(status(messages(&own).bearer_auth(second)).await, 404);
    for query in [
        "",
        "?sessionId=",
        "?sessionId=00000000000000000000000000000000",
        "?x",
    ] {
        assert_eq!(
            status(messages(query).bearer_auth(&first)).await,
            404,
            "{query}"
        );
    }
    let elsewhere = text(&other, "access_url").replace("/mcp", &old.endpoint);
    let elsewhere = http.post(elsewhere).json(&ping);
    assert_eq!(
        status(elsewhere.bearer_auth(text(&other, "access_token"))).await,
        404
    );
    for (name, value) in [("Origin", "https://evil.example"), ("Host", "evil.example")] {
        assert_eq!(
            status(sse().bearer_auth(&first).header(name, value)).await,
            403
        );
        assert_eq!(
            status(messages(&own).bearer_auth(&first).header(name, value)).await,
            403
        );
    }
    assert_eq!(
        status(
            http.post(format!("{port}/sse"))
                .bearer_auth(&first)
                .json(&ping)
        )
        .await,
        405
    );
    let got = http.get(format!("{port}/messages{own}"));
    assert_eq!(status(got.bearer_auth(&first)).await, 405);
    let raw = |kind: &str, body: &'static str| {
        let request = http
            .post(format!("{port}/messages{own}"))
            .bearer_auth(&first);
        request.header("Content-Type", kind).body(body)
    };
    assert_eq!(status(raw("text/plain", "{}")).await, 415);
    for body in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
    ] {
        assert_eq!(status(raw("application/json", body)).await, 400, "{body}");
    }
    // None of it harmed the session.
    assert_eq!(old.request(8, "ping", json!({})).await["result"], json!({}));
    // Sessions are counted together with those of the other transport.
    let mut full = Old::open(&port, "/sse", Some(second), "/messages?sessionId=").await;
    full.greet().await;
    assert_eq!(status(sse().bearer_auth(&first)).await, 503);
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}}});
    let streamable = http
        .post(format!("{port}/mcp"))
        .bearer_auth(&first)
        .json(&hello);
    assert_eq!(
        status(streamable.header("Accept", "application/json, text/event-stream")).await,
        503
    );
}

#[tokio::test]
async fn the_scope_and_the_end_of_a_token_hold_on_its_stream() {
    let server = Server::start(Database::Sqlite).await;
    let instance = server
        .create(json!({"template": "demo", "name": "old"}))
        .await;
    let port = text(&instance, "access_url").replace("/mcp", "");
    let wanted = json!({"name": "narrow", "scope": {"tools": ["echo"]}});
    let made = server.post("/mcps/old/access-tokens", wanted).await;
    let token = text(&made, "access_token");
    let mut old = Old::open(&port, "/sse", Some(token), "/messages?sessionId=").await;
    old.greet().await;
    let list = old.request(2, "tools/list", json!({})).await;
    let tools = list["result"]["tools"].as_array().expect("a list");
    assert_eq!(tools.len(), 1, "{list}");
    let sleep = json!({"name": "sleep", "arguments": {"seconds": 0, "steps": 1}});
    let refused = old.request(3, "tools/call", sleep).await;
    assert_eq!(refused["error"]["data"]["cause"], "scope", "{refused}");
    let echo = json!({"name": "echo", "arguments": {"text": "in scope"}});
    let answer = old.request(4, "tools/call", echo).await;
    assert_eq!(answer["result"]["content"][0]["text"], "in scope");
    server.delete("old/access-tokens/narrow").await;
    assert_eq!(old.event().await, None);
}

#[tokio::test]
async fn it_can_be_switched_off() {
    let server = Server::start_with(Database::Sqlite, |config| {
        config.gateway.http_sse = false;
    })
    .await;
    let instance = server
        .create(json!({"template": "demo", "name": "old"}))
        .await;
    let base = text(&instance, "access_url").replace("/mcp", "");
    let (http, token) = (http_client(), text(&instance, "access_token"));
    for request in [
        http.get(format!("{base}/sse")),
        http.post(format!("{base}/messages?sessionId=0")),
    ] {
        let answer = request.bearer_auth(token).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    }
    let card = http
        .get(format!("{base}/mcp/server-card"))
        .bearer_auth(token);
    let card: Value = card
        .send()
        .await
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    assert_eq!(
        card["remotes"].as_array().map(Vec::len),
        Some(1),
        "{card:#}"
    );
}

#[tokio::test]
async fn the_official_sdks_list_call_hear_progress_and_are_asked_back() {
    let server = Server::start(Database::Sqlite).await;
    let demo = server
        .create(json!({"template": "demo", "name": "demo"}))
        .await;
    let asking = server
        .create(json!({"template": "conformance", "name": "asking"}))
        .await;
    for sdk in ["typescript-1 sse", "python-1 sse"] {
        let arguments = json!({"seconds": 0.6, "steps": 3});
        let on_port = at(&demo, &text(&demo, "access_url").replace("/mcp", "/sse"));
        let Some(report) = mcp::sdk(sdk, &on_port, "sleep", &arguments).await else {
            return;
        };
        assert_eq!(
            report["result"]["content"][0]["text"], "slept 0.6 s",
            "{report:#}"
        );
        // The last one may come together with the answer, and an SDK forgets it then.
        let progress = report["progress"].as_array().expect("a list");
        let progress: Vec<f64> = progress.iter().filter_map(Value::as_f64).collect();
        assert!(progress.starts_with(&[1.0, 2.0]), "{report:#}");
        assert_eq!(
            report["tools"].as_array().map(Vec::len),
            Some(6),
            "{report:#}"
        );
        // With the token in the path, below the API's port.
        let token = text(&asking, "access_token");
        let below = at(&asking, &format!("{}/i/asking/{token}/sse", server.url()));
        let arguments = json!({"message": "Who are you?"});
        let asked = mcp::sdk(sdk, &below, "test_elicitation", &arguments)
            .await
            .expect("installed");
        let answered = asked["result"]["content"][0]["text"].to_string();
        assert!(answered.contains("Ada"), "{asked:#}");
    }
}
