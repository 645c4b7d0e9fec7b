//! What follows when the keeper goes and another comes.

use std::sync::Arc;

use super::{Context, context::listener_name, listener};
use crate::runtime::KeeperState;

/// A new keeper knows nothing of the access listeners: it gets them again. The children of the old one are gone,
/// which each actor learns by itself.
pub(super) async fn follow_keeper(context: Arc<Context>) {
    let mut keeper = context.runtime.state();
    let mut pid = keeper_pid(&keeper.borrow_and_update());
    while keeper.changed().await.is_ok() {
        let now = keeper_pid(&keeper.borrow_and_update());
        match (pid, now) {
            (_, None) => tracing::error!("the keeper is gone, and every child with it"),
            (before, Some(pid)) if before != Some(pid) => {
                tracing::info!(pid, "connected to a new keeper");
                for (id, handle) in context.registry.after(None) {
                    listener::hold_listener(&context, id, &handle.listener).await;
                    if context.registry.get(id).is_none() {
                        // Deleted meanwhile: the port must not stay open behind its back.
                        let _ = context.runtime.drop_held(&listener_name(id)).await;
                    }
                }
            }
            _ => {}
        }
        pid = now;
        if context.is_closing() {
            return;
        }
    }
}

fn keeper_pid(state: &KeeperState) -> Option<u32> {
    match state {
        KeeperState::Connected { pid, .. } => Some(*pid),
        KeeperState::Lost => None,
    }
}
