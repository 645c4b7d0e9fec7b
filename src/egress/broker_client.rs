//! The broker's connections to a service: TLS by the host's certificates, to public addresses alone.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use reqwest::{
    Client,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::sync::OnceCell;

use super::{
    Outside,
    ledger::{Ledger, Why},
    relay, resolve,
};
use crate::domain::{broker::Upstream, egress::HostPattern};

/// How long a service may take to be connected to, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a connection is kept for the next request.
const KEPT: Duration = Duration::from_secs(60);
/// Connections that are kept.
const KEPT_MAX: usize = 4;

/// The host's certificates, read once.
static TLS: OnceCell<ClientConfig> = OnceCell::const_new();

async fn tls() -> Result<ClientConfig, String> {
    let read = || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_platform_verifier()
            .map(|builder| builder.with_no_client_auth())
    };
    let config = TLS.get_or_try_init(|| async move {
        // Many files may be read.
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.map_err(|cause| cause.to_string())?;
        read.map_err(|cause| format!("the certificates of this host cannot be used: {cause}"))
    });
    config.await.cloned()
}

/// A client for one service, of one child.
pub(super) async fn client(
    upstream: &Upstream,
    outside: Arc<Outside>,
    ledger: Arc<Ledger>,
) -> Result<Client, String> {
    let public = Public {
        port: upstream.port,
        authority: upstream.authority(),
        outside,
        ledger,
    };
    Client::builder()
        .tls_backend_preconfigured(tls().await?)
        .http1_only()
        .no_proxy()
        .redirect(Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(relay::IDLE)
        .pool_idle_timeout(KEPT)
        .pool_max_idle_per_host(KEPT_MAX)
        .dns_resolver(public)
        .build()
        .map_err(|cause| cause.without_url().to_string())
}

/// Whether a service that is an address may be connected to; one that is a name is looked at when it is resolved.
pub(super) fn is_reachable(upstream: &Upstream, outside: &Outside) -> bool {
    match upstream.host {
        HostPattern::Address(address) => {
            resolve::reachable(vec![address], upstream.port, &outside.opened).is_some()
        }
        _ => true,
    }
}

/// Resolves a name to addresses that are not private.
struct Public {
    port: u16,
    authority: String,
    outside: Arc<Outside>,
    ledger: Arc<Ledger>,
}

impl Resolve for Public {
    fn resolve(&self, name: Name) -> Resolving {
        let (outside, ledger) = (Arc::clone(&self.outside), Arc::clone(&self.ledger));
        let (port, authority) = (self.port, self.authority.clone());
        Box::pin(async move {
            let found = outside.resolver.resolve(name.as_str().into()).await?;
            let Some(reachable) = resolve::reachable(found, port, &outside.opened) else {
                ledger.refuse(&authority, Why::Private, outside.clock.now());
                return Err(io::Error::from(io::ErrorKind::PermissionDenied).into());
            };
            let addresses: Vec<SocketAddr> = reachable;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
