//! What a stateless client sends when it comes back with input: `inputResponses` and `requestState`.

use std::collections::HashMap;

use crate::upstream::{Envelope, RawObject, splice, unquote};

/// The methods whose results may ask for input.
const MAY_ASK: [&str; 3] = ["tools/call", "prompts/get", "resources/read"];

/// Whether the result of this method may ask the client for input.
#[must_use]
pub fn may_ask(method: &str) -> bool {
    MAY_ASK.contains(&method)
}

/// What came back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// The raw answers, by the key that the question had.
    pub responses: HashMap<String, String>,
    /// The state that was given with the questions.
    pub state: Option<String>,
    /// The request without both, as a session-era server knows it.
    pub stripped: Vec<u8>,
}

impl Input {
    /// Reads a request; `None`: it has no input, as most.
    ///
    /// # Errors
    /// A sentence, when the input is not what the revision says.
    pub fn read(source: &[u8], envelope: &Envelope<'_>) -> Result<Option<Self>, String> {
        let raw = match envelope.params {
            Some(raw) if may_ask(envelope.method()) => raw,
            _ => return Ok(None),
        };
        let has = |key| envelope.parameter(key).is_some();
        if !has("inputResponses") && !has("requestState") {
            return Ok(None);
        }
        let mut params = envelope.parameters().map_err(ToString::to_string)?.clone();
        let state = params
            .get("requestState")
            .map(|state| unquote(state).ok_or("params.requestState must be a text"))
            .transpose()?;
        let responses = match params.get("inputResponses") {
            None => HashMap::new(),
            Some(responses) => RawObject::parse(responses)
                .map_err(|_| "params.inputResponses must be an object")?
                .0
                .into_iter()
                .map(|(key, response)| {
                    response
                        .starts_with('{')
                        .then(|| (key.to_string(), response.to_string()))
                        .ok_or_else(|| format!("params.inputResponses.{key} must be an object"))
                })
                .collect::<Result<_, String>>()?,
        };
        params.retain(|key| !matches!(key, "inputResponses" | "requestState"));
        let stripped = splice(source, &mut [(raw, &params.to_json())]);
        Ok(Some(Self {
            responses,
            state,
            stripped,
        }))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn read(params: &str, method: &str) -> Result<Option<Input>, String> {
        let text =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params},"x":1.0}}"#);
        Input::read(text.as_bytes(), &Envelope::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn input_is_taken_out_of_the_request() {
        let input = read(
            r#"{"name":"t","inputResponses":{"a":{"action":"accept"}},"requestState":"s"}"#,
            "tools/call",
        )
        .unwrap()
        .unwrap();
        assert_eq!(input.responses["a"], r#"{"action":"accept"}"#);
        assert_eq!(input.state.as_deref(), Some("s"));
        assert_eq!(
            String::from_utf8(input.stripped).unwrap(),
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"},"x":1.0}"#
        );
    }

    #[test]
    fn a_request_without_input_is_left_alone() {
        assert_eq!(read(r#"{"name":"t"}"#, "tools/call"), Ok(None));
        let other = read(r#"{"requestState":5}"#, "tools/list");
        assert_eq!(other, Ok(None));
    }

    #[test]
    fn wrong_input_is_refused() {
        for params in [
            r#"{"inputResponses":null}"#,
            r#"{"inputResponses":{"a":5}}"#,
            r#"{"requestState":5}"#,
        ] {
            assert!(read(params, "tools/call").is_err(), "{params}");
        }
    }
}
