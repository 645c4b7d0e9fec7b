//! GitHub's official description of its REST API, reduced to what the server uses, and the check of requests by it.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::http::{HeaderMap, Method};
use jsonschema::Validator;
use serde::Deserialize;
use serde_json::Value;

/// One description for all tests; it is read once.
pub static GITHUB: LazyLock<Description> = LazyLock::new(|| {
    let mut description: Description =
        serde_json::from_str(include_str!("../fixtures/github-openapi.json"))
            .expect("a description");
    for operation in &mut description.operations {
        for parameter in &mut operation.parameters {
            parameter.validator = Some(validator(&parameter.schema));
        }
        if let Some(body) = &mut operation.body {
            body.validator = Some(validator(&body.schema));
        }
    }
    description
});

/// What GitHub's API has.
#[derive(Deserialize)]
pub struct Description {
    operations: Vec<Operation>,
    /// Answers by name, without most of their addresses.
    pub examples: BTreeMap<String, Value>,
}

/// One operation.
#[derive(Deserialize)]
pub struct Operation {
    /// Such as `issues/create`.
    pub id: String,
    method: String,
    path: String,
    parameters: Vec<Parameter>,
    #[serde(default)]
    multi_segment: Vec<String>,
    pub good_statuses: Vec<u16>,
    body: Option<Body>,
    /// The name of its example.
    pub example: Option<String>,
}

#[derive(Deserialize)]
struct Parameter {
    name: String,
    #[serde(rename = "in")]
    place: String,
    required: bool,
    schema: Value,
    #[serde(skip)]
    validator: Option<Validator>,
}

#[derive(Deserialize)]
struct Body {
    required: bool,
    schema: Value,
    #[serde(skip)]
    validator: Option<Validator>,
}

/// A request that the description allows.
pub struct Checked {
    pub operation: &'static Operation,
    /// The parameters of the path, decoded.
    pub path: BTreeMap<String, String>,
    pub query: BTreeMap<String, String>,
    /// Null for none.
    pub body: Value,
}

/// A validator that takes formats seriously.
pub fn validator(schema: &Value) -> Validator {
    let options = jsonschema::options().should_validate_formats(true);
    options.build(schema).expect("a valid schema")
}

impl Description {
    /// The request by its operation, or what the description has against it.
    pub fn check(
        &'static self,
        method: &Method,
        path: &str,
        query: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Checked, String> {
        let fitting = self
            .operations
            .iter()
            .filter(|one| one.method == method.as_str());
        let fitting = fitting.filter_map(|one| Some((one, one.placed(path)?)));
        // The path with the most fixed segments is the one meant.
        let (operation, placed) = fitting
            .max_by_key(|(one, _)| {
                one.path
                    .split('/')
                    .filter(|part| !part.starts_with('{'))
                    .count()
            })
            .ok_or_else(|| format!("no operation {method} {path}"))?;
        let fault = |fault: String| format!("{}: {fault}", operation.id);
        let query = pairs(query).map_err(fault)?;
        operation.check_parameters("path", &placed).map_err(fault)?;
        operation.check_parameters("query", &query).map_err(fault)?;
        check_headers(headers, &operation.id).map_err(fault)?;
        let body = operation.check_body(headers, body).map_err(fault)?;
        Ok(Checked {
            operation,
            path: placed,
            query,
            body,
        })
    }
}

impl Operation {
    /// The parameters of the path, if it is of this operation.
    fn placed(&self, path: &str) -> Option<BTreeMap<String, String>> {
        let mut given = path.split('/').peekable();
        let mut placed = BTreeMap::new();
        for part in self.path.split('/') {
            let segment = given.next()?;
            let Some(name) = part
                .strip_prefix('{')
                .and_then(|part| part.strip_suffix('}'))
            else {
                if part != segment {
                    return None;
                }
                continue;
            };
            let mut value = decoded(segment);
            let after = self.path.split('/').skip_while(|one| *one != part).count() - 1;
            if self.multi_segment.iter().any(|multi| multi == name) {
                while given.clone().count() > after {
                    value = format!("{value}/{}", decoded(given.next()?));
                }
            }
            placed.insert(name.to_owned(), value);
        }
        // The contents of the top folder have no path.
        given.next().is_none().then_some(placed)
    }

    fn check_parameters(
        &self,
        place: &str,
        given: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let known = || self.parameters.iter().filter(|one| one.place == place);
        if let Some(name) = given
            .keys()
            .find(|name| known().all(|one| one.name != **name))
        {
            return Err(format!("no {place} parameter {name}"));
        }
        for parameter in known() {
            let Some(text) = given.get(&parameter.name) else {
                if parameter.required {
                    return Err(format!("{place} parameter {} is missing", parameter.name));
                }
                continue;
            };
            let validator = parameter
                .validator
                .as_ref()
                .expect("made with the description");
            let value = typed(text, &parameter.schema);
            if let Err(error) = validator.validate(&value) {
                return Err(format!("{place} parameter {}: {error}", parameter.name));
            }
        }
        Ok(())
    }

    fn check_body(&self, headers: &HeaderMap, bytes: &[u8]) -> Result<Value, String> {
        let Some(body) = &self.body else {
            return if bytes.is_empty() {
                Ok(Value::Null)
            } else {
                Err("no body is allowed".to_owned())
            };
        };
        if bytes.is_empty() {
            return if body.required {
                Err("a body is needed".to_owned())
            } else {
                Ok(Value::Null)
            };
        }
        if headers
            .get("content-type")
            .is_none_or(|kind| kind != "application/json")
        {
            return Err("the body must be application/json".to_owned());
        }
        let value = serde_json::from_slice(bytes).map_err(|error| format!("body: {error}"))?;
        let validator = body.validator.as_ref().expect("made with the description");
        let fault = validator.iter_errors(&value).next();
        let fault = fault.map(|error| format!("body {}: {error}", error.instance_path()));
        fault.map_or(Ok(value), Err)
    }
}

/// What every request must have; other media types than JSON are for the operations that are documented with them.
fn check_headers(headers: &HeaderMap, operation: &str) -> Result<(), String> {
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let media = match operation {
        "pulls/get" => &["application/vnd.github+json", "application/vnd.github.diff"][..],
        "repos/get-content" => &[
            "application/vnd.github+json",
            "application/vnd.github.raw+json",
        ],
        _ => &["application/vnd.github+json"],
    };
    if !media.contains(&header("accept")) {
        return Err(format!("accept: {}", header("accept")));
    }
    if header("x-github-api-version") != "2022-11-28" {
        return Err("x-github-api-version is missing or of another version".to_owned());
    }
    // GitHub refuses requests without.
    if header("user-agent").is_empty() {
        return Err("user-agent is missing".to_owned());
    }
    Ok(())
}

/// The value that a text of an address stands for.
fn typed(text: &str, schema: &Value) -> Value {
    let accepts = |name: &str| schema.to_string().contains(&format!("\"{name}\""));
    match text {
        "true" | "false" if accepts("boolean") => Value::Bool(text == "true"),
        _ if accepts("integer") => text.parse::<u64>().map_or(Value::from(text), Value::from),
        _ => Value::from(text),
    }
}

fn pairs(query: &str) -> Result<BTreeMap<String, String>, String> {
    let mut pairs = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(&value.replace('+', " "));
        if pairs.insert(decoded(name), value).is_some() {
            return Err(format!("query parameter {name} comes twice"));
        }
    }
    Ok(pairs)
}

/// Percent-decoded.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            .filter(|_| *first == b'%')
        {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).expect("UTF-8 in an address")
}
