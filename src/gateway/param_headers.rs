//! Which parameters of an instance's tools stateless clients repeat in headers, as the last lists of tools said; and
//! whether a call does so.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use http::HeaderMap;
use serde_json::value::RawValue;

use crate::upstream::{Envelope, Handshake, ParamHeader, RawObject, param_headers_of, unquote};

use super::stateless::decoded;

/// Most tools with such parameters that are known of one instance.
const TOOLS_MAX: usize = 1_000;

type Known = HashMap<String, Vec<ParamHeader>>;

/// What is known of one instance. Most have nothing of the kind.
#[derive(Default)]
pub struct ParamHeaders(ArcSwap<Known>);

impl ParamHeaders {
    /// A child came up: what its own list said replaces what another's had.
    pub fn begin(&self, handshake: &Handshake) {
        let known = handshake.param_headers.clone().into_iter().collect();
        self.0.store(Arc::new(known));
    }

    /// A client got this answer to `tools/list`.
    pub fn learn(&self, answer: &[u8]) {
        let marked = memchr::memmem::find(answer, b"x-mcp-header").is_some();
        if !marked && self.0.load().is_empty() {
            return;
        }
        let listed = || {
            let envelope = Envelope::parse(answer).ok()?;
            let result = RawObject::of(envelope.result?).ok()?;
            let tools: Vec<&RawValue> = serde_json::from_str(result.get("tools")?).ok()?;
            let named = tools.into_iter().filter_map(|tool| {
                let object = RawObject::of(tool).ok()?;
                Some((unquote(object.get("name")?)?, param_headers_of(tool.get())))
            });
            Some(named.collect::<Vec<_>>())
        };
        let Some(listed) = listed() else { return };
        self.0.rcu(|known| {
            let mut known = Known::clone(known);
            for (name, headers) in &listed {
                if headers.is_empty() {
                    known.remove(name);
                } else if known.len() < TOOLS_MAX || known.contains_key(name) {
                    known.insert(name.clone(), headers.clone());
                }
            }
            known
        });
    }

    /// Compares the headers of a call with its arguments.
    ///
    /// # Errors
    /// A sentence that names the header.
    pub fn check(&self, headers: &HeaderMap, envelope: &Envelope<'_>) -> Result<(), String> {
        let known = self.0.load();
        if known.is_empty() || envelope.method() != "tools/call" {
            return Ok(());
        }
        let name = envelope.parameter("name").and_then(unquote);
        let name = name.unwrap_or_default();
        let arguments = envelope.parameter("arguments").unwrap_or("{}");
        for param in known.get(&name).into_iter().flatten() {
            let header = &param.header;
            let path = param.path.join(".");
            let mut sent = headers.get_all(header).iter();
            let (first, more) = (sent.next(), sent.next());
            match (first, more, param.value(arguments)) {
                (_, Some(_), _) => return Err(format!("the header {header} is there twice")),
                (None, _, None) => {}
                (None, _, Some(_)) => {
                    return Err(format!(
                        "the header {header} is missing, and params.arguments has {path:?}"
                    ));
                }
                (Some(_), _, None) => {
                    return Err(format!(
                        "the header {header} is there, and params.arguments has no {path:?}"
                    ));
                }
                (Some(sent), None, Some(value)) => {
                    let text = sent
                        .to_str()
                        .map_err(|_| format!("the header {header} is not ASCII"))?;
                    let text = decoded(text)
                        .ok_or_else(|| format!("the header {header} is not valid base64"))?;
                    if !ParamHeader::agrees(&text, &value) {
                        return Err(format!(
                            "the header {header} differs from {path:?} in params.arguments"
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = br#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"t","inputSchema":{"properties":{"a":{"type":"string","x-mcp-header":"Region"}}}},{"name":"u"}]}}"#;

    fn check(known: &ParamHeaders, headers: &[&str], arguments: &str) -> bool {
        let mut map = HeaderMap::new();
        for value in headers {
            map.append("mcp-param-region", value.parse().expect("a value"));
            map.insert("mcp-param-unknown", "x".parse().expect("a value"));
        }
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t","arguments":{arguments}}}}}"#
        );
        let envelope = Envelope::parse(text.as_bytes()).expect("a message");
        known.check(&map, &envelope).is_ok()
    }

    #[test]
    fn a_call_repeats_what_its_tool_marks() {
        let known = ParamHeaders::default();
        assert!(check(&known, &["any"], "{}"), "nothing is known yet");
        known.learn(LIST);
        for (headers, arguments, expected) in [
            (&["x"][..], r#"{"a":"x"}"#, true),
            (&["=?base64?w6k=?="], r#"{"a":"é"}"#, true),
            (&["=?base64?!?="], r#"{"a":"é"}"#, false),
            (&["y"], r#"{"a":"x"}"#, false),
            (&["x", "x"], r#"{"a":"x"}"#, false),
            (&["x"], "{}", false),
            (&[], r#"{"a":"x"}"#, false),
            (&[], r#"{"a":null}"#, true),
            (&[], "{}", true),
        ] {
            assert_eq!(
                check(&known, headers, arguments),
                expected,
                "{headers:?} {arguments}"
            );
        }
        let unmarked = String::from_utf8_lossy(LIST).replace("x-mcp-header", "x-other");
        known.learn(unmarked.as_bytes());
        assert!(check(&known, &["any"], "{}"), "the last list counts");
    }
}
