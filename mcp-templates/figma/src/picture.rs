//! Pictures: their formats, their addresses as resources, and how MCP carries them. Pure.

use base64::{Engine, engine::general_purpose::STANDARD};
use rmcp::{
    model::{ContentBlock, ResourceContents, ResourceTemplate},
    schemars::{self, JsonSchema},
};
use serde::Deserialize;

use crate::server::{checked_key, node_id};

/// An image format.
#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    Png,
    Jpg,
    Svg,
    Pdf,
}

/// A node as a picture.
#[derive(Debug, PartialEq)]
pub(crate) struct Rendering {
    pub(crate) file_key: String,
    pub(crate) node_id: String,
    pub(crate) format: Format,
}

/// A picture.
pub(crate) struct Picture {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mime_type: String,
}

/// The shape of the addresses of rendered nodes.
pub(crate) fn template() -> ResourceTemplate {
    ResourceTemplate::new(
        "figma://files/{fileKey}/nodes/{nodeId}.{format}",
        "rendered-node",
    )
    .with_title("Rendered node")
    .with_description("A node of a Figma file as png, jpg, svg or pdf.")
}

impl Format {
    /// The name that the API takes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpg => "jpg",
            Self::Svg => "svg",
            Self::Pdf => "pdf",
        }
    }

    /// The format that the name of a file ends in.
    pub(crate) fn of(file_name: &str) -> Option<Self> {
        let (_, ending) = file_name.rsplit_once('.')?;
        match ending.to_ascii_lowercase().as_str() {
            "png" => Some(Self::Png),
            "jpg" | "jpeg" => Some(Self::Jpg),
            "svg" => Some(Self::Svg),
            "pdf" => Some(Self::Pdf),
            _ => None,
        }
    }
}

impl Rendering {
    /// What `uri` names, if it is such an address.
    pub(crate) fn of(uri: &str) -> Option<Self> {
        let (file, node) = uri.strip_prefix("figma://files/")?.split_once("/nodes/")?;
        let (node, _) = node.rsplit_once('.')?;
        Some(Self {
            file_key: checked_key("fileKey", file).ok()?,
            node_id: node_id(node).ok()?,
            format: Format::of(uri)?,
        })
    }
}

impl Picture {
    /// A picture of these bytes, which tell its media type.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let mime_type = mime_type(&bytes).to_owned();
        Self { bytes, mime_type }
    }

    /// The picture as content of a tool's answer.
    pub(crate) fn content(&self) -> ContentBlock {
        if self.mime_type == "image/svg+xml" {
            return ContentBlock::text(String::from_utf8_lossy(&self.bytes));
        }
        let data = STANDARD.encode(&self.bytes);
        if self.mime_type.starts_with("image/") {
            ContentBlock::image(data, self.mime_type.clone())
        } else {
            let contents = ResourceContents::blob(data, "figma://downloaded");
            ContentBlock::resource(contents.with_mime_type(self.mime_type.clone()))
        }
    }

    /// The picture as MCP has it: svg as text, the rest in base64.
    pub(crate) fn into_resource(self, uri: &str) -> ResourceContents {
        let contents = if self.mime_type == "image/svg+xml" {
            ResourceContents::text(String::from_utf8_lossy(&self.bytes), uri)
        } else {
            ResourceContents::blob(STANDARD.encode(&self.bytes), uri)
        };
        contents.with_mime_type(self.mime_type)
    }
}

/// The media type by the first bytes: what the server of the pictures says is not to be relied on.
fn mime_type(bytes: &[u8]) -> &'static str {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(512)]);
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', ..] => "image/gif",
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => "image/webp",
        [b'%', b'P', b'D', b'F', ..] => "application/pdf",
        _ if text.contains("<svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_a_rendered_node_is_understood_and_nothing_else() {
        let rendering = Rendering::of("figma://files/KeY1/nodes/1-2.svg").expect("an address");
        assert_eq!(
            (rendering.node_id.as_str(), rendering.format),
            ("1:2", Format::Svg)
        );
        for bad in [
            "figma://files/KeY1/nodes/1:2.gif",
            "figma://files/../nodes/1:2.png",
            "figma://files/KeY1/nodes/.png",
            "figma://files/KeY1",
            "https://figma.com/",
        ] {
            assert_eq!(Rendering::of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_picture_is_known_by_its_first_bytes() {
        assert_eq!(mime_type(b"\x89PNG\r\n"), "image/png");
        assert_eq!(mime_type(b"\xff\xd8\xff\xe0"), "image/jpeg");
        assert_eq!(
            mime_type(b"<?xml version=\"1.0\"?><svg xmlns"),
            "image/svg+xml"
        );
        assert_eq!(mime_type(b"<html>"), "application/octet-stream");
        assert_eq!(mime_type(b""), "application/octet-stream");
    }
}
