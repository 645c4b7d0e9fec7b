//! Calls of session-era clients at a scripted stateless child.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    Call, Caller, Declared, Envelope, Era, Failure, Item, RawObject, SessionKey, Upstream,
    UpstreamOptions,
    rounds::ROUNDS_MAX,
    scripted::{Child, connect},
};
use crate::domain::{id::Generation, template::EraPolicy};

const SOON: Duration = Duration::from_secs(10);

async fn stateless(options: UpstreamOptions) -> (Arc<Upstream>, Child) {
    let (upstream, mut child, _noise) = connect(options);
    let (shaken, ()) = tokio::join!(upstream.handshake(), child.shake_hands_stateless(&[]));
    assert_eq!(shaken.map(|handshake| handshake.era), Ok(Era::Modern));
    (upstream, child)
}

fn call(upstream: &Upstream, id: u32, name: &str) -> Call {
    let hello = r#"{"capabilities":{"elicitation":{},"sampling":{}}}"#;
    let caller = Caller {
        elicitation: true,
        sampling: true,
        declared: Some(Declared::read(&RawObject::parse(hello).expect("an object"))),
        ..Caller::plain(SessionKey(1))
    };
    let params = json!({"name": name, "_meta": {"progressToken": "p"}});
    let message = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
    let source = message.to_string();
    let envelope = Envelope::parse(source.as_bytes()).expect("a message");
    let call = upstream.call(caller, source.as_bytes(), &envelope);
    call.expect("it is taken")
}

async fn item(call: &mut Call) -> (bool, Value) {
    let item = timeout(SOON, call.next()).await.expect("in time");
    match item.expect("the call goes on") {
        Item::Message(message) => (false, serde_json::from_slice(&message).expect("JSON")),
        Item::Answer(answer) => (true, serde_json::from_slice(&answer).expect("JSON")),
    }
}

fn respond(upstream: &Upstream, session: u64, message: &Value) -> bool {
    let source = message.to_string();
    let envelope = Envelope::parse(source.as_bytes()).expect("a message");
    let taken = upstream.respond(SessionKey(session), source.as_bytes(), &envelope);
    taken.expect("the child reads")
}

fn result(question: &Value, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": question["id"], "result": result})
}

/// An input-required result with these questions.
fn asks(state: &str, questions: &[(&str, &str)]) -> Value {
    let requests: serde_json::Map<String, Value> = questions
        .iter()
        .map(|(key, method)| {
            let request = json!({"method": method, "params": {"of": key}});
            ((*key).to_owned(), request)
        })
        .collect();
    json!({"resultType": "input_required", "inputRequests": requests, "requestState": state})
}

#[tokio::test]
async fn what_the_server_needs_is_asked_and_the_call_made_again() {
    let (upstream, mut child) = stateless(UpstreamOptions::default()).await;
    let mut waiting = call(&upstream, 1, "t");
    let first = child.expect("tools/call").await;
    let both = [
        ("who", "elicitation/create"),
        ("what", "sampling/createMessage"),
    ];
    child.answer(&first, asks("s1", &both)).await;
    let (_, one) = item(&mut waiting).await;
    let (_, two) = item(&mut waiting).await;
    let mut methods = [&one, &two].map(|question| question["method"].to_string());
    methods.sort();
    assert_eq!(
        methods,
        [r#""elicitation/create""#, r#""sampling/createMessage""#]
    );
    assert!(
        !respond(&upstream, 2, &result(&one, json!({}))),
        "another session"
    );
    for question in [&one, &two] {
        let answer = result(question, json!({"for": question["params"]["of"]}));
        assert!(respond(&upstream, 1, &answer));
        assert!(!respond(&upstream, 1, &answer), "once only");
    }
    let again = child.expect("tools/call").await;
    assert_ne!(again["id"], first["id"]);
    let params = &again["params"];
    assert_eq!(params["requestState"], "s1");
    assert_eq!(
        params["inputResponses"],
        json!({"who": {"for": "who"}, "what": {"for": "what"}})
    );
    assert_eq!(params["_meta"]["progressToken"], again["id"]);
    let capabilities = &params["_meta"]["io.modelcontextprotocol/clientCapabilities"];
    assert_eq!(*capabilities, json!({"elicitation": {}, "sampling": {}}));
    child
        .say(json!({"jsonrpc": "2.0", "method": "notifications/progress",
            "params": {"progressToken": again["id"], "progress": 1}}))
        .await;
    assert_eq!(item(&mut waiting).await.1["params"]["progressToken"], "p");
    child
        .answer(&again, json!({"resultType": "complete", "content": []}))
        .await;
    let (last, answer) = item(&mut waiting).await;
    assert!(last);
    assert_eq!(
        answer,
        json!({"jsonrpc": "2.0", "id": 1, "result": {"content": []}})
    );
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test]
async fn a_state_without_questions_is_sent_back_at_once_but_not_for_ever() {
    let (upstream, mut child) = stateless(UpstreamOptions::default()).await;
    let mut waiting = call(&upstream, 1, "t");
    for round in 0..=ROUNDS_MAX {
        let asked = child.expect("tools/call").await;
        let before = round.checked_sub(1).map(|before| format!("s{before}"));
        assert_eq!(asked["params"]["requestState"], json!(before));
        child.answer(&asked, asks(&format!("s{round}"), &[])).await;
    }
    let (last, answer) = item(&mut waiting).await;
    assert!(last);
    let text = answer["error"]["message"].to_string();
    assert!(text.contains("16 times"), "{text}");
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test]
async fn a_question_that_no_client_can_answer_ends_the_call() {
    let (upstream, mut child) = stateless(UpstreamOptions::default()).await;
    for (method, code) in [("roots/list", -32_021), ("tools/list", -32_603)] {
        let mut waiting = call(&upstream, 1, "t");
        let asked = child.expect("tools/call").await;
        child.answer(&asked, asks("s", &[("q", method)])).await;
        let (last, answer) = item(&mut waiting).await;
        assert!(last);
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
}

/// A call whose client is asked one question.
async fn between_rounds(upstream: &Upstream, child: &mut Child) -> (Call, Value) {
    let mut waiting = call(upstream, 1, "t");
    let asked = child.expect("tools/call").await;
    child
        .answer(&asked, asks("s", &[("who", "elicitation/create")]))
        .await;
    let (_, question) = item(&mut waiting).await;
    (waiting, question)
}

#[tokio::test]
async fn an_error_of_the_client_is_the_answer() {
    let (upstream, mut child) = stateless(UpstreamOptions::default()).await;
    let (mut waiting, question) = between_rounds(&upstream, &mut child).await;
    let error = json!({"code": -1, "message": "User rejected", "data": 1});
    let refusal = json!({"jsonrpc": "2.0", "id": question["id"], "error": error});
    assert!(respond(&upstream, 1, &refusal));
    let (last, answer) = item(&mut waiting).await;
    assert!(last);
    assert_eq!(answer, json!({"jsonrpc": "2.0", "id": 1, "error": error}));
}

#[tokio::test]
async fn a_cancelled_call_asks_no_more_and_the_child_hears_nothing() {
    let (upstream, mut child) = stateless(UpstreamOptions::default()).await;
    let (mut waiting, question) = between_rounds(&upstream, &mut child).await;
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    let envelope = Envelope::parse(cancel.as_bytes()).expect("a message");
    let told = upstream.notify(SessionKey(1), cancel.as_bytes(), &envelope);
    told.expect("the child reads");
    assert_eq!(timeout(SOON, waiting.next()).await, Ok(None));
    assert!(!respond(&upstream, 1, &result(&question, json!({}))));
    // In a round the child is told, under the id that it knows.
    let _waiting = call(&upstream, 1, "t");
    let asked = child.expect("tools/call").await;
    let told = upstream.notify(SessionKey(1), cancel.as_bytes(), &envelope);
    told.expect("the child reads");
    let cancelled = child.expect("notifications/cancelled").await;
    assert_eq!(cancelled["params"]["requestId"], asked["id"]);
}

#[tokio::test]
async fn a_call_between_rounds_ends_with_its_session_and_with_the_child() {
    let (upstream, mut child) = stateless(UpstreamOptions::default()).await;
    let (mut waiting, question) = between_rounds(&upstream, &mut child).await;
    upstream.forget_session(SessionKey(1));
    let text = item(&mut waiting).await.1["error"]["message"].to_string();
    assert!(text.contains("ended its session"), "{text}");
    assert!(!respond(&upstream, 1, &result(&question, json!({}))));
    let (mut waiting, question) = between_rounds(&upstream, &mut child).await;
    upstream.fail_all(Failure::new("it was hit by a tree", Generation(1)));
    let text = item(&mut waiting).await.1["error"]["message"].to_string();
    assert!(text.contains("hit by a tree"), "{text}");
    assert!(!respond(&upstream, 1, &result(&question, json!({}))));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_is_told_so() {
    let options = UpstreamOptions {
        call_timeout: Duration::from_secs(8),
        ..UpstreamOptions::default()
    };
    let (upstream, mut child) = stateless(options).await;
    let (mut waiting, _) = between_rounds(&upstream, &mut child).await;
    let answer = waiting.next().await;
    let text = format!("{answer:?}");
    assert!(
        text.contains("asked the client for input and got none for 8 s"),
        "{text}"
    );
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_silent_about_initialize_is_asked_to_discover() {
    let (upstream, mut child, _noise) = connect(UpstreamOptions::default());
    let played = async {
        let first = child.expect("initialize").await;
        let asked = child.expect("server/discover").await;
        let result = json!({"supportedVersions": [super::MODERN], "capabilities": {}});
        child.answer(&asked, result).await;
        first
    };
    let (shaken, _) = tokio::join!(upstream.handshake(), played);
    assert_eq!(shaken.map(|handshake| handshake.era), Ok(Era::Modern));
    assert_eq!(upstream.calls(), 0, "nobody waits for initialize any more");

    // A slow server of the session era does not know discover, and is waited for.
    let (upstream, mut child, _noise) = connect(UpstreamOptions::default());
    let played = async {
        let first = child.expect("initialize").await;
        let asked = child.expect("server/discover").await;
        let error = json!({"code": -32_601, "message": "no"});
        child
            .say(json!({"jsonrpc": "2.0", "id": asked["id"], "error": error}))
            .await;
        let result = json!({"protocolVersion": "2025-06-18", "capabilities": {}});
        child.answer(&first, result).await;
        child.expect("notifications/initialized").await;
    };
    let (shaken, ()) = tokio::join!(upstream.handshake(), played);
    assert_eq!(shaken.map(|handshake| handshake.era), Ok(Era::Legacy));
}

#[tokio::test]
async fn the_first_refusal_is_told_when_a_child_speaks_neither_era() {
    let (upstream, mut child, _noise) = connect(UpstreamOptions::default());
    let refuse = |asked: &Value, message: &str| {
        json!({"jsonrpc": "2.0", "id": asked["id"],
            "error": {"code": -32_603, "message": message}})
    };
    let played = async {
        let asked = child.expect("initialize").await;
        child.say(refuse(&asked, "EXAMPLE_KEY is not set")).await;
        let asked = child.expect("server/discover").await;
        child.say(refuse(&asked, "what?")).await;
    };
    let (shaken, ()) = tokio::join!(upstream.handshake(), played);
    let text = shaken.expect_err("neither").to_string();
    assert!(text.contains("EXAMPLE_KEY is not set"), "{text}");
}

#[tokio::test]
async fn the_template_decides_the_era() {
    for (era, method) in [
        (EraPolicy::Stateless, "server/discover"),
        (EraPolicy::Session, "initialize"),
    ] {
        let (upstream, mut child, _noise) = connect(UpstreamOptions {
            era,
            ..UpstreamOptions::default()
        });
        let played = async {
            let asked = child.expect(method).await;
            let error = json!({"code": -32_022, "message": "no"});
            child
                .say(json!({"jsonrpc": "2.0", "id": asked["id"], "error": error}))
                .await;
        };
        let (shaken, ()) = tokio::join!(upstream.handshake(), played);
        assert!(shaken.is_err(), "nothing else is tried");
    }
}
