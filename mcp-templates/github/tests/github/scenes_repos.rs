//! What a client does with repositories, their files and their history.

use serde_json::json;

use crate::surface::Walk;

pub async fn files(walk: &mut Walk) {
    let read = walk
        .on(
            "get_file_contents",
            json!({"path": "/a b/c.txt", "ref": "main"}),
        )
        .await;
    assert_eq!(read["text"], "hello");
    let folder = walk.on("get_file_contents", json!({})).await;
    assert_eq!(folder["entries"][0]["path"], "a b");
    assert_eq!(
        walk.on("get_file_contents", json!({"path": "logo.png"}))
            .await["base64"],
        "iVBOR/8="
    );
    let big = walk
        .on("get_file_contents", json!({"path": "big.txt"}))
        .await;
    let last = big["lines"]["last"].as_u64().expect("not the whole");
    assert!(
        last > 1_000 && big["lines"]["total"] == 80_000,
        "{}",
        big["lines"]
    );
    let more = walk
        .on(
            "get_file_contents",
            json!({"path": "big.txt", "start_line": 79_999}),
        )
        .await;
    assert_eq!(more["text"], "a line of text\na line of text\n");
    let text = walk
        .bad_on("get_file_contents", json!({"path": "gone"}))
        .await;
    assert!(text.contains("HTTP 404"), "{text}");
    let text = walk
        .bad_on("get_file_contents", json!({"path": "vendored"}))
        .await;
    assert!(text.contains("submodule"), "{text}");

    let write = |content: &str| json!({"path": "d/new file.md", "content": content, "message": "m", "branch": "main"});
    let written = walk.on("create_or_update_file", write("Grüße")).await;
    assert_eq!(
        walk.on("get_file_contents", json!({"path": "d/new file.md"}))
            .await["text"],
        "Grüße"
    );
    let text = walk.bad_on("create_or_update_file", write("lost")).await;
    assert!(
        text.contains("wasn't supplied") && text.contains("get_file_contents"),
        "{text}"
    );
    let mut again = write("changed");
    again["sha"] = json!("0000");
    assert!(
        walk.bad_on("create_or_update_file", again.clone())
            .await
            .contains("HTTP 409")
    );
    again["sha"] = written["content"]["sha"].clone();
    walk.on("create_or_update_file", again).await;
    assert_eq!(
        walk.on("get_file_contents", json!({"path": "d/new file.md"}))
            .await["text"],
        "changed"
    );
    walk.on(
        "delete_file",
        json!({"path": "d/new file.md", "message": "m", "branch": "main"}),
    )
    .await;
    walk.bad_on("get_file_contents", json!({"path": "d/new file.md"}))
        .await;
    assert!(
        walk.bad_on(
            "delete_file",
            json!({"path": "a b", "message": "m", "branch": "main"})
        )
        .await
        .contains("folder")
    );

    let pushed = json!({"branch": "main", "message": "two", "files": [{"path": "one.txt", "content": "1"}, {"path": "/two.txt", "content": "2"}]});
    assert_eq!(walk.on("push_files", pushed).await["files"], 2);
    assert_eq!(
        walk.on("get_file_contents", json!({"path": "two.txt"}))
            .await["text"],
        "2"
    );
    assert_eq!(
        walk.on("get_file_contents", json!({"path": "a b/c.txt"}))
            .await["text"],
        "hello"
    );
    let tree = walk
        .on(
            "get_repository_tree",
            json!({"recursive": true, "path_filter": "a b/"}),
        )
        .await;
    assert_eq!(
        (
            tree["entries"].as_array().map(Vec::len),
            &tree["entries"][0]["path"]
        ),
        (Some(1), &json!("a b/c.txt"))
    );
}

pub async fn history(walk: &mut Walk) {
    let made = walk
        .on(
            "create_branch",
            json!({"branch": "topic/x", "from_branch": "main"}),
        )
        .await;
    assert_eq!(made["ref"], "refs/heads/topic/x");
    assert!(
        walk.bad_on("create_branch", json!({"branch": "topic/x"}))
            .await
            .contains("already exists")
    );
    let page = walk.on("list_branches", json!({"perPage": 1})).await;
    assert_eq!(
        (&page["items"][0]["name"], &page["next_page"]),
        (&json!("main"), &json!(2))
    );
    let page = walk
        .on("list_branches", json!({"perPage": 1, "page": 2}))
        .await;
    assert_eq!(
        (&page["items"][0]["name"], page.get("next_page")),
        (&json!("topic/x"), None)
    );
    let filter = json!({"sha": "main", "path": "a b", "author": "octocat", "since": "2011-04-14", "until": "2026-01-01T00:00:00Z"});
    assert_eq!(
        walk.on("list_commits", filter).await["items"][0]["author"],
        "octocat"
    );
    let commit = walk.on("get_commit", json!({"sha": "topic/x"})).await;
    assert!(
        commit["stats"].is_object() && commit["files"][0].get("patch").is_none(),
        "{commit}"
    );
    let commit = walk
        .on("get_commit", json!({"sha": "main", "detail": "full_patch"}))
        .await;
    assert!(commit["files"][0]["patch"].is_string());
    let commit = walk
        .on("get_commit", json!({"sha": "main", "detail": "none"}))
        .await;
    assert!(commit.get("files").is_none() && commit.get("stats").is_none());
    assert_eq!(
        walk.on("list_tags", json!({})).await["items"][0]["name"],
        "v0.1"
    );
    assert_eq!(
        walk.on("get_tag", json!({"tag": "v0.0.1"})).await["message"],
        "initial version"
    );
    let light = walk.on("get_tag", json!({"tag": "light"})).await;
    assert_eq!(
        (&light["object"]["type"], light.get("message")),
        (&json!("commit"), None)
    );
    assert_eq!(
        walk.on("list_releases", json!({})).await["items"][0]["tag_name"],
        "v1.0.0"
    );
    walk.on("get_latest_release", json!({})).await;
    walk.on("get_release_by_tag", json!({"tag": "release/v1.0.0"}))
        .await;
}

pub async fn repositories(walk: &mut Walk) {
    let made = walk
        .good(
            "create_repository",
            json!({"name": "new", "description": "d", "autoInit": true}),
        )
        .await;
    assert_eq!(
        (&made["private"], &made["description"]),
        (&json!(true), &json!("d"))
    );
    walk.good(
        "create_repository",
        json!({"name": "new", "organization": "github", "private": false}),
    )
    .await;
    walk.on("fork_repository", json!({})).await;
    walk.on("fork_repository", json!({"organization": "github"}))
        .await;
    let who = walk
        .on(
            "list_repository_collaborators",
            json!({"affiliation": "direct"}),
        )
        .await;
    assert_eq!(who["items"][0]["role_name"], "write");
    let query = json!({"query": "mcp language:rust", "sort": "help-wanted-issues", "order": "desc", "page": 2, "perPage": 2});
    let found = walk.good("search_repositories", query).await;
    assert!(found["items"][0].get("forks_count").is_none(), "{found}");
    let found = walk
        .good(
            "search_repositories",
            json!({"query": "mcp", "minimal_output": false}),
        )
        .await;
    assert!(found["items"][0]["forks_count"].is_u64(), "{found}");
    let found = walk
        .good(
            "search_code",
            json!({"query": "main repo:o/r", "sort": "indexed"}),
        )
        .await;
    assert!(found["items"][0]["repository"].is_string(), "{found}");
    let found = walk
        .good(
            "search_commits",
            json!({"query": "fix repo:o/r", "sort": "author-date", "order": "asc"}),
        )
        .await;
    assert!(found["items"][0]["commit"]["message"].is_string());
    let doomed = json!({"owner": "octocat", "repo": "doomed"});
    walk.good("delete_repository", doomed).await;
    let text = walk
        .bad(
            "get_repository_tree",
            json!({"owner": "octocat", "repo": "doomed"}),
        )
        .await;
    assert!(text.contains("HTTP 404"), "{text}");
}
