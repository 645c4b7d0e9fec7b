//! Answers to `tools/list` as a token with a scope sees them: the tools that it may call, and nothing else changed.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    domain::access::{TokenScope, TokenSettings},
    upstream::{Envelope, INTERNAL_ERROR, ListedTool, Raw, error_message, splice},
};

use super::event_text::{EventSplitter, data_of, with_data};

/// The members of a result that are looked at.
#[derive(Deserialize)]
struct Listed<'a> {
    #[serde(borrow, default)]
    tools: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "cacheScope")]
    cache_scope: Option<&'a RawValue>,
}

/// One message as the scope lets it be seen; `None`: as it is.
fn seen(scope: &TokenScope, message: &[u8]) -> Option<Bytes> {
    let hidden = |id: &str| {
        let text = "The server's list of tools cannot be read, and so not be cut to the scope of the access token.";
        Some(error_message(id, INTERNAL_ERROR, text, None))
    };
    let Ok(envelope) = Envelope::parse(message) else {
        return hidden("null");
    };
    let result = envelope.result?;
    let id = envelope.id.map_or("null", |id| id.get());
    if !result.get().starts_with('{') {
        return None;
    }
    let Ok(listed) = serde_json::from_str::<Listed>(result.get()) else {
        return hidden(id);
    };
    let tools = listed.tools?;
    let Ok(entries) = serde_json::from_str::<Vec<&RawValue>>(tools.get()) else {
        return hidden(id);
    };
    let kept: Vec<&str> = entries
        .iter()
        .map(|entry| entry.get())
        .filter(|entry| {
            let tool = ListedTool::read(entry);
            let name = tool.as_ref().and_then(ListedTool::name);
            let read_only = tool.is_some_and(|tool| tool.is_read_only());
            name.is_some_and(|name| scope.allows(&name, read_only))
        })
        .collect();
    let tools_now = format!("[{}]", kept.join(","));
    let mut edits = vec![(Raw::from(tools), tools_now.as_str())];
    // What this token sees is not what others see.
    if let Some(cache_scope) = listed.cache_scope {
        edits.push((Raw::from(cache_scope), "\"private\""));
    }
    Some(splice(message, &mut edits).into())
}

/// One body that holds a message or a batch.
#[must_use]
pub fn seen_body(scope: &TokenScope, body: Bytes) -> Bytes {
    if body.trim_ascii_start().first() != Some(&b'[') {
        return seen(scope, &body).unwrap_or(body);
    }
    let Ok(parts) = serde_json::from_slice::<Vec<&RawValue>>(&body) else {
        return seen(scope, b"").unwrap_or_default();
    };
    let parts: Vec<Bytes> = parts
        .iter()
        .map(|part| {
            let part = part.get().as_bytes();
            seen(scope, part).unwrap_or_else(|| Bytes::copy_from_slice(part))
        })
        .collect();
    let mut out = vec![b'['];
    out.extend_from_slice(&parts.join(&b","[..]));
    out.push(b']');
    out.into()
}

enum Form {
    Json(BytesMut),
    Events(EventSplitter),
    /// It grew too large; nothing more of it is shown.
    Given,
}

/// A streamed body on its way through the lens.
pub struct Lens {
    settings: Arc<TokenSettings>,
    form: Form,
    limit_bytes: usize,
    ready: VecDeque<Bytes>,
}

impl Lens {
    /// For a body of events, or of JSON.
    #[must_use]
    pub fn new(settings: Arc<TokenSettings>, events: bool, limit_bytes: usize) -> Self {
        Self {
            settings,
            form: if events {
                Form::Events(EventSplitter::default())
            } else {
                Form::Json(BytesMut::new())
            },
            limit_bytes,
            ready: VecDeque::new(),
        }
    }

    /// Takes the next piece of the body in.
    pub fn push(&mut self, piece: &[u8]) {
        let scope = &self.settings.scope;
        let waiting = match &mut self.form {
            Form::Json(body) => {
                body.extend_from_slice(piece);
                body.len()
            }
            Form::Events(splitter) => {
                splitter.push(piece, |event| {
                    let seen = data_of(&event).and_then(|data| seen(scope, &data));
                    self.ready.push_back(match seen {
                        Some(seen) => with_data(&event, &seen),
                        None => event,
                    });
                });
                splitter.waiting()
            }
            Form::Given => 0,
        };
        if waiting > self.limit_bytes {
            let text = "The server's list of tools is too large to be cut to the scope of the access token.";
            let answer = error_message("null", INTERNAL_ERROR, text, None);
            self.ready.push_back(match self.form {
                Form::Events(_) => with_data(b"", &answer),
                _ => answer,
            });
            self.form = Form::Given;
        }
    }

    /// The body is at its end.
    pub fn finish(&mut self) {
        if let Form::Json(body) = std::mem::replace(&mut self.form, Form::Given)
            && !body.is_empty()
        {
            let body = seen_body(&self.settings.scope, body.freeze());
            self.ready.push_back(body);
        }
    }

    /// What may be sent on.
    pub fn next(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use serde_json::json;

    const LIST: &str = r#"{"x":1e999,"jsonrpc":"2.0","id":"a","result":{"tools":[{"name":"get","n":1.000,"annotations":{"readOnlyHint":true}}, {"name":"put"},{"name":7}],"nextCursor":"c","cacheScope":"public"}}"#;
    const READ_ONLY: &str = r#"{"x":1e999,"jsonrpc":"2.0","id":"a","result":{"tools":[{"name":"get","n":1.000,"annotations":{"readOnlyHint":true}}],"nextCursor":"c","cacheScope":"private"}}"#;

    fn settings(scope: serde_json::Value) -> Arc<TokenSettings> {
        Arc::new(TokenSettings {
            scope: TokenScope::read(&scope, &mut Vec::new()).unwrap(),
            ..TokenSettings::default()
        })
    }

    #[test]
    fn a_list_is_cut_and_nothing_else_changed() {
        let read_only = settings(json!("read-only"));
        let see = |text: &str| {
            let body = seen_body(&read_only.scope, Bytes::copy_from_slice(text.as_bytes()));
            String::from_utf8(body.to_vec()).unwrap()
        };
        assert_eq!(see(LIST), READ_ONLY);
        assert_eq!(
            see(&format!("[{LIST}, {LIST}]")),
            format!("[{READ_ONLY},{READ_ONLY}]")
        );
        let put = settings(json!({"tools": ["p*"]}));
        let seen = seen_body(&put.scope, LIST.into());
        assert!(
            seen.windows(9).any(|part| part == b"[{\"name\":"),
            "{seen:?}"
        );
        assert!(!seen.windows(5).any(|part| part == b"\"get\""));
        for same in [
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":"tools"}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"tools"}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"tools":[]}}"#,
        ] {
            assert_eq!(see(same), same);
        }
        for unclear in [
            r#"{"jsonrpc":"2.0","id":1,"result":{"tools":{"put":1}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"tools":[{"name":"put"}]}}"#,
            r#"{"result":{"tools":[{"name":"put"}]}}"#,
            "[1,",
        ] {
            let seen = see(unclear);
            assert!(!seen.contains("put") && seen.contains("-32603"), "{seen}");
        }
    }

    #[test]
    fn a_stream_is_cut_event_by_event() {
        let stream = format!(
            ": alive\n\nid: 1-1\nevent: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"m\"}}\n\nid: 1-2\nevent: message\ndata: {LIST}\n\n"
        );
        let expected = stream.replace(LIST, READ_ONLY);
        for size in [1, 7, stream.len()] {
            let mut lens = Lens::new(settings(json!("read-only")), true, 1 << 20);
            let mut out = Vec::new();
            for piece in stream.as_bytes().chunks(size) {
                lens.push(piece);
                while let Some(ready) = lens.next() {
                    out.extend_from_slice(&ready);
                }
            }
            lens.finish();
            assert_eq!(lens.next(), None);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_too_large_is_not_shown() {
        for events in [true, false] {
            let mut lens = Lens::new(settings(json!("read-only")), events, 10);
            lens.push(b"data: 12345678901");
            lens.push(b"put");
            lens.finish();
            let out = lens.next().unwrap();
            let text = String::from_utf8(out.to_vec()).unwrap();
            assert!(
                text.contains("too large") && !text.contains("put"),
                "{text}"
            );
            assert_eq!(text.starts_with("data: "), events);
            assert_eq!(lens.next(), None);
        }
    }
}
