//! The server loop: a TCP listener, an optional unix socket, bounded connections, orderly shutdown.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener, UnixStream},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::{
    config::ApiConfig,
    connections::{
        Place, Room,
        first_request::{FirstRequest, FirstRequests, no_place_after},
    },
};

/// How long a client may take for the head of a request; it also ends idle kept-alive connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest head of a request.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long requests under way are waited for at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Rest after a failed accept (no descriptors left), so that the loop does not spin.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The bound sockets of the API.
pub struct Listeners {
    /// What all clients reach.
    pub tcp: TcpListener,
    /// What those of this host reach, where it is configured.
    pub unix: Option<UnixSocket>,
}

/// A unix socket in its place.
pub struct UnixSocket {
    /// The socket itself.
    pub listener: UnixListener,
    /// Its place.
    pub path: PathBuf,
    /// Whether the place stays when we end, because another process holds the socket as well.
    pub stays: Arc<AtomicBool>,
}

impl Listeners {
    /// The address that TCP clients use, with the port that was picked.
    ///
    /// # Errors
    /// When the kernel does not tell it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// Binds the address that the configuration names.
///
/// # Errors
/// One sentence that names it.
pub async fn bind_tcp(config: &ApiConfig) -> io::Result<TcpListener> {
    let address = SocketAddr::new(config.address, config.port);
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

/// Binds a unix socket. It is made with mode 0600 beside `path`, under that name and the number of this process, and put
/// in place by a rename, so it is never there with another mode; a dead one of an earlier daemon is replaced, a living
/// one is not.
///
/// # Errors
/// One sentence that names the path.
pub async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    try_bind_unix(path).await.map_err(|error| {
        let text = format!("cannot listen on {}: {error}", path.display());
        io::Error::new(error.kind(), text)
    })
}

async fn try_bind_unix(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let is_alive = match UnixStream::connect(path).await {
        Ok(_) => true,
        // Its queue is full (connect(2)).
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    };
    if is_alive {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another daemon answers there",
        ));
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    // Left over from a crash of a process with our number: ours to remove, and it may not be there.
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

/// Serves `router` until `shutdown`, to as many connections as `room` has places for; then lets requests under way end (10 s at most), waits for `mutations`, and
/// removes the unix socket unless that stays.
pub async fn serve(
    listeners: Listeners,
    router: Router,
    mutations: TaskTracker,
    room: Arc<Room>,
    first: FirstRequests,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    let Listeners { tcp, unix } = listeners;
    let all = Shared {
        shutdown: &shutdown,
        room: &room,
        connections: &connections,
        router: &router,
        first: &first,
    };
    let tcp_loop = all.accept_from(|| async {
        let (stream, peer) = tcp.accept().await?;
        // Small JSON answers must not wait for Nagle; a socket that refuses this is broken and will fail by itself.
        let _ = stream.set_nodelay(true);
        Ok((stream, Some(peer)))
    });
    match &unix {
        Some(socket) => {
            let unix_loop =
                all.accept_from(|| async { Ok((socket.listener.accept().await?.0, None)) });
            tokio::join!(tcp_loop, unix_loop);
        }
        None => tcp_loop.await,
    }
    drop(tcp);
    if let Some(socket) = unix.filter(|socket| !socket.stays.load(Ordering::Relaxed)) {
        // Already gone is as good.
        let _ = std::fs::remove_file(socket.path);
    }
    connections.close();
    mutations.close();
    let drained = async {
        connections.wait().await;
        mutations.wait().await;
    };
    if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            mutations = mutations.len(),
            "requests were still under way at shutdown"
        );
    }
}

/// What the listeners have in common.
struct Shared<'a> {
    shutdown: &'a CancellationToken,
    room: &'a Arc<Room>,
    connections: &'a TaskTracker,
    router: &'a Router,
    first: &'a FirstRequests,
}

impl Shared<'_> {
    async fn accept_from<S, F>(&self, accept: impl Fn() -> F)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = io::Result<(S, Option<SocketAddr>)>>,
    {
        let _takes = self.first.listener();
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                accepted = accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let first = self.first.connection();
                    // Further ones wait in the kernel's queue meanwhile.
                    let place = tokio::select! {
                        biased;
                        () = no_place_after(self.shutdown) => return,
                        place = self.room.enter() => place,
                    };
                    let (router, shutdown) = (self.router.clone(), self.shutdown.clone());
                    let held = Connection {
                        tasks: self.connections.clone(),
                        place: Arc::new(place),
                    };
                    let room = Arc::clone(self.room);
                    let talk = connection(stream, peer, router, room, first, held, shutdown);
                    self.connections.spawn(talk);
                }
                Err(error) => {
                    self.room.failed(&"the API", &error);
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    }
}

/// The connection of a request, among the extensions of the request: for what goes on when HTTP is over.
#[derive(Debug, Clone)]
pub struct Connection {
    tasks: TaskTracker,
    place: Arc<Place>,
}

impl Connection {
    /// Runs `work` as a part of the connection: it holds its place, and [`serve`] waits for it at shutdown.
    pub fn go_on(&self, work: impl Future<Output = ()> + Send + 'static) {
        let place = Arc::clone(&self.place);
        self.tasks.spawn(async move {
            work.await;
            drop(place);
        });
    }
}

/// `peer`: `None` on the unix socket; else the handlers see it as [`ConnectInfo`].
async fn connection<S>(
    stream: S,
    peer: Option<SocketAddr>,
    router: Router,
    room: Arc<Room>,
    first: FirstRequest,
    held: Connection,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let rest = Arc::new(Rest::default());
    let seen = Arc::clone(&rest);
    let first = Arc::new(first);
    let asked = Arc::clone(&first);
    let service =
        hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            if let Some(peer) = peer {
                request.extensions_mut().insert(ConnectInfo(peer));
            }
            request.extensions_mut().insert(held.clone());
            seen.begin();
            let (seen, asked) = (Arc::clone(&seen), Arc::clone(&asked));
            let answer = router.clone().oneshot(request.map(Body::new));
            async move {
                let answer = asked.answering(pin!(answer)).await;
                seen.end();
                answer
            }
        });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.cancelled() => {
            tokio::select! {
                ended = serving.as_mut() => ended,
                () = first.waited_for() => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            }
        }
        () = rest.goes(&room) => {
            if !rest.was_used() {
                // It never said anything, so nobody waits for a word.
                return;
            }
            // An answer that is still being streamed comes to its end.
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended early: {error}");
    }
}

/// Since when a connection has had no request.
struct Rest(Mutex<(bool, Option<Instant>)>);

impl Default for Rest {
    fn default() -> Self {
        Self(Mutex::new((false, Some(Instant::now()))))
    }
}

impl Rest {
    fn set(&self, used: bool, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (used, since);
    }

    fn get(&self) -> (bool, Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) {
        self.set(true, None);
    }

    /// The head of the answer is there.
    fn end(&self) {
        self.set(true, Some(Instant::now()));
    }

    fn was_used(&self) -> bool {
        self.get().0
    }

    /// Resolves when this connection is to give up its place for others.
    async fn goes(&self, room: &Room) {
        loop {
            room.asked().await;
            if let (used, Some(since)) = self.get()
                && room.may_go(used, since)
            {
                return;
            }
        }
    }
}
