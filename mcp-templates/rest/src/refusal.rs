//! What upstream tells with a status of 400 or more: why, and how long to wait. Pure but for the clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::Secret;

/// How long upstream asks to wait: `Retry-After` in seconds or as a date (RFC 9110 section 10.2.3), else the reset time
/// of GitHub's limit if that is used up; GitHub tells the reset time with every answer, also of its secondary limits,
/// which have nothing to do with it.
pub(crate) fn wait_told(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    if let Some(secs) = number("retry-after") {
        return Some(Duration::from_secs(secs));
    }
    let date = headers
        .get("retry-after")
        .and_then(|value| value.to_str().ok());
    if let Some(at) = date.and_then(|text| httpdate::parse_http_date(text.trim()).ok()) {
        return Some(at.duration_since(SystemTime::now()).unwrap_or_default());
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

/// The word for programs in an error body: Google's detailed reason, else that of its first fault; OAuth's `error`
/// (RFC 6749 section 5.2). At most 100 characters, and only those that such words are made of.
pub(crate) fn reason(body: &[u8]) -> Option<String> {
    let json: Value = serde_json::from_slice(body).ok()?;
    let detailed = json
        .pointer("/error/details")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find_map(|detail| detail["reason"].as_str());
    let word = detailed
        .or_else(|| json.pointer("/error/errors/0/reason")?.as_str())
        .or_else(|| json["error"].as_str())?;
    let good = (1..=100).contains(&word.len())
        && word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    good.then(|| word.to_owned())
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
    Some(safe_text(&said, secrets))
}

/// A text of upstream's, fit to be shown: at most 500 characters, without control characters and these secrets.
#[must_use]
pub fn safe_text<'a>(text: &str, secrets: impl Iterator<Item = &'a Secret>) -> String {
    let mut text = text.to_owned();
    for secret in secrets.filter(|secret| !secret.expose().is_empty()) {
        text = text.replace(secret.expose(), "[redacted]");
    }
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(500)
        .collect()
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn told(name: &'static str, value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a header value"));
        wait_told(&headers)
    }

    #[test]
    fn a_wait_is_told_in_seconds_as_a_date_or_as_a_reset_time() {
        assert_eq!(told("retry-after", " 7 "), Some(Duration::from_secs(7)));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(1_000));
        let wait = told("retry-after", &soon).expect("a date");
        assert!((900..=1_000).contains(&wait.as_secs()), "{wait:?}");
        let past = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(told("retry-after", past), Some(Duration::ZERO));
        assert_eq!(told("retry-after", "soon"), None);
        assert_eq!(told("x-ratelimit-reset", "1"), None, "nothing is used up");
        let mut headers = HeaderMap::new();
        headers.insert("x-ratelimit-reset", HeaderValue::from_static("1"));
        headers.insert("x-ratelimit-remaining", HeaderValue::from_static("0"));
        assert_eq!(wait_told(&headers), Some(Duration::ZERO));
    }

    #[test]
    fn the_word_for_programs_is_found_where_google_and_oauth_write_it() {
        for (body, expected) in [
            (r#"{"error": "invalid_grant"}"#, Some("invalid_grant")),
            (
                r#"{"error": {"errors": [{"reason": "notFound"}]}}"#,
                Some("notFound"),
            ),
            (
                r#"{"error": {"errors": [{"reason": "forbidden"}],
                    "details": [{"x": 1}, {"reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}]}}"#,
                Some("ACCESS_TOKEN_SCOPE_INSUFFICIENT"),
            ),
            (r#"{"error": "two words"}"#, None),
            (r#"{"message": "Not Found"}"#, None),
            ("<html>", None),
        ] {
            assert_eq!(reason(body.as_bytes()).as_deref(), expected, "{body}");
        }
    }
}
