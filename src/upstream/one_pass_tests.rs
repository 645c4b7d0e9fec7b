//! What is read in one pass is what the parser reads.

use proptest::prelude::*;
use serde_json::json;

use super::{super::message::Envelope, first_special, read};

/// Whether it was read in one pass; then the parser must have read the same.
fn same(text: &str) -> bool {
    let Some(parts) = read(text) else {
        return false;
    };
    let parsed = Envelope::parsed(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(parts.id, parsed.id, "{text}");
    assert_eq!(parts.params, parsed.params, "{text}");
    assert_eq!(parts.result, parsed.result, "{text}");
    assert_eq!(parts.error, parsed.error, "{text}");
    assert_eq!(parts.method.unwrap_or_default(), parsed.method(), "{text}");
    assert_eq!(
        parts.parameters.members.as_ref(),
        parsed.parameters(),
        "{text}"
    );
    let meta = parts.parameters.meta.as_ref().map(Option::as_ref);
    assert_eq!(meta, parsed.meta(), "{text}");
    true
}

#[test]
fn messages_are_read_in_one_pass() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"x"},"_meta":{"a/b":"c","d":{}}}}"#,
        " { \"x\" : -0.10e+5 ,\r\n\t\"jsonrpc\" : \"2.0\" , \"id\":\"a\\\"\\u00e9\", \"result\":[ 1 , {} , [ ] , null ] } \n",
        r#"{"jsonrpc":"2.0","id":18446744073709551616,"error":{"code":-32601,"message":"é\n"}}"#,
        r#"{"jsonrpc":"2.0","method":"","params":{}}"#,
        r#"{"jsonrpc":"2.0","method":"m","params":{ "_meta" : { } , "a":1e400 }}"#,
        r#"{"id":null,"jsonrpc":"2.0","result":null,"unknown":0,"unknown":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"\u0061":"\ud800","\u0061":true}}"#,
    ] {
        assert!(same(text), "{text}");
    }
}

#[test]
fn what_is_wrong_or_unusual_is_left_to_the_parser() {
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"result":{}{}}}"#,
        "[".repeat(100),
        "]".repeat(100)
    );
    for text in [
        "",
        "{",
        "{}",
        "[]",
        "5",
        r#"{"jsonrpc":"2.0","id":1,"result":{}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{}}x"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"a":1,}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":[1,]}"#,
        r#"{"jsonrpc":"2.0","id":01,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1.,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":.5,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":-,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1e,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":tru}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":truee}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":"\x"}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":"\u12g4"}"#,
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"a\tb\"}",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"a line\nwith a break\"}",
        r#"{"jsonrpc":"2.0","id":1,"id":2,"result":{}}"#,
        r#"{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"result":{}}"#,
        r#"{"jsonrpc":"1.0","id":1,"result":{}}"#,
        r#"{"id":1,"result":{}}"#,
        r#"{"jsonrpc":"2.0","\u0069d":1,"result":{}}"#,
        r#"{"jsonrpc":"2.0","method":null}"#,
        r#"{"jsonrpc":"2.0","method":"tools\/call"}"#,
        r#"{"jsonrpc":"2.0","method":"m","params":[]}"#,
        r#"{"jsonrpc":"2.0","method":"m","params":null}"#,
        r#"{"jsonrpc":"2.0","method":"m","params":{"a":1,"a":2}}"#,
        r#"{"jsonrpc":"2.0","method":"m","params":{"\u0061":1}}"#,
        r#"{"jsonrpc":"2.0","method":"m","params":{"_meta":5}}"#,
        r#"{"jsonrpc":"2.0","method":"m","params":{"_meta":{"a":1,"a":1}}}"#,
        &deep,
    ] {
        assert!(!same(text), "{text}");
    }
}

#[test]
fn the_first_special_byte_is_found_at_every_place() {
    for special in [b'"', b'\\', 0, 1, 0x1f] {
        for place in 0..8 {
            for filling in [b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xa2, 0xdc, 0xff] {
                let mut eight = [filling; 8];
                eight[place] = special;
                assert_eq!(first_special(u64::from_le_bytes(eight)), place);
                assert_eq!(first_special(u64::from_le_bytes([filling; 8])), 8);
            }
        }
    }
}

/// Any JSON, with characters that need a second look.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "[\\PC\"\\\\{}\\[\\],:\n]{0,24}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            proptest::collection::btree_map("[a-c\"\\\\é}{\n]{0,3}|_meta", inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_message_is_read_as_the_parser_reads_it(
        id in any_json(),
        params in any_json(),
        meta in any_json(),
        result in any_json(),
        kind in 0..3,
        pretty: bool,
    ) {
        let mut message = json!({"jsonrpc": "2.0", "id": id, "x": result});
        match kind {
            0 => message["result"] = result,
            1 => message["params"] = params,
            _ => {
                message["method"] = "m".into();
                message["params"] = json!({"name": params, "_meta": meta});
            }
        }
        let text = if pretty { format!("{message:#}") } else { message.to_string() };
        same(&text);
        // Wherever it is cut or broken, what is still read is read alike.
        for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            same(&text[..at]);
        }
        for (at, letter) in text.char_indices().filter(|(at, _)| at % 3 == 0) {
            let rest = &text[at + letter.len_utf8()..];
            for other in ["", "\"", "\\", ",", "}", "0", "\n", "\u{1}"] {
                same(&format!("{}{other}{rest}", &text[..at]));
            }
        }
    }

    #[test]
    fn any_text_is_read_as_the_parser_reads_it(raw in "[{}\\[\\]\",:\\\\a01.eE+-tru \n]{0,40}") {
        same(&raw);
        same(&format!(r#"{{"jsonrpc":"2.0","result":{raw}}}"#));
        same(&format!(r#"{{"jsonrpc":"2.0","params":{{"_meta":{raw}}}}}"#));
    }
}
