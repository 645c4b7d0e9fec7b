//! What a reverse proxy tells of the client behind it: `X-Forwarded-*` (the de-facto standard), else `Forwarded`
//! (RFC 7239). Believed only from trusted proxies. Pure decisions.
//!
//! Where a header has several values, the last one counts: it is the one that our own peer wrote. The client's address
//! is the last one that is no trusted proxy.

use std::net::IpAddr;

use http::{HeaderMap, header};

use crate::config::TrustedProxy;

const FOR: &str = "x-forwarded-for";
const PROTO: &str = "x-forwarded-proto";
const HOST: &str = "x-forwarded-host";

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Over TCP.
    Tcp(IpAddr),
    /// Over the unix socket of the API.
    Unix,
}

/// Who asks, as far as we believe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visitor {
    /// The client's address; `None` when it is not told, or over a unix socket.
    pub client: Option<IpAddr>,
    /// Whether a trusted proxy told of it: the client is not on the machine that the connection comes from.
    pub forwarded: bool,
    /// `http` or `https`: what the client speaks with the outermost server.
    pub scheme: &'static str,
    /// The host (and port) that the client asked, when it differs from the `Host` header; not checked yet.
    pub host: Option<String>,
}

/// The trusted proxies.
#[derive(Debug, Clone)]
pub struct Proxies(Vec<TrustedProxy>);

impl Proxies {
    /// From the configuration.
    #[must_use]
    pub fn new(trusted: &[TrustedProxy]) -> Self {
        Self(trusted.to_vec())
    }

    fn trust(&self, peer: Peer) -> bool {
        self.0.iter().any(|proxy| match (proxy, peer) {
            (TrustedProxy::Unix, Peer::Unix) => true,
            (TrustedProxy::Network(network), Peer::Tcp(address)) => {
                network.contains(&address.to_canonical())
            }
            _ => false,
        })
    }

    /// Who stands behind this peer.
    #[must_use]
    pub fn visitor(&self, peer: Peer, headers: &HeaderMap) -> Visitor {
        let mut visitor = Visitor {
            client: match peer {
                Peer::Tcp(address) => Some(address.to_canonical()),
                Peer::Unix => None,
            },
            forwarded: false,
            scheme: "http",
            host: None,
        };
        if self.0.is_empty() || !self.trust(peer) {
            return visitor;
        }
        let x = |name| texts(headers, name).last();
        let (clients, proto, host) = if [FOR, PROTO, HOST]
            .iter()
            .any(|name| headers.contains_key(*name))
        {
            let clients = texts(headers, FOR).map(address).collect();
            (clients, x(PROTO), x(HOST).map(str::to_owned))
        } else if headers.contains_key(header::FORWARDED) {
            let elements: Vec<&str> = texts(headers, header::FORWARDED.as_str()).collect();
            let last = elements.last().copied().unwrap_or_default();
            let clients = elements
                .iter()
                .map(|element| address(parameter(element, "for").unwrap_or_default()))
                .collect();
            let host = parameter(last, "host").map(str::to_owned);
            (clients, parameter(last, "proto"), host)
        } else {
            return visitor;
        };
        visitor.forwarded = true;
        if proto.is_some_and(|proto| proto.eq_ignore_ascii_case("https")) {
            visitor.scheme = "https";
        }
        visitor.host = host;
        visitor.client = self.client(peer, clients);
        visitor
    }

    /// The first address that is no proxy of ours, seen from us; one that cannot be read ends the chain of trust.
    fn client(&self, peer: Peer, told: Vec<Option<IpAddr>>) -> Option<IpAddr> {
        let mut seen = match peer {
            Peer::Tcp(address) => Some(address.to_canonical()),
            Peer::Unix => None,
        };
        for address in told.into_iter().rev() {
            seen = address;
            if !address.is_some_and(|address| self.trust(Peer::Tcp(address))) {
                break;
            }
        }
        seen
    }
}

/// The values of a header that is a list, over all its lines.
fn texts<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let lines: Vec<&str> = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    lines
        .into_iter()
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|text| !text.is_empty())
}

/// An address as proxies write it: perhaps with a port, in brackets, in quotes.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim_matches('"');
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split(']').next()?.parse().ok();
    }
    let whole: Option<IpAddr> = text.parse().ok();
    whole
        .or_else(|| text.rsplit_once(':')?.0.parse().ok())
        .map(|address| address.to_canonical())
}

/// A parameter of one element of `Forwarded`.
fn parameter<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    element.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let found = key.trim().eq_ignore_ascii_case(name);
        found.then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visitor(trusted: &[&str], peer: &str, pairs: &[(&'static str, &str)]) -> Visitor {
        let trusted: Vec<TrustedProxy> =
            trusted.iter().map(|t| t.parse().expect("valid")).collect();
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a valid header"));
        }
        let peer = match peer {
            "unix" => Peer::Unix,
            address => Peer::Tcp(address.parse().expect("an address")),
        };
        Proxies::new(&trusted).visitor(peer, &headers)
    }

    const ALL: [(&str, &str); 4] = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "mcp.example.com"),
        ("forwarded", "for=198.51.100.1;proto=http;host=other"),
    ];

    #[test]
    fn a_stranger_is_not_believed() {
        for (trusted, peer) in [
            (&[][..], "127.0.0.1"),
            (&["10.0.0.0/8"], "127.0.0.1"),
            (&["127.0.0.1"], "unix"),
            (&["unix"], "127.0.0.1"),
        ] {
            let seen = visitor(trusted, peer, &ALL);
            let own = (peer != "unix").then(|| peer.parse().expect("an address"));
            let plain = Visitor {
                client: own,
                forwarded: false,
                scheme: "http",
                host: None,
            };
            assert_eq!(seen, plain, "{trusted:?} {peer}");
        }
    }

    #[test]
    fn a_trusted_proxy_is_believed() {
        let expected = Visitor {
            client: "203.0.113.9".parse().ok(),
            forwarded: true,
            scheme: "https",
            host: Some("mcp.example.com".to_owned()),
        };
        for (trusted, peer) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.0/8", "::ffff:127.0.0.1"),
            ("::/0", "::1"),
            ("unix", "unix"),
        ] {
            assert_eq!(
                visitor(&[trusted], peer, &ALL),
                expected,
                "{trusted} {peer}"
            );
        }
        // A proxy that tells nothing is a client of its own.
        let silent = visitor(&["127.0.0.1"], "127.0.0.1", &[]);
        assert!(!silent.forwarded);
    }

    #[test]
    fn what_a_client_wrote_itself_is_passed_over() {
        let told = |text: &str| {
            let pairs = [
                ("x-forwarded-for", text),
                ("x-forwarded-host", "evil, good"),
            ];
            let seen = visitor(&["10.0.0.0/8"], "10.0.0.1", &pairs);
            assert_eq!(seen.host.as_deref(), Some("good"));
            seen.client.map(|client| client.to_string())
        };
        assert_eq!(told("1.1.1.1, 203.0.113.9").as_deref(), Some("203.0.113.9"));
        assert_eq!(
            told("1.1.1.1, 203.0.113.9, 10.2.3.4").as_deref(),
            Some("203.0.113.9")
        );
        assert_eq!(told("10.9.9.9").as_deref(), Some("10.9.9.9"));
        assert_eq!(told("1.1.1.1, unknown"), None);
        assert_eq!(told("[2001:db8::1]:4711").as_deref(), Some("2001:db8::1"));
        assert_eq!(told("203.0.113.9:80").as_deref(), Some("203.0.113.9"));
    }

    #[test]
    fn the_standard_header_counts_when_it_stands_alone() {
        let text = "for=1.1.1.1;host=evil, for=\"[2001:db8::7]:1\";Proto=HTTPS;host=\"h:1\"";
        let seen = visitor(&["10.0.0.1"], "10.0.0.1", &[("forwarded", text)]);
        assert_eq!(seen.client, "2001:db8::7".parse().ok());
        assert_eq!((seen.scheme, seen.host.as_deref()), ("https", Some("h:1")));
        for odd in ["", ";;=,", "for", "for=_hidden;proto=gopher"] {
            let seen = visitor(&["10.0.0.1"], "10.0.0.1", &[("forwarded", odd)]);
            assert_eq!((seen.scheme, seen.host), ("http", None), "{odd}");
        }
    }
}
