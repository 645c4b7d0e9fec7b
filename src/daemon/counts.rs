//! What is counted of log lines and of call records in memory outlives this process: the keeper holds a descriptor of each
//! count.

use std::{ffi::CStr, fs::File, os::fd::AsFd, sync::Arc};

use super::held_file::follow_keeper;
use crate::{
    calls::CallPipeline,
    config::{CallsConfig, LogsConfig},
    logs::LogPipeline,
    runtime::{self, Runtime},
    spool::SpoolError,
    store::Store,
    tally::CountFiles,
};

/// Starts the pipeline of log lines, which tells what a former daemon lost. Where the keeper cannot hold the count, lines
/// are logged all the same, and a kill loses what it loses uncounted.
pub(super) async fn start_logs(
    config: &LogsConfig,
    store: &Store,
    runtime: &Arc<dyn Runtime>,
) -> Result<LogPipeline, SpoolError> {
    let mut count = Count::new("log-lines", c"minimcp-log-lines");
    let files = count.take(runtime).await;
    let pipeline = LogPipeline::open(config, Arc::new(store.clone()), files).await?;
    count.hold(runtime).await;
    Ok(pipeline.start())
}

/// The same of call records.
pub(super) async fn start_calls(
    config: &CallsConfig,
    store: &Store,
    runtime: &Arc<dyn Runtime>,
) -> Result<CallPipeline, SpoolError> {
    let mut count = Count::new("call-records", c"minimcp-call-records");
    let files = count.take(runtime).await;
    let pipeline = CallPipeline::open(config, store.clone(), files).await?;
    count.hold(runtime).await;
    Ok(pipeline.start())
}

/// One count.
struct Count {
    /// Under which the keeper holds it.
    name: &'static str,
    /// As it is seen in /proc.
    seen_as: &'static CStr,
    file: Option<File>,
}

impl Count {
    fn new(name: &'static str, seen_as: &'static CStr) -> Self {
        Self {
            name,
            seen_as,
            file: None,
        }
    }

    fn warn(&self, cause: &str) {
        let name = self.name;
        tracing::warn!(
            name,
            cause,
            "what is in the memory of this daemon is not counted"
        );
    }

    /// That of the former daemon, and an empty one.
    async fn take(&mut self, runtime: &Arc<dyn Runtime>) -> Option<CountFiles> {
        let keeper = &**runtime;
        let former = runtime::ask_again(keeper, || keeper.held_under(self.name)).await;
        let files = former
            .map_err(|cause| cause.to_string())
            .and_then(|former| {
                let own = runtime::memory_file(self.seen_as).map_err(|cause| cause.to_string())?;
                self.file = Some(own.try_clone().map_err(|cause| cause.to_string())?);
                let former = former.map(File::from);
                Ok(CountFiles { former, own })
            });
        files.map_err(|cause| self.warn(&cause)).ok()
    }

    /// Gives the new one to the keeper, and to each that comes later.
    async fn hold(self, runtime: &Arc<dyn Runtime>) {
        let Some(file) = &self.file else { return };
        let keeper = &**runtime;
        let held = runtime::ask_again(keeper, || keeper.hold(self.name, file.as_fd())).await;
        if let Err(error) = held {
            self.warn(&error.to_string());
        }
        if let Some(file) = self.file {
            tokio::spawn(follow_keeper(runtime, self.name, file));
        }
    }
}
