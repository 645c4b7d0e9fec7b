//! What a daemon of this program would find if it took the place of another one now; nothing is changed.

use serde::{Deserialize, Serialize};

use crate::{config::Config, store, templates::Catalogue};

/// That it would serve, and with what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Of the program that looked.
    pub version: String,
    /// Migrations that it would apply first.
    pub pending_migrations: usize,
    /// Templates that it would leave out, and why.
    pub template_faults: Vec<String>,
}

/// Looks at the database and at the template folders.
///
/// # Errors
/// Why it would not serve: the database is of a newer minimcp, for example, or does not answer.
pub async fn check(config: &Config) -> anyhow::Result<Checked> {
    let pending_migrations = store::pending_migrations(&config.database).await?;
    let runtime = config.runtime.clone();
    let read = move || {
        // Only what a built-in server is launched by would need it.
        let program = std::env::current_exe().unwrap_or_default();
        Catalogue::load(&runtime, program).faults()
    };
    let faults = tokio::task::spawn_blocking(read).await?;
    Ok(Checked {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pending_migrations,
        template_faults: faults.iter().map(ToString::to_string).collect(),
    })
}
