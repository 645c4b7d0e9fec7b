//! What upstream tells with a status of 400 or more: why, and how long to wait. Pure but for the clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::Secret;

/// How long upstream asks to wait: `Retry-After` in seconds, else the reset time of GitHub's limit if that is used up;
/// GitHub tells the reset time with every answer, also of its secondary limits, which have nothing to do with it.
pub(crate) fn wait_told(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    if let Some(secs) = number("retry-after") {
        return Some(Duration::from_secs(secs));
    }
    if number("x-ratelimit-remaining") != Some(0) {
        return None;
    }
    let reset = Duration::from_secs(number("x-ratelimit-reset")?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(reset.saturating_sub(now))
}

/// Whether the body of a 403 tells of a rate limit: Google names the reason, GitHub's secondary limit has only words.
pub(crate) fn tells_rate_limit(body: &[u8]) -> bool {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let reasons = json
        .pointer("/error/errors")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let google = reasons
        .filter_map(|fault| fault["reason"].as_str())
        .any(|reason| reason.ends_with("LimitExceeded") || reason == "quotaExceeded");
    let github = json["message"]
        .as_str()
        .is_some_and(|message| message.contains("secondary rate limit"));
    google || github
}

/// What an error body says, in the shapes of the APIs in use, at most 500 characters.
pub(crate) fn said<'a>(body: &[u8], secrets: impl Iterator<Item = &'a Secret>) -> Option<String> {
    let json: Value = serde_json::from_slice(body).ok()?;
    let text = |value: &Value| {
        value
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let mut said = [
        "/error/message",
        "/error_description",
        "/message",
        "/err",
        "/error",
    ]
    .iter()
    .find_map(|pointer| json.pointer(pointer).and_then(text))?;
    for fault in json["errors"].as_array().into_iter().flatten().take(5) {
        let detail = text(fault).or_else(|| text(&fault["message"])).or_else(|| {
            let field = fault["field"].as_str()?;
            Some(format!(
                "{field}: {}",
                fault["code"].as_str().unwrap_or("invalid")
            ))
        });
        if let Some(detail) = detail {
            said.push_str("; ");
            said.push_str(&detail);
        }
    }
    for secret in secrets.filter(|secret| !secret.expose().is_empty()) {
        said = said.replace(secret.expose(), "[redacted]");
    }
    Some(
        said.chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(500)
            .collect(),
    )
}
