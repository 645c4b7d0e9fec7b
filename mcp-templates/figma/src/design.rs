//! Tools that read designs.

use std::collections::{BTreeMap, BTreeSet};

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
    file::{self, File},
    server::{SERVICE, file_path, node_id},
    style_table,
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
    /// The node to show, such as 1234:5678; several with commas between them; absent: the whole file.
    #[serde(rename = "nodeId")]
    node_id: Option<String>,
    /// How many levels of children to show, 1 to 20; absent: all.
    depth: Option<u32>,
}

/// A design.
#[derive(Serialize, JsonSchema)]
struct Design {
    /// The file's name.
    name: Option<String>,
    #[serde(rename = "lastModified")]
    last_modified: Option<String>,
    version: Option<String>,
    /// The tree: id, name, type, text, box, layout, fills, strokes, effects, component and children of each visible node.
    nodes: Vec<Map<String, Value>>,
    /// What many nodes share; they name it instead of repeating it.
    shared: Map<String, Value>,
    /// Names of the components in use, by componentId.
    components: BTreeMap<String, String>,
    /// Names of the styles in use, by their ids in styleIds.
    styles: BTreeMap<String, String>,
    /// Whether nodes were left out because there are too many.
    truncated: bool,
    /// Nodes whose children were left out (childrenLeftOut): ask again with one of these as nodeId.
    deeper: Vec<String>,
}

impl Design {
    fn new(mut file: File) -> Self {
        let shared = style_table::share(&mut file.nodes);
        let mut used = BTreeSet::new();
        for node in &file.nodes {
            names_in_use(node, &mut used);
        }
        let in_use = |names: BTreeMap<String, String>| {
            let used = &used;
            names
                .into_iter()
                .filter(|(id, _)| used.contains(id))
                .collect()
        };
        Self {
            name: file.name,
            last_modified: file.last_modified,
            version: file.version,
            shared,
            components: in_use(file.components),
            styles: in_use(file.styles),
            truncated: file.taken.truncated,
            deeper: file.taken.deeper,
            nodes: file.nodes,
        }
    }
}

/// The ids of components and styles that the tree names.
fn names_in_use(node: &Map<String, Value>, used: &mut BTreeSet<String>) {
    used.extend(
        node.get("componentId")
            .and_then(Value::as_str)
            .map(str::to_owned),
    );
    let styles = node.get("styleIds").and_then(Value::as_object);
    for id in styles
        .into_iter()
        .flat_map(Map::values)
        .filter_map(Value::as_str)
    {
        used.insert(id.to_owned());
    }
    let children = node.get("children").and_then(Value::as_array);
    for child in children.into_iter().flatten().filter_map(Value::as_object) {
        names_in_use(child, used);
    }
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
                       layout, colours, fonts and components. At most 2,000 nodes: of a large file read depth 1 or 2 \
                       first, then the nodes of interest.",
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
            Some(id) => Call::get(file_path(&args.file_key, "/nodes")?).query("ids", node_ids(id)?),
        };
        let file = self
            .send_streamed(call.query_opt("depth", args.depth), file::read)
            .await?;
        if file.nodes.is_empty() {
            return Err(
                "Figma found no such node, or it is hidden. Check nodeId: it is the node-id of the address."
                    .to_owned(),
            );
        }
        Ok(Json(Design::new(file)))
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

/// Several ids of nodes, as the API takes them.
fn node_ids(text: &str) -> Result<String, Error> {
    let ids: Vec<String> = text.split(',').map(node_id).collect::<Result<_, _>>()?;
    if ids.len() > 50 {
        return Err(Error::argument(SERVICE, "nodeId must hold at most 50 ids"));
    }
    Ok(ids.join(","))
}
