//! Conditional calls, redirects that are the answer, and downloads from addresses that upstream gives out.

use axum::{
    Router,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use minimcp_rest::{BaseUrl, Call, Client, ClientSpec, Secret, Trouble, header::AUTHORIZATION};

#[path = "support/fake.rs"]
mod fake;
use fake::Fake;

async fn tagged(headers: HeaderMap) -> Response {
    match headers.get(header::IF_NONE_MATCH) {
        Some(tag) if tag == "\"v1\"" => StatusCode::NOT_MODIFIED.into_response(),
        _ => ([(header::ETAG, "\"v1\"")], "first").into_response(),
    }
}

async fn setup() -> (Fake, Client) {
    let routes = Router::new()
        .route("/tagged", get(tagged))
        .route("/log", get(async || "x".repeat(10_000) + "the end"));
    let fake = Fake::start(routes, None).await;
    let mut spec = ClientSpec::new("Test", BaseUrl::new(&fake.url).expect("loopback"));
    spec.telling_headers = &["x-accepted-oauth-scopes"];
    spec.attempts = 1;
    (fake, Client::new(spec))
}

#[tokio::test]
async fn what_has_not_changed_is_not_sent_again() {
    let (_, client) = setup().await;
    let first = client.send(Call::get("/tagged")).await.expect("a body");
    let tag = first.header("etag").expect("a tag");
    let call = || Call::get("/tagged");
    let second = client.send(call().if_none_match(tag)).await.expect("304");
    assert_eq!((second.status, second.body.len()), (304, 0));
    let other = client
        .send(call().if_none_match("\"v0\""))
        .await
        .expect("200");
    assert_eq!((other.status, other.body.as_slice()), (200, &b"first"[..]));
}

#[tokio::test]
async fn an_unasked_304_is_a_failure() {
    let (fake, client) = setup().await;
    fake.fail(304, &[], "");
    let error = client.send(Call::get("/tagged")).await.expect_err("304");
    assert_eq!(error.failure.status, Some(304));
}

#[tokio::test]
async fn a_redirect_can_be_the_answer() {
    let (fake, client) = setup().await;
    fake.fail(302, &[("location", "https://logs.example.com/a?sig=s")], "");
    let call = Call::get("/tagged").redirect_is_answer();
    let answer = client.send(call).await.expect("the redirect itself");
    assert_eq!(
        (answer.status, answer.header("location")),
        (302, Some("https://logs.example.com/a?sig=s"))
    );
    assert_eq!(fake.take_seen().len(), 1);
}

#[tokio::test]
async fn a_refusal_keeps_the_headers_that_were_asked_for() {
    let (fake, client) = setup().await;
    let headers = [("x-accepted-oauth-scopes", "repo"), ("x-other", "o")];
    fake.fail(404, &headers, "");
    let error = client.send(Call::get("/tagged")).await.expect_err("404");
    assert_eq!(
        error.failure.header("x-accepted-oauth-scopes"),
        Some("repo")
    );
    assert_eq!(error.failure.header("x-other"), None);
}

#[tokio::test]
async fn the_end_of_a_download_is_kept_and_no_credential_sent() {
    let (fake, client) = setup().await;
    let address = format!("{}/log?sig=secret", fake.url);
    let tail = client.download_tail(&address, 7).await.expect("a log");
    assert_eq!(
        (tail.bytes.as_slice(), tail.total_bytes),
        (&b"the end"[..], 10_007)
    );
    let seen = fake.take_seen().remove(0);
    assert_eq!(
        (
            seen.method.as_str(),
            seen.path_and_query.as_str(),
            seen.body.as_str()
        ),
        ("GET", "/log?sig=secret", "")
    );
    assert!(!seen.headers.contains_key(AUTHORIZATION));
    fake.fail(403, &[], "<Error>signature sig=secret</Error>");
    let error = client.download_tail(&address, 7).await.expect_err("403");
    assert_eq!(error.failure.trouble, Trouble::Forbidden);
    assert!(!format!("{error} {error:?}").contains("secret"));
    for address in ["http://192.0.2.1/log", "no address"] {
        let error = client.download_tail(address, 7).await.expect_err("refused");
        assert_eq!(error.failure.trouble, Trouble::Malformed, "{address}");
    }
    fake.fail(302, &[("location", "http://127.0.0.1:1/")], "");
    assert!(client.download_tail(&address, 7).await.is_err());
    // The credential of the client's calls stays with them.
    let call = Call::get("/tagged").auth(AUTHORIZATION, "Bearer ", Secret::new("s"));
    assert!(client.send(call).await.is_ok());
}
