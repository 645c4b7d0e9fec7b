//! Client sessions outlive this process: what is kept of them lies in memory of which the keeper holds a descriptor.

use std::{fs::File, os::fd::AsFd, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::held_file::follow_keeper;
use crate::{
    gateway::{Gateway, KeptSessions},
    runtime::{self, Runtime},
};

/// The name under which the keeper holds them.
const NAME: &str = "sessions";

/// Takes back what a former daemon left, and lets the gateway go on in it. Where that cannot be, the daemon serves all
/// the same, and sessions end with it.
pub(super) async fn keep(gateway: &Gateway, runtime: &Arc<dyn Runtime>, stop: CancellationToken) {
    match begin(runtime).await {
        Ok((kept, file)) => {
            gateway.keep_sessions(Arc::new(kept));
            let follow = follow_keeper(runtime, NAME, file);
            tokio::spawn(stop.run_until_cancelled_owned(follow));
        }
        Err(cause) => {
            tracing::warn!(cause, "client sessions will end with this daemon");
        }
    }
}

async fn begin(runtime: &Arc<dyn Runtime>) -> Result<(KeptSessions, File), String> {
    let keeper = &**runtime;
    let held = runtime::ask_again(keeper, || keeper.held_under(NAME)).await;
    if let Some(held) = held.map_err(|error| error.to_string())? {
        let file = File::from(held);
        let copy = file.try_clone().map_err(|cause| cause.to_string())?;
        match KeptSessions::go_on(copy) {
            Ok(kept) => {
                tracing::info!(
                    sessions = kept.left(),
                    "client sessions of the former daemon go on"
                );
                return Ok((kept, file));
            }
            Err(cause) => {
                tracing::warn!(cause, "client sessions of the former daemon are over");
            }
        }
    }
    let file = runtime::memory_file(c"minimcp-sessions").map_err(|cause| cause.to_string())?;
    let copy = file.try_clone().map_err(|cause| cause.to_string())?;
    let kept = KeptSessions::begin(copy).map_err(|cause| cause.to_string())?;
    let held = runtime::ask_again(keeper, || keeper.hold(NAME, file.as_fd())).await;
    held.map_err(|error| error.to_string())?;
    Ok((kept, file))
}
