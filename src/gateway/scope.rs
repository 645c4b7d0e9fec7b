//! What the scope of an access token lets through to a server.
//!
//! Only calls of tools are held back; resources, prompts and everything else pass. A message that two readers could
//! read in two ways does not pass: what is checked here must be what the server does.

use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::{Reply, reply};
use crate::{
    domain::access::TokenScope,
    supervisor::access::Secret,
    upstream::{Envelope, INVALID_PARAMS, RawObject, Upstream, error_message, unquote},
};

/// Most tools that a refusal names.
const NAMED_MAX: usize = 100;
/// The members that decide what a message is.
const DECIDING: [&str; 4] = ["jsonrpc", "id", "method", "params"];

/// Checks one message of a client. `id`: raw JSON, or `null`.
///
/// # Errors
/// The refusal.
pub async fn check(
    secret: &Secret,
    upstream: &Upstream,
    id: &str,
    source: &[u8],
    envelope: &Envelope<'_>,
) -> Result<(), Box<Reply>> {
    if secret.token.settings.load().scope.is_all() {
        return Ok(());
    }
    // Boxed, because most tokens have no scope.
    Box::pin(check_within(secret, upstream, id, source, envelope)).await
}

async fn check_within(
    secret: &Secret,
    upstream: &Upstream,
    id: &str,
    source: &[u8],
    envelope: &Envelope<'_>,
) -> Result<(), Box<Reply>> {
    let settings = secret.token.settings.load_full();
    let scope = &settings.scope;
    let name = check_form(secret, id, source, envelope)?;
    let Some(name) = name else { return Ok(()) };
    let (allowed, names) = match scope {
        TokenScope::ReadOnly => {
            let known = Box::pin(upstream.with_present_tools()).await.map_err(|error| {
                let text = format!(
                    "Which of the server's tools are read-only is not known, because they cannot be listed: {error}"
                );
                let body = error_message(id, INVALID_PARAMS, &text, Some(&json!({"cause": "scope"})));
                Box::new(reply::json(StatusCode::SERVICE_UNAVAILABLE, body))
            })?;
            let read_only = known.read_only_tools.contains(&name);
            let names: Vec<String> = known
                .read_only_tools
                .iter()
                .take(NAMED_MAX)
                .cloned()
                .collect();
            (scope.allows(&name, read_only), names)
        }
        TokenScope::Tools(patterns) => {
            let names = patterns.iter().take(NAMED_MAX);
            let names = names.map(|pattern| pattern.as_str().to_owned()).collect();
            (scope.allows(&name, false), names)
        }
        TokenScope::All => (true, Vec::new()),
    };
    if allowed {
        Ok(())
    } else {
        Err(Box::new(refusal(secret, scope, id, &name, &names)))
    }
}

/// Checks that two readers read a message in the same way, where the token has a scope; answers the tool that it calls
/// then. `id`: raw JSON, or `null`.
///
/// # Errors
/// The refusal.
pub fn check_form(
    secret: &Secret,
    id: &str,
    source: &[u8],
    envelope: &Envelope<'_>,
) -> Result<Option<String>, Box<Reply>> {
    if secret.token.settings.load().scope.is_all() {
        return Ok(None);
    }
    called_tool(source, envelope).map_err(|text| {
        let body = error_message(id, INVALID_PARAMS, &text, None);
        Box::new(reply::json(StatusCode::BAD_REQUEST, body))
    })
}

/// The tool that a message calls; `None` when it calls none.
fn called_tool(source: &[u8], envelope: &Envelope<'_>) -> Result<Option<String>, String> {
    let text = str::from_utf8(source).map_err(|error| error.to_string())?;
    let members = RawObject::parse(text.trim()).map_err(|error| error.to_string())?;
    plain_keys(&members, &DECIDING)?;
    if envelope.method() != "tools/call" {
        return Ok(None);
    }
    let params = envelope.parameters().map_err(ToString::to_string)?;
    plain_keys(params, &["name"])?;
    match params.get("name").and_then(unquote) {
        Some(name) => Ok(Some(name)),
        None => Err("tools/call needs the text params.name".to_owned()),
    }
}

/// Some servers read `"Method"` as `"method"` (Go's encoding/json folds case as Unicode does). With a scope, such keys
/// would be a way round it.
fn plain_keys(object: &RawObject<'_>, deciding: &[&str]) -> Result<(), String> {
    for (key, _) in &object.0 {
        let folded: String = key
            .chars()
            .map(|letter| match letter {
                '\u{17f}' => 's',
                '\u{212a}' => 'k',
                other => other.to_ascii_lowercase(),
            })
            .collect();
        if deciding.contains(&folded.as_str()) && folded != **key {
            return Err(format!(
                "the member {key:?} could be read as {folded:?}: write it so, or leave it out"
            ));
        }
    }
    Ok(())
}

/// HTTP 403 with the challenge of RFC 6750 section 3.1, as the MCP authorization chapter wants it for a token whose
/// scope is too small, and a JSON-RPC error that says what would be possible.
fn refusal(secret: &Secret, scope: &TokenScope, id: &str, tool: &str, names: &[String]) -> Reply {
    let tool: String = tool.chars().take(200).collect();
    let possible = if names.is_empty() {
        "no tool at all".to_owned()
    } else {
        names.join(", ")
    };
    let text = format!(
        "The access token {} has the scope {}, in which the tool {tool:?} is not; it may call {possible}.",
        secret.token.name,
        match scope {
            TokenScope::Tools(_) => "\"tools\"",
            TokenScope::ReadOnly | TokenScope::All => "\"read-only\"",
        },
    );
    let data = json!({"cause": "scope", "scope": scope, "tool": tool, "allowed": names});
    let body = error_message(id, INVALID_PARAMS, &text, Some(&data));
    let mut reply = reply::json(StatusCode::FORBIDDEN, body);
    let challenge = HeaderValue::from_static(
        "Bearer realm=\"minimcp\", error=\"insufficient_scope\", scope=\"all\"",
    );
    reply
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, challenge);
    super::cause::Cause::Scope.mark(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(source: &str) -> Result<Option<String>, String> {
        let envelope = Envelope::parse(source.as_bytes()).map_err(|error| error.to_string())?;
        called_tool(source.as_bytes(), &envelope)
    }

    #[test]
    fn the_tool_is_found_however_it_is_written() {
        for source in [
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"write"}}"#,
            " {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools\\/call\",\"params\":{\"n\\u0061me\":\"wr\\u0069te\"}}\n",
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"write"}}"#,
        ] {
            assert_eq!(called(source), Ok(Some("write".to_owned())), "{source}");
        }
        let other = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"Name":"x"}}"#;
        assert_eq!(called(other), Ok(None));
    }

    #[test]
    fn what_could_be_read_in_two_ways_does_not_pass() {
        for source in [
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","Method":"tools/call","params":{"name":"a"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Name":"write"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"write"}}"#,
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"a\"},\"param\u{17f}\":{\"name\":\"write\"}}",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["write"]}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","x":1,"x":2}"#,
        ] {
            assert!(called(source).is_err(), "{source}");
        }
    }
}
