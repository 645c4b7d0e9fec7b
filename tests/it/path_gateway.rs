//! Instances below `/i/NAME` of the API's listeners: the same gateway, the same tokens, none of the API's layers.

use minimcp::domain::duration::HumanDuration;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::{
    harness::{Database, Server, http_client},
    mcp::Mcp,
};

/// The instance as a client knows it that was given the other URL.
pub fn at(instance: &Value, url: &str) -> Value {
    let mut seen = instance.clone();
    seen["access_url"] = json!(url);
    seen
}

pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    let text = value[key].as_str();
    text.unwrap_or_else(|| panic!("no {key}: {value:#}"))
}

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}}})
}

fn post(client: &Client, url: &str, message: &Value) -> RequestBuilder {
    let accept = "application/json, text/event-stream";
    client.post(url).header("Accept", accept).json(message)
}

async fn send(request: RequestBuilder) -> Response {
    request.send().await.expect("an answer")
}

/// The JSON-RPC error of an answer.
async fn refusal(request: RequestBuilder) -> (StatusCode, String) {
    let answer = send(request).await;
    let status = answer.status();
    let body: Value = answer.json().await.expect("JSON-RPC");
    assert_eq!(body["jsonrpc"], "2.0", "{status} {body}");
    (status, text(&body["error"], "message").to_owned())
}

#[tokio::test]
async fn the_same_instance_answers_below_its_name_and_its_id() {
    let server = Server::start(Database::Sqlite).await;
    let instance = server
        .create(json!({"template": "demo", "name": "first"}))
        .await;
    let url = format!("{}/i/first/mcp", server.url());
    assert_eq!(instance["path_url"], url, "{instance:#}");
    let mut client = Mcp::connect(&at(&instance, &url)).await;
    let said = client.tool("echo", json!({"text": "over a path"})).await;
    assert_eq!(said.as_deref(), Ok("over a path"));
    let id = text(&instance, "id").to_owned();
    let by_id = format!("{}/i/{id}/mcp", server.url());
    Mcp::connect(&at(&instance, &by_id)).await;

    // One table of sessions: what began on the access port goes on here, with the token in the path.
    let http = http_client();
    let token = text(&instance, "access_token");
    let begun = post(&http, text(&instance, "access_url"), &initialize()).bearer_auth(token);
    let begun = send(begun).await;
    let session = begun.headers()["mcp-session-id"].clone();
    let inside = format!("{}/i/first/{token}/mcp", server.url());
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"});
    let listed = send(post(&http, &inside, &list).header("mcp-session-id", session)).await;
    assert_eq!(listed.status(), StatusCode::OK);
    for layer in ["x-request-id", "content-security-policy"] {
        assert!(
            !listed.headers().contains_key(layer),
            "{layer} is of the API"
        );
    }
    let stats = server.get(&format!("/mcps/{id}/stats")).await;
    assert!(stats["requests"].as_u64() >= Some(7), "{stats}");

    // A new name acts at once.
    let renamed = server
        .call(
            Method::PATCH,
            "/mcps/first",
            Some(json!({"name": "second"})),
        )
        .await
        .1;
    let new_url = format!("{}/i/second/mcp", server.url());
    assert_eq!(renamed["path_url"], new_url, "{renamed:#}");
    let (status, _) = refusal(post(&http, &url, &list).bearer_auth(token)).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    Mcp::connect(&at(&instance, &new_url)).await;
    server.delete(&id).await;
    for gone in [&new_url, &by_id] {
        let (status, _) = refusal(post(&http, gone, &list).bearer_auth(token)).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{gone}");
    }
}

#[tokio::test]
async fn instances_of_two_owners_have_one_name_and_two_paths() {
    let server = Server::start(Database::Sqlite).await;
    let body = |owner| json!({"template": "demo", "name": "same", "owner": owner});
    let (ada, bob) = (
        server.create(body("ada")).await,
        server.create(body("bob")).await,
    );
    let base = server.url();
    for (instance, owner) in [(&ada, "ada"), (&bob, "bob")] {
        let url = format!("{base}/i/{owner}.same/mcp");
        assert_eq!(instance["path_url"], url, "{instance:#}");
        Mcp::connect(&at(instance, &url)).await;
        let card = format!("{url}/server-card");
        let card = http_client()
            .get(card)
            .bearer_auth(text(instance, "access_token"));
        let card: Value = send(card).await.json().await.expect("a card");
        let name = text(&card, "name");
        assert!(name.ends_with(&format!("/{owner}.same")), "{card:#}");
    }
    let http = http_client();
    let token = text(&ada, "access_token");
    for (path, status) in [
        ("bob.same", StatusCode::UNAUTHORIZED),
        ("same", StatusCode::NOT_FOUND),
    ] {
        let url = format!("{base}/i/{path}/mcp");
        let asked = post(&http, &url, &initialize()).bearer_auth(token);
        assert_eq!(send(asked).await.status(), status, "{path}");
    }
}

#[tokio::test]
async fn a_path_opens_to_the_access_token_only_and_the_api_to_the_other() {
    let server = Server::start_with(Database::Sqlite, |config| {
        config.gateway.trusted_proxies = vec!["10.0.0.0/8".parse().expect("a network")];
        config.gateway.body_limit_bytes = 3 << 20;
    })
    .await;
    let instance = server
        .create(json!({"template": "demo", "name": "mine"}))
        .await;
    let other = server
        .create(json!({"template": "demo", "name": "other"}))
        .await;
    let (url, http) = (text(&instance, "path_url"), http_client());
    let token = text(&instance, "access_token");
    let hello = || post(&http, url, &initialize());

    let bare = send(hello()).await;
    assert_eq!(bare.status(), StatusCode::UNAUTHORIZED);
    assert!(bare.headers().contains_key("www-authenticate"));
    let admin = server.admin_token();
    for wrong in [
        admin.as_str(),
        text(&other, "access_token"),
        "mmcp_nothing",
        "",
    ] {
        let (status, _) = refusal(hello().bearer_auth(wrong)).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let inside = url.replace("/mcp", &format!("/{wrong}/mcp"));
        let answer = send(post(&http, &inside, &initialize())).await;
        let expected = if wrong.is_empty() { 404 } else { 401 };
        assert_eq!(answer.status(), expected, "{inside}");
    }
    let api = http.get(format!("{}/api/v1/mcps", server.url()));
    assert_eq!(
        send(api.bearer_auth(token)).await.status(),
        StatusCode::UNAUTHORIZED
    );

    // What is not there looks the same, whoever asks.
    let mut answers = std::collections::BTreeSet::new();
    for path in [
        "/i/nobody/mcp",
        "/i/NOBODY/mcp",
        "/i/mine/other",
        "/i/a%2fb/mcp",
        "/i/nobody/x/mcp",
    ] {
        let nowhere = format!("{}{path}", server.url());
        for bearer in [token, "wrong"] {
            answers.insert(refusal(post(&http, &nowhere, &initialize()).bearer_auth(bearer)).await);
        }
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(
        answers.first().map(|(status, _)| *status),
        Some(StatusCode::NOT_FOUND)
    );

    for (name, value) in [("Origin", "https://evil.example"), ("Host", "evil.example")] {
        let (status, _) = refusal(hello().bearer_auth(token).header(name, value)).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{name}");
    }
    // Our own peer is no trusted proxy here: what it says of others is not heard.
    let told = hello()
        .bearer_auth(token)
        .header("X-Forwarded-Host", "evil.example");
    assert_eq!(send(told).await.status(), StatusCode::OK);

    // The limits are the gateway's, not those of the API (1 MiB).
    let mut client = Mcp::connect(&at(&instance, url)).await;
    let large = "x".repeat(2 << 20);
    let answer = client.request("ping", json!({"_meta": {"x": large}})).await;
    assert_eq!(answer, Ok(json!({})));
    let too_large = "x".repeat(3 << 20);
    let answer = client
        .request("ping", json!({"_meta": {"x": too_large}}))
        .await;
    assert_eq!(answer.expect_err("too large")["status"], 413);
}

#[tokio::test]
async fn streams_pass_at_once_longer_than_an_api_request_may_and_end_with_the_daemon() {
    let mut server = Server::start_with(Database::Sqlite, |config| {
        config.api.request_timeout = HumanDuration::from_ms(500);
    })
    .await;
    let instance = server
        .create(json!({"template": "demo", "name": "slow"}))
        .await;
    let (url, http) = (text(&instance, "path_url"), http_client());
    let token = text(&instance, "access_token");
    let begun = send(post(&http, url, &initialize()).bearer_auth(token)).await;
    let session = begun.headers()["mcp-session-id"].clone();
    let with_session = |request: RequestBuilder| {
        let request = request
            .bearer_auth(token)
            .header("mcp-session-id", &session);
        request.header("Accept", "application/json, text/event-stream")
    };
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
        "name": "sleep", "arguments": {"seconds": 2, "steps": 2}, "_meta": {"progressToken": "p"}}});
    first_progress_comes_before_the_answer(send(with_session(http.post(url)).json(&call)).await)
        .await;

    let mut standing = send(with_session(http.get(url))).await;
    assert_eq!(standing.status(), StatusCode::OK);
    standing
        .chunk()
        .await
        .expect("the stream begins")
        .expect("with an event");
    assert_eq!(server.stop(), Some(0));
    while let Ok(Some(_)) = standing.chunk().await {}
    let log = server.log();
    for trouble in ["still under way", "did not end in time"] {
        assert!(!log.contains(trouble), "{log}");
    }
}

/// Reads a stream of `sleep` with two steps.
pub async fn first_progress_comes_before_the_answer(mut answer: Response) {
    let mut seen = String::new();
    let mut more = async || {
        let chunk = answer.chunk().await.expect("the stream goes on");
        chunk.map(|chunk| String::from_utf8_lossy(&chunk).into_owned())
    };
    while !seen.contains("notifications/progress") {
        seen.push_str(&more().await.expect("progress comes"));
    }
    assert!(!seen.contains("\"result\""), "held back: {seen}");
    while let Some(chunk) = more().await {
        seen.push_str(&chunk);
    }
    assert!(seen.contains("slept 2 s"), "{seen}");
}

#[tokio::test]
async fn the_unix_socket_serves_it_too_and_its_users_may_be_trusted() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("api.sock");
    let server = Server::start_with(Database::Sqlite, |config| {
        config.api.unix_socket = Some(socket.clone());
        config.gateway.trusted_proxies = vec!["unix".parse().expect("valid")];
        config.gateway.allowed_hosts = vec!["mcp.example.com".to_owned()];
    })
    .await;
    let instance = server
        .create(json!({"template": "demo", "name": "here"}))
        .await;
    let token = text(&instance, "access_token");
    let card = async |host: &str| {
        let mut stream = UnixStream::connect(&socket).await.expect("a connection");
        let request = format!(
            "GET /i/here/mcp/server-card HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\nX-Forwarded-Host: {host}\r\nX-Forwarded-Proto: https\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("an answer");
        text
    };
    let answer = card("mcp.example.com").await;
    assert!(
        answer.contains("\"https://mcp.example.com/i/here/mcp\""),
        "{answer}"
    );
    assert!(card("evil.example").await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn a_server_card_holds_no_secret_and_needs_the_token_unless_it_is_public() {
    for public in [false, true] {
        let server = Server::start_with(Database::Sqlite, |config| {
            config.gateway.public_server_cards = public;
            config.gateway.public_url = "https://mcp.example.com/servers".parse().ok();
        })
        .await;
        let instance = server
            .create(json!({"template": "demo", "name": "shown"}))
            .await;
        let outside = "https://mcp.example.com/servers/i/shown/mcp";
        assert_eq!(instance["path_url"], outside);
        let (http, token) = (http_client(), text(&instance, "access_token"));
        let below = format!("{}/i/shown", server.url());
        let on_port = text(&instance, "access_url").replace("/mcp", "");
        let page = "https://page.example";
        for (base, url) in [(&below, outside), (&on_port, text(&instance, "access_url"))] {
            let plain = format!("{base}/mcp/server-card");
            let bare = send(http.get(&plain).header("Origin", page)).await;
            let expected = if public { 200 } else { 403 };
            assert_eq!(bare.status(), expected, "{plain}");
            let refused = send(http.get(&plain)).await.status();
            assert_eq!(refused == StatusCode::UNAUTHORIZED, !public, "{plain}");
            for request in [
                http.get(&plain).bearer_auth(token),
                http.get(format!("{base}/{token}/mcp/server-card")),
            ] {
                let answer = send(request).await;
                assert_eq!(answer.status(), StatusCode::OK, "{base}");
                let headers = answer.headers().clone();
                assert_eq!(headers["content-type"], "application/mcp-server-card+json");
                let open = headers.get("access-control-allow-origin");
                assert_eq!(open.is_some_and(|origin| origin == "*"), public);
                let body = answer.text().await.expect("a body");
                assert!(!body.contains(token), "{body}");
                let card: Value = serde_json::from_str(&body).expect("JSON");
                assert_eq!(card["remotes"][0]["url"], url, "{card:#}");
                assert_eq!(card["version"], env!("CARGO_PKG_VERSION"), "{card:#}");
                assert!(card.get("tools").is_none());
                let again = http.get(&plain).bearer_auth(token);
                let again = again.header("If-None-Match", &headers["etag"]);
                assert_eq!(send(again).await.status(), StatusCode::NOT_MODIFIED);
            }
            let (status, _) = refusal(http.post(&plain).bearer_auth(token)).await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        }
        let catalogue = http.get(format!("{}/.well-known/ai-catalog.json", server.url()));
        let catalogue = send(catalogue.header("Origin", page)).await;
        if public {
            assert_eq!(
                catalogue.headers()["content-type"],
                "application/ai-catalog+json"
            );
            let catalogue: Value = catalogue.json().await.expect("JSON");
            let entries = catalogue["entries"].as_array().expect("a list");
            assert_eq!(entries.len(), 1, "{catalogue:#}");
            assert_eq!(entries[0]["url"], format!("{outside}/server-card"));
        } else {
            assert_eq!(catalogue.status(), StatusCode::NOT_FOUND);
        }
    }
}
