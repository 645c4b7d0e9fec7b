//! What is outside `/api`: health, readiness, metrics, the document and its page; and the answers to wrong paths.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Extension,
    extract::{Request, State},
    response::{Html, IntoResponse, Response},
};
use http::{StatusCode, header};

use super::{
    AppState,
    error::{ApiError, Code},
    openapi::Published,
};
use crate::{domain::principal::Principal, wire::Readiness};

/// How long one part of the readiness is waited for.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether the process answers at all; nothing else is asked.
#[utoipa::path(
    get, path = "/healthz", tag = "operations",
    responses((status = 200, description = "It answers", body = String, content_type = "text/plain"))
)]
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether management calls can be served: the database and the keeper answer.
#[utoipa::path(
    get, path = "/readyz", tag = "operations",
    responses(
        (status = 200, description = "Ready", body = Readiness),
        (status = 503, description = "Not ready; `checks` says which part and why", body = Readiness),
    )
)]
pub async fn readyz(State(state): State<AppState>) -> Response {
    let mut checks = BTreeMap::new();
    let mut ready = !state.shutdown.is_cancelled();
    if !ready {
        checks.insert("daemon".to_owned(), "shutting down".to_owned());
    }
    for check in &state.readiness {
        let answer = match tokio::time::timeout(CHECK_TIMEOUT, (check.ask)()).await {
            Ok(Ok(())) => "ok".to_owned(),
            Ok(Err(why)) => {
                ready &= !check.required;
                why
            }
            Err(_) => {
                ready &= !check.required;
                "no answer within a second".to_owned()
            }
        };
        checks.insert(check.name.to_owned(), answer);
    }
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, axum::Json(Readiness { ready, checks })).into_response()
}

/// Prometheus metrics. The token is required: names of templates and counts of instances are not for everyone.
#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    responses((status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"))
)]
pub async fn metrics(_who: Principal, State(state): State<AppState>) -> Result<Response, ApiError> {
    // It reads /proc for each instance.
    let text = tokio::task::spawn_blocking(move || state.metrics.encode())
        .await
        .map_err(|error| ApiError::internal(format!("metrics: {error}")))?
        .map_err(|error| ApiError::internal(format!("cannot encode metrics: {error}")))?;
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, media_type)], text).into_response())
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "operations",
    responses((status = 200, description = "OpenAPI", body = Object, content_type = "application/json"))
)]
pub async fn openapi_json(Extension(published): Extension<Published>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], published.json).into_response()
}

/// This document as a page for people.
#[utoipa::path(
    get, path = "/docs", tag = "operations",
    responses((status = 200, description = "One self-contained page", body = String, content_type = "text/html"))
)]
pub async fn docs(Extension(published): Extension<Published>) -> Response {
    // The page has its style inside and nothing else.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    (
        [(header::CONTENT_SECURITY_POLICY, policy)],
        Html(published.page),
    )
        .into_response()
}

/// Every path that is not there.
pub async fn no_such_route(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::new(
        Code::NoSuchRoute,
        format!("there is no route {path:?}; GET /openapi.json lists them all"),
    )
}

/// A path that is there, with another method; axum adds `Allow`.
pub async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::new(
        Code::MethodNotAllowed,
        format!(
            "{} is not possible here; see the Allow header",
            request.method()
        ),
    )
}
