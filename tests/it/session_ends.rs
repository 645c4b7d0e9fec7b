//! What ends a session ends all that it has, and nothing else: its own child, its streams, its calls; for clients of
//! every era.

use std::time::Instant;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    harness::{Database, Server},
    http_sse::Old,
    mcp::Mcp,
    path_gateway::text,
    per_session::{SOON, add, assert_gone, id_of, is_alive, until_children},
    stateless_client::Stateless,
};

async fn old(instance: &Value) -> Old {
    let base = text(instance, "access_url").replace("/mcp", "");
    let token = text(instance, "access_token");
    let mut old = Old::open(&base, "/sse", Some(token), "/messages?sessionId=").await;
    old.greet().await;
    old
}

async fn add_over_sse(client: &mut Old, id: u64, number: u32) -> Value {
    let params = json!({"name": "add", "arguments": {"number": number}});
    let answer = client.request(id, "tools/call", params).await;
    answer["result"]["content"][0]["text"].clone()
}

/// Waits until a stream has ended.
async fn until_end(mut stream: reqwest::Response) {
    let ended = tokio::time::timeout(SOON, async {
        while let Ok(Some(_)) = stream.chunk().await {}
    });
    ended.await.expect("the stream ends");
}

/// Another token, with which the instance can be reached as with its first.
async fn guest(server: &Server, instance: &Value) -> Value {
    let path = format!("/mcps/{}/access-tokens", id_of(instance));
    server.post(&path, json!({"name": "guest"})).await
}

async fn revoke_guest(server: &Server, instance: &Value) {
    let path = format!("/mcps/{}/access-tokens/guest", id_of(instance));
    let (status, _) = server.call(Method::DELETE, &path, None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn each_stream_of_2024_has_a_child_of_its_own() {
    let server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let (mut one, mut two) = (old(&instance).await, old(&instance).await);
    assert_eq!(add_over_sse(&mut one, 2, 5).await, "5");
    assert_eq!(add_over_sse(&mut two, 2, 1).await, "1");
    assert_eq!(add_over_sse(&mut one, 3, 2).await, "7");
    let both = until_children(&server, &instance, 2).await;
    drop(one);
    assert_eq!(until_children(&server, &instance, 1).await, [both[1]]);
    assert_gone(&server, &both[..1]);
    assert_eq!(add_over_sse(&mut two, 3, 1).await, "2");
    // A child that dies takes its stream with it: the client opens another, with a state of its own.
    crate::processes::kill(both[1]);
    assert_eq!(two.event().await, None);
    until_children(&server, &instance, 0).await;
    let mut anew = old(&instance).await;
    assert_eq!(add_over_sse(&mut anew, 2, 4).await, "4");
}

#[tokio::test]
async fn an_expiry_ends_sessions_with_children_of_their_own() {
    let server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let id = id_of(&instance);
    let mut client = Mcp::connect(&instance).await;
    assert_eq!(add(&mut client, 1).await.as_deref(), Ok("1"));
    let stream = client.stream().await;
    let mut old = old(&instance).await;
    assert_eq!(add_over_sse(&mut old, 2, 1).await, "1");
    let children = until_children(&server, &instance, 2).await;
    // Only now: whatever a busy machine does, all of it is there when the time begins.
    let short = json!({"ttl": "1s"});
    server.post(&format!("/mcps/{id}/extend"), short).await;
    let expired = server.wait_status(&id, &["expired"], SOON).await;
    assert_eq!(expired["session_children"], json!([]), "{expired:#}");
    for pid in children {
        assert!(!is_alive(&server, pid), "{:?}", server.processes());
    }
    until_end(stream).await;
    assert_eq!(old.event().await, None);
    add(&mut client, 1).await.expect_err("it expired");
    let stats = server.get(&format!("/mcps/{id}/stats")).await;
    assert_eq!(stats["sessions"], 0, "{stats}");

    server.post(&format!("/mcps/{id}/restore"), json!({})).await;
    server.wait_status(&id, &["running"], SOON).await;
    add(&mut client, 1).await.expect_err("its session is gone");
    let mut anew = Mcp::connect(&instance).await;
    assert_eq!(add(&mut anew, 4).await.as_deref(), Ok("4"));
}

#[tokio::test]
async fn a_revoked_token_takes_its_children_streams_and_calls() {
    let server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": "keeps-state"})).await;
    let guest = guest(&server, &instance).await;
    let mut owner = Mcp::connect(&instance).await;
    assert_eq!(add(&mut owner, 1).await.as_deref(), Ok("1"));
    let kept = until_children(&server, &instance, 1).await;
    let mut client = Mcp::connect(&guest).await;
    let stream = client.stream().await;
    let mut old = old(&guest).await;
    let children = until_children(&server, &instance, 3).await;
    let waiting = tokio::spawn(async move { client.tool("wait", json!({})).await });
    // The call is at the child once the child says so.
    let path = format!("/mcps/{}/logs?text=waiting", id_of(&instance));
    let deadline = Instant::now() + SOON;
    while server.get(&path).await["items"] == json!([]) {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await; // poll
    }
    revoke_guest(&server, &instance).await;
    until_end(stream).await;
    assert_eq!(old.event().await, None);
    let answer = tokio::time::timeout(SOON, waiting).await;
    let answer = answer.expect("it does not hang").expect("joined");
    answer.expect_err("its token is gone");
    assert_eq!(until_children(&server, &instance, 1).await, kept);
    assert_gone(&server, &children[1..]);
    assert_eq!(add(&mut owner, 1).await.as_deref(), Ok("2"));
}

#[tokio::test]
async fn a_revoked_token_ends_streams_of_every_kind_of_server() {
    let server = Server::start(Database::Sqlite).await;
    for template in ["legacy-echo", "stateless", "http-session", "http-stateless"] {
        let instance = server.create(json!({"template": template})).await;
        let guest = guest(&server, &instance).await;
        let wanted = json!({"notifications": {"toolsListChanged": true}});
        let guests = Stateless::new(&guest);
        let mut heard = guests.begin("subscriptions/listen", wanted).await;
        let first = heard.chunk().await.expect("a stream").expect("its start");
        let first = String::from_utf8_lossy(&first);
        assert!(first.contains("acknowledged"), "{template}: {first}");
        let own = Stateless::new(&instance);
        // Of the session era there is a stream wherever it is not relayed to a server that has none.
        let client = Mcp::connect(&guest).await;
        let standing = client.stream().await;
        revoke_guest(&server, &instance).await;
        until_end(heard).await;
        until_end(standing).await;
        let refused = guests.begin("tools/list", json!({})).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{template}");
        // The other token goes on.
        let list = own.request("tools/list", json!({})).await;
        assert_eq!(list.status, StatusCode::OK, "{template}");
    }
}
