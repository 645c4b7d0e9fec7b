//! The API's TCP listener outlives this process for a while: the keeper holds a duplicate, so whoever connects while the
//! daemon restarts waits for the next one rather than being refused.

use std::{net::TcpListener, os::fd::AsFd as _, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    api::Listeners,
    config::{ApiConfig, Config},
    runtime::{HELD_FOR_A_RESTART, KeeperState, Runtime},
};

/// The name under which the keeper holds it.
fn name() -> String {
    format!("{HELD_FOR_A_RESTART}api")
}

/// Binds what the configuration asks for; `None` when the port is taken and a keeper may be the one that holds it.
///
/// # Errors
/// As [`Listeners::bind`].
pub(super) async fn bind(config: &Config) -> std::io::Result<Option<Listeners>> {
    match Listeners::bind(&config.api).await {
        Ok(bound) => Ok(Some(bound)),
        Err(error)
            if error.kind() == std::io::ErrorKind::AddrInUse
                && config.runtime.keeper_socket.exists() =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Takes over what the keeper holds since the former daemon, if it is at the address that the configuration has now.
/// One at another address is closed.
///
/// # Errors
/// The port is taken by somebody else.
pub(super) async fn take(
    runtime: &Arc<dyn Runtime>,
    bound: Option<Listeners>,
    config: &ApiConfig,
) -> anyhow::Result<Listeners> {
    let held = runtime.held_under(&name()).await?.map(TcpListener::from);
    let wanted = (config.address, config.port);
    let is_wanted = |held: &TcpListener| {
        let address = held.local_addr();
        address.is_ok_and(|address| (address.ip(), address.port()) == wanted)
    };
    match (bound, held) {
        (None, Some(held)) if is_wanted(&held) => {
            tracing::info!("who connected to the API meanwhile was kept waiting");
            Ok(Listeners::with_tcp(held, config).await?)
        }
        (Some(bound), None) => Ok(bound),
        (bound, held) => {
            if held.is_some() {
                drop(held);
                runtime.drop_held(&name()).await?;
            }
            match bound {
                Some(bound) => Ok(bound),
                None => Ok(Listeners::bind(config).await?),
            }
        }
    }
}

/// Lets the keeper hold it, and every later keeper too. Where that cannot be, clients are refused during a restart.
pub(super) async fn keep(
    runtime: &Arc<dyn Runtime>,
    listeners: &Listeners,
    stop: CancellationToken,
) {
    let copy = match listeners.tcp_copy() {
        Ok(copy) => copy,
        Err(error) => {
            tracing::warn!(%error, "the keeper does not hold the API's listener");
            return;
        }
    };
    let runtime = Arc::clone(runtime);
    let mut keeper = runtime.state();
    keeper.borrow_and_update();
    hold(&*runtime, &copy).await;
    let follow = async move {
        while keeper.changed().await.is_ok() {
            if matches!(*keeper.borrow_and_update(), KeeperState::Connected { .. }) {
                hold(&*runtime, &copy).await;
            }
        }
    };
    tokio::spawn(stop.run_until_cancelled_owned(follow));
}

async fn hold(runtime: &dyn Runtime, copy: &TcpListener) {
    if let Err(error) = runtime.hold(&name(), copy.as_fd()).await {
        tracing::warn!(%error, "the keeper does not hold the API's listener");
    }
}

/// Nobody comes after this daemon: whoever connects is to be refused.
pub(super) async fn let_go(runtime: &dyn Runtime) {
    if let Err(error) = runtime.drop_held(&name()).await {
        tracing::debug!(%error, "the keeper may still hold the API's listener");
    }
}
