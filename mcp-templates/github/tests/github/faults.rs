//! Every fault of GitHub's over the whole tool surface: the right error each time, never the token, and the server
//! lives on.

use std::collections::{BTreeMap, BTreeSet};

use minimcp_github::{GitHub, Settings};
use minimcp_rest::BaseUrl;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    session::Session,
    surface::on_repo,
    upstream::{Fault, TOKEN, Upstream},
};

/// Arguments with which each tool asks GitHub.
fn calls() -> BTreeMap<&'static str, Value> {
    let on_pull = |arguments: Value| {
        let mut arguments = on_repo(arguments);
        arguments["pullNumber"] = json!(1);
        arguments
    };
    BTreeMap::from([
        ("get_me", json!({})),
        ("get_teams", json!({})),
        (
            "get_team_members",
            json!({"org": "github", "team_slug": "core"}),
        ),
        ("get_file_contents", on_repo(json!({"path": "a"}))),
        (
            "create_or_update_file",
            on_repo(json!({"path": "a", "content": "b", "message": "m", "branch": "main"})),
        ),
        (
            "delete_file",
            on_repo(json!({"path": "a", "message": "m", "branch": "main"})),
        ),
        (
            "push_files",
            on_repo(
                json!({"branch": "main", "message": "m", "files": [{"path": "a", "content": "b"}]}),
            ),
        ),
        ("list_commits", on_repo(json!({}))),
        ("get_commit", on_repo(json!({"sha": "main"}))),
        ("list_branches", on_repo(json!({}))),
        (
            "create_branch",
            on_repo(json!({"branch": "b", "from_branch": "main"})),
        ),
        ("list_tags", on_repo(json!({}))),
        ("get_tag", on_repo(json!({"tag": "v1"}))),
        ("list_releases", on_repo(json!({}))),
        ("get_latest_release", on_repo(json!({}))),
        ("get_release_by_tag", on_repo(json!({"tag": "v1"}))),
        ("create_repository", json!({"name": "n"})),
        ("fork_repository", on_repo(json!({}))),
        ("delete_repository", on_repo(json!({}))),
        ("list_repository_collaborators", on_repo(json!({}))),
        ("search_repositories", json!({"query": "q"})),
        ("search_code", json!({"query": "q"})),
        ("search_commits", json!({"query": "q"})),
        ("search_users", json!({"query": "q"})),
        ("search_orgs", json!({"query": "q"})),
        ("list_issues", on_repo(json!({}))),
        ("search_issues", json!({"query": "q"})),
        ("list_issue_types", json!({"owner": "o"})),
        ("list_issue_fields", json!({"owner": "o"})),
        (
            "issue_read",
            on_repo(json!({"method": "get", "issue_number": 1})),
        ),
        (
            "issue_write",
            on_repo(json!({"method": "create", "title": "t"})),
        ),
        (
            "sub_issue_write",
            on_repo(json!({"method": "add", "issue_number": 1, "sub_issue_id": 2})),
        ),
        (
            "add_issue_comment",
            on_repo(json!({"issue_number": 1, "body": "b"})),
        ),
        (
            "update_issue_comment",
            on_repo(json!({"comment_id": 1, "body": "b"})),
        ),
        ("get_label", on_repo(json!({"name": "n"}))),
        ("list_label", on_repo(json!({}))),
        (
            "label_write",
            on_repo(json!({"method": "create", "name": "n", "color": "ffffff"})),
        ),
        ("list_pull_requests", on_repo(json!({}))),
        ("search_pull_requests", json!({"query": "q"})),
        (
            "pull_request_read",
            on_pull(json!({"method": "get_review_comments"})),
        ),
        (
            "create_pull_request",
            on_repo(json!({"title": "t", "head": "h", "base": "main"})),
        ),
        ("update_pull_request", on_pull(json!({"title": "t"}))),
        ("update_pull_request_branch", on_pull(json!({}))),
        ("merge_pull_request", on_pull(json!({}))),
        (
            "pull_request_review_write",
            on_pull(json!({"method": "resolve_thread", "threadId": "T"})),
        ),
        (
            "add_comment_to_pending_review",
            on_pull(json!({"path": "a", "body": "b", "subjectType": "FILE"})),
        ),
        (
            "add_reply_to_pull_request_comment",
            on_pull(json!({"commentId": 1, "body": "b"})),
        ),
        ("actions_list", on_repo(json!({"method": "list_workflows"}))),
        (
            "actions_get",
            on_repo(json!({"method": "get_workflow", "resource_id": "ci.yaml"})),
        ),
        (
            "actions_run_trigger",
            on_repo(json!({"method": "cancel_workflow_run", "run_id": 1})),
        ),
        (
            "get_job_logs",
            on_repo(json!({"job_id": 1, "return_content": true})),
        ),
        ("list_gists", json!({})),
        ("get_gist", json!({"gist_id": "a"})),
        ("create_gist", json!({"filename": "a", "content": "b"})),
        (
            "update_gist",
            json!({"gist_id": "a", "filename": "a", "content": "b"}),
        ),
        ("get_repository_tree", on_repo(json!({"tree_sha": "main"}))),
        ("list_notifications", json!({})),
        ("get_notification_details", json!({"notificationID": "1"})),
        (
            "dismiss_notification",
            json!({"threadID": "1", "state": "read"}),
        ),
        ("mark_all_notifications_read", json!({})),
        (
            "manage_notification_subscription",
            json!({"notificationID": "1", "action": "watch"}),
        ),
        (
            "manage_repository_notification_subscription",
            on_repo(json!({"action": "watch"})),
        ),
        ("list_starred_repositories", json!({})),
        ("star_repository", on_repo(json!({}))),
        ("unstar_repository", on_repo(json!({}))),
    ])
}

/// Tools that read nothing from a good answer, so that its body cannot be wrong for them.
const BODILESS: &[&str] = &[
    "actions_run_trigger",
    "delete_repository",
    "dismiss_notification",
    "manage_notification_subscription",
    "manage_repository_notification_subscription",
    "mark_all_notifications_read",
    "star_repository",
    "unstar_repository",
];

/// Calls every tool at once and gives the answers by tool: whether it is an error, and its text.
async fn all(session: &mut Session) -> BTreeMap<&'static str, (bool, String)> {
    let mut open = BTreeMap::new();
    for (tool, arguments) in calls() {
        let id = session
            .begin("tools/call", json!({"name": tool, "arguments": arguments}))
            .await;
        open.insert(id, tool);
    }
    let mut answers = BTreeMap::new();
    while !open.is_empty() {
        let message = session.next().await;
        let Some(tool) = message["id"].as_u64().and_then(|id| open.remove(&id)) else {
            continue;
        };
        assert!(!message.to_string().contains("SECRET"), "{tool}: {message}");
        let result = &message["result"];
        let text = result["content"][0]["text"]
            .as_str()
            .unwrap_or_else(|| panic!("{tool}: {message}"));
        answers.insert(tool, (result["isError"] == true, text.to_owned()));
    }
    answers
}

/// One fault against every tool.
async fn one(fault: Fault, expected: &[&str], excused: &[&str]) {
    let upstream = Upstream::start().await;
    let mut session = upstream.session().await;
    upstream.set_fault(Some(fault.clone()));
    for (tool, (is_error, text)) in all(&mut session).await {
        if excused.contains(&tool) && !is_error {
            continue;
        }
        assert!(
            is_error && expected.iter().any(|part| text.contains(part)),
            "{} {tool}: {text}",
            fault.status
        );
    }
    upstream.set_fault(None);
    // A limit is remembered; another server of the same token is not held back by it.
    let mut session = if [403, 429].contains(&fault.status) {
        upstream.session().await
    } else {
        session
    };
    assert_eq!(session.good("get_me", json!({})).await["login"], "octocat");
}

fn fault(status: u16, headers: &[(&'static str, &str)], body: &str) -> Fault {
    let headers = headers
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()))
        .collect();
    Fault {
        status,
        headers,
        body: body.to_owned().into(),
    }
}

#[tokio::test]
async fn the_calls_cover_every_tool() {
    let upstream = Upstream::start().await;
    let offered: BTreeSet<String> = upstream.session().await.tools().await.into_keys().collect();
    assert_eq!(offered, calls().into_keys().map(str::to_owned).collect());
}

#[tokio::test]
async fn refusals_of_the_token_are_told() {
    let body = r#"{"message": "Bad credentials ghp_SECRET"}"#;
    one(fault(401, &[], body), &["store a new one"], &[]).await;
    let needed = [("x-accepted-github-permissions", "issues=write")];
    one(fault(403, &needed, body), &["issues=write"], &[]).await;
    let scopes = [
        ("x-oauth-scopes", "gist"),
        ("x-accepted-oauth-scopes", "repo"),
    ];
    one(fault(404, &scopes, body), &["these: repo"], &[]).await;
    let sso = [(
        "x-github-sso",
        "required; url=https://github.com/orgs/o/sso?authorization_request=A",
    )];
    one(
        fault(403, &sso, body),
        &["https://github.com/orgs/o/sso"],
        &[],
    )
    .await;
}

#[tokio::test]
async fn refusals_of_the_arguments_are_told() {
    let body = r#"{"message": "Validation Failed ghp_SECRET", "errors": [{"resource": "Issue", "field": "title", "code": "missing"}]}"#;
    one(fault(422, &[], body), &["title: missing"], &[]).await;
    one(
        fault(404, &[], "not even JSON"),
        &["private repositories"],
        &[],
    )
    .await;
    one(fault(409, &[], "{}"), &["conflict"], &[]).await;
}

#[tokio::test]
async fn rate_limits_are_told_and_not_called_against() {
    let reset = "4102444800";
    let used_up = [
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-limit", "5000"),
        ("x-ratelimit-reset", reset),
    ];
    one(
        fault(403, &used_up, "{}"),
        &["used up 5000", "was not sent"],
        &[],
    )
    .await;
    let secondary = [
        ("retry-after", "90"),
        ("x-ratelimit-remaining", "4000"),
        ("x-ratelimit-reset", reset),
    ];
    one(
        fault(403, &secondary, "{}"),
        &["in 90 seconds", "was not sent"],
        &[],
    )
    .await;
    one(
        fault(429, &secondary, ""),
        &["secondary limit", "was not sent"],
        &[],
    )
    .await;
    let words = r#"{"message": "You have exceeded a secondary rate limit. ghp_SECRET"}"#;
    one(
        fault(403, &secondary[1..], words),
        &["Wait a minute", "was not sent"],
        &[],
    )
    .await;
}

#[tokio::test]
async fn failures_of_github_are_told_and_changes_not_repeated() {
    let upstream = Upstream::start().await;
    let mut session = upstream.session().await;
    for status in [500, 502, 503, 504] {
        upstream.set_fault(Some(fault(status, &[], "<html>ghp_SECRET</html>")));
        upstream.take_seen();
        for (tool, (is_error, text)) in all(&mut session).await {
            let told = text.contains("its side") || text.contains("may have taken effect");
            assert!(is_error && told, "{status} {tool}: {text}");
        }
        // A question by GraphQL is no change, and a state can be set twice.
        let set = ["starred", "subscription", "notifications", "/logs"];
        let changes = upstream.take_seen().into_iter().filter(|seen| {
            seen.method != "GET"
                && !seen.body.contains("query(")
                && !set.iter().any(|part| seen.path_and_query.contains(part))
        });
        let changes: Vec<_> = changes
            .map(|seen| (seen.method, seen.path_and_query, seen.body))
            .collect();
        let distinct: BTreeSet<_> = changes.iter().collect();
        assert_eq!(distinct.len(), changes.len(), "a change was sent twice");
        assert!(changes.len() > 15, "{changes:?}");
    }
    upstream.set_fault(None);
    assert_eq!(session.good("get_me", json!({})).await["login"], "octocat");
}

#[tokio::test]
async fn answers_that_are_no_answers_are_told() {
    one(
        fault(200, &[], r#"{"ghp_SECRET": "#),
        &["not what its API promises"],
        BODILESS,
    )
    .await;
    one(
        fault(200, &[], ""),
        &["not what its API promises"],
        BODILESS,
    )
    .await;
    let elsewhere = [("location", "https://elsewhere.example/")];
    // A log lies elsewhere, and that address cannot be reached here.
    one(
        fault(301, &elsewhere, ""),
        &["not followed", "could not be reached"],
        &[],
    )
    .await;
    let huge = Fault {
        body: vec![b' '; 9 << 20].into(),
        ..fault(200, &[], "")
    };
    one(huge, &["larger than 8388608 bytes"], &[]).await;
}

#[tokio::test]
async fn a_broken_connection_is_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4_096];
                let _read = stream.read(&mut request).await;
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n";
                let _sent = stream
                    .write_all(format!("{head}{{\"login\": \"{TOKEN}").as_bytes())
                    .await;
            });
        }
    });
    let upstream = Upstream::start().await;
    let api = BaseUrl::new(&url).map_err(|error| error.to_string());
    let mut session = Session::start(GitHub::new(Settings {
        api,
        ..upstream.settings()
    }))
    .await;
    for (tool, (is_error, text)) in all(&mut session).await {
        assert!(
            is_error && text.contains("could not be reached, or the connection broke"),
            "{tool}: {text}"
        );
    }
}

#[tokio::test]
async fn silence_is_told() {
    let upstream = Upstream::start().await;
    let mut session = upstream.session().await;
    for _ in 0..calls().len() * 3 {
        upstream.fake.fail(0, &[], "");
    }
    // From here on the clock jumps to the next timer whenever nothing else is to do.
    tokio::time::pause();
    for (tool, (is_error, text)) in all(&mut session).await {
        assert!(
            is_error && text.contains("did not answer in time"),
            "{tool}: {text}"
        );
    }
}
