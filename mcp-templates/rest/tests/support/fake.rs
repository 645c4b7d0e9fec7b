//! A fake upstream: records every request, checks the credential, and fails on demand. The routes, with their state
//! and their strict queries and bodies, are each test's own. Shared by the tests of the template crates.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};

/// What goes wrong with one request: a status (0: the answer never comes), headers, a body.
type Fault = (u16, Vec<(&'static str, String)>, String);

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path_and_query: String,
    pub headers: axum::http::HeaderMap,
    pub body: String,
}

#[derive(Default)]
struct Book {
    seen: Vec<Seen>,
    faults: VecDeque<Fault>,
}

/// A running fake.
#[derive(Clone)]
pub struct Fake {
    book: Arc<Mutex<Book>>,
    credential: Option<(&'static str, &'static str)>,
    pub url: String,
}

impl Fake {
    /// Serves `routes`; a request without the header `credential` is answered with 401.
    pub async fn start(routes: Router, credential: Option<(&'static str, &'static str)>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("an address");
        let fake = Self {
            book: Arc::default(),
            credential,
            url: format!("http://{address}"),
        };
        let app = routes.layer(middleware::from_fn_with_state(fake.clone(), intercept));
        tokio::spawn(async move { axum::serve(listener, app).await });
        fake
    }

    /// The next request is answered so; with the status 0 it is never answered.
    pub fn fail(&self, status: u16, headers: &[(&'static str, &str)], body: &str) {
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        self.book()
            .faults
            .push_back((status, headers, body.to_owned()));
    }

    /// Every request since the last call of this.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.book().seen)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("no test panicked with it")
    }
}

async fn intercept(State(fake): State<Fake>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body: Bytes = to_bytes(body, 64 << 20).await.expect("a readable body");
    let fault = {
        let mut book = fake.book();
        book.seen.push(Seen {
            method: parts.method.to_string(),
            path_and_query: parts.uri.to_string(),
            headers: parts.headers.clone(),
            body: String::from_utf8_lossy(&body).into_owned(),
        });
        book.faults.pop_front()
    };
    match fault {
        Some((0, ..)) => {
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            return StatusCode::GATEWAY_TIMEOUT.into_response();
        }
        Some((status, headers, text)) => {
            let mut response = Response::builder()
                .status(status)
                .header(header::CONTENT_TYPE, "application/json");
            for (name, value) in headers {
                response = response.header(name, value);
            }
            return response.body(Body::from(text)).expect("a valid response");
        }
        None => {}
    }
    if let Some((name, value)) = fake.credential
        && parts.headers.get(name).is_none_or(|given| given != value)
    {
        return (StatusCode::UNAUTHORIZED, r#"{"message":"Bad credentials"}"#).into_response();
    }
    next.run(Request::from_parts(parts, Body::from(body))).await
}
