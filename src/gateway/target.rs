//! What a path asks for. Pure.

/// What is behind a path of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// MCP Streamable HTTP.
    Mcp,
    /// The server card.
    Card,
    /// The stream of HTTP+SSE, the transport of 2024-11-05.
    Sse,
    /// Where its messages are posted.
    Messages,
}

impl Endpoint {
    /// Whether it belongs to the transport of 2024-11-05.
    #[must_use]
    pub fn is_http_sse(self) -> bool {
        matches!(self, Self::Sse | Self::Messages)
    }
}

/// What a path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// What.
    pub endpoint: Endpoint,
    /// The token in the path, if one stands there.
    pub token: Option<&'a str>,
}

/// The endpoints by the end of their paths, the longer ones first.
const ENDPOINTS: [(&str, Endpoint); 4] = [
    ("/mcp/server-card", Endpoint::Card),
    ("/mcp", Endpoint::Mcp),
    ("/sse", Endpoint::Sse),
    ("/messages", Endpoint::Messages),
];

/// Reads a path such as `/mcp` or `/TOKEN/mcp`; `None`: there is nothing.
#[must_use]
pub fn target(path: &str) -> Option<Target<'_>> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let (before, endpoint) = ENDPOINTS
        .iter()
        .find_map(|(end, endpoint)| Some((path.strip_suffix(end)?, *endpoint)))?;
    let token = match before {
        "" => None,
        _ => Some(
            before
                .strip_prefix('/')
                .filter(|token| !token.is_empty() && !token.contains('/'))?,
        ),
    };
    Some(Target { endpoint, token })
}

/// Takes a path of the path gateway apart: the slug or id of the instance, the mount point, and the path below it.
#[must_use]
pub fn mounted(path: &str) -> Option<(&str, &str, &str)> {
    let rest = path.strip_prefix("/i/")?;
    let end = rest.find('/')?;
    let mount = path.len() - rest.len() + end;
    Some((&rest[..end], &path[..mount], &path[mount..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let at = |endpoint, token| Some(Target { endpoint, token });
        for (path, expected) in [
            ("/mcp", at(Endpoint::Mcp, None)),
            ("/mcp/", at(Endpoint::Mcp, None)),
            ("/abc/mcp", at(Endpoint::Mcp, Some("abc"))),
            ("/mcp/mcp", at(Endpoint::Mcp, Some("mcp"))),
            ("/mcp/server-card", at(Endpoint::Card, None)),
            ("/sse", at(Endpoint::Sse, None)),
            ("/abc/sse", at(Endpoint::Sse, Some("abc"))),
            ("/messages", at(Endpoint::Messages, None)),
            ("/abc/messages/", at(Endpoint::Messages, Some("abc"))),
            ("/abc/mcp/server-card", at(Endpoint::Card, Some("abc"))),
        ] {
            assert_eq!(target(path), expected, "{path}");
        }
        for path in [
            "/",
            "",
            "/mcpx",
            "/a/b/mcp",
            "//mcp",
            "mcp",
            "/abc",
            "/mcp/x",
            "/amcp",
            "mcp/server-card",
            "/server-card",
            "/mcp/sse/x",
            "/a/b/sse",
            "/a/b/mcp/server-card",
        ] {
            assert_eq!(target(path), None, "{path}");
        }
    }

    #[test]
    fn paths_below_a_mount_point() {
        assert_eq!(mounted("/i/demo/mcp"), Some(("demo", "/i/demo", "/mcp")));
        assert_eq!(
            mounted("/i/demo/T/mcp"),
            Some(("demo", "/i/demo", "/T/mcp"))
        );
        assert_eq!(mounted("/i//mcp"), Some(("", "/i/", "/mcp")));
        for path in ["/i/demo", "/i/", "/i", "/x/demo/mcp", "i/demo/mcp"] {
            assert_eq!(mounted(path), None, "{path}");
        }
    }
}
