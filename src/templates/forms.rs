//! The forms that texts of a manifest have: the check, what is allowed in words, and a pattern for the JSON Schema.

use crate::domain::{
    egress::HostRule,
    id::{EnvName, TemplateName},
    package::PackageSource,
};

/// A form that texts have.
pub(super) struct Form {
    /// Accepts a text, else says what is allowed.
    pub(super) check: fn(&str) -> Result<(), String>,
    /// What is allowed.
    pub(super) allowed: &'static str,
    /// A regular expression (ECMA-262) that accepts what the check does, or a little more.
    pub(super) pattern: &'static str,
}

impl Form {
    /// The answer of a check: what is allowed, unless the text is `good`.
    pub(super) fn accepts_if(&self, good: bool) -> Result<(), String> {
        good.then_some(()).ok_or_else(|| self.allowed.to_owned())
    }
}

pub(super) const TEMPLATE_NAME: Form = Form {
    check: template_name,
    allowed: "1 to 40 of a-z, 0-9 and '-', not at either end",
    pattern: "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$",
};

pub(super) const ENV_NAME: Form = Form {
    check: env_name,
    allowed: "an environment variable: 1 to 128 of A-Z, a-z, 0-9 and '_', not starting with a digit",
    pattern: "^[A-Za-z_][A-Za-z0-9_]{0,127}$",
};

pub(super) const SETTING_NAME: Form = Form {
    check: setting_name,
    allowed: "1 to 64 of a-z, 0-9 and '_', starting with a letter",
    pattern: "^[a-z][a-z0-9_]{0,63}$",
};

pub(super) const PACKAGE: Form = Form {
    check: package_source,
    allowed: "npm:NAME@VERSION or pypi:NAME==VERSION, with one exact version",
    pattern: r"^(npm:(@[^\s/@]+/)?[^\s/@]+@[0-9]\S*|pypi:[^\s=]+==[0-9]\S*)$",
};

pub(super) const MODULE_FOLDER: Form = Form {
    check: module_folder,
    allowed: "names of folders of A-Z, a-z, 0-9, '.', '_', '@' and '-', separated by '/', none of which begins with '.'",
    pattern: r"^[A-Za-z0-9_@-][A-Za-z0-9._@-]*(/[A-Za-z0-9_@-][A-Za-z0-9._@-]*)*$",
};

pub(super) const HOST_RULE: Form = Form {
    check: host_rule,
    allowed: "hosts and a port, such as api.example.com:443, *.example.com:443 or [2001:db8::1]:443",
    pattern: r"^\S+:[0-9]{1,5}$",
};

pub(super) const WEB_ADDRESS: Form = Form {
    check: web_address,
    allowed: "a web address that starts with https:// or http://, at most 500 bytes",
    pattern: r"^https?://\S*$",
};

pub(super) const ICON_FILE: Form = Form {
    check: icon_file,
    allowed: "the name of an .svg or .png file in the template's folder, of a-z, 0-9, '.', '_' and '-'",
    pattern: r"^[a-z0-9][a-z0-9._-]{0,80}\.(svg|png)$",
};

pub(super) const HTTP_PATH: Form = Form {
    check: http_path,
    allowed: "a path that starts with '/', without '?' and '#', at most 200 bytes",
    pattern: r#"^/[!"$->@-~]{0,199}$"#,
};

fn template_name(text: &str) -> Result<(), String> {
    TemplateName::new(text).map(drop).map_err(|e| e.to_string())
}

fn env_name(text: &str) -> Result<(), String> {
    EnvName::new(text).map(drop).map_err(|e| e.to_string())
}

fn package_source(text: &str) -> Result<(), String> {
    let read = text.parse::<PackageSource>();
    read.map(drop).map_err(|error| error.to_string())
}

fn module_folder(text: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    let good = text.len() <= 500
        && text
            .split('/')
            .all(|name| !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain));
    MODULE_FOLDER.accepts_if(good)
}

fn host_rule(text: &str) -> Result<(), String> {
    text.parse::<HostRule>()
        .map(drop)
        .map_err(|e| e.to_string())
}

fn setting_name(text: &str) -> Result<(), String> {
    let good = (1..=64).contains(&text.len())
        && text.as_bytes()[0].is_ascii_lowercase()
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    SETTING_NAME.accepts_if(good)
}

fn web_address(text: &str) -> Result<(), String> {
    let good = text.len() <= 500
        && (text.starts_with("https://") || text.starts_with("http://"))
        && !text.chars().any(|c| c.is_control() || c.is_whitespace());
    WEB_ADDRESS.accepts_if(good)
}

fn icon_file(text: &str) -> Result<(), String> {
    let good = text.len() <= 84
        && text.len() > 4
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
        && (text.ends_with(".svg") || text.ends_with(".png"));
    ICON_FILE.accepts_if(good)
}

fn http_path(text: &str) -> Result<(), String> {
    let good = text.len() <= 200
        && text.starts_with('/')
        && text.bytes().all(|b| b.is_ascii_graphic())
        && !text.contains(['?', '#']);
    HTTP_PATH.accepts_if(good)
}
