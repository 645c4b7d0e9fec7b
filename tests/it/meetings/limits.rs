//! What is too long, too deep or too many, in all four meetings over stdio: a JSON-RPC error for that message, and
//! everything else goes on.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Client, answer, text};
use crate::harness::{Database, Server};

const LINE_LIMIT_BYTES: usize = 300_000;
const BODY_LIMIT_BYTES: usize = 200_000;

/// Servers of both eras, each with a client of both.
async fn in_all_meetings(check: impl AsyncFn(&Client)) {
    let server = Server::start_with(Database::Sqlite, |config| {
        config.gateway.line_limit_bytes = LINE_LIMIT_BYTES;
        config.gateway.body_limit_bytes = BODY_LIMIT_BYTES;
    })
    .await;
    for template in ["legacy-echo", "stateless"] {
        let instance = server.create(json!({"template": template})).await;
        assert_eq!(instance["status"], "running", "{instance:#}");
        let (session, _) = Client::in_session(&instance, json!({})).await;
        for client in [session, Client::stateless(&instance, json!({}))] {
            check(&client).await;
            let echo = client.tool(99, "echo", json!({"text": "still there"}));
            assert_eq!(text(echo).await, "still there", "{template}");
        }
        let id = instance["id"].as_str().expect("an id");
        let instance = server.get(&format!("/mcps/{id}")).await;
        assert_eq!(
            instance["generation"], 1,
            "nothing was restarted: {instance:#}"
        );
    }
}

#[tokio::test]
async fn a_line_over_the_limit_is_an_error_of_its_call() {
    in_all_meetings(async |client| {
        let fits = client.tool(1, "big", json!({"bytes": LINE_LIMIT_BYTES / 2}));
        assert_eq!(text(fits).await.len(), LINE_LIMIT_BYTES / 2);
        let error = answer(client.tool(2, "big", json!({"bytes": LINE_LIMIT_BYTES}))).await;
        let message = error["error"]["message"].to_string();
        assert!(
            message.contains("over the limit of 300000 bytes"),
            "{error}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_by_name() {
    in_all_meetings(async |client| {
        let arguments = json!({"text": "x".repeat(BODY_LIMIT_BYTES)});
        let refused = client
            .tool(1, "echo", arguments)
            .send()
            .await
            .expect("an answer");
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let refused: Value = refused.json().await.expect("JSON");
        let message = refused["error"]["message"].to_string();
        assert!(
            message.contains("larger than the limit of 200000 bytes"),
            "{refused}"
        );
    })
    .await;
}

#[tokio::test]
async fn depth_passes_and_what_is_no_message_is_refused() {
    in_all_meetings(async |client| {
        // Deeper than our own JSON reader would go; the servers' stops at about a thousand.
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        let mark = "deep-goes-here";
        let request = client.tool(1, "echo", json!({"text": mark})).build();
        let mut request = request.expect("a request");
        let body = request
            .body()
            .and_then(reqwest::Body::as_bytes)
            .expect("a body");
        let body = String::from_utf8_lossy(body).replace(&format!("\"{mark}\""), &deep);
        *request.body_mut() = Some(body.into());
        request.headers_mut().remove("content-length");
        let sent = client.execute(request).await;
        let sent: Value = sent.json().await.expect("JSON");
        assert_eq!(sent["result"]["content"][0]["text"], deep.as_str());
        for wrong in [
            json!([]),
            json!("text"),
            json!({"jsonrpc": "2.0", "id": {}, "method": "x"}),
        ] {
            let refused = client.post(&wrong).send().await.expect("an answer");
            assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{wrong}");
            let refused: Value = refused.json().await.expect("JSON");
            assert!(refused["error"]["code"].is_i64(), "{refused}");
        }
    })
    .await;
}

#[tokio::test]
async fn batches_are_of_old_sessions_only() {
    let server = Server::start(Database::Sqlite).await;
    for template in ["legacy-echo", "stateless"] {
        let instance = server.create(json!({"template": template})).await;
        let part = |id: u32, method: &str, params: Value| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let batch = json!([
            part(1, "ping", json!({})),
            part(2, "tools/call", json!({"name": "echo", "arguments": {"text": "two"}})),
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            {"jsonrpc": "2.0", "id": 3},
            part(4, "tools/list", json!({})),
        ]);
        let old = Client::of_revision(&instance, "2025-03-26").await;
        let answers = old.post(&batch).send().await.expect("an answer");
        let answers: Value = answers.json().await.expect("JSON");
        let find = |id: Value| {
            let mut all = answers.as_array().expect("a list").iter();
            let found = all.find(|answer| answer["id"] == id);
            found
                .unwrap_or_else(|| panic!("no {id}: {answers}"))
                .clone()
        };
        assert_eq!(find(json!(1))["result"], json!({}));
        assert_eq!(find(json!(2))["result"]["content"][0]["text"], "two");
        assert!(find(json!(4))["result"]["tools"].is_array(), "{answers}");
        assert_eq!(
            find(json!(4))["result"].get("resultType"),
            None,
            "{answers}"
        );
        assert_eq!(find(Value::Null)["error"]["code"], -32_600);
        let (new, _) = Client::in_session(&instance, json!({})).await;
        for client in [new, Client::stateless(&instance, json!({}))] {
            let refused = client.post(&batch).send().await.expect("an answer");
            assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
            let refused: Value = refused.json().await.expect("JSON");
            assert_eq!(refused["error"]["code"], -32_600, "{refused}");
        }
    }
}
