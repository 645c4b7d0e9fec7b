//! Server cards: what can be told of a server before anyone connects, without a secret.
//!
//! The format and the place (`<streamable-http-url>/server-card`) are those of the extension
//! `io.modelcontextprotocol/server-card` (SEP-2127; `schema.ts` and `docs/discovery.md` of the repository
//! modelcontextprotocol/experimental-ext-server-card), schema v1. A card says that an instance exists: it needs an
//! access token like everything else, unless `gateway.public_server_cards` opens it.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    config::GatewayConfig,
    supervisor::route::{About, Route},
    upstream::{LEGACY_VERSIONS, MODERN},
};

use super::{Reply, reply};

const SCHEMA: &str = "https://static.modelcontextprotocol.io/schemas/v1/server-card.schema.json";
const CARD_TYPE: &str = "application/mcp-server-card+json";
const CATALOGUE_TYPE: &str = "application/ai-catalog+json";
/// Most characters of a title and of a description.
const TEXT_MAX: usize = 100;
/// The namespace of servers whose host has no domain name.
const NAMELESS: &str = "local.minimcp";

/// The card of an instance whose endpoints lie below `base`; `host` is that of the URL.
#[must_use]
pub fn card(name: &str, about: &About, base: &str, host: &str, http_sse: bool) -> Value {
    let described = match about.description.trim() {
        "" => about.title.trim(),
        text => text,
    };
    let mut card = json!({
        "$schema": SCHEMA,
        "name": format!("{}/{name}", namespace(host)),
        "version": if about.version.is_empty() { "0" } else { &about.version },
        "description": shortened(described),
        "title": shortened(about.title.trim()),
        "remotes": [],
    });
    let modern = LEGACY_VERSIONS.into_iter().chain([MODERN]).collect();
    let mut remotes = vec![remote("streamable-http", format!("{base}/mcp"), modern)];
    if http_sse {
        remotes.push(remote(
            "sse",
            format!("{base}/sse"),
            LEGACY_VERSIONS.to_vec(),
        ));
    }
    card["remotes"] = remotes.into();
    if let Some(homepage) = &about.homepage {
        card["websiteUrl"] = json!(homepage);
    }
    card
}

fn remote(kind: &str, url: String, versions: Vec<&str>) -> Value {
    json!({
        "type": kind,
        "url": url,
        "headers": [{
            "name": "Authorization",
            "description": "The access token of this server.",
            "value": "Bearer {access_token}",
            "isRequired": true,
            "variables": {"access_token": {"isRequired": true, "isSecret": true}},
        }],
        "supportedProtocolVersions": versions,
    })
}

/// The entry of an instance in the catalogue of a host (`/.well-known/ai-catalog.json`).
#[must_use]
pub fn entry(name: &str, about: &About, url: &str, host: &str) -> Value {
    json!({
        "identifier": format!("urn:air:{host}:{name}"),
        "displayName": shortened(about.title.trim()),
        "type": CARD_TYPE,
        "url": format!("{url}/server-card"),
    })
}

/// The answer with a card; anyone may read and keep it when cards are public.
#[must_use]
pub fn card_reply(
    route: &Route,
    base: &str,
    host: &str,
    config: &GatewayConfig,
    asked: &HeaderMap,
) -> Reply {
    let name = route.slug.load();
    let card = card(
        name.as_str(),
        &route.about.load(),
        base,
        host,
        config.http_sse,
    );
    document(&card, CARD_TYPE, config.public_server_cards, asked)
}

/// The answer with the catalogue.
#[must_use]
pub fn catalogue_reply(entries: Vec<Value>, asked: &HeaderMap) -> Reply {
    let catalogue = json!({"specVersion": "1.0", "entries": entries});
    document(&catalogue, CATALOGUE_TYPE, true, asked)
}

fn document(value: &Value, kind: &'static str, public: bool, asked: &HeaderMap) -> Reply {
    let body = value.to_string();
    let mut tag = String::with_capacity(34);
    tag.push('"');
    for byte in &Sha256::digest(&body)[..16] {
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    let known = asked
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|sent| {
            sent.split(',')
                .any(|sent| sent.trim().trim_start_matches("W/") == tag)
        });
    let mut reply = if known {
        reply::empty(StatusCode::NOT_MODIFIED)
    } else {
        reply::json(StatusCode::OK, body.into())
    };
    let headers = reply.headers_mut();
    let fixed = HeaderValue::from_static;
    headers.insert(header::CONTENT_TYPE, fixed(kind));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    if public {
        headers.insert(header::CACHE_CONTROL, fixed("public, max-age=3600"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, fixed("*"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, fixed("ETag"));
    } else {
        headers.insert(header::CACHE_CONTROL, fixed("private, no-cache"));
    }
    reply
}

/// A domain name from right to left.
fn namespace(host: &str) -> String {
    let is_name = host.split('.').all(|label| {
        label.starts_with(|first: char| first.is_ascii_alphabetic())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    });
    if !is_name || host.eq_ignore_ascii_case("localhost") {
        return NAMELESS.to_owned();
    }
    let labels: Vec<&str> = host.split('.').rev().collect();
    labels.join(".").to_ascii_lowercase()
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= TEXT_MAX {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(TEXT_MAX - 1).collect();
    short.truncate(short.trim_end().len());
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_tells_where_and_how_and_no_more() {
        let about = About {
            title: "Demo".to_owned(),
            description: "x".repeat(150),
            homepage: Some("https://example.com".to_owned()),
            version: String::new(),
        };
        let base = "https://mcp.example.com/i/demo";
        let url = format!("{base}/mcp");
        let card = card("demo", &about, base, "mcp.example.com", true);
        assert_eq!(card["name"], "com.example.mcp/demo");
        assert_eq!(card["version"], "0");
        let described = card["description"].as_str().expect("a text");
        assert_eq!(described.chars().count(), TEXT_MAX);
        assert_eq!(card["remotes"][0]["url"], url);
        let versions = card["remotes"][0]["supportedProtocolVersions"].as_array();
        assert_eq!(versions.map(Vec::len), Some(5));
        assert_eq!(card["remotes"][1]["url"], format!("{base}/sse"));
        assert_eq!(card["websiteUrl"], "https://example.com");
        let entry = entry("demo", &about, &url, "mcp.example.com");
        assert_eq!(entry["url"], format!("{url}/server-card"));
        assert_eq!(entry["identifier"], "urn:air:mcp.example.com:demo");
    }

    #[test]
    fn names_begin_with_the_domain_or_with_a_namespace_of_ours() {
        for (host, expected) in [
            ("Example.com", "com.example"),
            ("127.0.0.1", NAMELESS),
            ("[::1]", NAMELESS),
            ("localhost", NAMELESS),
            ("", NAMELESS),
            ("a b.example", NAMELESS),
        ] {
            assert_eq!(namespace(host), expected, "{host}");
        }
    }

    #[test]
    fn a_card_that_is_known_is_not_sent_again() {
        let first = document(&json!({"a": 1}), CARD_TYPE, true, &HeaderMap::new());
        let mut asked = HeaderMap::new();
        asked.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        assert_eq!(
            document(&json!({"a": 1}), CARD_TYPE, true, &asked).status(),
            304
        );
        assert_eq!(
            document(&json!({"a": 2}), CARD_TYPE, true, &asked).status(),
            200
        );
    }
}
