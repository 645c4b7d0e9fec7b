//! How the server treats GitHub and its client: conditional calls, limits, bad arguments, sizes.

use serde_json::{Value, json};

use crate::{surface::on_repo, upstream::Upstream};

#[tokio::test]
async fn what_has_not_changed_is_not_read_again() {
    let upstream = Upstream::start().await;
    let mut session = upstream.session().await;
    for title in ["a", "b", "c"] {
        session
            .good(
                "issue_write",
                on_repo(json!({"method": "create", "title": title})),
            )
            .await;
    }
    let list = || on_repo(json!({"perPage": 2}));
    let first = session.good("list_issues", list()).await;
    let second = session.good("list_issues", list()).await;
    assert_eq!(
        (first.clone(), upstream.unchanged()),
        (second, 1),
        "with what the Link header told"
    );
    assert_eq!(first["next_cursor"], "2");
    let asked = upstream.take_seen().pop().expect("the second list");
    assert!(asked.headers.contains_key("if-none-match"), "{asked:?}");
    let number = first["issues"][0]["number"].clone();
    let close = json!({"method": "update", "issue_number": number, "state": "closed"});
    session.good("issue_write", on_repo(close)).await;
    let third = session.good("list_issues", list()).await;
    assert_eq!(
        (&third["issues"][0]["state"], upstream.unchanged()),
        (&json!("closed"), 1)
    );
    // Other arguments are another question.
    session
        .good("list_issues", on_repo(json!({"perPage": 1})))
        .await;
    assert_eq!(upstream.unchanged(), 1);
    upstream.assert_clean();
}

#[tokio::test]
async fn a_limit_holds_back_what_it_concerns() {
    let upstream = Upstream::start().await;
    let mut session = upstream.session().await;
    let headers = [("x-ratelimit-remaining", "0"), ("retry-after", "600")];
    upstream.fake.fail(403, &headers, "{}");
    let text = session.bad("search_code", json!({"query": "q"})).await;
    assert!(text.contains("in 600 seconds"), "{text}");
    upstream.take_seen();
    let text = session.bad("search_code", json!({"query": "other"})).await;
    assert!(text.contains("was not sent"), "{text}");
    assert!(upstream.take_seen().is_empty());
    session.good("search_users", json!({"query": "q"})).await;
    session.good("get_me", json!({})).await;
    // A secondary limit concerns everything, GraphQL too.
    upstream.fake.fail(429, &[("retry-after", "600")], "{}");
    session.bad("star_repository", on_repo(json!({}))).await;
    upstream.take_seen();
    session.bad("get_me", json!({})).await;
    session.bad("get_teams", json!({"user": "octocat"})).await;
    assert!(upstream.take_seen().is_empty());
}

#[tokio::test]
async fn a_short_wait_is_waited_for() {
    let upstream = Upstream::start().await;
    let mut session = upstream.session().await;
    upstream.fake.fail(429, &[("retry-after", "0")], "{}");
    session.good("get_me", json!({})).await;
    assert_eq!(upstream.take_seen().len(), 2);
    // A change is not sent twice, not even then.
    upstream.fake.fail(429, &[("retry-after", "0")], "{}");
    session.bad("create_repository", json!({"name": "n"})).await;
    assert_eq!(upstream.take_seen().len(), 1);
}

#[tokio::test]
async fn bad_arguments_never_reach_github() {
    let upstream = Upstream::start().await;
    let mut session = upstream.session().await;
    let pull = |mut arguments: Value| {
        arguments["pullNumber"] = json!(1);
        on_repo(arguments)
    };
    for (tool, arguments, expected) in [
        (
            "list_issues",
            json!({"owner": "o/r", "repo": "r"}),
            "names apart",
        ),
        (
            "list_issues",
            json!({"owner": "..", "repo": "r"}),
            "names apart",
        ),
        (
            "list_issues",
            on_repo(json!({"perPage": 101})),
            "perPage 1 to 100",
        ),
        ("list_issues", on_repo(json!({"after": "x"})), "next_cursor"),
        (
            "list_issues",
            on_repo(json!({"colour": "red"})),
            "unknown field",
        ),
        (
            "get_file_contents",
            on_repo(json!({"path": "a/../../b"})),
            "segments",
        ),
        (
            "get_file_contents",
            on_repo(json!({"path": "a", "start_line": 3, "end_line": 2})),
            "start_line",
        ),
        (
            "create_branch",
            on_repo(json!({"branch": " "})),
            "must not be empty",
        ),
        (
            "push_files",
            on_repo(json!({"branch": "main", "message": "m", "files": []})),
            "1 to 100",
        ),
        (
            "issue_write",
            on_repo(json!({"method": "create"})),
            "title is needed",
        ),
        (
            "issue_write",
            on_repo(json!({"method": "create", "title": "t", "issue_number": 1})),
            "for the method update",
        ),
        (
            "issue_write",
            on_repo(json!({"method": "update", "title": "t"})),
            "issue_number is needed",
        ),
        (
            "issue_write",
            on_repo(json!({"method": "update", "issue_number": 1})),
            "nothing to change",
        ),
        (
            "issue_write",
            on_repo(json!({"method": "create", "title": "t", "state": "closed"})),
            "always open",
        ),
        (
            "issue_write",
            on_repo(json!({"method": "create", "title": "t", "type": null})),
            "no type to take off",
        ),
        (
            "issue_write",
            on_repo(json!({"method": "update", "issue_number": 1, "duplicate_of": 2})),
            "together",
        ),
        (
            "issue_write",
            on_repo(json!({"method": "create", "title": "t", "parent_owner": "o"})),
            "together",
        ),
        (
            "issue_write",
            on_repo(json!({"method": "update", "issue_number": 1, "parent_issue_number": 2})),
            "sub_issue_write",
        ),
        (
            "sub_issue_write",
            on_repo(json!({"method": "reprioritize", "issue_number": 1, "sub_issue_id": 2})),
            "after_id",
        ),
        (
            "sub_issue_write",
            on_repo(
                json!({"method": "remove", "issue_number": 1, "sub_issue_id": 2, "replace_parent": true}),
            ),
            "replace_parent",
        ),
        (
            "add_issue_comment",
            on_repo(json!({"issue_number": 1, "body": " "})),
            "must not be empty",
        ),
        (
            "add_issue_comment",
            on_repo(json!({"issue_number": 1})),
            "body or reaction",
        ),
        (
            "add_issue_comment",
            on_repo(json!({"issue_number": 1, "body": "b", "comment_id": 1})),
            "comment_id",
        ),
        (
            "label_write",
            on_repo(json!({"method": "create", "name": "n"})),
            "color is needed",
        ),
        (
            "label_write",
            on_repo(json!({"method": "update", "name": "n"})),
            "nothing to change",
        ),
        (
            "label_write",
            on_repo(json!({"method": "update", "name": "n", "color": "red"})),
            "hexadecimal",
        ),
        (
            "search_issues",
            json!({"query": "q", "owner": "o"}),
            "together",
        ),
        (
            "pull_request_read",
            pull(json!({"method": "get", "after": "1"})),
            "get_review_comments",
        ),
        (
            "pull_request_read",
            pull(json!({"method": "get_review_comments", "page": 2})),
            "after",
        ),
        ("update_pull_request", pull(json!({})), "nothing to change"),
        (
            "pull_request_review_write",
            pull(json!({"method": "submit_pending"})),
            "event is needed",
        ),
        (
            "pull_request_review_write",
            pull(json!({"method": "resolve_thread"})),
            "threadId",
        ),
        (
            "add_comment_to_pending_review",
            pull(json!({"path": "a", "body": "b", "subjectType": "LINE"})),
            "line",
        ),
        (
            "add_reply_to_pull_request_comment",
            on_repo(json!({"commentId": 1, "body": "b"})),
            "pullNumber is needed",
        ),
        (
            "actions_list",
            on_repo(json!({"method": "list_workflow_jobs"})),
            "resource_id is needed",
        ),
        (
            "actions_list",
            on_repo(json!({"method": "list_workflow_jobs", "resource_id": "x"})),
            "a number",
        ),
        (
            "actions_list",
            on_repo(json!({"method": "list_workflows", "ref": "main"})),
            "list_check_runs",
        ),
        (
            "actions_run_trigger",
            on_repo(json!({"method": "run_workflow", "workflow_id": "ci.yaml"})),
            "ref",
        ),
        (
            "actions_run_trigger",
            on_repo(json!({"method": "cancel_workflow_run"})),
            "run_id",
        ),
        ("get_job_logs", on_repo(json!({"run_id": 1})), "failed_only"),
        (
            "get_job_logs",
            on_repo(json!({"job_id": 1, "tail_lines": 0})),
            "tail_lines",
        ),
        (
            "get_notification_details",
            json!({"notificationID": "1/x"}),
            "a number",
        ),
        ("get_gist", json!({"gist_id": "../user"}), "gist_id"),
        ("search_users", json!({"query": ""}), "must not be empty"),
    ] {
        let text = session.bad(tool, arguments).await;
        assert!(text.contains(expected), "{tool}: {text}");
    }
    assert!(upstream.take_seen().is_empty());
}

#[tokio::test]
async fn a_long_answer_is_cut_to_fit_and_says_so() {
    let upstream = Upstream::start().await;
    let mut session = upstream.session().await;
    for title in ["a", "b"] {
        let issue = json!({"method": "create", "title": title, "body": "é".repeat(30_000)});
        session.good("issue_write", on_repo(issue)).await;
    }
    upstream.change(|world| {
        let long = world.all("issues")[0].clone();
        for _ in 0..30 {
            world.all("issues").push(long.clone());
        }
    });
    let listed = session
        .good("list_issues", on_repo(json!({"perPage": 100})))
        .await;
    assert!(listed.to_string().len() <= 256 * 1024);
    assert_eq!(listed["issues"].as_array().map(Vec::len), Some(32));
    let body = listed["issues"][0]["body"].as_str().expect("a body");
    assert!(
        body.contains("cut here") && body.len() > 3_000,
        "{}",
        body.len()
    );
}

#[tokio::test]
async fn a_change_that_was_half_done_is_told() {
    let upstream = Upstream::start().await;
    let mut session = upstream.session().await;
    session
        .good("create_branch", on_repo(json!({"branch": "b"})))
        .await;
    // The first request of each is answered, the second one is refused.
    upstream.change(|world| world.refused_after_create = true);
    let issue = json!({"method": "create", "title": "t", "parent_issue_number": 1});
    let text = session.bad("issue_write", on_repo(issue)).await;
    assert!(
        text.contains("was created, but not as a sub-issue"),
        "{text}"
    );
    let pull = json!({"title": "t", "head": "b", "base": "main", "reviewers": ["nobody"]});
    let text = session.bad("create_pull_request", on_repo(pull)).await;
    assert!(text.contains("was opened, but nobody was asked"), "{text}");
    upstream.assert_clean();
}

#[tokio::test]
async fn old_labels_are_read_and_pull_requests_among_issues_left_out() {
    let upstream = Upstream::start().await;
    let mut session = upstream.session().await;
    let mut numbers = Vec::new();
    for title in ["issue", "pull"] {
        let issue = json!({"method": "create", "title": title});
        let made = session.good("issue_write", on_repo(issue)).await;
        numbers.push(made["number"].clone());
    }
    upstream.change(|world| {
        let [issue, pull] = &mut world.all("issues")[..] else {
            panic!("two");
        };
        // As GitHub answers of issues of its first years.
        issue["labels"] = json!(["old style", {"id": 1, "name": "bug"}, {"id": 2, "name": null}]);
        issue["user"] = Value::Null;
        pull["pull_request"] = json!({"url": "https://api.github.com/repos/o/r/pulls/2"});
    });
    let listed = session.good("list_issues", on_repo(json!({}))).await;
    let issues = listed["issues"].as_array().expect("a list");
    assert_eq!(issues.len(), 1);
    assert_eq!(
        (&issues[0]["labels"], issues[0].get("author")),
        (&json!(["old style", "bug"]), None)
    );
    let read = on_repo(json!({"method": "get", "issue_number": numbers[1]}));
    let read = session.good("issue_read", read).await;
    assert_eq!(read["issue"]["is_pull_request"], true);
}
