//! The way to a server elsewhere, which the daemon itself speaks with on behalf of one instance: by the same rules as
//! the ways of children. The name is resolved here, and what was checked is what is connected to: whoever owns the name
//! cannot have it lead inside in between.

use std::{fmt, io, net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;

use super::{Ledger, Outside, connection, ledger::Why, resolve};
use crate::domain::{
    egress::{Egress, HostPattern, HostRule},
    private_address::is_private,
};

/// Makes connections to the one host and port of a server elsewhere.
pub struct Dialer {
    outside: Arc<Outside>,
    ledger: Arc<Ledger>,
    egress: Egress,
    to: HostRule,
    is_encrypted: bool,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum DialError {
    /// It may not be reached, in words that go on from "it is not connected to, because".
    Refused(String),
    /// Nobody's decision.
    Failed(io::Error),
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => write!(f, "it is not connected to, because {why}"),
            Self::Failed(cause) => write!(f, "{cause}"),
        }
    }
}

impl std::error::Error for DialError {}

impl Dialer {
    /// To the host of `to`, less what the operator denies. What is reached and refused goes into `ledger`.
    /// `is_encrypted`: TLS is spoken over it; without it only private addresses, which the operator opened, are
    /// reached.
    #[must_use]
    pub fn new(
        outside: Arc<Outside>,
        ledger: Arc<Ledger>,
        to: HostRule,
        denied: Vec<HostPattern>,
        is_encrypted: bool,
    ) -> Self {
        let egress = Egress {
            hosts: vec![to.clone()],
            denied,
            learns: false,
            brokers: Vec::new(),
        };
        ledger.begin(&egress);
        Self {
            outside,
            ledger,
            egress,
            to,
            is_encrypted,
        }
    }

    /// One connection.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial(&self) -> Result<TcpStream, DialError> {
        let host = self.to.to_string();
        let now = || self.outside.clock.now();
        let refuse = |why: Why| {
            self.ledger.refuse(&host, why, now());
            DialError::Refused(why.words().to_owned())
        };
        let port = self.to.port;
        let addresses = match &self.to.host {
            HostPattern::Name(name) => {
                let allowed = self.egress.connects(name, port);
                allowed.map_err(|refused| refuse(refused.into()))?;
                let found = self.outside.resolver.resolve(name.as_str().into()).await;
                found.map_err(|cause| {
                    let text = format!("the name {name} has no address: {cause}");
                    DialError::Failed(io::Error::new(cause.kind(), text))
                })?
            }
            HostPattern::Address(address) => {
                let allowed = self.egress.connects_to(*address, port);
                allowed.map_err(|refused| refuse(refused.into()))?;
                vec![*address]
            }
            HostPattern::OneLabelBelow(_) | HostPattern::AnyName => {
                return Err(DialError::Refused("it names no single host".to_owned()));
            }
        };
        let reachable = resolve::reachable(addresses, port, &self.outside.opened);
        let reachable = reachable.ok_or_else(|| refuse(Why::Private))?;
        let in_the_clear = |to: &SocketAddr| !self.is_encrypted && !is_private(to.ip());
        if reachable.iter().any(in_the_clear) {
            let why = "its URL begins with http://, and over a public network everybody could read what is said";
            return Err(DialError::Refused(why.to_owned()));
        }
        let stream = connection::connect(&reachable).await;
        let stream = stream.map_err(|cause| {
            let text = format!("{host} cannot be connected to: {cause}");
            DialError::Failed(io::Error::new(cause.kind(), text))
        })?;
        self.ledger.reach(&host, now());
        stream.set_nodelay(true).map_err(DialError::Failed)?;
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        net::{IpAddr, TcpListener},
    };

    use super::*;
    use crate::{clock::Clock, egress::HostResolver};

    fn outside(names: &[(&str, &str)], opened: &[&str]) -> Arc<Outside> {
        let names = names.iter().map(|(name, address)| {
            let address: IpAddr = address.parse().expect("an address");
            ((*name).to_owned(), address)
        });
        let opened = opened.iter().map(|text| text.parse().expect("a network"));
        Arc::new(Outside {
            resolver: Arc::new(HostResolver::new(names.collect::<BTreeMap<_, _>>())),
            opened: opened.collect(),
            connections_max: 1,
            sent_bytes_per_hour: 1,
            clock: Clock::System,
        })
    }

    async fn dial(
        outside: &Arc<Outside>,
        to: &str,
        denied: &[&str],
        is_encrypted: bool,
    ) -> (Result<TcpStream, DialError>, Arc<Ledger>) {
        let ledger = Arc::<Ledger>::default();
        let denied = denied.iter().map(|text| text.parse().expect("a pattern"));
        let dialer = Dialer::new(
            Arc::clone(outside),
            Arc::clone(&ledger),
            to.parse().expect("a rule"),
            denied.collect(),
            is_encrypted,
        );
        (dialer.dial().await, ledger)
    }

    #[tokio::test]
    async fn what_leads_inside_is_refused_unless_the_operator_opened_it() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let names = [("mcp.example.com", "127.0.0.1")];
        let to = format!("mcp.example.com:{port}");
        for to in [
            &to,
            &format!("127.0.0.1:{port}"),
            &format!("[::ffff:127.0.0.1]:{port}"),
        ] {
            let (refused, ledger) = dial(&outside(&names, &[]), to, &[], true).await;
            let text = refused.expect_err("private").to_string();
            assert!(text.contains("sandbox.allow_private"), "{text}");
            assert_eq!(ledger.report().expect("begun").refused, 1);
        }
        let opened = outside(&names, &["127.0.0.1"]);
        for is_encrypted in [true, false] {
            let (reached, ledger) = dial(&opened, &to, &[], is_encrypted).await;
            assert_eq!(
                reached.expect("opened").peer_addr().expect("ours").port(),
                port
            );
            assert_eq!(ledger.report().expect("begun").reached_hosts[0].host, to);
        }
        let (denied, _) = dial(&opened, &to, &["*.example.com"], true).await;
        let text = denied.expect_err("denied").to_string();
        assert!(text.contains("sandbox.deny_hosts"), "{text}");
    }

    #[tokio::test]
    async fn nothing_goes_over_a_public_network_in_the_clear() {
        let names = [("mcp.example.com", "1.1.1.1")];
        let (refused, _) = dial(&outside(&names, &[]), "mcp.example.com:80", &[], false).await;
        let text = refused.expect_err("in the clear").to_string();
        assert!(text.contains("http://"), "{text}");
    }

    #[tokio::test]
    async fn a_host_that_does_not_answer_is_named() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let to = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let (failed, _) = dial(&outside(&[], &["127.0.0.1"]), &to, &[], true).await;
        let text = failed.expect_err("nobody listens").to_string();
        assert!(text.starts_with(&to), "{text}");
    }
}
