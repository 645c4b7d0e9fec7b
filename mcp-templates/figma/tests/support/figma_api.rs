//! A stateful fake of Figma's REST API, judged by Figma's own description. The answers hold fields that nobody asked
//! for, as the real ones do.

use axum::http::HeaderMap;
use serde_json::{Map, Value, json};

use crate::{
    contract::Asked,
    upstream::{Answer, Api},
};

/// The description of the API, cut down.
pub const FIXTURE: &str = include_str!("../fixtures/api.json");
/// The only file there is.
pub const KEY: &str = "KeY123";

/// What Figma holds.
pub struct FigmaApi {
    /// The header and the value that let in.
    pub credential: (&'static str, &'static str),
    /// What an OAuth token may do; a personal token is not held by it here.
    pub oauth_scopes: Vec<&'static str>,
    /// Where pictures lie.
    pub pictures: String,
    pub comments: Vec<Value>,
    pub dev_resources: Vec<Value>,
    /// Children of the page, beside the card.
    pub more_children: Vec<Value>,
}

/// An error as Figma writes it.
pub fn refusal(status: u16, text: &str) -> Value {
    json!({"status": status, "err": text})
}

fn refused(status: u16, text: &str) -> Answer {
    (status, Some(refusal(status, text)))
}

fn good(meta: Value) -> Answer {
    (
        200,
        Some(json!({"status": 200, "error": false, "meta": meta})),
    )
}

fn user() -> Value {
    json!({"id": "7", "handle": "Ann", "img_url": "https://s3.example/a.png"})
}

fn text_node(id: &str) -> Value {
    json!({
        "id": id, "name": "Title", "type": "TEXT", "scrollBehavior": "SCROLLS", "blendMode": "PASS_THROUGH",
        "absoluteBoundingBox": {"x": 8.0, "y": 8.0, "width": 100.0, "height": 20.0}, "absoluteRenderBounds": null,
        "constraints": {"vertical": "TOP", "horizontal": "LEFT"}, "characters": "Hello", "characterStyleOverrides": [],
        "fills": [{"blendMode": "NORMAL", "type": "SOLID", "color": {"r": 0.0, "g": 0.0, "b": 0.0, "a": 1.0}}],
        "strokes": [], "effects": [], "interactions": [], "styles": {"text": "9:1"},
        "style": {"fontFamily": "Inter", "fontPostScriptName": null, "fontWeight": 700, "fontSize": 16.0,
                  "textAlignHorizontal": "LEFT", "letterSpacing": 0.0, "lineHeightPx": 19.36},
    })
}

fn card() -> Value {
    json!({"id": "1:2", "name": "Card", "type": "INSTANCE", "componentId": "5:5", "clipsContent": true,
           "children": [text_node("1:3"), text_node("1:4")],
           "absoluteBoundingBox": {"x": 0.0, "y": 0.0, "width": 320.0, "height": 64.0},
           "fills": [{"blendMode": "NORMAL", "type": "IMAGE", "scaleMode": "FILL", "imageRef": "abc123"}]})
}

/// What a file and each of its nodes have beside them.
fn beside() -> Map<String, Value> {
    let beside = json!({
        "components": {
            "5:5": {"key": "c5", "name": "Button", "description": "", "documentationLinks": [], "remote": false},
            "5:6": {"key": "c6", "name": "Unused", "description": "", "documentationLinks": [], "remote": false},
        },
        "componentSets": {},
        "styles": {"9:1": {"key": "s1", "name": "Heading", "description": "", "remote": false, "styleType": "TEXT"}},
        "schemaVersion": 0,
    });
    beside.as_object().cloned().expect("an object")
}

fn published(kind: &str, number: usize) -> Value {
    let mut made = json!({"key": format!("{kind}{number}"), "file_key": KEY, "node_id": format!("5:{number}"),
        "thumbnail_url": "https://s3.example/t.png", "name": format!("{kind} {number}"), "description": "d",
        "created_at": "2026-05-01T10:00:00Z", "updated_at": "2026-05-01T10:00:00Z", "user": user()});
    if kind == "style" {
        made["style_type"] = json!("FILL");
        made["sort_position"] = json!("a");
    } else {
        made["containing_frame"] =
            json!({"name": "Buttons", "nodeId": "4:1", "pageName": "Library", "pageId": "0:1"});
    }
    made
}

impl FigmaApi {
    pub fn new(credential: (&'static str, &'static str), pictures: String) -> Self {
        Self {
            credential,
            oauth_scopes: vec!["current_user:read"],
            pictures,
            comments: Vec::new(),
            dev_resources: Vec::new(),
            more_children: Vec::new(),
        }
    }

    fn file(&self, asked: &Asked) -> Answer {
        let mut children = match asked.one("depth") {
            Some("1") => vec![],
            _ => vec![card()],
        };
        children.extend(self.more_children.clone());
        let mut file = beside();
        for (name, value) in [
            ("name", json!("Shop")),
            ("lastModified", json!("2026-05-01T10:00:00Z")),
            ("thumbnailUrl", json!("https://s3.example/t.png")),
            ("version", json!("42")),
            ("role", json!("owner")),
            ("editorType", json!("figma")),
        ] {
            file.insert(name.to_owned(), value);
        }
        if asked.operation == "getFile" {
            let page = json!({"id": "0:1", "name": "Page 1", "type": "CANVAS", "children": children,
                "backgroundColor": {"r": 0.9, "g": 0.9, "b": 0.9, "a": 1.0}, "flowStartingPoints": []});
            let document =
                json!({"id": "0:0", "name": "Document", "type": "DOCUMENT", "children": [page]});
            file.insert("document".to_owned(), document);
            return (200, Some(Value::Object(file)));
        }
        let nodes: Map<String, Value> = asked
            .one("ids")
            .unwrap_or_default()
            .split(',')
            .filter_map(|id| {
                let mut node = beside();
                let document = match id {
                    "1:2" => card(),
                    "1:3" => text_node("1:3"),
                    _ => return None,
                };
                node.insert("document".to_owned(), document);
                Some((id.to_owned(), Value::Object(node)))
            })
            .collect();
        for name in ["components", "componentSets", "styles", "schemaVersion"] {
            file.remove(name);
        }
        file.insert("nodes".to_owned(), Value::Object(nodes));
        (200, Some(Value::Object(file)))
    }

    fn images(&self, asked: &Asked) -> Answer {
        let format = asked.one("format").unwrap_or("png");
        let ids = asked.one("ids").unwrap_or_default().split(',');
        let images: Map<String, Value> = ids
            .map(|id| {
                let url = (id != "9:9").then(|| {
                    format!(
                        "{}/pictures/{}.{format}",
                        self.pictures,
                        id.replace(':', "-")
                    )
                });
                (id.to_owned(), json!(url))
            })
            .collect();
        (200, Some(json!({"err": null, "images": images})))
    }

    fn comment(&mut self, asked: &Asked) -> Answer {
        let id = asked.path.get("comment_id").cloned().unwrap_or_default();
        let place = self
            .comments
            .iter()
            .position(|comment| comment["id"] == *id);
        match (asked.operation.as_str(), place) {
            ("getComments", _) => (200, Some(json!({"comments": self.comments}))),
            ("postComment", _) => {
                let parent = asked.body["comment_id"].as_str().unwrap_or_default();
                if !parent.is_empty()
                    && !self.comments.iter().any(|comment| comment["id"] == parent)
                {
                    return refused(404, "Comment not found");
                }
                let meta = match &asked.body["client_meta"] {
                    Value::Null => json!({"x": 0, "y": 0}),
                    given => given.clone(),
                };
                let made = json!({"id": (self.comments.len() + 1001).to_string(), "file_key": KEY,
                    "parent_id": parent, "user": user(), "created_at": "2026-05-01T10:00:00Z", "resolved_at": null,
                    "message": asked.body["message"], "order_id": "1", "reactions": [], "client_meta": meta});
                self.comments.push(made.clone());
                (200, Some(made))
            }
            (_, None) => refused(404, "Comment not found"),
            ("deleteComment", Some(place)) => {
                self.comments.remove(place);
                (
                    200,
                    Some(json!({"status": 200, "error": false, "i18n": null})),
                )
            }
            (operation, Some(place)) => {
                let reactions = self.comments[place]["reactions"]
                    .as_array_mut()
                    .expect("a list");
                match operation {
                    "getCommentReactions" => {
                        let page = json!({"reactions": reactions, "pagination": {}});
                        return (200, Some(page));
                    }
                    "postCommentReaction" => reactions
                        .push(json!({"user": user(), "emoji": asked.body["emoji"],
                        "created_at": "2026-05-01T10:00:00Z"})),
                    _ => reactions
                        .retain(|reaction| reaction["emoji"].as_str() != asked.one("emoji")),
                }
                (200, Some(json!({"status": 200, "error": false})))
            }
        }
    }

    fn library(&self, asked: &Asked) -> Answer {
        let (kind, list) = match asked.operation.to_lowercase() {
            name if name.contains("componentset") => ("component_set", "component_sets"),
            name if name.contains("component") => ("component", "components"),
            _ => ("style", "styles"),
        };
        if let Some(key) = asked.path.get("key") {
            return match key
                .strip_prefix(kind)
                .and_then(|number| number.parse().ok())
            {
                Some(number) => good(published(kind, number)),
                None => refused(404, "Not found"),
            };
        }
        if asked.path.contains_key("file_key") {
            return good(json!({list: [published(kind, 1)]}));
        }
        let number = |name: &str, usual: usize| {
            asked
                .one(name)
                .map_or(usual, |text| text.parse().expect("judged"))
        };
        let (size, after) = (number("page_size", 30), number("after", 0));
        let page: Vec<Value> = (after + 1..=3)
            .take(size)
            .map(|number| published(kind, number))
            .collect();
        let last = after + page.len();
        good(json!({list: page, "cursor": {"before": after, "after": last}}))
    }

    fn variables(&self, asked: &Asked) -> Answer {
        let variable = |number: u32| {
            let mut made = json!({"id": format!("VariableID:1:{number}"), "name": format!("colour/{number:04}"),
                "key": "k", "variableCollectionId": "C1"});
            if asked.operation == "getLocalVariables" {
                for (name, value) in [
                    ("resolvedType", json!("COLOR")),
                    (
                        "valuesByMode",
                        json!({"1:0": {"r": 1.0, "g": 0.0, "b": 0.0, "a": 1.0},
                        "1:1": {"type": "VARIABLE_ALIAS", "id": "VariableID:1:1"}}),
                    ),
                    ("remote", json!(false)),
                    ("description", json!("")),
                    ("hiddenFromPublishing", json!(false)),
                    ("scopes", json!(["ALL_FILLS"])),
                    ("codeSyntax", json!({})),
                ] {
                    made[name] = value;
                }
            } else {
                made["subscribed_id"] = json!("s");
                made["resolvedDataType"] = json!("COLOR");
                made["updatedAt"] = json!("2026-05-01T10:00:00Z");
            }
            made
        };
        let count = if asked.operation == "getLocalVariables" {
            600
        } else {
            1
        };
        let variables: Map<String, Value> = (1..=count)
            .map(|number| (format!("VariableID:1:{number}"), variable(number)))
            .collect();
        let collection = if asked.operation == "getLocalVariables" {
            json!({"id": "C1", "name": "Palette", "key": "k", "defaultModeId": "1:0", "remote": false,
                "modes": [{"modeId": "1:0", "name": "Light"}, {"modeId": "1:1", "name": "Dark"}],
                "hiddenFromPublishing": false, "variableIds": []})
        } else {
            json!({"id": "C1", "subscribed_id": "s", "name": "Palette", "key": "k",
                "updatedAt": "2026-05-01T10:00:00Z"})
        };
        good(json!({"variables": variables, "variableCollections": {"C1": collection}}))
    }

    fn dev(&mut self, asked: &Asked) -> Answer {
        let new = asked.body["dev_resources"][0].clone();
        match asked.operation.as_str() {
            "getDevResources" => {
                let only: Option<Vec<&str>> =
                    asked.one("node_ids").map(|ids| ids.split(',').collect());
                let shown: Vec<&Value> = self
                    .dev_resources
                    .iter()
                    .filter(|one| {
                        only.as_ref()
                            .is_none_or(|ids| ids.iter().any(|id| one["node_id"] == **id))
                    })
                    .collect();
                (200, Some(json!({"dev_resources": shown})))
            }
            "postDevResources"
                if self
                    .dev_resources
                    .iter()
                    .any(|one| one["url"] == new["url"]) =>
            {
                let error =
                    json!({"file_key": KEY, "node_id": new["node_id"], "error": "Duplicate url"});
                (200, Some(json!({"links_created": [], "errors": [error]})))
            }
            "postDevResources" => {
                let mut made = new;
                made["id"] = json!(format!("dev{}", self.dev_resources.len()));
                self.dev_resources.push(made.clone());
                (200, Some(json!({"links_created": [made], "errors": []})))
            }
            "putDevResources" => {
                let Some(place) = self
                    .dev_resources
                    .iter()
                    .position(|one| one["id"] == new["id"])
                else {
                    let error = json!({"id": new["id"], "error": "Not found"});
                    return (
                        200,
                        Some(json!({"links_created": [], "links_updated": [], "errors": [error]})),
                    );
                };
                for (name, value) in new.as_object().expect("an object") {
                    self.dev_resources[place][name] = value.clone();
                }
                // The description demands links_created here, where the text beside it has links_updated alone.
                let updated = json!([self.dev_resources[place]]);
                (
                    200,
                    Some(json!({"links_updated": updated, "links_created": [], "errors": []})),
                )
            }
            _ => {
                let before = self.dev_resources.len();
                self.dev_resources
                    .retain(|one| one["id"] != asked.path["dev_resource_id"]);
                if self.dev_resources.len() == before {
                    return refused(404, "Not found");
                }
                (200, None)
            }
        }
    }
}

impl Api for FigmaApi {
    fn admit(&mut self, asked: &Asked, headers: &HeaderMap) -> Result<(), Answer> {
        let (name, value) = self.credential;
        if headers.get(name).is_none_or(|given| given != value) {
            return Err(refused(403, "Invalid token"));
        }
        let covered = |scope: &String| self.oauth_scopes.contains(&scope.as_str());
        if name == "authorization" && !asked.scopes.iter().any(covered) {
            return Err(refused(
                403,
                "Invalid scope(s): this endpoint requires another",
            ));
        }
        Ok(())
    }

    fn answer(&mut self, asked: &Asked) -> Answer {
        if asked.path.get("file_key").is_some_and(|key| key != KEY) {
            return refused(404, "Not found");
        }
        match asked.operation.as_str() {
            "getMe" => {
                let mut me = user();
                me["email"] = json!("ann@example.com");
                (200, Some(me))
            }
            "getFile" | "getFileNodes" => self.file(asked),
            "getFileMeta" => {
                let file = json!({"name": "Shop", "folder_name": "Web", "last_touched_at": "2026-05-01T10:00:00Z",
                    "creator": user(), "editorType": "figma", "role": "owner", "url": "https://figma.com/x"});
                (200, Some(json!({"file": file})))
            }
            "getImages" => self.images(asked),
            "getImageFills" => {
                good(json!({"images": {"abc123": format!("{}/pictures/fill.jpg", self.pictures)}}))
            }
            "getFileVersions" => {
                let before = asked.one("before").map_or(4, |id| id.parse().unwrap_or(0));
                let size = asked
                    .one("page_size")
                    .map_or(30, |size| size.parse().expect("judged"));
                let page: Vec<Value> = (1..before)
                    .rev()
                    .take(size)
                    .map(|id: u32| json!({"id": id.to_string(), "created_at": "2026-05-01T10:00:00Z", "label": null,
                        "description": null, "user": user(), "thumbnail_url": ""}))
                    .collect();
                (200, Some(json!({"versions": page, "pagination": {}})))
            }
            "getTeamProjects" => (
                200,
                Some(json!({"name": "Team", "projects": [{"id": "11", "name": "Web"}]})),
            ),
            "getProjectFiles" => {
                let file =
                    json!({"key": KEY, "name": "Shop", "last_modified": "2026-05-01T10:00:00Z"});
                (200, Some(json!({"name": "Web", "files": [file]})))
            }
            name if name.contains("Variables") => self.variables(asked),
            name if name.contains("DevResource") => self.dev(asked),
            name if name.contains("Comment") => self.comment(asked),
            _ => self.library(asked),
        }
    }

    fn refusal(&self, status: u16, message: &str) -> Value {
        refusal(status, message)
    }
}
