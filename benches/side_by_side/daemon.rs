//! `minimcp serve` of this build, started as a user would, with a folder and ports of its own.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use minimcp::config::Config;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use super::{http::Connection, mcp::Endpoint};

/// How long `serve` may take until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// The path of the API.
const API: &str = "/api/v1";
/// The daemon closes connections that rest; one that rested so long is not used again.
const REST: Duration = Duration::from_secs(2);
/// Access ports below the ephemeral ones.
const PORTS: (u16, u16) = (12_000, 13_999);

/// A running `serve` with its keeper.
pub struct Daemon {
    folder: TempDir,
    process: Child,
    host: String,
    token: String,
    connection: Connection,
    used: Instant,
}

/// A connection to the API that another thread can have.
pub struct Client(Connection);

impl Client {
    /// One call that must be answered well.
    pub fn get(&mut self, path: &str) {
        let answer = self.0.send("GET", &format!("{API}{path}"), "");
        let answer = answer.expect("the API answers");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

/// An instance, as far as the bench cares.
pub struct Instance {
    pub id: String,
    pub pid: u32,
    pub endpoint: Endpoint,
}

impl Daemon {
    /// Starts one with these templates (name and command), whose instances are shown these paths.
    pub fn start(templates: &[(&str, &[String])], reads: &[PathBuf]) -> Self {
        Self::start_with(templates, reads, |_| {})
    }

    /// The same, with something changed in its configuration.
    pub fn start_with(
        templates: &[(&str, &[String])],
        reads: &[PathBuf],
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("minimcp-bench-")
            .tempdir()
            .expect("a temporary folder");
        let data = folder.path().join("data");
        let port = TcpListener::bind(("127.0.0.1", 0))
            .and_then(|listener| listener.local_addr())
            .expect("a port is free")
            .port();
        let mut config = Config::default();
        config.api.port = port;
        config.api.admin_token_file = data.join("admin-token");
        config.database.url = format!("sqlite:{}", data.join("minimcp.db").display());
        config.runtime.template_dirs = vec![write_templates(folder.path(), templates)];
        config.sandbox.read = reads.to_vec();
        config.runtime.instance_dir = data.join("instances");
        config.runtime.keeper_socket = data.join("keeper.sock");
        (config.runtime.port_min, config.runtime.port_max) = PORTS;
        config.runtime.instances_max = 1_500;
        config.logs.spool_dir = data.join("spool");
        config.secrets.key_file = data.join("master-key");
        change(&mut config);
        fs::create_dir(&data).expect("the folder is ours");
        let file = folder.path().join("config.toml");
        let text = toml::to_string(&config).expect("a configuration can be written");
        fs::write(&file, text).expect("the folder is ours");
        let log = fs::File::create(folder.path().join("serve.log")).expect("the folder is ours");
        let mut process = Command::new(env!("CARGO_BIN_EXE_minimcp"))
            .args(["serve", "--config"])
            .arg(&file)
            .current_dir(folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let host = format!("127.0.0.1:{port}");
        let deadline = Instant::now() + READY_TIMEOUT;
        let ready = || {
            let answer = Connection::open(&host)?.send("GET", "/readyz", "")?;
            Ok::<_, std::io::Error>(answer.status == 200)
        };
        while !ready().unwrap_or(false) {
            let log = || fs::read_to_string(folder.path().join("serve.log")).unwrap_or_default();
            let ended = process.try_wait().expect("it is our child");
            assert!(ended.is_none(), "serve ended: {ended:?}\n{}", log());
            assert!(Instant::now() < deadline, "not ready\n{}", log());
            std::thread::sleep(Duration::from_millis(5)); // poll
        }
        let token = fs::read_to_string(&config.api.admin_token_file).expect("serve made it");
        let token = token.trim().to_owned();
        Self {
            connection: connect(&host, &token),
            folder,
            process,
            host,
            token,
            used: Instant::now(),
        }
    }

    /// Creates an instance and waits until it is ready.
    pub fn create(&mut self, template: &str) -> Instance {
        let body = format!("{{\"template\":\"{template}\"}}");
        let made = self.json("POST", "/mcps?wait=ready", &body);
        assert_eq!(made["status"], "running", "{made:#}");
        let text = |key: &str| made[key].as_str().expect("the answer has it").to_owned();
        let url = text("access_url");
        let (host, path) = url
            .strip_prefix("http://")
            .and_then(|rest| rest.split_once('/'))
            .expect("the URL is one of HTTP");
        Instance {
            id: text("id"),
            pid: pid_of(&made["pid"]),
            endpoint: Endpoint {
                token: Some(text("access_token")),
                ..Endpoint::new(host.to_owned(), format!("/{path}"))
            },
        }
    }

    /// Gives an instance a lease from now on; when it ends, by the clock that the answer names it in.
    pub fn extend(&mut self, instance: &Instance, lease: Duration) -> Instant {
        let path = format!("/mcps/{}/extend", instance.id);
        let body = format!("{{\"ttl\":{}}}", lease.as_secs());
        let answer = self.json("POST", &path, &body);
        let end = answer["expires_at"].as_str().expect("a lease has an end");
        let end: jiff::Timestamp = end.parse().expect("RFC 3339");
        let left = end.duration_since(jiff::Timestamp::now());
        Instant::now() + left.try_into().expect("it lies ahead")
    }

    pub fn delete(&mut self, instance: &Instance) {
        self.send("DELETE", &format!("/mcps/{}", instance.id), "");
    }

    /// One call of the API that must have a body.
    pub fn json(&mut self, method: &str, path: &str, body: &str) -> Value {
        let body = self.send(method, path, body);
        serde_json::from_slice(&body).expect("the API writes JSON")
    }

    /// One call of the API: the body of its answer.
    pub fn send(&mut self, method: &str, path: &str, body: &str) -> Vec<u8> {
        if self.used.elapsed() > REST {
            self.connection = connect(&self.host, &self.token);
        }
        self.used = Instant::now();
        let answer = self
            .connection
            .send(method, &format!("{API}{path}"), body)
            .expect("the API answers");
        assert!(answer.status < 300, "{method} {path}: {}", answer.text());
        answer.body
    }

    /// A connection of its own to the API.
    pub fn client(&self) -> Client {
        Client(connect(&self.host, &self.token))
    }

    /// How long a call takes, measured so often.
    pub fn times_of(&mut self, path: &str, count: usize) -> Vec<Duration> {
        let one = |_| {
            let began = Instant::now();
            self.send("GET", path, "");
            began.elapsed()
        };
        (0..count).map(one).collect()
    }

    /// Kills the server of an instance; how long until a call through its access URL is answered well again.
    pub fn kill_and_wait(&mut self, instance: &Instance) -> Duration {
        let mut connection = instance.endpoint.initialize();
        let began = Instant::now();
        kill(pid_as_raw(instance.pid), Signal::SIGKILL).expect("the server lives");
        while !instance.endpoint.try_call(&mut connection) {
            assert!(began.elapsed() < READY_TIMEOUT, "it did not come back");
        }
        let time = began.elapsed();
        let path = format!("/mcps/{}", instance.id);
        assert_eq!(self.json("GET", &path, "")["restarts"], 1);
        time
    }

    /// The pid of `serve`.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its folder: in the arguments of `serve`, of the keeper and of the inits.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SIGTERM ends the keeper and the instances too, because this `serve` started the keeper.
        let _ = kill(pid_as_raw(self.process.id()), Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

fn connect(host: &str, token: &str) -> Connection {
    let mut connection = Connection::open(host).expect("serve listens");
    connection
        .fixed
        .push_str(&format!("Authorization: Bearer {token}\r\n"));
    connection
}

fn pid_of(value: &Value) -> u32 {
    let pid = value.as_u64().expect("a running instance has a pid");
    u32::try_from(pid).expect("pids are small")
}

fn pid_as_raw(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("pids are small"))
}

/// Manifests of stdio servers, in a folder of their own.
fn write_templates(folder: &Path, all: &[(&str, &[String])]) -> PathBuf {
    let templates = folder.join("templates");
    for (name, command) in all {
        let target = templates.join(name);
        fs::create_dir_all(&target).expect("the folder is ours");
        let text = format!(
            "schema = 1\nname = {name:?}\ntitle = {name:?}\ndescription = \"A server of the bench.\"\n\n[server]\ntransport = \"stdio\"\ncommand = {command:?}\n"
        );
        fs::write(target.join("template.toml"), text).expect("the folder is ours");
    }
    templates
}
