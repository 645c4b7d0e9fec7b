//! Extractors whose every refusal is a problem, and which report all structural faults of a body at once.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
};
use http::{HeaderMap, header, request::Parts};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::{ApiError, Code};
use crate::domain::violation::{Violation, pointer_token};

/// What one field of a request body may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A text.
    Text,
    /// Seconds or a text such as `30m`; its value is checked later.
    Duration,
    /// An object whose values are texts.
    TextMap,
    /// An object.
    AnyMap,
    /// `true` or `false`.
    Flag,
    /// A list of texts.
    TextList,
    /// Of several types; its value is checked later.
    Open,
}

/// One field of a request body.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its key.
    pub name: &'static str,
    /// What it may hold.
    pub shape: Shape,
    /// Whether it must be there.
    pub required: bool,
}

/// A field that must be there.
#[must_use]
pub const fn required(name: &'static str, shape: Shape) -> Field {
    Field {
        name,
        shape,
        required: true,
    }
}

/// A field that may be absent or null.
#[must_use]
pub const fn optional(name: &'static str, shape: Shape) -> Field {
    Field {
        name,
        shape,
        required: false,
    }
}

/// A request body: its fields are known, so that every fault can be listed, where serde stops at the first.
pub trait RequestBody: DeserializeOwned {
    /// Every field; the order is that of messages.
    const FIELDS: &'static [Field];
    /// What an empty body means; `None`: a body is required.
    fn when_empty() -> Option<Self> {
        None
    }
}

/// A JSON body of type `T`.
pub struct Json<T>(pub T);

impl<T: RequestBody, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let headers = request.headers().clone();
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| ApiError::of_bare_status(rejection.status()))?;
        read_body(&headers, &bytes).map(Json)
    }
}

fn read_body<T: RequestBody>(headers: &HeaderMap, bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.is_empty()
        && let Some(value) = T::when_empty()
    {
        return Ok(value);
    }
    if !is_json(headers) {
        return Err(ApiError::new(
            Code::UnsupportedMediaType,
            "send the body as `Content-Type: application/json`",
        ));
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
    let violations = faults(&value, T::FIELDS);
    if !violations.is_empty() {
        return Err(ApiError::invalid(violations));
    }
    serde_json::from_value(value).map_err(|_| {
        // serde's own text may repeat a value, and a value may be a secret.
        let message = "the body does not have the documented shape";
        ApiError::invalid(vec![Violation::new("", "type", message)])
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(text) = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let essence = text.split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case("application/json")
        || (essence.len() > 5 && essence[essence.len() - 5..].eq_ignore_ascii_case("+json"))
}

/// Line and column, never the text itself: the body may hold a secret.
fn malformed(error: &serde_json::Error) -> ApiError {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "ends too early",
        _ => "is not JSON",
    };
    ApiError::new(
        Code::MalformedJson,
        format!(
            "the body {what} at line {}, column {}",
            error.line(),
            error.column()
        ),
    )
}

fn faults(value: &Value, fields: &[Field]) -> Vec<Violation> {
    let Some(object) = value.as_object() else {
        return vec![Violation::new("", "type", "the body must be a JSON object")];
    };
    let mut found = Vec::new();
    for field in fields {
        match object.get(field.name) {
            None | Some(Value::Null) if !field.required => {
                // An optional map is either there or not; null would be a third meaning.
                if object.contains_key(field.name)
                    && matches!(field.shape, Shape::TextMap | Shape::AnyMap | Shape::Flag)
                {
                    found.push(wrong_type(field, &format!("/{}", field.name)));
                }
            }
            None => {
                let message = format!("{} is required", field.name);
                found.push(Violation::new(
                    format!("/{}", field.name),
                    "required",
                    message,
                ));
            }
            Some(given) => check_shape(field, given, &mut found),
        }
    }
    unknown_fields(object, fields, &mut found);
    found
}

fn check_shape(field: &Field, given: &Value, found: &mut Vec<Violation>) {
    let pointer = format!("/{}", field.name);
    match (field.shape, given) {
        (Shape::Text | Shape::Duration, Value::String(_))
        | (Shape::Open, _)
        | (Shape::Duration, Value::Number(_))
        | (Shape::Flag, Value::Bool(_))
        | (Shape::AnyMap, Value::Object(_)) => {}
        (Shape::TextList, Value::Array(list)) => {
            for (index, entry) in list.iter().enumerate() {
                if !entry.is_string() {
                    let pointer = format!("{pointer}/{index}");
                    found.push(Violation::new(pointer, "type", "a text is expected"));
                }
            }
        }
        (Shape::TextMap, Value::Object(map)) => {
            for (key, value) in map {
                if !value.is_string() {
                    let pointer = format!("{pointer}/{}", pointer_token(key));
                    found.push(Violation::new(pointer, "type", "a text is expected"));
                }
            }
        }
        _ => found.push(wrong_type(field, &pointer)),
    }
}

fn wrong_type(field: &Field, pointer: &str) -> Violation {
    let expected = match field.shape {
        Shape::Text => "a text",
        Shape::Duration => "seconds, or a text such as \"30m\" or \"2h\"",
        Shape::TextMap => "an object of texts",
        Shape::AnyMap => "an object",
        Shape::Flag => "true or false",
        Shape::TextList => "a list of texts",
        Shape::Open => "there",
    };
    Violation::new(
        pointer,
        "type",
        format!("{} must be {expected}", field.name),
    )
}

fn unknown_fields(object: &Map<String, Value>, fields: &[Field], found: &mut Vec<Violation>) {
    for key in object.keys() {
        if !fields.iter().any(|field| field.name == key) {
            let allowed: Vec<_> = fields.iter().map(|field| field.name).collect();
            let shown: String = key.chars().take(80).collect();
            let message = format!(
                "{shown:?} is not known here; known are {}",
                allowed.join(", ")
            );
            let pointer = format!("/{}", pointer_token(&shown));
            found.push(Violation::new(pointer, "unknown", message));
        }
    }
}

/// The query string; unknown and doubled parameters are refused.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let text = rejection.body_text();
                // What is left names the parameter and what is allowed.
                let text = text.trim_start_matches("Failed to deserialize query string: ");
                let text: String = text.chars().take(400).collect();
                Err(ApiError::new(Code::InvalidQuery, text))
            }
        }
    }
}

/// One parameter of the path.
pub struct PathParam(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathParam {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Path::<String>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(_) => Err(ApiError::new(
                Code::BadRequest,
                "the path is not valid percent-encoded UTF-8",
            )),
        }
    }
}

/// Two parameters of the path.
pub struct PathPair(pub String, pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathPair {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        type Pair = axum::extract::Path<(String, String)>;
        match Pair::from_request_parts(parts, state).await {
            Ok(axum::extract::Path((first, second))) => Ok(Self(first, second)),
            Err(_) => Err(ApiError::new(
                Code::BadRequest,
                "the path is not valid percent-encoded UTF-8",
            )),
        }
    }
}
