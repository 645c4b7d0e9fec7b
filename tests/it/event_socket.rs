//! The event stream over WebSocket, of a running daemon.

use std::{path::Path, process::Stdio, time::Duration};

use base64::Engine as _;
use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    process::Command,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{ClientRequestBuilder, Error, Message},
};

use crate::{
    harness::{Database, Server, on_both_databases},
    processes,
    third_party::cases::BROWSER,
};

on_both_databases! {
    a_page_sees_what_happens_and_goes_on_after_a_restart,
}

const PATIENCE: Duration = Duration::from_secs(60);
const PROTOCOL: &str = "events.v1.minimcp";

/// The token as a page sends it.
fn bearer(token: &str) -> String {
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token);
    format!("base64url.bearer.authorization.minimcp.{encoded}")
}

fn asking(server: &Server, path: &str) -> ClientRequestBuilder {
    let url = format!("ws://127.0.0.1:{}/api/v1{path}", server.config().api.port);
    ClientRequestBuilder::new(url.parse().expect("a URL"))
}

fn as_page(server: &Server, path: &str) -> ClientRequestBuilder {
    asking(server, path)
        .with_sub_protocol(PROTOCOL)
        .with_sub_protocol(bearer(&server.admin_token()))
}

/// A client of the stream.
struct Events(WebSocketStream<TcpStream>);

impl Events {
    async fn open(server: &Server, request: ClientRequestBuilder) -> Self {
        Self::try_open(server, request).await.expect("it opens")
    }

    /// Without success: the status and the body.
    async fn try_open(
        server: &Server,
        request: ClientRequestBuilder,
    ) -> Result<Self, (u16, String)> {
        let address = ("127.0.0.1", server.config().api.port);
        let stream = TcpStream::connect(address).await.expect("it listens");
        match client_async(request, stream).await {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(Error::Http(answer)) => {
                let body = answer.body().clone().unwrap_or_default();
                Err((
                    answer.status().as_u16(),
                    String::from_utf8(body).expect("text"),
                ))
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn message(&mut self) -> Message {
        let next = timeout(PATIENCE, self.0.next()).await.expect("in time");
        next.expect("it goes on").expect("a message")
    }

    /// The next event; pings are answered meanwhile.
    async fn event(&mut self) -> Value {
        loop {
            match self.message().await {
                Message::Text(text) => {
                    return serde_json::from_str(&text).expect("JSON");
                }
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn until(&mut self, instance: &str, kind: &str) -> Value {
        loop {
            let event = self.event().await;
            assert_eq!(event["type"], "event", "{event}");
            if event["instance"] == instance && event["kind"] == kind {
                return event;
            }
        }
    }

    /// The code of the close, after what is still told before it.
    async fn closed(&mut self) -> u16 {
        loop {
            match self.message().await {
                Message::Close(frame) => return frame.expect("a code").code.into(),
                Message::Text(_) | Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn id(event: &Value) -> i64 {
    event["id"].as_i64().expect("a number")
}

async fn a_page_sees_what_happens_and_goes_on_after_a_restart(database: Database) {
    let mut server = Server::start(database).await;
    let mut events = Events::open(&server, as_page(&server, "/events")).await;
    let one = server.create(json!({"template": "demo"})).await;
    let one = one["id"].as_str().expect("an id").to_owned();
    events.until(&one, "created").await;
    let seen = id(&events.until(&one, "running").await);
    assert!(seen > 0);

    processes::terminate(server.pid());
    assert_eq!(events.closed().await, 1001, "going away");
    drop(events);
    assert_eq!(server.wait_end(), Some(0), "{}", server.log());
    server.launch().await;

    // What happened while nobody listened, and then on: each once, in order.
    let path = format!("/events?cursor={seen}");
    let mut events = Events::open(&server, as_page(&server, &path)).await;
    let two = server.create(json!({"template": "demo"})).await;
    let two = two["id"].as_str().expect("an id").to_owned();
    let mut told = vec![];
    loop {
        let event = events.event().await;
        told.push(id(&event));
        if event["instance"] == two.as_str() && event["kind"] == "running" {
            break;
        }
    }
    let page = server
        .get(&format!("/mcps/{one}/events?cursor={seen}"))
        .await;
    let missed: Vec<i64> = page["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(id)
        .collect();
    assert!(!missed.is_empty(), "{page}");
    assert!(
        missed.iter().all(|id| told.contains(id)),
        "{missed:?} {told:?}"
    );
    assert!(told.iter().all(|id| *id > seen), "{told:?}");
    let mut once = told.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), told.len(), "{told:?}");

    // One instance, by a program that sends the usual header.
    let path = format!("/mcps/{two}/events?cursor=0");
    let token = format!("Bearer {}", server.admin_token());
    let request = asking(&server, &path).with_header("Authorization", token);
    let mut of_two = Events::open(&server, request).await;
    let first = of_two.event().await;
    assert_eq!(first["instance"], two.as_str(), "{first}");
    of_two.0.close(None).await.expect("it is sent");
    assert!(matches!(
        of_two.message().await,
        Message::Text(_) | Message::Close(_)
    ));
    let log = server.log();
    let token = server.admin_token();
    assert!(
        !log.contains(&token) && !log.contains(&bearer(&token)),
        "{log}"
    );
}

#[tokio::test]
async fn who_may_not_open_it_is_told_why() {
    let server = Server::start_with(Database::Sqlite, |config| {
        config.api.cors_origins = vec!["https://app.example.com".to_owned()];
    })
    .await;
    let with_origin = |origin: &str| as_page(&server, "/events").with_header("Origin", origin);
    let wrong = bearer(&"x".repeat(48));
    let token = server.admin_token();
    for (request, status, code) in [
        (with_origin("https://evil.example"), 403, "forbidden"),
        (with_origin("null"), 403, "forbidden"),
        (asking(&server, "/events"), 401, "unauthenticated"),
        (
            asking(&server, "/events").with_sub_protocol(PROTOCOL),
            401,
            "unauthenticated",
        ),
        (
            asking(&server, "/events")
                .with_sub_protocol(PROTOCOL)
                .with_sub_protocol(wrong),
            401,
            "unauthenticated",
        ),
        (
            asking(&server, "/events").with_sub_protocol(bearer(&token)),
            400,
            "invalid-header",
        ),
        (
            as_page(&server, &format!("/events?token={token}")),
            400,
            "invalid-query",
        ),
        (
            as_page(&server, "/events?instance=no-such"),
            404,
            "not-found",
        ),
        // The token of a handshake is worth nothing elsewhere.
        (as_page(&server, "/events?cursor=x"), 400, "invalid-query"),
    ] {
        let told = Events::try_open(&server, request.clone()).await;
        let (was, body) = told.err().unwrap_or_else(|| panic!("{request:?} opened"));
        assert_eq!(was, status, "{body}");
        assert!(body.contains(code), "{body}");
        assert!(!body.contains(&token), "{body}");
    }
    let own = format!("http://127.0.0.1:{}", server.config().api.port);
    for origin in ["https://app.example.com", &own] {
        Events::open(&server, with_origin(origin)).await;
    }
    // A usual request does not carry its token so.
    let plain = crate::harness::http_client()
        .get(format!("{}/api/v1/events", server.url()))
        .header("sec-websocket-protocol", bearer(&token))
        .send()
        .await;
    assert_eq!(plain.expect("an answer").status(), 401);
    // An old version of the protocol learns the one there is.
    let old = server.send(Method::GET, "/api/v1/healthz", None).await;
    assert_eq!(old.status(), 404);
    let old = crate::harness::http_client()
        .get(format!("{}/api/v1/events", server.url()))
        .bearer_auth(&token)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "8")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .send()
        .await
        .expect("an answer");
    assert_eq!(old.status(), 400);
    assert_eq!(old.headers()["sec-websocket-version"], "13");
}

#[tokio::test]
async fn who_breaks_the_rules_is_closed_with_a_code() {
    let server = Server::start(Database::Sqlite).await;
    let mut events = Events::open(&server, as_page(&server, "/events")).await;
    events
        .0
        .send(Message::Ping("still there?".into()))
        .await
        .expect("sent");
    assert_eq!(events.message().await, Message::Pong("still there?".into()));
    events.0.send(Message::text("hello")).await.expect("sent");
    assert_eq!(events.closed().await, 1003);
    let mut events = Events::open(&server, as_page(&server, "/events")).await;
    events
        .0
        .send(Message::text("x".repeat(5 << 10)))
        .await
        .expect("sent");
    assert_eq!(events.closed().await, 1009);
    // Not one of those that come and go keeps its place: 256 streams are the most there may be.
    for _ in 0..300 {
        let mut events = Events::open(&server, as_page(&server, "/events")).await;
        events.0.close(None).await.expect("sent");
        assert!(matches!(events.message().await, Message::Close(_)));
        assert!(
            timeout(PATIENCE, events.0.next())
                .await
                .expect("in time")
                .is_none()
        );
    }
}

#[tokio::test]
async fn the_unix_socket_has_it_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("api.sock");
    let server = Server::start_with(Database::Sqlite, |config| {
        config.api.unix_socket = Some(path.clone());
    })
    .await;
    let stream = UnixStream::connect(&path).await.expect("it listens");
    let opened = client_async(as_page(&server, "/events?cursor=0"), stream).await;
    let (mut socket, answer) = opened.expect("it opens");
    assert_eq!(answer.headers()["sec-websocket-protocol"], PROTOCOL);
    let made = server.create(json!({"template": "demo"})).await;
    let message = timeout(PATIENCE, socket.next()).await.expect("in time");
    let message = message.expect("it goes on").expect("a message");
    let event: Value = serde_json::from_str(message.to_text().expect("text")).expect("JSON");
    assert_eq!(event["instance"], made["id"], "{event}");
}

/// A page that opens the stream as the README has it, and tells what came.
const PAGE: &str = include_str!("../fixtures/event_page.html");

/// Serves the page under any path until it has told what it saw, from both of its origins.
async fn page_tells(listener: TcpListener, page: String) -> Vec<Value> {
    let (tell, mut hears) = tokio::sync::mpsc::channel(2);
    let mut connections = tokio::task::JoinSet::new();
    let mut told = vec![];
    while told.len() < 2 {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.expect("it listens");
                connections.spawn(answer(stream, page.clone(), tell.clone()));
            }
            Some(one) = hears.recv() => told.push(one),
        }
    }
    told
}

/// One request of the browser, which also opens connections that it does not use.
async fn answer(mut stream: TcpStream, page: String, tell: tokio::sync::mpsc::Sender<Value>) {
    let mut request = Vec::new();
    let (head, body) = loop {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let announced = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_length = name.eq_ignore_ascii_case("content-length");
            is_length.then(|| value.trim().parse::<usize>().ok())?
        });
        if body.len() >= announced.unwrap_or(0) {
            break (head.to_owned(), body.to_owned());
        }
    };
    let page = if head.starts_with("POST /told ") {
        ""
    } else {
        &page
    };
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    );
    // A browser that asks for an icon may be gone.
    let _ = stream.write_all(answer.as_bytes()).await;
    if page.is_empty() {
        tell.send(serde_json::from_str(&body).expect("JSON"))
            .await
            .expect("the test listens");
    }
}

#[tokio::test]
async fn a_browser_opens_it_from_a_page_that_may_and_from_no_other() {
    if !Path::new(BROWSER).exists() {
        eprintln!("SKIPPED in a browser: {BROWSER} is not installed");
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let server = Server::start_with(Database::Sqlite, |config| {
        config.api.cors_origins = vec![format!("http://127.0.0.1:{port}")];
    })
    .await;
    let made = server
        .create(json!({"template": "demo", "name": "seen"}))
        .await;
    let page = PAGE
        .replace("API_URL", &server.url().replace("http:", "ws:"))
        .replace("PAGE_PORT", &port.to_string())
        .replace("TOKEN", &server.admin_token());
    let profile = tempfile::tempdir().expect("a folder");
    let mut browser = Command::new(BROWSER)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ])
        .args(["--disable-dev-shm-usage", "--disable-background-networking"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://127.0.0.1:{port}/"))
        .env("HOME", profile.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .expect("it is installed");
    let told = timeout(PATIENCE * 2, page_tells(listener, page)).await;
    let group = browser.id().expect("it runs");
    processes::kill_group(group);
    browser.wait().await.expect("it is our child");
    let told = told.expect("the page tells in time");
    let of = |host: &str| {
        let origin = format!("http://{host}:{port}");
        let found = told.iter().find(|one| one["origin"] == origin.as_str());
        found
            .unwrap_or_else(|| panic!("{origin}: {told:?}"))
            .clone()
    };
    let right = of("127.0.0.1");
    assert_eq!(right["protocol"], PROTOCOL, "{right}");
    assert_eq!(right["event"]["type"], "event", "{right}");
    assert_eq!(right["event"]["instance"], made["id"], "{right}");
    let other = of("localhost");
    assert_eq!(other["closed"], 1006, "never open: {other}");
}
