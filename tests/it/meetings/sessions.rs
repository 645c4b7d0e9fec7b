//! Clients of the session era at a stateless server.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Client, META, Messages, answer, everything, no_fault, start, text, until};

#[tokio::test]
async fn a_session_is_served_by_a_stateless_server() {
    let (server, instance) = start("stateless").await;
    let (client, hello) = Client::in_session(&instance, everything()).await;
    assert_eq!(hello["protocolVersion"], "2025-11-25");
    assert_eq!(hello["serverInfo"]["name"], "stateless-fixture");
    assert_eq!(hello["instructions"], "Be strict.");
    assert_eq!(hello["capabilities"]["tools"], json!({"listChanged": true}));
    assert_eq!(hello.get("ttlMs"), None, "{hello}");

    let list = answer(client.request(2, "tools/list", json!({}))).await;
    let result = list["result"].as_object().expect("a result");
    assert_eq!(result.keys().collect::<Vec<_>>(), ["tools"], "{list}");
    let raw = client.tool(3, "echo", json!({"text": "é"})).send().await;
    let raw = raw.expect("an answer").text().await.expect("a body");
    let digits = "1000000000000000000000000000000";
    assert!(
        raw.contains(&format!(r#""x-vendor":{{"n": {digits}}}"#)),
        "{raw}"
    );

    let meta: Value =
        serde_json::from_str(&text(client.tool(4, "meta", json!({}))).await).expect("JSON");
    assert_eq!(meta[format!("{META}clientInfo")]["name"], "meetings");
    assert_eq!(meta[format!("{META}clientCapabilities")], everything());

    assert_eq!(
        answer(client.request(6, "ping", json!({}))).await["result"],
        json!({})
    );
    let missing = answer(client.request(7, "resources/read", json!({"uri": "test://no"}))).await;
    assert_eq!(missing["error"]["code"], -32_002, "{missing}");
    let unknown = answer(client.request(8, "example/unknown", json!({"a": [1]}))).await;
    assert_eq!(unknown["result"]["params"]["a"], json!([1]), "{unknown}");
    let nothing = answer(client.request(9, "example/nothing", json!({}))).await;
    assert_eq!(nothing["error"]["code"], -32_601, "{nothing}");

    // Log messages come at the level that the session asked for, and not before.
    assert_eq!(text(client.tool(10, "log", json!({}))).await, "None");
    let set = answer(client.request(11, "logging/setLevel", json!({"level": "error"}))).await;
    assert_eq!(set["result"], json!({}), "{set}");
    let mut logged = Messages::of(client.tool(12, "log", json!({}))).await;
    for level in ["error", "critical", "alert", "emergency"] {
        let message = logged.expect("notifications/message").await;
        assert_eq!(message["params"]["level"], level);
    }
    assert_eq!(logged.text().await, "error");
    let wrong = answer(client.request(13, "logging/setLevel", json!({"level": "loud"}))).await;
    assert_eq!(wrong["error"]["code"], -32_602, "{wrong}");

    let params =
        json!({"name": "count", "arguments": {"to": 2}, "_meta": {"progressToken": "mine"}});
    let mut counted = Messages::of(client.request(14, "tools/call", params)).await;
    for number in [1, 2] {
        let progress = counted.expect("notifications/progress").await;
        assert_eq!(
            progress["params"],
            json!({"progressToken": "mine", "progress": number})
        );
    }
    assert_eq!(counted.text().await, "counted");
    no_fault(&server, &instance).await;
}

#[tokio::test]
async fn questions_of_a_stateless_server_reach_the_session_that_calls() {
    let (server, instance) = start("stateless").await;
    let (client, _) = Client::in_session(&instance, everything()).await;
    let (other, _) = Client::in_session(&instance, everything()).await;
    let busy = tokio::spawn(other.tool(1, "sleep", json!({"ms": 300})).send());

    let mut call = Messages::of(client.tool(2, "introduce", json!({}))).await;
    let name = call.expect("elicitation/create").await;
    assert_eq!(name["params"]["message"], "What is your name?");
    client
        .respond(
            &name,
            json!({"action": "accept", "content": {"name": "Ada"}}),
        )
        .await;
    let colour = call.expect("elicitation/create").await;
    client
        .respond(
            &colour,
            json!({"action": "accept", "content": {"colour": "red"}}),
        )
        .await;
    assert_eq!(call.text().await, "Ada likes red");

    let mut call = Messages::of(client.tool(3, "introduce", json!({}))).await;
    let name = call.expect("elicitation/create").await;
    client.respond(&name, json!({"action": "decline"})).await;
    assert_eq!(call.text().await, "decline: no name");

    let mut call = Messages::of(client.tool(4, "gather", json!({}))).await;
    for _ in 0..3 {
        let question = call.next().await.expect("a question");
        let result = json!({"to": question["method"], "action": "accept"});
        client.respond(&question, result).await;
    }
    let gathered: Value = serde_json::from_str(&call.text().await).expect("JSON");
    assert_eq!(gathered["sample"]["to"], "sampling/createMessage");
    assert_eq!(gathered["roots"]["to"], "roots/list");

    let mut call = Messages::of(client.request(5, "prompts/get", json!({"name": "greet"}))).await;
    let whom = call.expect("elicitation/create").await;
    client
        .respond(
            &whom,
            json!({"action": "accept", "content": {"who": "Bob"}}),
        )
        .await;
    let prompt = call.answer().await;
    assert_eq!(
        prompt["result"]["messages"][0]["content"]["text"],
        "Hello, Bob"
    );

    assert_eq!(text(client.tool(6, "think", json!({}))).await, "thought");
    let mut call = Messages::of(client.tool(7, "endless", json!({}))).await;
    for _ in 0..16 {
        let again = call.expect("elicitation/create").await;
        client
            .respond(&again, json!({"action": "accept", "content": {}}))
            .await;
    }
    let error = call.answer().await;
    assert!(
        error["error"]["message"].to_string().contains("16 times"),
        "{error}"
    );

    // Without the capability, and without a stream, the server is told and says what it lacks.
    let (mute, _) = Client::in_session(&instance, json!({"sampling": {}})).await;
    let error = answer(mute.tool(1, "gather", json!({}))).await;
    assert_eq!(error["error"]["code"], -32_021, "{error}");
    let lacking = &error["error"]["data"]["requiredCapabilities"];
    assert_eq!(*lacking, json!({"elicitation": {}, "roots": {}}));
    let mut unstreamed = client
        .tool(8, "introduce", json!({}))
        .build()
        .expect("a request");
    let accept = "application/json".parse().expect("a header");
    unstreamed.headers_mut().insert("accept", accept);
    let error = client.execute(unstreamed).await;
    let error: Value = error.json().await.expect("JSON");
    assert_eq!(error["error"]["code"], -32_021, "{error}");
    busy.await.expect("joined").expect("an answer");
    no_fault(&server, &instance).await;
}

#[tokio::test]
async fn a_session_cancels_at_a_stateless_server() {
    let (server, instance) = start("stateless").await;
    let (client, _) = Client::in_session(&instance, everything()).await;
    let cancel = |id: u32| {
        let params = json!({"requestId": id});
        let body = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
        client.post(&body).send()
    };
    let arguments = json!({"ms": 60_000, "name": "mine"});
    let params = json!({"name": "sleep", "arguments": arguments});
    let sleeping = tokio::spawn(client.request(2, "tools/call", params).send());
    until(&client, "sleeping", r#"["mine"]"#).await;
    assert_eq!(
        cancel(2).await.expect("an answer").status(),
        StatusCode::ACCEPTED
    );
    let ended = sleeping.await.expect("joined").expect("an answer");
    assert_eq!(
        ended.text().await.expect("a body"),
        "",
        "a cancelled call has no answer"
    );

    let mut call = Messages::of(client.tool(4, "introduce", json!({}))).await;
    let name = call.expect("elicitation/create").await;
    cancel(4).await.expect("an answer");
    assert_eq!(call.next().await, None);
    client
        .respond(
            &name,
            json!({"action": "accept", "content": {"name": "late"}}),
        )
        .await;
    until(&client, "cancelled", r#"["mine"]"#).await;
    no_fault(&server, &instance).await;
}

#[tokio::test]
async fn a_session_resumes_a_call_that_is_asked() {
    let (server, instance) = start("stateless").await;
    let (client, _) = Client::in_session(&instance, everything()).await;
    let mut call = Messages::of(client.tool(2, "introduce", json!({}))).await;
    let name = call.expect("elicitation/create").await;
    let last_id = call.last_id.clone().expect("events have ids");
    drop(call);
    // The answer needs no stream; what follows waits for the client to come back.
    let accept = |content: Value| json!({"action": "accept", "content": content});
    client.respond(&name, accept(json!({"name": "Ada"}))).await;
    let mut call = client.resumed(&last_id).await;
    let colour = call.expect("elicitation/create").await;
    client
        .respond(&colour, accept(json!({"colour": "red"})))
        .await;
    assert_eq!(call.text().await, "Ada likes red");
    no_fault(&server, &instance).await;
}

#[tokio::test]
async fn what_a_gateway_does_not_know_passes() {
    let (server, instance) = start("stateless").await;
    let (session, _) = Client::in_session(&instance, json!({})).await;
    let mut news = session.standing().await;
    let said = |n: u32| json!({"jsonrpc": "2.0", "method": "example/said", "params": {"n": n}});
    let sent = session.post(&said(1)).send().await.expect("an answer");
    assert_eq!(sent.status(), StatusCode::ACCEPTED);
    let stateless = Client::stateless(&instance, json!({}));
    let mut body = said(2);
    body["params"]["_meta"] = json!({format!("{META}protocolVersion"): "2026-07-28"});
    let sent = stateless
        .post(&body)
        .header("MCP-Protocol-Version", "2026-07-28")
        .header("Mcp-Method", "example/said");
    let sent = sent.send().await.expect("an answer");
    assert_eq!(sent.status(), StatusCode::ACCEPTED);
    for n in [1, 2] {
        let echo = news.expect("notifications/example/echo").await;
        assert_eq!(echo["params"]["params"]["n"], n, "{echo}");
    }
    no_fault(&server, &instance).await;
}
