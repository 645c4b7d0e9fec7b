//! Comments, reactions and dev resources; and what is refused before it is sent.

use serde_json::json;

use crate::{Setup, figma_api::KEY, setup};

#[tokio::test]
async fn a_comment_is_posted_answered_listed_and_deleted() {
    let Setup {
        api, mut session, ..
    } = setup().await;
    let arguments = json!({"fileKey": KEY, "message": "Too small", "nodeId": "1-2"});
    let first = session.good("post_comment", arguments).await;
    assert_eq!(
        api.take_asked()[0].body,
        json!({"message": "Too small", "client_meta": {"node_id": "1:2", "node_offset": {"x": 0, "y": 0}}})
    );
    let arguments = json!({"fileKey": KEY, "message": "Larger now", "commentId": first["id"]});
    let reply = session.good("post_comment", arguments).await;
    assert_eq!(reply["parent_id"], first["id"]);
    let list = session.good("list_comments", json!({"fileKey": KEY})).await;
    assert_eq!(
        list["comments"],
        json!([
            {"id": "1001", "message": "Too small", "user": {"handle": "Ann"}, "created_at": "2026-05-01T10:00:00Z",
             "resolved_at": null, "parent_id": null},
            {"id": "1002", "message": "Larger now", "user": {"handle": "Ann"}, "created_at": "2026-05-01T10:00:00Z",
             "resolved_at": null, "parent_id": "1001"},
        ])
    );
    let reaction = json!({"fileKey": KEY, "commentId": "1002", "emoji": ":+1:"});
    let one = json!({"fileKey": KEY, "commentId": "1002"});
    let (is_error, text, _) = session.call("add_comment_reaction", reaction.clone()).await;
    assert_eq!((is_error, text.as_str()), (false, "reacted with :+1:"));
    let list = session.good("list_comment_reactions", one.clone()).await;
    assert_eq!(list["reactions"][0]["emoji"], ":+1:");
    session.good("delete_comment_reaction", reaction).await;
    let list = session.good("list_comment_reactions", one).await;
    assert_eq!(list["reactions"], json!([]));
    let arguments = json!({"fileKey": KEY, "commentId": "1001"});
    let (is_error, text, _) = session.call("delete_comment", arguments.clone()).await;
    assert_eq!(
        (is_error, text.as_str()),
        (false, "deleted the comment 1001")
    );
    let list = session.good("list_comments", json!({"fileKey": KEY})).await;
    assert_eq!(list["comments"].as_array().map(Vec::len), Some(1));
    let text = session.bad("delete_comment", arguments).await;
    assert!(text.contains("Comment not found"), "{text}");
}

#[tokio::test]
async fn a_dev_resource_is_made_changed_listed_and_deleted() {
    let Setup { mut session, .. } = setup().await;
    let new =
        json!({"fileKey": KEY, "nodeId": "1-2", "name": "Code", "url": "https://git.example/a"});
    let made = session.good("create_dev_resource", new.clone()).await;
    assert_eq!(
        (&made["node_id"], &made["name"]),
        (&json!("1:2"), &json!("Code"))
    );
    let text = session.bad("create_dev_resource", new).await;
    assert!(text.contains("It said: Duplicate url"), "{text}");
    let change = json!({"id": made["id"], "name": "Source"});
    let changed = session.good("update_dev_resource", change).await;
    assert_eq!(
        (&changed["name"], &changed["url"]),
        (&json!("Source"), &made["url"])
    );
    let text = session
        .bad("update_dev_resource", json!({"id": "dev9", "name": "x"}))
        .await;
    assert!(text.contains("It said: Not found"), "{text}");
    let list = session
        .good(
            "list_dev_resources",
            json!({"fileKey": KEY, "nodeIds": ["1:2"]}),
        )
        .await;
    assert_eq!(list["dev_resources"][0]["id"], made["id"]);
    let list = session
        .good(
            "list_dev_resources",
            json!({"fileKey": KEY, "nodeIds": ["1:3"]}),
        )
        .await;
    assert_eq!(list["dev_resources"], json!([]));
    let one = json!({"fileKey": KEY, "id": made["id"]});
    session.good("delete_dev_resource", one.clone()).await;
    session.bad("delete_dev_resource", one).await;
}

#[tokio::test]
async fn bad_arguments_never_reach_figma() {
    let Setup {
        api, mut session, ..
    } = setup().await;
    let picture = |name: &str| json!([{"nodeId": "1:2", "fileName": name}]);
    for (tool, arguments) in [
        ("get_figma_data", json!({"fileKey": "../me"})),
        ("get_figma_data", json!({"fileKey": "K", "depth": 0})),
        ("get_figma_data", json!({"fileKey": "K", "nodeId": "1:2,x"})),
        (
            "get_figma_data",
            json!({"fileKey": "K", "nodeId": vec!["1:2"; 51].join(",")}),
        ),
        ("get_figma_images", json!({"fileKey": "K", "nodeIds": []})),
        (
            "get_figma_images",
            json!({"fileKey": "K", "nodeIds": vec!["1:2"; 51]}),
        ),
        (
            "get_figma_images",
            json!({"fileKey": "K", "nodeIds": ["1:2"], "scale": 5}),
        ),
        (
            "get_figma_images",
            json!({"fileKey": "K", "nodeIds": ["1:2"], "format": "gif"}),
        ),
        (
            "download_figma_images",
            json!({"fileKey": "K", "nodes": []}),
        ),
        (
            "download_figma_images",
            json!({"fileKey": "K", "nodes": picture("a.gif")}),
        ),
        (
            "download_figma_images",
            json!({"fileKey": "K", "nodes": picture("../a.png")}),
        ),
        (
            "download_figma_images",
            json!({"fileKey": "K", "nodes": picture(".png")}),
        ),
        (
            "download_figma_images",
            json!({"fileKey": "K", "nodes": picture("a.png"), "pngScale": 9}),
        ),
        (
            "download_figma_images",
            json!({"fileKey": "K", "nodes": picture("a.png"), "localPath": "../up"}),
        ),
        (
            "download_figma_images",
            json!({"fileKey": "K", "nodes": picture("a.png"), "localPath": "/tmp"}),
        ),
        (
            "download_figma_images",
            json!({"fileKey": "K", "nodes": [{"fileName": "a.png"}]}),
        ),
        ("list_versions", json!({"fileKey": "K", "pageSize": 51})),
        ("list_components", json!({})),
        ("list_components", json!({"fileKey": "K", "teamId": "5"})),
        ("list_styles", json!({"fileKey": "K", "after": 1})),
        ("list_component_sets", json!({"teamId": "5/x"})),
        (
            "list_component_sets",
            json!({"teamId": "5", "pageSize": 101}),
        ),
        ("get_library_asset", json!({"kind": "page", "key": "k"})),
        (
            "get_library_asset",
            json!({"kind": "style", "key": "../me"}),
        ),
        ("get_variables", json!({"fileKey": "K", "name": " "})),
        ("list_team_projects", json!({"teamId": "x"})),
        ("list_project_files", json!({"projectId": ""})),
        (
            "create_dev_resource",
            json!({"fileKey": "K", "nodeId": "1:2", "name": "n", "url": "javascript:x"}),
        ),
        (
            "create_dev_resource",
            json!({"fileKey": "K", "nodeId": "1:2", "name": " ", "url": "https://a.b"}),
        ),
        ("update_dev_resource", json!({"id": "d"})),
        ("delete_dev_resource", json!({"fileKey": "K", "id": ""})),
        ("post_comment", json!({"fileKey": "K", "message": " "})),
        (
            "post_comment",
            json!({"fileKey": "K", "message": "m", "commentId": "1", "nodeId": "1:2"}),
        ),
        (
            "post_comment",
            json!({"fileKey": "K", "message": "m", "colour": "red"}),
        ),
        (
            "add_comment_reaction",
            json!({"fileKey": "K", "commentId": "1", "emoji": "+1"}),
        ),
        // Any of these would delete something other than a comment.
        ("delete_comment", json!({"fileKey": "K", "commentId": ""})),
        ("delete_comment", json!({"fileKey": "K", "commentId": ".."})),
        (
            "delete_comment",
            json!({"fileKey": "K", "commentId": "1/reactions"}),
        ),
    ] {
        session.bad(tool, arguments).await;
    }
    assert_eq!(api.take_count(), 0);
}
