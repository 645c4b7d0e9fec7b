//! Tools that render nodes and hand out pictures: as addresses, as content, as resources or as files.

use std::collections::BTreeMap;

use minimcp_rest::{Call, Error, Trouble, step};
use rmcp::{
    Json,
    handler::server::{tool::schema_for_output, wrapper::Parameters},
    model::CallToolResult,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};

use crate::{
    Figma,
    folder::Folder,
    picture::{Format, Picture, Rendering},
    server::{SERVICE, checked_key, file_path, node_id},
};

/// The largest picture, in bytes.
const IMAGE_BYTES_MAX: usize = 10 << 20;
/// The most that one answer holds of pictures; in base64 it still fits the lines of MCP over stdio. In bytes.
const ANSWER_BYTES_MAX: usize = 10 << 20;

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

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Download {
    /// The key of the file: in figma.com/design/KEY/… the part KEY.
    #[serde(rename = "fileKey")]
    file_key: String,
    /// What to download, 1 to 20.
    nodes: Vec<Wanted>,
    /// The scale of rendered png and jpg, 0.01 to 4; 2 when absent.
    #[serde(rename = "pngScale")]
    png_scale: Option<f64>,
    /// A folder within the server's own folder, such as images/icons, to write files into; absent: the pictures come
    /// with the answer.
    #[serde(rename = "localPath")]
    local_path: Option<String>,
}

/// A picture that is wanted: a rendered node, or an image that is placed in the design.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// The node to render, such as 1234:5678; either this or imageRef.
    #[serde(rename = "nodeId")]
    node_id: Option<String>,
    /// The placed image: in get_figma_data the part after image: of a fill.
    #[serde(rename = "imageRef")]
    image_ref: Option<String>,
    /// The name, ending in .png, .jpg, .svg or .pdf for a node, which says what it is rendered as.
    #[serde(rename = "fileName")]
    file_name: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetFills {
    /// The key of the file: in figma.com/design/KEY/… the part KEY.
    #[serde(rename = "fileKey")]
    file_key: String,
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

/// Images placed in a file: their addresses, good for 14 days, by imageRef.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Fills {
    images: BTreeMap<String, String>,
}

/// What was downloaded.
#[derive(Serialize, JsonSchema)]
struct Downloaded {
    files: Vec<DownloadedFile>,
}

/// A downloaded picture.
#[derive(Serialize, JsonSchema)]
struct DownloadedFile {
    #[serde(rename = "fileName")]
    file_name: String,
    #[serde(rename = "mimeType")]
    mime_type: String,
    /// Size in bytes.
    size: usize,
    /// Where it was written, seen from the server's own folder.
    path: Option<String>,
}

#[derive(Deserialize)]
struct ImagesAnswer {
    err: Option<String>,
    images: BTreeMap<String, Option<String>>,
}

fn checked_scale(scale: Option<f64>) -> Result<Option<f64>, Error> {
    if scale.is_some_and(|scale| !(0.01..=4.0).contains(&scale)) {
        return Err(Error::argument(SERVICE, "scale must be 0.01 to 4"));
    }
    Ok(scale)
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
        let scale = checked_scale(args.scale)?;
        let ids: Result<Vec<String>, Error> = args.node_ids.iter().map(|id| node_id(id)).collect();
        let format = args.format.unwrap_or(Format::Png);
        let images = self.render(&args.file_key, &ids?, format, scale).await?;
        let images = images
            .into_iter()
            .map(|(node_id, url)| Image { node_id, url })
            .collect();
        Ok(Json(Images { images }))
    }

    #[tool(
        description = "Gives the addresses of the images that are placed in a Figma file, by their imageRef.",
        annotations(
            title = "Get placed images",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn get_image_fills(
        &self,
        Parameters(args): Parameters<GetFills>,
    ) -> Result<Json<Fills>, String> {
        Ok(Json(self.fills(&args.file_key).await?))
    }

    #[tool(
        description = "Downloads pictures of a Figma file: rendered nodes, and images placed in it. They come with the \
                       answer, or are written as files into the server's own folder.",
        output_schema = schema_for_output::<Downloaded>(),
        annotations(
            title = "Download images",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn download_figma_images(
        &self,
        Parameters(args): Parameters<Download>,
    ) -> Result<CallToolResult, String> {
        let plan = Plan::new(&args)?;
        let folder = args
            .local_path
            .as_deref()
            .map(Folder::within_own)
            .transpose();
        let folder = folder.map_err(|message| Error::argument(SERVICE, message))?;
        let addresses = self.addresses(&args.file_key, &plan).await?;
        let total = u32::try_from(args.nodes.len()).unwrap_or(u32::MAX);
        let (mut files, mut content, mut bytes_in_all) = (Vec::new(), Vec::new(), 0);
        for (done, (wanted, address)) in (0..).zip(args.nodes.iter().zip(addresses)) {
            step(done, total, format!("downloading {}", wanted.file_name));
            let picture = self.picture(&address).await?;
            let mut file = DownloadedFile {
                file_name: wanted.file_name.clone(),
                mime_type: picture.mime_type.clone(),
                size: picture.bytes.len(),
                path: None,
            };
            if let Some(folder) = &folder {
                file.path = Some(folder.write(&wanted.file_name, &picture.bytes)?);
            } else {
                bytes_in_all += picture.bytes.len();
                if bytes_in_all > ANSWER_BYTES_MAX {
                    let mut error = Error::new(SERVICE, Trouble::TooLarge(ANSWER_BYTES_MAX));
                    error.advice = Some(
                        "Ask for fewer pictures, a smaller pngScale, or give localPath.".to_owned(),
                    );
                    return Err(error.into());
                }
                content.push(picture.content());
            }
            files.push(file);
        }
        let value =
            serde_json::to_value(Downloaded { files }).map_err(|error| error.to_string())?;
        let mut result = CallToolResult::structured(value);
        result.content.extend(content);
        Ok(result)
    }
}

/// What to ask Figma for, so that each wanted picture has its address.
struct Plan {
    /// Nodes by format: one request each.
    nodes: BTreeMap<Format, Vec<String>>,
    /// Of each wanted picture: the node with its format, or the placed image.
    wanted: Vec<Result<(Format, String), String>>,
    scale: f64,
}

impl Plan {
    fn new(args: &Download) -> Result<Self, Error> {
        let refuse = |message: &str| Err(Error::argument(SERVICE, message));
        if !(1..=20).contains(&args.nodes.len()) {
            return refuse("nodes must hold 1 to 20 pictures");
        }
        let mut plan = Self {
            nodes: BTreeMap::new(),
            wanted: Vec::new(),
            scale: checked_scale(args.png_scale)?.unwrap_or(2.0),
        };
        for wanted in &args.nodes {
            Folder::check_name(&wanted.file_name)
                .map_err(|message| Error::argument(SERVICE, message))?;
            match (&wanted.node_id, &wanted.image_ref) {
                (Some(id), None) => {
                    let Some(format) = Format::of(&wanted.file_name) else {
                        return refuse("fileName of a node must end in .png, .jpg, .svg or .pdf");
                    };
                    let id = node_id(id)?;
                    plan.nodes.entry(format).or_default().push(id.clone());
                    plan.wanted.push(Ok((format, id)));
                }
                (None, Some(image)) => plan.wanted.push(Err(checked_key("imageRef", image)?)),
                _ => return refuse("give nodeId or imageRef for each picture"),
            }
        }
        Ok(plan)
    }
}

impl Figma {
    /// Renders nodes; the answer has an address for each that can be rendered.
    async fn render(
        &self,
        file_key: &str,
        ids: &[String],
        format: Format,
        scale: Option<f64>,
    ) -> Result<BTreeMap<String, Option<String>>, Error> {
        let call = Call::get(format!("/v1/images/{}", checked_key("fileKey", file_key)?))
            .query("ids", ids.join(","))
            .query("format", format.name())
            .query_opt("scale", scale);
        let answer: ImagesAnswer = self.fetch(call).await?;
        match answer.err {
            None => Ok(answer.images),
            Some(why) => {
                let mut error = Error::new(SERVICE, Trouble::Refused);
                error.failure.said =
                    Some(why.chars().filter(|c| !c.is_control()).take(300).collect());
                error.advice = Some(
                    "Figma could not render this: ask for fewer nodes or a smaller scale."
                        .to_owned(),
                );
                Err(error)
            }
        }
    }

    async fn fills(&self, file_key: &str) -> Result<Fills, Error> {
        self.meta(Call::get(file_path(file_key, "/images")?)).await
    }

    /// The address of each picture of the plan.
    async fn addresses(&self, file_key: &str, plan: &Plan) -> Result<Vec<String>, Error> {
        let mut rendered = BTreeMap::new();
        for (format, ids) in &plan.nodes {
            let scale = matches!(format, Format::Png | Format::Jpg).then_some(plan.scale);
            let images = self.render(file_key, ids, *format, scale).await?;
            rendered.extend(images.into_iter().map(|(id, url)| ((*format, id), url)));
        }
        let fills = match plan.wanted.iter().any(Result::is_err) {
            true => self.fills(file_key).await?.images,
            false => BTreeMap::new(),
        };
        plan.wanted
            .iter()
            .map(|wanted| match wanted {
                Ok(key) => rendered.get(key).cloned().flatten().ok_or_else(|| {
                    let message =
                        format!("The node {} does not exist or has nothing to show", key.1);
                    Error::argument(SERVICE, message)
                }),
                Err(image) => fills.get(image).cloned().ok_or_else(|| {
                    let message =
                        format!("The file has no placed image {image}: get_image_fills lists them");
                    Error::argument(SERVICE, message)
                }),
            })
            .collect()
    }

    async fn picture(&self, address: &str) -> Result<Picture, Error> {
        let bytes = self.client()?.download(address, IMAGE_BYTES_MAX).await?;
        Ok(Picture::new(bytes))
    }

    /// A node as a picture, for a resource.
    pub(crate) async fn rendered(&self, rendering: &Rendering) -> Result<Picture, Error> {
        let ids = [rendering.node_id.clone()];
        let images = self
            .render(&rendering.file_key, &ids, rendering.format, None)
            .await?;
        match images.into_values().next().flatten() {
            Some(address) => self.picture(&address).await,
            None => {
                let message = "The node does not exist or has nothing to show";
                Err(Error::argument(SERVICE, message))
            }
        }
    }
}
