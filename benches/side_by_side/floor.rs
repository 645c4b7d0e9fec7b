//! What the same work costs with nothing else in it: a server that does next to nothing, and a bridge from HTTP to
//! its pipes without tokens, sessions, limits, logs and restarts. Both are this program under another name.

use std::{
    collections::HashMap,
    convert::Infallible,
    io::{BufRead, Write},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    sync::{mpsc, oneshot},
};

use super::mcp::Endpoint;

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a str>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

/// The server that does next to nothing: the body of `side_by_side null-server`.
pub fn serve_null() {
    serve_null_with(|| {});
}

/// The same, which does `work` at each call before it answers.
pub fn serve_null_with(work: impl Fn()) {
    let stdin = std::io::stdin().lock();
    let mut stdout = std::io::stdout().lock();
    for line in stdin.lines() {
        let Ok(line) = line else { return };
        let message: Message<'_> = serde_json::from_str(&line).expect("the client writes JSON");
        let Some(id) = message.id else { continue };
        let (key, value) = match message.method {
            Some("initialize") => (
                "result",
                r#"{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"null","version":"1"}}"#,
            ),
            Some("tools/list") => (
                "result",
                r#"{"tools":[{"name":"echo","inputSchema":{"type":"object"}}]}"#,
            ),
            Some("tools/call") => {
                work();
                ("result", r#"{"content":[{"type":"text","text":"x"}]}"#)
            }
            Some("ping") => ("result", "{}"),
            _ => ("error", r#"{"code":-32601,"message":"no such method"}"#),
        };
        let answer = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"{key}\":{value}}}\n");
        if stdout.write_all(answer.as_bytes()).is_err() || stdout.flush().is_err() {
            return;
        }
    }
}

struct Bridge {
    to_child: mpsc::Sender<String>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<String>>>,
    next_id: AtomicU64,
}

impl Bridge {
    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let without_body = |status| {
            let mut response = Response::new(Full::default());
            *response.status_mut() = status;
            Ok(response)
        };
        let Ok(body) = request.into_body().collect().await else {
            return without_body(http::StatusCode::BAD_REQUEST);
        };
        let body = body.to_bytes();
        let Ok(message) = serde_json::from_slice::<Message<'_>>(&body) else {
            return without_body(http::StatusCode::BAD_REQUEST);
        };
        let method = message.method.unwrap_or_default();
        let params = message.params.map_or("{}", RawValue::get);
        if message.id.is_none() {
            let line =
                format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{method}\",\"params\":{params}}}\n");
            return without_body(match self.to_child.send(line).await {
                Ok(()) => http::StatusCode::ACCEPTED,
                Err(_) => http::StatusCode::BAD_GATEWAY,
            });
        }
        let ours = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(ours, sender);
        let line = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{ours},\"method\":\"{method}\",\"params\":{params}}}\n"
        );
        if self.to_child.send(line).await.is_err() {
            return without_body(http::StatusCode::BAD_GATEWAY);
        }
        let Ok(line) = receiver.await else {
            return without_body(http::StatusCode::BAD_GATEWAY);
        };
        let Ok(answer) = serde_json::from_str::<Message<'_>>(&line) else {
            return without_body(http::StatusCode::BAD_GATEWAY);
        };
        let id = message.id.map_or("null", RawValue::get);
        let result = answer.result.map_or("null", RawValue::get);
        let text = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}");
        let mut response = Response::new(Full::new(Bytes::from(text)));
        response.headers_mut().insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("application/json"),
        );
        Ok(response)
    }
}

/// The bridge: the body of `side_by_side floor COMMAND…`. Writes its port to stdout.
pub fn serve_floor(command: &[String]) {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime starts")
        .block_on(bridge(command));
}

async fn bridge(command: &[String]) {
    let mut child = tokio::process::Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the server starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    let stdout = child.stdout.take().expect("it is piped");
    let (to_child, mut lines) = mpsc::channel::<String>(256);
    let bridge = Arc::new(Bridge {
        to_child,
        waiting: Mutex::default(),
        next_id: AtomicU64::new(1),
    });
    tokio::spawn(async move {
        while let Some(mut text) = lines.recv().await {
            while text.len() < 60_000
                && let Ok(more) = lines.try_recv()
            {
                text += &more;
            }
            if stdin.write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let reading = bridge.clone();
    tokio::spawn(async move {
        let mut lines = BufReader::with_capacity(4_096, stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let id = serde_json::from_str::<Message<'_>>(&line)
                .ok()
                .and_then(|message| message.id?.get().parse::<u64>().ok());
            let mut waiting = reading
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(waiter) = id.and_then(|id| waiting.remove(&id)) {
                // A client that went away does not want it.
                let _ = waiter.send(line);
            }
        }
    });
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .await
        .expect("a port is free");
    println!("{}", listener.local_addr().expect("it is bound").port());
    // Its starter holds our stdin; its end is ours.
    let mut end = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.expect("a connection comes in");
                stream.set_nodelay(true).expect("it is a TCP stream");
                let bridge = bridge.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| bridge.answer(request));
                    // A client that closes its connection is no fault.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
            _ = end.next_line() => return,
        }
    }
}

/// A running bridge.
pub struct Floor(Child);

impl Floor {
    /// Starts one before a server of this command.
    pub fn start(command: &[String]) -> (Self, Endpoint) {
        let this = std::env::current_exe().expect("a program knows its file");
        let mut child = Command::new(this)
            .arg("floor")
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this program starts");
        let mut port = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        std::io::BufReader::new(stdout)
            .read_line(&mut port)
            .expect("it writes its port");
        let endpoint = Endpoint::new(format!("127.0.0.1:{}", port.trim()), "/mcp".to_owned());
        (Self(child), endpoint)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // The bridge ends with its stdin, and its child with it.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
