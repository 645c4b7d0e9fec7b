//! The fake itself: it refuses what GitHub's descriptions do not know. A fake that lets everything pass proves nothing.

use axum::http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};

use crate::{description::GITHUB, graphql};

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("accept", "application/vnd.github+json"),
        ("x-github-api-version", "2022-11-28"),
        ("user-agent", "test"),
        ("content-type", "application/json"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

fn refusal(method: &Method, path: &str, query: &str, body: &str) -> Option<String> {
    GITHUB
        .check(method, path, query, &headers(), body.as_bytes())
        .err()
}

#[test]
fn good_requests_pass() {
    let issues = "/repos/o/r/issues";
    assert_eq!(
        refusal(
            &Method::GET,
            issues,
            "state=all&page=2&since=2026-01-01T00%3A00%3A00Z",
            ""
        ),
        None
    );
    assert_eq!(
        refusal(
            &Method::POST,
            issues,
            "",
            r#"{"title": "t", "labels": ["a"], "type": null}"#
        ),
        None
    );
    assert_eq!(
        refusal(&Method::GET, "/repos/o/r/contents/a/b%20c", "ref=main", ""),
        None
    );
    let asked = GITHUB
        .check(
            &Method::GET,
            "/repos/o/r/commits/feature/x/check-runs",
            "",
            &headers(),
            b"",
        )
        .expect("fits");
    assert_eq!(
        (asked.operation.id.as_str(), asked.path["ref"].as_str()),
        ("checks/list-for-ref", "feature/x")
    );
    let asked = GITHUB
        .check(
            &Method::GET,
            "/repos/o/r/releases/latest",
            "",
            &headers(),
            b"",
        )
        .expect("fits");
    assert_eq!(asked.operation.id, "repos/get-latest-release");
}

#[test]
fn requests_against_the_description_are_refused() {
    let issues = "/repos/o/r/issues";
    for (method, path, query, body, expected) in [
        (Method::GET, "/repos/o/r/isues", "", "", "no operation"),
        (Method::DELETE, issues, "", "", "no operation"),
        (
            Method::GET,
            issues,
            "stat=all",
            "",
            "no query parameter stat",
        ),
        (Method::GET, issues, "state=shut", "", "state"),
        (Method::GET, issues, "page=first", "", "page"),
        (Method::GET, issues, "page=1&page=2", "", "twice"),
        (Method::GET, issues, "since=yesterday", "", "since"),
        (
            Method::GET,
            "/repos/o/r/issues/first",
            "",
            "",
            "issue_number",
        ),
        (Method::GET, "/search/code", "", "", "q is missing"),
        (Method::GET, issues, "", "{}", "no body"),
        (Method::POST, issues, "", "", "a body is needed"),
        (Method::POST, issues, "", "{", "body"),
        (Method::POST, issues, "", r#"{"body": "no title"}"#, "title"),
        (
            Method::POST,
            issues,
            "",
            r#"{"title": "t", "body": 5}"#,
            "/body",
        ),
        (
            Method::POST,
            issues,
            "",
            r#"{"title": "t", "colour": "red"}"#,
            "colour",
        ),
        (
            Method::PATCH,
            "/repos/o/r/issues/1",
            "",
            r#"{"state": "shut"}"#,
            "/state",
        ),
        (
            Method::POST,
            "/repos/o/r/pulls",
            "",
            r#"{"head": "h"}"#,
            "base",
        ),
    ] {
        let fault = refusal(&method, path, query, body)
            .unwrap_or_else(|| panic!("{method} {path} {query} {body} passed"));
        assert!(fault.contains(expected), "{fault}");
    }
}

#[test]
fn headers_are_looked_at() {
    for name in ["accept", "x-github-api-version", "user-agent"] {
        let mut headers = headers();
        headers.remove(name);
        assert!(
            GITHUB
                .check(&Method::GET, "/user", "", &headers, b"")
                .is_err(),
            "{name}"
        );
    }
    let mut diff = headers();
    diff.insert(
        "accept",
        HeaderValue::from_static("application/vnd.github.diff"),
    );
    assert!(
        GITHUB
            .check(&Method::GET, "/repos/o/r/pulls/1", "", &diff, b"")
            .is_ok()
    );
    assert!(GITHUB.check(&Method::GET, "/user", "", &diff, b"").is_err());
    let mut form = headers();
    form.insert(
        "content-type",
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    assert!(
        GITHUB
            .check(
                &Method::POST,
                "/repos/o/r/issues",
                "",
                &form,
                br#"{"title": "t"}"#
            )
            .is_err()
    );
}

#[test]
fn documents_against_the_schema_are_refused() {
    let ask = |query: &str, variables: Value| {
        graphql::check(&json!({"query": query, "variables": variables})).err()
    };
    let draft = "mutation($id: ID!) { convertPullRequestToDraft(input: {pullRequestId: $id}) { pullRequest { isDraft } } }";
    assert_eq!(ask(draft, json!({"id": "PR_1"})), None);
    for (query, variables, expected) in [
        (draft, json!({}), "is needed"),
        (draft, json!({"id": 1}), "no ID"),
        (draft, json!({"id": "PR_1", "more": 1}), "not used"),
        ("query { nothing { id } }", json!({}), "no field nothing"),
        (
            "query { user { organizations(first: 1) { nodes { login } } } }",
            json!({}),
            "login is missing",
        ),
        (
            "query($a: Int) { user(login: $a) { organizations(first: 1) { nodes { login } } } }",
            json!({"a": 1}),
            "not a String!",
        ),
        (
            "query($a: String!) { user(login: $a) }",
            json!({"a": "b"}),
            "selection",
        ),
        (
            "query($a: String!) { user(login: $a) { organizations(most: 1) { nodes { login } } } }",
            json!({"a": "b"}),
            "no argument most",
        ),
        (
            "mutation($id: ID!) { convertPullRequestToDraft(input: {id: $id}) { pullRequest { isDraft } } }",
            json!({"id": "x"}),
            "no field id",
        ),
        (
            "mutation($i: AddPullRequestReviewThreadInput!) { addPullRequestReviewThread(input: $i) { thread { id } } }",
            json!({"i": {"path": "a", "body": "b", "side": "MIDDLE"}}),
            "side",
        ),
        (
            "mutation($i: AddPullRequestReviewThreadInput!) { addPullRequestReviewThread(input: $i) { thread { id } } }",
            json!({"i": {"path": "a"}}),
            "body",
        ),
    ] {
        let fault = ask(query, variables).unwrap_or_else(|| panic!("{query} passed"));
        assert!(fault.contains(expected), "{fault}");
    }
}
