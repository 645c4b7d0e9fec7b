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
    config::Config,
    connections::Shares,
    gateway::{Gateway, PathGateway, Peer, Routes},
    supervisor::{Supervisor, route::Route},
};

/// The instances of all owners, by slug and id.
struct AllRoutes(Supervisor);

impl Routes for AllRoutes {
    fn find(&self, slug_or_id: &str) -> Option<Arc<Route>> {
        self.0.route(slug_or_id)
    }

    fn all(&self, most: usize) -> Vec<Arc<Route>> {
        self.0.routes(most)
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
    let routes = Box::new(AllRoutes(supervisor));
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
