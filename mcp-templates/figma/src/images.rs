//! Tools that render.

use std::collections::BTreeMap;

use minimcp_rest::{Call, Error};
use rmcp::{
    Json,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};

use crate::{
    Figma,
    server::{SERVICE, checked_key, node_id},
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetImages {
    /// The key of the file: in figma.com/design/KEY/… the part KEY.
    #[serde(rename = "fileKey")]
    file_key: String,
    /// The nodes to render, such as 1234:5678; 1 to 50.
    #[serde(rename = "nodeIds")]
    node_ids: Vec<String>,
    /// The format; png when absent.
    format: Option<Format>,
    /// The scale of png and jpg, 0.01 to 4; 1 when absent.
    scale: Option<f64>,
}

/// An image format.
#[derive(Deserialize, JsonSchema, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Format {
    Png,
    Jpg,
    Svg,
    Pdf,
}

/// Rendered nodes.
#[derive(Serialize, JsonSchema)]
struct Images {
    images: Vec<Image>,
}

/// A rendered node.
#[derive(Serialize, JsonSchema)]
struct Image {
    #[serde(rename = "nodeId")]
    node_id: String,
    /// Where the image lies for 30 days; absent: the node does not exist or has nothing to show.
    url: Option<String>,
}

#[derive(Deserialize)]
struct ImagesAnswer {
    err: Option<String>,
    images: BTreeMap<String, Option<String>>,
}

#[tool_router(router = image_tools, vis = "pub(crate)")]
impl Figma {
    #[tool(
        description = "Renders nodes of a Figma file as images and gives their addresses.",
        annotations(
            title = "Get images",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn get_figma_images(
        &self,
        Parameters(args): Parameters<GetImages>,
    ) -> Result<Json<Images>, String> {
        if !(1..=50).contains(&args.node_ids.len()) {
            return Err(Error::argument(SERVICE, "nodeIds must hold 1 to 50 ids").into());
        }
        if args
            .scale
            .is_some_and(|scale| !(0.01..=4.0).contains(&scale))
        {
            return Err(Error::argument(SERVICE, "scale must be 0.01 to 4").into());
        }
        let ids: Result<Vec<String>, Error> = args.node_ids.iter().map(|id| node_id(id)).collect();
        let format = match args.format.unwrap_or(Format::Png) {
            Format::Png => "png",
            Format::Jpg => "jpg",
            Format::Svg => "svg",
            Format::Pdf => "pdf",
        };
        let call = Call::get(format!("/v1/images/{}", checked_key(&args.file_key)?))
            .query("ids", ids?.join(","))
            .query("format", format)
            .query_opt("scale", args.scale);
        let answer: ImagesAnswer = self.fetch(call).await?;
        if let Some(error) = answer.err {
            let error: String = error
                .chars()
                .filter(|c| !c.is_control())
                .take(300)
                .collect();
            return Err(format!("Figma could not render: {error}"));
        }
        let images = answer
            .images
            .into_iter()
            .map(|(node_id, url)| Image { node_id, url })
            .collect();
        Ok(Json(Images { images }))
    }
}
