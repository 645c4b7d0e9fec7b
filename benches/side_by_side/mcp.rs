//! The words of MCP that are sent, and a client of each transport.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Barrier,
    time::{Duration, Instant},
};

use super::http::Connection;

pub const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
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

fn check(answer: &str) {
    assert!(is_result(answer), "not a result: {answer}");
}

/// The times of single calls, and of all together.
pub struct Load {
    pub times: Vec<Duration>,
    pub took: Duration,
}

/// A server as a plain child of ours, spoken with over its pipes.
pub struct StdioServer {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    line: String,
}

impl StdioServer {
    /// Starts it and does what the daemon calls ready: handshake and tool list.
    pub fn start<S: AsRef<OsStr>>(command: &[S]) -> Self {
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut server = Self {
            child,
            stdin,
            stdout,
            line: String::new(),
        };
        server.send(INITIALIZE.to_owned());
        check(server.receive());
        server.send(INITIALIZED.to_owned());
        server.send(TOOLS.to_owned());
        check(server.receive());
        server
    }

    /// Calls `echo` so often, with so many outstanding.
    pub fn load(&mut self, count: usize, outstanding: usize) -> Load {
        self.calls(WARM_UP, outstanding);
        self.calls(count, outstanding)
    }

    fn calls(&mut self, count: usize, outstanding: usize) -> Load {
        let began = Instant::now();
        let mut sent = Vec::with_capacity(count);
        let mut times = Vec::with_capacity(count);
        while times.len() < count {
            while sent.len() < count && sent.len() - times.len() < outstanding {
                let line = call(sent.len(), "echo", "");
                sent.push(Instant::now());
                self.send(line);
            }
            let answer = self.receive();
            check(answer);
            let at = answer.find("\"id\":").expect("an answer has an id") + 5;
            let digits = answer[at..].trim_start();
            let end = digits.find(|c: char| !c.is_ascii_digit());
            let id: usize = digits[..end.unwrap_or(digits.len())]
                .parse()
                .expect("our ids are numbers");
            times.push(sent[id].elapsed());
        }
        Load {
            times,
            took: began.elapsed(),
        }
    }

    fn send(&mut self, mut line: String) {
        line.push('\n');
        self.stdin
            .write_all(line.as_bytes())
            .expect("the server reads");
    }

    fn receive(&mut self) -> &str {
        self.line.clear();
        let bytes = self
            .stdout
            .read_line(&mut self.line)
            .expect("the server writes");
        assert!(bytes > 0, "the server ended");
        self.line.trim_end()
    }
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
#[derive(Clone)]
pub struct Endpoint {
    pub host: String,
    pub path: String,
    pub token: Option<String>,
    /// The name under which it has the tool `echo`.
    pub tool: String,
    pub era: Era,
}

impl Endpoint {
    /// One of the session era, without a token, with tools by their own names.
    pub fn new(host: String, path: String) -> Self {
        Self {
            host,
            path,
            token: None,
            tool: "echo".to_owned(),
            era: Era::Session,
        }
    }

    /// The same, spoken with in the stateless era.
    pub fn stateless(&self) -> Self {
        Self {
            era: Era::Stateless,
            ..self.clone()
        }
    }

    /// A new connection that is ready for calls: with a new session, where the era has sessions.
    pub fn initialize(&self) -> Connection {
        self.try_initialize().expect("the endpoint takes clients")
    }

    fn try_initialize(&self) -> std::io::Result<Connection> {
        let mut connection = Connection::open(&self.host)?;
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
            return Err(std::io::Error::other(answer.text().into_owned()));
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
    pub fn answers(&self) -> bool {
        self.try_initialize()
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

    /// Calls `echo` so often, on so many connections at a time, each with a session of its own where there are any.
    pub fn load(&self, count: usize, connections: usize) -> Load {
        let barrier = Barrier::new(connections + 1);
        let one = || {
            let mut connection = self.initialize();
            let mut call = |id| {
                let body = self.call(id);
                let began = Instant::now();
                let answer = connection
                    .send("POST", &self.path, &body)
                    .expect("a call is answered");
                let time = began.elapsed();
                check(&answer.text());
                time
            };
            for id in 0..WARM_UP / connections {
                call(id);
            }
            barrier.wait();
            (0..count / connections).map(call).collect::<Vec<_>>()
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..connections).map(|_| scope.spawn(one)).collect();
            barrier.wait();
            let began = Instant::now();
            let times = threads
                .into_iter()
                .flat_map(|thread| thread.join().expect("its calls were answered"))
                .collect();
            Load {
                times,
                took: began.elapsed(),
            }
        })
    }
}
