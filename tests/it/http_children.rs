//! Servers that speak Streamable HTTP themselves, of one era or both, in front of clients of either.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    fixtures,
    harness::{Database, Server},
    http_sse::Old,
    mcp::{Mcp, SDKS, sdk},
    meetings::{self, Client, Messages},
    path_gateway::text,
    processes,
    stateless_client::{Stateless, events},
};

const SOON: Duration = Duration::from_secs(30);

async fn with(template: &str) -> (Server, Value) {
    let server = Server::start(Database::Sqlite).await;
    let instance = server.create(json!({"template": template})).await;
    assert_eq!(instance["status"], "running", "{instance:#}");
    (server, instance)
}

/// Reads a stream until it has brought so many messages.
async fn first_messages(response: &mut reqwest::Response, count: usize) -> Vec<Value> {
    let mut text = String::new();
    while events(&text).len() < count {
        let chunk = tokio::time::timeout(SOON, response.chunk()).await;
        let chunk = chunk.expect("in time").expect("the stream goes on");
        text.push_str(&String::from_utf8_lossy(&chunk.expect("not its end")));
    }
    events(&text)
}

/// Asks a tool again and again until it gives this text.
async fn until_tool_says(client: &Stateless, tool: &str, text: &str) {
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let answer = client.tool(tool, json!({})).await;
        if answer.text() == text {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{tool}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

#[tokio::test]
async fn a_stateless_client_uses_a_session_era_server() {
    let (_server, instance) = with("http-session").await;
    let mut client = Stateless::new(&instance);
    let found = client.request("server/discover", json!({})).await.response;
    assert_eq!(found["result"]["supportedVersions"], json!(["2026-07-28"]));
    let listed = client.request("tools/list", json!({})).await.response;
    assert_eq!(listed["result"]["resultType"], "complete");
    assert_eq!(listed["result"]["cacheScope"], "private");
    let said = client.tool("echo", json!({"text": "é\n1.50"})).await;
    assert_eq!((said.status, said.text()), (StatusCode::OK, "é\n1.50"));
    let closed = client.tool("close", json!({})).await;
    assert_eq!(closed.text(), "closed");

    // Progress and log messages come with the call that they belong to, as it asked for them.
    let params =
        json!({"name": "report", "arguments": {"times": 3}, "_meta": {"progressToken": "mine"}});
    client.log_level = Some("warning");
    let report = client.request("tools/call", params).await;
    assert_eq!(report.text(), "True");
    let methods: Vec<&str> = report
        .before
        .iter()
        .filter_map(|message| message["method"].as_str())
        .collect();
    let progress = "notifications/progress";
    assert_eq!(
        methods,
        [progress, progress, progress, "notifications/message"]
    );
    assert_eq!(report.before[2]["params"]["progressToken"], "mine");
    assert_eq!(report.before[3]["params"]["data"], "a warning");
    client.log_level = None;

    // What the revision calls otherwise.
    let missing = client
        .request("resources/read", json!({"uri": "x:y"}))
        .await;
    assert_eq!(missing.response["error"]["code"], -32602);
    let unknown = client.request("no/such", json!({})).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert_eq!(unknown.response["error"]["code"], -32601);

    // All of it in the one session that the handshake opened.
    assert_eq!(client.tool("sessions", json!({})).await.text(), "1");
}

#[tokio::test]
async fn questions_of_a_session_era_server_become_input_required() {
    let (_server, instance) = with("http-session").await;
    let mut client = Stateless::new(&instance);
    let refused = client.tool("ask", json!({"name": "x"})).await;
    assert!(refused.text().contains("did not declare"), "{refused:?}");
    client.capabilities = json!({"elicitation": {}});
    // Two at a time: over HTTP a question comes with its call, so none is ambiguous.
    let (one, two) = tokio::join!(
        client.tool("ask", json!({"name": "one"})),
        client.tool("ask", json!({"name": "two"}))
    );
    for (asked, name) in [(two, "two"), (one, "one")] {
        let result = &asked.response["result"];
        assert_eq!(result["resultType"], "input_required", "{asked:?}");
        let requests = result["inputRequests"].as_object().expect("questions");
        let (key, request) = requests.iter().next().expect("one question");
        assert_eq!(request["method"], "elicitation/create");
        let answer = json!({"action": "accept", "content": {"name": name}});
        let params = json!({"name": "ask", "arguments": {"name": name},
            "requestState": result["requestState"], "inputResponses": {key: answer}});
        let done = client.request("tools/call", params).await;
        let told: Value = serde_json::from_str(done.text()).expect("the answer as JSON");
        assert_eq!(told, answer);
    }
}

#[tokio::test]
async fn a_stateless_client_that_leaves_cancels_at_a_session_era_server() {
    let (_server, instance) = with("http-session").await;
    let client = Stateless::new(&instance);
    let params = json!({"name": "slow", "arguments": {}});
    let slow = tokio::spawn(client.prepare("tools/call", params).send());
    until_tool_says(&client, "going", "1").await;
    slow.abort();
    until_tool_says(&client, "cancelled", "1").await;
}

#[tokio::test]
async fn answers_that_break_off_are_resumed_or_told() {
    let (_server, instance) = with("http-session").await;
    let client = Stateless::new(&instance);
    let resumed = client.tool("resumed", json!({})).await;
    assert_eq!(resumed.text(), "had by resuming");
    for (tool, arguments, cause) in [
        ("silent", json!({}), "without an answer"),
        ("status", json!({"code": 500}), "status 500"),
        ("status", json!({"code": 202}), "status 202"),
    ] {
        let answer = client.tool(tool, arguments).await;
        let error = &answer.response["error"];
        assert_eq!(error["code"], -32603, "{answer:?}");
        let text = error["message"].as_str().expect("a sentence");
        assert!(text.contains(cause), "{text}");
    }
    let exit = client.tool("exit", json!({"code": 7})).await;
    let error = &exit.response["error"];
    assert_eq!(error["data"]["exit_code"], 7, "{exit:?}");
}

#[tokio::test]
async fn a_forgotten_session_is_opened_anew_with_all_wishes() {
    let (_server, instance) = with("http-session").await;
    let client = Stateless::new(&instance);
    let wanted = json!({"notifications": {"toolsListChanged": true, "resourceSubscriptions": ["test://one"]}});
    let mut heard = client.begin("subscriptions/listen", wanted).await;
    let acknowledged = first_messages(&mut heard, 1).await;
    let granted = &acknowledged[0]["params"]["notifications"];
    assert_eq!(granted["resourceSubscriptions"], json!(["test://one"]));
    until_tool_says(&client, "levels", "None ['test://one']").await;
    for sessions in ["1", "2"] {
        assert_eq!(client.tool("sessions", json!({})).await.text(), sessions);
        assert_eq!(client.tool("news", json!({})).await.text(), "told");
        let news = first_messages(&mut heard, 2).await;
        assert_eq!(news[0]["method"], "notifications/tools/list_changed");
        assert_eq!(news[1]["params"]["uri"], "test://one");
        assert_eq!(
            news[1]["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"],
            1
        );
        assert_eq!(client.tool("forget", json!({})).await.text(), "forgotten");
        until_tool_says(&client, "levels", "None ['test://one']").await;
    }
}

#[tokio::test]
async fn a_session_era_client_uses_a_stateless_server() {
    let (_server, instance) = with("http-stateless").await;
    let mut client = Mcp::connect(&instance).await;
    let tools = client.tools().await;
    assert!(tools.contains(&"in-region".to_owned()), "{tools:?}");
    let said = client.tool("echo", json!({"text": "é"})).await;
    assert_eq!(said.as_deref(), Ok("é"));
    let named = client.tool("grüße", json!({"n": 1})).await;
    assert_eq!(named.as_deref(), Ok(r#"{"n": 1}"#));
    let arguments = json!({"region": "Zürich ", "deep": {"n": 5}});
    let placed = client.tool("in-region", arguments).await;
    assert!(placed.is_ok(), "{placed:?}");
    let missing = client.request("no/such", json!({})).await;
    assert_eq!(missing.expect_err("unknown")["code"], -32601);
    let pong = client.request("ping", json!({})).await;
    assert_eq!(pong, Ok(json!({})));
}

#[tokio::test]
async fn clients_of_the_same_era_are_relayed_as_they_are() {
    let (server, instance) = with("http-session").await;
    let mut client = Mcp::connect(&instance).await;
    // One session is ours, one is the client's own, which the child gave it.
    assert_eq!(client.tool("sessions", json!({})).await.as_deref(), Ok("2"));
    drop(server);
    let (_server, instance) = with("http-stateless").await;
    let mut stateless = Stateless::new(&instance);
    stateless.capabilities = json!({"elicitation": {}});
    let asked = stateless.tool("ask", json!({})).await;
    assert_eq!(asked.response["result"]["requestState"], "half-way");
    let params = json!({"name": "slow", "arguments": {}});
    let slow = stateless.begin("tools/call", params).await;
    drop(slow);
    until_tool_says(&stateless, "left", "1").await;
}

#[tokio::test]
async fn after_a_restart_bridged_clients_go_on_and_relayed_ones_begin_anew() {
    for status in [404, 400] {
        let server = Server::start(Database::Sqlite).await;
        let settings = json!({"unknown_session_status": status, "listen_after_s": 1});
        let body = json!({"template": "http-session", "settings": settings});
        let instance = server.create(body).await;
        let id = instance["id"].as_str().expect("it has an id");
        let mut relayed = Mcp::connect(&instance).await;
        let bridged = Stateless::new(&instance);
        assert_eq!(bridged.tool("echo", json!({"text": "a"})).await.text(), "a");
        let pid = server.get(&format!("/mcps/{id}")).await["pid"].as_u64();
        processes::kill(u32::try_from(pid.expect("it runs")).expect("a pid"));
        // Requests that come while it starts again wait for it.
        let again = bridged.tool("echo", json!({"text": "b"})).await;
        if again.response.get("error").is_some() {
            // It was killed with this very call under way, which is told at once.
            assert_eq!(again.response["error"]["data"]["signal"], 9, "{again:?}");
        }
        server.wait_status(id, &["running"], SOON).await;
        assert_eq!(bridged.tool("echo", json!({"text": "b"})).await.text(), "b");
        let message = json!({"jsonrpc": "2.0", "id": 9, "method": "tools/list"});
        let gone = relayed.send(&message).await;
        assert_eq!(gone.status(), StatusCode::NOT_FOUND);
        relayed = Mcp::connect(&instance).await;
        assert_eq!(
            relayed.tool("echo", json!({"text": "c"})).await.as_deref(),
            Ok("c")
        );
    }
}

#[tokio::test]
async fn a_bridged_session_survives_a_restart() {
    let (server, instance) = with("http-stateless").await;
    let id = instance["id"].as_str().expect("it has an id");
    let mut client = Mcp::connect(&instance).await;
    let died = client.tool("exit", json!({"code": 3})).await;
    assert_eq!(died.expect_err("it died")["data"]["exit_code"], 3);
    let said = client.tool("echo", json!({"text": "again"})).await;
    assert_eq!(said.as_deref(), Ok("again"));
    let instance = server.get(&format!("/mcps/{id}")).await;
    assert_eq!(instance["generation"], 2, "{instance:#}");
}

#[tokio::test]
async fn every_sdk_meets_http_servers_of_each_kind() {
    let Some(deps) = fixtures::deps() else { return };
    let server = Server::start_with(Database::Sqlite, |config| {
        // Only the other SDK is on the search path.
        config.sandbox.read = vec![deps.join("python-sdk1")];
    })
    .await;
    for body in [
        json!({"template": "http-session"}),
        json!({"template": "http-stateless"}),
        json!({"template": "http-sdk", "settings": {"major": 1}}),
        json!({"template": "http-sdk", "settings": {"major": 2}}),
        json!({"template": "http-sdk-node"}),
        json!({"template": "http-sdk-node", "settings": {"stateless_only": true}}),
    ] {
        let instance = server.create(body.clone()).await;
        assert_eq!(instance["status"], "running", "{instance:#}");
        for name in SDKS {
            let arguments = json!({"text": "hello"});
            let report = sdk(name, &instance, "echo", &arguments).await;
            let report = report.expect("the SDKs are there");
            let text = &report["result"]["content"][0]["text"];
            assert_eq!(text, "hello", "{body} {name}: {report}");
            let protocol = report["protocol"].as_str();
            let stateless = name.ends_with("auto");
            assert_eq!(
                protocol == Some("2026-07-28"),
                stateless,
                "{body} {name}: {report}"
            );
        }
    }
}

#[tokio::test]
async fn a_stateless_server_asks_and_tells_a_session_era_client() {
    let (_server, instance) = with("http-stateless").await;
    let (client, hello) = Client::in_session(&instance, json!({"elicitation": {}})).await;
    assert_eq!(hello["capabilities"]["tools"], json!({"listChanged": true}));
    assert_eq!(hello["serverInfo"]["name"], "stateless");

    let mut call = Messages::of(client.tool(2, "ask", json!({}))).await;
    let question = call.expect("elicitation/create").await;
    let answer = json!({"action": "accept", "content": {"name": "Ada"}});
    client.respond(&question, answer.clone()).await;
    let told: Value = serde_json::from_str(&call.text().await).expect("the answer as JSON");
    assert_eq!(told, answer);
    let (mute, _) = Client::in_session(&instance, json!({})).await;
    let refused = meetings::answer(mute.tool(2, "ask", json!({}))).await;
    assert!(refused["error"]["code"].is_i64(), "{refused}");

    let params =
        json!({"name": "report", "arguments": {"times": 2}, "_meta": {"progressToken": "mine"}});
    let mut report = Messages::of(client.request(3, "tools/call", params)).await;
    for number in 0..2 {
        let progress = report.expect("notifications/progress").await;
        assert_eq!(
            progress["params"],
            json!({"progressToken": "mine", "progress": number})
        );
    }
    assert_eq!(report.text().await, "True");

    // One stream at the child stands for both sessions, and only the one that subscribed hears of the resource.
    meetings::until(&client, "listeners", "1").await;
    let mut heard = client.standing().await;
    let subscribe = client.request(4, "resources/subscribe", json!({"uri": "test://one"}));
    assert_eq!(meetings::answer(subscribe).await["result"], json!({}));
    meetings::until(&client, "listeners", "1").await;
    assert_eq!(
        meetings::text(client.tool(5, "news", json!({}))).await,
        "told"
    );
    heard.expect("notifications/tools/list_changed").await;
    let updated = heard.expect("notifications/resources/updated").await;
    assert_eq!(updated["params"], json!({"uri": "test://one"}));

    // A cancellation closes the stream at the child. One that comes before the child saw the call counts for nothing
    // there: then it is called and cancelled once more.
    let left = tokio::time::timeout(SOON, async {
        let mut id = 10;
        while meetings::text(client.tool(7, "left", json!({}))).await == "0" {
            let slow = tokio::spawn(client.tool(id, "slow", json!({})).send());
            let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
            while !slow.is_finished() {
                let sent = client.post(&cancel).send().await.expect("an answer");
                assert_eq!(sent.status(), StatusCode::ACCEPTED);
            }
            slow.await.expect("joined").expect("an answer");
            id += 1;
        }
    });
    left.await.expect("the child hears of it");
}

#[tokio::test]
async fn an_answer_over_the_limit_is_an_error_of_its_call_only() {
    let server = Server::start_with(Database::Sqlite, |config| {
        config.gateway.line_limit_bytes = 100_000;
    })
    .await;
    for template in ["http-session", "http-stateless"] {
        let instance = server.create(json!({"template": template})).await;
        let stateless = Stateless::new(&instance);
        let (session, _) = Client::in_session(&instance, json!({})).await;
        let arguments = json!({"bytes": 100_000});
        // The one of the two that is not relayed as it is.
        let (large, small) = if template == "http-session" {
            let large = stateless.tool("big", arguments).await.response;
            (
                large,
                stateless
                    .tool("echo", json!({"text": "x"}))
                    .await
                    .text()
                    .to_owned(),
            )
        } else {
            let large = meetings::answer(session.tool(2, "big", arguments)).await;
            (
                large,
                meetings::text(session.tool(3, "echo", json!({"text": "x"}))).await,
            )
        };
        let text = large["error"]["message"].as_str().unwrap_or_default();
        assert!(
            text.contains("limit of 100000 bytes"),
            "{template}: {large:.300}"
        );
        assert_eq!(small, "x");
    }
}

#[tokio::test]
async fn a_client_of_2024_reaches_servers_that_speak_http_themselves() {
    let server = Server::start(Database::Sqlite).await;
    for template in ["http-session", "http-stateless"] {
        let instance = server
            .create(json!({"template": template, "name": template}))
            .await;
        let base = text(&instance, "access_url").replace("/mcp", "");
        let token = text(&instance, "access_token");
        let mut old = Old::open(&base, "/sse", Some(token), "/messages?sessionId=").await;
        let hello = json!({"protocolVersion": "2024-11-05", "capabilities": {"elicitation": {}},
            "clientInfo": {"name": "it", "version": "1"}});
        let greeted = old.request(1, "initialize", hello).await;
        assert_eq!(greeted["result"]["protocolVersion"], "2024-11-05");
        let listed = old.request(2, "tools/list", json!({})).await;
        let tools = listed["result"]["tools"].as_array().expect("tools");
        assert!(
            tools.iter().any(|tool| tool["name"] == "report"),
            "{template}: {listed:#}"
        );
        let params =
            json!({"name": "report", "arguments": {"times": 2}, "_meta": {"progressToken": "p"}});
        old.send(&json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": params}))
            .await;
        for step in 0..2 {
            let told = old
                .message(|message| message["method"] == "notifications/progress")
                .await;
            assert_eq!(told["params"]["progressToken"], "p");
            assert_eq!(told["params"]["progress"], step);
        }
        let done = old.message(|message| message["id"] == 3).await;
        assert_eq!(done["result"]["content"][0]["text"], "True", "{done:#}");

        // The question of the server comes on the stream, and its answer reaches the call that asked.
        let params = json!({"name": "ask", "arguments": {"name": "x"}});
        old.send(&json!({"jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": params}))
            .await;
        let asked = old
            .message(|message| message["method"] == "elicitation/create")
            .await;
        let given = json!({"action": "accept", "content": {"name": "Ada"}});
        old.send(&json!({"jsonrpc": "2.0", "id": asked["id"], "result": given}))
            .await;
        let told = old.message(|message| message["id"] == 4).await;
        let told = told["result"]["content"][0]["text"].as_str().expect("text");
        assert_eq!(
            serde_json::from_str::<Value>(told).expect("JSON"),
            given,
            "{template}"
        );
    }
}
