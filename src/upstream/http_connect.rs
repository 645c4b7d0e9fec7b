//! How connections to an HTTP child are made: over the host's loopback, or over that of its own network namespace; and
//! those to a server elsewhere.

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::ClientConfig;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tower::Service;

use super::remote_connect::{Dial, TcpOnly};
use crate::runtime::Workload;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// To a server elsewhere: its name, its address and the agreement of TLS together.
const REMOTE_CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Sockets that are made at once: a pool opens several connections after each other.
const SOCKETS_AT_ONCE: u8 = 4;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Connection = MaybeHttpsStream<TokioIo<TcpStream>>;
type Connecting = Pin<Box<dyn Future<Output = Result<Connection, BoxError>> + Send>>;

/// Makes connections to one child.
#[derive(Clone)]
pub struct ChildConnector(Way);

#[derive(Clone)]
enum Way {
    Host(HttpConnector),
    Inside(Arc<Inside>),
    Elsewhere(HttpsConnector<TcpOnly>),
}

/// A child whose loopback is its own.
struct Inside {
    addr: SocketAddr,
    workload: Workload,
    /// Made and not yet used.
    sockets: Mutex<Vec<OwnedFd>>,
}

impl ChildConnector {
    /// To the child at `addr`; `inside`: that is an address of its own network namespace.
    #[must_use]
    pub fn new(addr: SocketAddr, inside: Option<Workload>) -> Self {
        Self(match inside {
            Some(workload) => Way::Inside(Arc::new(Inside {
                addr,
                workload,
                sockets: Mutex::default(),
            })),
            None => {
                let mut connector = HttpConnector::new();
                connector.set_nodelay(true);
                connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
                Way::Host(connector)
            }
        })
    }

    /// To a server elsewhere.
    #[must_use]
    pub fn elsewhere(dial: Dial, tls: Arc<ClientConfig>) -> Self {
        Self(Way::Elsewhere((TcpOnly(dial), tls).into()))
    }
}

impl Service<Uri> for ChildConnector {
    type Response = Connection;
    type Error = BoxError;
    type Future = Connecting;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.0 {
            Way::Host(connector) => connector.poll_ready(cx).map_err(Into::into),
            Way::Inside(_) => Poll::Ready(Ok(())),
            Way::Elsewhere(connector) => connector.poll_ready(cx),
        }
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        match &mut self.0 {
            Way::Host(connector) => {
                let connecting = connector.call(uri);
                Box::pin(async move { Ok(connecting.await?.into()) })
            }
            Way::Inside(inside) => {
                let inside = Arc::clone(inside);
                Box::pin(async move {
                    let connected = timeout(CONNECT_TIMEOUT, inside.connect()).await;
                    let stream =
                        connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                    Ok(TokioIo::new(stream).into())
                })
            }
            Way::Elsewhere(connector) => {
                let connecting = connector.call(uri);
                Box::pin(async move {
                    let connected = timeout(REMOTE_CONNECT_TIMEOUT, connecting).await;
                    connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
                })
            }
        }
    }
}

impl Inside {
    async fn connect(&self) -> io::Result<TcpStream> {
        let stocked = self.stock().pop();
        let socket = match stocked {
            Some(socket) => socket,
            None => {
                let made = self.workload.sockets_inside(SOCKETS_AT_ONCE).await;
                let mut made = made.map_err(io::Error::other)?;
                let first = made.pop();
                self.stock().append(&mut made);
                first.ok_or_else(|| io::Error::other("the keeper made no socket"))?
            }
        };
        let stream = TcpSocket::from_std_stream(socket.into())
            .connect(self.addr)
            .await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn stock(&self) -> std::sync::MutexGuard<'_, Vec<OwnedFd>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
