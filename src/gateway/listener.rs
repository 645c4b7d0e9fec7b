//! Access ports: one accept task per listener, one task per connection.

use std::{
    cell::RefCell,
    collections::HashMap,
    convert::Infallible,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
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
    time::{interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    connections::{
        Room,
        first_request::{FirstRequest, FirstRequests, no_place_after},
    },
    domain::id::InstanceId,
    supervisor::route::AccessEvent,
    upstream::Aside,
};

use super::{
    Approach, Gateway, Peer, Place,
    own_wakes::OwnWakes,
    watchdog::{Closing, Order, Pulse, UnderWay, Watchdog, count},
};

/// Most connections of one access port.
const CONNECTIONS_MAX: usize = 512;
/// How long connections get to end when a listener closes.
const CLOSE_GRACE: Duration = Duration::from_secs(5);
/// How often idle sessions are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

impl Gateway {
    /// Serves access ports as `events` tells, to as many connections as `room` has places for, until `shutdown`; then takes no further connection, lets the calls under way
    /// come to their answers, for `gateway.drain_timeout` at most, and ends what has no end of its own. Of `first` are all
    /// listeners by which requests reach it.
    pub async fn run(
        self: Arc<Self>,
        mut events: mpsc::Receiver<AccessEvent>,
        room: Arc<Room>,
        first: FirstRequests,
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
                    let closing = Closing::default();
                    if let Some(older) = open.insert(id, closing.clone()) {
                        older.close();
                    }
                    let place = self.place(&route);
                    let gateway = self.clone();
                    let (connections, room) = (tracker.clone(), room.clone());
                    let first = first.clone();
                    tracker.spawn(async move {
                        gateway
                            .accept(&place, &listener, &closing, &connections, &room, &first)
                            .await;
                    });
                }
                Some(AccessEvent::TokensChanged { id }) => self.end_sessions_of_ended_tokens(id),
                Some(AccessEvent::ListsChanged {
                    id,
                    generation,
                    news,
                }) => self.tell_lists_changed(id, generation, &news),
                Some(AccessEvent::Close { id }) => {
                    if let Some(closing) = open.remove(&id) {
                        closing.close();
                    }
                    self.forget_place(id);
                }
            }
        }
        for closing in open.values() {
            closing.drain.cancel();
        }
        first.over().await;
        self.drain().await;
        if let Some(kept) = self.kept.get() {
            // What ends now goes on under the next daemon.
            kept.stop();
            for place in self.places().values() {
                place.table.let_go();
            }
        }
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
        self: &Arc<Self>,
        place: &Arc<Place>,
        listener: &TcpListener,
        closing: &Closing,
        connections: &TaskTracker,
        room: &Arc<Room>,
        first: &FirstRequests,
    ) {
        let _takes = first.listener();
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
                    let (counted, first) = (Counted::new(count.clone()), first.connection());
                    // On the heap while it lasts: a thousand ports that wait should not each keep room for it.
                    let seat = Box::pin(async {
                        let mut entering = pin!(room.enter());
                        let mut gone = pin!(no_place_after(&closing.drain));
                        loop {
                            tokio::select! {
                                biased;
                                () = &mut gone => return None,
                                changed = state.changed(), if watching => {
                                    watching = changed.is_ok();
                                    place.attach_present(&mut state);
                                }
                                seat = &mut entering => return Some(seat),
                            }
                        }
                    });
                    let Some(seat) = seat.await else { return };
                    let (gateway, place) = (self.clone(), place.clone());
                    let (closing, room) = (closing.clone(), room.clone());
                    connections.spawn(async move {
                        let talk = gateway.converse(place, stream, peer, closing, &room, &first);
                        talk.await;
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
        first: &FirstRequest,
    ) {
        let pulse = Arc::new(Pulse::default());
        let io = Watched {
            inner: TokioIo::new(stream),
            pulse: pulse.clone(),
        };
        let wakes = OwnWakes::new();
        let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
            let (gateway, place) = (&self, &place);
            let under_way = UnderWay::begin(&pulse);
            let (parts, body) = request.into_parts();
            let body = wakes.body(body);
            wakes.answering(async move {
                let approach = Approach {
                    sites: &gateway.sites,
                    peer: Peer::Tcp(peer.ip()),
                    mount: "",
                    path: parts.uri.path(),
                    public: None,
                };
                let reply = pin!(gateway.serve(Some(place), &approach, &parts, body));
                let reply = first.answering(reply).await;
                drop(under_way);
                Ok::<_, Infallible>(reply)
            })
        });
        let mut connection = pin!(
            http1::Builder::new()
                .header_read_timeout(None)
                .max_buf_size(128 << 10)
                .serve_connection(io, service)
        );
        let mut watchdog = Watchdog::new(&pulse);
        loop {
            let mut order = Aside::new(watchdog.order(&pulse, &closing, room, first));
            let order = poll_fn(|cx| match wakes.poll(connection.as_mut(), cx) {
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

/// An answer up to this length, its head included, is written in one piece.
const ONE_PIECE_BYTES: usize = 2_048;

thread_local! {
    /// Where it is put together: per thread, so that what is written was touched by the answer before.
    static ONE_PIECE: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(ONE_PIECE_BYTES));
}

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
            return ONE_PIECE.with_borrow_mut(|piece| {
                piece.clear();
                for part in bufs {
                    piece.extend_from_slice(part);
                }
                Pin::new(&mut self.inner).poll_write(cx, piece)
            });
        }
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
}
