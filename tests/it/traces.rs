//! Spans of a running daemon, as a collector gets them over OTLP.

use std::{
    os::unix::fs::PermissionsExt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, extract::State, routing::post};
use http::HeaderMap;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value as Any,
    trace::v1::Span,
};
use prost::Message as _;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    harness::{Database, Server, http_client},
    mcp::Mcp,
    meetings::{Client, META},
};

const PATIENCE: Duration = Duration::from_secs(60);
const CANARY: &str = "canary-0f3b51d2c7";
/// Of the client that creates, and of the one that calls: a trace and a span in it, sampled.
const CREATES: [&str; 2] = ["11111111111111111111111111111111", "2222222222222222"];
const CALLS: [&str; 2] = ["33333333333333333333333333333333", "4444444444444444"];

fn traceparent([trace, span]: [&str; 2]) -> String {
    format!("00-{trace}-{span}-01")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a collector got.
#[derive(Default)]
struct Got {
    spans: Vec<Span>,
    /// All bytes of it, but for the headers.
    raw: Vec<u8>,
    headers: Vec<HeaderMap>,
    /// What the last request says of whom the spans are, texts alone.
    resource: Vec<(String, String)>,
}

/// A collector for OTLP over HTTP.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Got>>);

impl Collector {
    /// Listens; gives its base address too.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let router = Router::new()
            .route("/v1/traces", post(Self::take))
            .with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (collector, format!("http://{address}"))
    }

    async fn take(State(collector): State<Self>, headers: HeaderMap, body: Bytes) {
        let request = ExportTraceServiceRequest::decode(&body[..]).expect("OTLP");
        let mut got = collector.0.lock().expect("no panic");
        got.raw.extend_from_slice(&body);
        got.headers.push(headers);
        for of_resource in request.resource_spans {
            let resource = of_resource.resource.expect("it says of whom");
            let names: Vec<_> = resource.attributes.iter().map(|one| &one.key[..]).collect();
            assert!(names.contains(&"service.name"), "{names:?}");
            let texts = resource.attributes.into_iter().filter_map(|one| {
                let Any::StringValue(text) = one.value?.value? else {
                    return None;
                };
                Some((one.key, text))
            });
            got.resource = texts.collect();
            let spans = of_resource.scope_spans.into_iter();
            got.spans.extend(spans.flat_map(|scope| scope.spans));
        }
    }

    /// Waits for a span of this name that `fits`.
    async fn span(&self, name: &str, fits: impl Fn(&Span) -> bool) -> Span {
        let deadline = Instant::now() + PATIENCE;
        loop {
            {
                let got = self.0.lock().expect("no panic");
                let mut spans = got.spans.iter();
                if let Some(span) = spans.find(|span| span.name == name && fits(span)) {
                    return span.clone();
                }
                let names: Vec<_> = got.spans.iter().map(|span| &span.name).collect();
                assert!(Instant::now() < deadline, "no {name} among {names:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await; // poll
        }
    }
}

fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|one| one.key == key);
    let value = found.and_then(|one| one.value.clone()?.value);
    match value {
        Some(Any::StringValue(text)) => text,
        Some(Any::IntValue(number)) => number.to_string(),
        other => panic!("{key} of {span:?}: {other:?}"),
    }
}

fn parent(span: &Span) -> [String; 2] {
    [hex(&span.trace_id), hex(&span.parent_span_id)]
}

/// How many spans were lost, as the metrics say.
async fn dropped(server: &Server) -> f64 {
    let metrics = server.send(Method::GET, "/metrics", None).await;
    let metrics = metrics.text().await.expect("a body");
    let mut lines = metrics.lines();
    let value =
        lines.find_map(|line| line.strip_prefix("minimcp_trace_spans_total{outcome=\"dropped\"} "));
    value.expect("it is always told").parse().expect("a number")
}

// The collector answers while the end of the daemon is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_requests_calls_and_launches_with_their_parents_and_no_secret() {
    let (collector, address) = Collector::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("headers");
    std::fs::write(&file, format!("x-collector-token: {CANARY}-header\n")).expect("written");
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&file, private).expect("ours");
    let server = Server::start_with(Database::Sqlite, |config| {
        config.traces.endpoint = Some(address);
        config.traces.headers_file = Some(file);
        config.calls.enabled = false;
    })
    .await;
    let credential = json!({"name": "secret", "value": format!("{CANARY}-credential")});
    server.post("/credentials", credential).await;

    // A creation that belongs to a trace of its client, and the launch below it.
    let created = http_client()
        .post(format!("{}/api/v1/mcps?wait=ready", server.url()))
        .bearer_auth(server.admin_token())
        .header("traceparent", traceparent(CREATES))
        .header("tracestate", format!("vendor={CANARY}-state"))
        .header("x-request-id", "creation-1")
        .json(&json!({"template": "stateless", "name": "seen"}))
        .send()
        .await
        .expect("an answer");
    assert_eq!(created.status(), 201);
    let instance: Value = created.json().await.expect("JSON");
    let id = instance["id"].as_str().expect("an id");
    let of_api = |span: &Span| parent(span) == CREATES.map(str::to_owned);
    let request = collector.span("POST /api/v1/mcps", of_api).await;
    assert_eq!(attribute(&request, "http.response.status_code"), "201");
    assert_eq!(attribute(&request, "minimcp.request_id"), "creation-1");
    let launch = collector.span("launch", |_| true).await;
    assert_eq!(
        parent(&launch),
        [CREATES[0].to_owned(), hex(&request.span_id)]
    );
    assert_eq!(attribute(&launch, "minimcp.instance.id"), id);
    assert_eq!(attribute(&launch, "minimcp.template"), "stateless");
    // The work of the database belongs to what asked for it.
    let of_request = |span: &Span| span.parent_span_id == request.span_id;
    let inserted = collector.span("store instance_writes", of_request).await;
    assert_eq!(attribute(&inserted, "db.system.name"), "sqlite");
    assert_eq!(inserted.kind, 3, "of a client");
    let of_launch = |span: &Span| span.parent_span_id == launch.span_id;
    collector.span("store instance_writes", of_launch).await;
    let events: Vec<_> = launch.events.iter().map(|event| &event.name[..]).collect();
    assert_eq!(events, ["turn", "spawned"]);
    assert!(launch.end_time_unix_nano > launch.start_time_unix_nano);

    // A call that belongs to a trace of its client by the message, which goes before the header; the server gets the
    // message as it was.
    let client = Client::stateless(&instance, json!({}));
    let arguments = json!({"text": format!("{CANARY}-argument")});
    let params = json!({"name": "meta", "arguments": arguments,
        "_meta": {"traceparent": traceparent(CALLS), format!("{META}clientInfo"): {"name": "me", "version": "1"}}});
    let answer = client
        .request(3, "tools/call", params)
        .header("traceparent", traceparent(CREATES))
        .send()
        .await
        .expect("an answer");
    let text = answer.text().await.expect("a body");
    assert!(text.contains(&traceparent(CALLS)), "{text}");
    let of_message = |span: &Span| parent(span) == CALLS.map(str::to_owned);
    let call = collector.span("tools/call", of_message).await;
    assert_eq!(attribute(&call, "gen_ai.tool.name"), "meta");
    assert_eq!(attribute(&call, "mcp.method.name"), "tools/call");
    assert_eq!(attribute(&call, "minimcp.instance.id"), id);
    assert_eq!(attribute(&call, "minimcp.era"), "stateless");
    assert_eq!(attribute(&call, "minimcp.outcome"), "ok");

    // One by the header, which fails; and one of no trace.
    let header = [CALLS[0], "5555555555555555"];
    let answer = client
        .tool(4, "no-such-tool", json!({}))
        .header("traceparent", traceparent(header))
        .send()
        .await;
    answer.expect("an answer").text().await.expect("a body");
    let of_header = |span: &Span| parent(span) == header.map(str::to_owned);
    let failed = collector.span("tools/call", of_header).await;
    assert_eq!(attribute(&failed, "minimcp.outcome"), "rpc-error");
    assert_eq!(attribute(&failed, "error.type"), "rpc-error");
    assert_eq!(failed.status.expect("a status").code, 2, "error");
    let mut session = Mcp::connect(&instance).await;
    session.tool("meta", json!({})).await.expect("a result");
    let of_none = |span: &Span| span.parent_span_id.is_empty();
    let alone = collector.span("tools/call", of_none).await;
    assert_eq!(attribute(&alone, "minimcp.era"), "session");

    // A client that does not trace is not traced.
    let unsampled = format!("00-{}-{}-00", "6".repeat(32), "7".repeat(16));
    let answer = client
        .tool(5, "meta", json!({}))
        .header("traceparent", unsampled)
        .send()
        .await;
    answer.expect("an answer").text().await.expect("a body");

    // One that nobody waits for: it goes with the end.
    let last = [CALLS[0], "8888888888888888"];
    let answer = client
        .tool(6, "meta", json!({}))
        .header("traceparent", traceparent(last))
        .send()
        .await;
    answer.expect("an answer").text().await.expect("a body");

    assert!(dropped(&server).await == 0.0, "{}", server.log());
    let (token, access) = (server.admin_token(), instance["access_token"].clone());
    let log = server.log();
    // The last spans go before its end.
    drop(server);
    let got = collector.0.lock().expect("no panic");
    assert!(got.headers.iter().all(|headers| {
        headers["x-collector-token"] == format!("{CANARY}-header").as_str()
            && headers["content-type"] == "application/x-protobuf"
    }));
    let raw = String::from_utf8_lossy(&got.raw);
    for secret in [CANARY, &token, access.as_str().expect("a token"), "Bearer"] {
        assert!(!raw.contains(secret), "{secret} is in a span");
    }
    assert!(!log.contains(CANARY), "{log}");
    let unseen = |span: &Span| hex(&span.trace_id) != "6".repeat(32);
    assert!(got.spans.iter().all(unseen));
    let is_last = |span: &Span| parent(span) == last.map(str::to_owned);
    assert!(got.spans.iter().any(is_last), "the last spans are lost");
}

// The collector answers while the end of the daemon is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_variables_of_every_program_with_opentelemetry_count() {
    let (collector, address) = Collector::start().await;
    let mut server = Server::begin_under(Database::Sqlite, |_| {
        let variables = [
            format!("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT={address}/v1/traces"),
            "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1".to_owned(),
            format!("OTEL_EXPORTER_OTLP_HEADERS=x-collector-token={CANARY}%2Dheader"),
            "OTEL_SERVICE_NAME=mine".to_owned(),
            "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=a%20test".to_owned(),
        ];
        let command = std::iter::once("/usr/bin/env".to_owned());
        command.chain(variables).collect()
    })
    .await;
    server.until_ready().await;
    let instance = server.create(json!({"template": "demo"})).await;
    let mut client = Mcp::connect(&instance).await;
    let said = client.tool("log", json!({"text": "x", "lines": 3})).await;
    assert!(said.is_ok(), "{said:?}");
    // A batch of lines is a trace of its own, and the database's work a part of it.
    let batch = collector.span("log batch", |_| true).await;
    assert!(batch.parent_span_id.is_empty());
    let of_batch = |span: &Span| span.parent_span_id == batch.span_id;
    collector.span("store log_writers", of_batch).await;
    let log = server.log();
    drop(server);
    let got = collector.0.lock().expect("no panic");
    assert!(
        got.headers
            .iter()
            .all(|headers| { headers["x-collector-token"] == format!("{CANARY}-header").as_str() })
    );
    assert!(!log.contains(CANARY), "{log}");
    assert!(!String::from_utf8_lossy(&got.raw).contains(CANARY));
    let expected = [
        ("deployment.environment.name", "a test"),
        ("service.name", "mine"),
    ];
    for (key, value) in expected {
        let value = (key.to_owned(), value.to_owned());
        assert!(got.resource.contains(&value), "{:?}", got.resource);
    }
}

#[tokio::test]
async fn a_collector_that_hangs_holds_up_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    // Connections are taken by the kernel, and nobody ever answers.
    let server = Server::start_with(Database::Sqlite, |config| {
        config.traces.endpoint = Some(format!("http://{address}"));
    })
    .await;
    let instance = server.create(json!({"template": "demo"})).await;
    let mut client = Mcp::connect(&instance).await;
    for number in 0..200 {
        let text = format!("call {number}");
        let answer = client.tool("echo", json!({"text": text})).await;
        assert_eq!(answer.expect("a result"), text);
    }
    let deadline = Instant::now() + PATIENCE;
    let told = |log: &str| log.matches("the collector of spans takes none").count();
    while dropped(&server).await == 0.0 || told(&server.log()) == 0 {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await; // poll
    }
    assert_eq!(told(&server.log()), 1, "{}", server.log());
    drop(server);
    drop(listener);
}

#[tokio::test]
async fn headers_that_others_can_read_are_refused_at_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("headers");
    std::fs::write(&file, format!("authorization: {CANARY}")).expect("written");
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&file, open).expect("ours");
    let mut server = Server::begin_with(Database::Sqlite, |config| {
        config.traces.endpoint = Some("http://127.0.0.1:9".to_owned());
        config.traces.headers_file = Some(file);
    })
    .await;
    assert_eq!(server.until_ended().await.code(), Some(1));
    let log = server.log();
    assert!(log.contains("can be read by others"), "{log}");
    assert!(!log.contains(CANARY), "{log}");
}
