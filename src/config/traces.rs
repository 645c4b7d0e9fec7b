//! Traces.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Traces, sent to an OpenTelemetry collector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracesConfig {
    /// The collector's base address for OTLP over HTTP, such as `http://127.0.0.1:4318`; absent: nothing is traced.
    /// Where neither this nor `url` is there, `OTEL_EXPORTER_OTLP_ENDPOINT` stands for it.
    pub endpoint: Option<String>,
    /// The whole address, where its path is not that of `endpoint` and `/v1/traces`; goes before `endpoint`. Where neither
    /// is there, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` stands for it.
    pub url: Option<String>,
    /// A file with headers for the collector, one `name: value` on each line.
    pub headers_file: Option<PathBuf>,
    /// Which part of the traces that begin here is sent, 0 to 1. What a client traces follows its decision.
    pub sampling_ratio: f64,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            url: None,
            headers_file: None,
            sampling_ratio: 1.0,
        }
    }
}

impl TracesConfig {
    /// The key of an address with something wrong about it, and what. Never repeats it: it may hold a password.
    pub(super) fn fault_of_address(&self) -> Option<(&'static str, &'static str)> {
        let keys = [
            ("traces.endpoint", &self.endpoint),
            ("traces.url", &self.url),
        ];
        keys.into_iter()
            .find_map(|(key, address)| Some((key, fault_of(address.as_deref()?)?)))
    }
}

fn fault_of(address: &str) -> Option<&'static str> {
    let uri: Result<http::Uri, _> = address.parse();
    let Ok(uri) = uri else {
        return Some("is not an address such as http://127.0.0.1:4318");
    };
    let authority = uri.authority().map(http::uri::Authority::as_str);
    match (uri.scheme_str(), authority) {
        (Some("http" | "https"), Some(authority)) if authority.contains('@') => {
            Some("holds a user or password: put them into the file of traces.headers_file")
        }
        (Some("http" | "https"), Some(_)) if uri.query().is_none() => None,
        _ => Some("is not an address such as http://127.0.0.1:4318, without a query"),
    }
}
