//! The API's listeners outlive this process for a while: the keeper holds duplicates, so whoever connects while the daemon
//! restarts waits for the next one rather than being refused.

use std::{
    future::Future,
    io,
    net::TcpListener,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, Listeners, UnixSocket},
    config::{ApiConfig, Config},
    runtime::{self, HELD_FOR_A_RESTART, KeeperState, Runtime, RuntimeError},
};

/// Names under which the keeper holds them, behind [`HELD_FOR_A_RESTART`].
const TCP: &str = "api";
const UNIX: &str = "api-unix";

fn name(of: &str) -> String {
    format!("{HELD_FOR_A_RESTART}{of}")
}

/// What could be bound at once.
pub(super) struct Bound {
    tcp: Option<tokio::net::TcpListener>,
    unix: Option<tokio::net::UnixListener>,
}

/// Binds what the configuration asks for, but for what is taken while a keeper may be the one that holds it.
///
/// # Errors
/// As [`api::bind_tcp`] and [`api::bind_unix`].
pub(super) async fn bind(config: &Config) -> io::Result<Bound> {
    let unix = match &config.api.unix_socket {
        Some(path) => unless_held(api::bind_unix(path).await, config)?,
        None => None,
    };
    let tcp = unless_held(api::bind_tcp(&config.api).await, config)?;
    Ok(Bound { tcp, unix })
}

fn unless_held<L>(bound: io::Result<L>, config: &Config) -> io::Result<Option<L>> {
    match bound {
        Ok(bound) => Ok(Some(bound)),
        Err(error)
            if error.kind() == io::ErrorKind::AddrInUse
                && config.runtime.keeper_socket.exists() =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Takes over what the keeper holds since the former daemon, where it is what the configuration names now; else it is
/// closed.
///
/// # Errors
/// A port or path is taken by somebody else.
pub(super) async fn take(
    runtime: &Arc<dyn Runtime>,
    bound: Bound,
    config: &Config,
) -> anyhow::Result<Listeners> {
    let api = &config.api;
    let held = held_under(&**runtime, TCP).await?.map(TcpListener::from);
    let wanted = held
        .as_ref()
        .is_some_and(|held| bound.tcp.is_none() && is_at(held, api));
    let tcp = match held.filter(|_| wanted) {
        Some(held) => {
            tracing::info!("who connected to the API meanwhile was kept waiting");
            held.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(held)?
        }
        None => anew(runtime, TCP, bound.tcp, api::bind_tcp(api)).await?,
    };
    let held = held_under(&**runtime, UNIX).await?.map(UnixListener::from);
    let leads_to = match (&held, &api.unix_socket, &bound.unix) {
        (Some(held), Some(path), None) => leads_to(path, held).await,
        _ => false,
    };
    let abandoned = held.as_ref().filter(|_| !leads_to).and_then(place_of);
    let listener = match (held.filter(|_| leads_to), &api.unix_socket) {
        (Some(held), Some(_)) => {
            held.set_nonblocking(true)?;
            Some(tokio::net::UnixListener::from_std(held)?)
        }
        (_, Some(path)) => Some(anew(runtime, UNIX, bound.unix, api::bind_unix(path)).await?),
        (_, None) => {
            drop_held(&**runtime, UNIX).await?;
            None
        }
    };
    if let Some(place) = abandoned.filter(|place| Some(place) != api.unix_socket.as_ref()) {
        // Nobody listens there any more; already gone is as good.
        let _ = std::fs::remove_file(place);
    }
    let stays = Arc::new(AtomicBool::new(config.runtime.leave_instances_running));
    let unix = listener.zip(api.unix_socket.clone());
    let unix = unix.map(|(listener, path)| UnixSocket {
        listener,
        path,
        stays,
    });
    Ok(Listeners { tcp, unix })
}

async fn held_under(keeper: &dyn Runtime, what: &str) -> Result<Option<OwnedFd>, RuntimeError> {
    let name = name(what);
    runtime::ask_again(keeper, || keeper.held_under(&name)).await
}

async fn drop_held(keeper: &dyn Runtime, what: &str) -> Result<(), RuntimeError> {
    let name = name(what);
    runtime::ask_again(keeper, || keeper.drop_held(&name)).await
}

/// The one that was bound already, or else a new one, after the keeper closed what it holds.
async fn anew<L>(
    runtime: &Arc<dyn Runtime>,
    what: &str,
    bound: Option<L>,
    bind: impl Future<Output = io::Result<L>>,
) -> anyhow::Result<L> {
    drop_held(&**runtime, what).await?;
    match bound {
        Some(bound) => Ok(bound),
        None => Ok(bind.await?),
    }
}

fn is_at(held: &TcpListener, config: &ApiConfig) -> bool {
    let address = held.local_addr();
    address.is_ok_and(|address| (address.ip(), address.port()) == (config.address, config.port))
}

/// Where a unix socket of ours was put: it was bound beside its place, with a number behind the name
/// ([`api::bind_unix`]).
fn place_of(held: &UnixListener) -> Option<PathBuf> {
    let address = held.local_addr().ok()?;
    let (place, number) = address.as_pathname()?.to_str()?.rsplit_once('.')?;
    let is_number = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| place.into())
}

/// Whether who connects to `path` comes to this socket: another one may have been put there.
async fn leads_to(path: &Path, held: &UnixListener) -> bool {
    if place_of(held).as_deref() != Some(path) {
        return false;
    }
    let Ok(own) = held.local_addr() else {
        return false;
    };
    match UnixStream::connect(path).await {
        Ok(there) => there
            .peer_addr()
            .is_ok_and(|peer| peer.as_pathname() == own.as_pathname()),
        // So many wait for us.
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Lets the keeper hold them, and every later keeper too. Where that cannot be, clients are refused during a restart.
pub(super) async fn keep(
    runtime: &Arc<dyn Runtime>,
    listeners: &Listeners,
    stop: CancellationToken,
) {
    let unix = listeners.unix.as_ref();
    let of = [
        Some((TCP, listeners.tcp.as_fd())),
        unix.map(|socket| (UNIX, socket.listener.as_fd())),
    ];
    let copies = of.into_iter().flatten().map(copy);
    let copies = match copies.collect::<io::Result<Vec<_>>>() {
        Ok(copies) => copies,
        Err(error) => {
            tracing::warn!(%error, "the keeper does not hold the API's listeners");
            return;
        }
    };
    let runtime = Arc::clone(runtime);
    let mut keeper = runtime.state();
    keeper.borrow_and_update();
    hold(&*runtime, &copies).await;
    let follow = async move {
        while keeper.changed().await.is_ok() {
            if matches!(*keeper.borrow_and_update(), KeeperState::Connected { .. }) {
                hold(&*runtime, &copies).await;
            }
        }
    };
    tokio::spawn(stop.run_until_cancelled_owned(follow));
}

fn copy((of, listener): (&str, BorrowedFd<'_>)) -> io::Result<(String, OwnedFd)> {
    Ok((name(of), listener.try_clone_to_owned()?))
}

async fn hold(runtime: &dyn Runtime, copies: &[(String, OwnedFd)]) {
    for (name, copy) in copies {
        if let Err(error) = runtime.hold(name, copy.as_fd()).await {
            tracing::warn!(%error, "the keeper does not hold the API's listeners");
        }
    }
}

/// Nobody comes after this daemon: whoever connects is to be refused.
pub(super) async fn let_go(runtime: &dyn Runtime) {
    for of in [TCP, UNIX] {
        if let Err(error) = runtime.drop_held(&name(of)).await {
            tracing::debug!(%error, "the keeper may still hold the API's listeners");
        }
    }
}
