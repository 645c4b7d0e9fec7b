//! What every mutation passes: its body is read within the limit, and it runs to its end even if the client hangs up.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, Method, header};
use http_body_util::BodyExt;
use tracing::Instrument;

use super::{
    AppState,
    error::{ApiError, Code},
    idempotency::Attempt,
    layers::RequestId,
};
use crate::traces::{self, Parent};

/// So much of an oversized body is read and thrown away, so that its sender gets to read the 413.
const DRAIN_BYTES_MAX: usize = 32 << 20;
/// And for so long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the body within the limit, then runs the handler in a task of its own: a client that hangs up, or a request
/// that times out, must not leave a create half done.
///
/// # Errors
/// `body-too-large`, `bad-request` when the body breaks off, and those of the `Idempotency-Key`.
pub async fn guard(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    ) {
        return Ok(next.run(request).await);
    }
    let (parts, body) = request.into_parts();
    let bytes = read_body(&parts.headers, body, state.config.body_limit_bytes).await?;
    let attempt = Attempt::begin(&state, &parts, &bytes)?;
    let request_id = parts
        .extensions
        .get::<RequestId>()
        .map_or_else(String::new, |id| id.0.clone());
    let request = Request::from_parts(parts, Body::from(bytes));
    let mutations = state.mutations.clone();
    let run = async move {
        let Some(attempt) = attempt else {
            return Ok(next.run(request).await);
        };
        if let Some(kept) = attempt.replay(&state).await? {
            return Ok(kept);
        }
        let response = next.run(request).await;
        Ok(attempt.keep(&state, response, &request_id).await)
    };
    mutations
        .spawn(traces::within(Parent::current(), run.in_current_span()))
        .await
        .map_err(|error| ApiError::internal(format!("a handler ended early: {error}")))?
}

async fn read_body(
    headers: &HeaderMap,
    mut body: Body,
    limit_bytes: usize,
) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(
            Code::BodyTooLarge,
            format!("a body may hold {limit_bytes} bytes at most"),
        )
    };
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok())
        .unwrap_or(0);
    if announced > limit_bytes {
        // A client that asked first (`Expect: 100-continue`) has sent nothing yet; asking for the body would.
        if !headers.contains_key(header::EXPECT) {
            drain(body).await;
        }
        return Err(too_large());
    }
    let mut collected = Vec::with_capacity(announced);
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|_| ApiError::new(Code::BadRequest, "the body broke off before its end"))?;
        if let Ok(data) = frame.into_data() {
            if collected.len() + data.len() > limit_bytes {
                drain(body).await;
                return Err(too_large());
            }
            collected.extend_from_slice(&data);
        }
    }
    Ok(collected.into())
}

async fn drain(mut body: Body) {
    let read = async {
        let mut seen_bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen_bytes += frame.data_ref().map_or(0, Bytes::len);
            if seen_bytes > DRAIN_BYTES_MAX {
                break;
            }
        }
    };
    // Whether it ends in time or not, the answer is the same.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, read).await;
}
