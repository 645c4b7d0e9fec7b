//! The process `minimcp serve` of a run: its folder, its configuration, its beginning and its end.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Child,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::{http::Connection, memory, stop::Stop};
use crate::{config::Config, domain::duration::HumanDuration};

/// How long `serve` may take until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long `serve` may take to end, every instance with it.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// How often what is waited for is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Access ports below the ephemeral ones.
const PORTS: (u16, u16) = (12_000, 14_999);
/// So many instances fit into them, those whose ports rest included.
pub const INSTANCES_MAX: usize = 2_000;
/// Users of the instances, where the bench runs as root: behind those that are the default.
const USER_IDS: (u32, u32) = (80_000, 89_999);
/// Lines of its log that are told of a daemon that did not come up.
const LOG_LINES: usize = 12;
/// Longest path of a unix socket that every call takes (unix(7): 108 bytes with the final NUL).
const SOCKET_PATH_BYTES: usize = 107;

/// A new folder that nobody else can look into; it is removed with this value.
#[derive(Debug)]
pub(super) struct PrivateFolder(PathBuf);

impl PrivateFolder {
    pub(super) fn new() -> anyhow::Result<Self> {
        let name = format!("minimcp-bench-{}", uuid::Uuid::new_v4().simple());
        let mut folder = std::env::temp_dir().join(&name);
        if folder.join("data/keeper.sock").as_os_str().len() > SOCKET_PATH_BYTES {
            folder = Path::new("/tmp").join(&name);
        }
        // Made anew: in a folder for everyone, one that is there could be somebody else's.
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(Self(folder))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        // Nothing that we started lives any more; what cannot be removed is left to the system's sweep.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The log of `serve`, in its folder.
pub(super) const LOG: &str = "serve.log";
/// Where `serve` leaves word of its address, in its folder.
pub(super) const WORD: &str = "run";

/// `serve`, until it is gone.
pub(super) struct Process {
    pub(super) child: Child,
    pub(super) stop: Arc<Stop>,
    folder: PathBuf,
}

impl Process {
    pub(super) fn new(child: Child, stop: Arc<Stop>, folder: &Path) -> Self {
        stop.add(child.id());
        Self {
            child,
            stop,
            folder: folder.to_path_buf(),
        }
    }

    /// Waits until it is ready; its `HOST:PORT`.
    pub(super) fn until_ready(&mut self, folder: &Path) -> anyhow::Result<String> {
        let began = Instant::now();
        let host = || {
            let word = fs::read(folder.join(WORD).join("minimcp/api.json")).ok()?;
            let word: Value = serde_json::from_slice(&word).ok()?;
            let host = word["api_url"].as_str()?.strip_prefix("http://")?;
            let answer = Connection::open(host).ok()?.send("GET", "/readyz", "");
            (answer.ok()?.status == 200).then(|| host.trim_end_matches('/').to_owned())
        };
        loop {
            if let Some(host) = host() {
                return Ok(host);
            }
            self.stop.check()?;
            let why = match self.child.try_wait()? {
                Some(status) => format!("it ended with {status}"),
                None if began.elapsed() > READY_TIMEOUT => {
                    format!("it is not ready after {} s", READY_TIMEOUT.as_secs())
                }
                None => {
                    std::thread::sleep(LOOK); // poll
                    continue;
                }
            };
            bail!(
                "the daemon of the bench did not come up: {why}{}",
                last_words(folder)
            );
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = self.child.id();
        // SIGTERM ends the keeper and the instances too, because this `serve` started the keeper.
        self.stop.tell(pid);
        let deadline = Instant::now() + END_TIMEOUT;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(LOOK); // poll
        }
        self.stop.remove(pid);
        // For one that does not end. Its keeper sees it go, and ends with everything.
        let _ = self.child.kill();
        let _ = self.child.wait();
        while Instant::now() < deadline && memory::keeper_lives(&self.folder) {
            std::thread::sleep(LOOK); // poll
        }
    }
}

/// The end of the log of `serve`, as the end of a sentence.
fn last_words(folder: &Path) -> String {
    let log = fs::read_to_string(folder.join(LOG)).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    match &lines[lines.len().saturating_sub(LOG_LINES)..] {
        [] => "; it said nothing".to_owned(),
        last => format!("; its last words:\n  {}", last.join("\n  ")),
    }
}

/// Everything in the folder, every port free to choose.
pub(super) fn config_within(folder: &Path) -> Config {
    let data = folder.join("data");
    let mut config = Config::default();
    config.api.port = 0;
    config.api.admin_token_file = data.join("admin-token");
    config.database.url = format!("sqlite:{}", data.join("minimcp.db").display());
    config.runtime.imports_dir = data.join("templates");
    config.runtime.instance_dir = data.join("instances");
    config.runtime.keeper_socket = data.join("keeper.sock");
    // Whatever ends the daemon ends its instances.
    config.runtime.keeper_linger = false;
    (config.runtime.port_min, config.runtime.port_max) = PORTS;
    config.runtime.port_quarantine = HumanDuration::from_secs(1);
    config.runtime.instances_max = INSTANCES_MAX + 100;
    // Not the users that a daemon of this host gives to its instances.
    (config.sandbox.uid_min, config.sandbox.uid_max) = USER_IDS;
    config.packages.dir = data.join("packages");
    config.logs.spool_dir = data.join("spool");
    config.calls.spool_dir = data.join("call-spool");
    config.secrets.key_file = data.join("master-key");
    config
}

/// Manifests of stdio servers, in a folder of their own.
pub(super) fn write_templates(folder: &Path, all: &[(&str, &[String])]) -> anyhow::Result<PathBuf> {
    let templates = folder.join("templates");
    fs::create_dir(&templates)?;
    for (name, command) in all {
        let target = templates.join(name);
        fs::create_dir(&target)?;
        let text = format!(
            "schema = 1\nname = {name:?}\ntitle = {name:?}\ndescription = \"A server of the bench.\"\n\n[server]\ntransport = \"stdio\"\ncommand = {}\n",
            toml::Value::from(command.to_vec())
        );
        fs::write(target.join("template.toml"), text)?;
    }
    Ok(templates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_folder_is_ours_and_goes() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = PrivateFolder::new().expect("made");
        let path = folder.path().to_path_buf();
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::write(path.join("x"), "x").expect("ours");
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn a_daemon_that_does_not_come_up_is_told_in_its_own_words() {
        let folder = PrivateFolder::new().expect("made");
        assert_eq!(last_words(folder.path()), "; it said nothing");
        let log: Vec<String> = (0..40).map(|number| format!("line {number}")).collect();
        fs::write(folder.path().join(LOG), log.join("\n")).expect("ours");
        let words = last_words(folder.path());
        assert!(
            words.ends_with("line 39") && !words.contains("line 27\n"),
            "{words}"
        );
    }

    #[test]
    fn the_configuration_is_valid_and_stays_in_its_folder() {
        let folder = Path::new("/tmp/x");
        let config = config_within(folder);
        let text = toml::to_string(&config).expect("written");
        assert!(!text.contains("data/") || text.contains("/tmp/x/data/"));
        for path in [
            &config.api.admin_token_file,
            &config.secrets.key_file,
            &config.logs.spool_dir,
            &config.calls.spool_dir,
            &config.packages.dir,
            &config.runtime.imports_dir,
            &config.runtime.instance_dir,
            &config.runtime.keeper_socket,
        ] {
            assert!(path.starts_with(folder), "{}", path.display());
        }
    }
}
