//! A file in memory of which the keeper holds a descriptor, so that it outlives this process.

use std::{fs::File, os::fd::AsFd, sync::Arc};

use crate::runtime::{KeeperState, Runtime};

/// Gives the file to every keeper that comes: a new one knows nothing of it. Ends with the runtime.
pub(super) fn follow_keeper(
    runtime: &Arc<dyn Runtime>,
    name: &'static str,
    file: File,
) -> impl Future<Output = ()> + Send + use<> {
    let mut keeper = runtime.state();
    let runtime = Arc::downgrade(runtime);
    keeper.borrow_and_update();
    async move {
        while keeper.changed().await.is_ok() {
            let connected = matches!(*keeper.borrow_and_update(), KeeperState::Connected { .. });
            let Some(runtime) = runtime.upgrade() else {
                return;
            };
            if connected && let Err(error) = runtime.hold(name, file.as_fd()).await {
                tracing::warn!(%error, name, "the keeper does not hold a file for the next daemon");
            }
        }
    }
}
