//! Servers elsewhere: the URL and the headers of a manifest, with the values of settings and credentials in them. Pure.

use std::{collections::BTreeMap, fmt::Write};

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    ResolveError,
    launch::{host_of, plain},
    parameters,
};
use crate::domain::{
    egress::HostRule,
    instance::InstanceSpec,
    template::{SettingSpec, SettingType, Template},
};

/// Where a server elsewhere is, and what it is asked with.
pub struct RemoteAddress {
    /// `http` or `https`, a host, a path. May hold a secret.
    pub url: Uri,
    /// Values that hold a secret are marked as sensitive.
    pub headers: HeaderMap,
    /// The host and port of the URL.
    pub host: HostRule,
    /// The credentials in use, such as `the credential work (NOTION_TOKEN)`; empty: none.
    pub credentials: String,
}

/// A part of an URL or of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// As it is.
    Text(&'a str),
    /// The value of a setting.
    Setting(&'a str),
    /// The value of a credential.
    Credential(&'a str),
}

/// The parts of `text`.
///
/// # Errors
/// What is in braces and no placeholder.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        let inside = after.split_once('}');
        let (name, after) = inside.ok_or("has a '{' without its '}'")?;
        pieces.push(match name.split_once('.') {
            Some(("setting", name)) => Piece::Setting(name),
            Some(("credential", name)) => Piece::Credential(name),
            _ => {
                let name: String = name.chars().take(80).collect();
                return Err(format!(
                    "{{{name}}} is no placeholder; those here are {{setting.NAME}} and {{credential.NAME}}"
                ));
            }
        });
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

/// The header `name`, if it is one that a template may set.
pub(super) fn header_name(name: &str) -> Result<HeaderName, String> {
    /// Those of the connection and of MCP itself.
    const OURS: [&str; 16] = [
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "last-event-id",
        "origin",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let header: HeaderName = name
        .parse()
        .map_err(|_| "is not the name of an HTTP header".to_owned())?;
    let text = header.as_str();
    if OURS.contains(&text) || text.starts_with("mcp-") {
        return Err(
            "is a header of the connection or of MCP, which minimcp sets itself".to_owned(),
        );
    }
    Ok(header)
}

/// The value of a setting as text, its default where none is given.
fn value_of<'a>(spec: &'a SettingSpec, settings: &'a BTreeMap<String, Value>) -> Option<String> {
    let value = settings.get(&spec.name).or(spec.default.as_ref());
    value.map(plain)
}

/// What is not unreserved (RFC 3986, 2.3) becomes `%XX`, so that a value stays within its part of the URL.
fn percent(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// The URL with the names of credentials in the place of their values; for people.
#[must_use]
pub fn shown_url(template: &Template, settings: &BTreeMap<String, Value>) -> Option<String> {
    let text = template.server.url.as_deref()?;
    let secret = |name: &str| Some(format!("{{credential.{name}}}"));
    let url = url_text(template, text, settings, |name, out| {
        out.push_str(&secret(name)?);
        Some(())
    });
    url.ok().map(|url| url.to_string())
}

/// The host of a server elsewhere, or what is wrong with its URL; needs no secret.
pub(super) fn host(
    template: &Template,
    settings: &BTreeMap<String, Value>,
) -> Option<Result<HostRule, String>> {
    let text = template.server.url.as_deref()?;
    let url = url_text(template, text, settings, |_, out| {
        out.push('x');
        Some(())
    });
    Some(url.and_then(|url| parsed(&url)).map(|(_, host)| host))
}

fn url_text(
    template: &Template,
    text: &str,
    settings: &BTreeMap<String, Value>,
    mut credential: impl FnMut(&str, &mut String) -> Option<()>,
) -> Result<Zeroizing<String>, String> {
    let mut url = Zeroizing::new(String::with_capacity(text.len() + 512));
    for (index, piece) in pieces(text)?.into_iter().enumerate() {
        match piece {
            Piece::Text(text) => url.push_str(text),
            Piece::Setting(name) => {
                let spec = template.settings.iter().find(|spec| spec.name == name);
                let value = spec.and_then(|spec| value_of(spec, settings));
                let value = value.ok_or_else(|| format!("needs the setting {name}"))?;
                match index {
                    // The server itself, which the operator's ceiling and the dialer judge.
                    0 => url.push_str(value.trim_end_matches('/')),
                    _ => percent(&value, &mut url),
                }
            }
            Piece::Credential(name) => {
                credential(name, &mut url).ok_or_else(|| format!("needs the credential {name}"))?;
            }
        }
    }
    Ok(url)
}

/// The URL as it is asked, and its host; what is wrong never repeats it, because it may hold a secret.
fn parsed(url: &str) -> Result<(Uri, HostRule), String> {
    let uri: Uri = url.parse().map_err(|_| "is no web address".to_owned())?;
    let scheme = uri.scheme_str().unwrap_or_default();
    if !matches!(scheme, "http" | "https") {
        return Err("must begin with https://, or http:// for a private address".to_owned());
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        return Err("must not hold a user or a password: they belong into a credential".to_owned());
    }
    let host = host_of(&format!("{scheme}://{authority}"))?;
    Ok((uri, host))
}

/// Where the server is, and what it is asked with. `secrets`: the values of credentials by variable.
///
/// # Errors
/// [`ResolveError`] when a stored setting does not fit the template, or a value cannot stand where it belongs.
pub fn resolve(
    template: &Template,
    spec: &InstanceSpec,
    secrets: &[(String, Zeroizing<String>)],
) -> Result<RemoteAddress, ResolveError> {
    let unfit = |name: &str, message: String| ResolveError::Setting {
        template: template.name.to_string(),
        name: name.to_owned(),
        message,
    };
    for setting in &template.settings {
        match spec
            .settings
            .get(&setting.name)
            .or(setting.default.as_ref())
        {
            // The template may have changed since the instance was made, so its values are checked each time.
            Some(value) => parameters::check_value(setting, value)
                .map_err(|fault| unfit(&setting.name, fault.message))?,
            None if setting.required => return Err(unfit(&setting.name, "it is missing".into())),
            None => {}
        }
    }
    let elsewhere = |message: String| ResolveError::Remote(message);
    let secret = |name: &str| {
        let found = secrets.iter().find(|(variable, _)| variable == name);
        found.map(|(_, value)| value)
    };
    let text = template.server.url.as_deref();
    let text = text.ok_or_else(|| elsewhere("the template names no URL".into()))?;
    let url = url_text(template, text, &spec.settings, |name, out| {
        percent(secret(name)?, out);
        Some(())
    });
    let url = url.map_err(|why| elsewhere(format!("its URL {why}")))?;
    let (url, host) = parsed(&url).map_err(|why| elsewhere(format!("its URL {why}")))?;
    let mut headers = HeaderMap::new();
    for (name, text) in &template.server.headers {
        let wrong = |why: String| elsewhere(format!("its header {name} {why}"));
        let header = header_name(name).map_err(wrong)?;
        let mut value = Zeroizing::new(String::with_capacity(text.len() + 512));
        let mut is_secret = false;
        let mut is_whole = true;
        for piece in pieces(text).map_err(wrong)? {
            match piece {
                Piece::Text(text) => value.push_str(text),
                Piece::Setting(name) => {
                    let setting = template.settings.iter().find(|spec| spec.name == name);
                    match setting.and_then(|setting| value_of(setting, &spec.settings)) {
                        Some(text) => value.push_str(&text),
                        None => is_whole = false,
                    }
                }
                Piece::Credential(name) => {
                    is_secret = true;
                    match secret(name) {
                        Some(text) => value.push_str(text),
                        None => is_whole = false,
                    }
                }
            }
        }
        if is_whole {
            let mut value = HeaderValue::from_str(&value).map_err(|_| {
                wrong(
                    "cannot carry its value, which has a line break or another control character"
                        .into(),
                )
            })?;
            value.set_sensitive(is_secret);
            headers.insert(header, value);
        }
    }
    let credentials: Vec<String> = spec
        .credentials
        .iter()
        .map(|(variable, name)| format!("the credential {name} ({variable})"))
        .collect();
    Ok(RemoteAddress {
        url,
        headers,
        host,
        credentials: credentials.join(" and "),
    })
}

/// What is wrong with the keys of a server elsewhere: the keys, the first of which is blamed, and what is allowed.
pub(super) fn faults(template: &Template) -> Vec<(Vec<String>, String)> {
    let mut faults = Vec::new();
    let mut report = |keys: &[&str], message: &str| {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        faults.push((keys, message.to_owned()));
    };
    let server = &template.server;
    for (key, is_given) in [
        ("server.builtin", server.builtin.is_some()),
        ("server.command", !server.command.is_empty()),
        ("server.package", server.package.is_some()),
        ("server.install", server.install.is_some()),
        ("environment", !template.environment.is_empty()),
        ("sandbox", template.sandbox != Default::default()),
        ("limits", template.limits != Default::default()),
        ("stop", template.stop != Default::default()),
    ] {
        if is_given {
            report(
                &[key, "server.transport"],
                "is for a process of ours; with transport = \"remote\" there is none",
            );
        }
    }
    let mut used = Vec::new();
    match &server.url {
        None => report(
            &["server.url", "server.transport"],
            "is needed: where the server is, such as https://mcp.example.com/mcp",
        ),
        Some(url) => match pieces(url) {
            Err(why) => report(&["server.url"], &why),
            Ok(pieces) => {
                if let Err(why) = check_url(template, url, &pieces) {
                    report(&["server.url", "setting", "credential"], &why);
                }
                used.extend(pieces);
            }
        },
    }
    for (name, text) in &server.headers {
        let key = format!("server.headers.{name}");
        if let Err(why) = header_name(name) {
            report(&[&key, "server.headers"], &why);
        }
        match pieces(text) {
            Err(why) => report(&[&key, "server.headers"], &why),
            Ok(pieces) => {
                if let Some(unknown) = pieces.iter().find_map(|piece| unknown(template, *piece)) {
                    report(&[&key, "setting", "credential"], &unknown);
                }
                used.extend(pieces);
            }
        }
    }
    for (index, setting) in template.settings.iter().enumerate() {
        let at = format!("setting[{index}]");
        if setting.env.is_some() || !setting.arguments.is_empty() {
            report(
                &[&at, "server.transport"],
                "has env or arguments, which are for a process of ours; name it as {setting.NAME} in url or headers",
            );
        }
        if setting.kind == SettingType::StringList {
            report(
                &[&format!("{at}.type"), "server.transport"],
                "must not be a string-list: url and headers take single values",
            );
        }
        if !used.contains(&Piece::Setting(&setting.name)) {
            report(
                &[&at, "server.url", "server.headers"],
                "is in neither url nor headers (as {setting.NAME}), so the server never sees it",
            );
        }
    }
    for (index, credential) in template.credentials.iter().enumerate() {
        if !used.contains(&Piece::Credential(credential.name.as_str())) {
            report(
                &[
                    &format!("credential[{index}]"),
                    "server.url",
                    "server.headers",
                ],
                "is in neither url nor headers (as {credential.NAME}), so the server never sees it",
            );
        }
    }
    faults
}

fn unknown(template: &Template, piece: Piece<'_>) -> Option<String> {
    match piece {
        Piece::Text(_) => None,
        Piece::Setting(name) => (!template.settings.iter().any(|spec| spec.name == name))
            .then(|| format!("there is no setting {name:?}")),
        Piece::Credential(name) => {
            let known = |name: &str| template.credentials.iter().any(|c| c.name.as_str() == name);
            (!known(name)).then(|| format!("there is no credential {name:?}"))
        }
    }
}

fn check_url(template: &Template, url: &str, pieces: &[Piece<'_>]) -> Result<(), String> {
    if !url.bytes().all(|byte| byte.is_ascii_graphic()) || url.len() > 2_000 || url.contains('#') {
        return Err("must be at most 2000 visible ASCII characters without '#'".to_owned());
    }
    for piece in pieces {
        if let Some(unknown) = unknown(template, *piece) {
            return Err(unknown);
        }
        let always = match piece {
            Piece::Text(_) => true,
            Piece::Setting(name) => template
                .settings
                .iter()
                .any(|spec| spec.name == *name && (spec.required || spec.default.is_some())),
            Piece::Credential(name) => template
                .credentials
                .iter()
                .any(|spec| spec.name.as_str() == *name && spec.required),
        };
        if !always {
            return Err("stands on a value that need not be given: make it required".to_owned());
        }
    }
    match pieces.first() {
        Some(Piece::Text(text)) => {
            let rest = text.split_once("://").map_or("", |(_, rest)| rest);
            if pieces.len() > 1 && !rest.contains('/') {
                return Err(
                    "must not take its host from a value, except as a whole: {setting.NAME} at its beginning"
                        .to_owned(),
                );
            }
            parsed(text).map(drop)
        }
        Some(Piece::Setting(name)) => {
            let opens = template.settings.iter().any(|spec| {
                spec.name == *name && spec.grants == Some(crate::domain::template::Grant::Host)
            });
            opens.then_some(()).ok_or_else(|| {
                format!("begins with the setting {name}, which then needs grants = \"host\"")
            })
        }
        _ => Err("must begin with https://, or with {setting.NAME}".to_owned()),
    }
}
