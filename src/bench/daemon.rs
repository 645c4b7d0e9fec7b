//! `minimcp serve` of a given program, started as a user would, with a folder, keeper and ports of its own.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write as _,
    os::unix::{
        fs::{DirBuilderExt as _, OpenOptionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::{Bench, http::Connection, mcp::Endpoint, memory, stop::Stop};
use crate::{clock, config::Config, domain::duration::HumanDuration, runtime::kill_process_if};

/// How long `serve` may take until it is ready, and a server until it is back.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long `serve` may take to end, every instance with it.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// How often what is waited for is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// The path of the API.
const API: &str = "/api/v1";
/// The daemon closes connections that rest; one that rested so long is not used again.
const REST: Duration = Duration::from_secs(2);
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

/// A running `serve` with its keeper. Both end with this value, and every instance with them.
pub struct Daemon {
    process: Process,
    host: String,
    token: String,
    connection: Connection,
    used: Instant,
    // Last: what is in it is used until the process is gone.
    folder: PrivateFolder,
}

/// A connection to the API that another thread can have.
pub struct Client(Connection);

impl Client {
    /// One call that must be answered well.
    ///
    /// # Errors
    /// When it is not.
    pub fn get(&mut self, path: &str) -> anyhow::Result<()> {
        let answer = self.0.send("GET", &format!("{API}{path}"), "")?;
        ensure!(answer.status == 200, "GET {path}: {}", answer.text());
        Ok(())
    }
}

/// An instance, as far as the bench cares.
#[derive(Debug)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// Of its server.
    pub pid: u32,
    /// Its access URL.
    pub endpoint: Endpoint,
}

impl Daemon {
    /// Starts one with these templates (name and command).
    ///
    /// # Errors
    /// When it does not come up: with the last lines of its log.
    pub fn start(bench: &Bench, templates: &[(&str, &[String])]) -> anyhow::Result<Self> {
        Self::start_with(bench, templates, |_| {})
    }

    /// The same, with something changed in its configuration.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_with(
        bench: &Bench,
        templates: &[(&str, &[String])],
        change: impl FnOnce(&mut Config),
    ) -> anyhow::Result<Self> {
        let folder = PrivateFolder::new()?;
        let mut config = config_within(folder.path());
        config.runtime.template_dirs = vec![write_templates(folder.path(), templates)?];
        change(&mut config);
        fs::create_dir(folder.path().join("data"))?;
        let file = folder.path().join("config.toml");
        let text = toml::to_string(&config).context("the configuration cannot be written")?;
        // It may hold the password of a database.
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(&file)?.write_all(text.as_bytes())?;
        let log = fs::File::create(folder.path().join(LOG))?;
        let child = Command::new(&bench.program)
            .args(["serve", "--config"])
            .arg(&file)
            .current_dir(folder.path())
            .env_clear()
            // It leaves word there, not where the daemon of this user or host does.
            .env("XDG_RUNTIME_DIR", folder.path().join(WORD))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // A Ctrl-C is for us alone, who end it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", bench.program))?;
        let mut process = Process::new(child, bench.stop.clone(), folder.path());
        let host = process.until_ready(folder.path())?;
        let token = fs::read_to_string(&config.api.admin_token_file)
            .context("the daemon of the bench made no token")?;
        let token = token.trim().to_owned();
        Ok(Self {
            connection: connect(&host, &token)?,
            process,
            host,
            token,
            used: Instant::now(),
            folder,
        })
    }

    /// Creates an instance and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become so, in the daemon's words.
    pub fn create(&mut self, template: &str) -> anyhow::Result<Instance> {
        let body = format!("{{\"template\":\"{template}\"}}");
        let made = self.json("POST", "/mcps?wait=ready", &body)?;
        ensure!(
            made["status"] == "running",
            "an instance of {template} is {}: {}",
            made["status"],
            made["reason"]
        );
        let text = |key: &str| {
            let text = made[key].as_str().map(str::to_owned);
            text.with_context(|| format!("an instance without {key}"))
        };
        let url = text("access_url")?;
        let (host, path) = url
            .strip_prefix("http://")
            .and_then(|rest| rest.split_once('/'))
            .with_context(|| format!("{url} is no address of HTTP"))?;
        let pid = made["pid"].as_u64().and_then(|pid| pid.try_into().ok());
        Ok(Instance {
            id: text("id")?,
            pid: pid.context("a running instance without a pid")?,
            endpoint: Endpoint {
                token: Some(text("access_token")?),
                ..Endpoint::new(host.to_owned(), format!("/{path}"))
            },
        })
    }

    /// Gives an instance a lease from now on; when it ends, by the clock that the answer names it in.
    ///
    /// # Errors
    /// When it is not given.
    pub fn extend(&mut self, instance: &Instance, lease: Duration) -> anyhow::Result<Instant> {
        let path = format!("/mcps/{}/extend", instance.id);
        let body = format!("{{\"ttl\":{}}}", lease.as_secs());
        let answer = self.json("POST", &path, &body)?;
        let end = answer["expires_at"]
            .as_str()
            .context("a lease without an end")?;
        let end: jiff::Timestamp = end.parse()?;
        Ok(Instant::now() + clock::ahead_exactly(end.as_millisecond()))
    }

    /// Deletes an instance.
    ///
    /// # Errors
    /// When it is refused.
    pub fn delete(&mut self, instance: &Instance) -> anyhow::Result<()> {
        self.send("DELETE", &format!("/mcps/{}", instance.id), "")?;
        Ok(())
    }

    /// One call of the API that must have a body.
    ///
    /// # Errors
    /// When it is refused.
    pub fn json(&mut self, method: &str, path: &str, body: &str) -> anyhow::Result<Value> {
        let body = self.send(method, path, body)?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// One call of the API: the body of its answer.
    ///
    /// # Errors
    /// When it is refused, in the daemon's words; or the run shall end.
    pub fn send(&mut self, method: &str, path: &str, body: &str) -> anyhow::Result<Vec<u8>> {
        self.process.stop.check()?;
        if self.used.elapsed() > REST {
            self.connection = connect(&self.host, &self.token)?;
        }
        self.used = Instant::now();
        let answer = self
            .connection
            .send(method, &format!("{API}{path}"), body)
            .with_context(|| format!("{method} {path}: the daemon of the bench does not answer"))?;
        ensure!(
            answer.status < 300,
            "{method} {path}: {}",
            said(&answer.text())
        );
        Ok(answer.body)
    }

    /// A connection of its own to the API.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn client(&self) -> anyhow::Result<Client> {
        Ok(Client(connect(&self.host, &self.token)?))
    }

    /// How long a call takes, measured so often.
    ///
    /// # Errors
    /// When one is refused.
    pub fn times_of(&mut self, path: &str, count: usize) -> anyhow::Result<Vec<Duration>> {
        let one = |_| {
            let began = Instant::now();
            self.send("GET", path, "")?;
            Ok(began.elapsed())
        };
        (0..count).map(one).collect()
    }

    /// Kills the server of an instance; how long until a call through its access URL is answered well again.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn kill_and_wait(&mut self, instance: &Instance) -> anyhow::Result<Duration> {
        let path = format!("/mcps/{}", instance.id);
        let restarts = |told: &Value| told["restarts"].as_u64().unwrap_or(0);
        let before = restarts(&self.json("GET", &path, "")?);
        let mut connection = instance.endpoint.initialize()?;
        let folder = self.folder.path();
        let began = Instant::now();
        let killed = kill_process_if(instance.pid, || memory::is_server_of(folder, instance.pid))?;
        ensure!(killed, "the server of an instance is gone before its time");
        while !instance.endpoint.try_call(&mut connection) {
            self.process.stop.check()?;
            ensure!(
                began.elapsed() < READY_TIMEOUT,
                "an instance does not come back after its server was killed"
            );
        }
        let time = began.elapsed();
        let after = restarts(&self.json("GET", &path, "")?);
        ensure!(
            after == before + 1,
            "{} restarts after one kill",
            after - before
        );
        Ok(time)
    }

    /// The pid of `serve`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Its folder: in the arguments of `serve`, of the keeper and of the inits.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// The log of `serve`, in its folder.
const LOG: &str = "serve.log";
/// Where `serve` leaves word of its address, in its folder.
const WORD: &str = "run";

/// `serve`, until it is gone.
struct Process {
    child: Child,
    stop: Arc<Stop>,
    folder: PathBuf,
}

impl Process {
    fn new(child: Child, stop: Arc<Stop>, folder: &Path) -> Self {
        stop.add(child.id());
        Self {
            child,
            stop,
            folder: folder.to_path_buf(),
        }
    }

    /// Waits until it is ready; its `HOST:PORT`.
    fn until_ready(&mut self, folder: &Path) -> anyhow::Result<String> {
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

/// What a problem document says, else all of it.
fn said(body: &str) -> String {
    let problem: Option<Value> = serde_json::from_str(body).ok();
    let part = |key: &str| Some(problem.as_ref()?.get(key)?.as_str()?.to_owned());
    match (part("title"), part("detail")) {
        (Some(title), Some(detail)) => format!("{title}: {detail}"),
        (Some(text), None) | (None, Some(text)) => text,
        (None, None) => body.to_owned(),
    }
}

fn connect(host: &str, token: &str) -> anyhow::Result<Connection> {
    let mut connection =
        Connection::open(host).context("the daemon of the bench does not listen")?;
    connection
        .fixed
        .push_str(&format!("Authorization: Bearer {token}\r\n"));
    Ok(connection)
}

/// Everything in the folder, every port free to choose.
fn config_within(folder: &Path) -> Config {
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
fn write_templates(folder: &Path, all: &[(&str, &[String])]) -> anyhow::Result<PathBuf> {
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
    fn problems_are_told_as_sentences() {
        let problem = r#"{"title":"Too many","detail":"there are 3 already","status":409}"#;
        assert_eq!(said(problem), "Too many: there are 3 already");
        assert_eq!(said("rubbish"), "rubbish");
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
