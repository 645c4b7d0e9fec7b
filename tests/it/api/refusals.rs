//! Bad input: the status, the code and the sentence that a frontend developer would hope for.

use axum::body::Body;
use http::Request;
use serde_json::Value;

use super::Fixture;
use crate::harness::{Database, on_both_databases};

on_both_databases! {
    malformed_json_tells_line_and_column_and_never_the_text,
    every_structural_fault_is_listed_at_once,
    faults_of_shape_hide_no_fault_of_value,
    every_fault_of_a_query_is_listed_at_once,
    a_wrong_value_of_a_credential_is_never_repeated,
    a_body_over_the_limit_is_refused_whether_announced_or_not,
    a_body_of_another_type_is_refused,
    queries_are_checked,
    paths_that_are_not_there_are_problems,
    a_sane_request_id_is_kept_and_another_is_replaced,
    answers_carry_security_headers,
    cors_is_for_the_listed_origins_only,
    a_panic_becomes_a_problem_that_tells_nothing,
    a_request_without_end_is_ended,
}

/// The pointers of all violations, sorted.
fn pointers(problem: &Value) -> Vec<String> {
    let list = problem["violations"].as_array().expect("violations");
    let mut pointers: Vec<String> = list
        .iter()
        .map(|one| one["pointer"].as_str().expect("text").to_owned())
        .collect();
    pointers.sort();
    pointers
}

/// Where the violations are, in the order of the answer: pointers, and parameters behind a `?`.
fn places(problem: &Value) -> Vec<String> {
    let list = problem["violations"].as_array().expect("violations");
    let place = |one: &Value| {
        let parameter = one["parameter"].as_str().map(|name| format!("?{name}"));
        parameter.unwrap_or_else(|| one["pointer"].as_str().expect("a place").to_owned())
    };
    list.iter().map(place).collect()
}

async fn malformed_json_tells_line_and_column_and_never_the_text(database: Database) {
    let api = Fixture::new(database).await;
    let answer = api
        .call("POST", "/api/v1/mcps", "{\n \"template\": hunter2}")
        .await;
    let problem = answer.problem(400, "malformed-json");
    let detail = problem["detail"].as_str().expect("text");
    assert!(detail.contains("line 2, column"), "{detail}");
    assert!(!detail.contains("hunter2"), "{detail}");
    let answer = api.call("POST", "/api/v1/mcps", "{\"template\":").await;
    let detail = answer.problem(400, "malformed-json")["detail"].to_string();
    assert!(detail.contains("ends too early"), "{detail}");
}

async fn every_structural_fault_is_listed_at_once(database: Database) {
    let api = Fixture::new(database).await;
    let body = r#"{"name": 7, "ttl": true, "credentials": {"A": 1, "b/c": null}, "labels": [], "tll": "1h"}"#;
    let problem = api
        .call("POST", "/api/v1/mcps", body)
        .await
        .problem(422, "validation-failed");
    assert_eq!(
        pointers(&problem),
        [
            "/credentials/A",
            "/credentials/b~1c",
            "/labels",
            "/name",
            "/template",
            "/tll",
            "/ttl"
        ]
    );
    for bad in ["[]", "null", "\"demo\"", "3"] {
        let problem = api
            .call("POST", "/api/v1/mcps", bad)
            .await
            .problem(422, "validation-failed");
        assert_eq!(pointers(&problem), [""], "{bad}");
    }
}

async fn faults_of_shape_hide_no_fault_of_value(database: Database) {
    let api = Fixture::new(database).await;
    let made = api
        .call(
            "POST",
            "/api/v1/mcps",
            r#"{"template": "demo", "name": "one"}"#,
        )
        .await;
    assert_eq!(made.status, 201, "{}", made.text);
    let good = r#"{"name": "taken", "value": "x"}"#;
    api.call("POST", "/api/v1/credentials", good).await;
    // Each with an unknown field, something of a wrong type, and something of a wrong value.
    for (method, path, body, expected) in [
        (
            "POST",
            "/api/v1/mcps?wait=soon&limit=1",
            r#"{"template": "filesystem", "name": "Bad_Slug", "ttl": "10x", "labels": {"a": 1, "": "x"},
                "settings": {"folders": ["", 5, "/ok"]}, "credentials": {"A": true}, "nmae": "typo"}"#,
            &[
                "/credentials/A",
                "/labels/",
                "/labels/a",
                "/name",
                "/nmae",
                "/settings/folders/0",
                "/settings/folders/1",
                "/settings/folders/2",
                "/ttl",
                "?limit",
                "?wait",
            ][..],
        ),
        (
            "POST",
            "/api/v1/mcps",
            r#"{"template": "github", "name": 7, "ttl": "520w",
                "credentials": {"GITHUB_PERSONAL_ACCESS_TOKEN": "no-such", "OTHER": "taken"}}"#,
            &[
                "/credentials/GITHUB_PERSONAL_ACCESS_TOKEN",
                "/credentials/OTHER",
                "/name",
                "/ttl",
            ],
        ),
        (
            "PATCH",
            "/api/v1/mcps/one",
            r#"{"name": "A B", "labels": {"k": 7, "": "x"}, "ttl": "1h"}"#,
            &["/labels/", "/labels/k", "/name", "/ttl"],
        ),
        (
            "POST",
            "/api/v1/mcps/one/extend",
            r#"{"ttl": "520w", "til": "1h"}"#,
            &["/til", "/ttl"],
        ),
        (
            "POST",
            "/api/v1/mcps/one/access-token",
            r#"{"overlap": "52w", "lap": 1}"#,
            &["/lap", "/overlap"],
        ),
        (
            "POST",
            "/api/v1/mcps/one/access-tokens",
            r#"{"name": "A B", "scope": {"tools": [7, "a*b"]}, "rate_limit": {"requests": 0}, "more": 1}"#,
            &[
                "/more",
                "/name",
                "/rate_limit/per",
                "/rate_limit/requests",
                "/scope/tools/0",
                "/scope/tools/1",
            ],
        ),
        (
            "PATCH",
            "/api/v1/mcps/one/access-tokens/default",
            r#"{"name": "x", "scope": "none", "concurrency_max": "1", "expires_at": "yesterday"}"#,
            &["/concurrency_max", "/expires_at", "/name", "/scope"],
        ),
        (
            "POST",
            "/api/v1/credentials",
            r#"{"name": "A B", "value": 7, "note": "x"}"#,
            &["/name", "/note", "/value"],
        ),
        (
            "PUT",
            "/api/v1/credentials/x",
            r#"{"name": "y", "value": "", "note": "x"}"#,
            &["/name", "/note", "/value"],
        ),
    ] {
        let problem = api
            .call(method, path, body)
            .await
            .problem(422, "validation-failed");
        assert_eq!(places(&problem), expected, "{path}: {problem}");
    }
    let page = api.call("GET", "/api/v1/mcps", "").await.json();
    assert_eq!(page["items"].as_array().map(Vec::len), Some(1), "{page}");
}

async fn every_fault_of_a_query_is_listed_at_once(database: Database) {
    let api = Fixture::new(database).await;
    api.call(
        "POST",
        "/api/v1/mcps",
        r#"{"template": "demo", "name": "one"}"#,
    )
    .await;
    for (path, expected) in [
        (
            "/api/v1/mcps?stat=running&status=happy&limit=0&cursor=abc",
            &["?cursor", "?limit", "?stat", "?status"][..],
        ),
        (
            "/api/v1/mcps/one/logs?since=soon&stream=both&limit=x&q=a&q=b&order=up",
            &["?limit", "?order", "?q", "?since", "?stream"],
        ),
        (
            "/api/v1/mcps/one/calls?outcome=odd&until=x&limit=1001&cursor=x",
            &["?cursor", "?limit", "?outcome", "?until"],
        ),
        (
            "/api/v1/mcps/one/events?limit=-1&cursor=x&more",
            &["?cursor", "?limit", "?more"],
        ),
        ("/api/v1/mcps/one/stats?window=9y&w=1", &["?w", "?window"]),
        (
            "/api/v1/credentials?owner=A%20B&cursor=abc&limit=0",
            &["?cursor", "?limit", "?owner"],
        ),
        (
            "/api/v1/events?cursor=x&instances=one",
            &["?cursor", "?instances"],
        ),
    ] {
        let problem = api
            .call("GET", path, "")
            .await
            .problem(400, "invalid-query");
        assert_eq!(places(&problem), expected, "{path}: {problem}");
    }
}

async fn a_wrong_value_of_a_credential_is_never_repeated(database: Database) {
    let api = Fixture::new(database).await;
    for body in [
        r#"{"name": "bad name", "value": "hunter2\u0000"}"#,
        r#"{"name": "x", "value": {"secret": "hunter2"}}"#,
        r#"{"name": "x", "value": "hunter2", "hunter": "hunter2"}"#,
    ] {
        let answer = api.call("POST", "/api/v1/credentials", body).await;
        answer.problem(422, "validation-failed");
        assert!(!answer.text.contains("hunter2"), "{}", answer.text);
    }
    let body = r#"{"name": "bad name", "value": "a\u0000"}"#;
    let problem = api.call("POST", "/api/v1/credentials", body).await.json();
    assert_eq!(pointers(&problem), ["/name", "/value"]);
}

async fn a_body_over_the_limit_is_refused_whether_announced_or_not(database: Database) {
    let api = Fixture::with(database, |config| config.api.body_limit_bytes = 1_000).await;
    let large = format!("{{\"template\": \"{}\"}}", "x".repeat(10 << 20));
    let problem = api
        .call("POST", "/api/v1/mcps", &large)
        .await
        .problem(413, "body-too-large");
    assert!(problem["detail"].as_str().expect("text").contains("1000"));
    let announced = api.request(
        "POST",
        "/api/v1/mcps",
        &large,
        &[("content-length", "10485780")],
    );
    api.send(announced).await.problem(413, "body-too-large");
    let fits = format!("{{\"template\": \"demo\"{}}}", " ".repeat(900));
    assert_eq!(api.call("POST", "/api/v1/mcps", &fits).await.status, 201);
}

async fn a_body_of_another_type_is_refused(database: Database) {
    let api = Fixture::new(database).await;
    for media_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
    ] {
        let request = Request::post("/api/v1/mcps")
            .header("authorization", format!("Bearer {}", api.token))
            .header("content-type", media_type)
            .body(Body::from("{}"))
            .expect("a request");
        api.send(request)
            .await
            .problem(415, "unsupported-media-type");
    }
}

async fn queries_are_checked(database: Database) {
    let api = Fixture::new(database).await;
    for path in [
        "/api/v1/mcps?stat=running",
        "/api/v1/mcps?status=happy",
        "/api/v1/mcps?limit=0",
        "/api/v1/mcps?limit=1001",
        "/api/v1/mcps?limit=many",
        "/api/v1/mcps?cursor=abc",
        "/api/v1/mcps?limit=1&limit=2",
        "/api/v1/credentials?cursor=abc",
        "/api/v1/credentials?owner=A%20B",
    ] {
        let problem = api
            .call("GET", path, "")
            .await
            .problem(400, "invalid-query");
        assert!(
            problem["detail"].as_str().expect("text").len() > 10,
            "{path}"
        );
    }
    let create = "{\"template\": \"demo\"}";
    for query in [
        "wait=soon",
        "timeout=3s",
        "wait=ready&timeout=10x",
        "ready=1",
    ] {
        let path = format!("/api/v1/mcps?{query}");
        api.call("POST", &path, create)
            .await
            .problem(400, "invalid-query");
    }
    let page = api.call("GET", "/api/v1/mcps", "").await.json();
    assert_eq!(
        page["items"],
        serde_json::json!([]),
        "a refused create made something"
    );
}

async fn paths_that_are_not_there_are_problems(database: Database) {
    let api = Fixture::new(database).await;
    for path in [
        "/api",
        "/api/",
        "/api/v1",
        "/api/v2/mcps",
        "/api/v1/mcps/a/b/c",
        "/api/v1/nothing",
    ] {
        let problem = api
            .call("GET", path, "")
            .await
            .problem(404, "no-such-route");
        assert!(problem["detail"].as_str().expect("text").contains(path));
    }
    for path in [
        "/api/v1/mcps/nobody",
        "/api/v1/templates/nothing",
        "/api/v1/templates/NO..",
        "/api/mcps/%2e%2e",
    ] {
        api.call("GET", path, "").await.problem(404, "not-found");
    }
    api.call("GET", "/api/v1/mcps/%ff", "")
        .await
        .problem(400, "bad-request");
    api.call("POST", "/api/v1/tasks/no-such/run", "")
        .await
        .problem(404, "not-found");
    api.call("DELETE", "/api/v1/credentials/no-such", "")
        .await
        .problem(404, "not-found");
}

async fn a_sane_request_id_is_kept_and_another_is_replaced(database: Database) {
    let api = Fixture::new(database).await;
    let ask = |id: &'static str| {
        let request = api.request("GET", "/healthz", "", &[("x-request-id", id)]);
        async {
            api.send(request).await.headers["x-request-id"]
                .to_str()
                .expect("text")
                .to_owned()
        }
    };
    assert_eq!(ask("my-id_1.2").await, "my-id_1.2");
    for bad in ["", "a b", "<script>", &"x".repeat(65).leak()[..]] {
        let id = ask(bad).await;
        assert_ne!(id, bad);
        assert_eq!(id.len(), 32);
    }
}

async fn answers_carry_security_headers(database: Database) {
    let api = Fixture::new(database).await;
    for path in ["/healthz", "/api/v1/mcps", "/nowhere"] {
        let headers = api.call("GET", path, "").await.headers;
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers["x-frame-options"], "DENY");
        assert!(headers.contains_key("content-security-policy"));
    }
}

async fn cors_is_for_the_listed_origins_only(database: Database) {
    let preflight = |origin: &str| {
        Request::options("/api/v1/mcps")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization,idempotency-key",
            )
            .body(Body::empty())
            .expect("a request")
    };
    let api = Fixture::with(database, |config| {
        config.api.cors_origins = vec!["https://app.example".into()]
    })
    .await;
    let allowed = api.send(preflight("https://app.example")).await;
    assert_eq!(allowed.status, 200);
    assert_eq!(
        allowed.headers["access-control-allow-origin"],
        "https://app.example"
    );
    let refused = api.send(preflight("https://evil.example")).await;
    assert!(!refused.headers.contains_key("access-control-allow-origin"));
    let request = api.request(
        "GET",
        "/api/v1/mcps/nobody",
        "",
        &[("origin", "https://app.example")],
    );
    let answer = api.send(request).await;
    answer.problem(404, "not-found");
    assert_eq!(
        answer.headers["access-control-allow-origin"],
        "https://app.example"
    );

    let open = Fixture::with(database, |config| {
        config.api.cors_origins = vec!["*".into()]
    })
    .await;
    let answer = open.send(preflight("https://anyone.example")).await;
    assert_eq!(answer.headers["access-control-allow-origin"], "*");

    let closed = Fixture::new(database).await;
    let answer = closed.send(preflight("https://app.example")).await;
    assert!(
        !answer
            .headers
            .keys()
            .any(|name| name.as_str().starts_with("access-control")),
        "{:?}",
        answer.headers
    );
}

async fn a_panic_becomes_a_problem_that_tells_nothing(database: Database) {
    async fn boom() -> &'static str {
        panic!("hunter2")
    }
    let api = Fixture::new(database).await;
    let observed =
        axum::middleware::from_fn_with_state(api.state.clone(), minimcp::api::layers::observe);
    let router = axum::Router::new()
        .route("/boom", axum::routing::get(boom))
        .layer(observed);
    let api = Fixture { router, ..api };
    let answer = api.call("GET", "/boom", "").await;
    answer.problem(500, "internal");
    assert!(!answer.text.contains("hunter2"));
}

async fn a_request_without_end_is_ended(database: Database) {
    let api = Fixture::with(database, |config| {
        config.api.request_timeout = minimcp::domain::duration::HumanDuration::from_secs(60)
    })
    .await;
    let observed =
        axum::middleware::from_fn_with_state(api.state.clone(), minimcp::api::layers::observe);
    let router = axum::Router::new()
        .route(
            "/hang",
            axum::routing::get(std::future::pending::<&'static str>),
        )
        .layer(observed);
    let api = Fixture { router, ..api };
    // Not before: opening the store takes real time.
    tokio::time::pause();
    let answer = api.call("GET", "/hang", "").await;
    answer.problem(503, "timeout");
}
