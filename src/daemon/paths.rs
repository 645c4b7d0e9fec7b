//! The path gateway on the API's listeners.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
    routing::any,
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::auth,
    config::Config,
    connections::Shares,
    domain::principal::Principal,
    gateway::{Gateway, PathGateway, Peer, Routes},
    supervisor::{Supervisor, route::Route},
};

/// The instances of one owner, by name and id.
struct OwnersRoutes {
    supervisor: Supervisor,
    who: Principal,
}

impl Routes for OwnersRoutes {
    fn find(&self, name_or_id: &str) -> Option<Arc<Route>> {
        self.supervisor.route(&self.who, name_or_id)
    }

    fn all(&self, most: usize) -> Vec<Arc<Route>> {
        self.supervisor.routes(most)
    }
}

/// `/i/…` and the catalogue, to be merged into the router of the API.
pub(super) fn router(
    gateway: Arc<Gateway>,
    config: &Config,
    supervisor: Supervisor,
    shares: Shares,
    shutdown: CancellationToken,
) -> Router {
    // A quarter of the API's connections is never taken by streams.
    let most = shares.api - shares.api / 4;
    let who = auth::administrator();
    let routes = Box::new(OwnersRoutes { supervisor, who });
    let address = config.api.address;
    let paths = PathGateway::new(gateway, &config.gateway, address, routes, most, shutdown);
    let paths = Arc::new(paths);
    let answer = move |request: Request| {
        let paths = Arc::clone(&paths);
        let peer = match request.extensions().get::<ConnectInfo<SocketAddr>>() {
            Some(ConnectInfo(peer)) => Peer::Tcp(peer.ip()),
            None => Peer::Unix,
        };
        async move { paths.answer(peer, request).await.map(Body::new) }
    };
    Router::new()
        .route("/i/{*path}", any(answer.clone()))
        .route("/.well-known/ai-catalog.json", any(answer))
}
