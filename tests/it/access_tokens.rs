//! Several access tokens for one access URL: scopes, limits, rotation, revocation, on a running daemon.

use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    harness::{self, Database, Server, on_both_databases},
    mcp::Mcp,
};

on_both_databases! {
    tokens_are_made_listed_changed_and_outlive_the_daemon,
    a_revoked_token_ends_with_what_it_opened,
}

async fn create(server: &Server, instance: &Value, body: Value) -> Value {
    let path = format!("/mcps/{}/access-tokens", text(instance, "id"));
    let (status, made) = server.call(Method::POST, &path, Some(body)).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    made
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key}: {value:#}"))
}

/// One message of a client, with its headers as given.
async fn send(token: &Value, headers: &[(&str, &str)], body: &Value) -> Response {
    let mut request = harness::http_client()
        .post(text(token, "access_url"))
        .bearer_auth(text(token, "access_token"))
        .header("Accept", "application/json, text/event-stream")
        .json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.expect("the access URL answers")
}

fn call(tool: &str, arguments: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

/// The same as a stateless client sends it.
async fn send_stateless(token: &Value, method: &str, mut params: Value) -> Response {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
    });
    let mut headers = vec![
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", method),
    ];
    let name = params["name"].as_str().unwrap_or_default().to_owned();
    if !name.is_empty() {
        headers.push(("Mcp-Name", &name));
    }
    let body = json!({"jsonrpc": "2.0", "id": 5, "method": method, "params": params});
    send(token, &headers, &body).await
}

async fn wait_for<T>(timeout: Duration, condition: impl AsyncFn() -> Option<T>) -> Option<T> {
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        let value = condition().await;
        if value.is_some() || tokio::time::Instant::now() > deadline {
            return value;
        }
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

async fn json_of(answer: Response) -> Value {
    let text = answer.text().await.expect("a body");
    let data = text.lines().find_map(|line| line.strip_prefix("data: {"));
    let text = data.map_or(text.clone(), |data| format!("{{{data}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

async fn tokens_are_made_listed_changed_and_outlive_the_daemon(database: Database) {
    let mut server = Server::start(database).await;
    let instance = server
        .create(json!({"template": "demo", "name": "one"}))
        .await;
    let made = create(
        &server,
        &instance,
        json!({"name": "ci", "scope": {"tools": ["echo", "t*"]}, "ttl": "1h",
            "rate_limit": {"requests": 100, "per": "1m"}, "concurrency_max": 3}),
    )
    .await;
    assert_ne!(made["access_token"], instance["access_token"]);
    let secret = text(&made, "access_token");
    assert!(text(&made, "connect_url").contains(secret));
    let mut client = Mcp::connect(&made).await;
    assert_eq!(
        client.tool("echo", json!({"text": "hi"})).await.as_deref(),
        Ok("hi")
    );

    let (_, problem) = server
        .call(
            Method::POST,
            "/mcps/one/access-tokens",
            Some(json!({"name": "ci"})),
        )
        .await;
    assert_eq!(problem["code"], "name-taken");
    let listed = server.get("/mcps/one/access-tokens").await;
    let names: Vec<_> = listed["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|token| text(token, "name"))
        .collect();
    assert_eq!(names, ["default", "ci"]);
    assert!(
        !listed.to_string().contains("mmcp_"),
        "secrets are shown once"
    );
    let ci = &listed["items"][1];
    assert_eq!(ci["scope"], json!({"tools": ["echo", "t*"]}));
    assert_eq!(
        (&ci["rate_limit"], &ci["concurrency_max"]),
        (&json!({"requests": 100, "per": "1m"}), &json!(3))
    );
    assert!(
        ci["last_used_at"].is_string() && ci["expires_at"].is_string(),
        "{ci:#}"
    );

    let (status, _) = server
        .call(
            Method::PATCH,
            "/mcps/one/access-tokens/ci",
            Some(json!({"scope": "read-only", "expires_at": null})),
        )
        .await;
    assert_eq!(status, StatusCode::OK);
    server.post("/tasks/access-times/run", json!({})).await;
    server.stop();
    server.launch().await;
    server.until_ready().await;
    server
        .wait_status("one", &["running"], Duration::from_secs(30))
        .await;
    let again = server.get("/mcps/one/access-tokens/ci").await;
    assert_eq!(
        (&again["scope"], &again["expires_at"]),
        (&json!("read-only"), &Value::Null)
    );
    for key in ["fingerprint", "created_at", "rate_limit", "concurrency_max"] {
        assert_eq!(again[key], ci[key], "{key}");
    }
    let mut client = Mcp::connect(&made).await;
    assert!(client.tools().await.contains(&"echo".to_owned()));

    // Rotated with an overlap both open, without one only the newest.
    let path = "/mcps/one/access-tokens/ci/rotate";
    let second = server.post(path, json!({"overlap": "1h"})).await;
    assert!(second["overlap_until"].is_string());
    assert_ne!(second["fingerprint"], ci["fingerprint"]);
    let listing = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    for token in [&made, &second] {
        Mcp::connect(token).await;
    }
    let third = server.post(path, json!({})).await;
    assert_eq!(third["overlap_until"], Value::Null);
    for token in [&made, &second] {
        assert_eq!(
            send(token, &[], &listing).await.status(),
            StatusCode::UNAUTHORIZED
        );
    }
    Mcp::connect(&third).await;
    Mcp::connect(&instance).await;
}

async fn a_revoked_token_ends_with_what_it_opened(database: Database) {
    let server = Server::start(database).await;
    let instance = server
        .create(json!({"template": "demo", "name": "one"}))
        .await;
    let made = create(&server, &instance, json!({"name": "guest"})).await;
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params":
        {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}}});
    let greeting = send(&made, &[], &hello).await;
    let session = greeting.headers()["mcp-session-id"]
        .to_str()
        .expect("ASCII")
        .to_owned();
    let ping = json!({"jsonrpc": "2.0", "id": 2, "method": "ping"});
    let in_session = [("Mcp-Session-Id", session.as_str())];
    assert_eq!(
        send(&made, &in_session, &ping).await.status(),
        StatusCode::OK
    );
    // Another token of the same instance does not find the session.
    assert_eq!(
        send(&instance, &in_session, &ping).await.status(),
        StatusCode::NOT_FOUND
    );

    let mut stream = harness::http_client()
        .get(text(&made, "access_url"))
        .bearer_auth(text(&made, "access_token"))
        .header("Accept", "text/event-stream")
        .header("Mcp-Session-Id", &session)
        .send()
        .await
        .expect("a stream");
    assert_eq!(stream.status(), StatusCode::OK);
    stream
        .chunk()
        .await
        .expect("a stream")
        .expect("its first event");
    assert_eq!(server.get("/mcps/one/stats").await["sessions"], 1);

    let (status, _) = server
        .call(Method::DELETE, "/mcps/one/access-tokens/guest", None)
        .await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let ended = tokio::time::timeout(Duration::from_secs(20), async {
        while let Ok(Some(_)) = stream.chunk().await {}
    });
    ended.await.expect("the stream ends with its token");
    let refused = send(&made, &in_session, &ping).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert!(
        refused.headers()["www-authenticate"]
            .to_str()
            .expect("ASCII")
            .contains("invalid_token")
    );
    let gone = wait_for(Duration::from_secs(10), async || {
        (server.get("/mcps/one/stats").await["sessions"] == 0).then_some(())
    });
    assert!(gone.await.is_some(), "the session went with its token");
    Mcp::connect(&instance).await;
    // A new token of the name opens nothing of the old one's.
    let again = create(&server, &instance, json!({"name": "guest"})).await;
    assert_eq!(
        send(&again, &in_session, &ping).await.status(),
        StatusCode::NOT_FOUND
    );
    let (status, problem) = server
        .call(Method::DELETE, "/mcps/one/access-tokens/nosuch", None)
        .await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::NOT_FOUND, &json!("not-found"))
    );
}

/// Over pipes and over HTTP, in both eras and in batches.
#[tokio::test]
async fn a_scope_holds_for_every_client_and_every_server() {
    let server = Server::start(Database::Sqlite).await;
    for (template, reads, writes) in [
        ("demo", "echo", "crash"),
        ("http-echo", "echo", "environment"),
    ] {
        let instance = server
            .create(json!({"template": template, "name": template}))
            .await;
        let read_only = create(
            &server,
            &instance,
            json!({"name": "ro", "scope": "read-only"}),
        )
        .await;
        let listed = create(
            &server,
            &instance,
            json!({"name": "list", "scope": {"tools": ["ech*"]}}),
        )
        .await;
        for token in [&read_only, &listed] {
            let mut client = Mcp::connect(token).await;
            let tools = client.tools().await;
            assert!(
                tools.contains(&reads.to_owned()) && !tools.contains(&writes.to_owned()),
                "{template}: {tools:?}"
            );
            assert_eq!(
                client.tool(reads, json!({"text": "hi"})).await.as_deref(),
                Ok("hi"),
                "{template}"
            );
            let error = client
                .tool(writes, json!({}))
                .await
                .expect_err("out of scope");
            let message = text(&error, "message");
            assert!(
                message.contains("scope") && message.contains("ech"),
                "{template}: {error}"
            );
            assert_eq!(error["data"]["cause"], "scope");
            let error = client.tool("nosuch", json!({})).await.expect_err("unknown");
            assert_eq!(error["data"]["cause"], "scope");
            if template == "demo" {
                let refused = send_stateless(
                    token,
                    "tools/call",
                    json!({"name": writes, "arguments": {}}),
                )
                .await;
                assert_eq!(refused.status(), StatusCode::FORBIDDEN);
                let challenge = refused.headers()["www-authenticate"]
                    .to_str()
                    .expect("ASCII")
                    .to_owned();
                assert!(challenge.contains("insufficient_scope"), "{challenge}");
                let list = json_of(send_stateless(token, "tools/list", json!({})).await).await;
                assert!(
                    list.to_string().contains("\"echo\"")
                        && !list.to_string().contains("\"crash\""),
                    "{list}"
                );
                assert_eq!(list["result"]["cacheScope"], "private");
                let arguments = json!({"name": "echo", "arguments": {"text": "hi"}});
                let answer = json_of(send_stateless(token, "tools/call", arguments).await).await;
                assert_eq!(answer["result"]["content"][0]["text"], "hi", "{answer}");
            }
            // In a batch, with a key that only a lenient reader would take, and without an id.
            let hidden = json!({"jsonrpc": "2.0", "id": 6, "method": "ping", "Method": "tools/call", "params": {"name": writes}});
            let silent =
                json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": writes}});
            for body in [
                json!([call(reads, &json!({})), call(writes, &json!({}))]),
                hidden,
                silent,
            ] {
                let refused = send(token, &[], &body).await;
                let status = refused.status();
                assert!(
                    [StatusCode::FORBIDDEN, StatusCode::BAD_REQUEST].contains(&status),
                    "{template} {body}: {status}"
                );
            }
        }
        let whole = Mcp::connect(&instance).await.tools().await;
        assert!(whole.contains(&writes.to_owned()), "{whole:?}");
    }
}

#[tokio::test]
async fn limits_answer_with_the_time_to_wait() {
    let server = Server::start_with(Database::Sqlite, |config| {
        config.gateway.token_concurrency_max = Some(1);
    })
    .await;
    let instance = server
        .create(json!({"template": "demo", "name": "one"}))
        .await;
    let slow_down = json!({"name": "few", "rate_limit": {"requests": 2, "per": "1h"}});
    let few = create(&server, &instance, slow_down).await;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    for _ in 0..2 {
        assert_eq!(
            send(&few, &[], &ping).await.status(),
            StatusCode::BAD_REQUEST,
            "no session, but let in"
        );
    }
    let refused = send(&few, &[], &ping).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = refused.headers()["retry-after"]
        .to_str()
        .expect("ASCII")
        .parse()
        .expect("seconds");
    assert!((1..=1_800).contains(&wait), "{wait}");
    let body = json_of(refused).await;
    assert_eq!(
        (
            &body["error"]["data"]["cause"],
            &body["error"]["data"]["limit"]
        ),
        (&json!("rate-limit"), &json!("2/1h"))
    );
    // Another token is not held back by it.
    Mcp::connect(&instance).await;

    // A call that streams is under way until its stream ends.
    let params = json!({"name": "sleep", "arguments": {"seconds": 30, "steps": 300}, "_meta": {"progressToken": "p"}});
    let mut streaming = send_stateless(&instance, "tools/call", params).await;
    assert_eq!(streaming.headers()["content-type"], "text/event-stream");
    streaming
        .chunk()
        .await
        .expect("a stream")
        .expect("its first event");
    let arguments = json!({"name": "echo", "arguments": {"text": "hi"}});
    let refused = send_stateless(&instance, "tools/call", arguments.clone()).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "1");
    let body = json_of(refused).await;
    assert_eq!(
        (&body["id"], &body["error"]["data"]["cause"]),
        (&json!(5), &json!("concurrency-limit"))
    );
    drop(streaming);
    let after = wait_for(Duration::from_secs(10), async || {
        let answer = send_stateless(&instance, "tools/call", arguments.clone()).await;
        (answer.status() == StatusCode::OK).then_some(())
    });
    assert!(
        after.await.is_some(),
        "the place is free once the stream is gone"
    );
}
