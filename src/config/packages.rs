//! Packages of npm and PyPI that templates name as their source.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::domain::duration::HumanDuration;

/// The store of packages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PackagesConfig {
    /// Where packages are installed, one folder each; servers see theirs read-only.
    pub dir: PathBuf,
    /// Most installations at the same time.
    pub installs_max: usize,
    /// How long one installation may take.
    pub install_timeout: HumanDuration,
    /// How long a package that no template names, and no process runs, is kept after its last use.
    pub unused_max: HumanDuration,
    /// Largest size of all packages; past it those that nothing refers to go, the longest unused ones first.
    pub total_bytes_max: u64,
    /// Names of the daemon's environment variables that installers get; a `*` at the end stands for any rest.
    pub environment: Vec<String>,
}

impl Default for PackagesConfig {
    fn default() -> Self {
        let names = [
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
            "http_proxy",
            "https_proxy",
            "no_proxy",
            "NODE_EXTRA_CA_CERTS",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "PIP_*",
            "npm_config_*",
        ];
        Self {
            dir: "data/packages".into(),
            installs_max: 2,
            install_timeout: HumanDuration::from_secs(600),
            unused_max: HumanDuration::from_secs(30 * 24 * 3_600),
            total_bytes_max: 20 << 30,
            environment: names.map(str::to_owned).to_vec(),
        }
    }
}

impl PackagesConfig {
    /// Whether installers get the variable `name`.
    #[must_use]
    pub fn passes(&self, name: &str) -> bool {
        self.environment
            .iter()
            .any(|wanted| match wanted.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == wanted,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_pass_by_name_or_by_their_beginning() {
        let config = PackagesConfig::default();
        for name in ["HTTPS_PROXY", "PIP_CERT", "npm_config_cafile"] {
            assert!(config.passes(name), "{name}");
        }
        for name in ["MINIMCP_MASTER_KEY", "HTTPS_PROXY_X", "PATH", "NPM_TOKEN"] {
            assert!(!config.passes(name), "{name}");
        }
    }
}
