//! The GitHub tools that read repositories, pull requests and searches, and comments, against a fake of the REST API
//! that refuses every path, query and media type it does not know. The answers have GitHub's own shapes.

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::get,
};
use minimcp_github::{GitHub, Settings};
use minimcp_rest::{BaseUrl, Secret};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

#[path = "../../rest/tests/support/fake.rs"]
mod fake;
#[path = "../../rest/tests/support/session.rs"]
mod session;
use fake::Fake;
use session::Session;

type Comments = Arc<Mutex<Vec<Value>>>;

const NEXT: &str = r#"<https://api.github.com/x?page=3&per_page=2>; rel="next", <https://api.github.com/x?page=9>; rel="last""#;

fn user(login: &str) -> Value {
    json!({"login": login, "id": 1, "node_id": "MDQ6", "avatar_url": "", "type": "User", "site_admin": false})
}

fn comment(id: u64, text: &str) -> Value {
    json!({"id": id, "node_id": "IC", "user": user("ann"), "body": text, "author_association": "OWNER",
           "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
           "html_url": format!("https://github.com/o/r/pull/5#{id}"), "reactions": {"total_count": 0}})
}

fn pull() -> Value {
    json!({
        "id": 1, "number": 5, "title": "Fix it", "state": "open", "draft": true, "user": user("ann"), "body": null,
        "head": {"label": "ann:fix", "ref": "fix", "sha": "abc", "repo": null}, "mergeable": null, "merged_at": null,
        "base": {"label": "o:main", "ref": "main", "sha": "def", "repo": {"id": 1}}, "additions": 1, "deletions": 2,
        "changed_files": 1, "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-02T00:00:00Z",
        "html_url": "https://github.com/o/r/pull/5", "author_association": "MEMBER", "labels": [],
    })
}

/// Every answer by path and query; what is not in the table is 422.
async fn answer(uri: Uri, headers: HeaderMap) -> Response {
    let accept = headers["accept"].to_str().unwrap_or_default().to_owned();
    let wanted = uri.path_and_query().map_or("", |uri| uri.as_str());
    let page = "page=2&per_page=2";
    let body = match (wanted, accept.as_str()) {
        ("/repos/o/r/pulls/5", "application/vnd.github.diff") => {
            return "diff --git a/x b/x\n-a\n+b\n".into_response();
        }
        ("/repos/o/r/contents/big.txt", "application/vnd.github.raw+json") => {
            return "big text".into_response();
        }
        (_, accept) if accept != "application/vnd.github+json" => Value::Null,
        (
            "/search/repositories?q=mcp+language%3Arust&sort=stars&order=desc&page=2&per_page=2",
            _,
        ) => {
            json!({"total_count": 17, "incomplete_results": false, "items": [
                {"id": 1, "full_name": "o/r", "name": "r", "owner": user("o"), "private": false, "fork": false,
                 "description": null, "archived": true, "default_branch": "main", "language": "Rust",
                 "stargazers_count": 5, "open_issues_count": 1, "pushed_at": "2026-01-01T00:00:00Z",
                 "html_url": "https://github.com/o/r", "score": 1.0}]})
        }
        ("/search/code?q=main+repo%3Ao%2Fr&page=1&per_page=30", _) => {
            json!({"total_count": 1, "incomplete_results": true, "items": [
                {"name": "main.rs", "path": "src/main.rs", "sha": "s", "score": 1.0, "git_url": "", "url": "",
                 "html_url": "https://github.com/o/r/blob/main/src/main.rs",
                 "repository": {"id": 1, "full_name": "o/r", "private": false}}]})
        }
        ("/search/issues?q=is%3Apr+crash&sort=created&order=asc&page=1&per_page=30", _) => {
            json!({"total_count": 1, "incomplete_results": false, "items": [
                {"number": 5, "title": "Crash", "state": "closed", "state_reason": "not_planned", "user": null,
                 "labels": ["old style", {"id": 1, "name": "bug"}], "assignees": [user("bob")], "body": null,
                 "comments": 3, "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
                 "closed_at": "2026-01-02T00:00:00Z", "html_url": "https://github.com/o/r/pull/5",
                 "pull_request": {"url": "https://api.github.com/repos/o/r/pulls/5"}, "score": 1.0}]})
        }
        (
            "/repos/o/r/commits?sha=main&path=src&author=ann&since=2026-01-01T00%3A00%3A00Z&page=1&per_page=1",
            _,
        ) => {
            json!([{"sha": "abc", "node_id": "C", "author": null, "committer": user("web-flow"), "parents": [],
                    "html_url": "https://github.com/o/r/commit/abc", "comments_url": "",
                    "commit": {"message": "Begin", "author": {"name": "Ann", "email": "a@b.c",
                        "date": "2026-01-01T00:00:00Z"}, "tree": {"sha": "t"}, "comment_count": 0}}])
        }
        (
            "/repos/o/r/pulls?state=all&base=main&sort=long-running&direction=asc&page=2&per_page=2",
            _,
        ) => {
            json!([pull()])
        }
        ("/repos/o/r/pulls/5", _) => pull(),
        (uri, _) if uri == format!("/repos/o/r/pulls/5/files?{page}") => {
            json!([{"sha": "b", "filename": "x", "status": "modified", "additions": 1, "deletions": 1, "changes": 2,
                    "blob_url": "", "patch": "@@ -1 +1 @@\n-a\n+b"},
                   {"sha": "c", "filename": "logo.png", "status": "added", "additions": 0, "deletions": 0,
                    "changes": 0}])
        }
        (uri, _) if uri == format!("/repos/o/r/pulls/5/comments?{page}") => {
            let mut review_comment = comment(8, "why?");
            review_comment["path"] = json!("x");
            review_comment["line"] = Value::Null;
            json!([review_comment])
        }
        (uri, _) if uri == format!("/repos/o/r/pulls/5/reviews?{page}") => {
            json!([{"id": 80, "user": user("bob"), "body": "", "state": "APPROVED", "commit_id": "abc",
                    "html_url": "https://github.com/o/r/pull/5#r80", "submitted_at": "2026-01-01T00:00:00Z"}])
        }
        ("/repos/o/r/issues/5/labels?per_page=100", _) => {
            json!([{"id": 1, "name": "bug", "color": "f00", "default": true, "description": null}])
        }
        ("/repos/o/r/contents", _) => {
            json!([{"type": "dir", "path": "src", "name": "src", "sha": "t", "size": 0, "download_url": null},
                   {"type": "file", "path": "a.txt", "name": "a.txt", "sha": "s", "size": 5}])
        }
        ("/repos/o/r/contents/big.txt", _) => {
            json!({"type": "file", "path": "big.txt", "sha": "s", "size": 2_000_000, "encoding": "none", "content": ""})
        }
        ("/repos/o/r/contents/logo.png?ref=abc", _) => {
            json!({"type": "file", "path": "logo.png", "sha": "s", "size": 4, "encoding": "base64", "content": "iVBO\n/w==\n"})
        }
        ("/repos/o/r/contents/vendored", _) => {
            json!({"type": "submodule", "path": "vendored", "sha": "s", "size": 0, "submodule_git_url": "git://x"})
        }
        _ => Value::Null,
    };
    if body.is_null() {
        let message = json!({"message": format!("not in the table: {wanted} as {accept}")});
        return (StatusCode::UNPROCESSABLE_ENTITY, Json(message)).into_response();
    }
    ([("link", NEXT)], Json(body)).into_response()
}

async fn list_comments(State(comments): State<Comments>, Path(_): Path<u64>) -> Response {
    Json(json!(*comments.lock().expect("whole"))).into_response()
}

async fn add_comment(
    State(comments): State<Comments>,
    Path(_): Path<u64>,
    Json(new): Json<Value>,
) -> Response {
    let mut comments = comments.lock().expect("whole");
    let text = new["body"].as_str().unwrap_or_default();
    let made = comment(comments.len() as u64 + 1, text);
    comments.push(made.clone());
    (StatusCode::CREATED, Json(made)).into_response()
}

async fn setup() -> (Fake, Session) {
    let routes = Router::new()
        .route(
            "/repos/o/r/issues/{number}/comments",
            get(list_comments).post(add_comment),
        )
        .fallback(get(answer))
        .with_state(Comments::default());
    let fake = Fake::start(routes, Some(("authorization", "Bearer ghp_SECRET"))).await;
    let settings = Settings {
        token: Some(Secret::new("ghp_SECRET")),
        api: BaseUrl::new(&fake.url).map_err(|error| error.to_string()),
        read_only: false,
    };
    let session = Session::start(GitHub::new(settings)).await;
    (fake, session)
}

#[tokio::test]
async fn searches_find_repositories_code_and_issues() {
    let (_, mut session) = setup().await;
    let mut tools = session.tools().await;
    tools.retain(|name, tool| {
        name.starts_with("search_") && tool["outputSchema"]["properties"]["next_page"].is_object()
    });
    assert_eq!(tools.len(), 3);
    let arguments = json!({"query": "mcp language:rust", "sort": "stars", "order": "desc", "page": 2, "perPage": 2});
    let found = session.good("search_repositories", arguments).await;
    assert_eq!(
        (&found["total_count"], &found["next_page"]),
        (&json!(17), &json!(3))
    );
    let repository = &found["items"][0];
    assert_eq!(
        (&repository["full_name"], &repository["archived"]),
        (&json!("o/r"), &json!(true))
    );
    let arguments = json!({"query": "main repo:o/r"});
    let found = session.good("search_code", arguments).await;
    assert_eq!(found["items"][0]["repository"], json!({"full_name": "o/r"}));
    assert_eq!(found["incomplete_results"], true);
    let arguments = json!({"query": "is:pr crash", "sort": "created", "order": "ASC"});
    let found = session.good("search_issues", arguments).await;
    let issue = &found["items"][0];
    assert_eq!(
        (
            &issue["is_pull_request"],
            &issue["labels"],
            &issue["author"]
        ),
        (&json!(true), &json!(["old style", "bug"]), &Value::Null)
    );
}

#[tokio::test]
async fn commits_are_listed() {
    let (_, mut session) = setup().await;
    let arguments = json!({"owner": "o", "repo": "r", "sha": "main", "path": "src", "author": "ann",
        "since": "2026-01-01T00:00:00Z", "perPage": 1});
    let list = session.good("list_commits", arguments).await;
    assert_eq!(
        (&list["items"][0]["commit"]["message"], &list["next_page"]),
        (&json!("Begin"), &json!(3))
    );
    assert_eq!(list["items"][0]["author"], Value::Null);
}

#[tokio::test]
async fn folders_large_binary_and_other_files_are_read() {
    let (_, mut session) = setup().await;
    let folder = session
        .good(
            "get_file_contents",
            json!({"owner": "o", "repo": "r", "path": "/"}),
        )
        .await;
    assert_eq!(
        folder["entries"][0],
        json!({"path": "src", "type": "dir", "size": 0, "sha": "t"})
    );
    let arguments = json!({"owner": "o", "repo": "r", "path": "big.txt"});
    let big = session.good("get_file_contents", arguments).await;
    assert_eq!(
        (&big["text"], &big["size"]),
        (&json!("big text"), &json!(2_000_000))
    );
    let arguments =
        json!({"owner": "o", "repo": "r", "path": "logo.png", "ref": "main", "sha": "abc"});
    let logo = session.good("get_file_contents", arguments).await;
    assert_eq!(
        (&logo["text"], &logo["base64"]),
        (&Value::Null, &json!("iVBO/w=="))
    );
    let arguments = json!({"owner": "o", "repo": "r", "path": "vendored"});
    let text = session.bad("get_file_contents", arguments).await;
    assert!(text.contains("submodule"), "{text}");
}

#[tokio::test]
async fn a_pull_request_is_listed_and_read_in_all_its_parts() {
    let (_, mut session) = setup().await;
    let arguments = json!({"owner": "o", "repo": "r", "state": "all", "base": "main", "sort": "long-running",
        "direction": "asc", "page": 2, "perPage": 2});
    let list = session.good("list_pull_requests", arguments).await;
    assert_eq!(
        (&list["items"][0]["head"]["ref"], &list["next_page"]),
        (&json!("fix"), &json!(3))
    );
    let part = |method: &str| json!({"method": method, "owner": "o", "repo": "r", "pullNumber": 5, "page": 2, "perPage": 2});
    let whole = session.good("pull_request_read", part("get")).await;
    assert_eq!(
        (
            &whole["pull_request"]["draft"],
            &whole["pull_request"]["author"]
        ),
        (&json!(true), &json!("ann"))
    );
    let diff = session.good("pull_request_read", part("get_diff")).await;
    assert_eq!(
        (&diff["diff"], &diff["diff_truncated"]),
        (&json!("diff --git a/x b/x\n-a\n+b\n"), &json!(false))
    );
    let files = session.good("pull_request_read", part("get_files")).await;
    assert_eq!(
        (&files["files"][0]["patch"], &files["files"][1]["patch"]),
        (&json!("@@ -1 +1 @@\n-a\n+b"), &Value::Null)
    );
    let comments = session
        .good("pull_request_read", part("get_review_comments"))
        .await;
    assert_eq!(
        (&comments["comments"][0]["path"], &comments["next_page"]),
        (&json!("x"), &json!(3))
    );
    let reviews = session.good("pull_request_read", part("get_reviews")).await;
    assert_eq!(reviews["reviews"][0]["state"], "APPROVED");
}

#[tokio::test]
async fn a_comment_is_added_and_read_back_on_issue_and_pull_request() {
    let (fake, mut session) = setup().await;
    let arguments = json!({"owner": "o", "repo": "r", "issue_number": 5, "body": "Thanks **all**"});
    let made = session.good("add_issue_comment", arguments).await;
    assert_eq!(made["author"], "ann");
    let seen = fake.take_seen().remove(0);
    assert_eq!(seen.headers["content-type"], "application/json");
    assert_eq!(
        (
            seen.method.as_str(),
            seen.path_and_query.as_str(),
            seen.body.as_str()
        ),
        (
            "POST",
            "/repos/o/r/issues/5/comments",
            r#"{"body":"Thanks **all**"}"#
        )
    );
    let arguments = json!({"method": "get_comments", "owner": "o", "repo": "r", "issue_number": 5});
    let read = session.good("issue_read", arguments).await;
    assert_eq!(read["comments"][0]["body"], "Thanks **all**");
    let arguments = json!({"method": "get_comments", "owner": "o", "repo": "r", "pullNumber": 5});
    let read = session.good("pull_request_read", arguments).await;
    assert_eq!(read["comments"][0]["id"], made["id"]);
    let arguments = json!({"method": "get_labels", "owner": "o", "repo": "r", "issue_number": 5});
    let read = session.good("issue_read", arguments).await;
    assert_eq!(read["labels"][0]["name"], "bug");
}

#[tokio::test]
async fn the_secondary_rate_limit_is_no_missing_permission() {
    let (fake, mut session) = setup().await;
    let message =
        "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.";
    fake.fail(403, &[], &json!({"message": message}).to_string());
    let arguments = json!({"owner": "o", "repo": "r", "issue_number": 5, "body": "b"});
    let text = session.bad("add_issue_comment", arguments).await;
    assert!(
        text.contains("Wait a minute") && !text.contains("permission"),
        "{text}"
    );
}

#[tokio::test]
async fn silence_is_told_after_three_attempts() {
    let (fake, mut session) = setup().await;
    session
        .good("search_code", json!({"query": "main repo:o/r"}))
        .await;
    fake.take_seen();
    for _ in 0..3 {
        fake.fail(0, &[], "");
    }
    // From here on the clock jumps to the next timer whenever nothing else is to do.
    tokio::time::pause();
    let text = session
        .bad("search_code", json!({"query": "main repo:o/r"}))
        .await;
    assert!(text.contains("did not answer in time"), "{text}");
}
