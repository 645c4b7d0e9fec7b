//! The gateway over a real socket, in front of a scripted child over real pipes.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::{Approach, Gateway, Peer};
use crate::{
    config::GatewayConfig,
    domain::{
        access::TokenSettings,
        duration::HumanDuration,
        id::{DEFAULT_OWNER, Generation, InstanceId, InstanceName, OwnerId, TokenName},
        slug::Slug,
        state::StatusWord,
    },
    supervisor::{
        access::{Token, TokenSet},
        route::{About, AccessEvent, Recall, Route, RouteState},
    },
    upstream::{
        Failure, MODERN, Upstream, UpstreamOptions,
        scripted::{Child, connect},
    },
};

pub struct Bench {
    pub client: Client,
    pub url: String,
    state: watch::Sender<RouteState>,
    upstream: Arc<Upstream>,
    pub child: Child,
    _events: mpsc::Sender<AccessEvent>,
    _shutdown: DropGuard,
}

pub async fn bench() -> Bench {
    let (upstream, mut child, _) = connect(UpstreamOptions::default());
    let (shaken, ()) = tokio::join!(upstream.handshake(), child.shake_hands());
    shaken.expect("a handshake");
    bench_with(upstream, child).await
}

/// The same with a stateless child.
pub async fn stateless_bench() -> Bench {
    let (upstream, child) = stateless_child(&["a"]).await;
    bench_with(upstream, child).await
}

async fn stateless_child(tools: &[&str]) -> (Arc<Upstream>, Child) {
    let (upstream, mut child, _) = connect(UpstreamOptions::default());
    let (shaken, ()) = tokio::join!(upstream.handshake(), child.shake_hands_stateless(tools));
    shaken.expect("a handshake");
    (upstream, child)
}

fn route_of(watched: watch::Receiver<RouteState>) -> Arc<Route> {
    Arc::new(Route {
        id: InstanceId(Uuid::now_v7()),
        slug: ArcSwap::from_pointee(Slug::of(
            &OwnerId::new(DEFAULT_OWNER).expect("an owner"),
            &InstanceName::new("bench").expect("a name"),
        )),
        key: 1,
        arguments: arc_swap::ArcSwapOption::empty(),
        about: ArcSwap::from_pointee(About {
            title: "Bench".to_owned(),
            ..About::default()
        }),
        tokens: ArcSwap::from_pointee(TokenSet::of_one(
            Token::new(TokenName::first(), TokenSettings::default(), 0),
            Sha256::digest("secret").into(),
        )),
        state: watched,
        last_accessed_ms: AtomicI64::new(0),
        requests: 0.into(),
        sessions: 0.into(),
        demand: Arc::default(),
        held: Arc::default(),
        uses: Arc::default(),
        wake: Arc::new(|| {}),
        recall: Recall::default(),
        asked: crate::traces::Asked::default(),
        members: arc_swap::ArcSwapOption::empty(),
        left: Default::default(),
    })
}

async fn bench_with(upstream: Arc<Upstream>, child: Child) -> Bench {
    let (state, watched) = watch::channel(RouteState::Ready {
        upstream: upstream.clone(),
        generation: Generation(1),
    });
    let route = route_of(watched);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = Arc::new(listener.expect("a free port"));
    let address: SocketAddr = listener.local_addr().expect("an address");
    let (events, received) = mpsc::channel(4);
    let open = AccessEvent::Open { route, listener };
    events.send(open).await.expect("room");
    let shutdown = CancellationToken::new();
    let gateway = Gateway::new(GatewayConfig {
        body_limit_bytes: 10_000,
        wake_budget: HumanDuration::from_ms(200),
        ..GatewayConfig::default()
    });
    tokio::spawn(gateway.run(
        received,
        crate::connections::Room::new(100),
        crate::connections::first_request::FirstRequests::default(),
        shutdown.clone(),
    ));
    // The process-wide default is set by whichever test comes first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Bench {
        client: Client::new(),
        url: format!("http://{address}/mcp"),
        state,
        upstream,
        child,
        _events: events,
        _shutdown: shutdown.drop_guard(),
    }
}

impl Bench {
    pub fn post(&self, session: Option<&str>, message: &Value) -> RequestBuilder {
        let request = self
            .client
            .post(&self.url)
            .bearer_auth("secret")
            .header("accept", "application/json, text/event-stream")
            .json(message);
        match session {
            Some(session) => request.header("mcp-session-id", session),
            None => request,
        }
    }

    pub async fn session(&self) -> String {
        self.session_of("2025-06-18").await
    }

    pub async fn session_of(&self, version: &str) -> String {
        let params = json!({"protocolVersion": version, "capabilities": {}, "clientInfo": {}});
        let hello = call(1, "initialize", params);
        let answer = self.post(None, &hello).send().await.expect("an answer");
        let session = answer.headers()["mcp-session-id"]
            .to_str()
            .expect("ASCII")
            .to_owned();
        let answer: Value = answer.json().await.expect("JSON");
        assert_eq!(answer["result"]["serverInfo"]["name"], "scripted");
        assert_eq!(answer["result"]["protocolVersion"], version);
        session
    }
}

/// Puts a new child, with these tools, in the place of the first.
pub async fn relaunch(bench: &Bench, tools: &[&str]) -> Child {
    let (upstream, mut child, _) = connect(UpstreamOptions::default());
    let (shaken, ()) = tokio::join!(upstream.handshake(), child.shake_hands_with(tools));
    shaken.expect("a handshake");
    bench.state.send_replace(RouteState::Ready {
        upstream,
        generation: Generation(2),
    });
    child
}

/// The same with a stateless child.
pub async fn relaunch_stateless(bench: &Bench, tools: &[&str]) -> Child {
    let (upstream, child) = stateless_child(tools).await;
    bench.state.send_replace(RouteState::Ready {
        upstream,
        generation: Generation(2),
    });
    child
}

pub fn call(id: u32, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

pub async fn status_and_body(answer: Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    (status, answer.json().await.expect("JSON"))
}

#[tokio::test]
async fn two_sessions_with_equal_ids_get_their_own_answers() {
    let mut bench = bench().await;
    let (one, two) = (bench.session().await, bench.session().await);
    assert_ne!(one, two);
    let send = |session: &str, name: &str| {
        let message = call(7, "tools/call", json!({"name": name}));
        tokio::spawn(bench.post(Some(session), &message).send())
    };
    let (one, two) = (send(&one, "one"), send(&two, "two"));
    let first = bench.child.next().await.expect("a request");
    let second = bench.child.next().await.expect("a request");
    for asked in [&second, &first] {
        let result = json!({"for": asked["params"]["name"]});
        bench.child.answer(asked, result).await;
    }
    for (sent, name) in [(one, "one"), (two, "two")] {
        let answer = sent.await.expect("joined").expect("an answer");
        assert_eq!(answer.headers()["content-type"], "application/json");
        let body: Value = answer.json().await.expect("JSON");
        assert_eq!(
            body,
            json!({"jsonrpc": "2.0", "id": 7, "result": {"for": name}})
        );
    }
}

#[tokio::test]
async fn progress_turns_the_answer_into_a_stream() {
    let mut bench = bench().await;
    let session = bench.session().await;
    let params = json!({"name": "slow", "_meta": {"progressToken": "p"}});
    let sent = tokio::spawn(
        bench
            .post(Some(&session), &call(1, "tools/call", params))
            .send(),
    );
    let asked = bench.child.next().await.expect("a request");
    let token = &asked["params"]["_meta"]["progressToken"];
    bench
        .child
        .say(json!({"jsonrpc": "2.0", "method": "notifications/progress",
            "params": {"progressToken": token, "progress": 1}}))
        .await;
    let answer = sent.await.expect("joined").expect("an answer");
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    bench.child.answer(&asked, json!({"done": true})).await;
    let text = answer.text().await.expect("a stream that ends");
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).expect("JSON"))
        .collect();
    assert_eq!(events.len(), 2, "{text}");
    assert_eq!(events[0]["params"]["progressToken"], "p");
    assert_eq!(
        events[1],
        json!({"jsonrpc": "2.0", "id": 1, "result": {"done": true}})
    );
}

#[tokio::test]
async fn a_death_in_the_middle_of_a_call_is_told_at_once() {
    let mut bench = bench().await;
    let session = bench.session().await;
    let sent = tokio::spawn(
        bench
            .post(Some(&session), &call(1, "tools/call", json!({})))
            .send(),
    );
    bench.child.next().await.expect("a request");
    bench
        .upstream
        .fail_all(Failure::new("it was hit by a tree", Generation(1)));
    let (status, body) = status_and_body(sent.await.expect("joined").expect("an answer")).await;
    assert_eq!(status, 200);
    assert!(
        body["error"]["message"]
            .to_string()
            .contains("hit by a tree"),
        "{body}"
    );
    // The next one waits for the next launch, and is told in time that none came.
    let next = bench.post(Some(&session), &call(2, "tools/list", json!({})));
    let answer = next.send().await.expect("an answer");
    assert_eq!(answer.headers()["retry-after"], "2");
    let (status, body) = status_and_body(answer).await;
    assert_eq!((status, &body["id"]), (503, &json!(2)));
    assert!(
        body["error"]["message"]
            .to_string()
            .contains("hit by a tree"),
        "{body}"
    );
}

#[tokio::test]
async fn a_session_outlives_its_child() {
    let bench = bench().await;
    let session = bench.session().await;
    bench.upstream.fail_all(Failure::new("gone", Generation(1)));
    let sent = tokio::spawn(
        bench
            .post(Some(&session), &call(2, "tools/list", json!({})))
            .send(),
    );
    let mut child = relaunch(&bench, &["a", "b"]).await;
    let asked = child.expect("tools/list").await;
    child.answer(&asked, json!({"tools": []})).await;
    let (status, body) = status_and_body(sent.await.expect("joined").expect("an answer")).await;
    assert_eq!((status, &body["result"]), (200, &json!({"tools": []})));
}

#[tokio::test]
async fn a_stateless_client_discovers_and_calls() {
    let mut bench = bench().await;
    let ask = |method: &'static str| {
        let meta = json!({"io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {}});
        bench
            .post(None, &call(3, method, json!({"_meta": meta})))
            .header("mcp-protocol-version", MODERN)
            .header("mcp-method", method)
    };
    let answer = ask("server/discover").send().await.expect("an answer");
    let (status, body) = status_and_body(answer).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["result"]["supportedVersions"], json!([MODERN]));
    let sent = tokio::spawn(ask("tools/list").send());
    let asked = bench.child.next().await.expect("a request");
    assert_eq!(
        asked["params"],
        json!({}),
        "what belongs to the hop stays here"
    );
    bench.child.answer(&asked, json!({"tools": []})).await;
    let (_, body) = status_and_body(sent.await.expect("joined").expect("an answer")).await;
    assert_eq!(body["result"]["resultType"], "complete");
    assert_eq!(body["result"]["ttlMs"], 0);
}

#[tokio::test]
async fn bad_requests_get_the_status_that_fits() {
    let bench = bench().await;
    let ping = call(1, "ping", json!({}));
    let session = bench.session().await;
    let status = async |request: RequestBuilder| {
        let answer = request.send().await.expect("an answer");
        status_and_body(answer).await.0
    };
    let good = |body: &Value| bench.post(Some(&session), body);
    assert_eq!(status(good(&ping)).await, 200);
    assert_eq!(status(bench.post(None, &ping)).await, 400);
    assert_eq!(status(bench.post(Some(&"0".repeat(32)), &ping)).await, 404);
    assert_eq!(
        status(good(&ping).header("mcp-protocol-version", "1999-01-01")).await,
        400
    );
    assert_eq!(
        status(good(&ping).header("origin", "http://evil.example")).await,
        403
    );
    assert_eq!(
        status(good(&ping).header("host", "evil.example")).await,
        403
    );
    assert_eq!(status(good(&json!([ping]))).await, 400);
    assert_eq!(status(good(&json!({"no": "message"}))).await, 400);
    assert_eq!(status(good(&json!("x".repeat(20_000)))).await, 413);
    assert_eq!(
        status(bench.client.put(&bench.url).bearer_auth("secret")).await,
        405
    );
    assert_eq!(
        status(bench.client.get(&bench.url).bearer_auth("secret")).await,
        405
    );
    let elsewhere = bench.url.replace("/mcp", "/other");
    assert_eq!(status(bench.client.get(elsewhere)).await, 404);

    let refused = bench
        .client
        .post(&bench.url)
        .json(&ping)
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        refused.headers()["www-authenticate"],
        "Bearer realm=\"minimcp\""
    );
    let (code, body) = status_and_body(refused).await;
    assert_eq!(code, 401);
    assert!(
        body["error"]["message"]
            .to_string()
            .contains("Authorization: Bearer")
    );
    let in_path = bench.url.replace("/mcp", "/secret/mcp");
    let by_path = bench
        .client
        .post(in_path)
        .json(&ping)
        .header("mcp-session-id", &session);
    assert_eq!(status(by_path).await, 200);

    let ended = bench.client.delete(&bench.url).bearer_auth("secret");
    let ended = ended
        .header("mcp-session-id", &session)
        .send()
        .await
        .expect("an answer");
    assert_eq!(ended.status(), 204);
    assert_eq!(status(good(&ping)).await, 404);
    bench.state.send_replace(RouteState::Down {
        word: StatusWord::Expired,
        since: 0,
        failure: None,
        retry_after_s: None,
    });
    assert_eq!(status(good(&ping)).await, 503);
    bench.state.send_replace(RouteState::Gone);
    assert_eq!(status(good(&ping)).await, 404);
}

#[tokio::test]
async fn news_of_the_server_reaches_the_standing_stream() {
    let mut bench = bench().await;
    let session = bench.session().await;
    let stream = bench.client.get(&bench.url).bearer_auth("secret");
    let stream = stream
        .header("mcp-session-id", &session)
        .header("accept", "text/event-stream");
    let mut stream = stream.send().await.expect("a stream");
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let news = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    bench.child.say(news.clone()).await;
    let event = tokio::time::timeout(Duration::from_secs(10), stream.chunk()).await;
    let event = event.expect("in time").expect("open").expect("an event");
    assert_eq!(
        event,
        format!("id: 0-1\nevent: message\ndata: {news}\n\n").as_bytes()
    );
}

#[tokio::test]
async fn the_state_of_a_request_is_small() {
    let (upstream, _child, _) = connect(UpstreamOptions::default());
    let (_state, watched) = watch::channel(RouteState::Ready {
        upstream,
        generation: Generation(1),
    });
    let gateway = Gateway::new(GatewayConfig::default());
    let place = gateway.place(&route_of(watched));
    let approach = Approach {
        sites: &gateway.sites,
        peer: Peer::Unix,
        mount: "",
        path: "/mcp",
        public: None,
    };
    let request = http::Request::new(http_body_util::Full::<Bytes>::default());
    let (parts, body) = request.into_parts();
    let serving = gateway.serve(Some(&place), &approach, &parts, body);
    // It is moved several times before it begins, and so is each future within it. Once it was 3,456 bytes, and the moves
    // took a microsecond of each call.
    let bytes = size_of_val(&serving);
    assert!(bytes <= 1_700, "{bytes}");
}
