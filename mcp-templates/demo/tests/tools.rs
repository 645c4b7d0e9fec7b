//! The demo server as a client sees it.

use serde_json::json;

#[path = "../../rest/tests/support/session.rs"]
mod session;
use session::Session;

#[tokio::test]
async fn every_tool_is_described() {
    let mut session = Session::start(minimcp_demo::Demo::new()).await;
    let tools = session.tools().await;
    let names: Vec<&str> = tools.keys().map(String::as_str).collect();
    assert_eq!(names, ["crash", "echo", "log", "memory", "sleep", "time"]);
    assert_eq!(tools["crash"]["annotations"]["destructiveHint"], true);
}

#[tokio::test]
async fn echo_and_time_answer() {
    let mut session = Session::start(minimcp_demo::Demo::new()).await;
    let (is_error, text, _) = session.call("echo", json!({"text": "grüße\n\0"})).await;
    assert_eq!((is_error, text.as_str()), (false, "grüße\n\0"));
    let now = session.good("time", json!({})).await;
    let utc = now["utc"].as_str().expect("text");
    assert_eq!((utc.len(), utc.ends_with('Z')), (24, true), "{utc}");
}

#[tokio::test]
async fn arguments_are_bounded() {
    let mut session = Session::start(minimcp_demo::Demo::new()).await;
    for (tool, arguments) in [
        ("echo", json!({"text": "x".repeat(65_537)})),
        ("echo", json!({})),
        ("echo", json!({"text": "x", "more": 1})),
        ("log", json!({"lines": 0})),
        ("log", json!({"lines": 100_001})),
        ("sleep", json!({"seconds": -1})),
        ("sleep", json!({"seconds": 1e9})),
        ("sleep", json!({"seconds": 1, "steps": 0})),
        ("crash", json!({"code": 256})),
        ("memory", json!({"mebibytes": 257})),
    ] {
        session.bad(tool, arguments).await;
    }
}

#[tokio::test]
async fn memory_is_held_until_the_next_call() {
    let mut session = Session::start(minimcp_demo::Demo::new()).await;
    let held = session
        .good("memory", json!({"mebibytes": 2, "hold": true}))
        .await;
    assert_eq!(held, json!({"filled_mebibytes": 2, "held_mebibytes": 2}));
    let freed = session.good("memory", json!({"mebibytes": 1})).await;
    assert_eq!(freed, json!({"filled_mebibytes": 1, "held_mebibytes": 0}));
}

#[tokio::test(start_paused = true)]
async fn sleep_tells_its_progress() {
    let mut session = Session::start(minimcp_demo::Demo::new()).await;
    let params = json!({
        "name": "sleep",
        "arguments": {"seconds": 60, "steps": 4},
        "_meta": {"progressToken": "p"},
    });
    let answer = session.request("tools/call", params).await;
    assert_eq!(answer["result"]["isError"], false, "{answer}");
    let steps: Vec<f64> = session
        .notifications
        .iter()
        .filter(|message| message["params"]["progressToken"] == "p")
        .filter_map(|message| message["params"]["progress"].as_f64())
        .collect();
    assert_eq!(steps, [1.0, 2.0, 3.0, 4.0]);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_sleep_frees_the_server() {
    let mut session = Session::start(minimcp_demo::Demo::new()).await;
    let params = json!({"name": "sleep", "arguments": {"seconds": 3600, "steps": 1}});
    let id = session.begin("tools/call", params).await;
    session
        .notify("notifications/cancelled", json!({"requestId": id}))
        .await;
    let (_, text, _) = session.call("echo", json!({"text": "still here"})).await;
    assert_eq!(text, "still here");
    // Had it slept on, its answer would be due by now.
    tokio::time::sleep(std::time::Duration::from_secs(3_601)).await;
    session.call("echo", json!({"text": "x"})).await;
    let late = session
        .notifications
        .iter()
        .any(|m| m["result"]["content"][0]["text"] == "slept 3600 s");
    assert!(!late, "{:?}", session.notifications);
}

#[tokio::test]
async fn the_readme_is_a_resource() {
    let mut session = Session::start(minimcp_demo::Demo::new()).await;
    let list = session.request("resources/list", json!({})).await;
    let uri = list["result"]["resources"][0]["uri"].clone();
    let read = session.request("resources/read", json!({"uri": uri})).await;
    assert!(
        read["result"]["contents"][0]["text"]
            .as_str()
            .is_some_and(|t| t.contains("demo server")),
        "{read}"
    );
    let missing = session
        .request("resources/read", json!({"uri": "demo://other"}))
        .await;
    assert!(missing["error"].is_object(), "{missing}");
}
