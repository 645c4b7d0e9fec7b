//! Tools for dev resources: the links from nodes to code, tickets and documents.

use minimcp_rest::{Call, Error, Method, path_segment};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    Figma,
    server::{SERVICE, checked_key, file_path, node_id},
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListResources {
    /// The key of the file: in figma.com/design/KEY/… the part KEY.
    #[serde(rename = "fileKey")]
    file_key: String,
    /// Only those of these nodes, such as 1234:5678; at most 50.
    #[serde(rename = "nodeIds", default)]
    node_ids: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateResource {
    /// The key of the file: in figma.com/design/KEY/… the part KEY.
    #[serde(rename = "fileKey")]
    file_key: String,
    /// The node, such as 1234:5678.
    #[serde(rename = "nodeId")]
    node_id: String,
    /// What is shown.
    name: String,
    /// Where it leads: http or https.
    url: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UpdateResource {
    /// The id of the dev resource, as list_dev_resources gives it.
    id: String,
    /// What is shown from now on.
    name: Option<String>,
    /// Where it leads from now on: http or https.
    url: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeleteResource {
    /// The key of the file: in figma.com/design/KEY/… the part KEY.
    #[serde(rename = "fileKey")]
    file_key: String,
    /// The id of the dev resource, as list_dev_resources gives it.
    id: String,
}

/// Dev resources.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Resources {
    dev_resources: Vec<DevResource>,
}

/// A dev resource.
#[derive(Deserialize, Serialize, JsonSchema)]
struct DevResource {
    id: String,
    name: String,
    url: String,
    file_key: String,
    node_id: String,
}

/// Figma answers 200 with what it could not do in a list of its own.
#[derive(Deserialize)]
struct Changed {
    #[serde(default)]
    links_created: Vec<DevResource>,
    #[serde(default)]
    links_updated: Vec<DevResource>,
    #[serde(default)]
    errors: Vec<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    error: String,
}

impl Changed {
    fn into_one(self) -> Result<DevResource, String> {
        if let Some(made) = self
            .links_created
            .into_iter()
            .chain(self.links_updated)
            .next()
        {
            return Ok(made);
        }
        let why = self.errors.into_iter().next().map(|fault| fault.error);
        let why: String = why
            .unwrap_or_default()
            .chars()
            .filter(|c| !c.is_control())
            .take(300)
            .collect();
        Err(format!(
            "Figma did not do it. It said: {why}. Correct the arguments before you try again."
        ))
    }
}

fn checked_name(name: &str) -> Result<&str, Error> {
    let name = name.trim();
    if (1..=500).contains(&name.len()) {
        Ok(name)
    } else {
        Err(Error::argument(SERVICE, "name must be 1 to 500 bytes"))
    }
}

fn checked_url(url: &str) -> Result<&str, Error> {
    let good = (url.starts_with("https://") || url.starts_with("http://"))
        && url.len() <= 2_000
        && !url.chars().any(|c| c.is_control() || c == ' ');
    if good {
        Ok(url)
    } else {
        Err(Error::argument(
            SERVICE,
            "url must be an http or https address of at most 2000 bytes",
        ))
    }
}

#[tool_router(router = dev_resource_tools, vis = "pub(crate)")]
impl Figma {
    #[tool(
        description = "Lists the dev resources of a Figma file: links from nodes to code, tickets and documents.",
        annotations(
            title = "List dev resources",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn list_dev_resources(
        &self,
        Parameters(args): Parameters<ListResources>,
    ) -> Result<Json<Resources>, String> {
        if args.node_ids.len() > 50 {
            return Err(Error::argument(SERVICE, "nodeIds must hold at most 50 ids").into());
        }
        let ids: Vec<String> = args
            .node_ids
            .iter()
            .map(|id| node_id(id))
            .collect::<Result<_, Error>>()?;
        let ids = (!ids.is_empty()).then(|| ids.join(","));
        let call =
            Call::get(file_path(&args.file_key, "/dev_resources")?).query_opt("node_ids", ids);
        Ok(Json(self.fetch(call).await?))
    }

    #[tool(
        description = "Adds a dev resource to a node: a link to code, a ticket or a document.",
        annotations(
            title = "Create dev resource",
            read_only_hint = false,
            destructive_hint = false,
            idempotent_hint = false,
            open_world_hint = true
        )
    )]
    async fn create_dev_resource(
        &self,
        Parameters(args): Parameters<CreateResource>,
    ) -> Result<Json<DevResource>, String> {
        let resource = json!({
            "name": checked_name(&args.name)?,
            "url": checked_url(&args.url)?,
            "file_key": checked_key("fileKey", &args.file_key)?,
            "node_id": node_id(&args.node_id)?,
        });
        let call = Call::new(Method::POST, "/v1/dev_resources")
            .json(&json!({"dev_resources": [resource]}));
        let changed: Changed = self.fetch(call).await?;
        Ok(Json(changed.into_one()?))
    }

    #[tool(
        description = "Changes the name or the address of a dev resource.",
        annotations(
            title = "Update dev resource",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn update_dev_resource(
        &self,
        Parameters(args): Parameters<UpdateResource>,
    ) -> Result<Json<DevResource>, String> {
        let mut resource = json!({"id": checked_key("id", &args.id)?});
        if let Some(name) = &args.name {
            resource["name"] = json!(checked_name(name)?);
        }
        if let Some(url) = &args.url {
            resource["url"] = json!(checked_url(url)?);
        }
        if args.name.is_none() && args.url.is_none() {
            return Err(Error::argument(SERVICE, "give name or url").into());
        }
        let call =
            Call::new(Method::PUT, "/v1/dev_resources").json(&json!({"dev_resources": [resource]}));
        let changed: Changed = self.fetch(call).await?;
        Ok(Json(changed.into_one()?))
    }

    #[tool(
        description = "Deletes a dev resource from a Figma file.",
        annotations(
            title = "Delete dev resource",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn delete_dev_resource(
        &self,
        Parameters(args): Parameters<DeleteResource>,
    ) -> Result<String, String> {
        let id = path_segment(&checked_key("id", &args.id)?);
        let call = Call::new(
            Method::DELETE,
            file_path(&args.file_key, &format!("/dev_resources/{id}"))?,
        );
        self.send(call).await?;
        Ok(format!("deleted the dev resource {}", args.id))
    }
}
