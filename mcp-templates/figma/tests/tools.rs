//! The Figma tools against a stateful fake of the REST API that refuses what the API description does not know. The
//! answers have the shapes of Figma's own description of its API, with fields that nobody asked for.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use minimcp_figma::{Figma, Settings};
use minimcp_rest::{BaseUrl, Secret};
use serde::Deserialize;
use serde_json::{Value, json};

#[path = "../../rest/tests/support/fake.rs"]
mod fake;
#[path = "../../rest/tests/support/session.rs"]
mod session;
use fake::Fake;
use session::Session;

const TOKEN: &str = "figd_SECRET";

type Comments = Arc<Mutex<Vec<Value>>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileQuery {
    depth: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodesQuery {
    ids: String,
    #[expect(dead_code, reason = "the shape is what is checked")]
    depth: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImagesQuery {
    ids: String,
    format: String,
    scale: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionsQuery {
    page_size: Option<usize>,
    before: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommentsQuery {
    #[expect(dead_code, reason = "the shape is what is checked")]
    as_md: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewComment {
    message: String,
    comment_id: Option<String>,
    client_meta: Option<FrameOffset>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FrameOffset {
    node_id: String,
    #[expect(dead_code, reason = "the shape is what is checked")]
    node_offset: Vector,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the shape is what is checked")]
struct Vector {
    x: f64,
    y: f64,
}

fn refused(status: StatusCode, text: &str) -> Response {
    let body = json!({"status": status.as_u16(), "err": text});
    (status, Json(body)).into_response()
}

fn text_node() -> Value {
    json!({
        "id": "1:3", "name": "Title", "type": "TEXT", "scrollBehavior": "SCROLLS", "blendMode": "PASS_THROUGH",
        "absoluteBoundingBox": {"x": 8.0, "y": 8.0, "width": 100.0, "height": 20.0}, "absoluteRenderBounds": null,
        "constraints": {"vertical": "TOP", "horizontal": "LEFT"}, "characters": "Hello", "characterStyleOverrides": [],
        "fills": [{"blendMode": "NORMAL", "type": "SOLID", "color": {"r": 0.0, "g": 0.0, "b": 0.0, "a": 1.0}}],
        "strokes": [], "effects": [], "interactions": [],
        "style": {"fontFamily": "Inter", "fontPostScriptName": null, "fontWeight": 700, "fontSize": 16.0,
                  "textAlignHorizontal": "LEFT", "letterSpacing": 0.0, "lineHeightPx": 19.36},
    })
}

fn frame(children: Value) -> Value {
    json!({"id": "1:2", "name": "Card", "type": "FRAME", "clipsContent": true, "children": children,
           "absoluteBoundingBox": {"x": 0.0, "y": 0.0, "width": 320.0, "height": 64.0},
           "fills": [{"blendMode": "NORMAL", "type": "SOLID", "color": {"r": 1.0, "g": 1.0, "b": 1.0, "a": 1.0}}]})
}

async fn file(Path(key): Path<String>, Query(query): Query<FileQuery>) -> Response {
    if key != "KeY123" {
        return refused(StatusCode::NOT_FOUND, "Not found");
    }
    let children = match query.depth {
        Some(1) => json!([]),
        _ => json!([frame(json!([text_node()]))]),
    };
    Json(json!({
        "name": "Shop", "lastModified": "2026-05-01T10:00:00Z", "thumbnailUrl": "https://s3.example/t.png",
        "version": "42", "role": "owner", "editorType": "figma", "linkAccess": "view", "schemaVersion": 0,
        "components": {}, "componentSets": {}, "styles": {},
        "document": {"id": "0:0", "name": "Document", "type": "DOCUMENT", "children": [
            {"id": "0:1", "name": "Page 1", "type": "CANVAS", "children": children,
             "backgroundColor": {"r": 0.9, "g": 0.9, "b": 0.9, "a": 1.0}, "flowStartingPoints": []},
        ]},
    }))
    .into_response()
}

async fn nodes(Path(key): Path<String>, Query(query): Query<NodesQuery>) -> Response {
    if key != "KeY123" {
        return refused(StatusCode::NOT_FOUND, "Not found");
    }
    let node = (query.ids == "1:2").then(|| {
        json!({"document": frame(json!([text_node()])), "components": {}, "componentSets": {}, "schemaVersion": 0,
               "styles": {}})
    });
    Json(json!({
        "name": "Shop", "lastModified": "2026-05-01T10:00:00Z", "thumbnailUrl": "", "version": "42", "role": "viewer",
        "editorType": "figma", "nodes": {query.ids: node},
    }))
    .into_response()
}

async fn images(Path(_): Path<String>, Query(query): Query<ImagesQuery>) -> Response {
    if !matches!(query.format.as_str(), "png" | "jpg" | "svg" | "pdf") {
        return refused(StatusCode::BAD_REQUEST, "Invalid format");
    }
    let scale = query.scale.unwrap_or(1.0);
    let url = |id: &str| {
        (id != "9:9").then(|| format!("https://s3.example/{id}@{scale}.{}", query.format))
    };
    let images: Value = query
        .ids
        .split(',')
        .map(|id| (id.to_owned(), json!(url(id))))
        .collect::<serde_json::Map<_, _>>()
        .into();
    Json(json!({"err": null, "images": images})).into_response()
}

async fn versions(Path(_): Path<String>, Query(query): Query<VersionsQuery>) -> Response {
    let user = json!({"id": "7", "handle": "Ann", "img_url": "https://s3.example/a.png"});
    let before: u32 = query.before.map_or(4, |id| id.parse().unwrap_or(0));
    let all = (1..before).rev().take(query.page_size.unwrap_or(30));
    let page: Vec<Value> = all
        .map(|id| {
            json!({"id": id.to_string(), "created_at": "2026-05-01T10:00:00Z", "label": null, "description": null,
                   "user": user, "thumbnail_url": ""})
        })
        .collect();
    Json(json!({"versions": page, "pagination": {"prev_page": null, "next_page": null}}))
        .into_response()
}

async fn list(State(comments): State<Comments>, Query(_): Query<CommentsQuery>) -> Response {
    Json(json!({"comments": *comments.lock().expect("whole")})).into_response()
}

async fn post(State(comments): State<Comments>, Json(new): Json<NewComment>) -> Response {
    let mut comments = comments.lock().expect("whole");
    let parent = new.comment_id.unwrap_or_default();
    if !parent.is_empty() && !comments.iter().any(|comment| comment["id"] == parent) {
        return refused(StatusCode::NOT_FOUND, "Comment not found");
    }
    let node = new.client_meta.map(|meta| meta.node_id);
    let made = json!({
        "id": (comments.len() + 1001).to_string(), "file_key": "KeY123", "parent_id": parent,
        "user": {"id": "7", "handle": "Ann", "img_url": ""}, "created_at": "2026-05-01T10:00:00Z",
        "resolved_at": null, "message": new.message, "order_id": "1", "reactions": [],
        "client_meta": {"node_id": node, "node_offset": {"x": 0.0, "y": 0.0}}, "uuid": "u",
    });
    comments.push(made.clone());
    Json(made).into_response()
}

async fn remove(
    State(comments): State<Comments>,
    Path((_, id)): Path<(String, String)>,
) -> Response {
    let mut comments = comments.lock().expect("whole");
    let before = comments.len();
    comments.retain(|comment| comment["id"] != id);
    if comments.len() == before {
        return refused(StatusCode::NOT_FOUND, "Comment not found");
    }
    Json(json!({"status": 200, "error": false, "i18n": null})).into_response()
}

fn routes() -> Router {
    let me = json!({"id": "7", "email": "ann@example.com", "handle": "Ann", "img_url": "https://s3.example/a.png"});
    Router::new()
        .route("/v1/me", get(async || Json(me)))
        .route("/v1/files/{key}", get(file))
        .route("/v1/files/{key}/nodes", get(nodes))
        .route("/v1/files/{key}/versions", get(versions))
        .route("/v1/files/{key}/comments", get(list).post(post))
        .route("/v1/files/{key}/comments/{id}", delete(remove))
        .route("/v1/images/{key}", get(images))
        .with_state(Comments::default())
}

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
