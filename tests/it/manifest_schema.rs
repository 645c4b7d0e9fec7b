//! The JSON Schema of the manifest and the author's guide, both in `mcp-templates/`: current, complete and true.
//!
//! After a change to the manifest's keys: `MINIMCP_TEST_WRITE=1 cargo test --test it manifest_schema`.

use std::{fmt::Write as _, fs, path::PathBuf};

use minimcp::templates;
use serde_json::Value;

use crate::source;

const BEGIN: &str =
    "<!-- The keys: made from template.schema.json by tests/it/manifest_schema.rs. -->\n";
const END: &str = "<!-- The end of the keys. -->\n";

/// The manifests of the tree: those that are shipped, and those of the tests.
pub fn manifests() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for folder in ["mcp-templates", "tests/fixtures/templates"] {
        for entry in fs::read_dir(source::root().join(folder)).expect("it is in the tree") {
            let file = entry.expect("readable").path().join("template.toml");
            if let Ok(text) = fs::read_to_string(&file) {
                found.push((file, text));
            }
        }
    }
    assert!(found.len() > 30, "{}", found.len());
    found
}

/// A manifest as JSON, where it is TOML at all.
pub fn as_json(text: &str) -> Option<Value> {
    let table: toml::Table = toml::from_str(text).ok()?;
    serde_json::to_value(table).ok()
}

/// Compares a text with what a file of the tree should hold, and writes it where that is asked for.
fn assert_in_tree(file: &str, stands: &str, should: &str) {
    if std::env::var_os("MINIMCP_TEST_WRITE").is_some() {
        fs::write(source::root().join(file), should).expect("the tree is ours");
    } else {
        assert!(
            stands == should,
            "{file} is not current: MINIMCP_TEST_WRITE=1 cargo test --test it manifest_schema"
        );
    }
}

fn read(file: &str) -> String {
    fs::read_to_string(source::root().join(file)).unwrap_or_default()
}

#[test]
fn the_schema_in_the_tree_is_current() {
    let file = "mcp-templates/template.schema.json";
    let text = serde_json::to_string_pretty(&templates::manifest_schema()).expect("JSON");
    assert_in_tree(file, &read(file), &format!("{text}\n"));
}

#[test]
fn the_schema_is_valid_and_accepts_every_manifest_of_the_tree() {
    let schema = templates::manifest_schema();
    assert!(jsonschema::meta::is_valid(&schema));
    let validator = jsonschema::validator_for(&schema).expect("a valid schema");
    for (file, text) in manifests() {
        let manifest = as_json(&text).expect("TOML");
        let faults: Vec<String> = validator
            .iter_errors(&manifest)
            .map(|fault| format!("{} at {}", fault, fault.instance_path()))
            .collect();
        assert!(faults.is_empty(), "{}: {faults:?}", file.display());
    }
}

#[test]
fn the_guide_names_every_key_with_what_it_holds() {
    let file = "mcp-templates/README.md";
    let guide = read(file);
    let (before, rest) = guide.split_once(BEGIN).expect("the guide has the mark");
    let (_, after) = rest.split_once(END).expect("the guide has the end mark");
    let schema = templates::manifest_schema();
    let mut keys = String::from("\n");
    section(&mut keys, "The top of the file", &schema);
    let properties = schema["properties"].as_object().expect("it has keys");
    for (name, property) in properties {
        match (&property["properties"], &property["items"]["properties"]) {
            (Value::Object(_), _) => section(&mut keys, &format!("`[{name}]`"), property),
            (_, Value::Object(_)) => {
                section(&mut keys, &format!("`[[{name}]]`"), &property["items"]);
            }
            _ => {}
        }
    }
    assert_in_tree(file, &guide, &format!("{before}{BEGIN}{keys}{END}{after}"));
}

/// The table of one section.
fn section(text: &mut String, title: &str, schema: &Value) {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let _ = writeln!(
        text,
        "### {title}\n\n| key | holds | default | meaning |\n|---|---|---|---|"
    );
    for (name, property) in schema["properties"].as_object().expect("it has keys") {
        let default = match &property["default"] {
            _ if required.contains(&Value::from(name.as_str())) => "must be given".to_owned(),
            Value::Null => String::new(),
            Value::String(word) => format!("`\"{word}\"`"),
            default => format!("`{default}`"),
        };
        let meaning = property["description"].as_str().unwrap_or_default();
        let words = words(property).or_else(|| words(&property["items"]));
        let meaning = format!("{meaning}{}", words.unwrap_or_default()).replace('|', "\\|");
        let holds = holds(property).replace('|', "\\|");
        let _ = writeln!(text, "| `{name}` | {holds} | {default} | {meaning} |");
    }
    text.push('\n');
}

/// The words that a key may hold, with their meanings.
fn words(property: &Value) -> Option<String> {
    let mut told = String::new();
    for choice in property["oneOf"].as_array()? {
        if let Some(word) = choice["const"].as_str() {
            let meaning = choice["description"].as_str().unwrap_or_default();
            let _ = write!(told, " `{word}`: {}", meaning.replace('\n', " "));
        }
        for word in choice["enum"].as_array().into_iter().flatten() {
            let _ = write!(told, " `{}`.", word.as_str().unwrap_or_default());
        }
    }
    Some(told)
}

/// What a key may hold, in words.
fn holds(property: &Value) -> String {
    let number = |name: &str| property[name].as_u64();
    if property["properties"].is_object() {
        return "a table".to_owned();
    }
    if property["pattern"]
        .as_str()
        .is_some_and(|text| text.contains("ms|s|m|h|d|w"))
    {
        let least = if number("minimum") == Some(0) {
            "0"
        } else {
            "above 0"
        };
        return format!("a duration, {least} to 3650d");
    }
    match property["type"].as_str() {
        Some("string") => match (number("maxLength"), property["pattern"].as_str()) {
            (Some(most), _) => format!("text of 1 to {most} bytes"),
            (None, Some(_)) => "text".to_owned(),
            (None, None) => "a word".to_owned(),
        },
        Some("integer") => match (number("minimum"), number("maximum")) {
            (Some(least), Some(most)) if least == most => format!("the number {least}"),
            (Some(least), Some(most)) => format!("a whole number, {least} to {most}"),
            (least, _) => format!("a whole number, at least {}", least.unwrap_or_default()),
        },
        Some("boolean") => "`true` or `false`".to_owned(),
        Some("array") => {
            let items = &property["items"];
            let most =
                number("maxItems").map_or_else(String::new, |most| format!("at most {most} "));
            let what = match (&items["properties"], items["pattern"].as_str()) {
                (Value::Object(_), _) => "tables".to_owned(),
                (_, Some(_)) => "texts".to_owned(),
                _ if items["type"] == "array" => "lists of texts".to_owned(),
                _ if items["type"].is_array() => "texts or whole numbers".to_owned(),
                _ => "texts".to_owned(),
            };
            format!("a list of {most}{what}")
        }
        Some("object") if property["propertyNames"].is_object() => {
            "a table of at most 64 variables, each with text".to_owned()
        }
        Some("object") if number("maxProperties").is_some() => {
            "a table of at most 64 headers, each with text".to_owned()
        }
        Some("object") => "a table".to_owned(),
        _ => "text, a whole number, `true`, `false` or a list of texts".to_owned(),
    }
}
