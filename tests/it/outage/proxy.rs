//! A TCP relay in front of the test's PostgreSQL that can refuse, cut and stall.

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
}

/// The relay; it ends with its value. It needs a runtime of more than one thread, because a test may block its own.
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of its own in front of `target` (host and port).
    pub async fn start(target: String, mode: Mode) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (mode, watched) = watch::channel(mode);
        let task = tokio::spawn(accept(listener, target, watched));
        let proxy = Self {
            address,
            mode,
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

async fn accept(listener: TcpListener, target: String, mut mode: watch::Receiver<Mode>) {
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
                relays.spawn(relay(client, target.clone(), mode.clone()));
            }
            changed = mode.changed() => if changed.is_err() { return },
        }
        listener = Some(open);
    }
}

async fn relay(client: TcpStream, target: String, mode: watch::Receiver<Mode>) {
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // One side's end ends both.
    tokio::select! {
        () = pump(from_client, to_server, mode.clone()) => {}
        () = pump(from_server, to_client, mode.clone()) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mode: watch::Receiver<Mode>,
) {
    let mut buffer = [0; 16 * 1024];
    loop {
        if mode.wait_for(|mode| *mode == Mode::Open).await.is_err() {
            return;
        }
        // Without the guard of the value, which must not be held across a wait.
        let closed = async { mode.wait_for(|mode| *mode != Mode::Open).await.is_err() };
        tokio::select! {
            biased;
            ended = closed => if ended { return },
            read = from.read(&mut buffer) => {
                let Ok(length @ 1..) = read else { return };
                if to.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
