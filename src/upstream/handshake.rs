//! What a child told of itself when a connection to it began.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    completion::Appendix,
    message::{RawObject, quote, unquote},
    param_headers::ParamHeader,
};

/// The newest revision of the session era; also what we offer to children.
pub const LEGACY_LATEST: &str = "2025-11-25";
/// The revisions of the session era that clients may speak with us, oldest first.
pub const LEGACY_VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", LEGACY_LATEST];
/// The stateless revision.
pub const MODERN: &str = "2026-07-28";

pub(super) const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";

/// Most tools that we count; more pages are not asked for.
pub const TOOLS_MAX: usize = 2_000;
/// Most pages of `tools/list` that we ask for.
pub const PAGES_MAX: usize = 100;

/// Which of the two families of MCP revisions a child speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Era {
    /// 2024-11-05 to 2025-11-25: initialize first.
    Legacy,
    /// 2026-07-28: stateless, every request carries its `_meta`.
    Modern,
}

/// The outcome of a handshake. Goes through JSON unharmed, so that a new daemon can adopt the child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshake {
    /// What the child speaks.
    pub era: Era,
    /// The raw result of `initialize` (or `server/discover`), as text, so that no digit is lost.
    pub raw: String,
    /// `serverInfo.name`; empty when it told none.
    pub server_name: String,
    /// `serverInfo.version`; empty when it told none.
    pub server_version: String,
    /// The revision agreed with the child.
    pub protocol_version: String,
    /// Its tools when the handshake was made, in its order, at most [`TOOLS_MAX`].
    pub tools: Vec<String>,
    /// Those of its tools that it calls read-only (annotation `readOnlyHint`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_only_tools: Vec<String>,
    /// Parameters of its tools that stateless clients repeat in headers, by the name of the tool.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub param_headers: BTreeMap<String, Vec<ParamHeader>>,
    /// The session at an HTTP child that our own probes use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_session: Option<String>,
    /// An HTTP child that takes clients of the session era too, although `era` is the stateless one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub both_eras: bool,
    #[serde(skip)]
    pub(super) appendix: Appendix,
}

impl Handshake {
    /// Reads the raw result of `initialize` or `server/discover`.
    ///
    /// # Errors
    /// A sentence, when it is not such a result.
    pub fn read(era: Era, raw: &str) -> Result<Self, String> {
        let result = RawObject::parse(raw).map_err(|error| error.to_string())?;
        if !result
            .get("capabilities")
            .is_some_and(|raw| raw.starts_with('{'))
        {
            return Err("its answer to the handshake has no \"capabilities\"".to_owned());
        }
        let protocol_version = match era {
            Era::Legacy => result
                .get("protocolVersion")
                .and_then(unquote)
                .ok_or("its answer to initialize has no \"protocolVersion\"")?,
            Era::Modern => {
                let supported = result.get("supportedVersions").unwrap_or("[]");
                let supported: Vec<String> = serde_json::from_str(supported).unwrap_or_default();
                if !supported.iter().any(|version| version == MODERN) {
                    return Err(format!(
                        "its answer to server/discover does not name the revision {MODERN}"
                    ));
                }
                MODERN.to_owned()
            }
        };
        let info = server_info(era, &result);
        let info = info.as_deref().and_then(|raw| RawObject::parse(raw).ok());
        let short = |key: &str| -> String {
            let text = info.as_ref().and_then(|info| unquote(info.get(key)?));
            text.unwrap_or_default().chars().take(200).collect()
        };
        Ok(Self {
            era,
            raw: raw.to_owned(),
            server_name: short("name"),
            server_version: short("version"),
            protocol_version,
            tools: Vec::new(),
            read_only_tools: Vec::new(),
            param_headers: BTreeMap::new(),
            http_session: None,
            both_eras: false,
            appendix: Appendix::default(),
        })
    }

    /// What a later daemon needs of its answer for sessions that began already: not the instructions, which were told.
    #[must_use]
    pub fn without_instructions(&self) -> String {
        RawObject::parse(&self.raw).map_or_else(
            |_| self.raw.clone(),
            |mut raw| {
                raw.retain(|key| key != "instructions");
                raw.to_json()
            },
        )
    }

    /// Whether it declared this capability (`tools`, `resources`, `logging` …).
    #[must_use]
    pub fn has_capability(&self, name: &str) -> bool {
        RawObject::parse(&self.raw)
            .ok()
            .and_then(|raw| {
                let capabilities = RawObject::parse(raw.get("capabilities")?).ok()?;
                Some(capabilities.get(name).is_some())
            })
            .unwrap_or(false)
    }

    /// Whether a capability has this member set to `true` (`tools.listChanged`, `resources.subscribe` …).
    #[must_use]
    pub fn promises(&self, capability: &str, member: &str) -> bool {
        let promised = || {
            let raw = RawObject::parse(&self.raw).ok()?;
            let capabilities = RawObject::parse(raw.get("capabilities")?).ok()?;
            let capability = RawObject::parse(capabilities.get(capability)?).ok()?;
            Some(capability.get(member) == Some("true"))
        };
        promised().unwrap_or(false)
    }

    pub(super) fn server_info(&self) -> String {
        RawObject::parse(&self.raw)
            .ok()
            .and_then(|raw| server_info(self.era, &raw))
            .unwrap_or_else(|| json!({"name": "unnamed", "version": "0"}).to_string())
    }

    /// The raw result of `initialize` for a client that asks for `wanted`. `tells_news`: a stateless server serves the
    /// subscriptions that it promises.
    #[must_use]
    pub fn initialize_result(&self, wanted: &str, tells_news: bool) -> (String, &'static str) {
        let version = negotiate(wanted);
        let Ok(mut raw) = RawObject::parse(&self.raw) else {
            return ("{}".to_owned(), version);
        };
        let info = self.server_info();
        if self.era == Era::Modern {
            raw.retain(|key| {
                !matches!(
                    key,
                    "supportedVersions" | "ttlMs" | "cacheScope" | "resultType" | "_meta"
                )
            });
            raw.set("serverInfo", info);
            let capabilities = raw.get("capabilities").unwrap_or("{}").to_owned();
            raw.set(
                "capabilities",
                session_capabilities(&capabilities, tells_news),
            );
        }
        raw.set("protocolVersion", quote(version));
        (raw.to_json(), version)
    }

    /// The raw result of `server/discover` for a stateless client.
    #[must_use]
    pub fn discover_result(&self) -> String {
        let Ok(mut raw) = RawObject::parse(&self.raw) else {
            return "{}".to_owned();
        };
        if self.era == Era::Modern {
            // Of its revisions, those that are spoken through us.
            raw.set("supportedVersions", json!([MODERN]).to_string());
            return raw.to_json();
        }
        raw.retain(|key| !matches!(key, "protocolVersion" | "serverInfo"));
        raw.set("supportedVersions", json!([MODERN]).to_string());
        let raw = raw.to_json();
        self.stateless_result(&raw, true).unwrap_or(raw)
    }

    /// A result of a session-era child as the stateless revision wants it: `resultType`, the server's name and, for
    /// what may be cached, a lifetime of zero. What is there already stays.
    ///
    /// # Errors
    /// When the result is not an object.
    pub fn stateless_result(
        &self,
        result: &str,
        cacheable: bool,
    ) -> Result<String, super::message::EnvelopeError> {
        if let Some((end, completed)) = self.completed_end(result, cacheable) {
            let kept = &result[..result.len() - end.len()];
            return Ok([kept, completed].concat());
        }
        let mut object = RawObject::parse(result)?;
        fn default(object: &mut RawObject<'_>, key: &'static str, raw: &'static str) {
            if object.get(key).is_none() {
                object.set(key, raw);
            }
        }
        default(&mut object, "resultType", "\"complete\"");
        let complete = object.get("resultType") == Some("\"complete\"");
        if cacheable && complete {
            default(&mut object, "ttlMs", "0");
            default(&mut object, "cacheScope", "\"private\"");
        }
        let meta_raw = object.get("_meta").unwrap_or("{}").to_owned();
        let mut meta = RawObject::parse(&meta_raw)?;
        if meta.get(META_SERVER).is_none() {
            meta.set(META_SERVER, self.server_info());
        }
        object.set("_meta", meta.to_json());
        Ok(object.to_json())
    }
}

/// The capabilities of a stateless server that a client of the session era can use.
fn session_capabilities(raw: &str, tells_news: bool) -> String {
    let Ok(mut capabilities) = RawObject::parse(raw) else {
        return "{}".to_owned();
    };
    for (key, value) in &mut capabilities.0 {
        let Ok(mut members) = RawObject::parse(value) else {
            continue;
        };
        let before = members.0.len();
        members.retain(|member| match &**key {
            // Its results are of a kind that the session era has no word for.
            "extensions" => member != "io.modelcontextprotocol/tasks",
            "tools" | "prompts" | "resources" => {
                tells_news || !matches!(member, "listChanged" | "subscribe")
            }
            _ => true,
        });
        if members.0.len() != before {
            *value = members.to_json().into();
        }
    }
    capabilities.to_json()
}

fn server_info(era: Era, result: &RawObject<'_>) -> Option<String> {
    match era {
        Era::Legacy => result.get("serverInfo").map(str::to_owned),
        Era::Modern => RawObject::parse(result.get("_meta")?)
            .ok()?
            .get(META_SERVER)
            .map(str::to_owned),
    }
}

/// The revision that a client gets which asks for `wanted`: that one when we speak it, else our newest.
#[must_use]
pub fn negotiate(wanted: &str) -> &'static str {
    LEGACY_VERSIONS
        .into_iter()
        .find(|version| *version == wanted)
        .unwrap_or(LEGACY_LATEST)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use serde_json::Value;

    use super::*;

    const RAW: &str = r#"{"protocolVersion":"2024-11-05","capabilities":{"tools":{},"x":1e999},"serverInfo":{"name":"n","version":"1"},"instructions":"do"}"#;

    #[test]
    fn a_handshake_survives_json() {
        let handshake = Handshake::read(Era::Legacy, RAW).unwrap();
        let text = serde_json::to_value(&handshake).unwrap();
        assert_eq!(
            serde_json::from_value::<Handshake>(text).unwrap(),
            handshake
        );
        assert!(handshake.has_capability("tools") && !handshake.has_capability("prompts"));
    }

    #[test]
    fn a_client_gets_its_version_or_our_newest() {
        let handshake = Handshake::read(Era::Legacy, RAW).unwrap();
        let (raw, version) = handshake.initialize_result("2025-06-18", true);
        assert_eq!(version, "2025-06-18");
        assert_eq!(raw, RAW.replace("2024-11-05", "2025-06-18"));
        assert_eq!(
            handshake.initialize_result("1999-01-01", true).1,
            LEGACY_LATEST
        );
        assert_eq!(handshake.initialize_result(MODERN, true).1, LEGACY_LATEST);
    }

    #[test]
    fn discover_is_answered_from_initialize() {
        let handshake = Handshake::read(Era::Legacy, RAW).unwrap();
        let raw = handshake.discover_result();
        assert!(raw.contains("1e999"), "{raw}");
        let raw = raw.replace("1e999", "1");
        let value: Value = serde_json::from_str(&raw).unwrap();
        assert_eq!(value["supportedVersions"], json!([MODERN]));
        assert_eq!(value["resultType"], "complete");
        assert_eq!(value["ttlMs"], 0);
        assert_eq!(value["cacheScope"], "private");
        assert_eq!(value["instructions"], "do");
        assert_eq!(
            value["_meta"]["io.modelcontextprotocol/serverInfo"]["name"],
            "n"
        );
        assert!(value.get("protocolVersion").is_none());
    }

    #[test]
    fn initialize_is_answered_from_discover() {
        let raw = r#"{"resultType":"complete","supportedVersions":["2026-07-28","2099-01-01"],"capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true,"x":1e999},"extensions":{"io.modelcontextprotocol/tasks":{},"a/b":{}},"logging":{}},"instructions":"do","ttlMs":5,"cacheScope":"public","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"n","version":"1"}}}"#;
        let handshake = Handshake::read(Era::Modern, raw).unwrap();
        assert_eq!(
            handshake.initialize_result("2025-06-18", true).0,
            r#"{"capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true,"x":1e999},"extensions":{"a/b":{}},"logging":{}},"instructions":"do","serverInfo":{"name":"n","version":"1"},"protocolVersion":"2025-06-18"}"#
        );
        let (quiet, _) = handshake.initialize_result("2025-06-18", false);
        assert!(
            quiet.contains(r#"{"tools":{},"resources":{"x":1e999},"#),
            "{quiet}"
        );
        let discovered = handshake.discover_result();
        assert!(discovered.contains(r#""supportedVersions":["2026-07-28"]"#));
        assert!(Handshake::read(Era::Modern, &raw.replace("2026-07-28", "2099-09-09")).is_err());
    }

    #[test]
    fn a_stateless_result_keeps_what_is_there() {
        let handshake = Handshake::read(Era::Legacy, RAW).unwrap();
        let out = handshake
            .stateless_result(
                r#"{"n":10000000000000000000001,"_meta":{"a":1},"ttlMs":5}"#,
                true,
            )
            .unwrap();
        assert_eq!(
            out,
            r#"{"n":10000000000000000000001,"_meta":{"a":1,"io.modelcontextprotocol/serverInfo":{"name":"n","version":"1"}},"ttlMs":5,"resultType":"complete","cacheScope":"private"}"#
        );
        assert!(handshake.stateless_result("[]", false).is_err());
        // As if read member by member, with nothing of ours in it, and with a word of ours in another place.
        let ours = r#""resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"n","version":"1"}}}"#;
        for members in ["", r#""a":[1.0],"#, r#""a":"ttlMs","#, r#""a":"\u0041","#] {
            let result = format!("{{{}}}", members.trim_end_matches(','));
            let out = handshake.stateless_result(&result, true).unwrap();
            assert_eq!(out, format!("{{{members}{ours}"));
        }
        let plain = handshake.stateless_result("{ }", false).unwrap();
        assert!(
            plain.contains("resultType") && !plain.contains("ttlMs"),
            "{plain}"
        );
        let asks = r#"{"resultType":"input_required","requestState":"s"}"#;
        let out = handshake.stateless_result(asks, true).unwrap();
        assert!(!out.contains("ttlMs"), "{out}");
    }

    #[test]
    fn an_answer_without_capabilities_is_no_handshake() {
        assert!(Handshake::read(Era::Legacy, r#"{"protocolVersion":"2025-11-25"}"#).is_err());
        assert!(Handshake::read(Era::Legacy, r#"{"capabilities":{}}"#).is_err());
    }
}
