//! A child played by a task of the test, at the other end of real pipes.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::unix::pipe,
    sync::mpsc,
};

use super::{NoiseSink, Upstream, UpstreamOptions};

/// The child's ends of its pipes.
pub struct Child {
    stdin: Lines<BufReader<pipe::Receiver>>,
    stdout: pipe::Sender,
}

/// A connection, the child behind it, and what it said that was no JSON-RPC.
pub fn connect(options: UpstreamOptions) -> (Arc<Upstream>, Child, mpsc::Receiver<String>) {
    let (child_stdin, stdin) = std::io::pipe().expect("a pipe");
    let (stdout, child_stdout) = std::io::pipe().expect("a pipe");
    let (heard, noise) = mpsc::channel(64);
    let sink: NoiseSink = Arc::new(move |line: &[u8]| {
        let _ = heard.try_send(String::from_utf8_lossy(line).into_owned());
    });
    let upstream = Upstream::over_stdio(stdin.into(), stdout.into(), options, sink).expect("pipes");
    let child_stdin = pipe::Receiver::from_owned_fd(child_stdin.into()).expect("a pipe");
    let child = Child {
        stdin: BufReader::new(child_stdin).lines(),
        stdout: pipe::Sender::from_owned_fd(child_stdout.into()).expect("a pipe"),
    };
    (upstream, child, noise)
}

impl Child {
    /// The next message to the child; `None` when its stdin was closed.
    pub async fn next(&mut self) -> Option<Value> {
        let line = self.stdin.next_line().await.expect("reading stdin")?;
        Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }

    /// The next message, which must be there.
    pub async fn expect(&mut self, method: &str) -> Value {
        let message = self.next().await.expect("stdin is open");
        assert_eq!(message["method"], method, "{message}");
        message
    }

    /// Writes raw bytes.
    pub async fn write(&mut self, bytes: &[u8]) {
        self.stdout.write_all(bytes).await.expect("stdout is open");
    }

    /// Writes one message.
    pub async fn say(&mut self, message: Value) {
        self.write(format!("{message}\n").as_bytes()).await;
    }

    /// Answers a request.
    pub async fn answer(&mut self, request: &Value, result: Value) {
        self.say(json!({"jsonrpc": "2.0", "id": request["id"], "result": result}))
            .await;
    }

    /// Plays the handshake with two pages of tools.
    pub async fn shake_hands(&mut self) {
        self.shake_hands_with(&["a", "b"]).await;
    }

    /// The same with these two tools, a page each.
    pub async fn shake_hands_with(&mut self, tools: &[&str]) {
        let asked = self.expect("initialize").await;
        self.answer(
            &asked,
            json!({
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {"listChanged": true}, "logging": {}, "resources": {}},
                "serverInfo": {"name": "scripted", "version": "7"},
            }),
        )
        .await;
        self.expect("notifications/initialized").await;
        let asked = self.expect("tools/list").await;
        self.answer(
            &asked,
            json!({"tools": [{"name": tools[0]}], "nextCursor": "2"}),
        )
        .await;
        let asked = self.expect("tools/list").await;
        assert_eq!(asked["params"]["cursor"], "2");
        self.answer(&asked, json!({"tools": [{"name": tools[1]}]}))
            .await;
    }

    /// Plays a server of the stateless era that tells news of its tools and resources.
    pub async fn shake_hands_stateless(&mut self, tools: &[&str]) {
        let asked = self.expect("initialize").await;
        let error = json!({"code": -32_022, "message": "unsupported"});
        self.say(json!({"jsonrpc": "2.0", "id": asked["id"], "error": error}))
            .await;
        let asked = self.expect("server/discover").await;
        self.answer(
            &asked,
            json!({
                "resultType": "complete", "supportedVersions": [super::MODERN], "ttlMs": 5,
                "capabilities": {"tools": {"listChanged": true}, "logging": {},
                    "resources": {"subscribe": true}},
                "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "scripted", "version": "7"}},
            }),
        )
        .await;
        let asked = self.expect("tools/list").await;
        let tools: Vec<Value> = tools.iter().map(|name| json!({"name": name})).collect();
        self.answer(&asked, json!({"tools": tools})).await;
    }

    /// Grants a subscription as it was asked for; gives the request.
    pub async fn acknowledge(&mut self) -> Value {
        let asked = self.expect("subscriptions/listen").await;
        self.say(
            json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                "params": {"notifications": asked["params"]["notifications"],
                    "_meta": {"io.modelcontextprotocol/subscriptionId": asked["id"]}}}),
        )
        .await;
        asked
    }
}
