//! The connection over real pipes, with a scripted child at the other end.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    Call, Caller, Envelope, Era, Failure, Handshake, Item, SessionKey, Upstream, UpstreamError,
    UpstreamOptions,
    scripted::{Child, connect},
};
use crate::domain::{exit::ExitStatus, id::Generation, template::UnclaimedRequests};

const SOON: Duration = Duration::from_secs(10);

fn caller(session: u64) -> Caller {
    Caller {
        sampling: true,
        ..Caller::plain(SessionKey(session))
    }
}

fn call(upstream: &Upstream, session: u64, message: &Value) -> Result<Call, UpstreamError> {
    let source = message.to_string();
    let envelope = Envelope::parse(source.as_bytes()).expect("a message");
    upstream.call(caller(session), source.as_bytes(), &envelope)
}

fn request(id: Value, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
}

async fn item(call: &mut Call) -> (bool, Value) {
    let item = timeout(SOON, call.next()).await.expect("in time");
    match item.expect("the call goes on") {
        Item::Message(message) => (false, serde_json::from_slice(&message).expect("JSON")),
        Item::Answer(answer) => (true, serde_json::from_slice(&answer).expect("JSON")),
    }
}

#[tokio::test]
async fn a_handshake_tells_the_server_and_all_pages_of_its_tools() {
    let (upstream, mut child, _noise) = connect(UpstreamOptions::default());
    let (shaken, ()) = tokio::join!(upstream.handshake(), child.shake_hands());
    let handshake = shaken.expect("a handshake");
    assert_eq!(handshake.server_name, "scripted");
    assert_eq!(handshake.protocol_version, "2025-06-18");
    assert_eq!(handshake.tools, ["a", "b"]);
    assert_eq!(upstream.handshake_snapshot().as_deref(), Some(&handshake));
    let (probed, ()) = tokio::join!(upstream.probe(SOON), async {
        let ping = child.expect("ping").await;
        child.answer(&ping, json!({})).await;
    });
    assert_eq!(probed, Ok(()));
}

#[tokio::test]
async fn a_stateless_server_is_asked_to_discover() {
    let (upstream, mut child, _noise) = connect(UpstreamOptions::default());
    let played = async {
        let asked = child.expect("initialize").await;
        child
            .say(json!({"jsonrpc": "2.0", "id": asked["id"],
                "error": {"code": -32022, "message": "unsupported"}}))
            .await;
        let asked = child.expect("server/discover").await;
        let meta = &asked["params"]["_meta"];
        assert_eq!(
            meta["io.modelcontextprotocol/protocolVersion"],
            super::MODERN
        );
        child
            .answer(
                &asked,
                json!({"supportedVersions": [super::MODERN], "capabilities": {}}),
            )
            .await;
    };
    let (shaken, ()) = tokio::join!(upstream.handshake(), played);
    assert_eq!(shaken.map(|handshake| handshake.era), Ok(Era::Modern));
}

#[tokio::test]
async fn equal_ids_of_two_sessions_get_their_own_answers() {
    let (upstream, mut child, _noise) = connect(UpstreamOptions::default());
    let mut one = call(&upstream, 1, &request(json!(1), json!({"n": "one"}))).expect("sent");
    let mut two = call(&upstream, 2, &request(json!(1), json!({"n": "two"}))).expect("sent");
    let first = child.next().await.expect("a request");
    let second = child.next().await.expect("a request");
    assert_ne!(first["id"], second["id"]);
    for request in [&second, &first] {
        let result = json!({"for": request["params"]["n"]});
        child.answer(request, result).await;
    }
    for (call, name) in [(&mut one, "one"), (&mut two, "two")] {
        let (last, answer) = item(call).await;
        assert!(last);
        assert_eq!(
            answer,
            json!({"jsonrpc": "2.0", "id": 1, "result": {"for": name}})
        );
    }
}

#[tokio::test]
async fn garbage_is_heard_and_does_not_disturb() {
    let (upstream, mut child, mut noise) = connect(UpstreamOptions::default());
    let mut waiting = call(&upstream, 1, &request(json!("x"), json!({}))).expect("sent");
    let asked = child.next().await.expect("a request");
    child
        .write(b"Welcome!\n{\"level\":\"info\",\"id\":1}\n\n\xff\xfe\n")
        .await;
    child
        .say(json!({"jsonrpc": "2.0", "id": 1, "result": "of a former daemon"}))
        .await;
    child.answer(&asked, json!(5)).await;
    assert_eq!(item(&mut waiting).await.1["result"], 5);
    for expected in [
        "Welcome!",
        "{\"level\":\"info\",\"id\":1}",
        "\u{fffd}\u{fffd}",
    ] {
        assert_eq!(noise.recv().await.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn progress_and_cancellation_are_translated() {
    let (upstream, mut child, _noise) = connect(UpstreamOptions::default());
    let params = json!({"_meta": {"progressToken": "mine"}});
    let mut waiting = call(&upstream, 1, &request(json!("x"), params)).expect("sent");
    let asked = child.next().await.expect("a request");
    let token = &asked["params"]["_meta"]["progressToken"];
    assert_ne!(token, "mine");
    child
        .say(json!({"jsonrpc": "2.0", "method": "notifications/progress",
            "params": {"progressToken": token, "progress": 1}}))
        .await;
    let (last, progress) = item(&mut waiting).await;
    assert!(!last);
    assert_eq!(
        progress["params"],
        json!({"progressToken": "mine", "progress": 1})
    );

    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
        "params": {"requestId": "x", "reason": "enough"}});
    let source = cancel.to_string();
    let envelope = Envelope::parse(source.as_bytes()).expect("a message");
    // Another session's call of the same id is not its business.
    let notify = |session| upstream.notify(SessionKey(session), source.as_bytes(), &envelope);
    assert_eq!(notify(2), Ok(()));
    assert_eq!(notify(1), Ok(()));
    let told = child.expect("notifications/cancelled").await;
    assert_eq!(
        told["params"],
        json!({"requestId": asked["id"], "reason": "enough"})
    );
    assert_eq!(timeout(SOON, waiting.next()).await, Ok(None));
}

#[tokio::test]
async fn a_death_answers_every_call_at_once_with_the_cause() {
    let (upstream, mut child, _noise) = connect(UpstreamOptions::default());
    let mut waiting = call(&upstream, 1, &request(json!(4), json!({}))).expect("sent");
    child.next().await.expect("a request");
    drop(child);
    let cause = timeout(SOON, upstream.broken()).await;
    assert_eq!(cause.as_deref(), Ok("it closed its stdout"));
    // In the moment before the supervisor knows, a call is taken and answered with the cause all the same.
    let mut late = call(&upstream, 1, &request(json!(5), json!({}))).expect("taken");
    upstream.fail_all(Failure {
        cause: "it exited with code 3".into(),
        status: Some(ExitStatus::Exited { code: 3 }),
        generation: Generation(2),
        last_stderr: vec!["ouch".into()],
    });
    for (call, id) in [(&mut waiting, 4), (&mut late, 5)] {
        let (last, answer) = item(call).await;
        assert!(last);
        assert_eq!(answer["id"], id);
        assert_eq!(
            answer["error"]["data"],
            json!({"cause": "it exited with code 3", "exit_code": 3, "generation": 2, "last_stderr": ["ouch"]})
        );
    }
    let refused = call(&upstream, 1, &request(json!(6), json!({}))).err();
    assert!(
        matches!(refused, Some(UpstreamError::Failed(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn what_the_pipe_does_not_hold_waits_and_arrives_whole() {
    let (upstream, mut child, _noise) = connect(UpstreamOptions::default());
    let big = "x".repeat(900_000);
    let mut calls = Vec::new();
    for n in 0..4 {
        calls.push(call(&upstream, 1, &request(json!(n), json!({"big": big}))).expect("sent"));
    }
    for (n, waiting) in calls.iter_mut().enumerate() {
        let asked = child.next().await.expect("a request");
        assert_eq!(
            asked["params"]["big"].as_str().map(str::len),
            Some(big.len())
        );
        child.answer(&asked, json!({"n": n, "big": big})).await;
        let (_, answer) = item(waiting).await;
        assert_eq!(answer["id"], n);
        assert_eq!(answer["result"]["n"], n);
    }
}

#[tokio::test]
async fn a_child_that_does_not_read_is_not_fed_for_ever() {
    let (upstream, _child, _noise) = connect(UpstreamOptions::default());
    let big = "x".repeat(1 << 20);
    let mut kept = Vec::new();
    let refused = (0..20).find_map(|n| {
        let params = json!({"big": big});
        match call(&upstream, 1, &request(json!(n), params)) {
            Ok(call) => {
                kept.push(call);
                None
            }
            Err(error) => Some(error),
        }
    });
    assert_eq!(
        refused,
        Some(UpstreamError::NotSent(super::NotSent::Backlogged))
    );
    assert_eq!(
        upstream.calls(),
        kept.len(),
        "the refused one is not under way"
    );
}

#[tokio::test]
async fn a_line_over_the_limit_is_an_error_of_its_call_only() {
    let options = UpstreamOptions {
        line_limit_bytes: 1_000,
        ..UpstreamOptions::default()
    };
    let (upstream, mut child, mut noise) = connect(options);
    let mut one = call(&upstream, 1, &request(json!(1), json!({}))).expect("sent");
    let mut two = call(&upstream, 1, &request(json!(2), json!({}))).expect("sent");
    let first = child.next().await.expect("a request");
    let second = child.next().await.expect("a request");
    child.answer(&first, json!("x".repeat(200_000))).await;
    child.answer(&second, json!("ok")).await;
    let text = item(&mut one).await.1["error"]["message"].to_string();
    assert!(text.contains("over the limit of 1000 bytes"), "{text}");
    assert_eq!(item(&mut two).await.1["result"], "ok");
    assert!(
        noise
            .recv()
            .await
            .is_some_and(|line| line.contains("dropped"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_call_times_out_and_is_cancelled_at_the_child() {
    let options = UpstreamOptions {
        call_timeout: Duration::from_secs(8),
        ..UpstreamOptions::default()
    };
    let (upstream, mut child, _noise) = connect(options);
    let mut waiting = call(&upstream, 1, &request(json!(1), json!({}))).expect("sent");
    let (answer, cancelled) = tokio::join!(waiting.next(), async {
        let asked = child.next().await.expect("a request");
        (
            asked["id"].clone(),
            child.expect("notifications/cancelled").await,
        )
    });
    let Some(Item::Answer(answer)) = answer else {
        panic!("{answer:?}");
    };
    assert!(String::from_utf8_lossy(&answer).contains("no sign of life for 8 s"));
    assert_eq!(cancelled.1["params"]["requestId"], cancelled.0);
    assert_eq!((upstream.overdue(), upstream.calls()), (1, 0));
}

#[tokio::test]
async fn the_end_of_a_session_cancels_its_calls_and_no_others() {
    let (upstream, mut child, _noise) = connect(UpstreamOptions::default());
    let mut gone = call(&upstream, 1, &request(json!(1), json!({}))).expect("sent");
    let cancelled = child.next().await.expect("a request")["id"].clone();
    let mut kept = call(&upstream, 2, &request(json!(1), json!({}))).expect("sent");
    let asked = child.next().await.expect("a request");
    upstream.forget_session(SessionKey(1));
    let told = child.expect("notifications/cancelled").await;
    assert_eq!(told["params"]["requestId"], cancelled);
    assert_eq!((gone.next().await, upstream.calls()), (None, 1));
    child.answer(&asked, json!({})).await;
    assert_eq!(item(&mut kept).await.1["id"], 1);
}

#[tokio::test]
async fn a_request_of_the_child_reaches_the_only_session_that_calls() {
    let (upstream, mut child, _noise) = connect(UpstreamOptions::default());
    let ask = |id: &str| json!({"jsonrpc": "2.0", "id": id, "method": "sampling/createMessage", "params": {"q": 1}});
    let refusal = async |child: &mut Child, id: &str| {
        child.say(ask(id)).await;
        let refusal = child.next().await.expect("a refusal");
        assert_eq!(refusal["id"], id);
        assert!(refusal["error"]["message"].is_string(), "{refusal}");
    };
    refusal(&mut child, "nobody calls").await;
    let mut waiting = call(&upstream, 1, &request(json!(1), json!({}))).expect("sent");
    child.next().await.expect("a request");
    child.say(ask("s")).await;
    let (_, asked) = item(&mut waiting).await;
    assert_eq!(asked["params"], json!({"q": 1}));
    let response = json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"a": 2}}).to_string();
    let envelope = Envelope::parse(response.as_bytes()).expect("a message");
    let respond = |session| upstream.respond(SessionKey(session), response.as_bytes(), &envelope);
    assert_eq!(respond(2), Ok(false), "another session cannot answer");
    assert_eq!(respond(1), Ok(true));
    let answered = child.next().await.expect("the response");
    assert_eq!(
        answered,
        json!({"jsonrpc": "2.0", "id": "s", "result": {"a": 2}})
    );

    let _other = call(&upstream, 2, &request(json!(1), json!({}))).expect("sent");
    child.next().await.expect("a request");
    refusal(&mut child, "two sessions call").await;
    child
        .say(json!({"jsonrpc": "2.0", "id": 9, "method": "ping"}))
        .await;
    assert_eq!(
        child.next().await,
        Some(json!({"jsonrpc": "2.0", "id": 9, "result": {}}))
    );
}

#[tokio::test]
async fn an_unclaimed_request_goes_to_the_newest_call_where_the_template_says_so() {
    let options = UpstreamOptions {
        unclaimed_requests: UnclaimedRequests::NewestCall,
        ..UpstreamOptions::default()
    };
    let (upstream, mut child, _noise) = connect(options);
    let _older = call(&upstream, 1, &request(json!(1), json!({}))).expect("sent");
    let mut newest = call(&upstream, 2, &request(json!(1), json!({}))).expect("sent");
    for _ in 0..2 {
        child.next().await.expect("a request");
    }
    let method = "sampling/createMessage";
    child
        .say(json!({"jsonrpc": "2.0", "id": "q", "method": method}))
        .await;
    let (_, asked) = item(&mut newest).await;
    assert_eq!(asked["method"], method);
    // Neither of them can tell its roots.
    child
        .say(json!({"jsonrpc": "2.0", "id": "r", "method": "roots/list"}))
        .await;
    let refused = child.next().await.expect("a refusal");
    assert_eq!(
        (&refused["id"], refused["error"]["code"].as_i64()),
        (&json!("r"), Some(-32_603))
    );
}

#[tokio::test]
async fn dropping_the_connection_closes_the_pipes() {
    let (upstream, mut child, _noise) = connect(UpstreamOptions::default());
    upstream.adopt(
        Handshake::read(Era::Legacy, r#"{"protocolVersion":"x","capabilities":{}}"#).expect("ok"),
    );
    let watch: Arc<Upstream> = upstream;
    drop(watch);
    assert_eq!(timeout(SOON, child.next()).await, Ok(None));
}
