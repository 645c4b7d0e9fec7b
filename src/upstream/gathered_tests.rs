//! Many calls at once: written together, in order, each once.

use std::{io::Read as _, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    Call, Caller, Envelope, Item, SessionKey, Upstream, UpstreamOptions, call::MANY,
    scripted::connect, stdio::GATHERED_MAX_BYTES,
};

const IN_TIME: Duration = Duration::from_secs(60);

fn call(upstream: &Upstream, number: usize, text: &str) -> Call {
    let message = json!({"jsonrpc": "2.0", "id": format!("c{number}"), "method": "tools/call", "params": {"name": text}});
    let source = message.to_string();
    let envelope = Envelope::parse(source.as_bytes()).expect("a message");
    let caller = Caller::plain(SessionKey(1));
    upstream
        .call(caller, source.as_bytes(), &envelope)
        .expect("it is taken")
}

async fn answer_of(call: &mut Call) -> Value {
    let item = timeout(IN_TIME, call.next()).await.expect("in time");
    match item.expect("an answer") {
        Item::Answer(answer) | Item::Message(answer) => {
            serde_json::from_slice(&answer).expect("JSON")
        }
    }
}

#[tokio::test]
async fn calls_reach_the_child_in_order_each_once_and_are_answered() {
    let (upstream, mut child, _noise) = connect(UpstreamOptions::default());
    for round in 0..3 {
        let mut calls: Vec<Call> = (0..50)
            .map(|number| call(&upstream, number, &format!("{round}-{number}")))
            .collect();
        for number in 0..50 {
            let asked = timeout(IN_TIME, child.expect("tools/call"))
                .await
                .expect("in time");
            assert_eq!(asked["params"]["name"], format!("{round}-{number}"));
            child.answer(&asked, json!({"number": number})).await;
        }
        for (number, call) in calls.iter_mut().enumerate() {
            let answer = answer_of(call).await;
            assert_eq!(answer["id"], format!("c{number}"));
            assert_eq!(answer["result"]["number"], number);
        }
    }
}

#[tokio::test]
async fn the_first_calls_go_out_at_once_and_the_others_when_all_had_their_turn() {
    let (mut child_stdin, stdin) = std::io::pipe().expect("a pipe");
    let (stdout, _child_stdout) = std::io::pipe().expect("a pipe");
    let options = UpstreamOptions::default();
    let upstream = Upstream::over_stdio(
        stdin.into(),
        stdout.into(),
        options,
        Arc::new(|_: &[u8]| {}),
    )
    .expect("pipes");
    let mut buffer = vec![0; 64 << 10];
    // All that one read finds, which would block if there was nothing.
    let mut lines = || {
        let read = child_stdin.read(&mut buffer).expect("a pipe");
        buffer[..read].iter().filter(|byte| **byte == b'\n').count()
    };
    let written = async || {
        while let super::Link::Stdio(pipe) = &upstream.link
            && pipe.has_backlog()
        {
            tokio::task::yield_now().await;
        }
    };
    // The runtime has yet to find out that the pipe has room.
    let first = call(&upstream, 0, "x");
    written().await;
    assert_eq!(lines(), 1);
    let calls: Vec<Call> = (0..2 * MANY)
        .map(|number| call(&upstream, number, "x"))
        .collect();
    assert_eq!(lines(), MANY - 2);
    written().await;
    assert_eq!(lines(), MANY + 2);
    // Enough to be written goes out without waiting for anybody.
    let long = "y".repeat(GATHERED_MAX_BYTES);
    let more = [call(&upstream, 100, "x"), call(&upstream, 101, &long)];
    assert_eq!(lines(), 2);
    drop((first, calls, more));
}

#[tokio::test]
async fn a_stdin_that_closes_under_gathered_calls_breaks_the_connection() {
    let (child_stdin, stdin) = std::io::pipe().expect("a pipe");
    let (stdout, _child_stdout) = std::io::pipe().expect("a pipe");
    let options = UpstreamOptions::default();
    let upstream = Upstream::over_stdio(
        stdin.into(),
        stdout.into(),
        options,
        Arc::new(|_: &[u8]| {}),
    )
    .expect("pipes");
    let broken = upstream.broken();
    let calls: Vec<Call> = (0..2 * MANY)
        .map(|number| call(&upstream, number, "x"))
        .collect();
    drop(child_stdin);
    let cause = timeout(IN_TIME, broken).await.expect("in time");
    assert_eq!(cause, "it closed its stdin");
    drop(calls);
}
