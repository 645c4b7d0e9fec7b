//! How often and how much at once: the refusals of an access token's limits.

use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use crate::{
    domain::{access::RateLimit, id::TokenName},
    supervisor::access::{CallPermit, Secret},
    upstream::error_message,
};

use super::{Reply, cause::Cause, reply};

/// JSON-RPC, of the codes that servers may give a meaning to: too much was asked; later it is possible.
const TOO_MUCH: i64 = -32_000;

/// A request over the rate; `limited` is the rate, and after how many seconds there is room.
#[must_use]
pub fn too_often(name: &TokenName, limited: (RateLimit, u64)) -> Reply {
    let (limit, wait_s) = limited;
    let text = format!(
        "The access token {name} may make {} requests in {}; try again in {wait_s} s.",
        limit.requests, limit.per
    );
    let data = json!({"cause": "rate-limit", "limit": limit.to_string(), "retry_after_s": wait_s});
    Cause::RateLimit.mark(too_much("null", &text, &data, wait_s))
}

/// Begins `count` calls of a token. `id`: the raw id of the request, or `null`.
///
/// # Errors
/// The refusal.
pub fn begin(
    secret: &Secret,
    count: u32,
    otherwise: Option<u32>,
    id: &str,
) -> Result<Option<CallPermit>, Box<Reply>> {
    secret.token.begin(count, otherwise).map_err(|most| {
        let text = format!(
            "The access token {} may have {most} calls under way at the same time, and has them; try again when one is done.",
            secret.token.name
        );
        let data = json!({"cause": "concurrency-limit", "limit": most, "retry_after_s": 1});
        Box::new(Cause::ConcurrencyLimit.mark(too_much(id, &text, &data, 1)))
    })
}

fn too_much(id: &str, text: &str, data: &serde_json::Value, wait_s: u64) -> Reply {
    let body = error_message(id, TOO_MUCH, text, Some(data));
    let mut reply = reply::json(StatusCode::TOO_MANY_REQUESTS, body);
    let wait = HeaderValue::from(wait_s);
    reply.headers_mut().insert(header::RETRY_AFTER, wait);
    reply
}
