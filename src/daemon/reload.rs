//! SIGHUP: what is read anew while the daemon runs, the templates and the budgets of owners.

use std::{path::PathBuf, sync::Arc};

use tokio::signal::unix::{SignalKind, signal};
use toml::Table;

use crate::{
    config::{self, Config},
    supervisor::Supervisor,
    templates::Catalogue,
};

/// Where the configuration came from, to be read there again.
#[derive(Debug, Clone)]
pub struct Reread {
    /// As for [`Config::load`].
    pub file: Option<PathBuf>,
}

/// What SIGHUP needs.
#[derive(Clone)]
pub(super) struct Reload {
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) supervisor: Supervisor,
    /// As the daemon was started with.
    pub(super) config: Arc<Config>,
    /// `None`: it came from nowhere that could be read again.
    pub(super) reread: Option<Reread>,
}

impl Reload {
    /// Reads anew upon each SIGHUP.
    pub(super) async fn on_hangup(self) {
        let mut hangups = match signal(SignalKind::hangup()) {
            Ok(hangups) => hangups,
            Err(error) => {
                tracing::error!(%error, "SIGHUP cannot be heard; nothing is read anew");
                return;
            }
        };
        while hangups.recv().await.is_some() {
            let once = self.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || once.read_anew()).await {
                tracing::error!(%error, "reading anew failed");
            }
        }
    }

    fn read_anew(&self) {
        let faults = self.catalogue.reload();
        if faults.is_empty() {
            tracing::info!("templates read anew");
        }
        for fault in faults {
            tracing::error!(%fault, "a template is left as it was, or out");
        }
        let Some(reread) = &self.reread else { return };
        match Config::load(reread.file.as_deref(), config::environment()) {
            Ok(now) => {
                let left = wait_for_a_restart(&self.config, &now);
                self.supervisor.replace_budgets(now.budgets);
                tracing::info!("budgets read anew");
                if !left.is_empty() {
                    let sections = left.join(", ");
                    tracing::warn!(
                        sections,
                        "other changes of the configuration wait for a restart"
                    );
                }
            }
            Err(error) => tracing::error!(%error, "the budgets stay as they were"),
        }
    }
}

/// The sections, other than the budgets, that differ.
fn wait_for_a_restart(before: &Config, now: &Config) -> Vec<String> {
    let sections = |config| Table::try_from(config).unwrap_or_default();
    let (before, now) = (sections(before), sections(now));
    let names: std::collections::BTreeSet<_> = before.keys().chain(now.keys()).collect();
    let changed = names
        .into_iter()
        .filter(|name| *name != "budgets" && before.get(*name) != now.get(*name));
    changed.cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_restart_is_named_and_budgets_do_not() {
        let before = Config::default();
        let mut now = before.clone();
        now.budgets.awake_max = Some(3);
        assert_eq!(wait_for_a_restart(&before, &now), Vec::<String>::new());
        now.sleep.reclaim_frozen = false;
        now.tasks.insert("reconcile".to_owned(), "off".to_owned());
        assert_eq!(wait_for_a_restart(&before, &now), ["sleep", "tasks"]);
    }
}
