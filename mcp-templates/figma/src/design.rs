//! Tools that read designs.

use minimcp_rest::{Call, Error};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Figma,
    server::{SERVICE, file_path, node_id},
    tree::Simplifier,
};

/// The user of the token.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Me {
    id: String,
    /// The name shown.
    handle: String,
    email: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetData {
    /// The key of the file: in figma.com/design/KEY/… the part KEY.
    #[serde(rename = "fileKey")]
    file_key: String,
    /// The node to show, such as 1234:5678; absent: the whole file.
    #[serde(rename = "nodeId")]
    node_id: Option<String>,
    /// How many levels of children to show, 1 to 20; absent: all.
    depth: Option<u32>,
}

/// A design.
#[derive(Serialize, JsonSchema)]
struct Design {
    /// The file's name.
    name: String,
    #[serde(rename = "lastModified")]
    last_modified: Option<String>,
    version: Option<String>,
    /// The tree: id, name, type, text, box, layout, fills, strokes, effects and children of each visible node.
    nodes: Vec<Map<String, Value>>,
    /// Whether nodes were left out because there are too many: ask again with the nodeId of a part.
    truncated: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileAnswer {
    name: String,
    last_modified: Option<String>,
    version: Option<String>,
    document: Option<Value>,
    nodes: Option<std::collections::BTreeMap<String, Option<NodeAnswer>>>,
}

#[derive(Deserialize)]
struct NodeAnswer {
    document: Value,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListVersions {
    /// The key of the file: in figma.com/design/KEY/… the part KEY.
    #[serde(rename = "fileKey")]
    file_key: String,
    /// How many, 1 to 50; 30 when absent.
    #[serde(rename = "pageSize")]
    page_size: Option<u32>,
    /// Only versions before the one with this id: the last of the page before.
    before: Option<String>,
}

/// Versions, newest first.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Versions {
    versions: Vec<Version>,
}

/// A version of a file.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Version {
    id: String,
    created_at: String,
    /// Its name, if it has one.
    label: Option<String>,
    description: Option<String>,
    user: Option<Author>,
}

/// Who made it.
#[derive(Deserialize, Serialize, JsonSchema)]
pub(crate) struct Author {
    /// The name shown.
    handle: String,
}

#[tool_router(router = design_tools, vis = "pub(crate)")]
impl Figma {
    #[tool(
        description = "The user whose token this server uses.",
        annotations(
            title = "Get my user",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn get_me(&self) -> Result<Json<Me>, String> {
        Ok(Json(self.fetch(Call::get("/v1/me")).await?))
    }

    #[tool(
        description = "Reads a Figma file, or one node of it, as a tree simplified for language models: texts, sizes, \
                       layout, colours, fonts and components.",
        annotations(
            title = "Get design",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn get_figma_data(
        &self,
        Parameters(args): Parameters<GetData>,
    ) -> Result<Json<Design>, String> {
        if args.depth.is_some_and(|depth| !(1..=20).contains(&depth)) {
            return Err(Error::argument(SERVICE, "depth must be 1 to 20").into());
        }
        let call = match &args.node_id {
            None => Call::get(file_path(&args.file_key, "")?),
            Some(id) => Call::get(file_path(&args.file_key, "/nodes")?).query("ids", node_id(id)?),
        };
        let file: FileAnswer = self.fetch(call.query_opt("depth", args.depth)).await?;
        let documents: Vec<Value> = match (file.document, file.nodes) {
            (Some(document), _) => vec![document],
            (None, nodes) => nodes
                .unwrap_or_default()
                .into_values()
                .flatten()
                .map(|node| node.document)
                .collect(),
        };
        if documents.is_empty() {
            return Err(
                "Figma found no such node. Check nodeId: it is the node-id of the address."
                    .to_owned(),
            );
        }
        let mut simplifier = Simplifier::default();
        let nodes = documents
            .iter()
            .filter_map(|document| simplifier.simplify(document))
            .filter_map(|node| match node {
                Value::Object(node) => Some(node),
                _ => None,
            })
            .collect();
        Ok(Json(Design {
            name: file.name,
            last_modified: file.last_modified,
            version: file.version,
            nodes,
            truncated: simplifier.truncated,
        }))
    }

    #[tool(
        description = "Lists the versions of a Figma file, newest first.",
        annotations(
            title = "List versions",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn list_versions(
        &self,
        Parameters(args): Parameters<ListVersions>,
    ) -> Result<Json<Versions>, String> {
        if args.page_size.is_some_and(|size| !(1..=50).contains(&size)) {
            return Err(Error::argument(SERVICE, "pageSize must be 1 to 50").into());
        }
        let call = Call::get(file_path(&args.file_key, "/versions")?)
            .query_opt("page_size", args.page_size)
            .query_opt("before", args.before);
        Ok(Json(self.fetch(call).await?))
    }
}
