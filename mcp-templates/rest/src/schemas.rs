//! The schemas of tools, in the words of JSON Schema alone.

use std::{borrow::Cow, sync::Arc};

use rmcp::{handler::server::router::tool::ToolRouter, model::JsonObject};
use serde_json::Value;

/// All tools of some routers in one. Unlike their sum it does not check every name again with each part, which took a
/// fifth of a start.
#[must_use]
pub fn joined<S>(parts: impl IntoIterator<Item = ToolRouter<S>>) -> ToolRouter<S>
where
    S: Send + Sync + 'static,
{
    let mut tools = ToolRouter::new();
    for part in parts {
        tools.map.extend(part.map);
    }
    tools
}

/// Takes the formats of numbers (`uint32`, `double`, …) out of the schemas of all tools. They come from the types of
/// Rust; JSON Schema has no formats for numbers, and strict clients warn of each. The bounds stay, they tell the same.
#[must_use]
pub fn without_number_formats<S>(mut tools: ToolRouter<S>) -> ToolRouter<S> {
    for route in tools.map.values_mut() {
        mend(&mut route.attr.input_schema);
        if let Some(schema) = &mut route.attr.output_schema {
            mend(schema);
        }
    }
    tools
}

fn mend(schema: &mut Arc<JsonObject>) {
    for value in Arc::make_mut(schema).values_mut() {
        clean(value);
    }
}

/// Cleans a schema and all within it.
fn clean(value: &mut Value) {
    match value {
        Value::Object(object) => {
            let numeric = types(object)
                .iter()
                .any(|name| matches!(name.as_ref(), "integer" | "number"));
            if numeric && object.get("format").is_some_and(Value::is_string) {
                object.remove("format");
            }
            for (keyword, value) in object {
                // These hold data, not schemas.
                if !matches!(keyword.as_str(), "const" | "default" | "enum" | "examples") {
                    clean(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(clean),
        _ => {}
    }
}

/// The types that a schema allows.
fn types(schema: &JsonObject) -> Vec<Cow<'_, str>> {
    match schema.get("type") {
        Some(Value::String(name)) => vec![name.into()],
        Some(Value::Array(names)) => names
            .iter()
            .filter_map(|name| Some(name.as_str()?.into()))
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn formats_of_numbers_go_and_nothing_else() {
        let mut schema = json!({
            "properties": {
                "count": {"type": "integer", "format": "uint32", "minimum": 0, "default": {"format": "x", "type": "integer"}},
                "ratio": {"anyOf": [{"type": ["number", "null"], "format": "double"}]},
                "at": {"type": "string", "format": "date-time"},
                "format": {"type": "string", "enum": ["png"]},
            },
            "$defs": {"Id": {"type": "integer", "format": "int64"}},
        });
        clean(&mut schema);
        assert_eq!(
            schema,
            json!({
                "properties": {
                    "count": {"type": "integer", "minimum": 0, "default": {"format": "x", "type": "integer"}},
                    "ratio": {"anyOf": [{"type": ["number", "null"]}]},
                    "at": {"type": "string", "format": "date-time"},
                    "format": {"type": "string", "enum": ["png"]},
                },
                "$defs": {"Id": {"type": "integer"}},
            })
        );
    }
}
