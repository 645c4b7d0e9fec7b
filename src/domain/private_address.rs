//! Which addresses no name may lead to: the gate resolves names of strangers, and whoever owns a name decides what it
//! resolves to (DNS rebinding).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Addresses that the operator opens although they are private: `10.1.0.0/16`, `127.0.0.1:8443`, `[fd00::1]:443`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Opened {
    /// Which; a single address is a network of one.
    pub network: IpNet,
    /// At which port; `None`: at any.
    pub port: Option<u16>,
}

/// Why a text opens nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no address or network: write \"10.1.2.3\", \"10.1.0.0/16\", \"127.0.0.1:8443\" or \"[fd00::1]:443\""
)]
pub struct OpenedFault(String);

impl FromStr for Opened {
    type Err = OpenedFault;

    fn from_str(text: &str) -> Result<Self, OpenedFault> {
        let whole = |text: &str| {
            let bare = text
                .strip_prefix('[')
                .and_then(|text| text.strip_suffix(']'));
            let bare = bare.unwrap_or(text);
            let network = bare.parse::<IpNet>().ok();
            network.or_else(|| bare.parse::<IpAddr>().ok().map(IpNet::from))
        };
        if let Some(network) = whole(text) {
            return Ok(Self {
                network,
                port: None,
            });
        }
        let parts = text.rsplit_once(':');
        let opened = parts.and_then(|(network, port)| {
            Some(Self {
                network: whole(network)?,
                port: Some(port.parse().ok().filter(|port| *port > 0)?),
            })
        });
        opened.ok_or_else(|| OpenedFault(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.network, self.port) {
            (network, None) => write!(f, "{network}"),
            (network @ IpNet::V4(_), Some(port)) => write!(f, "{network}:{port}"),
            (network @ IpNet::V6(_), Some(port)) => write!(f, "[{network}]:{port}"),
        }
    }
}

impl TryFrom<String> for Opened {
    type Error = OpenedFault;

    fn try_from(text: String) -> Result<Self, OpenedFault> {
        text.parse()
    }
}

impl From<Opened> for String {
    fn from(opened: Opened) -> Self {
        opened.to_string()
    }
}

impl Opened {
    /// Whether it opens this address at this port.
    #[must_use]
    pub fn covers(&self, address: IpAddr, port: u16) -> bool {
        let address = embedded(address).unwrap_or(address);
        self.network.contains(&address) && self.port.is_none_or(|own| own == port)
    }
}

/// Whether an address is not one of the public Internet: loopback, private, link-local (with the metadata service of
/// clouds), carrier-grade NAT, multicast, reserved, or one of these in the dress of version 6. After the IANA registries
/// of special-purpose addresses.
#[must_use]
pub fn is_private(address: IpAddr) -> bool {
    match (address, embedded(address)) {
        (IpAddr::V4(address), _) | (_, Some(IpAddr::V4(address))) => is_private_v4(address),
        (IpAddr::V6(address), _) => is_private_v6(address),
    }
}

/// The address of version 4 that one of version 6 leads to: mapped, compatible, NAT64, 6to4.
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let parts = address.segments();
    let at = |index: usize| {
        let [a, b] = parts[index].to_be_bytes();
        let [c, d] = parts[index + 1].to_be_bytes();
        Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
    };
    match parts {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => at(6),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 || low > 1 => at(6),
        [0x2002, ..] => at(1),
        _ => None,
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        // Carrier-grade NAT (RFC 6598), where some clouds have a metadata service, too.
        || (a == 100 && (64..128).contains(&b))
        // Protocol assignments, 6to4 relays, benchmarks (and our synthetic addresses).
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19))
        // Azure's platform services, reached from inside every virtual machine there.
        || address == Ipv4Addr::new(168, 63, 129, 16)
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    // Global unicast is 2000::/3; of it, not what is for protocols (Teredo, ORCHID, benchmarks) and documentation.
    parts[0] & 0xe000 != 0x2000
        || (parts[0] == 0x2001 && parts[1] < 0x0200)
        || (parts[0] == 0x2001 && parts[1] == 0x0db8)
        || (parts[0] & 0xfff0 == 0x3ff0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn what_is_not_public_is_private_in_every_dress() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "168.63.129.16",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "100::1",
            "5f00::1",
        ] {
            assert!(is_private(address(text)), "{text}");
        }
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert!(!is_private(address(text)), "{text}");
        }
    }

    #[test]
    fn the_operator_opens_networks_and_ports() {
        let opens = |opened: &str, at: &str, port| {
            opened
                .parse::<Opened>()
                .expect(opened)
                .covers(address(at), port)
        };
        assert!(opens("10.1.0.0/16", "10.1.2.3", 5));
        assert!(
            opens("10.1.0.0/16", "::ffff:10.1.2.3", 5),
            "the same address"
        );
        assert!(!opens("10.1.0.0/16", "10.2.2.3", 5));
        assert!(opens("127.0.0.1:8443", "127.0.0.1", 8443));
        assert!(!opens("127.0.0.1:8443", "127.0.0.1", 8444));
        assert!(opens("[fd00::1]:443", "fd00::1", 443));
        assert!(opens("fd00::/8", "fd12::1", 1));
        for text in [
            "10.1.0.0/16",
            "127.0.0.1/32:8443",
            "[fd00::1/128]:443",
            "fd00::/8",
        ] {
            let opened: Opened = text.parse().expect(text);
            assert_eq!(opened.to_string().parse(), Ok(opened), "{text}");
        }
        for text in [
            "",
            "example.com",
            "10.0.0.1:0",
            "10.0.0.1:x",
            "10.0.0.0/33",
            "fd00::1/129",
        ] {
            assert!(text.parse::<Opened>().is_err(), "{text}");
        }
    }
}
