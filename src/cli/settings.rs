//! Settings of a new instance as they stand on a command line: by their own names, or by the variables that
//! deliver them.

use serde_json::{Map, Value};

use super::failure::Failure;

/// A setting's text as the API wants it: JSON where it reads as such, else the text itself.
pub(super) fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// The setting that is delivered as the variable `name`, by the schema of a template's settings, and its value.
pub(super) fn by_variable(
    schema: &Value,
    name: &str,
    text: &str,
) -> Result<(String, Value), Failure> {
    let none = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    let variable_of = |property: &Value| property["x-env"].as_str().map(str::to_owned);
    let found = properties
        .iter()
        .find(|(_, property)| variable_of(property).as_deref() == Some(name));
    let Some((setting, property)) = found else {
        let known: Vec<String> = properties.values().filter_map(variable_of).collect();
        let known = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        return Err(Failure::Usage(format!(
            "the template takes no variable {name} (it takes {known}); a secret is given with --credential"
        )));
    };
    let value = match property["type"].as_str() {
        Some("string") => text.into(),
        Some("array") if !text.starts_with('[') => text.split(',').map(Value::from).collect(),
        _ => value(text),
    };
    Ok((setting.clone(), value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_variable_finds_its_setting() {
        let schema = json!({"properties": {
            "depth": {"type": "integer", "x-env": "DEPTH"},
            "label": {"type": "string", "x-env": "LABEL"},
            "toolsets": {"type": "array", "x-env": "TOOLSETS"},
            "folders": {"type": "array"},
        }});
        let found = |name, text| by_variable(&schema, name, text).ok();
        assert_eq!(found("DEPTH", "3"), Some(("depth".to_owned(), json!(3))));
        assert_eq!(found("LABEL", "3"), Some(("label".to_owned(), json!("3"))));
        assert_eq!(
            found("TOOLSETS", "a,b"),
            Some(("toolsets".to_owned(), json!(["a", "b"])))
        );
        let refused = by_variable(&schema, "TOKEN", "x")
            .expect_err("unknown")
            .to_string();
        assert!(
            refused.contains("DEPTH, LABEL, TOOLSETS") && refused.contains("--credential"),
            "{refused}"
        );
    }
}
