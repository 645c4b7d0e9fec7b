//! Traces.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Traces, sent to an OpenTelemetry collector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracesConfig {
    /// The collector's base address for OTLP over HTTP, such as `http://127.0.0.1:4318`; absent: nothing is traced.
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` goes before it.
    pub endpoint: Option<String>,
    /// A file with headers for the collector, one `name: value` on each line.
    pub headers_file: Option<PathBuf>,
    /// Which part of the traces that begin here is sent, 0 to 1. What a client traces follows its decision.
    pub sampling_ratio: f64,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            headers_file: None,
            sampling_ratio: 1.0,
        }
    }
}

impl TracesConfig {
    /// What is wrong with the address. Never repeats it: it may hold a password.
    pub(super) fn fault_of_endpoint(&self) -> Option<&'static str> {
        let endpoint = self.endpoint.as_deref()?;
        let uri: Result<http::Uri, _> = endpoint.parse();
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
}
