//! Which hosts a server may reach: rules of host and port, and the pure decision.
//!
//! Deny beats allow. A rule names hosts, never paths: what a server does with an allowed host is between the two.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::broker::Broker;

/// Most ports that the rules of one server name together: each costs a listening socket.
pub const PORTS_MAX: usize = 48;
/// Most rules of one server.
pub const RULES_MAX: usize = 256;
/// Caught in any case, so that a refusal can be told by name.
const ALWAYS_CAUGHT: [u16; 2] = [80, 443];
/// Caught where a server's hosts are to be learned: what servers of this kind speak.
const LEARNED: [u16; 24] = [
    22, 25, 465, 587, 993, 995, 1433, 1883, 3306, 5000, 5432, 5672, 6333, 6379, 7687, 8000, 8080,
    8443, 8883, 9000, 9092, 9200, 9443, 27017,
];

/// Hosts, by name or address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub enum HostPattern {
    /// This name.
    Name(String),
    /// Every name with one label more than this one: `*.example.com`.
    OneLabelBelow(String),
    /// Every name: `*`. As wide as an open network but for private addresses.
    AnyName,
    /// This address, which a server then reaches without asking for a name.
    Address(IpAddr),
}

/// Hosts and a port of theirs, as `name:443`, `*.example.com:443`, `192.0.2.1:8443` or `[2001:db8::1]:443`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct HostRule {
    /// Which.
    pub host: HostPattern,
    /// The TCP port, 1 to 65535.
    pub port: u16,
}

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleFault {
    /// No port.
    #[error(
        "{0:?} names no port: write \"host:443\", \"*.example.com:443\" or \"[2001:db8::1]:443\""
    )]
    Port(String),
    /// Not a name of hosts.
    #[error(
        "{0:?} is no host: write a name such as \"api.example.com\" (one \"*.\" before it stands for one label), \
         \"*\" for every name, or an address"
    )]
    Host(String),
    /// Not a name and its address.
    #[error("{0:?} gives no name its address: write \"git.internal=10.0.0.5\"")]
    Own(String),
}

impl FromStr for HostPattern {
    type Err = RuleFault;

    fn from_str(text: &str) -> Result<Self, RuleFault> {
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(text).parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let fault = || RuleFault::Host(text.chars().take(80).collect());
        match text.strip_prefix("*.") {
            _ if text == "*" => Ok(Self::AnyName),
            Some(parent) => name(parent).map(Self::OneLabelBelow).ok_or_else(fault),
            None => name(text).map(Self::Name).ok_or_else(fault),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::OneLabelBelow(parent) => write!(f, "*.{parent}"),
            Self::AnyName => f.write_str("*"),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl FromStr for HostRule {
    type Err = RuleFault;

    fn from_str(text: &str) -> Result<Self, RuleFault> {
        let fault = || RuleFault::Port(text.chars().take(80).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(fault)?;
        let port = Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
        let port = port
            .and_then(|port| port.parse().ok())
            .filter(|port| *port > 0);
        let port = port.ok_or_else(fault)?;
        // An address of version 6 without its brackets has no port that could be told from it.
        if host.contains(':') && !host.starts_with('[') {
            return Err(fault());
        }
        Ok(Self {
            host: host.parse()?,
            port,
        })
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The address of a name, as the operator gives it: `git.internal=10.0.0.5`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostAddress {
    /// In its one form.
    pub name: String,
    /// Where it leads to.
    pub address: IpAddr,
}

impl FromStr for HostAddress {
    type Err = RuleFault;

    fn from_str(text: &str) -> Result<Self, RuleFault> {
        let parts = text.split_once('=');
        let own = parts.and_then(|(host, address)| {
            Some(Self {
                name: name(host.trim())?,
                address: address.trim().parse().ok()?,
            })
        });
        own.ok_or_else(|| RuleFault::Own(text.chars().take(80).collect()))
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.address)
    }
}

/// These are texts on the wire and in files.
macro_rules! is_text {
    ($($kind:ty),+) => {$(
        impl TryFrom<String> for $kind {
            type Error = RuleFault;

            fn try_from(text: String) -> Result<Self, RuleFault> {
                text.parse()
            }
        }

        impl From<$kind> for String {
            fn from(value: $kind) -> Self {
                value.to_string()
            }
        }
    )+};
}
is_text!(HostPattern, HostRule, HostAddress);

/// A host name in its one form: lower case, without a dot at its end. `None` when it is none: labels of 1 to 63
/// letters, digits, `-` or `_`, 253 bytes together, and not an address. International names are written as they go over
/// the wire (`xn--…`).
#[must_use]
pub fn name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        let sign = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(sign)
    };
    // Resolvers read a name that ends in a number as an address, in forms that nobody expects (inet_aton(3)).
    let last = text.rsplit('.').next()?;
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    (text.len() <= 253 && text.split('.').all(label) && !numeric).then(|| text.to_ascii_lowercase())
}

impl HostPattern {
    /// Whether it stands for this name, which is in its one form.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Name(own) => own == name,
            Self::OneLabelBelow(parent) => name
                .strip_suffix(parent.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|label| !label.is_empty() && !label.contains('.')),
            Self::AnyName => true,
            Self::Address(_) => false,
        }
    }
}

/// Which hosts a server may reach.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Egress {
    /// Allowed.
    pub hosts: Vec<HostRule>,
    /// Never, whatever is allowed.
    pub denied: Vec<HostPattern>,
    /// Whether every name is let through and recorded.
    pub learns: bool,
    /// Services that are reached through a broker, and by no other way.
    pub brokers: Vec<Broker>,
}

/// Why a host is not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No rule allows it.
    NotAllowed,
    /// The operator denies it.
    Denied,
    /// Rules allow it, at other ports.
    Port,
    /// A broker speaks with it, for a key that the server does not hold.
    Brokered,
}

impl Egress {
    /// Whether `name`, in its one form, may be asked for: there is a port at which it could be reached.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn resolves(&self, name: &str) -> Result<(), Refused> {
        if self.denied.iter().any(|pattern| pattern.matches(name)) {
            return Err(Refused::Denied);
        }
        let known = self.hosts.iter().any(|rule| rule.host.matches(name));
        (known || self.learns)
            .then_some(())
            .ok_or(Refused::NotAllowed)
    }

    /// Whether `name`, in its one form, may be reached at `port`.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn connects(&self, name: &str, port: u16) -> Result<(), Refused> {
        self.allows(name, port)?;
        self.is_free(&HostPattern::Name(name.to_owned()), port)
    }

    /// Whether no broker speaks with a host.
    fn is_free(&self, host: &HostPattern, port: u16) -> Result<(), Refused> {
        let speaks =
            |broker: &Broker| broker.upstream.host == *host && broker.upstream.port == port;
        let brokered = self.brokers.iter().any(speaks);
        (!brokered).then_some(()).ok_or(Refused::Brokered)
    }

    /// Whether rules allow `name`, in its one form, at `port`.
    pub(super) fn allows(&self, name: &str, port: u16) -> Result<(), Refused> {
        self.resolves(name)?;
        let mut fitting = self.hosts.iter().filter(|rule| rule.host.matches(name));
        let allowed = self.learns || fitting.any(|rule| rule.port == port);
        allowed.then_some(()).ok_or(Refused::Port)
    }

    /// Whether an address may be reached that no name was asked for.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn connects_to(&self, address: IpAddr, port: u16) -> Result<(), Refused> {
        self.allows_address(address, port)?;
        self.is_free(&HostPattern::Address(address.to_canonical()), port)
    }

    /// Whether rules allow an address.
    pub(super) fn allows_address(&self, address: IpAddr, port: u16) -> Result<(), Refused> {
        let pattern = HostPattern::Address(address.to_canonical());
        if self.denied.contains(&pattern) {
            return Err(Refused::Denied);
        }
        let mut fitting = self.hosts.iter().filter(|rule| rule.host == pattern);
        match (
            fitting.clone().next(),
            fitting.any(|rule| rule.port == port),
        ) {
            (_, true) => Ok(()),
            (Some(_), false) => Err(Refused::Port),
            (None, _) => Err(Refused::NotAllowed),
        }
    }

    /// What of a server's connections must be caught.
    ///
    /// # Errors
    /// How many ports the rules name, when that is more than [`PORTS_MAX`].
    pub fn catches(&self) -> Result<Catch, usize> {
        let mut ports: BTreeSet<u16> = self.hosts.iter().map(|rule| rule.port).collect();
        if ports.len() > PORTS_MAX {
            return Err(ports.len());
        }
        ports.extend(ALWAYS_CAUGHT);
        if self.learns {
            ports.extend(LEARNED);
        }
        let addresses = self.hosts.iter().filter_map(|rule| match rule.host {
            HostPattern::Address(address) => Some(address),
            _ => None,
        });
        let addresses: BTreeSet<IpAddr> = addresses.collect();
        Ok(Catch {
            ports: ports.into_iter().collect(),
            addresses: addresses.into_iter().collect(),
        })
    }
}

/// What the keeper sets up in a server's network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Catch {
    /// TCP ports that are listened on.
    pub ports: Vec<u16>,
    /// Addresses that are made local beside the synthetic ones.
    pub addresses: Vec<IpAddr>,
}

/// The synthetic addresses of a server's names are drawn from here (RFC 2544, not used on the Internet).
pub const SYNTHETIC_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 15);
/// The same of version 6 (RFC 4193); the last 32 bits are those of the one of version 4.
pub const SYNTHETIC_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd6d, 0x6370, 0, 0, 0, 0, 0, 0), 96);

#[cfg(test)]
#[path = "egress_tests.rs"]
mod tests;
