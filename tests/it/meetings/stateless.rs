//! Stateless clients at a stateless server, and both kinds at once.

use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Client, META, Messages, SOON, answer, everything, no_fault, start, text, until};
use crate::{fixtures, mcp, source};

#[tokio::test]
async fn news_of_a_stateless_server_reach_those_who_asked() {
    let (server, instance) = start("stateless").await;
    let (one, _) = Client::in_session(&instance, json!({})).await;
    let (two, _) = Client::in_session(&instance, json!({})).await;
    let (mut first, mut second) = (one.standing().await, two.standing().await);
    let subscribe = |client: &Client, id: u32, uri: &str| {
        client.request(id, "resources/subscribe", json!({"uri": uri}))
    };
    assert_eq!(
        answer(subscribe(&one, 2, "test://one")).await["result"],
        json!({})
    );
    assert_eq!(
        answer(subscribe(&two, 2, "test://two")).await["result"],
        json!({})
    );
    let refused = answer(subscribe(&one, 3, "test://none")).await;
    assert_eq!(refused["error"]["code"], -32_602, "{refused}");

    let listener = Client::stateless(&instance, json!({}));
    let wish = json!({"notifications": {"toolsListChanged": true, "promptsListChanged": true,
        "resourceSubscriptions": ["test://two", "test://none"]}});
    let mut third = Messages::of(listener.request(7, "subscriptions/listen", wish)).await;
    let acknowledged = third
        .expect("notifications/subscriptions/acknowledged")
        .await;
    assert_eq!(
        acknowledged["params"]["notifications"],
        json!({"toolsListChanged": true, "resourceSubscriptions": ["test://two"]})
    );
    // One subscription at the server stands for all.
    until_it_tells(&one, &json!(["test://one", "test://two"])).await;

    for (uri, id) in [("test://two", 5), ("test://one", 6)] {
        text(one.tool(id, "touch", json!({"uri": uri}))).await;
    }
    text(listener.tool(8, "grow", json!({}))).await;
    let updated = "notifications/resources/updated";
    let bare = |uri: &str| json!({"jsonrpc": "2.0", "method": updated, "params": {"uri": uri}});
    assert_eq!(first.next().await, Some(bare("test://one")));
    first.expect("notifications/tools/list_changed").await;
    assert_eq!(second.next().await, Some(bare("test://two")));
    second.expect("notifications/tools/list_changed").await;
    let tagged = third.expect(updated).await;
    let mark = &tagged["params"]["_meta"][format!("{META}subscriptionId")];
    assert_eq!(
        (&tagged["params"]["uri"], mark),
        (&json!("test://two"), &json!(7))
    );
    third.expect("notifications/tools/list_changed").await;

    // What nobody wants any more is not asked of the server any more.
    drop(third);
    let ended = one.request(9, "resources/unsubscribe", json!({"uri": "test://one"}));
    assert_eq!(answer(ended).await["result"], json!({}));
    until_it_tells(&one, &json!(["test://two"])).await;

    // What only the server knows is a subscription of its own.
    let wish = json!({"notifications": {"exampleEvents": ["x"]}});
    let mut strange = Messages::of(listener.request(11, "subscriptions/listen", wish)).await;
    for method in [
        "notifications/subscriptions/acknowledged",
        "notifications/example/event",
    ] {
        let message = strange.expect(method).await;
        assert_eq!(
            message["params"]["_meta"][format!("{META}subscriptionId")],
            11
        );
    }
    no_fault(&server, &instance).await;
}

/// Waits until the server has one subscription, with these resources: the old one ends after the new one began.
async fn until_it_tells(client: &Client, uris: &Value) {
    let narrowed = timeout(SOON, async {
        loop {
            let open = text(client.tool(80, "listens", json!({}))).await;
            let open: Value = serde_json::from_str(&open).expect("JSON");
            if open.as_array().map(Vec::len) == Some(1) && open[0]["resourceSubscriptions"] == *uris
            {
                return;
            }
        }
    });
    narrowed.await.expect("the union follows the clients");
}

#[tokio::test]
async fn a_stateless_client_and_a_stateless_server_see_each_other_as_they_are() {
    let (server, instance) = start("stateless").await;
    let client = Client::stateless(&instance, everything());
    let found = answer(client.request(1, "server/discover", json!({}))).await;
    assert_eq!(found["result"]["ttlMs"], 60_000, "{found}");
    let list = answer(client.request(2, "tools/list", json!({}))).await;
    assert_eq!(list["result"]["cacheScope"], "public", "{list}");
    let params = json!({"name": "meta", "_meta": {"traceparent": "00-1", format!("{META}clientInfo"): {"name": "me"}}});
    let meta = text(client.request(3, "tools/call", params)).await;
    let meta: Value = serde_json::from_str(&meta).expect("JSON");
    assert_eq!(meta["traceparent"], "00-1");
    assert_eq!(meta[format!("{META}clientInfo")]["name"], "me");

    let asked = answer(client.tool(4, "introduce", json!({}))).await;
    let asked = &asked["result"];
    assert_eq!(asked["resultType"], "input_required", "{asked}");
    assert_eq!(
        asked["inputRequests"]["name"]["method"],
        "elicitation/create"
    );
    let responses = json!({"name": {"action": "accept", "content": {"name": "Ada"}}});
    let retry = |id, state: &Value| {
        let params = json!({"name": "introduce", "arguments": {}, "inputResponses": responses, "requestState": state});
        client.request(id, "tools/call", params)
    };
    let again = answer(retry(5, &asked["requestState"])).await;
    assert_eq!(again["result"]["resultType"], "input_required", "{again}");
    let forged = answer(retry(6, &json!("forged"))).await;
    assert_eq!(forged["error"]["code"], -32_602, "{forged}");

    let params = json!({"name": "log", "_meta": {format!("{META}logLevel"): "alert"}});
    let mut logged = Messages::of(client.request(7, "tools/call", params)).await;
    logged.expect("notifications/message").await;
    assert_eq!(logged.text().await, "alert");

    // Closing the stream cancels.
    let sleeping = tokio::spawn(
        client
            .tool(8, "sleep", json!({"ms": 60_000, "name": "closed"}))
            .send(),
    );
    until(&client, "sleeping", r#"["closed"]"#).await;
    sleeping.abort();
    until(&client, "cancelled", r#"["closed"]"#).await;
    no_fault(&server, &instance).await;
}

#[tokio::test]
async fn sessions_and_streams_outlive_a_stateless_server() {
    let (server, instance) = start("stateless").await;
    let id = instance["id"].as_str().expect("an id");
    let (client, _) = Client::in_session(&instance, everything()).await;
    let mut news = client.standing().await;
    let subscribe = client.request(2, "resources/subscribe", json!({"uri": "test://one"}));
    assert_eq!(answer(subscribe).await["result"], json!({}));
    let level = client.request(3, "logging/setLevel", json!({"level": "alert"}));
    assert_eq!(answer(level).await["result"], json!({}));
    let listener = Client::stateless(&instance, json!({}));
    let wish = json!({"notifications": {"resourceSubscriptions": ["test://one"]}});
    let mut stream = Messages::of(listener.request(7, "subscriptions/listen", wish)).await;
    stream
        .expect("notifications/subscriptions/acknowledged")
        .await;

    // A call in flight, and one between two rounds, end at once with the cause and the last words.
    let mut asked = Messages::of(client.tool(4, "introduce", json!({}))).await;
    asked.expect("elicitation/create").await;
    let dead = answer(client.tool(5, "exit", json!({"code": 13}))).await;
    for error in [&dead, &asked.answer().await] {
        let data = &error["error"]["data"];
        assert_eq!(data["exit_code"], 13, "{error}");
        assert_eq!(data["last_stderr"], json!(["about to exit"]), "{error}");
    }
    // A request during the restart waits for the next launch; the session goes on.
    assert_eq!(text(client.tool(6, "log", json!({}))).await, "alert");
    let again = server.wait_status(id, &["running"], SOON).await;
    assert_eq!(again["generation"], 2, "{again:#}");
    let touched = timeout(SOON, async {
        loop {
            let open = text(client.tool(7, "listens", json!({}))).await;
            if open.contains("test://one") {
                return text(client.tool(8, "touch", json!({"uri": "test://one"}))).await;
            }
        }
    });
    touched.await.expect("the subscription is renewed");
    let updated = "notifications/resources/updated";
    assert_eq!(news.expect(updated).await["params"]["uri"], "test://one");
    assert_eq!(stream.expect(updated).await["params"]["uri"], "test://one");
}

#[tokio::test]
async fn a_server_of_the_sdk_serves_both_clients_in_the_stateless_era() {
    if fixtures::deps().is_none() {
        return;
    }
    let (_server, instance) = start("time-stateless").await;
    let (client, hello) = Client::in_session(&instance, json!({})).await;
    assert!(hello["serverInfo"]["name"].is_string(), "{hello}");
    let arguments = json!({"timezone": "UTC"});
    let time = answer(client.tool(2, "get_current_time", arguments.clone())).await;
    let result = &time["result"];
    assert!(
        result["content"][0]["text"].to_string().contains("UTC"),
        "{time}"
    );
    assert_eq!(result.get("resultType"), None, "{time}");
    for name in mcp::SDKS {
        let report = mcp::sdk(name, &instance, "get_current_time", &arguments).await;
        let report = report.expect("the SDKs are there");
        assert!(
            report["result"].to_string().contains("UTC"),
            "{name}: {report}"
        );
    }
}

#[tokio::test]
async fn a_client_of_the_sdk_is_asked_by_a_stateless_server_in_both_eras() {
    let Some(deps) = fixtures::deps() else { return };
    let (server, instance) = start("stateless").await;
    let url = instance["connect_url"].as_str().expect("just made");
    for mode in ["auto", "legacy"] {
        let mut command = tokio::process::Command::new(deps.join("python-sdk2/bin/python"));
        command
            .arg(source::root().join("tests/clients/python/asks_sdk2.py"))
            .args([url, mode, "introduce", "think"])
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true);
        let done = timeout(SOON * 3, command.output()).await.expect("in time");
        let done = done.expect("the client starts");
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{mode}: {errors}");
        let texts: Value = serde_json::from_slice(&done.stdout).expect("a list of texts");
        assert_eq!(texts, json!(["Ada likes Ada", "thought"]), "{mode}");
    }
    no_fault(&server, &instance).await;
}

#[tokio::test]
async fn headers_repeat_the_parameters_that_a_tool_marks() {
    let (server, instance) = start("stateless").await;
    let client = Client::stateless(&instance, json!({}));
    let arguments = json!({"region": "é", "where": {"zone": 7}});
    let call = |id: u32| client.tool(id, "region", arguments.clone());
    let encoded = ("Mcp-Param-Region", "=?base64?w6k=?=");
    let good = call(1)
        .header(encoded.0, encoded.1)
        .header("mcp-param-ZONE", "7.0");
    let good = good.header("Mcp-Param-Other", "ignored");
    assert!(text(good).await.contains("zone"));
    for bad in [
        call(2),
        call(3).header(encoded.0, encoded.1),
        call(4)
            .header(encoded.0, encoded.1)
            .header("Mcp-Param-Zone", "8"),
        call(5).header(encoded.0, "e").header("Mcp-Param-Zone", "7"),
        client.tool(6, "region", json!({})).header(encoded.0, "x"),
    ] {
        let refused = bad.send().await.expect("an answer");
        assert_eq!(refused.status(), 400);
        let refused: Value = refused.json().await.expect("JSON");
        assert_eq!(refused["error"]["code"], -32_020, "{refused}");
    }
    assert_eq!(
        text(client.tool(7, "region", json!({"region": null}))).await,
        r#"{"region": null}"#
    );
    no_fault(&server, &instance).await;
}
