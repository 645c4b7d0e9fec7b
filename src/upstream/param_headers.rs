//! Parameters of tools that clients of the stateless revision repeat in headers: `x-mcp-header` in a tool's schema.

use std::{borrow::Cow, collections::HashSet};

use serde::{Deserialize, Serialize};

use super::message::{RawObject, unquote};

/// Most such parameters of one tool.
const HEADERS_MAX: usize = 64;
/// How deep a parameter may lie.
const DEPTH_MAX: usize = 16;

/// One parameter that is repeated as the header `Mcp-Param-NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParamHeader {
    /// The whole name of the header, lower case.
    pub header: String,
    /// Where the parameter lies in the arguments.
    pub path: Vec<String>,
}

/// Reads the definition of a tool. One with a fault is not to be used by clients, so nothing of it counts.
#[must_use]
pub fn of_tool(tool: &str) -> Vec<ParamHeader> {
    if memchr::memmem::find(tool.as_bytes(), b"x-mcp-header").is_none() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut read = || {
        let tool = RawObject::parse(tool).ok()?;
        let schema = RawObject::parse(tool.get("inputSchema")?).ok()?;
        let properties = schema.get("properties")?.to_owned();
        collect(&properties, &mut Vec::new(), &mut found)
    };
    if read().is_none() {
        return Vec::new();
    }
    let mut names = HashSet::new();
    let unique = found.iter().all(|found| names.insert(&found.header));
    if unique { found } else { Vec::new() }
}

/// `None` for a fault.
fn collect(properties: &str, path: &mut Vec<String>, found: &mut Vec<ParamHeader>) -> Option<()> {
    let properties = RawObject::parse(properties).ok()?;
    for (name, raw) in &properties.0 {
        let Ok(schema) = RawObject::parse(raw) else {
            continue;
        };
        path.push(name.clone().into_owned());
        if let Some(header) = schema.get("x-mcp-header") {
            let kind = schema.get("type").and_then(unquote)?;
            let header = unquote(header).filter(|header| is_token(header))?;
            let primitive = matches!(kind.as_str(), "string" | "integer" | "boolean");
            if !primitive || found.len() >= HEADERS_MAX {
                return None;
            }
            found.push(ParamHeader {
                header: format!("mcp-param-{}", header.to_ascii_lowercase()),
                path: path.clone(),
            });
        }
        if path.len() < DEPTH_MAX
            && let Some(inner) = schema.get("properties")
        {
            collect(inner, path, found)?;
        }
        path.pop();
    }
    Some(())
}

/// A field name's token (RFC 9110 section 5.6.2).
fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.len() <= 200 && text.bytes().all(is_tchar)
}

impl ParamHeader {
    /// The raw value of the parameter; `None` when it is not there, or `null`.
    #[must_use]
    pub fn value<'a>(&self, arguments: &'a str) -> Option<Cow<'a, str>> {
        let mut value = Cow::Borrowed(arguments);
        for key in &self.path {
            let object = RawObject::parse(&value).ok()?;
            let inner = object.get(key)?.to_owned();
            value = Cow::Owned(inner);
        }
        (value != "null").then_some(value)
    }

    /// Whether a header's decoded text says the same as this raw value. A value that is no text, number or boolean
    /// cannot be compared: whether it fits its schema is the server's to say.
    #[must_use]
    pub fn agrees(header: &str, raw: &str) -> bool {
        match raw.as_bytes().first() {
            Some(b'"') => unquote(raw).as_deref() == Some(header),
            Some(b't' | b'f') => header == raw,
            Some(b'-' | b'0'..=b'9') => match (header.parse::<i64>(), raw.parse::<i64>()) {
                (Ok(header), Ok(raw)) => header == raw,
                _ => matches!(
                    (header.parse::<f64>(), raw.parse::<f64>()),
                    (Ok(header), Ok(raw)) if header.to_bits() == raw.to_bits()
                ),
            },
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(properties: &str) -> Vec<ParamHeader> {
        of_tool(&format!(
            r#"{{"name":"t","inputSchema":{{"type":"object","properties":{properties}}}}}"#
        ))
    }

    #[test]
    fn marked_parameters_are_found_where_they_lie() {
        let found = tool(
            r#"{"a":{"type":"string","x-mcp-header":"Region"},"b":{"type":"object","properties":{"c":{"type":"integer","x-mcp-header":"zone"}}},"d":true}"#,
        );
        let header = |header: &str, path: &[&str]| ParamHeader {
            header: header.to_owned(),
            path: path.iter().map(|key| (*key).to_owned()).collect(),
        };
        assert_eq!(
            found,
            [
                header("mcp-param-region", &["a"]),
                header("mcp-param-zone", &["b", "c"])
            ]
        );
        let arguments = r#"{"a":"x","b":{"c":5}}"#;
        assert_eq!(found[1].value(arguments).as_deref(), Some("5"));
        for arguments in [r#"{"b":{"c":null}}"#, r#"{"b":1}"#, "{}", "[]"] {
            assert_eq!(found[1].value(arguments), None, "{arguments}");
        }
    }

    #[test]
    fn a_tool_with_a_fault_has_none() {
        for properties in [
            r#"{"a":{"type":"number","x-mcp-header":"A"}}"#,
            r#"{"a":{"x-mcp-header":"A"}}"#,
            r#"{"a":{"type":"string","x-mcp-header":""}}"#,
            r#"{"a":{"type":"string","x-mcp-header":"A B"}}"#,
            r#"{"a":{"type":"string","x-mcp-header":5}}"#,
            r#"{"a":{"type":"string","x-mcp-header":"A"},"b":{"type":"string","x-mcp-header":"a"}}"#,
        ] {
            assert!(tool(properties).is_empty(), "{properties}");
        }
        assert!(of_tool("x-mcp-header").is_empty());
    }

    #[test]
    fn values_are_compared_by_their_kind() {
        for (header, raw, expected) in [
            ("é", r#""\u00e9""#, true),
            ("E", r#""e""#, false),
            ("true", "true", true),
            ("True", "true", false),
            ("42", "42.0", true),
            ("42", "43", false),
            ("9007199254740993", "9007199254740993", true),
            ("9007199254740993", "9007199254740992", false),
            ("x", "1", false),
            ("x", "[1]", true),
        ] {
            assert_eq!(ParamHeader::agrees(header, raw), expected, "{header} {raw}");
        }
    }
}
