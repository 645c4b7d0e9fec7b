//! How a runtime lets go of its keeper.

use std::{os::fd::OwnedFd, sync::PoisonError};

use super::{KEEPER_END_TIMEOUT, KeeperState, LocalRuntime, SpawnedKeeper};
use crate::runtime::host;

impl LocalRuntime {
    /// Disconnects. With `end_keeper` the keeper is told to end, whoever started it, and this resolves when it
    /// and all its children are gone. Without, a keeper that does not linger still ends with us.
    pub async fn shutdown(&self, end_keeper: bool) {
        let state = self.shared.state.borrow().clone();
        let spawned = self.disconnect().await;
        let ended = tokio::task::spawn_blocking(move || {
            if let (true, KeeperState::Connected { pid, .. }) = (end_keeper, state) {
                host::end_process(pid, KEEPER_END_TIMEOUT)?;
            }
            spawned.map_or(Ok(()), SpawnedKeeper::end)
        });
        if let Ok(Err(cause)) = ended.await {
            tracing::warn!(%cause, "the keeper did not end in order");
        }
    }

    /// Disconnects, for a program that this process becomes: the keeper stays its child and goes on. What is handed over
    /// has to stay open, where there is something: the keeper ends with it.
    pub async fn hand_over(&self) -> Option<OwnedFd> {
        self.disconnect().await?.into_lifeline()
    }

    async fn disconnect(&self) -> Option<SpawnedKeeper> {
        self.stop.cancel();
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        task?.await.ok().flatten()
    }
}
