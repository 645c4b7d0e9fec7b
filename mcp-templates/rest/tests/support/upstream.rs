//! A fake upstream that judges every request by the API's own description, keeps state, and fails on demand. What the
//! API is and does comes from the test ([`Api`]). Shared by the tests of the template crates.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use serde_json::Value;

use crate::contract::{Asked, Contract};

/// What a fake answers: a status and JSON, or no body.
pub type Answer = (u16, Option<Value>);

/// The state behind a fake, and its manners.
pub trait Api: Send + 'static {
    /// Refuses a request without a good credential, in the service's own words.
    fn admit(&mut self, asked: &Asked, headers: &HeaderMap) -> Result<(), Answer>;
    /// Does what is asked.
    fn answer(&mut self, asked: &Asked) -> Answer;
    /// How the service says that it does not understand a request.
    fn refusal(&self, status: u16, message: &str) -> Value;
}

/// What goes wrong with one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status with these headers and this body.
    Status(u16, Vec<(&'static str, String)>, String),
    /// No answer ever.
    Silence,
    /// A good status, and a connection that breaks in the middle of the body. Nothing is done.
    CutOff,
    /// A good status, and a body that is no JSON.
    NoJson,
    /// A good status, and the promise of a terabyte.
    Huge,
    /// A good status, and a body without end or length.
    Endless,
}

struct Book<A> {
    api: A,
    faults: VecDeque<Fault>,
    asked: Vec<Asked>,
    headers: Vec<HeaderMap>,
    requests: usize,
    wrong: Vec<String>,
}

/// A running fake. When it is dropped it fails the test if a request was wrong, or one of its own answers.
pub struct Upstream<A: Api> {
    book: Arc<Mutex<Book<A>>>,
    pub url: String,
}

struct Shared<A: Api> {
    book: Arc<Mutex<Book<A>>>,
    contract: Arc<Contract>,
}

impl<A: Api> Clone for Shared<A> {
    fn clone(&self) -> Self {
        Self {
            book: self.book.clone(),
            contract: self.contract.clone(),
        }
    }
}

impl<A: Api> Upstream<A> {
    /// Serves `api` by `fixture` on a free port.
    pub async fn start(api: A, fixture: &str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("an address");
        let book = Arc::new(Mutex::new(Book {
            api,
            faults: VecDeque::new(),
            asked: Vec::new(),
            headers: Vec::new(),
            requests: 0,
            wrong: Vec::new(),
        }));
        let shared = Shared {
            book: book.clone(),
            contract: Arc::new(Contract::load(fixture)),
        };
        let app = Router::new().fallback(serve::<A>).with_state(shared);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self {
            book,
            url: format!("http://{address}"),
        }
    }

    /// The next request fails so.
    pub fn fail(&self, fault: Fault) {
        self.book().faults.push_back(fault);
    }

    /// Faults that nobody came upon are forgotten; how many there were.
    pub fn forget_faults(&self) -> usize {
        std::mem::take(&mut self.book().faults).len()
    }

    /// Looks at the state, or changes it.
    pub fn with<T>(&self, look: impl FnOnce(&mut A) -> T) -> T {
        look(&mut self.book().api)
    }

    /// The good requests since the last call of this.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.book().asked)
    }

    /// The headers of all requests since the last call of this.
    pub fn take_headers(&self) -> Vec<HeaderMap> {
        std::mem::take(&mut self.book().headers)
    }

    /// How many requests came since the last call of this, good or not.
    pub fn take_count(&self) -> usize {
        std::mem::take(&mut self.book().requests)
    }

    fn book(&self) -> MutexGuard<'_, Book<A>> {
        self.book.lock().expect("no test panicked with it")
    }
}

impl<A: Api> Drop for Upstream<A> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let wrong = std::mem::take(&mut self.book().wrong);
            assert!(wrong.is_empty(), "wrong requests or answers: {wrong:#?}");
        }
    }
}

async fn serve<A: Api>(State(shared): State<Shared<A>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 64 << 20).await.expect("a readable body");
    let fault = {
        let mut book = shared.book.lock().expect("no test panicked with it");
        book.requests += 1;
        book.headers.push(parts.headers.clone());
        book.faults.pop_front()
    };
    match &fault {
        Some(Fault::Status(status, headers, text)) => {
            let mut response = Response::builder()
                .status(*status)
                .header(header::CONTENT_TYPE, "application/json");
            for (name, value) in headers {
                response = response.header(*name, value);
            }
            return response
                .body(Body::from(text.clone()))
                .expect("a valid response");
        }
        Some(Fault::Silence) => {
            std::future::pending::<()>().await;
        }
        Some(Fault::NoJson) => return "<html>a proxy says hello".into_response(),
        Some(Fault::Huge) => return unfinished("1099511627776", false),
        Some(Fault::Endless) => return endless().into_response(),
        Some(Fault::CutOff) => return unfinished("4000", true),
        None => {}
    }
    let (status, json) = decide(&shared, &parts, &body);
    let bytes = json.as_ref().map(Value::to_string).unwrap_or_default();
    let mut response = Response::builder().status(status);
    if json.is_some() {
        response = response.header(header::CONTENT_TYPE, "application/json");
    }
    response.body(Body::from(bytes)).expect("a valid response")
}

/// What a request without a fault gets.
fn decide<A: Api>(shared: &Shared<A>, parts: &axum::http::request::Parts, body: &[u8]) -> Answer {
    let mut book = shared.book.lock().expect("no test panicked with it");
    let asked = match shared
        .contract
        .check(&parts.method, &parts.uri, &parts.headers, body)
    {
        Ok(asked) => asked,
        Err(wrong) => {
            book.wrong.push(wrong.clone());
            return (400, Some(book.api.refusal(400, &wrong)));
        }
    };
    if let Err(refused) = book.api.admit(&asked, &parts.headers) {
        return refused;
    }
    let (status, json) = book.api.answer(&asked);
    if (200..300).contains(&status) {
        let bytes = json.as_ref().map(Value::to_string).unwrap_or_default();
        if let Err(wrong) = shared
            .contract
            .check_answer(&asked.operation, status, bytes.as_bytes())
        {
            book.wrong.push(wrong);
        }
    }
    book.asked.push(asked);
    (status, json)
}

/// Promises more than it sends; then the connection breaks, or stands still where `breaks` is false.
fn unfinished(promised_bytes: &'static str, breaks: bool) -> Response {
    let begun = stream::iter([Ok(Bytes::from_static(br#"{"id": "18f1", "thre"#))]);
    let rest = stream::once(async move {
        // What was begun goes out while this waits.
        tokio::task::yield_now().await;
        if !breaks {
            std::future::pending::<()>().await;
        }
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    });
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, promised_bytes)
        .body(Body::from_stream(begun.chain(rest)))
        .expect("a valid response")
}

/// Spaces, up to more than anybody may read.
fn endless() -> Body {
    let chunk = Bytes::from(vec![b' '; 1 << 20]);
    let chunks = (0..512).map(move |_| Ok::<_, std::io::Error>(chunk.clone()));
    Body::from_stream(stream::iter(chunks))
}

/// The faults that every tool must survive, with what its error must say.
pub fn faults(refusal: impl Fn(u16) -> String) -> Vec<(Fault, &'static str)> {
    let status = |status: u16| Fault::Status(status, vec![], refusal(status));
    vec![
        (status(403), "HTTP 403"),
        (status(404), "HTTP 404"),
        (status(422), "HTTP 422"),
        (
            Fault::Status(429, vec![("retry-after", "3600".to_owned())], refusal(429)),
            "Try again in 3600 seconds",
        ),
        (status(500), "HTTP 500"),
        (status(503), "HTTP 503"),
        (
            Fault::Status(
                302,
                vec![("location", "https://elsewhere.example/".to_owned())],
                String::new(),
            ),
            "redirect that is not followed",
        ),
        (Fault::CutOff, "connection broke"),
        (Fault::NoJson, "not what its API promises"),
        (Fault::Huge, "is larger than"),
    ]
}
