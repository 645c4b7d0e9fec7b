//! Servers elsewhere.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How servers elsewhere are spoken with.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RemoteConfig {
    /// Certificate authorities (PEM) that are trusted beside those of this host.
    pub ca_file: Option<PathBuf>,
}
