//! The outermost layers: request id, span, timeout, panics, problem bodies, metrics, security headers, CORS.

use std::{any::Any, panic::AssertUnwindSafe, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::Instrument;
use uuid::Uuid;

use super::{
    AppState,
    error::{ApiError, Code, PROBLEM_JSON},
};
use crate::traces::{self, Parent, Span, SpanKind};

/// Names a request in logs and problems; a sane one of the client's is kept.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The request's id, among the extensions of the request.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// Runs the rest with a request id, a span and a time limit; whatever comes back leaves as a well-formed answer.
/// The time limit ends with the head of the answer, so streams are not cut.
pub async fn observe(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let request_id = request_id(request.headers());
    request
        .extensions_mut()
        .insert(RequestId(request_id.clone()));
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let span = tracing::info_span!("request", %request_id, %method, %route);
    let parent = Parent::of_headers(request.headers());
    let mut traced = Span::begin(SpanKind::Server, || format!("{method} {route}"), &parent);
    let inside = traced.as_ref().map(Span::inside).unwrap_or_default();
    let timeout = state.config.request_timeout;
    let run = AssertUnwindSafe(next.run(request)).catch_unwind();
    let response = async {
        let response = match tokio::time::timeout(timeout.std(), run).await {
            Ok(Ok(response)) => response,
            Ok(Err(panic)) => {
                ApiError::internal(format!("a handler panicked: {}", panic_text(&*panic)))
                    .into_response()
            }
            Err(_) => ApiError::new(
                Code::Timeout,
                format!("no answer within {timeout}; a mutation may still take effect"),
            )
            .into_response(),
        };
        let mut response = finish(response, &request_id);
        add_headers(&mut response, &request_id);
        let elapsed = began.elapsed();
        let status = response.status().as_u16();
        tracing::debug!(status, elapsed_ms = elapsed.as_millis(), "answered");
        state.metrics.request(&method, &route, status, elapsed);
        if let Some(traced) = &mut traced {
            traced.put("http.request.method", method.as_str().to_owned());
            traced.put("http.route", route.clone());
            traced.put("http.response.status_code", i64::from(status));
            traced.put("minimcp.request_id", request_id.clone());
            if response.status().is_server_error() {
                traced.fail(status.to_string());
            }
        }
        response
    };
    traces::within(inside, response.instrument(span)).await
}

/// The client's own id if it is 1 to 64 of letters, digits, '.', '_' and '-'; else a new one.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|text| {
            (1..=64).contains(&text.len())
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        })
        .map_or_else(|| Uuid::now_v7().simple().to_string(), str::to_owned)
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a text")
}

/// Renders an [`ApiError`], or what a library refused without one; logs failures of ours once.
fn finish(mut response: Response, request_id: &str) -> Response {
    let error = match response.extensions_mut().remove::<ApiError>() {
        Some(error) => error,
        None if is_bare_failure(&response) => ApiError::of_bare_status(response.status()),
        None => return response,
    };
    if let Some(internal) = error.internal_text() {
        tracing::error!(code = error.code().word(), "{internal}");
    }
    error.render(response, request_id)
}

fn is_bare_failure(response: &Response) -> bool {
    let status = response.status();
    let media_type = response.headers().get(header::CONTENT_TYPE);
    let told = media_type.is_some_and(|value| value == PROBLEM_JSON || value == "application/json");
    (status.is_client_error() || status.is_server_error()) && !told
}

fn add_headers(response: &mut Response, request_id: &str) {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, value);
    }
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
    ] {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
}

/// CORS for the origins of the configuration; with none, no CORS header is ever sent.
pub fn cors(origins: &[String]) -> CorsLayer {
    let origins: Vec<HeaderValue> = origins
        .iter()
        .filter_map(|origin| HeaderValue::from_str(origin).ok())
        .collect();
    if origins.is_empty() {
        return CorsLayer::new();
    }
    let origins = match origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        false => AllowOrigin::list(origins),
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("last-event-id"),
            REQUEST_ID,
        ])
        .expose_headers([
            REQUEST_ID,
            header::LOCATION,
            header::RETRY_AFTER,
            HeaderName::from_static("idempotency-replayed"),
        ])
        .max_age(std::time::Duration::from_secs(600))
}
