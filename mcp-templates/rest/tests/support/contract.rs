//! An API description, cut down by `reduce_api.py`, as the judge of every request and every answer of a fake.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, Method, Uri};
use jsonschema::Validator;
use serde_json::{Value, json};

/// What a request is, once it is found to be right.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The id of the operation.
    pub operation: String,
    /// Parameters in the path, decoded.
    pub path: BTreeMap<String, String>,
    /// Parameters in the query, decoded, in order.
    pub query: Vec<(String, String)>,
    /// The body as JSON; null where there is none.
    pub body: Value,
    /// The bytes beside the JSON of an upload.
    pub upload: Option<Vec<u8>>,
    /// The scopes of which one is needed.
    pub scopes: Vec<String>,
}

impl Asked {
    /// A parameter of the query.
    pub fn one(&self, name: &str) -> Option<&str> {
        let (_, value) = self.query.iter().find(|(known, _)| known == name)?;
        Some(value)
    }
}

struct Parameter {
    schema: Validator,
    kind: Option<String>,
    required: bool,
    repeated: bool,
}

struct Operation {
    id: String,
    method: Method,
    path: String,
    upload_path: Option<String>,
    query: BTreeMap<String, Parameter>,
    body: Option<Validator>,
    body_required: bool,
    body_members: Vec<String>,
    answers: BTreeMap<String, Option<Validator>>,
    scopes: Vec<String>,
}

/// The operations of an API.
pub struct Contract {
    operations: Vec<Operation>,
}

impl Contract {
    /// Reads a fixture.
    pub fn load(fixture: &str) -> Self {
        let document: Value = serde_json::from_str(fixture).expect("the fixture is JSON");
        for told in ["source", "version", "licence"] {
            assert!(
                document[told].is_string(),
                "the fixture does not tell its {told}"
            );
        }
        // One schema at a time, with all that it may refer to.
        let validator = |schema: &Value| {
            let mut root =
                json!({"requests": document["requests"], "answers": document["answers"]});
            for (keyword, value) in schema.as_object().expect("a schema is an object") {
                root[keyword] = value.clone();
            }
            jsonschema::validator_for(&root).expect("a valid schema")
        };
        let optional = |schema: &Value| (!schema.is_null()).then(|| validator(schema));
        let texts = |value: &Value| -> Vec<String> {
            serde_json::from_value(value.clone()).unwrap_or_default()
        };
        let operations = document["operations"].as_array().expect("operations");
        let operations = operations
            .iter()
            .map(|operation| Operation {
                id: operation["id"].as_str().expect("an id").to_owned(),
                method: operation["method"]
                    .as_str()
                    .expect("a method")
                    .parse()
                    .expect("a method"),
                path: operation["path"].as_str().expect("a path").to_owned(),
                upload_path: operation["uploadPath"].as_str().map(str::to_owned),
                query: operation["query"]
                    .as_object()
                    .expect("parameters")
                    .iter()
                    .map(|(name, spec)| {
                        let parameter = Parameter {
                            schema: validator(&spec["schema"]),
                            kind: spec["schema"]["type"].as_str().map(str::to_owned),
                            required: spec["required"] == true,
                            repeated: spec["repeated"] == true,
                        };
                        (name.clone(), parameter)
                    })
                    .collect(),
                body: optional(&operation["body"]),
                body_required: operation["bodyRequired"] == true,
                body_members: texts(&operation["bodyMembers"]),
                answers: operation["answers"]
                    .as_object()
                    .expect("answers")
                    .iter()
                    .map(|(status, schema)| (status.clone(), optional(schema)))
                    .collect(),
                scopes: texts(&operation["scopes"]),
            })
            .collect();
        Self { operations }
    }

    /// Judges a request.
    pub fn check(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Asked, String> {
        let candidates = self
            .operations
            .iter()
            .filter(|operation| operation.method == *method);
        let found = candidates
            .filter_map(|operation| {
                let plain = matched(&operation.path, uri.path()).map(|path| (path, false));
                let upload = || {
                    let path = matched(operation.upload_path.as_deref()?, uri.path())?;
                    Some((path, true))
                };
                let (path, is_upload) = plain.or_else(upload)?;
                Some((operation, path, is_upload))
            })
            // `/messages/send` is not a message with the id `send`.
            .min_by_key(|(_, path, _)| path.len());
        let Some((operation, path, is_upload)) = found else {
            return Err(format!("there is no {method} {}", uri.path()));
        };
        let query: Vec<(String, String)> = pairs(uri.query().unwrap_or_default());
        let mut asked = Asked {
            operation: operation.id.clone(),
            path,
            query,
            body: Value::Null,
            upload: None,
            scopes: operation.scopes.clone(),
        };
        operation.check_query(&asked.query, is_upload)?;
        let content_type = headers
            .get("content-type")
            .map(|value| value.to_str().unwrap_or_default())
            .unwrap_or_default();
        if is_upload {
            let (json, bytes) = related(content_type, body)?;
            (asked.body, asked.upload) = (json, Some(bytes));
        } else if !body.is_empty() {
            if content_type.split(';').next() != Some("application/json") {
                return Err(format!(
                    "{}: the body is {content_type:?}, not JSON",
                    operation.id
                ));
            }
            asked.body = serde_json::from_slice(body)
                .map_err(|error| format!("{}: {error}", operation.id))?;
        }
        operation.check_body(&asked)?;
        Ok(asked)
    }

    /// Judges an answer of the fake itself; what it invents must look like the real thing.
    pub fn check_answer(&self, operation: &str, status: u16, body: &[u8]) -> Result<(), String> {
        let known = self.operations.iter().find(|known| known.id == operation);
        let answers = &known.expect("an operation of the contract").answers;
        let schema = answers
            .get(&status.to_string())
            .or_else(|| answers.get("2XX"))
            .or_else(|| answers.values().next());
        let Some(Some(schema)) = schema else {
            return Ok(());
        };
        let json: Value =
            serde_json::from_slice(body).map_err(|error| format!("{operation}: {error}"))?;
        verdict(schema, &json).map_err(|error| format!("the fake's answer to {operation}: {error}"))
    }
}

impl Operation {
    fn check_query(&self, query: &[(String, String)], is_upload: bool) -> Result<(), String> {
        let id = &self.id;
        for (name, value) in query {
            if is_upload && name == "uploadType" {
                continue;
            }
            let Some(parameter) = self.query.get(name) else {
                return Err(format!("{id}: there is no parameter {name}"));
            };
            let times = query.iter().filter(|(other, _)| other == name).count();
            if times > 1 && !parameter.repeated {
                return Err(format!("{id}: the parameter {name} comes {times} times"));
            }
            let value = match parameter.kind.as_deref() {
                Some("integer" | "number" | "boolean") => serde_json::from_str(value)
                    .map_err(|_| format!("{id}: {name}={value} has the wrong type"))?,
                _ => json!(value),
            };
            verdict(&parameter.schema, &value).map_err(|error| format!("{id}: {name}: {error}"))?;
        }
        for (name, parameter) in &self.query {
            if parameter.required && !query.iter().any(|(given, _)| given == name) {
                return Err(format!("{id}: the parameter {name} is missing"));
            }
        }
        Ok(())
    }

    fn check_body(&self, asked: &Asked) -> Result<(), String> {
        let id = &self.id;
        match &self.body {
            None if asked.body.is_null() => return Ok(()),
            None => return Err(format!("{id} takes no body")),
            Some(_) if asked.body.is_null() && self.body_required => {
                return Err(format!("{id} needs a body"));
            }
            Some(_) if asked.body.is_null() => return Ok(()),
            Some(schema) => {
                verdict(schema, &asked.body).map_err(|error| format!("{id}: {error}"))?
            }
        }
        for member in &self.body_members {
            let uploaded = member == "raw" && asked.upload.is_some();
            if asked.body[member].is_null() && !uploaded {
                return Err(format!("{id}: {member} is missing in the body"));
            }
        }
        Ok(())
    }
}

fn verdict(schema: &Validator, value: &Value) -> Result<(), String> {
    schema.validate(value).map_err(|error| {
        let place = error.instance_path().to_string();
        format!("at {place:?}: {error}")
    })
}

/// The parameters in `path`, if it has the form of `template`; none is empty.
fn matched(template: &str, path: &str) -> Option<BTreeMap<String, String>> {
    let (wanted, given): (Vec<_>, Vec<_>) =
        (template.split('/').collect(), path.split('/').collect());
    if wanted.len() != given.len() {
        return None;
    }
    let mut parameters = BTreeMap::new();
    for (wanted, given) in wanted.iter().zip(given) {
        match wanted
            .strip_prefix('{')
            .and_then(|name| name.strip_suffix('}'))
        {
            Some(_) if given.is_empty() => return None,
            Some(name) => {
                parameters.insert(name.to_owned(), decoded(given, false));
            }
            None if *wanted == given => {}
            None => return None,
        }
    }
    Some(parameters)
}

fn pairs(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name, true), decoded(value, true))
        })
        .collect()
}

fn decoded(text: &str, plus_is_space: bool) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let code: Vec<u8> = rest.by_ref().take(2).collect();
                let code = std::str::from_utf8(&code).expect("ASCII");
                bytes.push(u8::from_str_radix(code, 16).expect("two hexadecimal digits"));
            }
            b'+' if plus_is_space => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}

/// The JSON and the bytes of a `multipart/related` upload (RFC 2387).
fn related(content_type: &str, body: &[u8]) -> Result<(Value, Vec<u8>), String> {
    let boundary = content_type
        .strip_prefix("multipart/related; boundary=")
        .ok_or_else(|| format!("an upload of {content_type:?}"))?;
    let broken = || "a broken multipart/related body".to_owned();
    let find = |text: &str, from: usize| {
        let found = body[from..]
            .windows(text.len())
            .position(|window| window == text.as_bytes());
        found.map(|at| from + at).ok_or_else(broken)
    };
    let head_end = find("\r\n\r\n", 0)? + 4;
    let json_end = find(&format!("\r\n--{boundary}\r\n"), head_end)?;
    let second_end = find("\r\n\r\n", json_end + boundary.len())? + 4;
    let bytes_end = find(&format!("\r\n--{boundary}--"), second_end)?;
    let json =
        serde_json::from_slice(&body[head_end..json_end]).map_err(|error| error.to_string())?;
    Ok((json, body[second_end..bytes_end].to_vec()))
}
