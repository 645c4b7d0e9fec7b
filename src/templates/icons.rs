//! The pictures of templates: an SVG or a PNG beside the manifest. They are shown in browsers, so one that could do
//! anything else is refused when the template is read.

use std::{fs, io::Read as _, path::Path, sync::Arc};

use super::shipped::SHIPPED;
use crate::domain::template::Template;

/// Largest icon in bytes.
pub const ICON_BYTES_MAX: usize = 64 << 10;

/// Largest width and height of a PNG in pixels.
const PIXELS_MAX: u32 = 1_024;

/// The icon of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Icon {
    /// `image/svg+xml` or `image/png`.
    pub media_type: &'static str,
    /// As SEP-973 writes it: `any`, or `48x48`.
    pub sizes: String,
    /// The file.
    pub bytes: Arc<[u8]>,
}

/// The icon that a template names; `folder` is where its manifest lies, `None`: inside this binary. Reads a file, so not
/// for an async thread.
///
/// # Errors
/// What is wrong with the icon, and what is allowed.
pub fn read_icon(template: &Template, folder: Option<&Path>) -> Result<Option<Icon>, String> {
    let Some(name) = &template.icon else {
        return Ok(None);
    };
    let bytes = match folder {
        Some(folder) => read_file(&folder.join(name))?,
        None => {
            let name = template.name.as_str();
            let own = SHIPPED.iter().find(|one| one.name == name);
            own.ok_or("is not inside this binary")?.icon.to_vec()
        }
    };
    let sizes = if name.ends_with(".png") {
        check_png(&bytes)?
    } else {
        check_svg(&bytes)?;
        "any".to_owned()
    };
    Ok(Some(Icon {
        media_type: if name.ends_with(".png") {
            "image/png"
        } else {
            "image/svg+xml"
        },
        sizes,
        bytes: bytes.into(),
    }))
}

fn read_file(file: &Path) -> Result<Vec<u8>, String> {
    let cannot =
        |error: std::io::Error| format!("{} cannot be read: {}", file.display(), error.kind());
    // A link could lead anywhere, a pipe could block.
    if !fs::symlink_metadata(file).map_err(cannot)?.is_file() {
        return Err(format!("{} is no regular file", file.display()));
    }
    let open = fs::File::open(file).map_err(cannot)?;
    let mut bytes = Vec::new();
    let most = u64::try_from(ICON_BYTES_MAX).unwrap_or(u64::MAX);
    open.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    if bytes.len() > ICON_BYTES_MAX {
        return Err(format!("must be a file of at most {ICON_BYTES_MAX} bytes"));
    }
    Ok(bytes)
}

/// Checks a PNG (its signature and its first chunk, ISO/IEC 15948) and gives its size.
fn check_png(bytes: &[u8]) -> Result<String, String> {
    const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR";
    let number = |at: usize| {
        let four = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_be_bytes(four))
    };
    let size = number(16)
        .zip(number(20))
        .filter(|_| bytes.starts_with(SIGNATURE));
    let Some((width, height)) = size else {
        return Err("is no PNG file".to_owned());
    };
    if !(1..=PIXELS_MAX).contains(&width) || !(1..=PIXELS_MAX).contains(&height) {
        return Err(format!("must be 1 to {PIXELS_MAX} pixels wide and high"));
    }
    Ok(format!("{width}x{height}"))
}

/// Refuses what an SVG can do beside being a picture: scripts, handlers, other documents, entities, addresses.
fn check_svg(bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is no SVG file: it is not UTF-8")?;
    let text = text.trim_start_matches('\u{feff}').trim();
    let lower = text.to_ascii_lowercase();
    let begins =
        lower.starts_with("<svg") || (lower.starts_with("<?xml") && lower.contains("<svg"));
    if !begins || !lower.ends_with("</svg>") {
        return Err("is no SVG file: it must begin with <svg and end with </svg>".to_owned());
    }
    for word in [
        "<script",
        "<foreignobject",
        "<iframe",
        "<embed",
        "<object",
        "<image",
        "<use",
        "<animate",
        "<set",
        "<a",
        "<link",
        "<style",
        "<!",
        "<?xml-",
        "javascript:",
        "data:",
        "@import",
        "http-equiv",
    ] {
        // Of `<a`, only the element itself.
        let mut places = lower.match_indices(word);
        let is_element = |at: usize| {
            let next = lower[at + word.len()..].chars().next();
            word != "<a" || next.is_none_or(|c| !c.is_ascii_alphanumeric())
        };
        if places.any(|(at, _)| is_element(at)) {
            return Err(format!("must be a plain picture, and it holds {word}"));
        }
    }
    for (name, value) in attributes(&lower) {
        let local = name.rsplit(':').next().unwrap_or(name);
        if local.starts_with("on") {
            return Err(format!(
                "must be a plain picture, and it has the handler {local}"
            ));
        }
        if matches!(local, "href" | "src") && !value.starts_with('#') {
            return Err(format!(
                "must be a plain picture, and it has {local} to something else"
            ));
        }
        let mut places = value.match_indices("url(");
        if places.any(|(at, _)| {
            !value[at + 4..]
                .trim_start_matches(['"', '\'', ' '])
                .starts_with('#')
        }) {
            return Err("must be a plain picture, and it has an address in url()".to_owned());
        }
        if value.contains('&') && local != "xmlns" {
            return Err(format!(
                "must be a plain picture, and its attribute {local} holds an entity"
            ));
        }
    }
    Ok(())
}

/// Every `name="value"`, wherever it stands.
fn attributes(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.match_indices('=').filter_map(|(at, _)| {
        let before = text[..at].trim_end();
        let ends = |c: char| c.is_whitespace() || matches!(c, '<' | '"' | '\'' | '/');
        let name = before.rsplit(ends).next().unwrap_or_default();
        let after = text[at + 1..].trim_start();
        let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''));
        let value = match quote {
            Some(quote) => after[1..].split(quote).next(),
            None => after.split(|c: char| c.is_whitespace() || c == '>').next(),
        };
        (!name.is_empty()).then(|| (name, value.unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn svg(inside: &str) -> String {
        format!("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 8 8\">{inside}</svg>")
    }

    #[test]
    fn plain_pictures_pass() {
        for inside in [
            "",
            "<path d='M0 0' fill=\"url(#a)\"/>",
            "<title>One &amp; only</title><rect width=\"8\"/>",
            "<linearGradient id=\"a\" href=\"#b\"/>",
        ] {
            assert_eq!(check_svg(svg(inside).as_bytes()), Ok(()), "{inside}");
        }
        for one in SHIPPED {
            assert_eq!(check_svg(one.icon), Ok(()), "{}", one.name);
            assert!(one.icon.len() < 4_096, "{}", one.name);
        }
    }

    #[test]
    fn every_shipped_template_has_one() {
        for one in SHIPPED {
            let names_it = one.manifest.contains("\nicon = \"icon.svg\"\n");
            assert!(names_it, "{}", one.name);
        }
    }

    #[test]
    fn what_can_do_more_is_refused() {
        for inside in [
            "<script>alert(1)</script>",
            "<SCRIPT href='#x'/>",
            "<g onload=\"x()\"/>",
            "<g ONCLICK = 'x()'/>",
            "<a xlink:href=\"https://example.com\"/>",
            "<a/>",
            "<image href=\"#x\"/>",
            "<use href=\"https://example.com/x.svg#y\"/>",
            "<foreignObject/>",
            "<style>@import url(https://example.com)</style>",
            "<rect fill=\"url(https://example.com)\"/>",
            "<rect fill=\"url( 'https://example.com')\"/>",
            "<rect href=\"javascript:x\"/>",
            "<rect href=\"&#106;avascript:x\"/>",
            "<animate attributeName=\"x\"/>",
            "<!DOCTYPE svg [<!ENTITY x 'y'>]>",
            "<!-- a comment -->",
            "<iframe/>",
            "<g\u{3000}onload\u{3000}=\u{3000}'x()'/>",
        ] {
            let refused = check_svg(svg(inside).as_bytes());
            assert!(refused.is_err(), "{inside}");
        }
        for text in ["", "<html></html>", "<svg>", "plain", "<svg></svg><p>"] {
            assert!(check_svg(text.as_bytes()).is_err(), "{text}");
        }
        assert!(check_svg(b"<svg \xff></svg>").is_err());
    }

    #[test]
    fn a_png_tells_its_size() {
        let png = |width: u32, height: u32| {
            let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
            bytes.extend(width.to_be_bytes());
            bytes.extend(height.to_be_bytes());
            bytes
        };
        assert_eq!(check_png(&png(48, 32)).as_deref(), Ok("48x32"));
        assert!(check_png(&png(0, 1)).is_err());
        assert!(check_png(&png(1_025, 1)).is_err());
        assert!(check_png(&png(1, 1)[..20]).is_err());
        assert!(check_png(b"GIF89a").is_err());
    }
}
