//! Access ports: one accept task per listener, one task per connection.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    rt::{Read, ReadBufCursor, Write},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    connections::Room, domain::id::InstanceId, supervisor::route::AccessEvent, upstream::Aside,
};

use super::{Approach, Gateway, Peer, Place};

/// Most connections of one access port.
const CONNECTIONS_MAX: usize = 512;
/// How often a connection's progress is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a request head may take.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// How long a connection may rest between two requests.
const REST_MAX: Duration = Duration::from_secs(15 * 60);
/// How long connections get to end when a listener closes.
const CLOSE_GRACE: Duration = Duration::from_secs(5);
/// How often idle sessions are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

impl Gateway {
    /// Serves access ports as `events` tells, to as many connections as `room` has places for, until `shutdown`; then takes no further connection, lets the calls under way
    /// come to their answers, for `gateway.drain_timeout` at most, and ends what has no end of its own.
    pub async fn run(
        self: Arc<Self>,
        mut events: mpsc::Receiver<AccessEvent>,
        room: Arc<Room>,
        shutdown: CancellationToken,
    ) {
        let tracker = TaskTracker::new();
        let mut open: HashMap<InstanceId, Closing> = HashMap::new();
        let mut sweep = interval(SWEEP_EVERY);
        loop {
            let event = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                event = events.recv() => event,
                _ = sweep.tick() => {
                    self.sweep_sessions();
                    continue;
                }
            };
            match event {
                None => break,
                Some(AccessEvent::Open { route, listener }) => {
                    let id = route.id;
                    let listener = listener
                        .set_nonblocking(true)
                        .and_then(|()| TcpListener::from_std(listener));
                    match listener {
                        Ok(listener) => {
                            let closing = Closing::default();
                            if let Some(older) = open.insert(id, closing.clone()) {
                                older.close();
                            }
                            let place = self.place(&route);
                            let gateway = self.clone();
                            let (connections, room) = (tracker.clone(), room.clone());
                            tracker.spawn(async move {
                                gateway
                                    .accept(place, listener, closing, connections, room)
                                    .await;
                            });
                        }
                        Err(error) => {
                            tracing::error!(instance = %id, %error, "an access port cannot be served");
                        }
                    }
                }
                Some(AccessEvent::TokensChanged { id }) => self.end_sessions_of_ended_tokens(id),
                Some(AccessEvent::Close { id }) => {
                    if let Some(closing) = open.remove(&id) {
                        closing.close();
                    }
                    self.forget_place(id);
                }
            }
        }
        if let Some(kept) = self.kept.get() {
            // What ends now goes on under the next daemon.
            kept.stop();
        }
        for closing in open.values() {
            closing.drain.cancel();
        }
        self.drain().await;
        for closing in open.values() {
            closing.close();
        }
        // Standing streams have no end of their own.
        let ids: Vec<InstanceId> = self.places().keys().copied().collect();
        for id in ids {
            self.forget_place(id);
        }
        tracker.close();
        if timeout(CLOSE_GRACE, tracker.wait()).await.is_err() {
            tracing::debug!("some access connections did not end in time");
        }
    }

    async fn accept(
        self: Arc<Self>,
        place: Arc<Place>,
        listener: TcpListener,
        closing: Closing,
        connections: TaskTracker,
        room: Arc<Room>,
    ) {
        let count = Arc::new(AtomicUsize::new(0));
        let mut state = place.route.state.clone();
        let mut watching = true;
        loop {
            let accepted = tokio::select! {
                biased;
                () = closing.drain.cancelled() => return,
                changed = state.changed(), if watching => {
                    watching = changed.is_ok();
                    place.attach_present(&mut state);
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    if count.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
                        refuse(&stream);
                        continue;
                    }
                    // Without it, small answers wait 40 ms for the client's acknowledgement.
                    let _ = stream.set_nodelay(true);
                    let counted = Counted::new(count.clone());
                    let seat = {
                        let mut entering = pin!(room.enter());
                        loop {
                            tokio::select! {
                                biased;
                                () = closing.drain.cancelled() => return,
                                changed = state.changed(), if watching => {
                                    watching = changed.is_ok();
                                    place.attach_present(&mut state);
                                }
                                seat = &mut entering => break seat,
                            }
                        }
                    };
                    let (gateway, place) = (self.clone(), place.clone());
                    let (closing, room) = (closing.clone(), room.clone());
                    connections.spawn(async move {
                        gateway.converse(place, stream, peer, closing, &room).await;
                        drop((counted, seat));
                    });
                }
                Err(error) => {
                    // Out of descriptors, mostly: a pause lets others give some back.
                    room.failed(&format_args!("instance {}", place.route.id), &error);
                    tokio::select! {
                        () = sleep(Duration::from_millis(100)) => {}
                        () = closing.drain.cancelled() => return,
                    }
                }
            }
        }
    }

    async fn converse(
        self: Arc<Self>,
        place: Arc<Place>,
        stream: TcpStream,
        peer: SocketAddr,
        closing: Closing,
        room: &Room,
    ) {
        let pulse = Arc::new(Pulse::default());
        let io = Watched {
            inner: TokioIo::new(stream),
            pulse: pulse.clone(),
        };
        let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
            let (gateway, place) = (&self, &place);
            let under_way = UnderWay::begin(&pulse);
            async move {
                let uri = request.uri().clone();
                let approach = Approach {
                    sites: &gateway.sites,
                    peer: Peer::Tcp(peer.ip()),
                    mount: "",
                    path: uri.path(),
                    public: None,
                };
                let reply = gateway.serve(Some(place), &approach, request).await;
                drop(under_way);
                Ok::<_, Infallible>(reply)
            }
        });
        let mut connection = pin!(
            http1::Builder::new()
                .header_read_timeout(None)
                .max_buf_size(128 << 10)
                .serve_connection(io, service)
        );
        let mut watchdog = Watchdog::new(&pulse);
        loop {
            let mut order = Aside::new(watchdog.order(&pulse, &closing, room));
            let order = poll_fn(|cx| match connection.as_mut().poll(cx) {
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending => order.poll(cx).map(Some),
            });
            match order.await {
                None | Some(Order::Drop) => return,
                Some(Order::Finish) => connection.as_mut().graceful_shutdown(),
                Some(Order::Close) => {
                    connection.as_mut().graceful_shutdown();
                    let _ = timeout(CLOSE_GRACE, connection.as_mut()).await;
                    return;
                }
            }
        }
    }
}

/// How the connections of a listener end.
#[derive(Clone, Default)]
struct Closing {
    /// No further request is taken; those under way come to their end.
    drain: CancellationToken,
    /// What is still there a few seconds later is cut.
    close: CancellationToken,
}

impl Closing {
    fn close(&self) {
        self.drain.cancel();
        self.close.cancel();
    }
}

fn refuse(stream: &TcpStream) {
    let _ = stream.try_write(
        b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    );
}

struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a connection did, counted by its task alone; cheaper than a timer per request.
#[derive(Default)]
struct Pulse {
    reads: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
}

/// Counts one more; nobody else counts here.
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

struct UnderWay<'a>(&'a Pulse);

impl<'a> UnderWay<'a> {
    fn begin(pulse: &'a Pulse) -> Self {
        count(&pulse.begun);
        Self(pulse)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        count(&self.0.ended);
    }
}

/// What becomes of a connection.
enum Order {
    /// It ends when the answer under way is out, as soon as its client says no more.
    Finish,
    /// The same, and soon: its listener closes.
    Close,
    /// It ends now.
    Drop,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// No request for long: it may end.
    Rested,
    /// A request head does not come to its end.
    Stalled,
}

/// Finds connections that send a head drop by drop, and those that nobody uses.
struct Watchdog {
    ended: u64,
    read_at_end: u64,
    since: Instant,
    begun_ever: bool,
    drains: bool,
}

impl Watchdog {
    fn new(pulse: &Pulse) -> Self {
        Self {
            ended: pulse.ended.load(Ordering::Relaxed),
            read_at_end: 0,
            since: Instant::now(),
            begun_ever: false,
            drains: false,
        }
    }

    /// Waits until something must happen to the connection.
    async fn order(&mut self, pulse: &Pulse, closing: &Closing, room: &Room) -> Order {
        loop {
            tokio::select! {
                biased;
                () = closing.close.cancelled() => return Order::Close,
                () = closing.drain.cancelled(), if !self.drains => {
                    self.drains = true;
                    return Order::Finish;
                }
                () = room.asked(), if !self.drains => {}
                () = sleep(LOOK_EVERY) => {}
            }
            match self.look(pulse) {
                Verdict::Fine if !self.drains && self.may_go(pulse, room) => {
                    // An answer that is still being streamed comes to its end.
                    self.drains = true;
                    return if self.begun_ever {
                        Order::Finish
                    } else {
                        Order::Drop
                    };
                }
                Verdict::Fine => {}
                Verdict::Rested => return Order::Finish,
                Verdict::Stalled => return Order::Drop,
            }
        }
    }

    /// Whether it is to give up its place for others, after a look.
    fn may_go(&self, pulse: &Pulse, room: &Room) -> bool {
        let rests = pulse.begun.load(Ordering::Relaxed) == self.ended;
        rests && room.may_go(self.begun_ever, self.since)
    }

    fn look(&mut self, pulse: &Pulse) -> Verdict {
        let (begun, ended, read) = (
            pulse.begun.load(Ordering::Relaxed),
            pulse.ended.load(Ordering::Relaxed),
            pulse.reads.load(Ordering::Relaxed),
        );
        if begun != ended || ended != self.ended {
            self.ended = ended;
            self.read_at_end = read;
            self.since = Instant::now();
            self.begun_ever = true;
            return Verdict::Fine;
        }
        let waited = self.since.elapsed();
        let in_head = read != self.read_at_end || !self.begun_ever;
        if in_head && waited >= HEAD_MAX {
            Verdict::Stalled
        } else if waited >= REST_MAX {
            Verdict::Rested
        } else {
            Verdict::Fine
        }
    }
}

/// An answer up to this length, its head included, is written in one piece.
const ONE_PIECE_BYTES: usize = 2_048;

/// Counts the reads, and writes small answers in one piece: to gather head and body in the kernel costs more.
struct Watched {
    inner: TokioIo<TcpStream>,
    pulse: Arc<Pulse>,
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if polled.is_ready() {
            count(&self.pulse.reads);
        }
        polled
    }
}

impl Write for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = bufs.iter().map(|part| part.len()).sum();
        if bufs.len() > 1 && length <= ONE_PIECE_BYTES {
            let mut piece = [0; ONE_PIECE_BYTES];
            let mut end = 0;
            for part in bufs {
                piece[end..end + part.len()].copy_from_slice(part);
                end += part.len();
            }
            return Pin::new(&mut self.inner).poll_write(cx, &piece[..end]);
        }
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
}
