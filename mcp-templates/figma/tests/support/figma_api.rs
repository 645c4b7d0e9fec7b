//! A stateful fake of Figma's REST API that refuses what the API description does not know. The answers have the
//! shapes of Figma's own description, with fields that nobody asked for.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use serde::Deserialize;
use serde_json::{Value, json};

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

/// Every route that the tools use.
pub fn routes() -> Router {
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
