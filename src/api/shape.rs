//! Whether JSON has the shape that its type's own schema in the OpenAPI document gives it.
//!
//! serde stops at the first fault; this finds all of them, and leaves what is right of the value, so that the faults of
//! its values can be told in the same answer. It judges types, fields that are missing and fields that are unknown. What
//! a text or a number may be is left to those who read it: they say better what is allowed.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::domain::violation::{Violation, pointer_token};

/// Longest part of an unknown key that is repeated, in characters.
const KEY_CHARS_MAX: usize = 80;
/// The schema of one type, with those that it refers to.
#[derive(Debug)]
pub struct Shape {
    schema: Value,
    named: BTreeMap<String, Value>,
}

impl Shape {
    /// The shape of a type.
    #[must_use]
    pub fn of<T: ToSchema>() -> Self {
        let mut named = Vec::new();
        T::schemas(&mut named);
        let json = |schema| serde_json::to_value(schema).expect("a schema is texts and numbers");
        Self {
            schema: json(T::schema()),
            named: named
                .into_iter()
                .map(|(name, schema)| (name, json(schema)))
                .collect(),
        }
    }

    /// Adds every fault of `value` and takes out what is wrong with it: unknown fields and optional ones of a wrong
    /// type go, of the others an empty value of the right type is left, so that the rest can be read.
    pub fn reduce(&self, value: &mut Value, faults: &mut Vec<Violation>) {
        let place = Place {
            pointer: String::new(),
            name: "the body".to_owned(),
        };
        self.check(&self.schema, value, &place, faults);
    }

    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let name = schema["$ref"]
            .as_str()
            .and_then(|text| text.rsplit('/').next());
        name.and_then(|name| self.named.get(name)).unwrap_or(schema)
    }

    /// The one of several schemas that goes by the type of `value`.
    fn fitting<'a>(&'a self, schema: &'a Value, value: &Value) -> Option<&'a Value> {
        let schema = self.resolved(schema);
        if let Some(choices) = schema["oneOf"].as_array() {
            return choices
                .iter()
                .find_map(|choice| self.fitting(choice, value));
        }
        is_of_type(schema, value).then_some(schema)
    }

    /// Whether the value may stay; what is within it is put right by then.
    fn check(
        &self,
        schema: &Value,
        value: &mut Value,
        place: &Place,
        faults: &mut Vec<Violation>,
    ) -> bool {
        let Some(fitting) = self.fitting(schema, value) else {
            let message = format!("{} must be {}", place.name, self.expected(schema));
            faults.push(Violation::new(place.pointer.as_str(), "type", message));
            return false;
        };
        match value {
            Value::Object(members) => self.check_members(fitting, members, place, faults),
            Value::Array(entries) => {
                for (index, entry) in entries.iter_mut().enumerate() {
                    let place = place.below(&index.to_string(), format!("entry {index}"));
                    if !self.check(&fitting["items"], entry, &place, faults) {
                        // It keeps its place, so that those after it keep theirs.
                        *entry = self.blank(&fitting["items"]);
                    }
                }
            }
            _ => {}
        }
        true
    }

    fn check_members(
        &self,
        schema: &Value,
        members: &mut Map<String, Value>,
        place: &Place,
        faults: &mut Vec<Violation>,
    ) {
        let none = Map::new();
        let known = schema["properties"].as_object().unwrap_or(&none);
        let others = &schema["additionalProperties"];
        for (key, mut value) in std::mem::take(members) {
            let shown: String = key.chars().take(KEY_CHARS_MAX).collect();
            let place = place.below(&shown, shown.clone());
            let schema = match (known.get(&key), others) {
                (Some(schema), _) => schema,
                (None, Value::Bool(false)) => {
                    faults.push(unknown(&shown, place, known));
                    continue;
                }
                (None, others) => others,
            };
            if self.check(schema, &mut value, &place, faults) {
                members.insert(key, value);
            }
        }
        let required = schema["required"].as_array();
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if members.contains_key(name) {
                continue;
            }
            let place = place.below(name, name.to_owned());
            if !faults.iter().any(|fault| fault.pointer == place.pointer) {
                let message = format!("{name} is required");
                faults.push(Violation::new(place.pointer, "required", message));
            }
            let schema = known.get(name).unwrap_or(&Value::Null);
            members.insert(name.to_owned(), self.blank(schema));
        }
    }

    fn blank(&self, schema: &Value) -> Value {
        let schema = self.resolved(schema);
        if let Some(choice) = schema["oneOf"].get(0) {
            return self.blank(choice);
        }
        match types(schema).first() {
            Some(&"string") => Value::from(""),
            Some(&"integer" | &"number") => Value::from(0),
            Some(&"boolean") => Value::from(false),
            Some(&"array") => Value::Array(Vec::new()),
            Some(&"object") => Value::Object(Map::new()),
            _ => Value::Null,
        }
    }

    /// What is allowed, in words.
    fn expected(&self, schema: &Value) -> String {
        let schema = self.resolved(schema);
        // Those of ours that have a title say there what they take.
        if let Some(text) = schema["title"].as_str() {
            return text.to_owned();
        }
        if let Some(choices) = schema["oneOf"].as_array() {
            let is_null = |choice: &&Value| choice["type"] == "null";
            let choices = choices.iter().filter(|choice| !is_null(choice));
            let words: Vec<String> = choices.map(|choice| self.expected(choice)).collect();
            return words.join(" or ");
        }
        let of_texts = || types(self.resolved(&schema["additionalProperties"])) == ["string"];
        let words: Vec<&str> = types(schema)
            .into_iter()
            .filter_map(|kind| match kind {
                "string" => Some("a text"),
                "integer" => Some("a whole number"),
                "number" => Some("a number"),
                "boolean" => Some("true or false"),
                "array" => Some("a list"),
                "object" if of_texts() => Some("an object of texts"),
                "object" => Some("a JSON object"),
                _ => None,
            })
            .collect();
        words.join(" or ")
    }
}

/// Where a value stands, and what sentences call it.
struct Place {
    pointer: String,
    name: String,
}

impl Place {
    fn below(&self, key: &str, name: String) -> Self {
        Self {
            pointer: format!("{}/{}", self.pointer, pointer_token(key)),
            name,
        }
    }
}

fn unknown(shown: &str, place: Place, known: &Map<String, Value>) -> Violation {
    let allowed: Vec<&str> = known.keys().map(String::as_str).collect();
    let allowed = allowed.join(", ");
    let message = format!("{shown:?} is not known here; known are {allowed}");
    Violation::new(place.pointer, "unknown", message)
}

fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// A schema without a type takes everything.
fn is_of_type(schema: &Value, value: &Value) -> bool {
    let types = types(schema);
    types.is_empty()
        || types.into_iter().any(|kind| match kind {
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            "null" => value.is_null(),
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::{CreateAccessToken, CreateInstance, PatchInstance, PutCredential};

    /// The faults as `pointer code`, and what is left.
    fn reduced<T: ToSchema>(mut value: Value) -> (Vec<String>, Value) {
        let mut faults = Vec::new();
        Shape::of::<T>().reduce(&mut value, &mut faults);
        let told = faults
            .iter()
            .map(|one| format!("{} {}", one.pointer, one.code));
        (told.collect(), value)
    }

    #[test]
    fn what_is_right_stays_and_every_fault_is_told() {
        let (told, left) = reduced::<CreateInstance>(json!({
            "name": 7, "ttl": true, "credentials": {"A": 1, "B": "b", "c/d": null}, "labels": [],
            "settings": {"any": [1, null, {}]}, "tll": "1h",
        }));
        let expected = [
            "/credentials/A type",
            "/credentials/c~1d type",
            "/labels type",
            "/name type",
            "/tll unknown",
            "/ttl type",
            "/template required",
        ];
        assert_eq!(told, expected);
        let right = json!({
            "credentials": {"B": "b"}, "settings": {"any": [1, null, {}]}, "template": "",
        });
        assert_eq!(left, right);
    }

    #[test]
    fn a_required_field_of_a_wrong_type_is_told_once() {
        let (told, left) = reduced::<PutCredential>(json!({"name": 1, "value": null}));
        assert_eq!(told, ["/name type", "/value type"]);
        assert_eq!(left, json!({"name": "", "value": ""}));
    }

    #[test]
    fn lists_and_objects_within_are_looked_into_and_keep_their_places() {
        let (told, left) = reduced::<CreateAccessToken>(json!({
            "name": "ci", "scope": {"tools": ["a", 7, "b"]}, "rate_limit": {"requests": "1", "burst": 5},
            "concurrency_max": 1.5, "expires_at": null,
        }));
        let expected = [
            "/concurrency_max type",
            "/rate_limit/burst unknown",
            "/rate_limit/requests type",
            "/rate_limit/per required",
            "/scope/tools/1 type",
        ];
        assert_eq!(told, expected);
        assert_eq!(left["scope"], json!({"tools": ["a", "", "b"]}));
        assert!(left["expires_at"].is_null(), "null is allowed and stays");
    }

    #[test]
    fn sentences_name_what_is_allowed_and_repeat_no_value() {
        let mut faults = Vec::new();
        let mut value =
            json!({"ttl": ["hunter2"], "template": {"x": "hunter2"}, "labels": "hunter2"});
        Shape::of::<CreateInstance>().reduce(&mut value, &mut faults);
        let said: Vec<_> = faults.into_iter().map(|fault| fault.message).collect();
        let expected = [
            "labels must be an object of texts",
            "template must be a text",
            "ttl must be whole seconds, or a text such as \"30m\" or \"2h\"",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn what_is_no_object_has_one_fault() {
        for bad in [json!([]), json!(null), json!("demo"), json!(3)] {
            assert_eq!(reduced::<CreateInstance>(bad).0, [" type"]);
        }
        assert_eq!(
            reduced::<PatchInstance>(json!({"labels": null})).0,
            ["/labels type"]
        );
    }
}
