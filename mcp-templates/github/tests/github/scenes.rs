//! What a client does with people, issues and pull requests.

use serde_json::json;

use crate::surface::Walk;

pub async fn people(walk: &mut Walk) {
    let me = walk.good("get_me", json!({})).await;
    assert_eq!(me["login"], "octocat");
    let teams = walk.good("get_teams", json!({})).await;
    assert_eq!(
        (
            &teams["teams"][0]["slug"],
            teams["teams"][0]["org"].is_string()
        ),
        (&json!("justice-league"), true)
    );
    let teams = walk.good("get_teams", json!({"user": "octocat"})).await;
    assert_eq!(
        teams,
        json!({"teams": [{"org": "github", "slug": "justice-league", "name": "Justice League"}]})
    );
    let text = walk.bad("get_teams", json!({"user": "nobody"})).await;
    assert!(
        text.contains("found no such thing") && !text.contains("SECRET"),
        "{text}"
    );
    let members = walk
        .good(
            "get_team_members",
            json!({"org": "github", "team_slug": "justice-league"}),
        )
        .await;
    assert_eq!(members["items"][0]["login"], "octocat");
    let found = walk
        .good(
            "search_users",
            json!({"query": "cat", "sort": "followers", "order": "DESC"}),
        )
        .await;
    assert!(found["total_count"].is_u64());
    walk.good("search_orgs", json!({"query": "cat", "perPage": 5}))
        .await;
}

pub async fn issues(walk: &mut Walk) {
    for title in ["first", "second", "third"] {
        let issue = walk.on("issue_write", json!({"method": "create", "title": title, "labels": ["bug"], "assignees": ["octocat"]})).await;
        assert_eq!(
            (&issue["title"], &issue["labels"], &issue["assignees"]),
            (&json!(title), &json!(["bug"]), &json!(["octocat"]))
        );
    }
    let page = walk
        .on(
            "list_issues",
            json!({"perPage": 2, "labels": ["bug"], "orderBy": "CREATED_AT", "direction": "DESC"}),
        )
        .await;
    let numbers: Vec<u64> = page["issues"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["number"].as_u64())
        .collect();
    assert_eq!((numbers.len(), &page["next_cursor"]), (2, &json!("2")));
    let page = walk
        .on(
            "list_issues",
            json!({"perPage": 2, "labels": ["bug"], "after": "2"}),
        )
        .await;
    assert_eq!(
        (
            page["issues"].as_array().map(Vec::len),
            page.get("next_cursor")
        ),
        (Some(1), None)
    );
    let [third, second] = numbers[..] else {
        panic!("two")
    };
    let page = walk
        .on("list_issues", json!({"fields": ["number", "author"]}))
        .await;
    assert_eq!(
        page["issues"][0],
        json!({"number": third, "author": "octocat"})
    );
    let text = walk
        .bad_on("list_issues", json!({"fields": ["size"]}))
        .await;
    assert!(text.contains("state_reason"), "{text}");
    // Another issue repeats it.
    let closed = json!({"method": "update", "issue_number": third, "state": "closed", "state_reason": "duplicate", "duplicate_of": second});
    assert_eq!(walk.on("issue_write", closed).await["state"], "closed");
    let open = walk.on("list_issues", json!({"state": "OPEN"})).await;
    assert_eq!(open["issues"].as_array().map(Vec::len), Some(2));
    let fields = json!({"method": "update", "issue_number": second, "type": "Task", "milestone": 1,
        "issue_fields": [{"field_name": "text field", "value": "ann"}]});
    let changed = walk.on("issue_write", fields).await;
    assert_eq!(
        (&changed["type"], &changed["milestone"]),
        (&json!("Task"), &json!("M1"))
    );
    let changed = walk
        .on(
            "issue_write",
            json!({"method": "update", "issue_number": second, "type": null}),
        )
        .await;
    assert_eq!(changed.get("type"), None);
    let text = walk.bad_on("issue_write", json!({"method": "update", "issue_number": second, "issue_fields": [{"field_name": "x", "value": 1}]})).await;
    assert!(text.contains("Text field"), "{text}");

    let child = walk
        .on(
            "issue_write",
            json!({"method": "create", "title": "child", "parent_issue_number": second}),
        )
        .await;
    let parent = walk
        .on(
            "issue_read",
            json!({"method": "get_parent", "issue_number": child["number"]}),
        )
        .await;
    assert_eq!(parent["parent"]["number"], second);
    let children = walk
        .on(
            "issue_read",
            json!({"method": "get_sub_issues", "issue_number": second}),
        )
        .await;
    assert_eq!(children["sub_issues"][0]["id"], child["id"]);
    let moved = json!({"method": "reprioritize", "issue_number": second, "sub_issue_id": child["id"], "after_id": 7});
    walk.on("sub_issue_write", moved).await;
    let again = json!({"method": "add", "issue_number": third, "sub_issue_id": child["id"]});
    assert!(
        walk.bad_on("sub_issue_write", again)
            .await
            .contains("already has a parent")
    );
    let taken = json!({"method": "add", "issue_number": third, "sub_issue_id": child["id"], "replace_parent": true});
    assert_eq!(walk.on("sub_issue_write", taken).await["number"], third);
    walk.on(
        "sub_issue_write",
        json!({"method": "remove", "issue_number": third, "sub_issue_id": child["id"]}),
    )
    .await;
    let text = walk
        .bad_on(
            "issue_read",
            json!({"method": "get_parent", "issue_number": child["number"]}),
        )
        .await;
    assert!(
        text.contains("HTTP 404") && text.contains("these: repo"),
        "{text}"
    );

    let found = walk.good("search_issues", json!({"query": "second", "owner": "octocat", "repo": "Hello-World", "sort": "reactions-+1"})).await;
    assert_eq!(
        (&found["total_count"], &found["items"][0]["number"]),
        (&json!(1), &json!(second))
    );
    let types = walk.on("list_issue_types", json!({})).await;
    assert_eq!(types["types"][0]["name"], "Task");
    walk.good("list_issue_types", json!({"owner": "github"}))
        .await;
    let fields = walk
        .good(
            "list_issue_fields",
            json!({"owner": "github", "repo": "docs"}),
        )
        .await;
    assert_eq!(fields["fields"][0]["data_type"], "text");
}

pub async fn comments_and_labels(walk: &mut Walk) {
    let issue = walk
        .on("issue_write", json!({"method": "create", "title": "talk"}))
        .await["number"]
        .clone();
    let added = walk
        .on(
            "add_issue_comment",
            json!({"issue_number": issue, "body": "Thanks **all**", "reaction": "heart"}),
        )
        .await;
    assert_eq!(added["reaction"]["content"], "heart");
    let id = added["comment"]["id"].clone();
    walk.on(
        "add_issue_comment",
        json!({"issue_number": issue, "reaction": "+1", "comment_id": id}),
    )
    .await;
    walk.on(
        "update_issue_comment",
        json!({"comment_id": id, "body": "Thanks"}),
    )
    .await;
    let read = walk
        .on(
            "issue_read",
            json!({"method": "get_comments", "issue_number": issue}),
        )
        .await;
    assert_eq!(
        (&read["comments"][0]["id"], &read["comments"][0]["body"]),
        (&id, &json!("Thanks"))
    );

    let made = walk
        .on(
            "label_write",
            json!({"method": "create", "name": "area/ui", "color": "f29513"}),
        )
        .await;
    assert_eq!(made["label"]["name"], "area/ui");
    let text = walk
        .bad_on(
            "label_write",
            json!({"method": "create", "name": "area/ui", "color": "f29513"}),
        )
        .await;
    assert!(text.contains("name: already_exists"), "{text}");
    walk.on("label_write", json!({"method": "update", "name": "area/ui", "new_name": "area/web", "description": "The page"})).await;
    assert_eq!(
        walk.on("get_label", json!({"name": "area/web"})).await["description"],
        "The page"
    );
    assert_eq!(
        walk.on("list_label", json!({})).await["items"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    assert_eq!(
        walk.on(
            "label_write",
            json!({"method": "delete", "name": "area/web"})
        )
        .await,
        json!({"deleted": true})
    );
    walk.bad_on("get_label", json!({"name": "area/web"})).await;
    let labels = json!({"method": "update", "issue_number": issue, "labels": ["a", "b"]});
    walk.on("issue_write", labels).await;
    let read = walk
        .on(
            "issue_read",
            json!({"method": "get_labels", "issue_number": issue}),
        )
        .await;
    assert_eq!(read["labels"].as_array().map(Vec::len), Some(2));
    let read = walk
        .on(
            "issue_read",
            json!({"method": "get", "issue_number": issue}),
        )
        .await;
    assert_eq!(
        (&read["issue"]["labels"], &read["issue"]["author"]),
        (&json!(["a", "b"]), &json!("octocat"))
    );
}

pub async fn pulls(walk: &mut Walk) {
    walk.on("create_branch", json!({"branch": "fix/one"})).await;
    let made = json!({"title": "Fix one", "head": "fix/one", "base": "main", "draft": true, "reviewers": ["ann", "octo/core"]});
    let pull = walk.on("create_pull_request", made).await;
    assert_eq!(
        (&pull["draft"], &pull["requested_reviewers"]),
        (&json!(true), &json!(["ann"]))
    );
    let number = pull["number"].clone();
    let text = walk
        .bad_on(
            "create_pull_request",
            json!({"title": "t", "head": "gone", "base": "main"}),
        )
        .await;
    assert!(text.contains("head: invalid"), "{text}");
    let listed = walk
        .on(
            "list_pull_requests",
            json!({"state": "open", "sort": "long-running", "direction": "asc"}),
        )
        .await;
    assert_eq!(listed["items"][0]["number"], number);
    let found = walk
        .good("search_pull_requests", json!({"query": "Fix"}))
        .await;
    assert_eq!(found["total_count"], 1);
    let changed = walk
        .on(
            "update_pull_request",
            json!({"pullNumber": number, "title": "Fix 1", "draft": false, "reviewers": ["bob"]}),
        )
        .await;
    assert_eq!(
        (
            &changed["title"],
            &changed["draft"],
            &changed["requested_reviewers"]
        ),
        (&json!("Fix 1"), &json!(false), &json!(["bob"]))
    );
    let part = |method: &str| json!({"method": method, "pullNumber": number});
    assert_eq!(
        walk.on("pull_request_read", part("get")).await["pull_request"]["head"]["ref"],
        "fix/one"
    );
    let diff = walk.on("pull_request_read", part("get_diff")).await;
    assert_eq!(
        diff,
        json!({"diff": "diff --git a/x b/x\n-a\n+b\n", "diff_truncated": false})
    );
    for (method, key) in [
        ("get_files", "files"),
        ("get_commits", "commits"),
        ("get_comments", "comments"),
        ("get_check_runs", "check_runs"),
    ] {
        assert!(
            walk.on("pull_request_read", part(method)).await[key].is_array(),
            "{method}"
        );
    }
    assert_eq!(
        walk.on("pull_request_read", part("get_status")).await["status"]["state"],
        "success"
    );
    walk.on("update_pull_request_branch", json!({"pullNumber": number, "expectedHeadSha": "6dcb09b5b57875f334f61aebed695e2e4193db5e"})).await;
}

pub async fn reviews(walk: &mut Walk) {
    let number = walk.on("list_pull_requests", json!({})).await["items"][0]["number"].clone();
    let write = |method: &str| json!({"method": method, "pullNumber": number});
    let comment = json!({"pullNumber": number, "path": "a b/c.txt", "body": "why?", "subjectType": "LINE", "line": 1, "side": "RIGHT"});
    let text = walk
        .bad_on("add_comment_to_pending_review", comment.clone())
        .await;
    assert!(text.contains("no pending review"), "{text}");
    assert_eq!(
        walk.on("pull_request_review_write", write("create")).await["review"]["state"],
        "PENDING"
    );
    walk.on("add_comment_to_pending_review", comment).await;
    walk.on(
        "add_comment_to_pending_review",
        json!({"pullNumber": number, "path": "x", "body": "all", "subjectType": "FILE"}),
    )
    .await;
    let mut submit = write("submit_pending");
    submit["event"] = json!("REQUEST_CHANGES");
    submit["body"] = json!("Not yet");
    assert_eq!(
        walk.on("pull_request_review_write", submit).await["review"]["state"],
        "CHANGES_REQUESTED"
    );
    let mut read = json!({"method": "get_review_comments", "pullNumber": number, "perPage": 1});
    let page = walk.on("pull_request_read", read.clone()).await;
    let thread = &page["review_threads"][0];
    assert_eq!(
        (
            &thread["is_resolved"],
            &thread["line"],
            &page["next_cursor"]
        ),
        (&json!(false), &json!(1), &json!("1"))
    );
    assert!(
        thread["comments"][0]["id"]
            .as_u64()
            .is_some_and(|id| id > 9_000_000_000)
    );
    let mut resolve = write("resolve_thread");
    resolve["threadId"] = thread["id"].clone();
    walk.on("pull_request_review_write", resolve.clone()).await;
    assert_eq!(
        walk.on("pull_request_read", read.clone()).await["review_threads"][0]["is_resolved"],
        true
    );
    resolve["method"] = json!("unresolve_thread");
    walk.on("pull_request_review_write", resolve).await;
    read["after"] = page["next_cursor"].clone();
    let page = walk.on("pull_request_read", read).await;
    assert_eq!(
        (&page["review_threads"][0]["path"], page.get("next_cursor")),
        (&json!("x"), None)
    );
    let reply = json!({"pullNumber": number, "commentId": 9, "body": "done", "reaction": "rocket"});
    assert_eq!(
        walk.on("add_reply_to_pull_request_comment", reply).await["comment"]["body"],
        "done"
    );

    walk.on("pull_request_review_write", write("create")).await;
    walk.on("pull_request_review_write", write("delete_pending"))
        .await;
    let listed = walk
        .on(
            "pull_request_read",
            json!({"method": "get_reviews", "pullNumber": number}),
        )
        .await;
    assert_eq!(listed["reviews"].as_array().map(Vec::len), Some(1));
    let stale = json!({"pullNumber": number, "expectedHeadSha": "0000"});
    assert!(
        walk.bad_on("merge_pull_request", stale)
            .await
            .contains("HTTP 409")
    );
    let merged = walk
        .on(
            "merge_pull_request",
            json!({"pullNumber": number, "merge_method": "squash", "commit_title": "One"}),
        )
        .await;
    assert_eq!(merged["merged"], true);
    let text = walk
        .bad_on("merge_pull_request", json!({"pullNumber": number}))
        .await;
    assert!(text.contains("get_check_runs"), "{text}");
    let closed = walk
        .on("list_pull_requests", json!({"state": "closed"}))
        .await;
    assert_eq!(closed["items"][0]["number"], number);
}
