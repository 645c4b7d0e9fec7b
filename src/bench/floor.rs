//! What the same work costs with nothing else in it: a bridge from HTTP to a server's pipes without tokens, sessions,
//! limits, logs and restarts. It is this program under another name.

use std::{
    collections::HashMap,
    convert::Infallible,
    io::{self, BufRead, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    sync::{mpsc, oneshot},
};

use super::{
    mcp::Endpoint,
    parts::{self, Message},
};

/// Messages that wait for the server.
const WAITING_MAX: usize = 256;
/// So many bytes of messages at most go to the server at once.
const WRITE_BYTES_MAX: usize = 60_000;

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

/// The bridge before a server of this command. Writes its port to stdout and ends with its stdin.
pub(super) fn serve(program: &str, arguments: &[&str]) -> io::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(bridge(program, arguments))
}

async fn bridge(program: &str, arguments: &[&str]) -> io::Result<()> {
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let no_pipe = || io::Error::other("the server has no pipes");
    let mut stdin = child.stdin.take().ok_or_else(no_pipe)?;
    let stdout = child.stdout.take().ok_or_else(no_pipe)?;
    let (to_child, mut lines) = mpsc::channel::<String>(WAITING_MAX);
    let bridge = Arc::new(Bridge {
        to_child,
        waiting: Mutex::default(),
        next_id: AtomicU64::new(1),
    });
    tokio::spawn(async move {
        while let Some(mut text) = lines.recv().await {
            while text.len() < WRITE_BYTES_MAX
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
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let mut out = io::stdout();
    writeln!(out, "{}", listener.local_addr()?.port())?;
    out.flush()?;
    // Its starter holds our stdin; its end is ours.
    let mut end = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                let bridge = bridge.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| bridge.answer(request));
                    // A client that closes its connection is no fault.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
            _ = end.next_line() => return Ok(()),
        }
    }
}

/// A running bridge. It ends with this value.
#[derive(Debug)]
pub struct Floor(Child);

impl Floor {
    /// Starts one of this program before a server of this command.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(program: &str, command: &[String]) -> anyhow::Result<(Self, Endpoint)> {
        let child = Command::new(program)
            .args([parts::WORD, "floor"])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A Ctrl-C is for us alone, who end it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let mut floor = Self(child);
        let mut port = String::new();
        if let Some(stdout) = floor.0.stdout.take() {
            io::BufReader::new(stdout).read_line(&mut port)?;
        }
        let port: u16 = port
            .trim()
            .parse()
            .context("the floor (HTTP to pipes) did not come up")?;
        let endpoint = Endpoint::new(format!("127.0.0.1:{port}"), "/mcp".to_owned());
        Ok((floor, endpoint))
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // The bridge ends with its stdin, and its child with it.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
