//! Packages of npm and PyPI, installed once for all instances.
//!
//! One folder for each exact version below `packages.dir`. An installation runs like a server: as a process of the
//! keeper in the strict sandbox, with the network, and with nothing to write but its own folder. A folder counts only
//! with its file [`MARK`], which is written last; whatever else lies there was cut off, and goes before the next try.
//! Servers see the folder read-only, and their start needs neither installer nor network.

mod look_up;
mod surplus;
mod work;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};

use crate::{
    config::PackagesConfig,
    domain::{
        id::InstanceId,
        package::{PackageSource, Registry},
        template::ServerSpec,
    },
    runtime::Runtime,
};

pub use look_up::Published;
pub use surplus::Collected;
pub use work::MARK;

/// What a template wants to have installed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Package {
    /// Which.
    pub source: PackageSource,
    /// Whether its install scripts are run: code of strangers, in the sandbox of the installer.
    pub scripts: bool,
    /// Packages of npm that its code loads, and the folder below its modules that they are laid into.
    pub additions: Option<(Vec<PackageSource>, String)>,
}

impl Package {
    /// What a manifest names; `has_npm`: additions can be installed here.
    #[must_use]
    pub fn of(server: &ServerSpec, has_npm: bool) -> Option<Self> {
        let into = server.package_additions_into.clone();
        let additions = into.map(|into| (server.package_additions.clone(), into));
        Some(Self {
            source: server.package.clone()?,
            scripts: server.package_scripts,
            additions: additions.filter(|_| has_npm),
        })
    }

    /// Its folder below the store; one with other additions is another.
    #[must_use]
    pub fn folder(&self, store: &Path) -> PathBuf {
        let folder = self.source.folder(store, self.scripts);
        let Some((sources, into)) = &self.additions else {
            return folder;
        };
        let mut digest = Sha256::new();
        for source in sources {
            digest.update(source.to_string());
            digest.update([0]);
        }
        digest.update(into);
        let digest = digest.finalize();
        let short: String = digest
            .iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut name = folder.into_os_string();
        name.push(format!("+{short}"));
        name.into()
    }
}

/// Where a package stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackageState {
    /// Nobody has asked for it yet.
    Missing,
    /// Its installation runs or waits for its turn.
    Installing,
    /// It can be used.
    Installed,
    /// The last try failed, and why; the next start of an instance tries again.
    Failed(String),
}

/// How an installation ended: `None` while it runs; an error is one sentence, the installer's last words in it.
type Outcome = Option<Result<(), String>>;

/// Installs what is missing, each package once at a time. Shared by all actors.
pub struct Installer {
    runtime: Arc<dyn Runtime>,
    config: PackagesConfig,
    store: PathBuf,
    search_path: Vec<PathBuf>,
    hidden: Vec<PathBuf>,
    /// What the installers get of the daemon's environment: proxies, certificates, settings of pip and npm.
    environment: Vec<(String, String)>,
    running: Mutex<BTreeMap<PathBuf, watch::Receiver<Outcome>>>,
    /// Why the last try of each failed.
    failures: Mutex<BTreeMap<PathBuf, String>>,
    /// The processes of installations under way, which belong to no instance.
    processes: Mutex<Vec<InstanceId>>,
    turns: Semaphore,
    /// Questions to registries, which need not wait for installations.
    look_ups: Semaphore,
}

/// Most questions to registries at the same time.
const LOOK_UPS_MAX: usize = 3;

impl Installer {
    /// Over a keeper. `search_path` is where npm and python3 are looked up, `hidden` what no process may see.
    #[must_use]
    pub fn new(
        runtime: Arc<dyn Runtime>,
        config: PackagesConfig,
        search_path: Vec<PathBuf>,
        hidden: Vec<PathBuf>,
    ) -> Self {
        Self {
            runtime,
            store: std::path::absolute(&config.dir).unwrap_or_else(|_| config.dir.clone()),
            turns: Semaphore::new(config.installs_max.max(1)),
            look_ups: Semaphore::new(LOOK_UPS_MAX),
            config,
            search_path,
            hidden,
            environment: Vec::new(),
            running: Mutex::default(),
            failures: Mutex::default(),
            processes: Mutex::default(),
        }
    }

    /// Keeps what `packages.environment` names of the daemon's environment for installers.
    pub fn take_environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        let config = &self.config;
        let wanted = variables
            .into_iter()
            .filter(|(name, _)| config.passes(name));
        self.environment = wanted.collect();
    }

    /// Resolves when the package is there. Callers that want the same one share one installation; it goes on when they
    /// no longer wait.
    ///
    /// # Errors
    /// One sentence with the installer's last lines.
    pub async fn ensure(self: &Arc<Self>, package: &Package) -> Result<(), String> {
        let folder = package.folder(&self.store);
        if is_whole(&folder) {
            return Ok(());
        }
        let mut outcome = self.begin(package, &folder);
        let ended = outcome.wait_for(Option::is_some).await;
        match ended.as_deref() {
            Ok(Some(result)) => result.clone(),
            // Its task was dropped.
            _ => Err(format!(
                "the installation of {} was given up",
                package.source
            )),
        }
    }

    /// Begins an installation without waiting for it, unless the package is there.
    pub fn start(self: &Arc<Self>, package: &Package) {
        let folder = package.folder(&self.store);
        if !is_whole(&folder) {
            self.begin(package, &folder);
        }
    }

    /// Where a package stands.
    #[must_use]
    pub fn state(&self, package: &Package) -> PackageState {
        let folder = package.folder(&self.store);
        if self.lock_running().contains_key(&folder) {
            return PackageState::Installing;
        }
        if is_whole(&folder) {
            return PackageState::Installed;
        }
        match self.lock_failures().get(&folder) {
            Some(error) => PackageState::Failed(error.clone()),
            None => PackageState::Missing,
        }
    }

    /// Whether this is the process of an installation, and of no instance.
    #[must_use]
    pub fn owns(&self, id: InstanceId) -> bool {
        let processes = self.processes.lock();
        processes
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&id)
    }

    /// Joins the installation into `folder` that runs, or begins one.
    fn begin(self: &Arc<Self>, package: &Package, folder: &Path) -> watch::Receiver<Outcome> {
        let mut running = self.lock_running();
        if let Some(outcome) = running.get(folder) {
            return outcome.clone();
        }
        let (told, outcome) = watch::channel(None);
        running.insert(folder.to_owned(), outcome.clone());
        let (installer, package, folder) = (Arc::clone(self), package.clone(), folder.to_owned());
        tokio::spawn(async move {
            let result = installer.install_in_turn(&package, &folder).await;
            match &result {
                Ok(()) => tracing::info!(package = %package.source, "installed"),
                Err(error) => tracing::warn!(package = %package.source, error, "not installed"),
            }
            installer.lock_running().remove(&folder);
            let mut failures = installer.lock_failures();
            match &result {
                Ok(()) => failures.remove(&folder),
                Err(error) => failures.insert(folder, error.clone()),
            };
            drop(failures);
            told.send_replace(Some(result));
        });
        outcome
    }

    fn lock_running(&self) -> MutexGuard<'_, BTreeMap<PathBuf, watch::Receiver<Outcome>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_failures(&self) -> MutexGuard<'_, BTreeMap<PathBuf, String>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn install_in_turn(&self, package: &Package, folder: &Path) -> Result<(), String> {
        let _turn = self
            .turns
            .acquire()
            .await
            .map_err(|_| "the daemon is going down".to_owned())?;
        if is_whole(folder) {
            return Ok(());
        }
        work::install(self, package, folder).await
    }
}

/// The program that installs what comes from a registry.
#[must_use]
pub fn installer(registry: Registry) -> &'static str {
    match registry {
        Registry::Npm => "npm",
        Registry::Pypi => "python3",
    }
}

/// Whether an installation is complete, has all its programs still, and was made for the interpreter that is here now.
#[must_use]
pub fn is_whole(folder: &Path) -> bool {
    let Ok(text) = fs::read_to_string(folder.join(MARK)) else {
        return false;
    };
    let mark: Mark = serde_json::from_str(&text).unwrap_or_default();
    let mut programs = mark.programs.iter();
    programs.all(|program| folder.join(program).is_file()) && !is_outdated(folder)
}

/// What is asked of the file [`MARK`].
#[derive(Default, Deserialize)]
#[serde(default)]
struct Mark {
    programs: Vec<PathBuf>,
}

/// A virtual environment holds its modules below the Python version that made it: after an upgrade of the host's
/// Python it has none.
fn is_outdated(folder: &Path) -> bool {
    let venv = folder.join("venv");
    let Ok(lib) = fs::read_dir(venv.join("lib")) else {
        return false;
    };
    let Ok(python) = venv.join("bin/python3").canonicalize() else {
        return true;
    };
    let name = python.file_name().unwrap_or_default().to_string_lossy();
    // A plain `python3` tells no version.
    name.contains('.') && !lib.flatten().any(|entry| entry.file_name() == *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installation_counts_with_its_mark_and_its_python() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        assert!(!is_whole(folder));
        fs::write(folder.join(MARK), "{}").expect("writable");
        assert!(is_whole(folder));
        fs::write(folder.join(MARK), r#"{"programs": ["bin/x"]}"#).expect("writable");
        assert!(!is_whole(folder), "its program is gone");
        fs::create_dir(folder.join("bin")).expect("writable");
        fs::write(folder.join("bin/x"), "").expect("writable");
        assert!(is_whole(folder));

        fs::create_dir_all(folder.join("venv/lib/python3.11")).expect("writable");
        assert!(!is_whole(folder), "its python is gone");
        fs::create_dir_all(folder.join("venv/bin")).expect("writable");
        fs::write(folder.join("python3.11"), "").expect("writable");
        let link = folder.join("venv/bin/python3");
        std::os::unix::fs::symlink(folder.join("python3.11"), &link).expect("writable");
        assert!(is_whole(folder));
        fs::write(folder.join("python3.12"), "").expect("writable");
        fs::remove_file(&link).expect("ours");
        std::os::unix::fs::symlink(folder.join("python3.12"), &link).expect("writable");
        assert!(!is_whole(folder), "the host has another python now");
    }
}
