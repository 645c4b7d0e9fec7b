//! A TCP relay in front of the test's PostgreSQL that can refuse, cut, stall, and hold a bulk write at a known place.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// What it does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Relays.
    Open,
    /// Cuts the ones there are, and refuses new ones as a host without the service does.
    Refuse,
    /// Keeps them, takes new ones, and lets no byte through in either direction.
    Stall,
    /// Relays, but lets only the beginning of a COPY of log lines through.
    HoldCopy,
    /// Relays, but the server's answer to the commit of a COPY of log lines does not come through.
    HoldCommit,
}

/// The words with which a COPY of log lines begins.
const COPY: &[u8] = b"COPY logs";
/// The word with which it ends.
const COMMIT: &[u8] = b"COMMIT";
/// So much of it is the beginning.
const BEGINNING_BYTES: usize = 8 << 10;

/// The relay; it ends with its value. It needs a runtime of more than one thread, because a test may block its own.
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    held: watch::Receiver<u32>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of its own in front of `target` (host and port).
    pub async fn start(target: String, mode: Mode) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (mode, watched) = watch::channel(mode);
        let (holds, held) = watch::channel(0);
        let task = tokio::spawn(accept(listener, target, watched, holds));
        let proxy = Self {
            address,
            mode,
            held,
            task,
        };
        proxy.settle().await;
        proxy
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does; on return every new connection meets the new mode.
    pub async fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
        self.settle().await;
    }

    /// So many COPYs were held since it began.
    pub async fn held(&self, count: u32) {
        let mut held = self.held.clone();
        let reached = held.wait_for(|held| *held >= count).await;
        reached.expect("it goes on");
    }

    async fn settle(&self) {
        let refuses = *self.mode.borrow() == Mode::Refuse;
        while TcpStream::connect(self.address).await.is_err() != refuses {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    target: String,
    mut mode: watch::Receiver<Mode>,
    holds: watch::Sender<u32>,
) {
    let address = listener.local_addr().expect("it is bound");
    let mut listener = Some(listener);
    // Ends with this task, and every connection with it.
    let mut relays = JoinSet::new();
    loop {
        let now = *mode.borrow_and_update();
        if now == Mode::Refuse {
            listener = None;
            relays.abort_all();
            while relays.join_next().await.is_some() {}
            if mode.changed().await.is_err() {
                return;
            }
            continue;
        }
        let open = match listener.take() {
            Some(open) => open,
            None => TcpListener::bind(address)
                .await
                .expect("the port is still free"),
        };
        tokio::select! {
            client = open.accept() => {
                let (client, _) = client.expect("a descriptor is free");
                relays.spawn(relay(client, target.clone(), mode.clone(), holds.clone()));
            }
            changed = mode.changed() => if changed.is_err() { return },
        }
        listener = Some(open);
    }
}

async fn relay(
    client: TcpStream,
    target: String,
    mode: watch::Receiver<Mode>,
    holds: watch::Sender<u32>,
) {
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (mutes, muted) = watch::channel(false);
    let copying = Copying {
        mode: mode.clone(),
        copied: None,
        mutes,
        holds,
    };
    // One side's end ends both.
    tokio::select! {
        () = pump(from_client, to_server, mode.clone(), Asking(copying)) => {}
        () = pump(from_server, to_client, mode.clone(), Answering(muted)) => {}
    }
}

/// What one direction of a connection lets through.
trait Gate {
    /// How many of these bytes, which are the next. The others, and all that come later, are thrown away.
    fn lets_through(&mut self, bytes: &[u8]) -> usize;
}

/// The direction of the client's words.
struct Asking(Copying);

struct Copying {
    mode: watch::Receiver<Mode>,
    /// Bytes since the COPY of log lines began that is under way.
    copied: Option<usize>,
    mutes: watch::Sender<bool>,
    holds: watch::Sender<u32>,
}

impl Gate for Asking {
    fn lets_through(&mut self, bytes: &[u8]) -> usize {
        let state = &mut self.0;
        if *state.mutes.borrow() {
            return 0;
        }
        if has(bytes, COPY) {
            state.copied = Some(0);
        }
        let Some(copied) = &mut state.copied else {
            return bytes.len();
        };
        *copied += bytes.len();
        let commits = has(bytes, COMMIT);
        let mode = *state.mode.borrow();
        let through = match mode {
            Mode::HoldCopy if *copied > BEGINNING_BYTES => bytes.len().min(BEGINNING_BYTES),
            Mode::HoldCommit if commits => bytes.len(),
            _ => {
                if commits {
                    state.copied = None;
                }
                return bytes.len();
            }
        };
        state.mutes.send_replace(true);
        state.holds.send_modify(|held| *held += 1);
        through
    }
}

/// The direction of the server's words.
struct Answering(watch::Receiver<bool>);

impl Gate for Answering {
    fn lets_through(&mut self, bytes: &[u8]) -> usize {
        if *self.0.borrow() { 0 } else { bytes.len() }
    }
}

fn has(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|part| part == word)
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mode: watch::Receiver<Mode>,
    mut gate: impl Gate,
) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let closes = |mode: &Mode| *mode == Mode::Stall || *mode == Mode::Refuse;
        if mode.wait_for(|mode| !closes(mode)).await.is_err() {
            return;
        }
        // Without the guard of the value, which must not be held across a wait.
        let closed = async { mode.wait_for(closes).await.is_err() };
        tokio::select! {
            biased;
            ended = closed => if ended { return },
            read = from.read(&mut buffer) => {
                let Ok(length @ 1..) = read else { return };
                let through = gate.lets_through(&buffer[..length]);
                if to.write_all(&buffer[..through]).await.is_err() {
                    return;
                }
            }
        }
    }
}
