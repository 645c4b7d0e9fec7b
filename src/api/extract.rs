//! Extractors whose every refusal is a problem, and which hide no fault behind another.
//!
//! Body and query string come with the faults that were found in them; the handler adds those of the values and then
//! refuses all of them together, see [`Faults`].

use std::{collections::BTreeSet, sync::LazyLock};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
};
use http::{HeaderMap, Uri, header, request::Parts};
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

pub use super::faults::Faults;
use super::{
    error::{ApiError, Code},
    shape::Shape,
};
use crate::{
    domain::violation::Violation,
    wire::{
        CheckCredentials, CreateAccessToken, CreateInstance, ImportRequest, PatchAccessToken,
        PatchInstance, PutCredential, ReplaceCredential, RotateAccessToken, TtlRequest,
    },
};

/// A request body, whose shape is that of its schema.
pub trait RequestBody: DeserializeOwned + ToSchema {
    /// [`Shape::of`] this type, made once.
    fn shape() -> &'static Shape;

    /// What an empty body means; `None`: a body is required.
    fn when_empty() -> Option<Self>;
}

macro_rules! request_bodies {
    ($($body:ident, $when_empty:expr;)*) => {
        $(impl RequestBody for $body {
            fn shape() -> &'static Shape {
                static SHAPE: LazyLock<Shape> = LazyLock::new(Shape::of::<$body>);
                &SHAPE
            }

            fn when_empty() -> Option<Self> {
                $when_empty
            }
        })*
    };
}

request_bodies! {
    CheckCredentials, None;
    CreateInstance, None;
    PatchInstance, None;
    TtlRequest, Some(Self::default());
    RotateAccessToken, Some(Self::default());
    CreateAccessToken, None;
    PatchAccessToken, None;
    PutCredential, None;
    ReplaceCredential, None;
    ImportRequest, None;
}

/// A JSON body: what is right of it, and its faults. Fields that must be there and are not, or are of a wrong type, are
/// empty.
pub struct Json<T>(pub T, pub Faults);

impl<T: RequestBody, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let headers = request.headers().clone();
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| ApiError::of_bare_status(rejection.status()))?;
        read_body(&headers, &bytes)
    }
}

fn read_body<T: RequestBody>(headers: &HeaderMap, bytes: &[u8]) -> Result<Json<T>, ApiError> {
    if bytes.is_empty()
        && let Some(value) = T::when_empty()
    {
        return Ok(Json(value, Faults::default()));
    }
    if !is_json(headers) {
        return Err(ApiError::new(
            Code::UnsupportedMediaType,
            "send the body as `Content-Type: application/json`",
        ));
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
    reduced(value)
}

/// A body that is JSON, by its shape.
pub(super) fn reduced<T: RequestBody>(mut value: Value) -> Result<Json<T>, ApiError> {
    let mut faults = Vec::new();
    T::shape().reduce(&mut value, &mut faults);
    // serde would read a list of fields, too.
    if !value.is_object() {
        return Err(ApiError::invalid(faults));
    }
    match serde_json::from_value(value) {
        Ok(value) => Ok(Json(value, faults.into())),
        Err(_) => {
            // serde's own text may repeat a value, and a value may be a secret.
            let message = "the body does not have the documented shape";
            faults.push(Violation::new("", "type", message));
            Err(ApiError::invalid(faults))
        }
    }
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

/// The query string: what is right of it, and its faults. Every parameter of `T` must be optional.
pub struct Query<T>(pub T, pub Faults);

impl<T: DeserializeOwned + IntoParams, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        read_query(parts.uri.query().unwrap_or_default())
    }
}

/// Each parameter is read alone first, so that no fault hides another.
fn read_query<T: DeserializeOwned + IntoParams>(query: &str) -> Result<Query<T>, ApiError> {
    let (mut seen, mut right) = (BTreeSet::new(), Vec::new());
    let mut faults = Faults::default();
    for piece in query.split('&').filter(|piece| !piece.is_empty()) {
        let name = parsed::<Vec<(String, String)>>(piece)
            .ok()
            .and_then(|pairs| Some(pairs.into_iter().next()?.0))
            .unwrap_or_default();
        let shown: String = name.chars().take(80).collect();
        if !seen.insert(name) {
            let message = format!("{shown} is given more than once");
            faults.add([Violation::of_parameter(shown, "repeated", message)]);
            continue;
        }
        match parsed::<T>(piece) {
            Ok(_) => right.push(piece),
            Err(text) => faults.add([of_parameter::<T>(shown, &text)]),
        }
    }
    // Two names of one parameter, each of which is right.
    let value = parsed(&right.join("&")).map_err(|text| ApiError::new(Code::InvalidQuery, text))?;
    Ok(Query(value, faults))
}

fn parsed<T: DeserializeOwned>(query: &str) -> Result<T, String> {
    let uri = Uri::builder().path_and_query(format!("/?{query}")).build();
    let uri = uri.map_err(|_| "it is not valid in a URL".to_owned())?;
    match axum::extract::Query::try_from_uri(&uri) {
        Ok(axum::extract::Query(value)) => Ok(value),
        Err(rejection) => {
            let text = rejection.body_text();
            let text = text.trim_start_matches("Failed to deserialize query string: ");
            Err(text.chars().take(400).collect())
        }
    }
}

/// What serde says of one parameter: it names what is allowed, but for numbers.
fn of_parameter<T: IntoParams>(name: String, text: &str) -> Violation {
    let known = T::into_params(|| None);
    let number = known.iter().find_map(|parameter| {
        let schema = serde_json::to_value(parameter.schema.as_ref()?).ok()?;
        let is_number = schema["type"].to_string().contains("integer");
        (parameter.name == name && is_number).then_some(schema)
    });
    if let Some(schema) = number {
        let mut message = format!("{name} must be a whole number");
        if let (Some(least), Some(most)) = (schema["minimum"].as_u64(), schema["maximum"].as_u64())
        {
            message.push_str(&format!(" from {least} to {most}"));
        }
        return Violation::of_parameter(name, "type", message);
    }
    let text = text.strip_prefix(&format!("{name}: ")).unwrap_or(text);
    if text.starts_with("unknown field") {
        let known: Vec<&str> = known.iter().map(|one| one.name.as_str()).collect();
        let known = known.join(", ");
        let message = format!("{name:?} is not known here; known are {known}");
        return Violation::of_parameter(name, "unknown", message);
    }
    if let Some((_, expected)) = text.split_once(", expected ")
        && text.starts_with("unknown variant")
    {
        let message = format!("{name} must be {}", expected.replace('`', ""));
        return Violation::of_parameter(name, "enum", message);
    }
    Violation::of_parameter(name, "pattern", text)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize, IntoParams)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        /// So many.
        #[param(minimum = 1, maximum = 9)]
        limit: Option<usize>,
        /// Which.
        #[serde(alias = "word")]
        #[param(value_type = Option<String>)]
        which: Option<Which>,
        /// A text.
        text: Option<String>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Which {
        First,
        Last,
    }

    fn told(faults: Faults) -> Vec<(String, String)> {
        let of = |one: &Violation| {
            let place = one.parameter.as_ref().unwrap_or(&one.pointer);
            (place.clone(), one.code.clone())
        };
        faults.list().iter().map(of).collect()
    }

    #[test]
    fn every_parameter_of_a_query_is_judged_alone() {
        let Query(asked, faults) =
            read_query::<Asked>("limit=many&which=middle&text=a%26b&lim%C3%AFt=1&text=c")
                .expect("read");
        assert_eq!(asked.text.as_deref(), Some("a&b"));
        assert_eq!((asked.limit, asked.which), (None, None));
        let expected = [
            ("limit", "type"),
            ("which", "enum"),
            ("lim\u{ef}t", "unknown"),
            ("text", "repeated"),
        ];
        assert_eq!(
            told(faults),
            expected.map(|(name, code)| (name.to_owned(), code.to_owned()))
        );

        let Query(asked, faults) = read_query::<Asked>("&limit=3&word=last&").expect("read");
        assert_eq!((asked.limit, asked.which), (Some(3), Some(Which::Last)));
        assert!(!faults.any());
        assert!(read_query::<Asked>("which=last&word=last").is_err());
    }

    #[test]
    fn sentences_name_what_is_allowed() {
        let Query(_, faults) = read_query::<Asked>("limit=-1&which=no&what=x").expect("read");
        let said: Vec<&str> = faults
            .list()
            .iter()
            .map(|one| one.message.as_str())
            .collect();
        let expected = [
            "limit must be a whole number from 1 to 9",
            "which must be first or last",
            "\"what\" is not known here; known are limit, which, text",
        ];
        assert_eq!(said, expected);
    }

    /// JSON that is nearly a body: fields of ours and others, with values of every type.
    fn nearly() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z]{0,4}".prop_map(Value::from),
        ];
        let key = prop::sample::select(vec![
            "template",
            "name",
            "ttl",
            "credentials",
            "settings",
            "labels",
            "scope",
            "tools",
            "expires_at",
            "rate_limit",
            "requests",
            "per",
            "concurrency_max",
            "overlap",
            "value",
            "other",
            "a/b",
        ]);
        leaf.prop_recursive(3, 24, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key.clone(), inner, 0..7).prop_map(|map| map
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect::<Value>()),
            ]
        })
    }

    /// The schema is no looser than the type: what is left over can always be read, and what has no fault is unchanged.
    fn reads<T: RequestBody + serde::Serialize>(value: &Value) {
        let mut left = value.clone();
        let mut faults = Vec::new();
        T::shape().reduce(&mut left, &mut faults);
        if !value.is_object() {
            assert_eq!(faults.len(), 1, "{value}");
            return;
        }
        let read = serde_json::from_value::<T>(left.clone());
        assert!(read.is_ok(), "{:?}: {value} became {left}", read.err());
        assert_eq!(
            faults.is_empty(),
            left == *value,
            "{value} became {left}: {faults:?}"
        );
        let mut again = Vec::new();
        T::shape().reduce(&mut left, &mut again);
        assert!(again.is_empty(), "{left}: {again:?}");
    }

    proptest! {
        #[test]
        fn what_is_left_of_any_body_can_be_read(value in nearly()) {
            reads::<CreateInstance>(&value);
            reads::<PatchInstance>(&value);
            reads::<TtlRequest>(&value);
            reads::<RotateAccessToken>(&value);
            reads::<CreateAccessToken>(&value);
            reads::<PatchAccessToken>(&value);
            reads::<PutCredential>(&value);
            reads::<ReplaceCredential>(&value);
            reads::<ImportRequest>(&value);
        }
    }

    #[test]
    fn a_body_that_is_no_object_is_refused_at_once() {
        let refused = reduced::<TtlRequest>(json!([])).err().expect("refused");
        assert_eq!(
            refused.problem("r").violations[0].pointer.as_deref(),
            Some("")
        );
    }
}
