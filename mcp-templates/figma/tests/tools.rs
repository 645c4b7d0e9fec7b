//! The Figma tools against a fake of the REST API.

use minimcp_figma::{Figma, Settings};
use minimcp_rest::{BaseUrl, Secret};
use serde_json::{Value, json};

#[path = "../../rest/tests/support/fake.rs"]
mod fake;
#[path = "support/figma_api.rs"]
mod figma_api;
#[path = "../../rest/tests/support/session.rs"]
mod session;
use fake::Fake;
use figma_api::routes;
use session::Session;

const TOKEN: &str = "figd_SECRET";

fn settings(fake: &Fake) -> Settings {
    Settings {
        oauth_token: None,
        api_key: Some(Secret::new(TOKEN)),
        api: BaseUrl::new(&fake.url).map_err(|error| error.to_string()),
    }
}

async fn setup() -> (Fake, Session) {
    let fake = Fake::start(routes(), Some(("x-figma-token", TOKEN))).await;
    let session = Session::start(Figma::new(settings(&fake))).await;
    (fake, session)
}

#[tokio::test]
async fn every_tool_is_described() {
    let (_, mut session) = setup().await;
    let tools = session.tools().await;
    let names: Vec<&str> = tools.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "delete_comment",
            "get_figma_data",
            "get_figma_images",
            "get_me",
            "list_comments",
            "list_versions",
            "post_comment"
        ]
    );
}

#[tokio::test]
async fn an_oauth_token_goes_before_the_personal_one() {
    let fake = Fake::start(routes(), Some(("authorization", "Bearer oauth-SECRET"))).await;
    let settings = Settings {
        oauth_token: Some(Secret::new("oauth-SECRET")),
        ..settings(&fake)
    };
    let mut session = Session::start(Figma::new(settings)).await;
    let me = session.good("get_me", json!({})).await;
    assert_eq!(
        me,
        json!({"id": "7", "handle": "Ann", "email": "ann@example.com"})
    );
    assert!(!fake.take_seen()[0].headers.contains_key("x-figma-token"));
}

#[tokio::test]
async fn a_design_is_read_whole_by_depth_and_by_node() {
    let (fake, mut session) = setup().await;
    let whole = session
        .good("get_figma_data", json!({"fileKey": "KeY123"}))
        .await;
    assert_eq!(
        (&whole["name"], &whole["version"], &whole["truncated"]),
        (&json!("Shop"), &json!("42"), &json!(false))
    );
    let card = &whole["nodes"][0]["children"][0]["children"][0];
    assert_eq!(card["fills"], json!(["#ffffff"]));
    assert_eq!(
        card["children"][0],
        json!({"id": "1:3", "name": "Title", "type": "TEXT", "text": "Hello", "fills": ["#000000"],
               "box": {"x": 8, "y": 8, "width": 100, "height": 20},
               "textStyle": {"font": "Inter", "weight": 700, "size": 16, "lineHeight": 19.36, "align": "left"}})
    );
    let shallow = session
        .good("get_figma_data", json!({"fileKey": "KeY123", "depth": 1}))
        .await;
    assert!(shallow["nodes"][0]["children"][0]["children"].is_null());
    // Addresses write 1-2 for 1:2.
    let arguments = json!({"fileKey": "KeY123", "nodeId": "1-2", "depth": 3});
    let node = session.good("get_figma_data", arguments).await;
    assert_eq!(node["nodes"][0]["name"], "Card");
    let paths: Vec<String> = fake
        .take_seen()
        .into_iter()
        .map(|seen| seen.path_and_query)
        .collect();
    assert_eq!(
        paths,
        [
            "/v1/files/KeY123",
            "/v1/files/KeY123?depth=1",
            "/v1/files/KeY123/nodes?ids=1%3A2&depth=3"
        ]
    );
    let arguments = json!({"fileKey": "KeY123", "nodeId": "5:5"});
    let text = session.bad("get_figma_data", arguments).await;
    assert!(text.contains("no such node"), "{text}");
    let text = session
        .bad("get_figma_data", json!({"fileKey": "gone"}))
        .await;
    assert!(text.contains("Check fileKey"), "{text}");
}

#[tokio::test]
async fn nodes_are_rendered_and_a_failed_rendering_is_told() {
    let (fake, mut session) = setup().await;
    let arguments =
        json!({"fileKey": "KeY123", "nodeIds": ["1:2", "9-9"], "format": "svg", "scale": 2});
    let images = session.good("get_figma_images", arguments).await;
    assert_eq!(
        images["images"],
        json!([{"nodeId": "1:2", "url": "https://s3.example/1:2@2.svg"}, {"nodeId": "9:9", "url": null}])
    );
    fake.fail(
        200,
        &[],
        r#"{"err": "Render \u0007 timeout", "images": {}}"#,
    );
    let arguments = json!({"fileKey": "KeY123", "nodeIds": ["1:2"]});
    let text = session.bad("get_figma_images", arguments).await;
    assert_eq!(text, "Figma could not render: Render  timeout");
}

#[tokio::test]
async fn versions_come_page_by_page() {
    let (_, mut session) = setup().await;
    let arguments = json!({"fileKey": "KeY123", "pageSize": 2});
    let page = session.good("list_versions", arguments).await;
    assert_eq!(
        (&page["versions"][0]["id"], &page["versions"][1]["id"]),
        (&json!("3"), &json!("2"))
    );
    assert_eq!(page["versions"][0]["user"]["handle"], "Ann");
    let arguments = json!({"fileKey": "KeY123", "pageSize": 2, "before": "2"});
    let page = session.good("list_versions", arguments).await;
    assert_eq!(page["versions"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_comment_is_posted_answered_listed_and_deleted() {
    let (fake, mut session) = setup().await;
    let arguments = json!({"fileKey": "KeY123", "message": "Too small", "nodeId": "1-2"});
    let first = session.good("post_comment", arguments).await;
    let seen = fake.take_seen().remove(0);
    assert_eq!(seen.method, "POST");
    let body: Value = serde_json::from_str(&seen.body).expect("JSON");
    assert_eq!(
        body,
        json!({"message": "Too small", "client_meta": {"node_id": "1:2", "node_offset": {"x": 0, "y": 0}}})
    );
    let arguments = json!({"fileKey": "KeY123", "message": "Larger now", "commentId": first["id"]});
    let reply = session.good("post_comment", arguments).await;
    assert_eq!(reply["parent_id"], first["id"]);
    let list = session
        .good("list_comments", json!({"fileKey": "KeY123"}))
        .await;
    assert_eq!(
        list["comments"],
        json!([
            {"id": "1001", "message": "Too small", "user": {"handle": "Ann"}, "created_at": "2026-05-01T10:00:00Z",
             "resolved_at": null, "parent_id": null},
            {"id": "1002", "message": "Larger now", "user": {"handle": "Ann"}, "created_at": "2026-05-01T10:00:00Z",
             "resolved_at": null, "parent_id": "1001"},
        ])
    );
    let arguments = json!({"fileKey": "KeY123", "commentId": "1001"});
    let (is_error, text, _) = session.call("delete_comment", arguments.clone()).await;
    assert_eq!(
        (is_error, text.as_str()),
        (false, "deleted the comment 1001")
    );
    let list = session
        .good("list_comments", json!({"fileKey": "KeY123"}))
        .await;
    assert_eq!(list["comments"].as_array().map(Vec::len), Some(1));
    let text = session.bad("delete_comment", arguments).await;
    assert!(text.contains("Comment not found"), "{text}");
}

#[tokio::test]
async fn bad_arguments_never_reach_figma() {
    let (fake, mut session) = setup().await;
    for (tool, arguments) in [
        ("get_figma_data", json!({"fileKey": "../me"})),
        ("get_figma_data", json!({"fileKey": "K", "depth": 0})),
        (
            "get_figma_data",
            json!({"fileKey": "K", "nodeId": "1:2,3:4"}),
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
        ("list_versions", json!({"fileKey": "K", "pageSize": 51})),
        ("post_comment", json!({"fileKey": "K", "message": " "})),
        (
            "post_comment",
            json!({"fileKey": "K", "message": "m", "commentId": "1", "nodeId": "1:2"}),
        ),
        (
            "post_comment",
            json!({"fileKey": "K", "message": "m", "colour": "red"}),
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
    assert!(fake.take_seen().is_empty());
}

#[tokio::test]
async fn every_fault_is_told_and_the_server_lives_on() {
    let (fake, mut session) = setup().await;
    for (status, headers, body, expected) in [
        (
            401,
            vec![],
            r#"{"status":401,"err":"Token figd_SECRET expired"}"#,
            "token is wrong or expired",
        ),
        (
            403,
            vec![],
            r#"{"status":403,"err":"Invalid token"}"#,
            "It said: Invalid token. The token is wrong or expired",
        ),
        (
            404,
            vec![],
            r#"{"status":404,"err":"Not found"}"#,
            "Check fileKey",
        ),
        (
            429,
            vec![("retry-after", "396000"), ("x-figma-plan-tier", "starter")],
            r#"{"status":429,"err":"Rate limit exceeded"}"#,
            "Try again in 396000 seconds, not before",
        ),
        (
            400,
            vec![],
            r#"{"err":true,"status":400,"message":"Request too large"}"#,
            "Request too large",
        ),
        (200, vec![], r#"{"id": 7"#, "not what its API promises"),
        (
            200,
            vec![],
            r#"{"handle": "Ann"}"#,
            "not what its API promises",
        ),
    ] {
        fake.fail(status, &headers, body);
        let text = session.bad("get_me", json!({})).await;
        assert!(
            text.contains(expected) && !text.contains("SECRET"),
            "{status}: {text}"
        );
        assert_eq!(fake.take_seen().len(), 1, "{status} is not tried again");
    }
    fake.fail(500, &[], "<html>");
    fake.fail(503, &[], "");
    let text = session.bad("get_me", json!({})).await;
    assert!(
        text.contains("HTTP 503") && text.contains("in a minute"),
        "{text}"
    );
    fake.fail(500, &[], "");
    assert_eq!(session.good("get_me", json!({})).await["handle"], "Ann");
}

#[tokio::test]
async fn silence_ends_in_advice_to_ask_for_less() {
    let (fake, mut session) = setup().await;
    session.good("get_me", json!({})).await;
    fake.fail(0, &[], "");
    fake.fail(0, &[], "");
    // From here on the clock jumps to the next timer whenever nothing else is to do.
    tokio::time::pause();
    let text = session
        .bad("get_figma_data", json!({"fileKey": "KeY123"}))
        .await;
    assert!(
        text.contains("did not answer in time") && text.contains("Ask for less"),
        "{text}"
    );
}

#[tokio::test]
async fn without_a_token_or_with_a_wrong_address_it_says_what_to_do() {
    let fake = Fake::start(routes(), None).await;
    let without = Settings {
        api_key: None,
        ..settings(&fake)
    };
    let wrong = Settings {
        api: Err("FIGMA_API_BASE is wrong".to_owned()),
        ..settings(&fake)
    };
    for (settings, expected) in [
        (without, "FIGMA_API_KEY"),
        (wrong, "FIGMA_API_BASE is wrong"),
    ] {
        let mut session = Session::start(Figma::new(settings)).await;
        let text = session.bad("get_me", json!({})).await;
        assert!(text.contains(expected), "{text}");
    }
    assert!(fake.take_seen().is_empty());
}
