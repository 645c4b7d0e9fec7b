//! What is counted of log lines in memory outlives this process: the keeper holds a descriptor of it.

use std::{fs::File, os::fd::AsFd, sync::Arc};

use super::held_file::follow_keeper;
use crate::{
    config::LogsConfig,
    logs::{LineCount, LogPipeline, LogStore},
    runtime::{self, Runtime},
    spool::SpoolError,
};

/// The name under which the keeper holds it.
const NAME: &str = "log-lines";

/// Starts the pipeline, which tells what a former daemon lost. Where the keeper cannot hold the count, lines are logged all
/// the same, and a kill loses what it loses uncounted.
pub(super) async fn start(
    config: &LogsConfig,
    store: Arc<dyn LogStore>,
    runtime: &Arc<dyn Runtime>,
) -> Result<LogPipeline, SpoolError> {
    let warn = |cause: String| {
        tracing::warn!(
            cause,
            "log lines in the memory of this daemon are not counted"
        );
    };
    let (count, file) = match files(runtime).await {
        Ok((count, file)) => (Some(count), Some(file)),
        Err(cause) => {
            warn(cause);
            (None, None)
        }
    };
    let pipeline = LogPipeline::open(config, store, count).await?;
    if let Some(file) = file {
        let keeper = &**runtime;
        let held = runtime::ask_again(keeper, || keeper.hold(NAME, file.as_fd())).await;
        if let Err(error) = held {
            warn(error.to_string());
        }
        tokio::spawn(follow_keeper(runtime, NAME, file));
    }
    Ok(pipeline.start())
}

async fn files(runtime: &Arc<dyn Runtime>) -> Result<(LineCount, File), String> {
    let keeper = &**runtime;
    let former = runtime::ask_again(keeper, || keeper.held_under(NAME)).await;
    let former = former.map_err(|error| error.to_string())?.map(File::from);
    let own = runtime::memory_file(c"minimcp-log-lines").map_err(|cause| cause.to_string())?;
    let file = own.try_clone().map_err(|cause| cause.to_string())?;
    Ok((LineCount { former, own }, file))
}
