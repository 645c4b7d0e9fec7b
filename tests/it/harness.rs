//! The real binary, started as a user would, with everything of its own: data folder, ports, database, keeper.
//! A test that leaves a process, a port or a socket behind fails.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use minimcp::config::Config;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tempfile::TempDir;

pub use crate::databases::Database;
pub(crate) use crate::databases::on_both_databases;
use crate::{fixtures, processes};

/// How long `serve` may take until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long `serve` may take to end, every instance with it.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Access ports of one server.
const PORTS: u16 = 100;

/// Whether every user may look at a path.
pub fn reachable_by_all(path: &Path) -> bool {
    let mode = |path: &Path| {
        fs::metadata(path)
            .map(|found| std::os::unix::fs::PermissionsExt::mode(&found.permissions()))
    };
    path.ancestors()
        .all(|part| mode(part).is_ok_and(|mode| mode & 0o001 != 0))
}

/// A running `minimcp serve`.
pub struct Server {
    folder: TempDir,
    config: Config,
    /// As whom it runs, where not as the test.
    uid: Option<u32>,
    /// Where its program lies, where that is to be replaced.
    program: Option<PathBuf>,
    /// The words of a command that runs it, where it is not run by itself.
    under: Vec<String>,
    process: Option<Child>,
    client: reqwest::Client,
}

impl Server {
    /// Starts one and waits until it is ready.
    pub async fn start(database: Database) -> Self {
        Self::start_with(database, |_| {}).await
    }

    /// The same, with changes to its configuration.
    pub async fn start_with(database: Database, change: impl FnOnce(&mut Config)) -> Self {
        let mut server = Self::begin_with(database, change).await;
        server.until_ready().await;
        server
    }

    /// The same, run by another user (which only root can do), with changes to its configuration.
    pub async fn start_as(
        database: Database,
        uid: Option<u32>,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let mut server = Self::begin_as(database, uid, change).await;
        server.until_ready().await;
        server
    }

    /// The same, without waiting until it is ready.
    pub async fn begin_with(database: Database, change: impl FnOnce(&mut Config)) -> Self {
        Self::begin_as(database, None, change).await
    }

    async fn begin_as(
        database: Database,
        uid: Option<u32>,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let unchanged = |config: &mut Config| {
            change(config);
            Vec::new()
        };
        Self::begin_in(database, uid, unchanged).await
    }

    /// Starts it by a command of which `change` gives the words, and which becomes the daemon in the end (`exec`).
    pub async fn begin_under(
        database: Database,
        change: impl FnOnce(&mut Config) -> Vec<String>,
    ) -> Self {
        Self::begin_in(database, None, change).await
    }

    async fn begin_in(
        database: Database,
        uid: Option<u32>,
        change: impl FnOnce(&mut Config) -> Vec<String>,
    ) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("minimcp-it-")
            .tempdir()
            .expect("a temporary folder");
        let data = folder.path().join("data");
        fs::create_dir(&data).expect("the folder is ours");
        let mut config = Config::default();
        config.api.port = free_port();
        config.api.admin_token_file = data.join("admin-token");
        config.database.url = database.create(&data).await;
        config.runtime.template_dirs = vec![fixtures::write_templates(folder.path())];
        config.runtime.imports_dir = data.join("templates");
        config.runtime.instance_dir = data.join("instances");
        config.packages.dir = data.join("packages");
        config.runtime.keeper_socket = data.join("keeper.sock");
        config.runtime.search_path = fixtures::search_path();
        config.runtime.port_quarantine = minimcp::domain::duration::HumanDuration::from_ms(200);
        (config.runtime.port_min, config.runtime.port_max) = free_port_range();
        config.runtime.instances_max = usize::from(PORTS) - 10;
        // What tests let servers write beside their own folders.
        config.sandbox.allow_write = vec![std::env::temp_dir()];
        // The hosts of tests are on this machine; a server reaches those of them that its template or settings name.
        config.sandbox.allow_private = vec!["127.0.0.0/8".parse().expect("a network")];
        config.logs.spool_dir = data.join("spool");
        config.calls.spool_dir = data.join("call-spool");
        config.secrets.key_file = data.join("master-key");
        let under = change(&mut config);
        let mut server = Self {
            folder,
            config,
            uid,
            program: None,
            under,
            process: None,
            client: http_client(),
        };
        server.begin();
        server
    }

    /// Starts the process (again) over the same data and waits until it is ready.
    pub async fn launch(&mut self) {
        self.begin();
        self.until_ready().await;
    }

    /// From the next start on, `serve` and its keeper are those of a new file at one and the same path, as after an
    /// upgrade of the package.
    pub fn replace_program(&mut self) {
        let program = self.folder.path().join("minimcp");
        let fresh = program.with_extension("new");
        fs::copy(env!("CARGO_BIN_EXE_minimcp"), &fresh).expect("the folder is ours");
        fs::rename(&fresh, &program).expect("the folder is ours");
        self.program = Some(program);
    }

    /// Starts the process (again) over the same data, without waiting until it is ready.
    pub fn begin(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let file = self.folder.path().join("config.toml");
        let text = toml::to_string(&self.config).expect("a configuration can be written");
        fs::write(&file, text).expect("the folder is ours");
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("the folder is ours");
        let built = PathBuf::from(env!("CARGO_BIN_EXE_minimcp"));
        let program = self.program.as_ref().unwrap_or(&built);
        let mut words = self.under.iter().map(String::as_str);
        let mut command = match words.next() {
            None => Command::new(program),
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg(program);
                command
            }
        };
        if let Some(uid) = self.uid {
            for path in [self.folder.path(), &self.folder.path().join("data")] {
                chown(path, Some(uid), Some(uid)).expect("root may");
            }
            command.uid(uid).gid(uid);
        }
        let process = command
            .args(["serve", "--config"])
            .arg(&file)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            // The keeper must not hand this on: a test looks for it in the instances.
            .env("MINIMCP_TEST_MARKER", "must-not-reach-an-instance")
            // Certificates that it trusts instead of the host's, where a test puts some there.
            .envs(
                Some(self.folder.path().join("data/trusted.pem"))
                    .filter(|file| file.exists())
                    .map(|file| ("SSL_CERT_FILE", file)),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor is free"))
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        self.process = Some(process);
    }

    /// Waits until it is ready.
    pub async fn until_ready(&mut self) {
        let deadline = Instant::now() + READY_TIMEOUT;
        while !self.is_ready().await {
            let process = self.process.as_mut().expect("it was started above");
            let ended = process.try_wait().expect("it is our child");
            assert!(ended.is_none(), "serve ended: {ended:?}\n{}", self.log());
            assert!(Instant::now() < deadline, "not ready\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await; // poll
        }
    }

    async fn is_ready(&self) -> bool {
        let answer = self.client.get(format!("{}/readyz", self.url())).send();
        answer
            .await
            .is_ok_and(|answer| answer.status().is_success())
    }

    /// The address of its API, without a path.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.config.api.port)
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Changes the configuration of the next start.
    pub fn change(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
    }

    /// Writes the changed configuration and has `serve` read it (SIGHUP). As an editor does: another file in its place.
    pub fn reload(&self) {
        let file = self.folder.path().join("config.toml");
        let fresh = file.with_extension("fresh");
        let text = toml::to_string(&self.config).expect("a configuration can be written");
        fs::write(&fresh, text).expect("the folder is ours");
        fs::rename(&fresh, &file).expect("the folder is ours");
        processes::signal_hangup(self.pid());
    }

    /// The pid of `serve`.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// The administrator's token.
    pub fn admin_token(&self) -> String {
        let text = fs::read_to_string(&self.config.api.admin_token_file)
            .expect("serve made the administrator's token");
        text.trim().to_owned()
    }

    /// What it wrote to stdout and stderr.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("serve.log")
    }

    /// Every process of this server: itself, keeper, inits, children, grandchildren.
    pub fn processes(&self) -> Vec<processes::Process> {
        processes::of_folder(self.folder.path())
    }

    /// Its access ports that listen.
    pub fn access_ports(&self) -> Vec<u16> {
        processes::listening_ports()
            .range(self.config.runtime.port_min..=self.config.runtime.port_max)
            .copied()
            .collect()
    }

    /// One call of the API (`path` from `/mcps` on): the status and the JSON (null when there is no body).
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let answer = self.send(method, &format!("/api/v1{path}"), body).await;
        let status = answer.status();
        let text = answer.text().await.expect("the body comes");
        let body = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap_or(Value::String(text))
        };
        (status, body)
    }

    /// One request with the administrator's token; `path` is the whole one.
    pub async fn send(&self, method: Method, path: &str, body: Option<Value>) -> reqwest::Response {
        let mut request = self
            .client
            .request(method.clone(), format!("{}{path}", self.url()))
            .bearer_auth(self.admin_token());
        if let Some(body) = body {
            request = request.json(&body);
        }
        request
            .send()
            .await
            .unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.log()))
    }

    /// `GET` that must succeed.
    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(Method::GET, path, None).await;
        assert!(status.is_success(), "GET {path}: {status} {body}");
        body
    }

    /// `POST` that must succeed.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(Method::POST, path, Some(body)).await;
        assert!(status.is_success(), "POST {path}: {status} {answer}");
        answer
    }

    /// Creates an instance and waits until it is ready (or has failed).
    pub async fn create(&self, body: Value) -> Value {
        let path = "/mcps?wait=ready";
        let (status, answer) = self.call(Method::POST, path, Some(body)).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}\n{}", self.log());
        answer
    }

    /// Deletes an instance.
    pub async fn delete(&self, id: &str) {
        let (status, answer) = self
            .call(Method::DELETE, &format!("/mcps/{id}"), None)
            .await;
        assert!(status.is_success(), "DELETE {id}: {status} {answer}");
    }

    /// Waits until an instance has one of these statuses; gives the instance.
    pub async fn wait_status(&self, id: &str, wanted: &[&str], timeout: Duration) -> Value {
        let deadline = Instant::now() + timeout;
        loop {
            let instance = self.get(&format!("/mcps/{id}")).await;
            if wanted.iter().any(|word| instance["status"] == **word) {
                return instance;
            }
            assert!(
                Instant::now() < deadline,
                "not {wanted:?} within {timeout:?}: {instance:#}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await; // poll
        }
    }

    /// `kill -9` of `serve` alone.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().expect("it is our child");
        process.wait().expect("it is our child");
    }

    /// How `serve` ended, if it did so by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let process = self.process.as_mut().expect("it was started");
        process.try_wait().expect("it is our child")
    }

    /// Waits until `serve` has ended by itself.
    pub async fn until_ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            if let Some(status) = self.ended() {
                self.process = None;
                return status;
            }
            assert!(Instant::now() < deadline, "it goes on\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await; // poll
        }
    }

    /// SIGTERM; waits for the end and gives the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        processes::terminate(self.pid());
        self.wait_end()
    }

    /// Waits for the end, and gives the exit code.
    pub fn wait_end(&mut self) -> Option<i32> {
        let mut process = self.process.take().expect("it runs");
        let ended = wait_until(STOP_TIMEOUT, || {
            process.try_wait().expect("it is our child")
        });
        if ended.is_none() {
            process.kill().expect("it is our child");
            process.wait().expect("it is our child");
        }
        ended
            .unwrap_or_else(|| panic!("serve did not end\n{}", self.log()))
            .code()
    }

    /// What is still there although nothing should be.
    fn leftovers(&self) -> Vec<String> {
        let processes = self
            .processes()
            .into_iter()
            .map(|process| format!("process {}: {}", process.pid, process.command));
        let ports = self
            .access_ports()
            .into_iter()
            .map(|port| format!("port {port}"));
        let sockets = processes::unix_sockets(self.folder.path()).into_iter();
        processes.chain(ports).chain(sockets).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_some() && !std::thread::panicking() {
            let code = self.stop();
            assert_eq!(code, Some(0), "serve failed\n{}", self.log());
        } else if self.process.is_some() {
            self.kill();
        }
        let clean = wait_until(Duration::from_secs(5), || {
            self.leftovers().is_empty().then_some(())
        });
        let left = self.leftovers();
        for process in self.processes() {
            processes::kill(process.pid);
        }
        if clean.is_none() && !std::thread::panicking() {
            panic!("left behind:\n  {}\n{}", left.join("\n  "), self.log());
        }
    }
}

/// Polls until the condition gives something.
pub fn wait_until<T>(timeout: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let value = condition();
        if value.is_some() || Instant::now() > deadline {
            return value;
        }
        std::thread::sleep(Duration::from_millis(10)); // poll
    }
}

/// A client for plain HTTP that follows nothing and keeps no proxy.
pub fn http_client() -> reqwest::Client {
    // reqwest asks for a TLS provider even where no TLS is spoken; a second installation is refused and harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(90))
        .build()
        .expect("a client without options can be made")
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

/// A range of free ports below the ephemeral ones; no two servers of this process get the same.
pub fn free_port_range() -> (u16, u16) {
    const FIRST: u16 = 10_000;
    const RANGES: u16 = 200;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % 100).expect("below 100") * 7;
    (0..RANGES)
        .map(|_| NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(offset) % RANGES)
        .map(|index| (FIRST + index * PORTS, FIRST + index * PORTS + PORTS - 1))
        .find(|(first, last)| {
            let taken = processes::listening_ports();
            taken.range(*first..=*last).next().is_none()
        })
        .expect("200 ranges of ports cannot all be in use")
}
