//! Messages that cross from one era to the other.

use std::sync::Arc;

use super::{
    handshake::Era,
    in_flight::{Caller, SessionKey},
    message::{Envelope, RawObject},
    translate::{
        Declared, InputRequired, compose, input_required, retried, rewritten, session_answer,
        unmarked,
    },
};

fn rewrite_for(text: &str, caller: &Caller, child: Era) -> String {
    let envelope = Envelope::parse(text.as_bytes()).expect("a message");
    let rewritten = rewritten(&envelope, caller, child).expect("an object");
    let params = rewritten.map(|r| r.with(7));
    String::from_utf8(compose(text.as_bytes(), &envelope, 7, params)).expect("UTF-8")
}

fn rewrite(text: &str, caller: Era, child: Era) -> String {
    let caller = Caller {
        era: caller,
        ..Caller::plain(SessionKey(1))
    };
    rewrite_for(text, &caller, child)
}

#[test]
fn a_progress_token_becomes_our_id_however_it_is_written() {
    for key in ["progressToken", "progress\\u0054oken"] {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{{"x":1.0,"_meta":{{"{key}":"t","v":2}}}},"z":0}}"#
        );
        assert_eq!(
            rewrite(&text, Era::Legacy, Era::Legacy),
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"x":1.0,"_meta":{"progressToken":7,"v":2}},"z":0}"#
        );
    }
}

#[test]
fn other_parameters_are_not_touched() {
    let text = r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[ 1, "progressTok" ]}"#;
    for era in [Era::Legacy, Era::Modern] {
        assert_eq!(
            rewrite(text, era, era),
            r#"{"jsonrpc":"2.0","id":7,"method":"m","params":[ 1, "progressTok" ]}"#
        );
    }
}

#[test]
fn stateless_meta_ends_at_the_gateway() {
    let text = r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":1,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
    assert_eq!(
        rewrite(text, Era::Modern, Era::Legacy),
        r#"{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":1}}"#
    );
    // Nothing else of the parameters is written anew, wherever it stands.
    let version = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#;
    for (params, left) in [
        (
            format!(r#"{{ "_meta":{{{version}}}, "a" : 1.00, "b\u0062":[ 1 ]}}"#),
            r#"{ "a" : 1.00, "b\u0062":[ 1 ]}"#,
        ),
        (
            format!(r#"{{ "a" : 1e400 , "_meta" : {{{version}}} }}"#),
            r#"{ "a" : 1e400 }"#,
        ),
        (format!(r#"{{"_meta":{{{version}}}}}"#), "{}"),
        (r#"{"_meta":{},"a":0}"#.to_owned(), r#"{"a":0}"#),
        (r#"{ "a" : 1.0 }"#.to_owned(), r#"{ "a" : 1.0 }"#),
        (
            format!(r#"{{"a":1.0,"_meta":{{{version},"v":2,"progressToken":"p"}}}}"#),
            r#"{"a":1.0,"_meta":{"v":2,"progressToken":7}}"#,
        ),
        (
            format!(r#"{{"\u005fmeta":{{{version}}},"a":1.0}}"#),
            r#"{"a":1.0}"#,
        ),
    ] {
        let text = format!(r#"{{"id":"x","method":"m","params":{params},"jsonrpc":"2.0"}}"#);
        assert_eq!(
            rewrite(&text, Era::Modern, Era::Legacy),
            format!(r#"{{"id":7,"method":"m","params":{left},"jsonrpc":"2.0"}}"#)
        );
    }
}

#[test]
fn a_stateless_server_hears_what_the_session_declared() {
    let params = RawObject::parse(
        r#"{"clientInfo":{"name":"c","x":1e400},"capabilities":{"sampling":{"tools":{}},"elicitation":{},"extensions":{"a/b":{}}}}"#,
    );
    let caller = Caller {
        sampling: true,
        log_level: Some(1),
        declared: Some(Declared::read(&params.expect("an object"))),
        ..Caller::plain(SessionKey(1))
    };
    // Elicitation was declared, but this call has no way for it.
    let text = r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"n":1.0,"_meta":{"progressToken":"p","v":2}}}"#;
    assert_eq!(
        rewrite_for(text, &caller, Era::Modern),
        r#"{"jsonrpc":"2.0","id":7,"method":"m","params":{"n":1.0,"_meta":{"progressToken":7,"v":2,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"c","x":1e400},"io.modelcontextprotocol/clientCapabilities":{"sampling":{"tools":{}},"extensions":{"a/b":{}}},"io.modelcontextprotocol/logLevel":"info"}}}"#
    );
    let bare = Caller::plain(SessionKey(1));
    assert_eq!(
        rewrite_for(
            r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#,
            &bare,
            Era::Modern
        ),
        r#"{"jsonrpc":"2.0","id":7,"params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}},"method":"m"}"#
    );
}

#[test]
fn what_a_client_declares_is_bounded() {
    let long = format!(r#"{{"capabilities":{{"x":"{}"}}}}"#, "y".repeat(20_000));
    let declared = Declared::read(&RawObject::parse(&long).expect("an object"));
    let empty = Declared::read(&RawObject::parse("{\"capabilities\":5}").expect("an object"));
    assert_eq!(declared, empty);
    assert!(Arc::ptr_eq(&declared, &declared.clone()));
}

fn answer(text: &str, method: &str) -> String {
    let envelope = Envelope::parse(text.as_bytes()).expect("a message");
    let answer = session_answer(text.as_bytes(), &envelope, "\"c\"", method);
    String::from_utf8(answer.to_vec()).expect("UTF-8")
}

#[test]
fn an_answer_loses_what_only_the_stateless_era_knows() {
    assert_eq!(
        answer(
            r#"{"x":1e999,"id":7,"jsonrpc":"2.0","result":{"resultType":"complete","n":10000000000000000000001,"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"n"}},"ttlMs":5,"cacheScope":"public","b":[ 1 ]}}"#,
            "tools/list"
        ),
        r#"{"x":1e999,"id":"c","jsonrpc":"2.0","result":{"n":10000000000000000000001,"b":[ 1 ]}}"#
    );
    assert_eq!(
        answer(
            r#"{"id":7,"jsonrpc":"2.0","result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{},"own":1}}}"#,
            "m"
        ),
        r#"{"id":"c","jsonrpc":"2.0","result":{"_meta":{"own":1}}}"#
    );
    // The result of an extension is not ours to change, and one that is no object cannot be.
    for result in [r#"{"resultType":"task","ttlMs":1}"#, "[5]"] {
        let text = format!(r#"{{"id":7,"jsonrpc":"2.0","result":{result}}}"#);
        assert_eq!(answer(&text, "m"), text.replace("\"id\":7", "\"id\":\"c\""));
    }
}

#[test]
fn errors_get_the_codes_of_the_session_era() {
    let error = |code: i64, data: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":"c","error":{{"code":{code},"message":"m","data":{data}}}}}"#
        )
    };
    for (method, code, data, expected) in [
        ("resources/read", -32_602, r#"{"uri":"a:b"}"#, -32_002),
        ("resources/read", -32_602, "{}", -32_602),
        ("tools/call", -32_602, r#"{"uri":"a:b"}"#, -32_602),
        ("tools/call", -32_022, "{}", -32_603),
        ("tools/call", -32_021, "{}", -32_021),
        ("tools/call", -1, "{}", -1),
    ] {
        assert_eq!(answer(&error(code, data), method), error(expected, data));
    }
}

#[test]
fn a_result_that_asks_for_input_is_told_from_one_that_talks_of_it() {
    let asks = r#"{"resultType":"input_required","inputRequests":{"k":{"method":"elicitation/create","params":{"n":1.0}},"r":{"method":"roots/list"}},"requestState":"s\u0041"}"#;
    let expected = InputRequired {
        requests: vec![
            (
                "k".into(),
                "elicitation/create".into(),
                r#"{"n":1.0}"#.into(),
            ),
            ("r".into(), "roots/list".into(), "{}".into()),
        ],
        state: Some(r#""s\u0041""#.into()),
    };
    assert_eq!(input_required(asks), Some(expected));
    for text in [
        r#"{"resultType":"complete","text":"input_required"}"#,
        r#"{"text":"input_required"}"#,
        "[]",
    ] {
        assert_eq!(input_required(text), None, "{text}");
    }
}

#[test]
fn a_retry_is_the_request_with_the_answers_and_the_same_state() {
    let sent = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"n":1.0,"_meta":{"progressToken":7,"v":2},"inputResponses":{"old":{}}},"x":0}"#;
    let responses = [("a\"b".to_owned(), r#"{"n":1e400}"#.to_owned())];
    let once = retried(sent, 8, &responses, Some(r#""s""#)).expect("a request");
    assert_eq!(
        String::from_utf8(once.clone()).expect("UTF-8"),
        r#"{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"n":1.0,"_meta":{"progressToken":8,"v":2},"inputResponses":{"a\"b":{"n":1e400}},"requestState":"s"},"x":0}"#
    );
    let again = retried(&once, 9, &[], None).expect("a request");
    assert_eq!(
        String::from_utf8(again).expect("UTF-8"),
        r#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"n":1.0,"_meta":{"progressToken":9,"v":2}},"x":0}"#
    );
}

#[test]
fn a_notification_loses_the_mark_of_its_subscription() {
    let unmark = |text: &str| {
        let envelope = Envelope::parse(text.as_bytes()).expect("a message");
        unmarked(text.as_bytes(), &envelope)
            .map(|(mark, line)| (mark, String::from_utf8(line.to_vec()).expect("UTF-8")))
    };
    assert_eq!(
        unmark(
            r#"{"jsonrpc":"2.0","method":"n","params":{"uri":"a","_meta":{"io.modelcontextprotocol/subscriptionId":5}}}"#
        ),
        Some((
            "5".into(),
            r#"{"jsonrpc":"2.0","method":"n","params":{"uri":"a"}}"#.into()
        ))
    );
    assert_eq!(
        unmark(r#"{"jsonrpc":"2.0","method":"n","params":{"a":1}}"#),
        None
    );
}
