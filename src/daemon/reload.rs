//! SIGHUP: what is read anew while the daemon runs, the templates and the budgets of owners.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};
use toml::Table;

use crate::{
    config::{self, Config},
    supervisor::Supervisor,
    templates::Catalogue,
};

/// Where the configuration came from, to be read there again.
#[derive(Debug)]
pub struct Reread {
    /// As for [`Config::load`].
    pub file: Option<PathBuf>,
    /// See [`Self::listen`].
    pub hangups: Option<Signal>,
}

impl Reread {
    /// Hears SIGHUP from now on: without a handler it would end the process. What comes before the daemon serves waits.
    pub fn listen(&mut self) {
        match signal(SignalKind::hangup()) {
            Ok(hangups) => self.hangups = Some(hangups),
            Err(error) => tracing::error!(%error, "SIGHUP cannot be heard; nothing is read anew"),
        }
    }
}

/// What SIGHUP needs.
pub(super) struct Reload {
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) supervisor: Supervisor,
    /// As the daemon was started with.
    pub(super) config: Arc<Config>,
    /// `None`: it came from nowhere that could be read again, and SIGHUP is somebody else's.
    pub(super) reread: Option<Reread>,
}

impl Reload {
    /// Reads anew upon each SIGHUP, until the task is ended.
    pub(super) fn begin(&mut self) -> JoinHandle<()> {
        let Some(Reread { file, hangups }) = self.reread.take() else {
            return tokio::spawn(async {});
        };
        let (catalogue, supervisor) = (Arc::clone(&self.catalogue), self.supervisor.clone());
        let config = Arc::clone(&self.config);
        tokio::spawn(async move {
            let Some(mut hangups) = hangups else { return };
            let what = Arc::new(What {
                catalogue,
                supervisor,
                config,
                file,
            });
            while hangups.recv().await.is_some() {
                let once = Arc::clone(&what);
                if let Err(error) = tokio::task::spawn_blocking(move || once.read_anew()).await {
                    tracing::error!(%error, "reading anew failed");
                }
            }
        })
    }
}

/// What is read anew, and for whom.
struct What {
    catalogue: Arc<Catalogue>,
    supervisor: Supervisor,
    config: Arc<Config>,
    file: Option<PathBuf>,
}

impl What {
    fn read_anew(&self) {
        let faults = self.catalogue.reload();
        if faults.is_empty() {
            tracing::info!("templates read anew");
        }
        for fault in faults {
            tracing::error!(%fault, "a template is left as it was, or out");
        }
        let file: Option<&Path> = self.file.as_deref();
        match Config::load(file, config::environment()) {
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
