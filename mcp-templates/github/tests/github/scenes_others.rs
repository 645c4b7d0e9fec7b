//! What a client does with GitHub Actions, notifications, gists and stars.

use serde_json::json;

use crate::surface::Walk;

pub async fn actions(walk: &mut Walk) {
    let list = |method: &str| json!({"method": method});
    let get = |method: &str, id: &str| json!({"method": method, "resource_id": id});
    walk.on("actions_run_trigger", json!({"method": "run_workflow", "workflow_id": "ci.yaml", "ref": "main", "inputs": {"level": "high"}})).await;
    let runs = walk.on("actions_list", list("list_workflow_runs")).await;
    assert_eq!(
        (
            &runs["total_count"],
            &runs["workflow_runs"][0]["head_branch"]
        ),
        (&json!(1), &json!("main"))
    );
    let id = runs["workflow_runs"][0]["id"].to_string();
    let number = runs["workflow_runs"][0]["id"].clone();
    for method in [
        "rerun_workflow_run",
        "rerun_failed_jobs",
        "cancel_workflow_run",
        "delete_workflow_run_logs",
    ] {
        walk.on(
            "actions_run_trigger",
            json!({"method": method, "run_id": number}),
        )
        .await;
    }
    let run = walk.on("actions_get", get("get_workflow_run", &id)).await;
    assert_eq!(run["workflow_run"]["conclusion"], "cancelled");
    let filtered = json!({"method": "list_workflow_runs", "resource_id": "ci.yaml",
        "workflow_runs_filter": {"status": "cancelled", "branch": "main", "event": "push", "actor": "octocat"}});
    assert_eq!(walk.on("actions_list", filtered).await["total_count"], 1);
    assert!(walk.on("actions_list", list("list_workflows")).await["workflows"].is_array());
    let jobs = json!({"method": "list_workflow_jobs", "resource_id": id, "workflow_jobs_filter": {"filter": "all"}});
    assert_eq!(
        walk.on("actions_list", jobs).await["jobs"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    let artifacts = json!({"method": "list_workflow_run_artifacts", "resource_id": id});
    assert!(walk.on("actions_list", artifacts).await["artifacts"].is_array());
    let checks = json!({"method": "list_check_runs", "ref": "topic/x",
        "check_runs_filter": {"status": "completed", "filter": "latest", "check_name": "build", "app_id": 1}});
    assert!(walk.on("actions_list", checks).await["check_runs"].is_array());
    let checks = json!({"method": "list_check_runs", "resource_id": "5"});
    assert!(walk.on("actions_list", checks).await["check_runs"].is_array());
    let notes = walk
        .on(
            "actions_list",
            json!({"method": "list_check_run_annotations", "resource_id": "4"}),
        )
        .await;
    assert!(notes["annotations"][0]["path"].is_string());
    for (method, resource, key) in [
        ("get_workflow", "ci.yaml", "workflow"),
        ("get_workflow_job", "399444496", "job"),
        ("get_workflow_run_usage", "1", "usage"),
        ("get_check_run", "4", "check_run"),
    ] {
        assert!(
            walk.on("actions_get", get(method, resource)).await[key].is_object(),
            "{method}"
        );
    }
    for method in [
        "download_workflow_run_artifact",
        "get_workflow_run_logs_url",
    ] {
        let url = walk.on("actions_get", get(method, "11")).await;
        assert_eq!(
            url,
            json!({"download_url": "https://store.example.com/file.zip?sig=abc"})
        );
    }
}

pub async fn logs(walk: &mut Walk) {
    let where_it_lies = walk
        .on("get_job_logs", json!({"job_id": 399_444_496}))
        .await;
    assert!(where_it_lies["logs"][0]["download_url"].is_string());
    let read = walk
        .on(
            "get_job_logs",
            json!({"job_id": 399_444_496, "return_content": true, "tail_lines": 2}),
        )
        .await;
    assert_eq!(
        (&read["logs"][0]["content"], &read["logs"][0]["total_bytes"]),
        (&json!("middle\nlast line"), &json!(28))
    );
    let failed = walk
        .on(
            "get_job_logs",
            json!({"run_id": 1, "failed_only": true, "return_content": true}),
        )
        .await;
    assert_eq!(
        (&failed["failed_jobs"], &failed["logs"][0]["job_name"]),
        (&json!(1), &json!("build"))
    );
}

pub async fn notifications(walk: &mut Walk) {
    let listed = walk.good("list_notifications", json!({"perPage": 2})).await;
    assert_eq!(
        (
            listed["items"].as_array().map(Vec::len),
            &listed["next_page"]
        ),
        (Some(2), &json!(2))
    );
    walk.good(
        "dismiss_notification",
        json!({"threadID": "1", "state": "read"}),
    )
    .await;
    assert_eq!(
        walk.good("get_notification_details", json!({"notificationID": "1"}))
            .await["unread"],
        false
    );
    walk.good(
        "dismiss_notification",
        json!({"threadID": "1", "state": "done"}),
    )
    .await;
    walk.bad("get_notification_details", json!({"notificationID": "1"}))
        .await;
    for action in ["ignore", "watch", "delete"] {
        walk.good(
            "manage_notification_subscription",
            json!({"notificationID": "2", "action": action}),
        )
        .await;
        walk.on(
            "manage_repository_notification_subscription",
            json!({"action": action}),
        )
        .await;
    }
    walk.on("mark_all_notifications_read", json!({})).await;
    walk.good(
        "mark_all_notifications_read",
        json!({"lastReadAt": "2026-01-01T00:00:00Z"}),
    )
    .await;
    assert_eq!(
        walk.good("list_notifications", json!({})).await,
        json!({"items": []})
    );
    let all = json!({"filter": "include_read_notifications", "since": "2010-01-01T00:00:00Z"});
    assert_eq!(
        walk.on("list_notifications", all).await["items"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
}

pub async fn gists_and_stars(walk: &mut Walk) {
    let gist = walk
        .good(
            "create_gist",
            json!({"filename": "a.txt", "content": "one", "description": "d"}),
        )
        .await;
    let id = gist["id"].clone();
    walk.good(
        "update_gist",
        json!({"gist_id": id, "filename": "b.txt", "content": "two"}),
    )
    .await;
    let read = walk.good("get_gist", json!({"gist_id": id})).await;
    assert_eq!(
        (
            &read["files"]["a.txt"]["content"],
            &read["files"]["b.txt"]["content"]
        ),
        (&json!("one"), &json!("two"))
    );
    let listed = walk
        .good("list_gists", json!({"since": "2010-01-01T00:00:00Z"}))
        .await;
    assert_eq!(
        (
            &listed["items"][0]["id"],
            listed["items"][0]["files"]["a.txt"].get("content")
        ),
        (&id, None)
    );
    walk.good("list_gists", json!({"username": "octocat"}))
        .await;

    walk.on("star_repository", json!({})).await;
    let starred = walk
        .good(
            "list_starred_repositories",
            json!({"sort": "created", "direction": "desc"}),
        )
        .await;
    assert_eq!(starred["items"][0]["full_name"], "octocat/Hello-World");
    walk.good("list_starred_repositories", json!({"username": "octocat"}))
        .await;
    walk.on("unstar_repository", json!({})).await;
    assert_eq!(
        walk.good("list_starred_repositories", json!({})).await,
        json!({"items": []})
    );
}
