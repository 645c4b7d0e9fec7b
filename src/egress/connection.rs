//! One connection of a child: to whom it goes, whether it may, and on its way.

use std::{io, net::IpAddr, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{
    Inner, broker,
    hello::{HELLO_BYTES_MAX, Hello, HelloReader},
    ledger::Why,
    names,
    relay::{self, End},
    resolve,
};

/// How long one address may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to say its first message, once it has begun.
const HELLO_TIMEOUT: Duration = Duration::from_secs(20);

/// Whom a connection is for.
pub(super) enum Target {
    Name(Arc<str>),
    Address(IpAddr),
}

/// Why a connection goes nowhere.
enum Stopped {
    Refused(Why),
    /// Nobody's decision: the host does not answer, or a side hung up.
    Failed(io::Error),
}

impl From<io::Error> for Stopped {
    fn from(cause: io::Error) -> Self {
        Self::Failed(cause)
    }
}

/// Carries a connection to its end.
pub(super) async fn carry(inner: Arc<Inner>, inside: TcpStream) {
    let Ok(local) = inside.local_addr() else {
        return;
    };
    let (address, port) = (local.ip().to_canonical(), local.port());
    let mut desks = inner.desks.iter();
    let desk = desks.find(|desk| address.is_loopback() && desk.port() == port);
    if let Some(desk) = desk.map(Arc::clone) {
        return broker::serve(inner, desk, inside).await;
    }
    let known = inner.names().at(address, Instant::now());
    let target = known.map_or(Target::Address(address), Target::Name);
    carry_to(inner, inside, target, port).await;
}

/// The same, for a connection whose target is known.
pub(super) async fn carry_to(inner: Arc<Inner>, mut inside: TcpStream, target: Target, port: u16) {
    let host = match &target {
        Target::Name(name) => format!("{name}:{port}"),
        Target::Address(address) => SocketAddr::new(*address, port).to_string(),
    };
    let stopped = match try_carry(&inner, &mut inside, &target, &host, port).await {
        Ok(End::Volume) => Stopped::Refused(Why::Volume),
        Ok(_) => return,
        Err(stopped) => stopped,
    };
    // A reset tells at once what an orderly end would leave to guess.
    let _ = inside.set_zero_linger();
    match stopped {
        Stopped::Refused(why) => inner.ledger.refuse(&host, why, inner.outside.clock.now()),
        Stopped::Failed(cause) => {
            tracing::debug!(%host, %cause, "a connection of an instance failed")
        }
    }
}

async fn try_carry(
    inner: &Inner,
    inside: &mut TcpStream,
    target: &Target,
    host: &str,
    port: u16,
) -> Result<End, Stopped> {
    let refused = |refused| Stopped::Refused(Why::Rule(refused));
    match target {
        Target::Name(name) => inner.egress.connects(name, port).map_err(refused)?,
        // An address that stood for a name of a former daemon: the child asks again.
        Target::Address(address) if names::slot(*address).is_some() => {
            return Err(io::Error::from(io::ErrorKind::HostUnreachable).into());
        }
        Target::Address(address) => inner.egress.connects_to(*address, port).map_err(refused)?,
    }
    let turn = Arc::clone(&inner.connections).try_acquire_owned();
    let _turn = turn.map_err(|_| Stopped::Refused(Why::Connections))?;
    let addresses = match target {
        Target::Name(name) => inner.outside.resolver.resolve(Arc::clone(name)).await?,
        Target::Address(address) => vec![*address],
    };
    let reachable = resolve::reachable(addresses, port, &inner.outside.opened);
    let reachable = reachable.ok_or(Stopped::Refused(Why::Private))?;
    let mut outside = connect(&reachable).await?;
    for stream in [&*inside, &outside] {
        stream.set_nodelay(true)?;
    }
    let first = first_bytes(inside, &outside, target).await?;
    inner.ledger.reach(host, inner.outside.clock.now());
    let per_hour = inner.outside.sent_bytes_per_hour;
    let may_send = |bytes| {
        let now = inner.outside.clock.now();
        inner.ledger.send(bytes, per_hour, now)
    };
    if !may_send(first.len() as u64) {
        return Ok(End::Volume);
    }
    outside.write_all(&first).await?;
    let received = |bytes| inner.ledger.receive(bytes);
    Ok(relay::relay(inside, &mut outside, may_send, received).await)
}

pub(super) async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(cause)) => last = cause,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// What the child says first, as far as it must be known before anything of it goes out. Nothing where the host speaks
/// first, or the child says nothing: then it is no TLS.
async fn first_bytes(
    inside: &mut TcpStream,
    outside: &TcpStream,
    target: &Target,
) -> Result<Vec<u8>, Stopped> {
    let Target::Name(name) = target else {
        return Ok(Vec::new());
    };
    let (mut of_inside, mut of_outside) = ([0], [0]);
    // Looked at, not only announced: readiness may be a false alarm, and it decides whether the name is checked.
    tokio::select! {
        biased;
        looked = inside.peek(&mut of_inside) => {
            looked?;
        }
        looked = outside.peek(&mut of_outside) => {
            looked?;
            return Ok(Vec::new());
        }
        () = tokio::time::sleep(relay::IDLE) => {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
    }
    let mut reader = HelloReader::default();
    let mut bytes = Vec::new();
    let deadline = Instant::now() + HELLO_TIMEOUT;
    loop {
        let mut piece = [0; 4_096];
        let read = tokio::time::timeout_at(deadline, inside.read(&mut piece)).await;
        let len = read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if len == 0 {
            // It said nothing at all, or broke its first message off.
            return match bytes.is_empty() {
                true => Ok(bytes),
                false => Err(Stopped::Refused(Why::ServerName)),
            };
        }
        bytes.extend_from_slice(&piece[..len]);
        match reader.take(&piece[..len]) {
            Hello::NotTls => return Ok(bytes),
            Hello::Name(Some(asked)) if asked == **name => return Ok(bytes),
            Hello::Incomplete if bytes.len() <= HELLO_BYTES_MAX => {}
            Hello::Incomplete | Hello::Name(_) | Hello::Broken => {
                return Err(Stopped::Refused(Why::ServerName));
            }
        }
    }
}
