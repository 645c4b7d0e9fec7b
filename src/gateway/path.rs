//! The path gateway: every instance below `/i/{slug or id}` of the API's listeners, for those who put one TLS name in
//! front of all of them. The very same code answers as on the access ports, with the same tokens and limits.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{
    config::{GatewayConfig, PublicUrl},
    supervisor::route::{Route, RouteState},
};

use super::{Approach, Gateway, GatewayBody, access::Sites, card, forwarded::Peer, reply, target};

/// Most entries of the catalogue.
const ENTRIES_MAX: usize = 1_000;

/// Finds instances. Called on every request: from memory.
pub trait Routes: Send + Sync + 'static {
    /// The instance with this slug or id.
    fn find(&self, slug_or_id: &str) -> Option<Arc<Route>>;
    /// Up to so many of them, in the order of creation.
    fn all(&self, most: usize) -> Vec<Arc<Route>>;
}

/// All instances below one address.
pub struct PathGateway {
    gateway: Arc<Gateway>,
    sites: Sites,
    public: Option<PublicUrl>,
    routes: Box<dyn Routes>,
    turns: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl PathGateway {
    /// Serves `routes` through `gateway` on listeners of `address`, at most `requests_max` at the same time, streams
    /// included: the management API needs connections as well. At `shutdown` streams that have no end of their own end,
    /// and nothing new is taken.
    #[must_use]
    pub fn new(
        gateway: Arc<Gateway>,
        config: &GatewayConfig,
        address: IpAddr,
        routes: Box<dyn Routes>,
        requests_max: usize,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            gateway,
            sites: Sites::behind(config, address),
            public: config.public_url.clone(),
            routes,
            turns: Arc::new(Semaphore::new(requests_max)),
            shutdown,
        }
    }

    /// Answers one request for `/i/…` or for the catalogue.
    pub async fn answer<B>(&self, peer: Peer, request: Request<B>) -> Response<PathBody>
    where
        B: hyper::body::Body<Data = Bytes> + Unpin,
    {
        let turn = match Arc::clone(&self.turns).try_acquire_owned() {
            Ok(turn) => turn,
            Err(_) => {
                let text = "Too many requests are under way here; try again.";
                let mut reply = reply::refused(StatusCode::SERVICE_UNAVAILABLE, text);
                let soon = HeaderValue::from_static("1");
                reply.headers_mut().insert(header::RETRY_AFTER, soon);
                return reply.map(PathBody::plain);
            }
        };
        let (parts, body) = request.into_parts();
        let whole = parts.uri.path();
        let mounted = target::mounted(whole);
        let place = mounted.and_then(|(name, _, _)| {
            let route = self.routes.find(name)?;
            self.gateway.living_place(&route)
        });
        let (mount, path) = mounted.map_or(("", whole), |(_, mount, path)| (mount, path));
        let approach = Approach {
            sites: &self.sites,
            peer,
            mount,
            path,
            public: self.public.as_ref(),
        };
        let reply = if mounted.is_none() && path == "/.well-known/ai-catalog.json" {
            self.catalogue(&approach, &parts)
        } else {
            let served = self.gateway.serve(place.as_ref(), &approach, &parts, body);
            served.await
        };
        let ends = reply
            .body()
            .is_standing()
            .then(|| Box::pin(self.shutdown.clone().cancelled_owned()));
        reply.map(|body| PathBody {
            body,
            turn: Some(turn),
            ends,
        })
    }

    /// The cards of all instances, once they are public; else it is not there.
    fn catalogue(&self, approach: &Approach<'_>, parts: &Parts) -> super::Reply {
        let visitor = match self.gateway.visitor(approach, &parts.headers, true) {
            Ok((visitor, _)) => visitor,
            Err(denied) => return reply::denied(&denied),
        };
        if !self.gateway.config.public_server_cards {
            return super::nothing_here();
        }
        if parts.method != Method::GET {
            return super::not_allowed("GET");
        }
        let (base, host) = approach.base(&visitor, &parts.headers);
        let entries = self
            .routes
            .all(ENTRIES_MAX)
            .iter()
            .filter(|route| !matches!(*route.state.borrow(), RouteState::Gone))
            .map(|route| {
                let name = route.slug.load();
                card::entry(
                    name.as_str(),
                    &route.about.load(),
                    &format!("{base}/i/{name}/mcp"),
                    &host,
                )
            })
            .collect();
        card::catalogue_reply(entries, &parts.headers)
    }
}

/// A body of the gateway that holds its place among the requests under way until it is sent.
pub struct PathBody {
    body: GatewayBody,
    turn: Option<OwnedSemaphorePermit>,
    ends: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl PathBody {
    fn plain(body: GatewayBody) -> Self {
        Self {
            body,
            turn: None,
            ends: None,
        }
    }
}

impl hyper::body::Body for PathBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let over = self
            .ends
            .as_mut()
            .is_some_and(|ends| ends.as_mut().poll(cx).is_ready());
        if over {
            self.ends = None;
            self.body.finish();
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(None) = polled {
            self.turn = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
