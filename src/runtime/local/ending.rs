//! How a runtime lets go of its keeper.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, PoisonError},
};

use super::{KEEPER_END_TIMEOUT, KeeperState, LocalRuntime, RuntimeError, Shared, SpawnedKeeper};
use crate::runtime::{HELD_LIFELINE, Runtime as _, host};

impl Shared {
    /// Notes what keeps this keeper alive; whether there is something.
    pub(super) fn know(&self, keeper: Option<&SpawnedKeeper>) -> bool {
        let lifeline = keeper.map(SpawnedKeeper::lifeline).unwrap_or_default();
        let is_there = lifeline.strong_count() > 0;
        if is_there {
            *self.lifeline.lock().unwrap_or_else(PoisonError::into_inner) = lifeline;
        }
        is_there
    }

    /// What keeps the keeper alive, where there is something.
    fn lifeline(&self) -> Option<Arc<OwnedFd>> {
        let known = self.lifeline.lock();
        known.unwrap_or_else(PoisonError::into_inner).upgrade()
    }
}

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

    /// Disconnects, for a program that this process becomes, or for the one after it: the keeper goes on. What is handed over
    /// has to stay open, where there is something; should it be closed all the same, the keeper waits for another `serve`
    /// and ends when none comes ([`HELD_LIFELINE`]).
    pub async fn hand_over(&self) -> Option<OwnedFd> {
        if let Some(lifeline) = self.shared.lifeline()
            && let Err(error) = self.hold(HELD_LIFELINE, lifeline.as_fd()).await
        {
            tracing::warn!(%error, "should the next program not come up, the instances end with it");
        }
        self.disconnect().await?.into_lifeline()
    }

    /// This process serves: from now on a keeper that does not linger ends with it, and only with it.
    ///
    /// # Errors
    /// When the keeper does not answer.
    pub async fn settle(&self) -> Result<(), RuntimeError> {
        // The only one that there is, if this process has none.
        if self.shared.lifeline().is_none() {
            return Ok(());
        }
        self.drop_held(HELD_LIFELINE).await
    }

    /// Takes over a keeper that waits for a `serve`, if it is one.
    pub(super) async fn adopt(&self, pid: u32) -> Result<(), RuntimeError> {
        let Some(lifeline) = self.held_under(HELD_LIFELINE).await? else {
            return Ok(());
        };
        tracing::info!(
            pid,
            "the keeper waited, with the instances, for a program that serves"
        );
        let keeper = SpawnedKeeper::adopted(pid, lifeline);
        self.shared.know(Some(&keeper));
        let mut adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner);
        *adopted = Some(keeper);
        Ok(())
    }

    async fn disconnect(&self) -> Option<SpawnedKeeper> {
        self.stop.cancel();
        let task = {
            let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
            task.take()
        };
        let spawned = task?.await.ok().flatten();
        let mut adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner);
        spawned.or_else(|| adopted.take())
    }
}
