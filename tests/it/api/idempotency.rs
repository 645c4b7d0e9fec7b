//! `Idempotency-Key` over a real store.

use serde_json::json;

use super::{Answer, Fixture};
use crate::harness::{Database, on_both_databases};

on_both_databases! {
    a_repeated_create_answers_the_same_and_makes_one,
    another_request_under_the_same_key_is_refused,
    a_refusal_is_kept_too_and_a_deletion_is_done_once,
    two_at_once_make_one,
    the_kept_answer_holds_no_token_in_clear,
    a_bad_key_is_refused_and_reads_ignore_keys,
    without_the_store_nothing_is_done,
}

const BODY: &str = "{\"template\": \"demo\"}";

async fn keyed(api: &Fixture, method: &str, path: &str, body: &str, key: &str) -> Answer {
    let request = api.request(method, path, body, &[("idempotency-key", key)]);
    api.send(request).await
}

async fn count(api: &Fixture) -> usize {
    let page = api.call("GET", "/api/v1/mcps", "").await.json();
    page["items"].as_array().expect("items").len()
}

async fn a_repeated_create_answers_the_same_and_makes_one(database: Database) {
    let api = Fixture::new(database).await;
    let first = keyed(&api, "POST", "/api/v1/mcps", BODY, "k-1").await;
    assert_eq!(first.status, 201, "{}", first.text);
    assert!(!first.headers.contains_key("idempotency-replayed"));
    // The other prefix is the same route.
    for path in ["/api/v1/mcps", "/api/mcps"] {
        let again = keyed(&api, "POST", path, BODY, "k-1").await;
        assert_eq!(again.status, 201);
        assert_eq!(again.text, first.text);
        assert_eq!(again.headers["location"], first.headers["location"]);
        assert_eq!(again.headers["content-type"], "application/json");
        assert_eq!(again.headers["idempotency-replayed"], "true");
    }
    assert_eq!(count(&api).await, 1);
    assert_eq!(
        keyed(&api, "POST", "/api/v1/mcps", BODY, "k-2")
            .await
            .status,
        201
    );
    assert_eq!(count(&api).await, 2);
}

async fn another_request_under_the_same_key_is_refused(database: Database) {
    let api = Fixture::new(database).await;
    let made = keyed(&api, "POST", "/api/v1/mcps", BODY, "k").await.json();
    let other = "{\"template\": \"demo\", \"name\": \"x\"}";
    keyed(&api, "POST", "/api/v1/mcps", other, "k")
        .await
        .problem(422, "idempotency-key-reused");
    keyed(&api, "POST", "/api/v1/mcps?wait=ready", BODY, "k")
        .await
        .problem(422, "idempotency-key-reused");
    let path = format!("/api/v1/mcps/{}", made["id"].as_str().expect("an id"));
    keyed(&api, "DELETE", &path, "", "k")
        .await
        .problem(422, "idempotency-key-reused");
    assert_eq!(count(&api).await, 1);
}

async fn a_refusal_is_kept_too_and_a_deletion_is_done_once(database: Database) {
    let api = Fixture::new(database).await;
    let body = json!({"template": "nothing"}).to_string();
    let first = keyed(&api, "POST", "/api/v1/mcps", &body, "k-bad").await;
    first.problem(422, "validation-failed");
    let again = keyed(&api, "POST", "/api/v1/mcps", &body, "k-bad").await;
    assert_eq!((again.status, again.text), (first.status, first.text));
    let made = keyed(&api, "POST", "/api/v1/mcps", BODY, "k").await.json();
    let path = format!("/api/v1/mcps/{}", made["id"].as_str().expect("an id"));
    for _ in 0..2 {
        let gone = keyed(&api, "DELETE", &path, "", "k-delete").await;
        assert_eq!((gone.status.as_u16(), gone.text.as_str()), (204, ""));
    }
    api.call("DELETE", &path, "")
        .await
        .problem(404, "not-found");
}

async fn two_at_once_make_one(database: Database) {
    let api = Fixture::new(database).await;
    let (a, b) = tokio::join!(
        keyed(&api, "POST", "/api/v1/mcps", BODY, "k"),
        keyed(&api, "POST", "/api/v1/mcps", BODY, "k"),
    );
    let mut statuses = [a.status.as_u16(), b.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409], "{} {}", a.text, b.text);
    let refused = if a.status == 409 { a } else { b };
    refused.problem(409, "idempotency-in-progress");
    assert_eq!(count(&api).await, 1);
    let later = keyed(&api, "POST", "/api/v1/mcps", BODY, "k").await;
    assert_eq!(later.headers["idempotency-replayed"], "true");
}

async fn the_kept_answer_holds_no_token_in_clear(database: Database) {
    let api = Fixture::new(database).await;
    let made = keyed(&api, "POST", "/api/v1/mcps", BODY, "k").await.json();
    let token = made["access_token"].as_str().expect("a token");
    let owner = minimcp::api::auth::administrator().owner;
    let row = api
        .state
        .store
        .idempotency_get(&owner, "k")
        .await
        .expect("the store")
        .expect("a row");
    let blob = String::from_utf8(row.body).expect("text");
    assert!(!blob.contains(token) && !blob.contains("access"), "{blob}");
    assert!(blob.contains("ciphertext"), "{blob}");
}

async fn a_bad_key_is_refused_and_reads_ignore_keys(database: Database) {
    let api = Fixture::new(database).await;
    for bad in ["", "a b", &"x".repeat(129)] {
        keyed(&api, "POST", "/api/v1/mcps", BODY, bad)
            .await
            .problem(400, "invalid-header");
    }
    assert_eq!(count(&api).await, 0);
    assert_eq!(
        keyed(&api, "GET", "/api/v1/mcps", "", "a b").await.status,
        200
    );
}

async fn without_the_store_nothing_is_done(database: Database) {
    let api = Fixture::new(database).await;
    api.state.store.close().await;
    keyed(&api, "POST", "/api/v1/mcps", BODY, "k")
        .await
        .problem(503, "database-unavailable");
}
