//! A stateful fake of the Gmail API and of Google's token endpoint, both of which refuse what Google's own description
//! does not know.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use axum::{
    Form, Json, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mail_parser::MessageParser;
use serde::Deserialize;
use serde_json::{Value, json};

/// What Google holds: the mailbox, and how many access tokens it gave; only the newest is good.
#[derive(Default)]
pub struct Google {
    /// Oldest first.
    pub messages: Mutex<Vec<Value>>,
    /// How many access tokens it gave.
    pub tokens: AtomicU32,
}

type Shared = State<Arc<Google>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenForm {
    grant_type: String,
    client_id: String,
    client_secret: String,
    refresh_token: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListQuery {
    q: String,
    max_results: usize,
    page_token: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMessage {
    raw: String,
    #[serde(rename = "threadId")]
    thread_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewDraft {
    message: NewMessage,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Modify {
    add_label_ids: Vec<String>,
    remove_label_ids: Vec<String>,
}

type Refusal = (StatusCode, Json<Value>);

fn refused(status: StatusCode, message: &str, reason: &str) -> Refusal {
    let body = json!({"error": {"code": status.as_u16(), "message": message, "status": "X",
        "errors": [{"message": message, "domain": "global", "reason": reason}]}});
    (status, Json(body))
}

async fn token(State(google): Shared, Form(form): Form<TokenForm>) -> Response {
    let good = form.grant_type == "refresh_token"
        && form.client_id == "client-1"
        && form.client_secret == "client-SECRET"
        && form.refresh_token == "1//refresh-SECRET";
    if !good {
        let body = json!({"error": "invalid_grant", "error_description": "Bad Request"});
        return (StatusCode::BAD_REQUEST, Json(body)).into_response();
    }
    let number = google.tokens.fetch_add(1, Ordering::SeqCst) + 1;
    Json(json!({
        "access_token": format!("ya29.SECRET-{number}"), "expires_in": 3599, "token_type": "Bearer",
        "scope": "https://www.googleapis.com/auth/gmail.modify",
    }))
    .into_response()
}

/// Answers 401 as Gmail does to every access token but the newest.
fn signed_in(google: &Google, headers: &HeaderMap) -> Result<(), Refusal> {
    let number = google.tokens.load(Ordering::SeqCst);
    let wanted = format!("Bearer ya29.SECRET-{number}");
    if number > 0
        && headers
            .get("authorization")
            .is_some_and(|given| *given == wanted)
    {
        return Ok(());
    }
    let message = "Request had invalid authentication credentials.";
    Err(refused(StatusCode::UNAUTHORIZED, message, "authError"))
}

async fn list(
    State(google): Shared,
    headers: HeaderMap,
    Query(query): Query<ListQuery>,
) -> Result<Response, Refusal> {
    signed_in(&google, &headers)?;
    let messages = google.messages.lock().expect("whole");
    let label = query.q.strip_prefix("in:").unwrap_or("inbox");
    let is_label = |id: &Value| id.as_str().is_some_and(|id| id.eq_ignore_ascii_case(label));
    let hits: Vec<&Value> = messages
        .iter()
        .rev()
        .filter(|message| {
            message["labelIds"]
                .as_array()
                .is_some_and(|ids| ids.iter().any(is_label))
        })
        .collect();
    if hits.is_empty() {
        return Ok(Json(json!({"resultSizeEstimate": 0})).into_response());
    }
    let from = query.page_token.unwrap_or(0);
    let page: Vec<Value> = hits
        .iter()
        .skip(from)
        .take(query.max_results)
        .map(|message| json!({"id": message["id"], "threadId": message["threadId"]}))
        .collect();
    let mut answer = json!({"messages": page, "resultSizeEstimate": hits.len()});
    if hits.len() > from + query.max_results {
        answer["nextPageToken"] = json!((from + query.max_results).to_string());
    }
    Ok(Json(answer).into_response())
}

async fn read(
    State(google): Shared,
    headers: HeaderMap,
    Path(id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, Refusal> {
    signed_in(&google, &headers)?;
    let wanted: Vec<(&str, &str)> = query
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let metadata = [
        ("format", "metadata"),
        ("metadataHeaders", "From"),
        ("metadataHeaders", "To"),
        ("metadataHeaders", "Subject"),
        ("metadataHeaders", "Date"),
    ];
    if wanted != [("format", "full")] && wanted != metadata {
        return Err(refused(
            StatusCode::BAD_REQUEST,
            "Invalid query",
            "invalidArgument",
        ));
    }
    let messages = google.messages.lock().expect("whole");
    match messages
        .iter()
        .find(|message| message["id"] == id && message["gone"].is_null())
    {
        Some(message) => Ok(Json(message.clone()).into_response()),
        None => Err(refused(
            StatusCode::NOT_FOUND,
            "Requested entity was not found.",
            "notFound",
        )),
    }
}

/// What Gmail makes of a message in base64url: the parsed head and text.
fn stored(google: &Google, new: &NewMessage, label: &str) -> Result<Value, Refusal> {
    let invalid = || {
        refused(
            StatusCode::BAD_REQUEST,
            "Invalid value for ByteString",
            "invalidArgument",
        )
    };
    let mime = URL_SAFE_NO_PAD.decode(&new.raw).map_err(|_| invalid())?;
    let mail = MessageParser::new().parse(&mime).ok_or_else(invalid)?;
    let address = |list: Option<&mail_parser::Address>| {
        let first = list.and_then(|list| list.first());
        first
            .and_then(|one| one.address())
            .unwrap_or_default()
            .to_owned()
    };
    let text = mail.body_text(0).unwrap_or_default();
    let mut messages = google.messages.lock().expect("whole");
    let id = format!("18f{:x}", messages.len() + 1);
    let thread = new.thread_id.clone().unwrap_or_else(|| id.clone());
    messages.push(json!({
        "id": id, "threadId": thread, "labelIds": [label], "snippet": text.trim(), "historyId": "9",
        "internalDate": "1767225600000", "sizeEstimate": mime.len(),
        "payload": {"partId": "", "mimeType": "text/plain", "filename": "", "headers": [
            {"name": "From", "value": "me@example.com"}, {"name": "To", "value": address(mail.to())},
            {"name": "Subject", "value": mail.subject()}, {"name": "Message-ID", "value": format!("<{id}@mail>")},
        ], "body": {"size": text.len(), "data": URL_SAFE_NO_PAD.encode(text.as_bytes())}},
    }));
    Ok(json!({"id": id, "threadId": thread, "labelIds": [label]}))
}

async fn send(
    State(google): Shared,
    headers: HeaderMap,
    Json(new): Json<NewMessage>,
) -> Result<Response, Refusal> {
    signed_in(&google, &headers)?;
    Ok(Json(stored(&google, &new, "SENT")?).into_response())
}

async fn draft(
    State(google): Shared,
    headers: HeaderMap,
    Json(new): Json<NewDraft>,
) -> Result<Response, Refusal> {
    signed_in(&google, &headers)?;
    let message = stored(&google, &new.message, "DRAFT")?;
    Ok(Json(json!({"id": "r-77", "message": message})).into_response())
}

async fn modify(
    State(google): Shared,
    headers: HeaderMap,
    Path(id): Path<String>,
    Json(change): Json<Modify>,
) -> Result<Response, Refusal> {
    signed_in(&google, &headers)?;
    let mut messages = google.messages.lock().expect("whole");
    let Some(message) = messages.iter_mut().find(|message| message["id"] == id) else {
        return Err(refused(
            StatusCode::NOT_FOUND,
            "Requested entity was not found.",
            "notFound",
        ));
    };
    let mut ids: Vec<String> = serde_json::from_value(message["labelIds"].clone()).expect("texts");
    ids.retain(|id| !change.remove_label_ids.contains(id));
    ids.extend(change.add_label_ids);
    message["labelIds"] = json!(ids);
    Ok(Json(json!({"id": id, "threadId": message["threadId"], "labelIds": ids})).into_response())
}

async fn labels(State(google): Shared, headers: HeaderMap) -> Result<Response, Refusal> {
    signed_in(&google, &headers)?;
    Ok(Json(json!({"labels": [
        {"id": "INBOX", "name": "INBOX", "messageListVisibility": "hide", "type": "system"},
        {"id": "Label_7", "name": "Travel", "type": "user", "color": {"textColor": "#000000"}},
    ]}))
    .into_response())
}

/// The routes of the Gmail API that the tools use.
pub fn api(google: Arc<Google>) -> Router {
    Router::new()
        .route("/gmail/v1/users/me/messages", get(list))
        .route("/gmail/v1/users/me/messages/send", post(send))
        .route("/gmail/v1/users/me/messages/{id}", get(read))
        .route("/gmail/v1/users/me/messages/{id}/modify", post(modify))
        .route("/gmail/v1/users/me/drafts", post(draft))
        .route("/gmail/v1/users/me/labels", get(labels))
        .with_state(google)
}

/// The token endpoint, at `/token`.
pub fn sign_in(google: Arc<Google>) -> Router {
    Router::new()
        .route("/token", post(token))
        .with_state(google)
}
