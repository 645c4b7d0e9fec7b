//! Where the outside finds the access URLs, and which proxies may speak for their clients.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The address under which a reverse proxy shows the API port to the outside: scheme, host, and perhaps a path that
/// the proxy takes away, such as `https://mcp.example.com` or `https://example.com/mcp-servers`. No final slash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicUrl {
    text: String,
    authority_start: usize,
    path_start: usize,
}

impl PublicUrl {
    /// The whole, without a final slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host, without a port.
    #[must_use]
    pub fn host(&self) -> &str {
        let authority = &self.text[self.authority_start..self.path_start];
        match authority.rfind(':') {
            Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
            _ => authority,
        }
    }

    /// The path that the proxy takes away; mostly empty.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[self.path_start..]
    }
}

impl FromStr for PublicUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |why: &str| {
            format!(
                "{text:?} {why}; write a URL such as \"https://mcp.example.com\", with a path if the proxy adds one"
            )
        };
        let text = text.trim();
        let plain = text.strip_suffix('/').unwrap_or(text);
        let uri: http::Uri = plain.parse().map_err(|_| refuse("is not a URL"))?;
        let scheme = match uri.scheme_str() {
            Some(scheme @ ("http" | "https")) => scheme,
            _ => return Err(refuse("begins neither with http:// nor with https://")),
        };
        let authority = uri.authority().ok_or_else(|| refuse("names no host"))?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(refuse("names no host, or a user"));
        }
        if plain.contains(['?', '#']) || plain.ends_with('/') || uri.path().contains("//") {
            return Err(refuse(
                "has a query, a fragment or an empty part of its path",
            ));
        }
        let authority_start = scheme.len() + "://".len();
        Ok(Self {
            text: plain.to_owned(),
            authority_start,
            path_start: authority_start + authority.as_str().len(),
        })
    }
}

impl TryFrom<String> for PublicUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PublicUrl> for String {
    fn from(url: PublicUrl) -> Self {
        url.text
    }
}

/// Who may tell for whom it speaks (`X-Forwarded-*`, `Forwarded`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TrustedProxy {
    /// Whoever connects to the unix socket of the API, written `unix`.
    Unix,
    /// An address, or a network such as `10.0.0.0/8`.
    Network(IpNet),
}

impl FromStr for TrustedProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let network = match text.parse::<IpAddr>() {
            Ok(address) => Ok(IpNet::from(address)),
            Err(_) => text.parse::<IpNet>(),
        };
        network.map(Self::Network).map_err(|_| {
            format!(
                "{text:?} is neither an address, a network such as \"10.0.0.0/8\", nor \"unix\""
            )
        })
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix => f.write_str("unix"),
            Self::Network(network) if network.prefix_len() == network.max_prefix_len() => {
                network.addr().fmt(f)
            }
            Self::Network(network) => network.fmt(f),
        }
    }
}

impl TryFrom<String> for TrustedProxy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<TrustedProxy> for String {
    fn from(proxy: TrustedProxy) -> Self {
        proxy.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_is_taken_apart() {
        for (text, host, path) in [
            ("https://mcp.example.com", "mcp.example.com", ""),
            ("https://mcp.example.com/", "mcp.example.com", ""),
            ("http://h:8443/a/b", "h", "/a/b"),
            ("https://[::1]:1/a/", "[::1]", "/a"),
            ("https://[::1]", "[::1]", ""),
        ] {
            let url: PublicUrl = text.parse().expect(text);
            assert_eq!((url.host(), url.path()), (host, path), "{text}");
            assert_eq!(url.as_str().parse(), Ok(url.clone()), "{text}");
        }
        for text in [
            "",
            "mcp.example.com",
            "ftp://h",
            "https://",
            "https://u:p@h",
            "https://h/?a",
            "https://h#a",
            "https://h//",
            "https://h/a//b",
            "https:///a",
            "/i",
        ] {
            assert!(text.parse::<PublicUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_proxy_is_an_address_a_network_or_the_socket() {
        for text in ["unix", "10.0.0.1", "10.0.0.0/8", "::1", "fd00::/8"] {
            let proxy: TrustedProxy = text.parse().expect(text);
            assert_eq!(proxy.to_string(), text);
        }
        for text in ["", "localhost", "10.0.0.0/33", "10.0.0", "*"] {
            assert!(text.parse::<TrustedProxy>().is_err(), "{text}");
        }
    }
}
