//! The HTTP client against an upstream that misbehaves.

use std::time::Duration;

use axum::{Router, routing::get};
use minimcp_rest::{
    BaseUrl, Call, Client, ClientSpec, Error, HeaderValue, Method, Secret, Trouble, header,
};

#[path = "support/fake.rs"]
mod fake;
use fake::Fake;

const TOKEN: &str = "tok-SECRET-123";

async fn setup() -> (Fake, Client) {
    let routes = Router::new().route(
        "/ok",
        get(|| async { r#"{"a":1}"# }).post(|| async { "{}" }),
    );
    let fake = Fake::start(routes, Some(("authorization", "Bearer tok-SECRET-123"))).await;
    let mut spec = ClientSpec::new("Test", BaseUrl::new(&fake.url).expect("loopback"));
    spec.timeout = Duration::from_millis(300);
    spec.backoff = Duration::from_millis(1);
    spec.body_bytes_max = 1_000;
    (fake, Client::new(spec))
}

fn call(method: Method) -> Call {
    Call::new(method, "/ok").auth(header::AUTHORIZATION, "Bearer ", Secret::new(TOKEN))
}

fn shown(error: &Error) -> String {
    let text = format!("{error} {error:?}");
    assert!(!text.contains("SECRET"), "{text}");
    text
}

#[tokio::test]
async fn passing_failures_of_reads_are_tried_again() {
    let (fake, client) = setup().await;
    fake.fail(503, &[], "");
    fake.fail(429, &[("retry-after", "0")], "");
    let answer = client
        .send(call(Method::GET))
        .await
        .expect("the third attempt");
    assert_eq!(answer.body, br#"{"a":1}"#);
    assert_eq!(fake.take_seen().len(), 3);
    for _ in 0..3 {
        fake.fail(502, &[], "");
    }
    let error = client
        .send(call(Method::GET))
        .await
        .expect_err("three failures");
    assert!(shown(&error).contains("try again in a minute"));
    assert_eq!(fake.take_seen().len(), 3);
}

#[tokio::test]
async fn a_change_is_never_sent_twice() {
    let (fake, client) = setup().await;
    fake.fail(503, &[], "");
    let error = client.send(call(Method::POST)).await.expect_err("503");
    assert!(shown(&error).contains("may have taken effect"));
    fake.fail(0, &[], "");
    let error = client.send(call(Method::POST)).await.expect_err("silence");
    assert_eq!(
        (error.failure.trouble.clone(), error.failure.maybe_done),
        (Trouble::Timeout, true)
    );
    let seen = fake.take_seen();
    assert_eq!(seen.len(), 2);
    for request in seen {
        assert_eq!(
            (
                request.method.as_str(),
                request.path_and_query.as_str(),
                request.body.as_str()
            ),
            ("POST", "/ok", "")
        );
        assert_eq!(request.headers["authorization"], "Bearer tok-SECRET-123");
    }
}

#[tokio::test]
async fn a_change_that_may_be_repeated_is_sent_again() {
    let (fake, client) = setup().await;
    fake.fail(503, &[("retry-after", "0")], "");
    let bytes = HeaderValue::from_static("message/rfc822");
    let call = call(Method::POST).bytes(bytes, b"a\r\n".to_vec());
    client
        .send(call.repeatable())
        .await
        .expect("the second attempt");
    let seen = fake.take_seen();
    assert_eq!(seen.len(), 2);
    for request in seen {
        assert_eq!(request.body, "a\r\n");
        assert_eq!(request.headers["content-type"], "message/rfc822");
    }
}

#[tokio::test]
async fn a_wait_beyond_patience_or_budget_is_told_instead_of_waited_for() {
    let (fake, client) = setup().await;
    fake.fail(503, &[("retry-after", "120")], "");
    let error = client.send(call(Method::GET)).await.expect_err("503");
    assert!(shown(&error).contains("try again in 120 seconds"));
    assert_eq!(fake.take_seen().len(), 1);
    let mut spec = ClientSpec::new("Test", BaseUrl::new(&fake.url).expect("loopback"));
    spec.budget = Duration::from_millis(1);
    fake.fail(429, &[("retry-after", "3")], "");
    let error = Client::new(spec)
        .send(call(Method::GET))
        .await
        .expect_err("429");
    assert!(shown(&error).contains("Try again in 3 seconds"));
    assert_eq!(fake.take_seen().len(), 1);
}

#[tokio::test]
async fn each_status_is_told_apart() {
    let (fake, client) = setup().await;
    for (status, headers, trouble) in [
        (401, vec![], Trouble::Unauthorized),
        (403, vec![], Trouble::Forbidden),
        (
            403,
            vec![("x-ratelimit-remaining", "0")],
            Trouble::RateLimited(None),
        ),
        (
            403,
            vec![("retry-after", "60")],
            Trouble::RateLimited(Some(Duration::from_secs(60))),
        ),
        (
            429,
            vec![("retry-after", "3600")],
            Trouble::RateLimited(Some(Duration::from_secs(3_600))),
        ),
        (404, vec![], Trouble::NotFound),
        (409, vec![], Trouble::Conflict),
        (422, vec![], Trouble::Refused),
        (418, vec![], Trouble::Status),
    ] {
        fake.fail(status, &headers, r#"{"message":"no \u0007 tok-SECRET-123","errors":[{"field":"title","code":"missing"}]}"#);
        let error = client.send(call(Method::GET)).await.expect_err("a failure");
        assert_eq!(error.failure.trouble, trouble, "{status}");
        let text = shown(&error);
        assert!(
            text.contains("[redacted]; title: missing") && !text.contains('\u{7}'),
            "{text}"
        );
        assert_eq!(fake.take_seen().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn answers_are_capped_and_must_be_json() {
    let (fake, client) = setup().await;
    fake.fail(200, &[], &"x".repeat(1_001));
    let error = client.send(call(Method::GET)).await.expect_err("too large");
    assert_eq!(error.failure.trouble, Trouble::TooLarge(1_000));
    fake.fail(200, &[], r#"{"a": tok-SECRET"#);
    let answer = client.send(call(Method::GET)).await.expect("a body");
    let error = answer.json::<serde_json::Value>().expect_err("broken");
    assert_eq!(error.failure.trouble, Trouble::Malformed);
    shown(&error);
}

#[tokio::test]
async fn a_redirect_is_followed_only_within_the_origin_and_only_for_reads() {
    let (fake, client) = setup().await;
    let (stranger, _) = setup().await;
    fake.fail(302, &[("location", "/ok")], "");
    assert!(client.send(call(Method::GET)).await.is_ok());
    let elsewhere = format!("{}/ok", stranger.url);
    fake.fail(302, &[("location", &elsewhere)], "");
    let error = client
        .send(call(Method::GET))
        .await
        .expect_err("another origin");
    assert_eq!(error.failure.trouble, Trouble::Redirected);
    fake.fail(307, &[("location", "/ok")], "");
    assert!(client.send(call(Method::POST)).await.is_err());
    assert!(stranger.take_seen().is_empty());
    for _ in 0..4 {
        fake.fail(302, &[("location", "/ok")], "");
    }
    assert!(client.send(call(Method::GET)).await.is_err(), "a loop ends");
}

#[tokio::test]
async fn an_unreachable_host_is_told_without_its_address() {
    let (_, client) = setup().await;
    drop(client);
    let mut spec = ClientSpec::new(
        "Test",
        BaseUrl::new("http://127.0.0.1:1/tok-SECRET").expect("loopback"),
    );
    spec.backoff = Duration::from_millis(1);
    let error = Client::new(spec)
        .send(call(Method::GET))
        .await
        .expect_err("nobody listens");
    assert_eq!(error.failure.trouble, Trouble::Network);
    shown(&error);
}
