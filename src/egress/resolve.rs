//! Names to addresses, outside of every sandbox.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{sync::Semaphore, time::timeout};

use crate::domain::private_address::{Opened, is_private};

/// Names that are resolved at the same time, all instances together: each takes a thread of its own.
const LOOKUPS_MAX: usize = 32;
/// How long one may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Turns names into addresses.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of a name, in the order in which they are to be tried.
    fn resolve(&self, name: Arc<str>) -> BoxFuture<'_, io::Result<Vec<IpAddr>>>;
}

/// Asks the resolver of this host, after the operator's own names.
pub struct HostResolver {
    own: BTreeMap<String, IpAddr>,
    turns: Semaphore,
}

impl HostResolver {
    /// `own`: names that are not asked for, with their addresses.
    #[must_use]
    pub fn new(own: BTreeMap<String, IpAddr>) -> Self {
        Self {
            own,
            turns: Semaphore::new(LOOKUPS_MAX),
        }
    }
}

impl Resolve for HostResolver {
    fn resolve(&self, name: Arc<str>) -> BoxFuture<'_, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            if let Some(address) = self.own.get(&*name) {
                return Ok(vec![*address]);
            }
            let _turn = self.turns.acquire().await.map_err(io::Error::other)?;
            let found = timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((&*name, 0))).await;
            let found = found.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// Those of a name's addresses that may be connected to; `None`: it has some, and all are private.
pub(super) fn reachable(
    addresses: Vec<IpAddr>,
    port: u16,
    opened: &[Opened],
) -> Option<Vec<SocketAddr>> {
    let had_some = !addresses.is_empty();
    let mut good = Vec::new();
    for address in addresses.into_iter().map(|address| address.to_canonical()) {
        let is_opened = opened.iter().any(|opened| opened.covers(address, port));
        let to = SocketAddr::new(address, port);
        if (is_opened || !(is_private(address) || is_own(to))) && !good.contains(&to) {
            good.push(to);
        }
    }
    good.truncate(ADDRESSES_MAX);
    (!good.is_empty() || !had_some).then_some(good)
}

/// Whether an address is one of this host, by which the daemon itself could be reached: then the kernel would send from
/// the same address. Connecting a UDP socket sends nothing.
fn is_own(address: SocketAddr) -> bool {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = std::net::UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(address)?;
        socket.local_addr()
    });
    from.is_ok_and(|from| from.ip() == address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().expect(text)).collect()
    }

    #[test]
    fn a_name_that_leads_inside_leads_nowhere() {
        for inside in [
            "127.0.0.1",
            "169.254.169.254",
            "10.0.0.1",
            "::1",
            "::ffff:10.0.0.1",
            "fd00::1",
        ] {
            assert_eq!(reachable(all(&[inside]), 443, &[]), None, "{inside}");
        }
        let mixed = reachable(all(&["10.0.0.1", "1.1.1.1", "1.1.1.1"]), 443, &[]);
        assert_eq!(
            mixed,
            Some(vec![([1, 1, 1, 1], 443).into()]),
            "only what is public is tried"
        );
        assert_eq!(reachable(Vec::new(), 443, &[]), Some(Vec::new()));
    }

    #[test]
    fn the_operator_opens_what_is_private() {
        let opened = ["127.0.0.1:8443".parse().expect("one")];
        let to = |port| reachable(all(&["127.0.0.1"]), port, &opened);
        assert_eq!(to(8443), Some(vec![([127, 0, 0, 1], 8443).into()]));
        assert_eq!(to(8444), None);
    }

    #[test]
    fn the_host_knows_its_own_addresses() {
        assert!(is_own(([127, 0, 0, 1], 443).into()));
        assert!(!is_own(([192, 0, 2, 1], 443).into()));
    }

    #[tokio::test]
    async fn the_operators_names_are_not_asked_for() {
        let own = BTreeMap::from([("git.internal".to_owned(), IpAddr::from([10, 0, 0, 5]))]);
        let found = HostResolver::new(own).resolve("git.internal".into()).await;
        assert_eq!(found.expect("it is known"), all(&["10.0.0.5"]));
    }
}
