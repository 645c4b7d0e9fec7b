//! The answer as the model gets it: nothing that is absent, and no more than fits.

use rmcp::model::{CallToolResponse, ContentBlock, JsonObject};
use serde_json::Value;

/// The largest answer in bytes of JSON; some 60,000 tokens.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// No text is cut shorter than this, in bytes.
const TEXT_BYTES_MIN: usize = 256;

/// Takes what is null out of the structured content, cuts its longest texts until all fits, and says the same in
/// the text content.
pub(crate) fn fitted(mut response: CallToolResponse) -> CallToolResponse {
    if let CallToolResponse::Complete(result) = &mut response
        && let Some(value) = &mut result.structured_content
    {
        without_nulls(value);
        match fit(value, ANSWER_BYTES_MAX) {
            Some(text) => result.content = vec![ContentBlock::text(text)],
            None => {
                let message = format!(
                    "The answer is larger than {ANSWER_BYTES_MAX} bytes even with its texts cut. Ask for less: a \
                     smaller perPage, or a narrower request."
                );
                result.content = vec![ContentBlock::text(message)];
                result.structured_content = None;
                result.is_error = Some(true);
            }
        }
    }
    response
}

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, value| !value.is_null());
            object.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// Cuts texts to half of the longest allowed, and again, until the JSON has at most `max` bytes; gives the JSON.
fn fit(value: &mut Value, max: usize) -> Option<String> {
    let mut longest = max;
    loop {
        let text = value.to_string();
        if text.len() <= max {
            return Some(text);
        }
        if longest <= TEXT_BYTES_MIN {
            return None;
        }
        longest = (longest / 2).max(TEXT_BYTES_MIN);
        cut_texts(value, longest);
    }
}

fn cut_texts(value: &mut Value, longest: usize) {
    const MARK: &str = "… [cut here, the text is longer]";
    match value {
        Value::String(text) if text.len() > longest + MARK.len() => {
            text.truncate(text.floor_char_boundary(longest));
            text.push_str(MARK);
        }
        Value::Object(object) => object
            .values_mut()
            .for_each(|value| cut_texts(value, longest)),
        Value::Array(items) => items.iter_mut().for_each(|value| cut_texts(value, longest)),
        _ => {}
    }
}

/// Makes what may be null optional in the schema of an answer, for nulls are left out.
pub(crate) fn allow_absent(schema: &mut JsonObject) {
    if let Some(Value::Object(properties)) = schema.get("properties") {
        let nullable: Vec<String> = properties
            .iter()
            .filter(|(_, property)| may_be_null(property))
            .map(|(name, _)| name.clone())
            .collect();
        if let Some(Value::Array(required)) = schema.get_mut("required") {
            required.retain(|name| !nullable.iter().any(|nullable| name == nullable));
        }
    }
    for (keyword, value) in schema {
        match value {
            Value::Object(object) if matches!(keyword.as_str(), "properties" | "$defs") => {
                let schemas = object.values_mut().filter_map(Value::as_object_mut);
                schemas.for_each(allow_absent);
            }
            Value::Object(object) if keyword == "items" => allow_absent(object),
            Value::Array(schemas) if matches!(keyword.as_str(), "anyOf" | "oneOf" | "allOf") => {
                let schemas = schemas.iter_mut().filter_map(Value::as_object_mut);
                schemas.for_each(allow_absent);
            }
            _ => {}
        }
    }
}

fn may_be_null(schema: &Value) -> bool {
    let null = |value: &Value| value == "null" || value["type"] == "null";
    [&schema["type"], &schema["anyOf"]]
        .into_iter()
        .any(|list| list.as_array().is_some_and(|list| list.iter().any(null)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nulls_go_at_every_depth() {
        let mut value = json!({"a": null, "b": [{"c": null, "d": 0}, null], "e": ""});
        without_nulls(&mut value);
        assert_eq!(value, json!({"b": [{"d": 0}, null], "e": ""}));
    }

    #[test]
    fn the_longest_texts_are_cut_first_at_whole_characters() {
        let mut value = json!({"long": "é".repeat(4_000), "short": "x".repeat(300)});
        let text = fit(&mut value, 4_096).expect("it fits");
        assert!(text.len() <= 4_096);
        assert_eq!(value["short"].as_str().map(str::len), Some(300));
        let long = value["long"].as_str().expect("a text");
        assert!(
            long.ends_with("longer]") && long.len() > 1_000,
            "{}",
            long.len()
        );
    }

    #[test]
    fn what_cannot_be_cut_does_not_fit() {
        let mut value = json!(vec![1; 4_000]);
        assert_eq!(fit(&mut value, 4_096), None);
    }

    #[test]
    fn what_may_be_null_may_be_absent() {
        let mut schema = json!({
            "required": ["a", "b", "c"],
            "properties": {
                "a": {"type": ["string", "null"]},
                "b": {"anyOf": [{"$ref": "#/$defs/X"}, {"type": "null"}]},
                "c": {"type": "array", "items": {"required": ["d"], "properties": {"d": {"type": ["integer", "null"]}}}},
            },
        });
        allow_absent(schema.as_object_mut().expect("an object"));
        assert_eq!(schema["required"], json!(["c"]));
        assert_eq!(schema["properties"]["c"]["items"]["required"], json!([]));
    }
}
