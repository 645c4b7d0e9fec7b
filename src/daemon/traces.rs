//! Begins to trace, where the configuration says so.

use anyhow::Context as _;
use zeroize::Zeroizing;

use crate::{config::Config, secrets, traces::Traces};

pub(super) fn start(config: &Config) -> anyhow::Result<Option<Traces>> {
    let headers = match (&config.traces.endpoint, &config.traces.headers_file) {
        (Some(_), Some(file)) => secrets::read_private(file)?,
        _ => Zeroizing::default(),
    };
    Traces::start(&config.traces, &headers)
        .map_err(anyhow::Error::msg)
        .context("nothing can be traced")
}
