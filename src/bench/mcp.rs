//! The words of MCP that are sent, and a client of each transport.

use std::{
    ffi::OsStr,
    io::{self, BufRead, BufReader, Write},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Barrier,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use super::{
    http::{self, Connection},
    stop::Stop,
};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const TOOLS: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
/// Calls that are made before the clock runs.
const WARM_UP: usize = 200;

/// What a call of the stateless revision carries in addition.
const META: &str = r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}}"#;

fn call(id: usize, tool: &str, more: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{{"text":"x"}}{more}}}}}"#
    )
}

fn is_result(answer: &str) -> bool {
    answer.contains("\"result\"") && !answer.contains("\"isError\":true")
}

fn check(answer: &str) -> anyhow::Result<()> {
    ensure!(
        is_result(answer),
        "a call was answered without a result: {answer}"
    );
    Ok(())
}

/// The times of single calls, and of all together.
#[derive(Debug)]
pub struct Load {
    /// Of each call.
    pub times: Vec<Duration>,
    /// From the first to the last.
    pub took: Duration,
}

/// A server as a plain child of ours, spoken with over its pipes. It ends with this value.
#[derive(Debug)]
pub struct StdioServer {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    line: String,
}

impl StdioServer {
    /// Starts it and does what the daemon calls ready: handshake and tool list.
    ///
    /// # Errors
    /// When it does not start, or does not answer well.
    pub fn start<S: AsRef<OsStr>>(command: &[S]) -> anyhow::Result<Self> {
        let (program, arguments) = command.split_first().context("a command without a word")?;
        let name = program.as_ref().to_string_lossy();
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A Ctrl-C is for us alone, who end it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("{name} has no pipes");
        };
        let mut server = Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
            line: String::new(),
        };
        server.send(INITIALIZE.to_owned())?;
        check(server.receive()?)?;
        server.send(INITIALIZED.to_owned())?;
        server.send(TOOLS.to_owned())?;
        check(server.receive()?)?;
        Ok(server)
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// One call of `echo`.
    ///
    /// # Errors
    /// When it is not answered well.
    pub fn call(&mut self) -> anyhow::Result<()> {
        self.send(call(1, "echo", ""))?;
        check(self.receive()?)
    }

    /// Calls `echo` so often, with so many outstanding.
    ///
    /// # Errors
    /// When a call is not answered well, or the run shall end.
    pub fn load(&mut self, count: usize, outstanding: usize, stop: &Stop) -> anyhow::Result<Load> {
        self.calls(WARM_UP, outstanding, stop)?;
        self.calls(count, outstanding, stop)
    }

    fn calls(&mut self, count: usize, outstanding: usize, stop: &Stop) -> anyhow::Result<Load> {
        let began = Instant::now();
        let mut sent = Vec::with_capacity(count);
        let mut times = Vec::with_capacity(count);
        while times.len() < count {
            stop.check()?;
            while sent.len() < count && sent.len() - times.len() < outstanding {
                let line = call(sent.len(), "echo", "");
                sent.push(Instant::now());
                self.send(line)?;
            }
            let answer = self.receive()?;
            check(answer)?;
            let began = id_of(answer).and_then(|id| sent.get(id));
            times.push(began.context("an answer without our id")?.elapsed());
        }
        Ok(Load {
            times,
            took: began.elapsed(),
        })
    }

    fn send(&mut self, mut line: String) -> io::Result<()> {
        line.push('\n');
        self.stdin.write_all(line.as_bytes())
    }

    fn receive(&mut self) -> anyhow::Result<&str> {
        self.line.clear();
        let bytes = self.stdout.read_line(&mut self.line)?;
        ensure!(bytes > 0, "a server ended that was started without us");
        Ok(self.line.trim_end())
    }
}

/// Ours are numbers.
fn id_of(answer: &str) -> Option<usize> {
    let (_, rest) = answer.split_once("\"id\":")?;
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit());
    rest[..end.unwrap_or(rest.len())].parse().ok()
}

impl Drop for StdioServer {
    fn drop(&mut self) {
        // It may have ended by itself already; there is nothing else to do about either failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The two families of MCP revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// `initialize` and a session first.
    Session,
    /// 2026-07-28: every request says in its headers and its `_meta` what a session would know.
    Stateless,
}

/// An MCP endpoint over HTTP.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `HOST:PORT`.
    pub host: String,
    /// With its slash.
    pub path: String,
    /// What opens it.
    pub token: Option<String>,
    /// The name under which it has the tool `echo`.
    pub tool: String,
    /// How it is spoken with.
    pub era: Era,
    /// How long an answer may take.
    pub patience: Duration,
}

impl Endpoint {
    /// One of the session era, without a token, with tools by their own names.
    #[must_use]
    pub fn new(host: String, path: String) -> Self {
        Self {
            host,
            path,
            token: None,
            tool: "echo".to_owned(),
            era: Era::Session,
            patience: http::PATIENCE,
        }
    }

    /// The same, spoken with in the stateless era.
    #[must_use]
    pub fn stateless(&self) -> Self {
        Self {
            era: Era::Stateless,
            ..self.clone()
        }
    }

    /// A new connection that is ready for calls: with a new session, where the era has sessions.
    ///
    /// # Errors
    /// When it takes no client.
    pub fn initialize(&self) -> io::Result<Connection> {
        let mut connection = Connection::open_with(&self.host, self.patience)?;
        if let Some(token) = &self.token {
            connection
                .fixed
                .push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        if self.era == Era::Stateless {
            connection.fixed.push_str(&format!(
                "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: {}\r\n",
                self.tool
            ));
            return Ok(connection);
        }
        let answer = connection.send("POST", &self.path, INITIALIZE)?;
        if !is_result(&answer.text()) {
            return Err(io::Error::other(answer.text().into_owned()));
        }
        // Every client sends the revision that was agreed, whether there is a session or not.
        connection
            .fixed
            .push_str("MCP-Protocol-Version: 2025-06-18\r\n");
        if let Some(session) = answer.session {
            connection
                .fixed
                .push_str(&format!("Mcp-Session-Id: {session}\r\n"));
        }
        connection.send("POST", &self.path, INITIALIZED)?;
        Ok(connection)
    }

    /// Whether a new client gets a call answered.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.initialize()
            .is_ok_and(|mut connection| self.try_call(&mut connection))
    }

    /// One call on a connection of [`Endpoint::initialize`]; whether it had a result.
    pub fn try_call(&self, connection: &mut Connection) -> bool {
        connection
            .send("POST", &self.path, &self.call(1))
            .is_ok_and(|answer| answer.status == 200 && is_result(&answer.text()))
    }

    fn call(&self, id: usize) -> String {
        match self.era {
            Era::Session => call(id, &self.tool, ""),
            Era::Stateless => call(id, &self.tool, META),
        }
    }

    /// One call that is timed.
    fn timed(&self, connection: &mut Connection, id: usize) -> anyhow::Result<Duration> {
        let body = self.call(id);
        let began = Instant::now();
        let answer = connection.send("POST", &self.path, &body)?;
        let time = began.elapsed();
        check(&answer.text())?;
        Ok(time)
    }

    /// Calls `echo` so often, on so many connections at a time, each with a session of its own where there are any.
    ///
    /// # Errors
    /// When a call is not answered well, or the run shall end.
    pub fn load(&self, count: usize, connections: usize, stop: &Stop) -> anyhow::Result<Load> {
        let barrier = Barrier::new(connections);
        let calls = |connection: &mut Connection, count| {
            let one = |id| {
                stop.check()?;
                self.timed(connection, id)
            };
            (0..count).map(one).collect::<anyhow::Result<Vec<_>>>()
        };
        let one = || {
            let warm = self.initialize().map_err(anyhow::Error::from);
            let warm = warm.and_then(|mut connection| {
                calls(&mut connection, WARM_UP / connections)?;
                Ok(connection)
            });
            // Whoever failed must not leave the others waiting here.
            barrier.wait();
            let began = Instant::now();
            let times = calls(&mut warm?, count / connections)?;
            anyhow::Ok((began, times, Instant::now()))
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..connections).map(|_| scope.spawn(one)).collect();
            let mut times = Vec::with_capacity(count);
            // Told by those that call: whoever waits for them here may be woken late.
            let (mut first, mut last) = (None, None);
            for thread in threads {
                let (began, its, ended) = match thread.join() {
                    Ok(its) => its?,
                    Err(panic) => std::panic::resume_unwind(panic),
                };
                first = Some(first.map_or(began, |first: Instant| first.min(began)));
                last = last.max(Some(ended));
                times.extend(its);
            }
            let took = first.zip(last).map(|(first, last)| last - first);
            Ok(Load {
                times,
                took: took.unwrap_or_default(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_errors_and_their_ids_read() {
        assert!(is_result(r#"{"id":1,"result":{}}"#));
        assert!(!is_result(r#"{"id":1,"result":{"isError":true}}"#));
        assert!(!is_result(r#"{"id":1,"error":{}}"#));
        assert_eq!(id_of(r#"{"jsonrpc":"2.0","id": 17,"result":{}}"#), Some(17));
        assert_eq!(id_of(r#"{"jsonrpc":"2.0","result":{}}"#), None);
        let parsed: serde_json::Value = serde_json::from_str(&call(3, "echo", META)).expect("JSON");
        assert_eq!(parsed["params"]["name"], "echo");
        assert!(parsed["params"]["_meta"].is_object());
    }

    #[test]
    fn an_endpoint_that_is_not_there_is_an_error_and_no_hang() {
        // Nothing listens on port 1 of the loopback.
        let endpoint = Endpoint::new("127.0.0.1:1".to_owned(), "/mcp".to_owned());
        assert!(endpoint.load(8, 4, &Stop::default()).is_err());
        assert!(!endpoint.answers());
    }

    #[test]
    fn a_run_that_shall_end_makes_no_call() {
        let stop = Stop::default();
        let command = ["cat"];
        // What it is sent comes back: no result.
        assert!(StdioServer::start(&command).is_err());
        stop.ask();
        let endpoint = Endpoint::new("127.0.0.1:1".to_owned(), "/mcp".to_owned());
        assert!(endpoint.load(1, 1, &stop).is_err());
    }
}
