//! Answers that are read while they come in.

use std::{collections::BTreeMap, io::Read, time::Duration};

use axum::{Router, body::Body, routing::get};
use futures_util::stream;
use minimcp_rest::{BaseUrl, Call, Client, ClientSpec, Trouble};
use serde::de::IgnoredAny;

#[expect(dead_code, reason = "what only other tests look at")]
#[path = "support/fake.rs"]
mod fake;
use fake::Fake;

/// Keeps the number of members and nothing of what they hold.
fn count(reader: &mut dyn Read) -> serde_json::Result<usize> {
    let members: BTreeMap<String, IgnoredAny> = serde_json::from_reader(reader)?;
    Ok(members.len())
}

/// 4 MiB of JSON in small pieces, of unknown length.
fn large() -> Body {
    let pieces = (0..64).map(|number| {
        let start = if number == 0 { "{" } else { "," };
        let end = if number == 63 { "}" } else { "" };
        Ok::<_, std::io::Error>(format!(
            "{start}\"{number}\": \"{}\"{end}",
            "x".repeat(64 * 1024)
        ))
    });
    Body::from_stream(stream::iter(pieces))
}

async fn setup() -> (Fake, Client) {
    let routes = Router::new().route("/large", get(async || large()));
    let fake = Fake::start(routes, None).await;
    let mut spec = ClientSpec::new("Test", BaseUrl::new(&fake.url).expect("loopback"));
    spec.backoff = Duration::from_millis(1);
    spec.body_bytes_max = 1_000;
    (fake, Client::new(spec))
}

#[tokio::test]
async fn what_is_larger_than_the_cap_of_answers_is_read_all_the_same() {
    let (fake, client) = setup().await;
    fake.fail(503, &[], "");
    let members = client
        .send_streamed(Call::get("/large"), 64 << 20, count)
        .await;
    assert_eq!(members, Ok(64));
    assert_eq!(
        fake.take_seen().len(),
        2,
        "a failure that passes is not seen"
    );
}

#[tokio::test]
async fn a_stream_has_a_cap_of_its_own_and_must_be_what_is_parsed() {
    let (fake, client) = setup().await;
    let error = client
        .send_streamed(Call::get("/large"), 1 << 20, count)
        .await
        .expect_err("it is larger");
    assert_eq!(error.failure.trouble, Trouble::TooLarge(1 << 20));
    for (status, body, trouble) in [
        (200, r#"{"a": tok-SECRET"#, Trouble::Malformed),
        (200, "[]", Trouble::Malformed),
        (200, "", Trouble::Malformed),
        (404, "{}", Trouble::NotFound),
        (429, "{}", Trouble::RateLimited(None)),
    ] {
        fake.fail(status, &[], body);
        let error = client
            .send_streamed(Call::get("/large"), 1 << 20, count)
            .await
            .expect_err("a failure");
        assert_eq!(error.failure.trouble, trouble, "{body}");
        assert!(!format!("{error} {error:?}").contains("SECRET"));
    }
}
