//! Copies bytes between a child and a host, each way to its own end.

use std::{
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::{Instant, sleep_until},
};

/// How long a connection may be without a byte in either direction: longer than the pauses of a long poll, and than
/// two keep-alive probes of common pools.
pub(super) const IDLE: Duration = Duration::from_secs(15 * 60);
/// Bytes that are read at once.
const PIECE_BYTES: usize = 16 * 1_024;

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides had said all.
    Done,
    /// One side broke it off.
    Broken,
    /// Nothing was said for long.
    Idle,
    /// No more may be sent.
    Volume,
}

/// Copies until both ways have ended; an end of one way is passed on while the other goes on. `may_send` is asked before
/// bytes go out, `received` told of those that came in.
pub(super) async fn relay(
    inside: &mut TcpStream,
    outside: &mut TcpStream,
    may_send: impl Fn(u64) -> bool,
    received: impl Fn(u64),
) -> End {
    let (mut inside_read, mut inside_write) = inside.split();
    let (mut outside_read, mut outside_write) = outside.split();
    let last = Mutex::new(Instant::now());
    let too_many = AtomicBool::new(false);
    let touch = || *last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    let out = copy(&mut inside_read, &mut outside_write, |bytes| {
        touch();
        let may = may_send(bytes);
        too_many.fetch_or(!may, Ordering::Relaxed);
        may
    });
    let back = copy(&mut outside_read, &mut inside_write, |bytes| {
        touch();
        received(bytes);
        true
    });
    let both = async { tokio::try_join!(out, back) };
    let idle = async {
        loop {
            let until = *last.lock().unwrap_or_else(PoisonError::into_inner) + IDLE;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    };
    tokio::select! {
        ended = both => match ended {
            Ok(_) => End::Done,
            Err(_) if too_many.load(Ordering::Relaxed) => End::Volume,
            Err(_) => End::Broken,
        },
        () = idle => End::Idle,
    }
}

async fn copy(
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    may_pass: impl Fn(u64) -> bool,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let len = from.read(&mut buffer).await?;
        if len == 0 {
            return to.shutdown().await;
        }
        if !may_pass(len as u64) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        to.write_all(&buffer[..len]).await?;
    }
}
