//! Removing packages that nothing refers to.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Supervisor;
use crate::packages::Package;

impl Supervisor {
    /// Removes the packages that no template names and no process runs, when they are old or all together too large.
    ///
    /// # Errors
    /// When the store of packages cannot be read.
    pub async fn collect_packages(&self) -> Result<Value, String> {
        let context = self.context();
        let named: Vec<Package> = context
            .catalogue
            .list()
            .iter()
            .filter_map(|entry| entry.package.clone())
            .collect();
        let (packages, now) = (Arc::clone(&context.packages), context.clock.now());
        let collected = tokio::task::spawn_blocking(move || packages.collect(&named, now))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("the store of packages cannot be read: {error}"))?;
        Ok(json!({
            "removed": collected.removed,
            "freed_bytes": collected.freed_bytes,
            "kept": collected.kept,
            "kept_bytes": collected.kept_bytes,
        }))
    }
}
