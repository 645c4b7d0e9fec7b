//! The fake GitHub as a server: strict, stateful, and out of order on demand. What a request does against the official
//! description is refused and written down; a test ends with [`Upstream::assert_clean`].

use std::sync::{Arc, Mutex, MutexGuard};

use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use minimcp_github::{GitHub, Settings};
use minimcp_rest::{BaseUrl, Secret};
use serde_json::{Value, json};

use crate::{
    description::GITHUB,
    fake::{Fake, Seen},
    graphql,
    session::Session,
    world::{Reply, World},
};

pub const TOKEN: &str = "ghp_SECRET";

/// What every request is answered with, as long as it is set.
#[derive(Clone)]
pub struct Fault {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

#[derive(Clone)]
pub struct Upstream {
    pub fake: Fake,
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    world: World,
    refusals: Vec<String>,
    fault: Option<Fault>,
    /// How many answers were 304.
    unchanged: usize,
}

impl Upstream {
    pub async fn start() -> Self {
        let book = Arc::new(Mutex::new(Book::default()));
        let routes = Router::new().fallback(answer).with_state(book.clone());
        let fake = Fake::start(routes, None).await;
        let upstream = Self { fake, book };
        upstream.book().world = World::new(&upstream.fake.url);
        upstream
    }

    /// A session with a server of all toolsets.
    pub async fn session(&self) -> Session {
        Session::start(GitHub::new(self.settings())).await
    }

    /// Settings for all toolsets, with the API below the path of an Enterprise host.
    pub fn settings(&self) -> Settings {
        Settings {
            token: Some(Secret::new(TOKEN)),
            api: BaseUrl::new(&format!("{}/api/v3", self.fake.url))
                .map_err(|error| error.to_string()),
            toolsets: Some("all".to_owned()),
            read_only: false,
        }
    }

    pub fn set_fault(&self, fault: Option<Fault>) {
        self.book().fault = fault;
    }

    /// Changes what the fake knows.
    pub fn change(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.book().world);
    }

    pub fn unchanged(&self) -> usize {
        self.book().unchanged
    }

    pub fn take_seen(&self) -> Vec<Seen> {
        self.fake.take_seen()
    }

    /// Asserts that no request was against the description.
    pub fn assert_clean(&self) {
        let refusals = std::mem::take(&mut self.book().refusals);
        assert!(refusals.is_empty(), "{refusals:#?}");
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("no test panicked with it")
    }
}

async fn answer(State(book): State<Arc<Mutex<Book>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 64 << 20).await.expect("a readable body");
    let mut book = book.lock().expect("no test panicked with it");
    if let Some(fault) = book.fault.clone() {
        return built(fault.status, &fault.headers, fault.body);
    }
    let path = parts.uri.path();
    if path.starts_with("/store/") {
        // Where logs lie: a stranger, which must not learn the token.
        let known = parts.headers.get("authorization").is_some();
        if known {
            book.refusals
                .push("the token went to a stranger".to_owned());
        }
        let log = "first line\nmiddle\nlast line\n";
        return (
            if known {
                StatusCode::BAD_REQUEST
            } else {
                StatusCode::OK
            },
            log,
        )
            .into_response();
    }
    if parts
        .headers
        .get("authorization")
        .is_none_or(|given| given != "Bearer ghp_SECRET")
    {
        return (StatusCode::UNAUTHORIZED, r#"{"message":"Bad credentials"}"#).into_response();
    }
    match reply(&mut book, &parts, &body) {
        Ok(reply) => sent(&mut book, &parts, reply),
        Err(fault) => {
            let message = json!({"message": format!("the fake refuses: {fault}")});
            book.refusals.push(fault);
            built(422, &[], message.to_string().into())
        }
    }
}

fn reply(book: &mut Book, parts: &Parts, body: &Bytes) -> Result<Reply, String> {
    let accept = parts
        .headers
        .get("accept")
        .and_then(|accept| accept.to_str().ok());
    if parts.uri.path() == "/api/graphql" {
        let body: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let asked = graphql::check(&body).map_err(|fault| format!("GraphQL: {fault}"))?;
        return Ok(Reply::new(200, book.world.graphql(&asked)));
    }
    let path = parts
        .uri
        .path()
        .strip_prefix("/api/v3")
        .ok_or("outside of the API")?;
    let query = parts.uri.query().unwrap_or_default();
    let asked = GITHUB.check(&parts.method, path, query, &parts.headers, body)?;
    let reply = book.world.answer(&asked, accept.unwrap_or_default());
    let good = reply.status >= 400 || asked.operation.good_statuses.contains(&reply.status);
    assert!(
        good,
        "the fake answers {} with {}",
        asked.operation.id, reply.status
    );
    Ok(reply)
}

/// The answer with what GitHub adds to all: an entity tag, the state of the limit, the token's scopes.
fn sent(book: &mut Book, parts: &Parts, reply: Reply) -> Response {
    let body: Bytes = match reply.raw {
        Some(raw) => raw.into(),
        None if reply.body.is_null() => Bytes::new(),
        None => reply.body.to_string().into(),
    };
    let mut headers = reply.headers;
    headers.push(("x-ratelimit-remaining", "4999".to_owned()));
    headers.push(("x-ratelimit-reset", "4102444800".to_owned()));
    headers.push(("x-oauth-scopes", "gist, read:org".to_owned()));
    headers.push(("x-accepted-oauth-scopes", "repo".to_owned()));
    let is_get = parts.method == "GET" && reply.status == 200;
    if is_get {
        let tag = format!(
            "\"{:x}\"",
            body.iter()
                .fold(7u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte))
        );
        if given(&parts.headers, "if-none-match") == Some(&tag) {
            book.unchanged += 1;
            return built(304, &[], Bytes::new());
        }
        headers.push(("etag", tag));
    }
    built(reply.status, &headers, body)
}

fn given<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn built(status: u16, headers: &[(&'static str, String)], body: Bytes) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(body.into()).expect("a valid response")
}
