//! The listener of an access port: shared by whoever accepts on it, and held by the keeper too.

use std::{io, os::fd::AsFd, sync::Arc};

use tokio::net::TcpListener;

use super::{Context, context::listener_name};
use crate::domain::id::InstanceId;

/// As it is served and shared; non-blocking from here on.
pub(super) fn served(listener: std::net::TcpListener) -> io::Result<Arc<TcpListener>> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener).map(Arc::new)
}

/// Gives the keeper a duplicate, so that the port outlives this process.
pub(super) async fn hold_listener(context: &Context, id: InstanceId, listener: &impl AsFd) {
    if let Err(error) = context
        .runtime
        .hold(&listener_name(id), listener.as_fd())
        .await
    {
        tracing::warn!(instance = %id, %error, "the keeper did not take the access listener");
    }
}
