//! The document and the router say the same; everything but four paths needs the token.

use std::collections::BTreeSet;

use axum::body::Body;
use http::Request;
use serde_json::Value;

use super::Fixture;
use crate::harness::Database;
use minimcp::{api::openapi, domain::state::StatusWord};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];
const OPEN: [&str; 4] = ["/healthz", "/readyz", "/openapi.json", "/docs"];

fn document() -> Value {
    serde_json::to_value(openapi::parts().document).expect("a document")
}

fn paths() -> Vec<(String, Value)> {
    let document = document();
    let paths = document["paths"].as_object().expect("paths").clone();
    paths.into_iter().collect()
}

fn filled(path: &str) -> String {
    path.replace("{id}", "no-such").replace("{name}", "no-such")
}

/// The paths of a router, as its `Debug` form lists them. "/" is how axum files its fallback; that no route of ours
/// has that path is asked in `refusals`.
fn registered(router: &impl std::fmt::Debug) -> BTreeSet<String> {
    let text = format!("{router:?}");
    let quoted = text.split('"').skip(1).step_by(2);
    quoted
        .filter(|part| part.starts_with('/') && *part != "/" && !part.contains("{*"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_route_is_documented_and_every_documented_path_is_a_route() {
    let parts = openapi::parts();
    let mut routes: BTreeSet<String> = registered(&parts.api)
        .into_iter()
        .map(|path| format!("{}{path}", openapi::PREFIX))
        .collect();
    routes.extend(registered(&parts.metrics));
    routes.extend(registered(&parts.open));
    let documented: BTreeSet<String> = paths().into_iter().map(|(path, _)| path).collect();
    assert_eq!(routes, documented);
    assert!(documented.len() > 20, "{documented:?}");
}

#[tokio::test]
async fn each_path_takes_exactly_the_documented_methods() {
    let api = Fixture::new(Database::Sqlite).await;
    for (path, item) in paths() {
        let documented: BTreeSet<&str> = METHODS
            .into_iter()
            .filter(|method| item.get(*method).is_some())
            .collect();
        let mut paths = vec![filled(&path)];
        paths.extend(
            path.strip_prefix("/api/v1")
                .map(|rest| filled(&format!("/api{rest}"))),
        );
        for path in paths {
            let answer = api.call("QUERY", &path, "").await;
            answer.problem(405, "method-not-allowed");
            let allow = answer.headers["allow"]
                .to_str()
                .expect("text")
                .to_lowercase();
            let allowed: BTreeSet<&str> = allow.split(',').filter(|m| *m != "head").collect();
            assert_eq!(allowed, documented, "{path}");
        }
    }
}

#[tokio::test]
async fn everything_but_the_open_paths_needs_the_token_and_says_so() {
    let api = Fixture::new(Database::Sqlite).await;
    let mut open = 0;
    for (path, item) in paths() {
        for method in METHODS.iter().filter(|method| item.get(**method).is_some()) {
            let request = Request::builder()
                .method(method.to_uppercase().as_str())
                .uri(filled(&path))
                .body(Body::empty())
                .expect("a request");
            let answer = api.send(request).await;
            let secured = item[*method].get("security").is_some();
            assert_eq!(!secured, OPEN.contains(&path.as_str()), "{path}");
            if secured {
                let problem = answer.problem(401, "unauthenticated");
                let detail = problem["detail"].as_str().expect("text");
                assert!(detail.contains("Authorization: Bearer"), "{detail}");
                assert!(answer.headers["www-authenticate"].to_str().is_ok());
            } else {
                assert_eq!(answer.status, 200, "{method} {path}");
                open += 1;
            }
        }
    }
    assert_eq!(open, OPEN.len());
}

#[test]
fn every_operation_tells_its_problems_and_every_reference_leads_somewhere() {
    let document = document();
    let text = document.to_string();
    for part in text.split("\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().expect("a name");
        assert!(!document["components"]["schemas"][name].is_null(), "{name}");
    }
    for (path, item) in paths().iter().filter(|(path, _)| path.starts_with("/api")) {
        for method in METHODS.iter().filter(|method| item.get(**method).is_some()) {
            let operation = &item[*method];
            for status in ["401", "500", "503"] {
                let content = &operation["responses"][status]["content"];
                assert!(
                    !content["application/problem+json"].is_null(),
                    "{method} {path} {status}"
                );
            }
            let keyed = operation["parameters"]
                .as_array()
                .is_some_and(|list| list.iter().any(|one| one["name"] == "Idempotency-Key"));
            assert_eq!(keyed, *method != "get", "{method} {path}");
        }
    }
}

/// Generated clients read lists and durations by these.
#[test]
fn each_list_names_its_items_and_durations_may_be_texts() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    let mut shapes = BTreeSet::new();
    for (path, item) in [
        ("/mcps", "ListedInstance"),
        ("/mcps/{id}/logs", "LogLine"),
        ("/mcps/{id}/calls", "CallEntry"),
        ("/templates", "TemplateSummary"),
        ("/tasks", "TaskStatus"),
        ("/keys", "MasterKey"),
        ("/credentials", "Credential"),
        ("/mcps/{id}/access-tokens", "AccessToken"),
    ] {
        let operation = &document["paths"][format!("/api/v1{path}")]["get"];
        let content = &operation["responses"]["200"]["content"];
        let of_page = content["application/json"]["schema"]["$ref"].as_str();
        let page = of_page.and_then(|name| name.rsplit('/').next());
        let page = page.unwrap_or_else(|| panic!("{path}: {content:#}"));
        assert_eq!(page, format!("Page_{item}"), "{path}");
        let listed = &schemas[page]["properties"]["items"]["items"];
        // Those of one kind are written out, those of several are named.
        for one in listed["anyOf"].as_array().unwrap_or(&vec![listed.clone()]) {
            let name = one["$ref"]
                .as_str()
                .and_then(|name| name.rsplit('/').next());
            let shape = name.map_or(one, |name| &schemas[name]);
            let properties = &shape["properties"];
            assert!(properties.is_object(), "{path}: {}", schemas[page]);
            shapes.insert(properties.to_string());
        }
    }
    assert_eq!(shapes.len(), 9, "each its own, and instances in short");
    let kinds = schemas["DurationSchema"]["oneOf"].as_array().map(|all| {
        let kinds = all
            .iter()
            .map(|one| one["type"].as_str().unwrap_or_default());
        kinds.map(str::to_owned).collect::<Vec<_>>()
    });
    let expected = ["integer", "string"].map(str::to_owned).to_vec();
    assert_eq!(kinds, Some(expected), "{}", schemas["DurationSchema"]);
    assert!(
        schemas["CreateInstance"]["properties"]["ttl"]
            .to_string()
            .contains("DurationSchema")
    );
}

/// Every schema of an object, with its name; those of pages hold copies of what they list.
fn objects(document: &Value) -> Vec<(String, Value)> {
    let schemas = document["components"]["schemas"].as_object();
    let mut found = Vec::new();
    for (name, schema) in schemas.expect("schemas") {
        found.push((name.clone(), schema.clone()));
        let listed = &schema["properties"]["items"]["items"];
        if listed["properties"].is_object() {
            found.push((format!("{name}[]"), listed.clone()));
        }
    }
    found
}

/// Generated clients make dates and unions of words of these.
#[test]
fn times_and_words_say_what_they_are() {
    let (mut times, mut words) = (0, 0);
    let objects = objects(&document());
    for (name, schema) in &objects {
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            let is_time = ["at", "since", "until"].contains(&key.as_str())
                || key.ends_with("_at")
                || key.ends_with("_until");
            let expected = if is_time { "date-time" } else { "" };
            let format = property["format"].as_str().unwrap_or_default();
            assert_eq!(
                format == "date-time",
                is_time,
                "{name}.{key}: {expected} {property}"
            );
            times += usize::from(is_time);
        }
    }
    for (of, key) in [
        ("Instance", "status"),
        ("Instance", "health"),
        ("Instance", "desired"),
        ("CallEntry", "outcome"),
        ("CallEntry", "era"),
        ("LogLine", "stream"),
    ] {
        let page = format!("Page_{of}[]");
        let before = words;
        for (name, schema) in &objects {
            if name == of || *name == page {
                let reference = &schema["properties"][key]["$ref"];
                let to = reference.as_str().unwrap_or_default();
                assert!(to.ends_with("Schema"), "{name}.{key}: {schema}");
                words += 1;
            }
        }
        assert!(words > before, "{of}.{key}");
    }
    assert!(times > 20, "{times}");
    let status = &document()["components"]["schemas"]["StatusSchema"];
    let all: Vec<&str> = StatusWord::ALL.map(StatusWord::as_str).to_vec();
    assert_eq!(status["enum"], serde_json::json!(all), "{status}");
    assert!(
        status["description"]
            .as_str()
            .is_some_and(|text| text.len() > 10)
    );
}

#[tokio::test]
async fn the_open_paths_answer_what_they_should() {
    let api = Fixture::new(Database::Sqlite).await;
    let docs = api.call("GET", "/docs", "").await;
    assert!(docs.text.starts_with("<!doctype html>"));
    let policy = docs.headers["content-security-policy"]
        .to_str()
        .expect("text");
    assert!(
        policy.contains("style-src 'unsafe-inline'") && !policy.contains("script"),
        "{policy}"
    );
    assert_eq!(
        api.call("GET", "/openapi.json", "").await.json()["info"]["title"],
        "MiniMCP"
    );
    assert_eq!(api.call("GET", "/healthz", "").await.text, "ok\n");
    let ready = api.call("GET", "/readyz", "").await.json();
    assert_eq!(
        ready,
        serde_json::json!({"ready": true, "checks": {"database": "ok"}})
    );
}

#[tokio::test]
async fn readiness_follows_the_database_and_the_shutdown() {
    let api = Fixture::new(Database::Sqlite).await;
    api.state.shutdown.cancel();
    let answer = api.call("GET", "/readyz", "").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["checks"]["daemon"], "shutting down");
    api.state.store.close().await;
    let answer = api.call("GET", "/readyz", "").await;
    assert_ne!(answer.json()["checks"]["database"], "ok");
    let answer = api.call("GET", "/api/v1/credentials", "").await;
    answer.problem(503, "database-unavailable");
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn metrics_count_requests_by_route() {
    let api = Fixture::new(Database::Sqlite).await;
    api.call("GET", "/api/v1/mcps/no-such", "").await;
    api.call("GET", "/somewhere/else", "").await;
    let text = api.call("GET", "/metrics", "").await.text;
    for line in [
        "minimcp_http_requests_total{method=\"GET\",route=\"/api/v1/mcps/{id}\",status=\"404\"} 1",
        "minimcp_http_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"} 1",
        "minimcp_process_resident_memory_bytes ",
        "minimcp_build_info{version=",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
