//! The GitHub tools against a stateful fake of the REST API that refuses what the API description does not know.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use minimcp_github::{GitHub, Settings};
use minimcp_rest::{BaseUrl, Secret};
use serde::Deserialize;
use serde_json::{Value, json};

#[path = "../../rest/tests/support/fake.rs"]
mod fake;
#[path = "../../rest/tests/support/session.rs"]
mod session;
use fake::Fake;
use session::Session;

type Issues = Arc<Mutex<Vec<Value>>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the shape is what is checked")]
struct NewIssue {
    title: String,
    body: Option<String>,
    labels: Option<Vec<String>>,
    assignees: Option<Vec<String>>,
    milestone: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssueQuery {
    state: String,
    labels: Option<String>,
    page: usize,
    per_page: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefQuery {
    #[serde(rename = "ref")]
    git_ref: Option<String>,
}

fn issue(number: usize, new: &NewIssue) -> Value {
    json!({
        "number": number, "title": new.title, "state": "open", "body": new.body, "user": {"login": "me"},
        "labels": new.labels.iter().flatten().map(|name| json!({"name": name})).collect::<Vec<_>>(),
        "assignees": [], "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
        "html_url": format!("https://github.com/o/r/issues/{number}"),
    })
}

async fn create(State(issues): State<Issues>, Json(new): Json<NewIssue>) -> Response {
    let mut issues = issues.lock().expect("whole");
    let made = issue(issues.len() + 1, &new);
    issues.push(made.clone());
    (StatusCode::CREATED, Json(made)).into_response()
}

async fn list(State(issues): State<Issues>, Query(query): Query<IssueQuery>) -> Response {
    let issues = issues.lock().expect("whole");
    let hits: Vec<&Value> = issues
        .iter()
        .filter(|issue| query.state == "all" || issue["state"] == query.state.as_str())
        .filter(|issue| {
            query
                .labels
                .as_ref()
                .is_none_or(|label| issue["labels"][0]["name"] == label.as_str())
        })
        .collect();
    let page: Vec<&Value> = hits
        .iter()
        .skip((query.page - 1) * query.per_page)
        .take(query.per_page)
        .copied()
        .collect();
    let next = query.page + 1;
    let link = if hits.len() > query.page * query.per_page {
        format!(
            "<http://x/repos/o/r/issues?per_page={}&page={next}>; rel=\"next\"",
            query.per_page
        )
    } else {
        String::new()
    };
    ([("link", link)], Json(json!(page))).into_response()
}

async fn change(
    State(issues): State<Issues>,
    Path(number): Path<usize>,
    Json(body): Json<Value>,
) -> Response {
    let mut issues = issues.lock().expect("whole");
    let Some(issue) = issues.get_mut(number - 1) else {
        return (StatusCode::NOT_FOUND, Json(json!({"message": "Not Found"}))).into_response();
    };
    for (name, value) in body.as_object().expect("an object") {
        issue[name] = value.clone();
    }
    Json(issue.clone()).into_response()
}

async fn read(State(issues): State<Issues>, Path(number): Path<usize>) -> Response {
    match issues.lock().expect("whole").get(number - 1) {
        Some(issue) => Json(issue.clone()).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({"message": "Not Found"}))).into_response(),
    }
}

async fn contents(Path(path): Path<String>, Query(query): Query<RefQuery>) -> Response {
    match (path.as_str(), query.git_ref.as_deref()) {
        ("a b/c.txt", Some("main")) => Json(json!({
            "type": "file", "path": "a b/c.txt", "sha": "s1", "size": 5, "encoding": "base64", "content": "aGVs\nbG8=\n",
        }))
        .into_response(),
        _ => (StatusCode::NOT_FOUND, Json(json!({"message": "Not Found"}))).into_response(),
    }
}

async fn setup(read_only: bool) -> (Fake, Session) {
    let issues = Issues::default();
    let routes = Router::new()
        .route(
            "/user",
            get(|| async {
                Json(json!({"login": "me", "html_url": "https://github.com/me", "id": 1}))
            }),
        )
        .route("/repos/o/r/issues", get(list).post(create))
        .route("/repos/o/r/issues/{number}", get(read).patch(change))
        .route("/repos/o/r/contents/{*path}", get(contents))
        .with_state(issues);
    let fake = Fake::start(routes, Some(("authorization", "Bearer ghp_SECRET"))).await;
    let settings = Settings {
        token: Some(Secret::new("ghp_SECRET")),
        api: BaseUrl::new(&fake.url).map_err(|error| error.to_string()),
        read_only,
    };
    let session = Session::start(GitHub::new(settings)).await;
    (fake, session)
}

#[tokio::test]
async fn every_tool_is_described_and_read_only_leaves_out_the_rest() {
    let (_, mut session) = setup(false).await;
    let tools = session.tools().await;
    assert_eq!(tools.len(), 12);
    let (_, mut session) = setup(true).await;
    let left = session.tools().await;
    assert_eq!(left.len(), 10);
    assert!(
        left.values()
            .all(|tool| tool["annotations"]["readOnlyHint"] == true)
    );
    session
        .bad(
            "issue_write",
            json!({"method": "create", "owner": "o", "repo": "r", "title": "t"}),
        )
        .await;
}

#[tokio::test]
async fn an_issue_is_created_listed_changed_and_read() {
    let (fake, mut session) = setup(false).await;
    for number in 1..=3 {
        let arguments = json!({"method": "create", "owner": "o", "repo": "r", "title": format!("t{number}"), "labels": ["bug"]});
        let made = session.good("issue_write", arguments).await;
        assert_eq!(
            (&made["number"], &made["author"], &made["labels"]),
            (&json!(number), &json!("me"), &json!(["bug"]))
        );
    }
    let seen = fake.take_seen().remove(0);
    assert_eq!(
        (seen.method.as_str(), seen.path_and_query.as_str()),
        ("POST", "/repos/o/r/issues")
    );
    assert_eq!(seen.body, r#"{"labels":["bug"],"title":"t1"}"#);
    assert_eq!(seen.headers["x-github-api-version"], "2022-11-28");
    assert_eq!(seen.headers["accept"], "application/vnd.github+json");
    let page = session
        .good(
            "list_issues",
            json!({"owner": "o", "repo": "r", "perPage": 2, "labels": ["bug"]}),
        )
        .await;
    assert_eq!(
        (
            page["issues"].as_array().map(Vec::len),
            &page["next_cursor"]
        ),
        (Some(2), &json!("2"))
    );
    let page = session
        .good(
            "list_issues",
            json!({"owner": "o", "repo": "r", "perPage": 2, "after": "2"}),
        )
        .await;
    assert_eq!(
        (
            page["issues"].as_array().map(Vec::len),
            page["next_cursor"].is_null()
        ),
        (Some(1), true)
    );
    let change = json!({"method": "update", "owner": "o", "repo": "r", "issue_number": 2, "state": "closed", "state_reason": "completed"});
    assert_eq!(session.good("issue_write", change).await["state"], "closed");
    let arguments = json!({"method": "get", "owner": "o", "repo": "r", "issue_number": 2});
    assert_eq!(
        session.good("issue_read", arguments).await["issue"]["state"],
        "closed"
    );
}

#[tokio::test]
async fn a_file_is_read_at_its_ref() {
    let (_, mut session) = setup(false).await;
    let arguments = json!({"owner": "o", "repo": "r", "path": "/a b/c.txt", "ref": "main"});
    assert_eq!(
        session.good("get_file_contents", arguments).await["text"],
        "hello"
    );
    let text = session
        .bad(
            "get_file_contents",
            json!({"owner": "o", "repo": "r", "path": "gone"}),
        )
        .await;
    assert!(text.contains("private repositories"), "{text}");
}

#[tokio::test]
async fn bad_arguments_never_reach_github() {
    let (fake, mut session) = setup(false).await;
    for (tool, arguments) in [
        ("list_issues", json!({"owner": "o/r", "repo": "r"})),
        ("list_issues", json!({"owner": "..", "repo": "r"})),
        (
            "list_issues",
            json!({"owner": "o", "repo": "r", "perPage": 101}),
        ),
        (
            "list_issues",
            json!({"owner": "o", "repo": "r", "after": "x"}),
        ),
        (
            "get_file_contents",
            json!({"owner": "o", "repo": "r", "path": "a/../../b"}),
        ),
        (
            "issue_write",
            json!({"method": "create", "owner": "o", "repo": "r"}),
        ),
        (
            "issue_write",
            json!({"method": "update", "owner": "o", "repo": "r", "title": "t"}),
        ),
        (
            "issue_write",
            json!({"method": "update", "owner": "o", "repo": "r", "issue_number": 1}),
        ),
        (
            "issue_write",
            json!({"method": "create", "owner": "o", "repo": "r", "title": "t", "state": "closed"}),
        ),
        (
            "add_issue_comment",
            json!({"owner": "o", "repo": "r", "issue_number": 1, "body": " "}),
        ),
    ] {
        session.bad(tool, arguments).await;
    }
    assert!(fake.take_seen().is_empty());
}

#[tokio::test]
async fn every_fault_is_told_and_the_server_lives_on() {
    let (fake, mut session) = setup(false).await;
    for (status, headers, body, expected) in [
        (
            401,
            vec![],
            r#"{"message":"Bad credentials ghp_SECRET"}"#,
            "store a new one",
        ),
        (
            403,
            vec![],
            r#"{"message":"Resource not accessible by personal access token"}"#,
            "lacks a permission",
        ),
        (
            403,
            vec![("x-ratelimit-remaining", "0"), ("retry-after", "90")],
            "{}",
            "Try again in 90 seconds",
        ),
        (
            429,
            vec![("retry-after", "120")],
            "",
            "Try again in 120 seconds",
        ),
        (
            422,
            vec![],
            r#"{"message":"Validation Failed","errors":[{"field":"q","code":"missing"}]}"#,
            "q: missing",
        ),
        (200, vec![], "{broken", "not what its API promises"),
        (
            301,
            vec![("location", "https://elsewhere.example/user")],
            "",
            "not followed",
        ),
    ] {
        fake.fail(status, &headers, body);
        let text = session.bad("get_me", json!({})).await;
        assert!(
            text.contains(expected) && !text.contains("SECRET"),
            "{status}: {text}"
        );
    }
    assert_eq!(session.good("get_me", json!({})).await["login"], "me");
}

#[tokio::test]
async fn without_a_token_the_server_starts_and_says_what_to_do() {
    let settings = Settings {
        token: None,
        api: Err("GITHUB_HOST is wrong".to_owned()),
        read_only: false,
    };
    let mut session = Session::start(GitHub::new(settings.clone())).await;
    assert!(
        session
            .bad("get_me", json!({}))
            .await
            .contains("GITHUB_HOST is wrong")
    );
    let settings = Settings {
        api: BaseUrl::new("https://api.github.com").map_err(|error| error.to_string()),
        ..settings
    };
    let mut session = Session::start(GitHub::new(settings)).await;
    assert!(
        session
            .bad("get_me", json!({}))
            .await
            .contains("GITHUB_PERSONAL_ACCESS_TOKEN")
    );
}
