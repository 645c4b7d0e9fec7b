//! Credentials tried with the service behind a template, and groups of which one must be given.

use std::process::Output;

use axum::{
    Json, Router,
    extract::Request,
    http::StatusCode as Status,
    routing::{get, post},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Database, Server, on_both_databases};

on_both_databases! {
    a_check_tells_right_from_refused_from_not_tried_and_leaves_nothing,
    of_several_credentials_one_group_is_needed,
}

const RIGHT: &str = "right-secret-value";
const WRONG: &str = "wrong-secret-value";

/// The binary, as a person uses it. Not blocking: the services are in this process.
async fn minimcp(server: &Server, arguments: &[&str]) -> Output {
    let said = tokio::process::Command::new(env!("CARGO_BIN_EXE_minimcp"))
        .env_clear()
        .args(["--api-url", &server.url(), "--token-file"])
        .arg(&server.config().api.admin_token_file)
        .args(arguments)
        .output();
    said.await.expect("the binary starts")
}

async fn store(server: &Server, name: &str, value: &str) {
    let body = json!({"name": name, "value": value});
    let path = format!("/credentials/{name}");
    let (status, answer) = server.call(Method::PUT, &path, Some(body)).await;
    assert!(status.is_success(), "{answer}");
}

/// The three services, strict about who asks; what they refuse they repeat, as some do.
async fn services() -> String {
    let me = |request: Request| async move {
        let header = |name: &str| {
            let value = request.headers().get(name);
            value
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        let given = format!("{}{}", header("authorization"), header("x-figma-token"));
        if given.contains(RIGHT) {
            let answer = json!({"login": "me", "html_url": "https://github.com/me", "id": "7", "handle": "Ann",
                "email": "ann@example.com", "emailAddress": "ann@example.com", "messagesTotal": 1, "threadsTotal": 1,
                "historyId": "1"});
            return (Status::OK, Json(answer));
        }
        let echo =
            json!({"message": format!("bad token {given}"), "err": format!("bad token {given}")});
        (Status::UNAUTHORIZED, Json(echo))
    };
    let token = |form: String| async move {
        if form.contains(RIGHT) {
            let answer = json!({"access_token": RIGHT, "expires_in": 3599, "token_type": "Bearer"});
            return (Status::OK, Json(answer));
        }
        let answer = json!({"error": "invalid_grant", "error_description": format!("bad {form}")});
        (Status::BAD_REQUEST, Json(answer))
    };
    let routes = Router::new()
        .route("/user", get(me))
        .route("/v1/me", get(me))
        .route("/gmail/v1/users/me/profile", get(me))
        .route("/token", post(token));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .expect("a port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{address}")
}

async fn check(server: &Server, template: &str, body: Value) -> Value {
    server
        .post(&format!("/templates/{template}/check"), body)
        .await
}

async fn a_check_tells_right_from_refused_from_not_tried_and_leaves_nothing(database: Database) {
    let server = Server::start(database).await;
    let url = services().await;
    store(&server, "right", RIGHT).await;
    store(&server, "wrong", WRONG).await;
    let json_of = |token: &str| {
        json!({"type": "authorized_user", "client_id": "c", "client_secret": "client-secret",
            "refresh_token": token})
        .to_string()
    };
    store(&server, "right-json", &json_of(RIGHT)).await;
    store(&server, "wrong-json", &json_of(WRONG)).await;
    let nobody = "http://127.0.0.1:1";
    for (template, variable, end, settings) in [
        (
            "github",
            "GITHUB_PERSONAL_ACCESS_TOKEN",
            "",
            json!({"api_url": url}),
        ),
        ("figma", "FIGMA_API_KEY", "", json!({"api_base": url})),
        (
            "gmail",
            "GMAIL_CREDENTIALS",
            "-json",
            json!({"api_base_url": url, "token_uri": format!("{url}/token")}),
        ),
    ] {
        let shown = server.get(&format!("/templates/{template}")).await;
        assert!(shown["check"].is_string(), "{shown:#}");
        let with = |name: &str, settings: &Value| json!({"credentials": {variable: format!("{name}{end}")}, "settings": settings});
        let right = check(&server, template, with("right", &settings)).await;
        assert_eq!(right["outcome"], "accepted", "{right:#}");
        let wrong = check(&server, template, with("wrong", &settings)).await;
        assert_eq!(wrong["outcome"], "refused", "{wrong:#}");
        assert!(!wrong.to_string().contains(WRONG), "{wrong:#}");
        let mut elsewhere = settings.clone();
        for (_, value) in elsewhere.as_object_mut().expect("settings") {
            *value = json!(value.as_str().expect("text").replace(&url, nobody));
        }
        let away = check(&server, template, with("right", &elsewhere)).await;
        assert_eq!(away["outcome"], "not-tried", "{away:#}");
    }
    assert_eq!(server.get("/mcps").await["items"], json!([]));
    assert_eq!(server.access_ports(), Vec::<u16>::new());
    let folders = std::fs::read_dir(&server.config().runtime.instance_dir).expect("it is there");
    let names = folders.map(|folder| folder.expect("readable").file_name());
    let left: Vec<_> = names
        .filter(|name| {
            name.to_str()
                .is_some_and(|name| name.parse::<uuid::Uuid>().is_ok())
        })
        .collect();
    assert_eq!(left, Vec::<std::ffi::OsString>::new(), "{}", server.log());
    assert!(!server.log().contains(RIGHT) && !server.log().contains(WRONG));

    // A template without a call, a credential that is not there.
    let path = "/templates/demo/check";
    let (status, problem) = server.call(Method::POST, path, Some(json!({}))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem:#}");
    assert_eq!(problem["violations"][0]["code"], "no-check", "{problem:#}");
    let path = "/templates/github/check";
    let body = json!({"credentials": {"GITHUB_PERSONAL_ACCESS_TOKEN": "absent"}});
    let (status, problem) = server.call(Method::POST, path, Some(body)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem:#}");

    // By hand, with an instance as the example.
    let mut body = json!({"template": "github", "name": "hub", "settings": {"api_url": url},
        "credentials": {"GITHUB_PERSONAL_ACCESS_TOKEN": "wrong"}});
    // It does not even look like a token.
    let (status, problem) = server.call(Method::POST, "/mcps", Some(body.clone())).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem:#}");
    let violation = &problem["violations"][0];
    let pointer = "/credentials/GITHUB_PERSONAL_ACCESS_TOKEN";
    assert_eq!(
        (&violation["pointer"], &violation["code"]),
        (&json!(pointer), &json!("pattern"))
    );
    let told = problem.to_string();
    assert!(
        told.contains("must begin with github_pat_") && !told.contains(WRONG),
        "{told}"
    );
    body["force"] = json!(true);
    let instance = server.create(body).await;
    let said = minimcp(&server, &["credential", "check", "hub"]).await;
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(text.contains("The credentials are refused"), "{text}");
    let credential = "GITHUB_PERSONAL_ACCESS_TOKEN=right";
    let setting = format!("api_url={url}");
    let arguments = [
        "credential",
        "check",
        "--template",
        "github",
        "--credential",
        credential,
        "--setting",
        &setting,
    ];
    let said = minimcp(&server, &arguments).await;
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(text.contains("The credentials are accepted"), "{text}");
    server.delete(instance["id"].as_str().expect("an id")).await;
}

async fn of_several_credentials_one_group_is_needed(database: Database) {
    let server = Server::start(database).await;
    store(&server, "work", "a-secret-value").await;
    for (template, credentials, pointer, words) in [
        (
            "figma",
            json!({}),
            "/credentials",
            "FIGMA_API_KEY, or FIGMA_OAUTH_TOKEN",
        ),
        (
            "gmail",
            json!({}),
            "/credentials",
            "GMAIL_CREDENTIALS, or GMAIL_CLIENT_ID with",
        ),
        (
            "gmail",
            json!({"GMAIL_CLIENT_ID": "work", "GMAIL_CLIENT_SECRET": "work"}),
            "/credentials/GMAIL_REFRESH_TOKEN",
            "instead of them all: GMAIL_CREDENTIALS",
        ),
    ] {
        let body = json!({"template": template, "credentials": credentials});
        let (status, problem) = server.call(Method::POST, "/mcps", Some(body)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem:#}");
        let violation = &problem["violations"][0];
        assert_eq!(violation["pointer"], pointer, "{problem:#}");
        assert!(
            violation["message"].to_string().contains(words),
            "{problem:#}"
        );
    }
    let shown = server.get("/templates/figma").await;
    assert_eq!(
        shown["credentials_one_of"],
        json!([["FIGMA_API_KEY"], ["FIGMA_OAUTH_TOKEN"]])
    );
    let said = minimcp(&server, &["templates", "gmail"]).await;
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(
        text.contains("One of: GMAIL_CREDENTIALS; or GMAIL_CLIENT_ID with"),
        "{text}"
    );
    let body = json!({"template": "figma", "credentials": {"FIGMA_OAUTH_TOKEN": "work"}});
    server.create(body).await;
}
