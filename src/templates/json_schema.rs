//! The JSON Schema of `template.toml` (2020-12), for editors and for programs that write manifests.
//!
//! Words, defaults and what a key is for come from the types of the domain by `schemars`; what each key may hold comes
//! from the table by which manifests are read. Rules between keys are in neither: a manifest that the schema accepts
//! can still be refused, one that it refuses is never read.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{
    forms::{ENV_NAME, Form},
    schema::{Key, MANIFEST, MAX_DURATION_MS, Shape},
};
use crate::domain::{egress::RULES_MAX, template::Template};

/// JSON Schema (2020-12) of the manifest.
#[must_use]
pub fn manifest_schema() -> Value {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<Template>();
    let mut schema = match schema.to_value() {
        Value::Object(schema) => schema,
        _ => Map::new(),
    };
    narrow_section(&mut schema, MANIFEST);
    schema.insert("title".to_owned(), json!("MiniMCP template"));
    schema.insert(
        "description".to_owned(),
        json!("mcp-templates/NAME/template.toml: what may be run, and how."),
    );
    Value::Object(schema)
}

/// Makes a table of exactly these keys of `schema`.
fn narrow_section(schema: &mut Map<String, Value>, keys: &[Key]) {
    let mut known = match schema.remove("properties") {
        Some(Value::Object(known)) => known,
        _ => Map::new(),
    };
    let mut properties = Map::new();
    for key in keys {
        let mut property = match known.remove(key.name) {
            Some(Value::Object(property)) => without_null(property),
            _ => Map::new(),
        };
        key.shape.narrow(&mut property);
        properties.insert(key.name.to_owned(), Value::Object(property));
    }
    let needed = keys.iter().filter(|key| key.required.is_some());
    let needed: Vec<&str> = needed.map(|key| key.name).collect();
    schema.remove("default");
    schema.remove("required");
    if !needed.is_empty() {
        schema.insert("required".to_owned(), json!(needed));
    }
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("additionalProperties".to_owned(), json!(false));
    schema.insert("properties".to_owned(), Value::Object(properties));
}

/// TOML has no null: what may be absent says so by not being required.
fn without_null(mut schema: Map<String, Value>) -> Map<String, Value> {
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    if let Some(Value::Array(choices)) = schema.remove("anyOf") {
        let kept = choices.into_iter().find(|choice| choice["type"] != "null");
        if let Some(Value::Object(kept)) = kept {
            for (name, value) in kept {
                // What is said of the key goes before what is said of its type.
                schema.entry(name).or_insert(value);
            }
        }
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = plain(text);
    }
    schema
}

/// Without the links of our documentation and its line breaks.
fn plain(text: &str) -> String {
    let text = text.replace("[`", "`").replace("`]", "`");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Shape {
    /// Puts what a key may hold into the schema of its type.
    fn narrow(&self, schema: &mut Map<String, Value>) {
        let mut set = |limits: Value| {
            for name in ["type", "format", "minimum", "maximum", "pattern"] {
                schema.remove(name);
            }
            if let Value::Object(limits) = limits {
                schema.extend(limits);
            }
        };
        match self {
            Self::Section(keys) => narrow_section(schema, keys),
            Self::Sections(keys) => {
                let mut items = match schema.remove("items") {
                    Some(Value::Object(items)) => items,
                    _ => Map::new(),
                };
                narrow_section(&mut items, keys);
                schema.remove("default");
                schema.insert("type".to_owned(), json!("array"));
                schema.insert("maxItems".to_owned(), json!(64));
                schema.insert("items".to_owned(), Value::Object(items));
            }
            Self::Text(bytes_max) => set(
                json!({"type": "string", "pattern": r"\S", "minLength": 1, "maxLength": bytes_max}),
            ),
            // The words are in the schema of the type, each with its meaning.
            Self::Word(_) => set(json!({"type": "string"})),
            Self::Words(_) => set(json!({"type": "array"})),
            Self::Name(form) => {
                set(text_of(form));
                describe(schema, form);
            }
            Self::Names(form) => {
                set(json!({"type": "array", "maxItems": RULES_MAX, "items": text_of(form)}));
                describe(schema, form);
            }
            Self::Groups(form) => {
                let group =
                    json!({"type": "array", "minItems": 1, "maxItems": 16, "items": text_of(form)});
                set(json!({"type": "array", "minItems": 2, "maxItems": 16, "items": group}));
                schema.remove("default");
            }
            Self::Duration(zero) => set(json!({
                "type": ["integer", "string"],
                "minimum": i32::from(!zero),
                "maximum": MAX_DURATION_MS / 1_000,
                "pattern": r"^\s*([0-9]+|([0-9]+(ms|s|m|h|d|w)\s*)+)\s*$",
            })),
            Self::Whole(min, i64::MAX) => set(json!({"type": "integer", "minimum": min})),
            Self::Whole(min, max) => {
                set(json!({"type": "integer", "minimum": min, "maximum": max}));
            }
            Self::Flag => set(json!({"type": "boolean"})),
            Self::Texts => set(json!({
                "type": "array", "maxItems": 256, "items": {"type": "string", "maxLength": 8_192},
            })),
            Self::Variables => {
                schema.remove("default");
                schema.insert("type".to_owned(), json!("object"));
                schema.insert("maxProperties".to_owned(), json!(64));
                schema.insert(
                    "propertyNames".to_owned(),
                    json!({"pattern": ENV_NAME.pattern}),
                );
                let value = json!({"type": "string", "maxLength": 8_192});
                schema.insert("additionalProperties".to_owned(), value);
            }
            Self::Arguments => {
                schema.remove("default");
                schema.insert("type".to_owned(), json!("object"));
            }
            Self::Headers => {
                schema.remove("default");
                schema.insert("type".to_owned(), json!("object"));
                schema.insert("maxProperties".to_owned(), json!(64));
                let value = json!({"type": "string", "minLength": 1, "maxLength": 8_192});
                schema.insert("additionalProperties".to_owned(), value);
            }
            Self::Scalar => set(json!({
                "type": ["string", "integer", "boolean", "array"], "items": {"type": "string"},
            })),
            Self::Scalars => set(json!({
                "type": "array", "minItems": 1, "maxItems": 256, "items": {"type": ["string", "integer"]},
            })),
        }
    }
}

/// Says what is allowed, which a pattern does not say to everyone.
fn describe(schema: &mut Map<String, Value>, form: &Form) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        text.push_str(&format!(" Allowed: {}.", form.allowed));
    }
}

fn text_of(form: &Form) -> Value {
    json!({"type": "string", "pattern": form.pattern})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every key of the table with its schema, by its path.
    fn each(
        keys: &'static [Key],
        schema: &Value,
        path: &str,
        see: &mut impl FnMut(&str, &Key, &Value),
    ) {
        for key in keys {
            let at = format!("{path}{}", key.name);
            let property = &schema["properties"][key.name];
            see(&at, key, property);
            match key.shape {
                Shape::Section(keys) => each(keys, property, &format!("{at}."), see),
                Shape::Sections(keys) => each(keys, &property["items"], &format!("{at}."), see),
                _ => {}
            }
        }
    }

    #[test]
    fn every_key_says_what_it_is_for_and_the_words_of_types_and_table_are_the_same() {
        let (schema, mut wrong, mut seen) = (manifest_schema(), Vec::new(), 0);
        each(MANIFEST, &schema, "", &mut |at, key, property| {
            seen += 1;
            if property["description"].as_str().is_none_or(str::is_empty) {
                wrong.push(format!(
                    "{at}: the type has no such field, or no words for it"
                ));
            }
            let (words, of_type) = match key.shape {
                Shape::Word(words) => (words, property),
                Shape::Words(words) => (words, &property["items"]),
                _ => return,
            };
            let mut typed: Vec<&Value> = Vec::new();
            typed.extend(of_type["enum"].as_array().into_iter().flatten());
            for choice in of_type["oneOf"].as_array().into_iter().flatten() {
                typed.extend(choice["enum"].as_array().into_iter().flatten());
                typed.extend(choice.get("const"));
            }
            let typed: BTreeSet<&str> = typed.into_iter().filter_map(Value::as_str).collect();
            if typed != words.iter().copied().collect() {
                wrong.push(format!("{at}: the table has {words:?}, the type {typed:?}"));
            }
        });
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(seen > 60, "{seen}");
    }
}
