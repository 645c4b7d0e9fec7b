//! Begins to trace, where the configuration says so.

use anyhow::Context as _;

use crate::{
    config::{self, Config},
    secrets,
    traces::{Traces, Variables},
};

pub(super) fn start(config: &Config) -> anyhow::Result<Option<Traces>> {
    let asked = config.traces.endpoint.is_some() || config.traces.url.is_some();
    let headers = match &config.traces.headers_file {
        Some(file) if asked => Some(secrets::read_private(file)?),
        _ => None,
    };
    let headers = headers.as_ref().map(|text| text.as_str());
    Traces::start(
        &config.traces,
        headers,
        &Variables::of(config::environment()),
    )
    .map_err(anyhow::Error::msg)
    .context("nothing can be traced")
}
