//! `minimcp serve` of a given program, started as a user would, with a folder, keeper and ports of its own.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{
    Bench,
    http::Connection,
    mcp::Endpoint,
    memory,
    serve::{LOG, PrivateFolder, Process, WORD, config_within, write_templates},
};
use crate::{clock, config::Config, runtime::kill_process_if};

/// How long a server may take until it is back.
const BACK_TIMEOUT: Duration = Duration::from_secs(60);
/// The path of the API.
const API: &str = "/api/v1";
/// The daemon closes connections that rest; one that rested so long is not used again.
const REST: Duration = Duration::from_secs(2);

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

    /// As [`Daemon::create`].
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn create(&mut self, template: &str) -> anyhow::Result<Instance> {
        let path = format!("{API}{CREATE}");
        let answer = self.0.send("POST", &path, &body_of_create(template))?;
        ensure!(
            answer.status == 201,
            "POST {CREATE}: {}",
            said(&answer.text())
        );
        Instance::made(template, &serde_json::from_slice(&answer.body)?)
    }
}

/// The call that creates.
const CREATE: &str = "/mcps?wait=ready";

fn body_of_create(template: &str) -> String {
    format!("{{\"template\":\"{template}\"}}")
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

impl Instance {
    /// By what the daemon answered to its creation.
    fn made(template: &str, made: &Value) -> anyhow::Result<Self> {
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
        Ok(Self {
            id: text("id")?,
            pid: pid.context("a running instance without a pid")?,
            endpoint: Endpoint {
                token: Some(text("access_token")?),
                ..Endpoint::new(host.to_owned(), format!("/{path}"))
            },
        })
    }
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
        let made = self.json("POST", CREATE, &body_of_create(template))?;
        Instance::made(template, &made)
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
        let answer = self
            .connection()?
            .send(method, &format!("{API}{path}"), body)
            .with_context(|| format!("{method} {path}: the daemon of the bench does not answer"))?;
        ensure!(
            answer.status < 300,
            "{method} {path}: {}",
            said(&answer.text())
        );
        Ok(answer.body)
    }

    /// Whether a warm spare waits.
    ///
    /// # Errors
    /// When the metrics do not tell.
    pub fn has_warm_spare(&mut self) -> anyhow::Result<bool> {
        let answer = self.connection()?.send("GET", "/metrics", "")?;
        let text = answer.text();
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix("minimcp_warm_spares "));
        let value = value.context("the metrics of the bench's daemon do not tell of spares")?;
        // The format has floating-point numbers only.
        let value: f64 = value.trim().parse()?;
        Ok(value > 0.0)
    }

    fn connection(&mut self) -> anyhow::Result<&mut Connection> {
        self.process.stop.check()?;
        if self.used.elapsed() > REST {
            self.connection = connect(&self.host, &self.token)?;
        }
        self.used = Instant::now();
        Ok(&mut self.connection)
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
                began.elapsed() < BACK_TIMEOUT,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_told_as_sentences() {
        let problem = r#"{"title":"Too many","detail":"there are 3 already","status":409}"#;
        assert_eq!(said(problem), "Too many: there are 3 already");
        assert_eq!(said("rubbish"), "rubbish");
    }
}
