//! "Bad input and trouble", asked of the real daemon: the status, the code, and nothing half made.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Database, Server, http_client, on_both_databases};

on_both_databases! {
    bodies_and_tokens_are_checked_on_the_wire,
    a_repeated_create_with_a_key_makes_one_even_across_a_restart,
}

/// One refusal: what is asked, and the status and code expected.
type Refusal = (Method, &'static str, Value, u16, &'static str);

fn refusals() -> Vec<Refusal> {
    let post = |path, body, status, code| (Method::POST, path, body, status, code);
    let create = |body| post("/mcps", body, 422, "validation-failed");
    vec![
        create(json!({"template": "nothing"})),
        create(json!({"template": "demo", "ttl": 0})),
        create(json!({"template": "demo", "ttl": -1})),
        create(json!({"template": "demo", "ttl": "10x"})),
        create(json!({"template": "demo", "ttl": "520w"})),
        create(json!({"template": "demo", "name": "Bad_Slug"})),
        create(json!({"template": "demo", "name": "01a2193f-cf86-73e5-9624-14ca81fb2fe5"})),
        create(json!({"template": "demo", "nmae": "typo"})),
        create(json!({"template": "github"})),
        create(json!({
            "template": "github",
            "credentials": {"GITHUB_PERSONAL_ACCESS_TOKEN": "no-such"}
        })),
        post(
            "/mcps",
            json!({"template": "demo", "name": "first"}),
            409,
            "name-taken",
        ),
        post("/mcps/first/restore", Value::Null, 409, "wrong-state"),
        post(
            "/mcps/first/extend",
            json!({"ttl": "10x"}),
            422,
            "validation-failed",
        ),
        post("/mcps/nobody/start", Value::Null, 404, "not-found"),
        post(
            "/mcps?wait=soon",
            json!({"template": "demo"}),
            400,
            "invalid-query",
        ),
        (
            Method::GET,
            "/mcps/00000000-0000-7000-8000-000000000000",
            Value::Null,
            404,
            "not-found",
        ),
        (
            Method::GET,
            "/mcps?status=happy",
            Value::Null,
            400,
            "invalid-query",
        ),
        (Method::GET, "/nothing", Value::Null, 404, "no-such-route"),
        (Method::PUT, "/mcps", Value::Null, 405, "method-not-allowed"),
    ]
}

#[tokio::test]
async fn bad_input_is_told_apart_and_makes_nothing() {
    for database in Database::available() {
        let server = Server::start(database).await;
        server
            .create(json!({"template": "demo", "name": "first"}))
            .await;
        for (method, path, body, status, code) in refusals() {
            let body = Some(body).filter(|body| !body.is_null());
            let (got, problem) = server.call(method.clone(), path, body).await;
            assert_eq!(got.as_u16(), status, "{method} {path}: {problem}");
            assert_eq!(problem["code"], code, "{method} {path}: {problem}");
            assert!(
                problem["detail"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty())
            );
            assert!(
                problem["request_id"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty())
            );
        }
        let body = json!({"template": "nothing", "ttl": "10x", "name": "A_", "labels": {"": "x"}});
        let (_, problem) = server.call(Method::POST, "/mcps", Some(body)).await;
        let told = problem["violations"].as_array().expect("a list").iter();
        let told: Vec<&str> = told.filter_map(|one| one["pointer"].as_str()).collect();
        assert_eq!(
            told,
            ["/labels/", "/name", "/template", "/ttl"],
            "{problem}"
        );
        let page = server.get("/mcps").await;
        assert_eq!(page["items"].as_array().expect("items").len(), 1, "{page}");
        let ports = server.get("/ports").await;
        assert_eq!(
            ports["leased"].as_array().expect("leases").len(),
            1,
            "{ports}"
        );
        server.delete("first").await;
    }
}

async fn bodies_and_tokens_are_checked_on_the_wire(database: Database) {
    let server = Server::start(database).await;
    let client = http_client();
    let create = |token: String, body: String| {
        client
            .post(format!("{}/api/v1/mcps", server.url()))
            .bearer_auth(token)
            .header("content-type", "application/json")
            .body(body)
            .send()
    };
    let good = "{\"template\": \"demo\"}".to_owned();
    for (token, body, status, code) in [
        ("wrong".to_owned(), good, 401, "unauthenticated"),
        (
            server.admin_token(),
            "{\"template\":".to_owned(),
            400,
            "malformed-json",
        ),
        (
            server.admin_token(),
            "x".repeat(10 << 20),
            413,
            "body-too-large",
        ),
    ] {
        let answer = create(token, body).await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: Value = answer.json().await.expect("JSON");
        assert_eq!(problem["code"], code, "{problem}");
    }
    assert_eq!(server.get("/mcps").await["items"], json!([]));
}

async fn a_repeated_create_with_a_key_makes_one_even_across_a_restart(database: Database) {
    let mut server = Server::start(database).await;
    let client = http_client();
    let mut answers = Vec::new();
    for round in 0..2 {
        let answer = client
            .post(format!("{}/api/v1/mcps", server.url()))
            .bearer_auth(server.admin_token())
            .header("idempotency-key", "create-once")
            .json(&json!({"template": "demo", "name": "once"}))
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), StatusCode::CREATED);
        answers.push(answer.text().await.expect("a body"));
        if round == 0 {
            server.stop();
            server.launch().await;
        }
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(
        server.get("/mcps").await["items"]
            .as_array()
            .expect("items")
            .len(),
        1
    );
    server.delete("once").await;
}
